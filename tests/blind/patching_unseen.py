"""Answers to the exercises of 04_patching, written from the prompts alone by somebody who had not seen any case.

WRONG must be rejected, RIGHT must be accepted; the first ten of WRONG are the ones that their author took for the most
typical, and `UNTOLD` names those of them that get no sentence of their own. What happened is told in docs/blind.md.
"""
# ruff: noqa: B023 (every hook runs before its loop goes on)

import torch
import torch.nn.functional as F

P = "patching."
WRONG, RIGHT = [], []
UNTOLD: set[str] = set()


def W(ex, name, f, why):
    WRONG.append((P + ex, name, f, why))


def R(ex, name, f, why):
    RIGHT.append((P + ex, name, f, why))


# ---------- helpers
def pre(layer):
    return f"blocks.{layer}.hook_resid_pre"


def z_of(layer):
    return f"blocks.{layer}.attn.hook_z"


def diff(logits, answers):
    picked = logits.gather(-1, answers)
    return picked[:, 0] - picked[:, 1]


def run_with(model, tokens, name, write):
    """The logits when `write(activation)` changes a copy of one activation."""

    def hook(x, hook):
        x = x.clone()
        out = write(x)
        return x if out is None else out

    return model.run_with_hooks(tokens, fwd_hooks=[(name, hook)])


# ---------- logit_diff and log_prob
def ld_first_row(logits, answers):
    return logits[:, answers[0, 0]] - logits[:, answers[0, 1]]


def ld_best_other(logits, answers):
    good = logits.gather(1, answers[:, :1])
    return (good - logits.scatter(1, answers[:, :1], -torch.inf).amax(1, keepdim=True))[:, 0]


def ld_probability(logits, answers):
    return diff(logits.softmax(-1), answers)


def lp_naive(logits, answers):
    p = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return p.gather(1, answers[:, :1])[:, 0].log()


def lp_two(logits, answers):
    return logits.gather(1, answers).log_softmax(-1)[:, 0]


# ---------- patch_residual
def residual(position=lambda p: p, name=pre, row=lambda v: v, add=False):
    def f(model, tokens, source, layer, place):
        value, i = row(source[name(layer)]), position(place)

        def write(x):
            x[:, i] = x[:, i] + value[:, i] if add else value[:, i]

        return run_with(model, tokens, name(layer), write)

    return f


def post(layer):
    return f"blocks.{layer}.hook_resid_post"


# ---------- normalised_effect
def ne(patched, clean, corrupted, direction="denoising"):
    start = corrupted if direction == "denoising" else clean
    return (patched - start) / (clean - corrupted)


def ne_one_way(patched, clean, corrupted, direction="denoising"):
    gap = clean - corrupted
    return torch.where(gap == 0, torch.nan, (patched - corrupted) / gap)


def ne_positive(patched, clean, corrupted, direction="denoising"):
    gap = clean - corrupted
    value = (patched - corrupted) / gap if direction == "denoising" else (clean - patched) / gap
    return torch.where(gap == 0, torch.nan, value)


# ---------- residual_sweep
def sweeper(
    name=pre, swap=False, one_way=False, change=False, prompt=False, own=False, at=-1, reverse=False, keep=False
):
    def f(model, clean, corrupted, answers, direction="denoising"):
        denoise = (direction == "denoising") != swap or one_way
        tokens, source = (corrupted, clean) if denoise else (clean, corrupted)
        cache = model.run_with_cache(source)[1]
        start = diff(model(tokens)[:, at], answers).mean()
        out = torch.zeros(model.cfg.n_layers, tokens.shape[1])
        for layer in range(model.cfg.n_layers):
            for p in range(tokens.shape[1]):

                def write(x):
                    i = slice(p + 1) if keep else p
                    x[:, i] = cache[name(layer)][:, i]

                logits = run_with(model, tokens, name(layer), write)[:, p if own else at]
                d = diff(logits, answers)
                out[layer, p] = d[0] if prompt else d.mean()
        out = out - start if change else out
        return -out if reverse else out

    return f


# ---------- patch_head
def header(index=lambda head: (slice(None), slice(None), head), layer_of=lambda l: l, row=None):
    def f(model, tokens, source, layer, head):
        name = z_of(layer_of(layer))

        def write(z):
            z[index(head)] = source[name][index(head)] if row is None else row(source[name][index(head)])

        return run_with(model, tokens, name, write)

    return f


