"""Answers to the exercises of 04_patching, written from the prompts alone, before trying any of them on the cases.

WRONG must be rejected, RIGHT must be accepted. What happened is told in docs/blind.md.
"""

import numpy as np
import torch
from einops import einsum, rearrange, reduce

P = "patching."
WRONG, RIGHT = [], []


def wrong(id, name, why):
    return lambda answer: WRONG.append((P + id, name, answer, why)) or answer


def right(id, name, why):
    return lambda answer: RIGHT.append((P + id, name, answer, why)) or answer


def difference(logits, answers):
    rows = torch.arange(len(answers))
    return logits[rows, answers[:, 0]] - logits[rows, answers[:, 1]]


def run(model, tokens, name, edit):
    return model.run_with_hooks(tokens, fwd_hooks=[(name, lambda value, hook: edit(value.clone()))])


def replaced(value, index, by):
    value[index] = by
    return value


def patched(model, tokens, cache, layer, position):
    """The logits with one vector of another run."""
    return run(model, tokens, RESID(layer), lambda x: replaced(x, (ALL, position), cache[RESID(layer)][:, position]))


ALL = slice(None)
Z, RESID = "blocks.{}.attn.hook_z".format, "blocks.{}.hook_resid_pre".format

# ------------------------------------------------------------------------------------------ WRONG, the most typical


@wrong("logit_diff", "distractor_first", "the columns the other way round")
def _(logits, answers):
    return torch.stack([row[b] - row[a] for row, (a, b) in zip(logits, answers.tolist())])


@wrong("log_prob", "not_picked", "a logit less the largest one, as if that were normalising")
def _(logits, answers):
    return (logits - logits.max(dim=-1, keepdim=True).values).gather(1, answers[:, :1])[:, 0]


@wrong("normalised_effect", "one_minus", "noising as 1 - the fraction of the clean value that is left")
def _(patched, clean, corrupted, direction="denoising"):
    gap = torch.where(clean == corrupted, torch.nan, clean - corrupted)
    effect = (patched - corrupted) / gap
    return effect if direction == "denoising" else 1 - effect


@wrong("patch_residual", "from_there_on", "the position and everything behind it")
def _(model, tokens, source, layer, position):
    def edit(x):
        return replaced(x, (ALL, slice(position, None)), source[RESID(layer)][:, position:])

    return run(model, tokens, RESID(layer), edit)


@wrong("residual_sweep", "read_where_patched", "the logits at the patched position")
def _(model, clean, corrupted, answers, direction="denoising"):
    base, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    _, cache = model.run_with_cache(source)
    out = torch.zeros(model.cfg.n_layers, base.shape[1])
    for layer in range(len(out)):
        for p in range(base.shape[1]):
            out[layer, p] = difference(patched(model, base, cache, layer, p)[:, p], answers).mean()
    return out


@wrong("patch_head", "whole_attention", "attn_out instead of one head")
def _(model, tokens, source, layer, head):
    name = f"blocks.{layer}.hook_attn_out"
    return run(model, tokens, name, lambda x: source[name].clone())


@wrong("corrupt_by_noise", "relative", "the noise is scaled by the embeddings' own deviation")
def _(embeddings, positions, scale, generator=None):
    out = embeddings.clone()
    for p in positions:
        noise = torch.randn(out[:, p].shape, generator=generator)
        out[:, p] += scale * embeddings.std() * noise
    return out


@wrong("trace_effects", "sums", "sums over the prompts")
def _(clean, corrupted, restored):
    total, indirect = (clean - corrupted).sum(), (restored - corrupted).sum(dim=-1)
    return total, indirect, indirect / total


@wrong("mean_ablation", "subtracted", "the mean is taken away from the head's output")
def _(model, tokens, reference, layer, head):
    usual = model.run_with_cache(reference)[1][Z(layer)].mean(dim=0)[:, head]
    return run(model, tokens, Z(layer), lambda z: replaced(z, (ALL, ALL, head), z[:, :, head] - usual))


@wrong("attention_knockout", "first_edge_only", "the return stands inside the loop")
def _(model, tokens, edges, layers):
    def cut(scores, hook):
        scores = scores.clone()
        for query, key in edges:
            scores[:, :, query, key] = -torch.inf
            return scores

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{n}.attn.hook_attn_scores", cut) for n in layers])


