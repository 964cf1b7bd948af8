"""Answers to the exercises of 03_logit_lens, written from the prompts alone by somebody who had not seen any case.

WRONG must be rejected, RIGHT must be accepted; the first ten of WRONG are the ones that their author took for the most
typical, and `UNTOLD` names those of them that get no sentence of their own. What happened is told in docs/blind.md.
"""
# ruff: noqa: B023 (every hook runs before its loop goes on)

import torch
import torch.nn.functional as F
from torch import nn

from mechlib.lens import stream_hook

P = "logit_lens."
WRONG, RIGHT = [], []
UNTOLD: set[str] = set()


def W(ex, name, f, why):
    WRONG.append((P + ex, name, f, why))


def R(ex, name, f, why):
    RIGHT.append((P + ex, name, f, why))


# ---------- helpers
def chosen(logits, answers):
    return logits.gather(-1, answers.expand(logits.shape[:-1])[..., None])


def streams_of(model, tokens):
    cache = model.run_with_cache(tokens)[1]
    n = model.cfg.n_layers
    return torch.stack([cache["resid_pre", l] for l in range(n)] + [cache["resid_post", n - 1]])


def kl(p, q):
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def rows(tokens):
    return torch.arange(len(tokens), device=tokens.device)


def scope(source_at=None, target_at=None, source_deep=None, how="replace", left=False, outer=False, swap=False):
    """patchscope with one thing changed."""

    def f(model, source, source_depth, source_positions, target, target_depth, target_positions):
        if swap:
            source, target = target, source
            source_depth, target_depth = target_depth, source_depth
            source_positions, target_positions = target_positions, source_positions
        sp = source_positions if source_at is None else source_at(source_positions, target_positions)
        tp = target_positions if target_at is None else target_at(source_positions, target_positions)
        sd = source_depth if source_deep is None else source_deep(source_depth, target_depth)
        vectors = streams_of(model, source)[sd][rows(source), sp]

        def put(old, hook):
            old = old.clone()
            if outer:
                old[:, tp] = vectors
            elif how == "add":
                old[rows(target), tp] += vectors
            elif how == "norm":
                there = old[rows(target), tp].norm(dim=-1, keepdim=True)
                old[rows(target), tp] = vectors / vectors.norm(dim=-1, keepdim=True) * there
            elif how == "row 0":
                old[rows(target), tp] = vectors[:1]
            else:
                old[rows(target), tp] = vectors
            return old

        if left:
            model.add_hook(stream_hook(model, target_depth), put)
            return model(target)
        return model.run_with_hooks(target, fwd_hooks=[(stream_hook(model, target_depth), put)])

    return f


def erase(unit=lambda d: d / d.norm(dim=-1, keepdim=True), how=1.0, at=None, every=False, deep=lambda d, n: d):
    """erase_direction with one thing changed."""

    def f(model, tokens, depth, positions, directions):
        u, n = unit(directions), model.cfg.n_layers
        where = positions if at is None else at(positions, tokens)

        def edit(h, hook):
            h = h.clone()
            if every:
                part = torch.einsum("bpd,bd->bp", h, u)[..., None] * u[:, None]
                return h - part
            old = h[rows(tokens), where]
            part = (old * u).sum(-1, keepdim=True) * u
            h[rows(tokens), where] = part if how == "keep" else old - how * part
            return h

        return model.run_with_hooks(tokens, fwd_hooks=[(stream_hook(model, deep(depth, n)), edit)])

    return f


# ---------- the ten most typical
def ar_ge(logits, answers):
    return (logits >= chosen(logits, answers)).sum(-1)


def ll_no_norm(model, tokens):
    return model.unembed(streams_of(model, tokens))


def ll_post_only(model, tokens):
    cache = model.run_with_cache(tokens)[1]
    return torch.stack([model.unembed(model.ln_final(cache["resid_post", l])) for l in range(model.cfg.n_layers)])


def kl_reversed(logits):
    return kl(logits, logits[-1:])


def kl_naive(logits):
    p = logits.softmax(-1)
    return (p[-1] * (p[-1].log() - p.log())).sum(-1)


def em_first(ranks, at_most):
    good = torch.cat([ranks <= at_most, torch.ones_like(ranks[:1], dtype=torch.bool)])
    return good.int().argmax(0)