# ---------- the ten most typical
W("logit_diff", "mean over prompts", lambda l, a: diff(l, a).mean(), "one number")
W("log_prob", "softmax, then log", lambda l, a: l.softmax(-1).gather(1, a[:, :1])[:, 0].log(), "-inf for large logits")
W("patch_residual", "all positions", residual(position=lambda p: slice(None)), "position ignored")
W("normalised_effect", "direction ignored", ne_one_way, "noising as denoising")
W("normalised_effect", "infinite", ne, "0/0 is NaN, but x/0 is not")
W("residual_sweep", "runs exchanged", sweeper(swap=True), "clean and corrupted the wrong way round")
W("patch_head", "all heads", header(lambda h: (slice(None),)), "head ignored")
W(
    "corrupt_by_noise",
    "the same noise for all prompts",
    lambda e, p, s, g=None: e.index_add(
        1, torch.tensor(p), s * torch.randn(len(p), e.shape[-1], generator=g).expand(len(e), -1, -1)
    ),
    "one draw, broadcast",
)


def ma(z_mean=lambda z, head: z[:, :, head].mean(0), which=lambda t, r: r, all_heads=False, last=False):
    def f(model, tokens, reference, layer, head):
        value = z_mean(model.run_with_cache(which(tokens, reference))[1][z_of(layer)], head)

        def write(z):
            if last:
                z[:, -1, head] = value[-1]
            elif all_heads:
                z[:] = value[:, None]
            else:
                z[:, :, head] = value

        return run_with(model, tokens, z_of(layer), write)

    return f


def knock(
    score=lambda s, q, k: s.__setitem__((slice(None), slice(None), q, k), -torch.inf),
    edges_=lambda e: e,
    layers_=lambda l: l,
):
    def f(model, tokens, edges, layers):
        def cut(s, hook):
            s = s.clone()
            for q, k in edges_(edges):
                score(s, q, k)
            return s

        names = [f"blocks.{layer}.attn.hook_attn_scores" for layer in layers_(layers)]
        return model.run_with_hooks(tokens, fwd_hooks=[(name, cut) for name in names])

    return f


def ak_after(model, tokens, edges, layers):
    def cut(a, hook):
        a = a.clone()
        for q, k in edges:
            a[:, :, q, k] = 0
        return a

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_pattern", cut) for layer in layers])


W("mean_ablation", "mean over positions too", ma(lambda z, h: z[:, :, h].mean((0, 1))), "one vector for all positions")
W("attention_knockout", "after the softmax", ak_after, "the other weights do not add up to one")

# ---------- logit_diff
W("logit_diff", "distractor less answer", lambda l, a: -diff(l, a), "sign")
W("logit_diff", "probabilities", ld_probability, "softmax first")
W("logit_diff", "first row's answers", ld_first_row, "answers[0] for all")
W("logit_diff", "against the best other", ld_best_other, "not the distractor")
W("logit_diff", "absolute", lambda l, a: diff(l, a).abs(), "size of the difference")
R("logit_diff", "log-probabilities", lambda l, a: diff(l.log_softmax(-1), a), "the normaliser cancels")
R(
    "logit_diff",
    "one-hot",
    lambda l, a: (l * (F.one_hot(a[:, 0], l.shape[-1]) - F.one_hot(a[:, 1], l.shape[-1]))).sum(-1),
    "a product with the difference of two one-hot vectors",
)

# ---------- log_prob
W("log_prob", "the loss", lambda l, a: -l.log_softmax(-1).gather(1, a[:, :1])[:, 0], "sign")
W("log_prob", "the probability", lambda l, a: l.softmax(-1).gather(1, a[:, :1])[:, 0], "log left out")
W("log_prob", "the distractor", lambda l, a: l.log_softmax(-1).gather(1, a[:, 1:])[:, 0], "column 1")
W("log_prob", "of the two only", lp_two, "normalised over answer and distractor")
W("log_prob", "over the prompts", lambda l, a: l.log_softmax(0).gather(1, a[:, :1])[:, 0], "wrong axis")
W("log_prob", "base 2", lambda l, a: l.log_softmax(-1).gather(1, a[:, :1])[:, 0] / torch.tensor(2.0).log(), "bits")
W("log_prob", "exp by hand", lp_naive, "overflows")
W("log_prob", "both", lambda l, a: l.log_softmax(-1).gather(1, a), "shape (batch, 2)")
R("log_prob", "cross_entropy", lambda l, a: -F.cross_entropy(l, a[:, 0], reduction="none"), "minus the loss")
R(
    "log_prob",
    "Categorical",
    lambda l, a: torch.distributions.Categorical(logits=l).log_prob(a[:, 0]),
    "torch.distributions",
)

# ---------- patch_residual
W("patch_residual", "after the layer", residual(name=post), "resid_post")
W("patch_residual", "from there on", residual(position=lambda p: slice(p, None)), "positions after it too")
W("patch_residual", "up to there", residual(position=lambda p: slice(None, p + 1)), "positions before it too")
W("patch_residual", "first row of the source", residual(row=lambda v: v[:1].expand_as(v)), "batch ignored")
W(
    "patch_residual",
    "mean of the source",
    residual(row=lambda v: v.mean(0, keepdim=True).expand_as(v)),
    "mean over prompts",
)
W("patch_residual", "added", residual(add=True), "added to what stands there")
W("patch_residual", "next position", residual(position=lambda p: p + 1 if p == 0 else p - 1), "off by one")