# ------------------------------------------------------------------------------------------------ WRONG, all kinds


@wrong("logit_diff", "kept_axis", "shape (batch, 1)")
def _(logits, answers):
    return logits.gather(1, answers[:, :1]) - logits.gather(1, answers[:, 1:])


@wrong("logit_diff", "runner_up", "against the best other token")
def _(logits, answers):
    answer = logits.gather(1, answers[:, :1])
    return (answer - logits.scatter(1, answers[:, :1], -torch.inf).amax(dim=1, keepdim=True))[:, 0]


@wrong("log_prob", "base_2", "in bits")
def _(logits, answers):
    return logits.softmax(-1).gather(1, answers[:, :1])[:, 0].log2()


@wrong("log_prob", "epsilon", "log(p + 1e-9)")
def _(logits, answers):
    return (logits.softmax(-1).gather(1, answers[:, :1])[:, 0] + 1e-9).log()


@wrong("log_prob", "kept_axis", "shape (batch, 1)")
def _(logits, answers):
    return logits.log_softmax(-1).gather(1, answers[:, :1])


@wrong("normalised_effect", "zero_for_equal", "0 instead of NaN where nothing can be restored")
def _(patched, clean, corrupted, direction="denoising"):
    gap = clean - corrupted
    effect = (patched - (corrupted if direction == "denoising" else clean)) / gap
    return torch.where(gap == 0, 0.0, effect)


@wrong("normalised_effect", "clamped", "kept between 0 and 1, or -1 and 0")
def _(patched, clean, corrupted, direction="denoising"):
    gap = torch.where(clean == corrupted, torch.nan, clean - corrupted)
    effect = (patched - (corrupted if direction == "denoising" else clean)) / gap
    return effect.clamp(0, 1) if direction == "denoising" else effect.clamp(-1, 0)


@wrong("normalised_effect", "size_of_the_gap", "divides by |clean - corrupted|")
def _(patched, clean, corrupted, direction="denoising"):
    gap = torch.where(clean == corrupted, torch.nan, (clean - corrupted).abs())
    return (patched - (corrupted if direction == "denoising" else clean)) / gap


@wrong("normalised_effect", "epsilon", "a small number against dividing by zero")
def _(patched, clean, corrupted, direction="denoising"):
    return (patched - (corrupted if direction == "denoising" else clean)) / (clean - corrupted + 1e-8)


@wrong("patch_residual", "all_later_layers", "every stream from the layer on")
def _(model, tokens, source, layer, position):
    def put(x, hook):
        return replaced(x.clone(), (ALL, position), source[hook.name][:, position])

    return model.run_with_hooks(tokens, fwd_hooks=[(RESID(n), put) for n in range(layer, model.cfg.n_layers)])


@wrong("patch_residual", "everything_else", "all positions but this one")
def _(model, tokens, source, layer, position):
    return run(
        model,
        tokens,
        RESID(layer),
        lambda x: replaced(source[RESID(layer)].clone(), (ALL, position), x[:, position]),
    )


@wrong("patch_residual", "last_logits", "only the logits at the end")
def _(model, tokens, source, layer, position):
    out = run(model, tokens, RESID(layer), lambda x: replaced(x, (ALL, position), source[RESID(layer)][:, position]))
    return out[:, -1]


@wrong("patch_residual", "mean_of_the_source", "the mean over the other run's prompts")
def _(model, tokens, source, layer, position):
    usual = source[RESID(layer)][:, position].mean(dim=0)
    return run(model, tokens, RESID(layer), lambda x: replaced(x, (ALL, position), usual))


@wrong("patch_residual", "edits_the_source", "writes into the cache that it was given")
def _(model, tokens, source, layer, position):
    def edit(x):
        mixed = source[RESID(layer)]
        for p in range(x.shape[1]):
            if p != position:
                mixed[:, p] = x[:, p]
        return mixed

    return run(model, tokens, RESID(layer), edit)


@wrong("patch_head", "in_every_layer", "this head's number in all layers")
def _(model, tokens, source, layer, head):
    def put(z, hook):
        return replaced(z.clone(), (ALL, ALL, head), source[hook.name][:, :, head])

    return model.run_with_hooks(tokens, fwd_hooks=[(Z(n), put) for n in range(model.cfg.n_layers)])