def vv_plain(model, layer, k):
    return (model.W_out[layer] @ model.W_U).topk(k, dim=-1).indices


class TLNoResidual(nn.Module):
    def __init__(self, n_layers, d_model):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_layers, d_model, d_model))
        self.bias = nn.Parameter(torch.zeros(n_layers, d_model))

    def forward(self, streams):
        return torch.einsum("lbpd,lde->lbpe", streams, self.weight) + self.bias[:, None, None]


def tl_all(lens_logits, final_logits, keep):
    return kl(final_logits.detach(), lens_logits).mean((1, 2))


W("answer_rank", "at least as high", ar_ge, "counts the answer itself and ties")
W("logit_lens", "no final norm", ll_no_norm, "unembed alone")
W("logit_lens", "streams after layers only", ll_post_only, "depth 0 missing")
W("kl_to_final", "the other way round", kl_reversed, "KL(depth || final)")
W("kl_to_final", "softmax, then log", kl_naive, "log 0 and 0 * inf for large logits")
W("emergence_layer", "first time good", em_first, "need not stay")
W("value_vector_tokens", "plain product", vv_plain, "neither centred nor weighted")
W("erase_direction", "not normalised", erase(unit=lambda d: d), "direction of its own length")
W("TunedLens", "no skip", TLNoResidual, "h W + b without h")
W("tuned_lens_loss", "keep ignored", tl_all, "mean over all positions")


# ---------- answer_rank
def ar_argsort(logits, answers):
    order = logits.argsort(dim=-1, descending=True, stable=True)
    return (order == answers.expand(logits.shape[:-1])[..., None]).int().argmax(-1)


def ar_close(logits, answers):
    return (logits > chosen(logits, answers) + 1e-3).sum(-1)


def ar_left(logits, answers):
    lead = logits.shape[:-1]
    if answers.dim() < len(lead) and answers.shape == lead[: answers.dim()]:
        answers = answers.reshape(*answers.shape, *[1] * (len(lead) - answers.dim()))
    return (logits > chosen(logits, answers)).sum(-1)


W("answer_rank", "from 1", lambda l, a: (l > chosen(l, a)).sum(-1) + 1, "one-based")
W("answer_rank", "place after sorting", ar_argsort, "ties count if their id is lower")
W("answer_rank", "lower ones", lambda l, a: (l < chosen(l, a)).sum(-1), "counts the tokens below")
W("answer_rank", "tolerance", ar_close, "a lead of less than a thousandth does not count")
W("answer_rank", "broadcast from the left", ar_left, "answers belong to the first axis where that fits")
W("answer_rank", "int32", lambda l, a: (l > chosen(l, a)).sum(-1, dtype=torch.int32), "not int64")


def ar_search(logits, answers):
    down, wanted = (-logits).sort(-1).values, -chosen(logits, answers)
    return torch.searchsorted(down.contiguous(), wanted.contiguous())[..., 0]


def ar_loop(logits, answers):
    flat, ids = logits.reshape(-1, logits.shape[-1]), answers.expand(logits.shape[:-1]).reshape(-1)
    out = [sum(v > row[i] for v in row) for row, i in zip(flat.tolist(), ids.tolist())]
    return torch.tensor(out).view(logits.shape[:-1])


R("answer_rank", "searchsorted", ar_search, "bisection in the sorted logits")
R("answer_rank", "python loop", ar_loop, "counts by hand")


# ---------- logit_lens
def ll_pre_only(model, tokens):
    return model.unembed(model.ln_final(streams_of(model, tokens)[:-1]))


def ll_softmax(model, tokens):
    return model.unembed(model.ln_final(streams_of(model, tokens))).softmax(-1)


def ll_no_bias(model, tokens):
    return model.ln_final(streams_of(model, tokens)) @ model.W_U


def ll_mid(model, tokens):
    cache, n = model.run_with_cache(tokens)[1], model.cfg.n_layers
    s = [cache["resid_pre", 0]] + [cache["resid_mid", l] for l in range(1, n)] + [cache["resid_post", n - 1]]
    return model.unembed(model.ln_final(torch.stack(s)))


def ll_embed(model, tokens):
    cache, n = model.run_with_cache(tokens)[1], model.cfg.n_layers
    s = [cache["hook_embed"]] + [cache["resid_post", l] for l in range(n)]
    return model.unembed(model.ln_final(torch.stack(s)))