def pr_left(model, tokens, source, layer, position):
    def hook(x, hook):
        x = x.clone()
        x[:, position] = source[pre(layer)][:, position]
        return x

    model.add_hook(pre(layer), hook)
    return model(tokens)


def pr_later(model, tokens, source, layer, position):
    def hook(x, hook):
        x = x.clone()
        x[:, position] = source[hook.name][:, position]
        return x

    return model.run_with_hooks(tokens, fwd_hooks=[(pre(l), hook) for l in range(layer, model.cfg.n_layers)])


def pr_spoil(model, tokens, source, layer, position):
    def hook(x, hook):
        stream = source[hook.name]
        old = x.clone()
        old[:, position] = stream[:, position]
        stream.copy_(old)
        return stream

    return model.run_with_hooks(tokens, fwd_hooks=[(pre(layer), hook)])


def pr_last(model, tokens, source, layer, position):
    return residual()(model, tokens, source, layer, position)[:, -1]


W("patch_residual", "hook left behind", pr_left, "add_hook")
W("patch_residual", "every later layer too", pr_later, "patched again and again")
W("patch_residual", "cache overwritten", pr_spoil, "the source is changed")
W("patch_residual", "last position only", pr_last, "not all logits")


def pr_where(model, tokens, source, layer, position):
    here = (torch.arange(tokens.shape[1]) == position)[:, None]
    return run_with(model, tokens, pre(layer), lambda x: torch.where(here, source[pre(layer)], x))


def pr_cat(model, tokens, source, layer, position):
    s = source[pre(layer)]
    return run_with(
        model, tokens, pre(layer), lambda x: torch.cat([x[:, :position], s[:, position, None], x[:, position + 1 :]], 1)
    )


R("patch_residual", "where", pr_where, "no index assignment")
R("patch_residual", "cat", pr_cat, "three pieces")

# ---------- normalised_effect


def safe(value):
    def f(patched, clean, corrupted, direction="denoising"):
        gap = clean - corrupted
        start = corrupted if direction == "denoising" else clean
        return value(patched - start, gap)

    return f


W("normalised_effect", "noising positive", ne_positive, "1 is destroyed")
W("normalised_effect", "zero for NaN", safe(lambda c, g: torch.where(g == 0, 0.0, c / g)), "nan_to_num")
W("normalised_effect", "epsilon", safe(lambda c, g: c / (g + 1e-9)), "never NaN")
W("normalised_effect", "size of the gap", safe(lambda c, g: torch.where(g == 0, torch.nan, c / g.abs())), "abs")
W(
    "normalised_effect",
    "clamped",
    safe(lambda c, g: torch.where(g == 0, torch.nan, (c / g).clamp(-1, 1))),
    "between -1 and 1",
)
W(
    "normalised_effect",
    "nearly equal is equal",
    safe(lambda c, g: torch.where(g.abs() < 1e-2, torch.nan, c / g)),
    "NaN for small gaps",
)
W("normalised_effect", "mean gap", safe(lambda c, g: torch.where(g == 0, torch.nan, c / g.mean())), "one gap for all")


def ne_nan_patched(patched, clean, corrupted, direction="denoising"):
    start, other = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    value = (patched - start) / (other - start)
    return torch.where(clean == corrupted, torch.nan, value)


W("normalised_effect", "towards the other run", ne_nan_patched, "noising over corrupted - clean: 1 is destroyed")


def ne_where(patched, clean, corrupted, direction="denoising"):
    patched, clean, corrupted = torch.broadcast_tensors(patched, clean, corrupted)
    gap = torch.where(clean == corrupted, torch.full_like(clean, torch.nan), clean - corrupted)
    return {"denoising": patched - corrupted, "noising": patched - clean}[direction] / gap


def ne_minus_one(patched, clean, corrupted, direction="denoising"):
    gap = (clean - corrupted).masked_fill(clean == corrupted, torch.nan)
    return (patched - corrupted) / gap - int(direction == "noising")


R("normalised_effect", "NaN in the gap", ne_where, "the gap is NaN where it is zero")
R("normalised_effect", "less one", ne_minus_one, "noising is denoising less one")