@wrong("patch_head", "other_heads", "all heads but this one")
def _(model, tokens, source, layer, head):
    def edit(z):
        return replaced(source[Z(layer)].clone(), (ALL, ALL, head), z[:, :, head])

    return run(model, tokens, Z(layer), edit)


@wrong("patch_head", "added", "the difference is added twice over")
def _(model, tokens, source, layer, head):
    return run(
        model,
        tokens,
        Z(layer),
        lambda z: replaced(z, (ALL, ALL, head), z[:, :, head] + source[Z(layer)][:, :, head]),
    )


@wrong("residual_sweep", "the_change", "the baseline is taken away")
def _(model, clean, corrupted, answers, direction="denoising"):
    base, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    _, cache = model.run_with_cache(source)
    start = difference(model(base)[:, -1], answers).mean()
    cells = [(n, p) for n in range(model.cfg.n_layers) for p in range(base.shape[1])]
    values = [difference(patched(model, base, cache, n, p)[:, -1], answers).mean() - start for n, p in cells]
    return torch.stack(values).view(model.cfg.n_layers, -1)


@wrong("residual_sweep", "hooks_stay", "each patch stays for the next cell")
def _(model, clean, corrupted, answers, direction="denoising"):
    base, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    _, cache = model.run_with_cache(source)
    out, hooks = torch.zeros(model.cfg.n_layers, base.shape[1]), []
    for n in range(model.cfg.n_layers):
        for p in range(base.shape[1]):
            hooks.append((RESID(n), lambda x, hook, p=p: replaced(x.clone(), (ALL, p), cache[hook.name][:, p])))
            out[n, p] = difference(model.run_with_hooks(base, fwd_hooks=hooks)[:, -1], answers).mean()
    return out


@wrong("residual_sweep", "a_fixed_number_of_layers", "three layers, as in the example")
def _(model, clean, corrupted, answers, direction="denoising"):
    base, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    _, cache = model.run_with_cache(source)
    out = torch.zeros(3, base.shape[1])
    for n in range(min(3, model.cfg.n_layers)):
        for p in range(base.shape[1]):
            out[n, p] = difference(patched(model, base, cache, n, p)[:, -1], answers).mean()
    return out


@wrong("corrupt_by_noise", "first_positions", "as many positions, but the first ones")
def _(embeddings, positions, scale, generator=None):
    out = embeddings.clone()
    out[:, : len(positions)] += scale * torch.randn(out[:, : len(positions)].shape, generator=generator)
    return out


@wrong("corrupt_by_noise", "one_number_a_word", "the same number for all dimensions")
def _(embeddings, positions, scale, generator=None):
    out = embeddings.clone()
    out[:, positions] += scale * torch.randn((len(out), len(positions), 1), generator=generator)
    return out


@wrong("corrupt_by_noise", "in_place", "writes into the embeddings that it was given")
def _(embeddings, positions, scale, generator=None):
    embeddings[:, positions] += scale * torch.randn(embeddings[:, positions].shape, generator=generator)
    return embeddings


@wrong("corrupt_by_noise", "uniform_of_that_width", "uniform noise with the right standard deviation")
def _(embeddings, positions, scale, generator=None):
    out = embeddings.clone()
    out[:, positions] += scale * 12**0.5 * (torch.rand(out[:, positions].shape, generator=generator) - 0.5)
    return out


@wrong("corrupt_by_noise", "multiplied", "noise times the embedding")
def _(embeddings, positions, scale, generator=None):
    out = embeddings.clone()
    out[:, positions] *= 1 + scale * torch.randn(out[:, positions].shape, generator=generator)
    return out


@wrong("trace_effects", "over_the_best", "the fraction of the largest indirect effect")
def _(clean, corrupted, restored):
    indirect = (restored - corrupted).mean(dim=-1)
    return (clean - corrupted).mean(), indirect, indirect / indirect.max()


@wrong("trace_effects", "without_corrupted", "the restored value itself, and its share of the clean one")
def _(clean, corrupted, restored):
    return (clean - corrupted).mean(), restored.mean(-1), restored.mean(-1) / clean.mean()