def ll_stale(model, tokens):
    cache = model.run_with_cache(tokens)[1]
    s = streams_of(model, tokens)
    s = (s - s.mean(-1, keepdim=True)) / cache["ln_final.hook_scale"]
    return model.unembed(s * model.ln_final.weight + model.ln_final.bias)


def ll_first_four(model, tokens):
    cache = model.run_with_cache(tokens)[1]
    n = min(4, model.cfg.n_layers)
    s = [cache["resid_pre", 0]] + [cache["resid_post", l] for l in range(n)]
    return model.unembed(model.ln_final(torch.stack(s)))


def ll_batch_first(model, tokens):
    return model.unembed(model.ln_final(streams_of(model, tokens).transpose(0, 1)))


W("logit_lens", "streams before layers only", ll_pre_only, "the last depth missing")
W("logit_lens", "probabilities", ll_softmax, "softmax at the end")
W("logit_lens", "no unembedding bias", ll_no_bias, "times W_U by hand")
W("logit_lens", "the middle of the layers", ll_mid, "resid_mid at the depths in between")
W("logit_lens", "depth 0 without positions", ll_embed, "hook_embed alone")
W("logit_lens", "the last scale", ll_stale, "every depth by the last one's scale")
W("logit_lens", "four layers at most", ll_first_four, "n_layers written in")
W("logit_lens", "batch first", ll_batch_first, "axes exchanged")


def ll_sums(model, tokens):
    cache = model.run_with_cache(tokens)[1]
    s = [cache["resid_pre", 0]]
    for layer in range(model.cfg.n_layers):
        s.append(s[-1] + (cache["resid_post", layer] - cache["resid_pre", layer]))
    return torch.stack([model.unembed(model.ln_final(x)) for x in s])


def ll_hooks(model, tokens):
    out = []
    names = [f"blocks.{l}.hook_resid_pre" for l in range(model.cfg.n_layers)]
    names.append(f"blocks.{model.cfg.n_layers - 1}.hook_resid_post")
    model.run_with_hooks(tokens, fwd_hooks=[(n, lambda x, hook: out.append(x.clone())) for n in names])
    return torch.stack([model.unembed(model.ln_final(x)) for x in out])


R("logit_lens", "a sum of writes", ll_sums, "adds each layer's change")
R("logit_lens", "own hooks", ll_hooks, "a hook each instead of the cache")


# ---------- kl_to_final
def kl_categorical(logits):
    from torch.distributions import Categorical, kl_divergence

    return kl_divergence(Categorical(logits=logits[-1:]), Categorical(logits=logits))


def kl_clamp(logits):
    p = logits.softmax(-1).clamp(min=1e-9)
    return (p[-1] * (p[-1].log() - p.log())).sum(-1)


def kl_cross(logits):
    return -(logits[-1].softmax(-1) * logits.log_softmax(-1)).sum(-1)


def kl_js(logits):
    m = (logits.softmax(-1) + logits[-1].softmax(-1)).div(2).log()
    p, q = logits[-1].log_softmax(-1), logits.log_softmax(-1)
    return ((p.exp() * (p - m)).sum(-1) + (q.exp() * (q - m)).sum(-1)) / 2


W("kl_to_final", "mean over tokens", lambda l: kl(l[-1:], l) / l.shape[-1], "mean for sum")
W("kl_to_final", "Categorical", kl_categorical, "torch.distributions says inf where a probability underflows")
W("kl_to_final", "clamped probabilities", kl_clamp, "clamp(min=1e-9) bounds the KL")
W("kl_to_final", "cross-entropy", kl_cross, "the entropy of the final one not taken away")
W("kl_to_final", "bits", lambda l: kl(l[-1:], l) / torch.tensor(2.0).log(), "log base 2")
W("kl_to_final", "Jensen and Shannon", kl_js, "symmetric")
W("kl_to_final", "to the next depth", lambda l: kl(torch.cat([l[1:], l[-1:]]), l), "each against the one after it")
W("kl_to_final", "to depth 0", lambda l: kl(l[:1], l), "first for last")


def kl_functional(logits):
    lp = logits.log_softmax(-1)
    return F.kl_div(lp, lp[-1].expand_as(lp), reduction="none", log_target=True).sum(-1)


def kl_bregman(logits):
    q = logits[-1]
    gain = logits.logsumexp(-1) - q.logsumexp(-1)
    return gain - (q.softmax(-1) * (logits - q)).sum(-1)