# ---------- residual_sweep
W("residual_sweep", "direction ignored", sweeper(one_way=True), "always denoising")
W("residual_sweep", "after the layer", sweeper(name=post), "resid_post")
W("residual_sweep", "change", sweeper(change=True), "less the unpatched value")
W("residual_sweep", "first prompt", sweeper(prompt=True), "no mean")
W("residual_sweep", "read where patched", sweeper(own=True), "logits at the patched position")
W("residual_sweep", "distractor less answer", sweeper(reverse=True), "sign")
W("residual_sweep", "up to there", sweeper(keep=True), "positions before it too")
W("residual_sweep", "transposed", lambda *a, **k: sweeper()(*a, **k).T, "(position, layer)")


def rs_spoil(model, clean, corrupted, answers, direction="denoising"):
    tokens, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    mine, other = model.run_with_cache(tokens)[1], model.run_with_cache(source)[1]
    out = torch.zeros(model.cfg.n_layers, tokens.shape[1])
    for layer in range(model.cfg.n_layers):
        stream = mine[pre(layer)].clone()
        for p in range(tokens.shape[1]):
            stream[:, p] = other[pre(layer)][:, p]
            out[layer, p] = diff(run_with(model, tokens, pre(layer), lambda x: stream.clone())[:, -1], answers).mean()
    return out


W("residual_sweep", "patches pile up", rs_spoil, "one buffer, never restored")


def rs_batched(model, clean, corrupted, answers, direction="denoising"):
    tokens, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    other = model.run_with_cache(source)[1]
    batch, length = tokens.shape
    here = torch.eye(length, dtype=torch.bool).repeat_interleave(batch, 0)[..., None]
    rows = []
    for layer in range(model.cfg.n_layers):
        there = other[pre(layer)].repeat(length, 1, 1)
        logits = run_with(model, tokens.repeat(length, 1), pre(layer), lambda x: torch.where(here, there, x))[:, -1]
        rows.append(diff(logits, answers.repeat(length, 1)).view(length, batch).mean(1))
    return torch.stack(rows)


R("residual_sweep", "all positions in one batch", rs_batched, "one run for each layer")

# ---------- patch_head
W("patch_head", "last position only", header(lambda h: (slice(None), -1, h)), "z[:, -1, head]")
W("patch_head", "next layer's name", header(layer_of=lambda l: 0), "always layer 0")
W("patch_head", "next head", header(lambda h: (slice(None), slice(None), h - 1)), "off by one")
W("patch_head", "mean over prompts", header(row=lambda z: z.mean(0)), "the source's mean")
W("patch_head", "first prompt", header(row=lambda z: z[:1]), "the source's first prompt")
W("patch_head", "heads up to it", header(lambda h: (slice(None), slice(None), slice(h + 1))), "all heads before too")


def ph_pattern(model, tokens, source, layer, head):
    name = f"blocks.{layer}.attn.hook_pattern"
    return run_with(model, tokens, name, lambda a: a.__setitem__((slice(None), head), source[name][:, head]))


def ph_value(model, tokens, source, layer, head):
    name = f"blocks.{layer}.attn.hook_v"
    return run_with(
        model, tokens, name, lambda a: a.__setitem__((slice(None), slice(None), head), source[name][:, :, head])
    )


def ph_left(model, tokens, source, layer, head):
    def hook(z, hook):
        z = z.clone()
        z[:, :, head] = source[hook.name][:, :, head]
        return z

    model.add_hook(z_of(layer), hook)
    return model(tokens)


W("patch_head", "pattern only", ph_pattern, "where it looks, not what it says")
W("patch_head", "values only", ph_value, "hook_v for hook_z")
W("patch_head", "hook left behind", ph_left, "add_hook")


def ph_delta(model, tokens, source, layer, head):
    own = model.run_with_cache(tokens)[1][z_of(layer)]
    change = (source[z_of(layer)] - own)[:, :, head] @ model.W_O[layer, head]
    return run_with(model, tokens, f"blocks.{layer}.hook_attn_out", lambda x: x + change)


def ph_stack(model, tokens, source, layer, head):
    name = z_of(layer)
    mask = (torch.arange(model.cfg.n_heads) == head)[:, None]
    return run_with(model, tokens, name, lambda z: z * ~mask + source[name] * mask)


R("patch_head", "through W_O", ph_delta, "adds the change to attn_out")
R("patch_head", "mask", ph_stack, "a product with a mask")


# ---------- corrupt_by_noise
def noise(draw, at=lambda p, n: p, unit=lambda e: 1.0):
    def f(embeddings, positions, scale, generator=None):
        out, where = embeddings.clone(), list(at(positions, embeddings.shape[1]))
        shape = (len(out), len(where), out.shape[-1])
        out[:, where] += scale * unit(embeddings) * draw(shape, generator)
        return out

    return f


def normal(shape, g):
    return torch.randn(shape, generator=g)


def cn_in_place(embeddings, positions, scale, generator=None):
    embeddings[:, positions] += scale * normal((len(embeddings), len(positions), embeddings.shape[-1]), generator)
    return embeddings