@wrong("trace_effects", "medians", "the median over the prompts")
def _(clean, corrupted, restored):
    total, indirect = (clean - corrupted).median(), (restored - corrupted).median(dim=-1).values
    return total, indirect, indirect / total


@wrong("mean_ablation", "last_position_only", "only at the end")
def _(model, tokens, reference, layer, head):
    usual = model.run_with_cache(reference)[1][Z(layer)].mean(dim=0)
    return run(model, tokens, Z(layer), lambda z: replaced(z, (ALL, -1, head), usual[-1, head]))


@wrong("mean_ablation", "both", "the mean over tokens and reference together")
def _(model, tokens, reference, layer, head):
    usual = model.run_with_cache(torch.cat([tokens, reference]))[1][Z(layer)].mean(dim=0)
    return run(model, tokens, Z(layer), lambda z: replaced(z, (ALL, ALL, head), usual[:, head]))


@wrong("mean_ablation", "first_reference", "one reference prompt in place of their mean")
def _(model, tokens, reference, layer, head):
    usual = model.run_with_cache(reference)[1][Z(layer)][0]
    return run(model, tokens, Z(layer), lambda z: replaced(z, (ALL, ALL, head), usual[:, head]))


@wrong("attention_knockout", "both_ways", "key to query as well, and the key for every query")
def _(model, tokens, edges, layers):
    def cut(scores, hook):
        scores = scores.clone()
        for query, key in edges:
            scores[:, :, query:, key] = -torch.inf
        return scores

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{n}.attn.hook_attn_scores", cut) for n in layers])


@wrong("attention_knockout", "smaller", "ten less is not minus infinity")
def _(model, tokens, edges, layers):
    def cut(scores, hook):
        scores = scores.clone()
        for query, key in edges:
            scores[:, :, query, key] -= 10
        return scores

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{n}.attn.hook_attn_scores", cut) for n in layers])


@wrong("attention_knockout", "last_layer_only", "a loop variable that the hooks share")
def _(model, tokens, edges, layers):
    def cut(scores, hook):
        scores = scores.clone()
        for query, key in edges:
            scores[:, :, query, key] = -torch.inf
        return scores

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layers[-1]}.attn.hook_attn_scores", cut) for _ in layers])


@wrong("attention_knockout", "cross_product", "every query of the list with every key of the list")
def _(model, tokens, edges, layers):
    queries, keys = [q for q, _ in edges], [k for _, k in edges]

    def cut(scores, hook):
        scores = scores.clone()
        for query in queries:
            scores[:, :, query, keys] = -torch.inf
        return scores

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{n}.attn.hook_attn_scores", cut) for n in layers])


def _line(curve):
    return torch.linspace(curve[0].item(), curve[-1].item(), len(curve))


def _gain(m):
    return (m["broken"].mean() - m["corrupted"].mean()) / (m["clean"].mean() - m["corrupted"].mean())


def _table(**changes):
    """The four questions, with some of them answered in another way."""

    def answer(measured):
        out = {}
        for name, m in measured.items():
            own = {
                "range": lambda m: m["curve"].max() - m["curve"].min(),
                "continuous": lambda m, r: m["curve"].diff().abs().max() <= 0.1 * r,
                "linear": lambda m, r: (m["curve"] - _line(m["curve"])).abs().max() <= 0.01 * r,
                "prior_independent": lambda m, r: (m["tilted"].mean() - m["even"].mean()).abs() <= 0.01 * r,
                "fooled": lambda m, r: _gain(m) > 0.1,
                **changes,
            }
            size = own.pop("range")(m)
            out[name] = {question: bool(decide(m, size)) for question, decide in own.items()}
        return out

    return answer