R("kl_to_final", "F.kl_div", kl_functional, "log_target=True")
R("kl_to_final", "Bregman", kl_bregman, "logsumexp's Bregman divergence: KL without a logarithm of a probability")


# ---------- emergence_layer
def em_default(never):
    def f(ranks, at_most):
        depth = len(ranks)
        out = depth - (ranks <= at_most).flip(0).cumprod(0).sum(0)
        return torch.where(out == depth, never(depth), out)

    return f


def em_longest(ranks, at_most):
    good = ranks <= at_most
    run, best, start = torch.zeros_like(ranks[0]), torch.zeros_like(ranks[0]), torch.full_like(ranks[0], len(ranks))
    for d in range(len(ranks)):
        run = torch.where(good[d], run + 1, 0)
        start = torch.where(run > best, d + 1 - run, start)
        best = torch.maximum(best, run)
    return start


def em_strict(ranks, at_most):
    return len(ranks) - (ranks < max(at_most, 1)).flip(0).cumprod(0).sum(0)


def em_top(ranks, at_most):
    return len(ranks) - (ranks == 0).flip(0).cumprod(0).sum(0)


def em_two(ranks, at_most):
    good = ranks <= at_most
    both = torch.cat([good[:-1] & good[1:], good[-1:]])
    found = torch.cat([both, torch.ones_like(both[:1])])
    return torch.where(good[-1], found.int().argmax(0), len(ranks))


W("emergence_layer", "counts the bad depths", lambda r, k: (r > k).sum(0), "right only if good ones come last")
W("emergence_layer", "strictly better", em_strict, "< at_most, except that 0 works")
W("emergence_layer", "never is minus one", em_default(lambda n: -1), "-1 for never")
W("emergence_layer", "never is the last depth", em_default(lambda n: n - 1), "depths - 1 for never")
W("emergence_layer", "top token only", em_top, "at_most ignored")
W("emergence_layer", "longest run", em_longest, "the longest good stretch, wherever it is")
W("emergence_layer", "good twice running", em_two, "stays for one more depth, and good at the end")
W("emergence_layer", "float", lambda r, k: em_default(lambda n: n)(r, k).float(), "not int64")


def em_last_bad(ranks, at_most):
    number = torch.arange(1, len(ranks) + 1, device=ranks.device).view(-1, *[1] * (ranks.dim() - 1))
    return (number * (ranks > at_most)).amax(0)


def em_cummax(ranks, at_most):
    worst_to_come = ranks.flip(0).cummax(0).values.flip(0)
    return (worst_to_come > at_most).sum(0)


R("emergence_layer", "one past the last bad", em_last_bad, "amax of depth numbers")
R("emergence_layer", "worst to come", em_cummax, "a running maximum from the end, then counting is right")


# ---------- sub_updates
def su(act="post", row=None, change=lambda parts, model, layer: parts):
    def f(model, tokens, layer):
        cache = model.run_with_cache(tokens)[1]
        l = layer if row is None else row
        return change(cache[act, layer][..., None] * model.W_out[l], model, layer)

    return f


def su_bias_zero(parts, model, layer):
    parts[:, :, 0] += model.b_out[layer]
    return parts


W("sub_updates", "before the nonlinearity", su("pre"), "pre for post")
W("sub_updates", "bias shared out", su(change=lambda p, m, l: p + m.b_out[l] / p.shape[2]), "b_out over the neurons")
W("sub_updates", "summed", su(change=lambda p, m, l: p.sum(2)), "the whole output")
W("sub_updates", "bias to each", su(change=lambda p, m, l: p + m.b_out[l]), "b_out added to every neuron")
W("sub_updates", "bias to neuron 0", su(change=su_bias_zero), "sums to the output with its bias")
W("sub_updates", "values of layer 0", su(row=0), "W_out[0]")


def su_relu(model, tokens, layer):
    return model.run_with_cache(tokens)[1]["post", layer].clamp(min=0)[..., None] * model.W_out[layer]


def su_first(model, tokens, layer):
    return su()(model, tokens[:1], layer).expand(len(tokens), -1, -1, -1)


W("sub_updates", "positive activations only", su_relu, "takes the MLP for a ReLU")
W("sub_updates", "first prompt for all", su_first, "batch ignored")