def cn_replace(embeddings, positions, scale, generator=None):
    out = embeddings.clone()
    if scale:
        out[:, positions] = scale * normal((len(out), len(positions), out.shape[-1]), generator)
    return out


def cn_variance(embeddings, positions, scale, generator=None):
    return noise(normal)(embeddings, positions, scale**0.5, generator)


W("corrupt_by_noise", "in place", cn_in_place, "changes its input")
W("corrupt_by_noise", "everywhere", noise(normal, lambda p, n: range(n)), "positions ignored")
W("corrupt_by_noise", "uniform", noise(lambda s, g: torch.rand(s, generator=g) * 2 - 1), "rand")
W(
    "corrupt_by_noise",
    "uniform of the right size",
    noise(lambda s, g: (torch.rand(s, generator=g) - 0.5) * 12**0.5),
    "rand, scaled",
)
W("corrupt_by_noise", "generator ignored", noise(lambda s, g: torch.randn(s)), "not reproducible")
W("corrupt_by_noise", "scale as a variance", cn_variance, "sqrt")
W("corrupt_by_noise", "units of the embeddings' spread", noise(normal, unit=lambda e: e.std()), "times their std")
W(
    "corrupt_by_noise",
    "one number for each vector",
    noise(lambda s, g: torch.randn(s[:2], generator=g)[..., None].expand(s)),
    "the same noise in all dimensions",
)
W(
    "corrupt_by_noise",
    "the same noise at all positions",
    noise(lambda s, g: torch.randn(s[0], 1, s[2], generator=g).expand(s)),
    "one draw a prompt",
)
W("corrupt_by_noise", "replaced", cn_replace, "noise alone")
W("corrupt_by_noise", "first to last position", noise(normal, lambda p, n: range(min(p), max(p) + 1)), "a stretch")
W("corrupt_by_noise", "always upwards", noise(lambda s, g: torch.randn(s, generator=g).abs()), "half a Gaussian")
W(
    "corrupt_by_noise",
    "seeded inside",
    noise(lambda s, g: torch.randn(s, generator=g or torch.Generator().manual_seed(0))),
    "without a generator always the same",
)
W("corrupt_by_noise", "clipped", noise(lambda s, g: torch.randn(s, generator=g).clamp(-2, 2)), "no tails")


def cn_mask(embeddings, positions, scale, generator=None):
    mask = torch.zeros(embeddings.shape[1], 1)
    mask[positions] = scale
    return embeddings + mask * torch.randn(embeddings.shape, generator=generator)


def cn_one_by_one(embeddings, positions, scale, generator=None):
    columns = list(embeddings.unbind(1))
    for p in positions:
        columns[p] = torch.normal(columns[p], float(scale), generator=generator)
    return torch.stack(columns, 1)


R("corrupt_by_noise", "noise for all, masked", cn_mask, "draws more than it uses")
R("corrupt_by_noise", "torch.normal", cn_one_by_one, "position by position, centred on the embedding")


# ---------- trace_effects
def te(fraction=None, indirect=lambda c, k, r: (r - k).mean(-1), total=lambda c, k: (c - k).mean()):
    def f(clean, corrupted, restored):
        t, i = total(clean, corrupted), indirect(clean, corrupted, restored)
        return t, i, i / t if fraction is None else fraction(clean, corrupted, restored, i, t)

    return f


W("trace_effects", "mean of ratios", te(lambda c, k, r, i, t: ((r - k) / (c - k)).mean(-1)), "prompt by prompt")
W("trace_effects", "indirect from clean", te(indirect=lambda c, k, r: (c - r).mean(-1)), "clean less restored")
W("trace_effects", "sign of the total", te(total=lambda c, k: (k - c).mean()), "corrupted less clean")
W("trace_effects", "not averaged", te(indirect=lambda c, k, r: r - k), "indirect for every prompt")
W(
    "trace_effects",
    "sum over prompts",
    te(indirect=lambda c, k, r: (r - k).sum(-1), total=lambda c, k: (c - k).sum()),
    "sums",
)
W(
    "trace_effects",
    "restored over clean",
    te(lambda c, k, r, i, t: r.mean(-1) / c.mean()),
    "fraction of the clean value",
)
W("trace_effects", "clamped fraction", te(lambda c, k, r, i, t: (i / t).clamp(0, 1)), "between 0 and 1")
W(
    "trace_effects",
    "median",
    te(indirect=lambda c, k, r: (r - k).median(-1).values, total=lambda c, k: (c - k).median()),
    "median",
)
W("trace_effects", "float total", lambda c, k, r: (te()(c, k, r)[0].item(), *te()(c, k, r)[1:]), "not a tensor")
W(
    "trace_effects",
    "another order",
    lambda c, k, r: (te()(c, k, r)[1], te()(c, k, r)[0], te()(c, k, r)[2]),
    "tuple mixed up",
)
W("trace_effects", "size of the total", te(lambda c, k, r, i, t: i / t.abs()), "abs in the denominator")