WRONG += [
    (P + "metric_table", name, _table(**changes), why)
    for name, changes, why in [
        ("absolute_step", {"continuous": lambda m, r: m["curve"].diff().abs().max() <= 0.1}, "a step of 0.1"),
        ("mean_step", {"continuous": lambda m, r: m["curve"].diff().abs().mean() <= 0.1 * r}, "the mean step"),
        ("rising_step", {"continuous": lambda m, r: m["curve"].diff().max() <= 0.1 * r}, "only steps upwards"),
        ("even_steps", {"linear": lambda m, r: m["curve"].diff().diff().abs().max() <= 0.01 * r}, "equal steps"),
        (
            "correlated",
            {
                "linear": lambda m, r: (
                    torch.corrcoef(torch.stack([m["curve"], torch.arange(len(m["curve"])) * 1.0]))[0, 1].abs() > 0.99
                )
            },
            "a correlation above 0.99",
        ),
        (
            "upwards_only",
            {"prior_independent": lambda m, r: m["tilted"].mean() - m["even"].mean() <= 0.01 * r},
            "no abs",
        ),
        (
            "first_of_the_pair",
            {"prior_independent": lambda m, r: (m["tilted"][:, 0].mean() - m["even"][:, 0].mean()).abs() <= 0.01 * r},
            "one order of the names alone",
        ),
        (
            "not_over_the_gap",
            {"fooled": lambda m, r: m["broken"].mean() - m["corrupted"].mean() > 0.1 * r},
            "of the range",
        ),
        (
            "mean_of_ratios",
            {"fooled": lambda m, r: ((m["broken"] - m["corrupted"]) / (m["clean"] - m["corrupted"])).median() > 0.1},
            "the typical prompt",
        ),
        ("upside_down", {"fooled": lambda m, r: _gain(m) <= 0.1}, "True where the metric is safe"),
    ]
]


def _attribution(
    base="corrupted", per_prompt=lambda d: d.mean(), gather=lambda x: x.sum(dim=(0, 1, 3)), metric=difference
):
    def answer(model, clean, corrupted, answers):
        start, goal = (corrupted, clean) if base == "corrupted" else (clean, corrupted)
        names = [Z(n) for n in range(model.cfg.n_layers)]
        there, held = model.run_with_cache(goal)[1], {}

        def keep(z, hook):
            held[hook.name] = z
            return z

        first = ("hook_embed", lambda e, hook: e.detach().requires_grad_())
        with torch.enable_grad():
            logits = model.run_with_hooks(start, fwd_hooks=[first, *((name, keep) for name in names)])[:, -1]
            slopes = torch.autograd.grad(per_prompt(metric(logits, answers)), list(held.values()))
        steps = [(there[n] - z).detach() for n, z in zip(names, held.values())]
        return torch.stack([gather(slope * step) for slope, step in zip(slopes, steps)])

    return answer


WRONG += [
    (
        P + "head_attribution",
        "averaged_over_positions",
        _attribution(gather=lambda x: x.mean(dim=1).sum(dim=(0, 2))),
        "mean",
    ),
    (
        P + "head_attribution",
        "averaged_twice",
        _attribution(gather=lambda x: x.sum(dim=(1, 3)).mean(dim=0)),
        "over prompts",
    ),
    (P + "head_attribution", "noising", _attribution(base="clean"), "the other direction"),
    (P + "head_attribution", "absolute", _attribution(gather=lambda x: x.abs().sum(dim=(0, 1, 3))), "sizes"),
    (
        P + "head_attribution",
        "over_heads",
        _attribution(gather=lambda x: x.sum(dim=(0, 1, 2))),
        "the wrong axis is kept",
    ),
    (
        P + "head_attribution",
        "answer_alone",
        _attribution(metric=lambda logits, answers: logits.gather(1, answers[:, :1])[:, 0]),
        "the answer's logit alone",
    ),
]

# ------------------------------------------------------------------------------------------------------------ RIGHT


@right("logit_diff", "one_hot", "an inner product with +1 and -1")
def _(logits, answers):
    signs = torch.zeros_like(logits)
    signs.scatter_add_(1, answers.to(logits.device), torch.tensor([[1.0, -1.0]]).to(logits).expand(len(logits), 2))
    return einsum(logits, signs, "batch vocabulary, batch vocabulary -> batch")


@right("log_prob", "categorical", "by a distribution")
def _(logits, answers):
    return torch.distributions.Categorical(logits=logits, validate_args=False).log_prob(answers[:, 0])


@right("log_prob", "take_along_dim", "another way to pick")
def _(logits, answers):
    return (logits - logits.logsumexp(-1, keepdim=True)).take_along_dim(answers, dim=1)[:, 0]