def su_diag(model, tokens, layer):
    return model.run_with_cache(tokens)[1]["post", layer].diag_embed() @ model.W_out[layer]


def su_hook(model, tokens, layer):
    got = []
    model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.mlp.hook_post", lambda a, hook: got.append(a))])
    return torch.einsum("bpn,nd->bpnd", got[0], model.W_out[layer])


R("sub_updates", "a diagonal matrix", su_diag, "diag_embed")
R("sub_updates", "own hook", su_hook, "einsum of a hooked activation")


# ---------- value_vector_tokens
def vv(read, k_of=lambda scores, k: scores.topk(k, dim=-1).indices, values=lambda m, l: m.W_out[l]):
    def f(model, layer, k):
        return k_of(read(model, values(model, layer)), k)

    return f


def vv_scores(model, v):
    return (v - v.mean(-1, keepdim=True)) * model.ln_final.weight @ model.W_U


def vv_after(model, v):
    v = v * model.ln_final.weight
    return (v - v.mean(-1, keepdim=True)) @ model.W_U


W("value_vector_tokens", "not centred", vv(lambda m, v: v * m.ln_final.weight @ m.W_U), "the mean stays")
W("value_vector_tokens", "no weight", vv(lambda m, v: (v - v.mean(-1, keepdim=True)) @ m.W_U), "weight left out")
W("value_vector_tokens", "the whole norm", vv(lambda m, v: m.unembed(m.ln_final(v))), "scale and biases too")
W("value_vector_tokens", "centred after the weight", vv(vv_after), "order of the two steps")
W("value_vector_tokens", "worst first", vv(vv_scores, lambda s, k: s.argsort(-1)[:, :k]), "ascending")
W(
    "value_vector_tokens",
    "by size",
    vv(vv_scores, lambda s, k: s.abs().topk(k, dim=-1).indices),
    "absolute values: demoted tokens as well",
)
W("value_vector_tokens", "values, not ids", vv(vv_scores, lambda s, k: s.topk(k, dim=-1).values), ".values")
W("value_vector_tokens", "input weights", vv(vv_scores, values=lambda m, l: m.W_in[l].T), "W_in for W_out")
W(
    "value_vector_tokens",
    "mean over neurons",
    vv(lambda m, v: (v - v.mean(0)) * m.ln_final.weight @ m.W_U),
    "centred over the neurons",
)


def vv_folded(model, layer, k):
    folded = model.ln_final.weight[:, None] * model.W_U
    folded = folded - folded.mean(0)
    return (model.W_out[layer] @ folded).sort(-1, descending=True).indices[:, :k]


def vv_centred_vocabulary(model, layer, k):
    scores = vv_scores(model, model.W_out[layer])
    return (scores - scores.mean(-1, keepdim=True)).log_softmax(-1).topk(k).indices


R("value_vector_tokens", "folded into W_U", vv_folded, "centres the reader instead of the writer")
R("value_vector_tokens", "log_softmax first", vv_centred_vocabulary, "the order stays")


# ---------- patchscope
W("patchscope", "source position on both sides", scope(target_at=lambda s, t: s), "target_positions ignored")
W("patchscope", "target depth on both sides", scope(source_deep=lambda s, t: t), "source_depth ignored")
W("patchscope", "every position of the batch", scope(outer=True), "old[:, positions] = vectors")
W("patchscope", "hook left behind", scope(left=True), "add_hook without a reset")
W("patchscope", "added", scope(how="add"), "added to what stands there")
W("patchscope", "first prompt's position for all", scope(target_at=lambda s, t: t[:1].expand_as(t)), "positions[0]")
W("patchscope", "first prompt's vector for all", scope(how="row 0"), "vectors[0]")
W("patchscope", "source and target exchanged", scope(swap=True), "the other way round")
W("patchscope", "rescaled", scope(how="norm"), "as long as what stood there")


def ps_where(model, source, source_depth, source_positions, target, target_depth, target_positions):
    got = []
    model.run_with_hooks(source, fwd_hooks=[(stream_hook(model, source_depth), lambda x, hook: got.append(x.clone()))])
    index = source_positions[:, None, None].expand(-1, 1, got[0].shape[-1])
    there = (torch.arange(target.shape[1]) == target_positions[:, None])[..., None]
    put = (stream_hook(model, target_depth), lambda x, hook: torch.where(there, got[0].gather(1, index), x))
    return model.run_with_hooks(target, fwd_hooks=[put])