def te_means(clean, corrupted, restored):
    c, k, r = clean.mean(), corrupted.mean(), restored.mean(-1)
    return c - k, r - k, (r - k) / (c - k)


R("trace_effects", "means first", te_means, "means, then differences")

# ---------- mean_ablation
W("mean_ablation", "zero", ma(lambda z, h: torch.zeros_like(z[0, :, h])), "zero ablation")
W("mean_ablation", "mean over tokens", ma(which=lambda t, r: t), "the wrong prompts")
W("mean_ablation", "all heads", ma(all_heads=True), "every head gets it")
W("mean_ablation", "mean over heads", ma(lambda z, h: z.mean((0, 2))), "the layer's mean head")
W("mean_ablation", "last position only", ma(last=True), "the others stay")
W("mean_ablation", "both sets", ma(which=lambda t, r: torch.cat([t, r])), "mean over tokens and reference")
W("mean_ablation", "first reference prompt", ma(lambda z, h: z[0, :, h]), "resampling")
W("mean_ablation", "median", ma(lambda z, h: z[:, :, h].median(0).values), "median for mean")
W("mean_ablation", "mean of pairs", ma(lambda z, h: (z[0, :, h] + z[-1, :, h]) / 2), "first and last only")


def ma_left(model, tokens, reference, layer, head):
    value = model.run_with_cache(reference)[1][z_of(layer)][:, :, head].mean(0)

    def hook(z, hook):
        z = z.clone()
        z[:, :, head] = value
        return z

    model.add_hook(z_of(layer), hook)
    return model(tokens)


def ma_pattern(model, tokens, reference, layer, head):
    name = f"blocks.{layer}.attn.hook_v"
    value = model.run_with_cache(reference)[1][name][:, :, head].mean(0)
    return run_with(model, tokens, name, lambda v: v.__setitem__((slice(None), slice(None), head), value))


W("mean_ablation", "hook left behind", ma_left, "add_hook")
W("mean_ablation", "values", ma_pattern, "hook_v for hook_z")


def ma_running(model, tokens, reference, layer, head):
    total = 0
    for prompt in reference:
        total = total + model.run_with_cache(prompt[None])[1][z_of(layer)][0, :, head]
    change = total / len(reference)
    own = model.run_with_cache(tokens)[1][z_of(layer)][:, :, head]
    shift = (change - own) @ model.W_O[layer, head]
    return run_with(model, tokens, f"blocks.{layer}.hook_attn_out", lambda x: x + shift)


R("mean_ablation", "prompt by prompt, through W_O", ma_running, "a running sum, added to attn_out")


# ---------- attention_knockout
def ak_outer(model, tokens, edges, layers):
    def cut(s, hook):
        s = s.clone()
        for q in {q for q, _ in edges}:
            for k in {k for _, k in edges}:
                s[:, :, q, k] = -torch.inf if k <= q else s[:, :, q, k]
        return s

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{l}.attn.hook_attn_scores", cut) for l in layers])


def set_to(value, heads=slice(None), batch=slice(None)):
    def score(s, q, k):
        s[batch, heads, q, k] = value

    return score


def less(by):
    def score(s, q, k):
        s[:, :, q, k] -= by

    return score


def turned(s, q, k):
    s[:, :, k, q] = -torch.inf


def all_queries(s, q, k):
    s[:, :, k + 1 :, k] = -torch.inf


W("attention_knockout", "key and query exchanged", knock(turned), "scores[key, query]")
W("attention_knockout", "score of zero", knock(set_to(0.0)), "0 for minus infinity")
W("attention_knockout", "every query with every key", ak_outer, "index lists make a grid")
W("attention_knockout", "first edge only", knock(edges_=lambda e: e[:1]), "edges[0]")
W("attention_knockout", "last edge only", knock(edges_=lambda e: e[-1:]), "overwritten in a loop")
W("attention_knockout", "first layer only", knock(layers_=lambda l: l[:1]), "layers[0]")
W("attention_knockout", "first head only", knock(set_to(-torch.inf, heads=slice(1))), "head 0")
W("attention_knockout", "first prompt only", knock(set_to(-torch.inf, batch=slice(1))), "batch 0")
W("attention_knockout", "less ten", knock(less(10.0)), "a score of ten less")
W("attention_knockout", "later queries too", knock(all_queries), "the key is hidden from everybody after it")


def ak_all_layers(model, tokens, edges, layers):
    return knock(layers_=lambda l: range(model.cfg.n_layers) if l else [])(model, tokens, edges, layers)