@right("normalised_effect", "masked", "0 / 0 made by hand")
def _(patched, clean, corrupted, direction="denoising"):
    effect = (patched - {"denoising": corrupted, "noising": clean}[direction]) / (clean - corrupted)
    return effect.masked_fill((clean == corrupted).expand_as(effect), float("nan"))


@right("patch_residual", "with_hooks", "the context manager")
def _(model, tokens, source, layer, position):
    def put(x, hook):
        keep = (torch.arange(x.shape[1]) != position)[None, :, None]
        return torch.where(keep, x, source[hook.name])

    with model.hooks(fwd_hooks=[(RESID(layer), put)]):
        return model(tokens)


@right("patch_head", "stacked", "by unbinding the heads")
def _(model, tokens, source, layer, head):
    def put(z, hook):
        heads = list(z.unbind(dim=2))
        heads[head] = source[hook.name][:, :, head]
        return torch.stack(heads, dim=2)

    return model.run_with_hooks(tokens, fwd_hooks=[(Z(layer), put)])


@right("residual_sweep", "one_batch_a_layer", "all positions of a layer in one batch")
def _(model, clean, corrupted, answers, direction="denoising"):
    base, source = (clean, corrupted)[::-1] if direction == "denoising" else (clean, corrupted)
    _, cache = model.run_with_cache(source)
    length = base.shape[1]
    rows = []
    for layer in range(model.cfg.n_layers):

        def put(x, hook):
            x = rearrange(x.clone(), "(p b) q d -> p b q d", p=length)
            for p in range(length):
                x[p, :, p] = cache[hook.name][:, p]
            return rearrange(x, "p b q d -> (p b) q d")

        logits = model.run_with_hooks(base.repeat(length, 1), fwd_hooks=[(RESID(layer), put)])[:, -1]
        rows.append(reduce(difference(logits, answers.repeat(length, 1)), "(p b) -> p", "mean", p=length))
    return torch.stack(rows)


@right("corrupt_by_noise", "torch_normal", "position by position")
def _(embeddings, positions, scale, generator=None):
    out = embeddings.clone()
    for p in positions:
        out[:, p] = torch.normal(embeddings[:, p], scale, generator=generator)
    return out


@right("trace_effects", "of_the_means", "means first")
def _(clean, corrupted, restored):
    middle = corrupted.mean()
    total = clean.mean() - middle
    gained = restored.mean(2) - middle
    return total, gained, gained.div(total)


@right("mean_ablation", "einops", "by einops and a mask")
def _(model, tokens, reference, layer, head):
    usual = reduce(model.run_with_cache(reference)[1][Z(layer)], "prompt position head d -> 1 position head d", "mean")
    mask = (torch.arange(model.cfg.n_heads) == head)[:, None]
    return model.run_with_hooks(tokens, fwd_hooks=[(Z(layer), lambda z, hook: torch.where(mask, usual, z))])


@right("attention_knockout", "renormalised", "zero after the softmax, and the rest scaled up again")
def _(model, tokens, edges, layers):
    def cut(pattern, hook):
        pattern = pattern.clone()
        for query, key in edges:
            pattern[:, :, query, key] = 0
        return pattern / pattern.sum(dim=-1, keepdim=True)

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{n}.attn.hook_pattern", cut) for n in layers])


@right("head_attribution", "prompt_by_prompt", "a backward pass for each prompt")
def _(model, clean, corrupted, answers):
    one = _attribution()
    return sum(one(model, *(x[i : i + 1] for x in (clean, corrupted, answers))) for i in range(len(clean))) / len(clean)


@right("metric_table", "numpy", "in numpy")
def _(measured):
    out = {}
    for name, tensors in measured.items():
        m = {key: value.double().numpy() for key, value in tensors.items()}
        c, r = m["curve"], np.ptp(m["curve"])
        gain = (m["broken"].mean() - m["corrupted"].mean()) / (m["clean"].mean() - m["corrupted"].mean())
        out[name] = {
            "continuous": bool(np.abs(np.diff(c)).max() <= r / 10),
            "linear": bool(np.abs(c - np.linspace(c[0], c[-1], len(c))).max() <= r / 100),
            "prior_independent": bool(abs(m["tilted"].mean() - m["even"].mean()) <= r / 100),
            "fooled": bool(gain > 0.1),
        }
    return out