def ps_loop(model, source, source_depth, source_positions, target, target_depth, target_positions):
    out = []
    for s, i, t, j in zip(source, source_positions.tolist(), target, target_positions.tolist()):
        vector = streams_of(model, s[None])[source_depth, 0, i]

        def put(x, hook):
            return torch.cat([x[:, :j], vector[None, None], x[:, j + 1 :]], dim=1)

        out.append(model.run_with_hooks(t[None], fwd_hooks=[(stream_hook(model, target_depth), put)]))
    return torch.cat(out)


R("patchscope", "gather and where", ps_where, "no index assignment")
R("patchscope", "prompt by prompt", ps_loop, "one run for each")


# ---------- erase_direction
W("erase_direction", "all positions", erase(every=True), "positions ignored")
W("erase_direction", "first prompt's position for all", erase(at=lambda p, t: p[:1].expand_as(p)), "positions[0]")
W("erase_direction", "one layer too late", erase(deep=lambda d, n: min(d + 1, n)), "resid_post for resid_pre")
W(
    "erase_direction",
    "mean direction",
    erase(unit=lambda d: F.normalize(d.mean(0, keepdim=True), dim=-1)),
    "one for all",
)
W("erase_direction", "normalised over prompts", erase(unit=lambda d: F.normalize(d, dim=0)), "dim=0")
W("erase_direction", "kept, not erased", erase(how="keep"), "projects onto the direction")
W("erase_direction", "mirrored", erase(how=2.0), "twice the component")
W("erase_direction", "epsilon", erase(unit=lambda d: d / (d.norm(dim=-1, keepdim=True) + 1e-3)), "norm + 0.001")
W(
    "erase_direction",
    "centred direction",
    erase(unit=lambda d: F.normalize(d - d.mean(-1, keepdim=True), dim=-1)),
    "the LayerNorm's mean taken from the direction",
)


def ed_only_positive(model, tokens, depth, positions, directions):
    u = F.normalize(directions, dim=-1)

    def edit(h, hook):
        h, old = h.clone(), h[rows(tokens), positions]
        h[rows(tokens), positions] = old - (old * u).sum(-1, keepdim=True).clamp(min=0) * u
        return h

    return model.run_with_hooks(tokens, fwd_hooks=[(stream_hook(model, depth), edit)])


W("erase_direction", "only where positive", ed_only_positive, "a stream that points away is left")


def ed_projector(model, tokens, depth, positions, directions):
    eye = torch.eye(directions.shape[-1])
    away = eye - torch.stack([torch.outer(d, d) / (d @ d) for d in directions])
    maps = torch.where((torch.arange(tokens.shape[1]) == positions[:, None])[..., None, None], away[:, None], eye)
    edit = (stream_hook(model, depth), lambda h, hook: torch.einsum("bpd,bpde->bpe", h, maps))
    return model.run_with_hooks(tokens, fwd_hooks=[edit])


R("erase_direction", "a projector for each position", ed_projector, "matrices, the identity elsewhere")
R("erase_direction", "F.normalize", erase(unit=lambda d: F.normalize(d, dim=-1)), "the usual line")


# ---------- TunedLens
def tuned(start=lambda l, d: torch.zeros(l, d, d), forward=None, parameter=nn.Parameter, bias=None):
    class TunedLens(nn.Module):
        def __init__(self, n_layers, d_model):
            super().__init__()
            self.weight = parameter(start(n_layers, d_model))
            self.bias = parameter(torch.zeros(n_layers, d_model) if bias is None else bias(n_layers, d_model))

        def forward(self, streams):
            return forward(self, streams)

    return TunedLens


def affine(self, h):
    return h + torch.einsum("lbpd,lde->lbpe", h, self.weight) + self.bias[:, None, None]


def transposed(self, h):
    return h + torch.einsum("lbpd,led->lbpe", h, self.weight) + self.bias[:, None, None]


def no_gradient(self, h):
    with torch.no_grad():
        return affine(self, h)


def in_place(self, h):
    h += torch.einsum("lbpd,lde->lbpe", h, self.weight) + self.bias[:, None, None]
    return h


def layer_0(self, h):
    return h + h @ self.weight[0] + self.bias[:, None, None]