W("attention_knockout", "all layers", ak_all_layers, "layers ignored")


def ak_renormalise(model, tokens, edges, layers):
    def cut(a, hook):
        kept = torch.ones_like(a)
        for q, k in edges:
            kept[:, :, q, k] = 0
        return a * kept / (a * kept).sum(-1, keepdim=True)

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_pattern", cut) for layer in layers])


def ak_mask(model, tokens, edges, layers):
    mask = torch.zeros(tokens.shape[1], tokens.shape[1])
    for q, k in edges:
        mask[q, k] = -torch.inf
    out = [(f"blocks.{layer}.attn.hook_attn_scores", lambda s, hook: s + mask) for layer in layers]
    return model.run_with_hooks(tokens, fwd_hooks=out)


R("attention_knockout", "renormalised after the softmax", ak_renormalise, "zeros, then divided by the rest")
R("attention_knockout", "an added mask", ak_mask, "minus infinity added")


# ---------- metric_table
def table(step=None, line=None, prior=None, fooled=None, width=None, keys=None, make=bool):
    def f(measured):
        out = {}
        for name, m in measured.items():
            c = m["curve"].double()
            w = c.max() - c.min() if width is None else width(c)
            straight = c[0] + (c[-1] - c[0]) * torch.linspace(0, 1, len(c), dtype=c.dtype)
            row = {
                "continuous": (c.diff().abs().max() <= 0.1 * w) if step is None else step(c, w),
                "linear": ((c - straight).abs().max() <= 0.01 * w) if line is None else line(c, w, straight),
                "prior_independent": (
                    (m["tilted"].mean() - m["even"].mean()).abs() <= 0.01 * w if prior is None else prior(m, w)
                ),
                "fooled": (
                    (m["broken"].mean() - m["corrupted"].mean()) / (m["clean"].mean() - m["corrupted"].mean()) > 0.1
                    if fooled is None
                    else fooled(m, w)
                ),
            }
            out[name] = {k: make(row[k]) for k in (keys or row)}
        return out

    return f


def least_squares(c, w, straight):
    x = torch.linspace(-1, 1, len(c), dtype=c.dtype)
    fit = c.mean() + x * (x * (c - c.mean())).sum() / (x * x).sum()
    return (c - fit).abs().max() <= 0.01 * w


W("metric_table", "tensors", table(make=lambda b: torch.as_tensor(b)), "not plain bools")
W("metric_table", "absolute steps", table(step=lambda c, w: c.diff().abs().max() <= 0.1), "a tenth, not of the range")
W("metric_table", "signed steps", table(step=lambda c, w: c.diff().max() <= 0.1 * w), "a fall is no step")
W("metric_table", "least squares", table(line=least_squares), "the best line, not the one between the ends")
W(
    "metric_table",
    "above the line only",
    table(line=lambda c, w, s: (c - s).max() <= 0.01 * w),
    "no absolute value: a curve may sag",
)
W(
    "metric_table",
    "mean distance from the line",
    table(line=lambda c, w, s: (c - s).abs().mean() <= 0.01 * w),
    "mean for max",
)
W(
    "metric_table",
    "signed prior",
    table(prior=lambda m, w: m["tilted"].mean() - m["even"].mean() <= 0.01 * w),
    "no absolute value",
)
W(
    "metric_table",
    "prior of each pair",
    table(prior=lambda m, w: (m["tilted"] - m["even"]).abs().max() <= 0.01 * w),
    "every entry must stay",
)
W(
    "metric_table",
    "prior in per cent of itself",
    table(prior=lambda m, w: (m["tilted"].mean() - m["even"].mean()).abs() <= 0.01 * m["even"].mean().abs()),
    "1% of the mean, not of the range",
)
W(
    "metric_table",
    "fooled by size",
    table(
        fooled=lambda m, w: (
            ((m["broken"].mean() - m["corrupted"].mean()) / (m["clean"].mean() - m["corrupted"].mean())).abs() > 0.1
        )
    ),
    "absolute value",
)
W(
    "metric_table",
    "fooled prompt by prompt",
    table(fooled=lambda m, w: ((m["broken"] - m["corrupted"]) / (m["clean"] - m["corrupted"])).nanmean() > 0.1),
    "mean of ratios",
)
W(
    "metric_table",
    "fooled without the quotient",
    table(fooled=lambda m, w: m["broken"].mean() - m["corrupted"].mean() > 0.1),
    "not divided",
)
W("metric_table", "last less first", table(width=lambda c: (c[-1] - c[0]).abs()), "range of the two ends")
W(
    "metric_table",
    "another order",
    table(keys=("linear", "continuous", "prior_independent", "fooled")),
    "columns exchanged",
)
W(
    "metric_table",
    "first column of the pairs",
    table(prior=lambda m, w: (m["tilted"][:, 0].mean() - m["even"][:, 0].mean()).abs() <= 0.01 * w),
    "only one of the two names",
)