def bias_inside(self, h):
    h = h + self.bias[:, None, None]
    return h + torch.einsum("lbpd,lde->lbpe", h, self.weight)


class TLLinears(nn.Module):
    def __init__(self, n_layers, d_model):
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(d_model, d_model) for _ in range(n_layers))
        for m in self.maps:
            nn.init.zeros_(m.weight)
            nn.init.zeros_(m.bias)

    def forward(self, streams):
        return torch.stack([h + m(h) for h, m in zip(streams, self.maps)])


W("TunedLens", "transposed", tuned(forward=transposed), "nn.Linear's convention")
W("TunedLens", "random start", tuned(lambda l, d: torch.randn(l, d, d) / d, affine), "not zero")
W("TunedLens", "starts at the identity", tuned(lambda l, d: torch.eye(d).repeat(l, 1, 1), affine), "eye and a skip")
W("TunedLens", "a list of linear layers", TLLinears, "other parameters")
W("TunedLens", "plain tensors", tuned(forward=affine, parameter=lambda x: x), "not parameters")
W("TunedLens", "without gradient", tuned(forward=no_gradient), "forward under no_grad")
W("TunedLens", "changes its input", tuned(forward=in_place), "+=")
W("TunedLens", "layer 0 for all", tuned(forward=layer_0), "weight[0]")
W("TunedLens", "bias before the weight", tuned(forward=bias_inside), "the bias goes through the weight as well")
W("TunedLens", "no bias", tuned(forward=lambda s, h: h + torch.einsum("lbpd,lde->lbpe", h, s.weight)), "left out")


def with_eye(self, h):
    maps = self.weight + torch.eye(h.shape[-1])
    return torch.stack([x @ m + b for x, m, b in zip(h, maps, self.bias)])


def baddbmm(self, h):
    flat = h.flatten(1, 2)
    return (flat + torch.baddbmm(self.bias[:, None], flat, self.weight)).view_as(h)


R("TunedLens", "identity added in forward", tuned(forward=with_eye), "h (1 + W)")
R("TunedLens", "baddbmm", tuned(forward=baddbmm), "flattened")


# ---------- tuned_lens_loss
def tl_masked_mean(lens_logits, final_logits, keep):
    return (kl(final_logits.detach(), lens_logits) * keep).mean((1, 2))


def tl_prompts(lens_logits, final_logits, keep):
    values = kl(final_logits.detach(), lens_logits) * keep
    return (values.sum(-1) / keep.sum(-1).clamp(min=1)).mean(-1)


def tl_lens_detached(lens_logits, final_logits, keep):
    return kl(final_logits.detach(), lens_logits.detach())[:, keep].mean(-1)


def tl_top(lens_logits, final_logits, keep):
    lp = lens_logits.log_softmax(-1)
    best = final_logits.argmax(-1).expand(lp.shape[:-1])
    return -lp.gather(-1, best[..., None])[..., 0][:, keep].mean(-1)


W("tuned_lens_loss", "the other way round", lambda l, f, k: kl(l, f.detach())[:, k].mean(-1), "KL(lens || model)")
W("tuned_lens_loss", "not detached", lambda l, f, k: kl(f, l)[:, k].mean(-1), "gradient to the model")
W("tuned_lens_loss", "masked, then mean over all", tl_masked_mean, "divides by all positions")
W("tuned_lens_loss", "mean of prompt means", tl_prompts, "prompts weigh the same")
W("tuned_lens_loss", "one number", lambda l, f, k: kl(f.detach(), l)[:, k].mean(), "mean over layers too")
W("tuned_lens_loss", "sum", lambda l, f, k: kl(f.detach(), l)[:, k].sum(-1), "not averaged")
W("tuned_lens_loss", "nothing learns", tl_lens_detached, "both detached")
W("tuned_lens_loss", "the model's top token", tl_top, "cross-entropy with the argmax")
W(
    "tuned_lens_loss",
    "cross-entropy",
    lambda l, f, k: -(f.detach().softmax(-1) * l.log_softmax(-1)).sum(-1)[:, k].mean(-1),
    "the same gradient, another value",
)


def tl_weights(lens_logits, final_logits, keep):
    p = final_logits.detach().log_softmax(-1).expand_as(lens_logits)
    values = F.kl_div(lens_logits.log_softmax(-1), p, log_target=True, reduction="none").sum(-1)
    return torch.einsum("lbp,bp->l", values, keep / keep.sum())