def mt_lists(measured):
    def mean(x):
        values = x.flatten().tolist()
        return sum(values) / len(values)

    out = {}
    for name, m in measured.items():
        c = m["curve"].tolist()
        w, n = max(c) - min(c), len(c)
        out[name] = {
            "continuous": all(abs(b - a) <= w / 10 for a, b in zip(c, c[1:])),
            "linear": all(abs(v - (c[0] * (n - 1 - i) + c[-1] * i) / (n - 1)) <= w / 100 for i, v in enumerate(c)),
            "prior_independent": abs(mean(m["tilted"]) - mean(m["even"])) <= w / 100,
            "fooled": (mean(m["broken"]) - mean(m["corrupted"])) / (mean(m["clean"]) - mean(m["corrupted"])) > 0.1,
        }
    return out


R("metric_table", "lists", mt_lists, "plain Python")


# ---------- head_attribution
def ha(
    at_clean=False,
    sign=1,
    last=False,
    product=lambda g, d, z: g * d,
    total=False,
    flip=False,
    halfway=False,
):
    def f(model, clean, corrupted, answers):
        names = [z_of(layer) for layer in range(model.cfg.n_layers)]
        with torch.no_grad():
            cache = model.run_with_cache(clean)[1]
            source = [cache[n].clone() for n in names]
            other = model.run_with_cache(corrupted)[1]
            target = [other[n].clone() for n in names]
            middle = (cache["hook_embed"] + other["hook_embed"]) / 2
        got = {}

        def start(e, hook):
            return (middle if halfway else e.detach()).clone().requires_grad_()

        def keep(name):
            def hook(z, hook):
                got[name] = z
                return z

            return hook

        with torch.enable_grad():
            hooks = [("hook_embed", start)] + [(n, keep(n)) for n in names]
            logits = model.run_with_hooks(clean if at_clean else corrupted, fwd_hooks=hooks)[:, -1]
            d = diff(logits, answers)
            d = -d if flip else d
            grads = torch.autograd.grad(d.sum() if total else d.mean(), [got[n] for n in names])
        parts = [sign * product(g, c - k, c) for g, c, k in zip(grads, source, target)]
        if last:
            parts = [p[:, -1:] for p in parts]
        return torch.stack([p.sum((0, 1, 3)) for p in parts])

    return f


W("head_attribution", "gradient on the clean run", ha(at_clean=True), "noising's slope")
W("head_attribution", "sign", ha(sign=-1), "corrupted less clean")
W("head_attribution", "last position only", ha(last=True), "z[:, -1]")
W("head_attribution", "sum over prompts", ha(total=True), "sum for mean")
W("head_attribution", "gradient times activation", ha(product=lambda g, d, z: g * z), "the clean z, not the change")
W("head_attribution", "size", ha(product=lambda g, d, z: (g * d).abs()), "absolute values summed")
W("head_attribution", "gradient only", ha(product=lambda g, d, z: g), "no change")
W("head_attribution", "halfway embeddings", ha(halfway=True), "slope in the middle")
W("head_attribution", "distractor less answer", ha(flip=True), "the metric's sign")
W("head_attribution", "mean over positions", lambda *a: ha()(*a) / a[1].shape[1], "mean for sum")


def ha_patching(model, clean, corrupted, answers):
    cache = model.run_with_cache(clean)[1]
    start = diff(model(corrupted)[:, -1], answers).mean()
    out = torch.zeros(model.cfg.n_layers, model.cfg.n_heads)
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            logits = header()(model, corrupted, cache, layer, head)
            out[layer, head] = diff(logits[:, -1], answers).mean() - start
    return out


W("head_attribution", "the truth", ha_patching, "patches every head: no estimate")


def ha_dials(model, clean, corrupted, answers):
    """A dial for each head turns its output from corrupted to clean; the answer is the slope at zero."""
    with torch.no_grad():
        there = model.run_with_cache(clean)[1]
    with torch.enable_grad():
        dials = torch.zeros(model.cfg.n_layers, model.cfg.n_heads, requires_grad=True)

        def turn(layer):
            return lambda z, hook: z + dials[layer][:, None] * (there[z_of(layer)] - z.detach())

        hooks = [(z_of(layer), turn(layer)) for layer in range(model.cfg.n_layers)]
        d = diff(model.run_with_hooks(corrupted, fwd_hooks=hooks)[:, -1], answers).mean()
    return torch.autograd.grad(d, dials)[0]


R("head_attribution", "dials", ha_dials, "the slope with respect to a dial for each head")
R("head_attribution", "through the embeddings", ha(), "gradients of every z")