def tl_flat(lens_logits, final_logits, keep):
    with torch.no_grad():
        target = final_logits[keep].softmax(-1)
        entropy = torch.special.entr(target).sum(-1)
    losses = [F.cross_entropy(logits[keep], target, reduction="none") - entropy for logits in lens_logits]
    return torch.stack([x.mean() for x in losses])


R("tuned_lens_loss", "weights", tl_weights, "a weighted sum over positions")
R("tuned_lens_loss", "cross-entropy less entropy", tl_flat, "soft targets, layer by layer")


# ---------- blind_direction
def seen(weight, W_U, centre=True, constant=True):
    d, v = W_U.shape
    M = weight[:, None] * W_U
    if constant:
        M = M - M.mean(1, keepdim=True)
    return M - M.mean(0) if centre else M


def least(M, which=-1):
    return torch.linalg.svd(M)[0][:, which]


def zero_mean_basis(d):
    return torch.linalg.svd(torch.eye(d) - 1 / d)[0][:, : d - 1]


def bd_basis(weight, W_U, constant=True, which=-1):
    Z = zero_mean_basis(len(weight)).to(W_U)
    return Z @ least(Z.T @ seen(weight, W_U, False, constant), which)


def bd_thin(weight, W_U):
    Z = zero_mean_basis(len(weight)).to(W_U)
    return Z @ torch.linalg.svd(Z.T @ seen(weight, W_U, False), full_matrices=False)[0][:, -1]


def bd_centred_late(weight, W_U):
    v = least(seen(weight, W_U, centre=False))
    return F.normalize(v - v.mean(), dim=0)


def bd_entry(weight, W_U):
    M = seen(weight, W_U)
    v = torch.zeros_like(weight)
    v[M.norm(dim=1).argmin()] = 1
    return F.normalize(v - v.mean(), dim=0)


def bd_no_weight(weight, W_U):
    return bd_basis(torch.ones_like(weight), W_U)


def bd_wrong_axis(weight, W_U):
    Z = zero_mean_basis(len(weight)).to(W_U)
    M = weight[:, None] * W_U
    return Z @ least(Z.T @ (M - M.mean(0)))


def bd_weighted(weight, W_U):
    """Centred as it should be, but the weight divides instead of multiplying."""
    return bd_basis(1 / weight, W_U)


W("blind_direction", "all ones", lambda w, U: least(seen(w, U)), "the centring's own blind direction")
W("blind_direction", "seen most", lambda w, U: bd_basis(w, U, which=0), "first for last")
W(
    "blind_direction",
    "common change counted",
    lambda w, U: bd_basis(w, U, constant=False),
    "W_U not centred over tokens",
)
W("blind_direction", "not centred", lambda w, U: least(seen(w, U, centre=False)), "no centring of the step")
W("blind_direction", "centred at the end", bd_centred_late, "least of the uncentred, then made zero-mean")
W("blind_direction", "no weight", bd_no_weight, "weight left out")
W("blind_direction", "d_model long", lambda w, U: bd_basis(w, U) * len(w) ** 0.5, "not a unit vector")
W("blind_direction", "one entry", bd_entry, "the coordinate that is seen least")
W("blind_direction", "mean over the wrong axis", bd_wrong_axis, "centres over d_model what should be over tokens")
W("blind_direction", "divided by the weight", bd_weighted, "inverse")


def bd_penalty(weight, W_U):
    M = seen(weight, W_U).double()
    G = M @ M.T
    G = G + (G.trace() + 1) * torch.ones_like(G) / len(G)
    return torch.linalg.eigh(G).eigenvectors[:, 0].to(W_U)


def bd_stacked(weight, W_U):
    M = seen(weight, W_U).double()
    ones = torch.ones(len(weight), 1, dtype=M.dtype) * (M.norm() + 1)
    return torch.linalg.svd(torch.cat([M, ones], dim=1))[0][:, -1].to(W_U)


R("blind_direction", "a basis of zero mean", bd_basis, "singular vectors in d - 1 dimensions")
R("blind_direction", "the ones made loud", bd_penalty, "eigh with a penalty on the mean")
R("blind_direction", "one more token", bd_stacked, "a loud column of ones")
R("blind_direction", "thin svd", bd_thin, "taken for wrong at first: the common change leaves a rank to spare")
