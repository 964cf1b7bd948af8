"""Answers to the exercises of 03_logit_lens, written from the prompts alone, before trying any of them on the cases.

WRONG must be rejected, RIGHT must be accepted. What happened is told in docs/blind.md.
"""

import torch
import torch.nn.functional as F
from torch import nn

from mechlib.lens import stream_hook

P = "logit_lens."
WRONG, RIGHT = [], []


def wrong(id, name, why):
    return lambda answer: WRONG.append((P + id, name, answer, why)) or answer


def right(id, name, why):
    return lambda answer: RIGHT.append((P + id, name, answer, why)) or answer


def hidden(model, tokens):
    """The streams at all depths, for the answers below."""
    _, cache = model.run_with_cache(tokens)
    n = model.cfg.n_layers
    return torch.stack([cache["resid_pre", i] for i in range(n)] + [cache["resid_post", n - 1]])


# ------------------------------------------------------------------------------------------ WRONG, the most typical


@wrong("answer_rank", "sorted_index", "index of the answer in ascending order")
def _(logits, answers):
    order = logits.argsort(dim=-1)
    return (order == answers[..., None]).int().argmax(dim=-1)


@wrong("logit_lens", "unembed_only", "W_U without the final norm")
def _(model, tokens):
    return hidden(model, tokens) @ model.W_U


@wrong("logit_lens", "normed_W_U_only", "no b_U")
def _(model, tokens):
    return model.ln_final(hidden(model, tokens)) @ model.W_U


@wrong("emergence_layer", "first_hit", "argmax of the mask")
def _(ranks, at_most):
    return (ranks <= at_most).int().argmax(dim=0)


@wrong("kl_to_final", "reversed", "KL(depth || final)")
def _(logits):
    p = logits.softmax(-1)
    return (p * (logits.log_softmax(-1) - logits[-1].log_softmax(-1))).sum(-1)


@wrong("sub_updates", "pre", "hook_pre")
def _(model, tokens, layer):
    _, cache = model.run_with_cache(tokens)
    return cache[f"blocks.{layer}.mlp.hook_pre"][..., None] * model.W_out[layer]


@wrong("value_vector_tokens", "raw", "no norm at all")
def _(model, layer, k):
    return torch.topk(model.W_out[layer] @ model.W_U, k, dim=-1).indices


@wrong("erase_direction", "not_normalised", "direction keeps its length")
def _(model, tokens, depth, positions, directions):
    def hook(stream, hook):
        stream = stream.clone()
        rows = torch.arange(len(stream))
        h = stream[rows, positions]
        stream[rows, positions] = h - (h * directions).sum(-1, keepdim=True) * directions
        return stream

    return model.run_with_hooks(tokens, fwd_hooks=[(stream_hook(model, depth), hook)])


@wrong("TunedLens", "affine", "no skip connection")
class _(nn.Module):
    def __init__(self, n_layers, d_model):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_layers, d_model, d_model))
        self.bias = nn.Parameter(torch.zeros(n_layers, d_model))

    def forward(self, streams):
        return streams @ self.weight[:, None] + self.bias[:, None, None]


@wrong("tuned_lens_loss", "no_mask", "averages everything")
def _(lens_logits, final_logits, keep):
    p = final_logits.detach().log_softmax(-1)
    return (p.exp() * (p - lens_logits.log_softmax(-1))).sum(-1).mean((1, 2))


# ------------------------------------------------------------------------------------------------------ WRONG, odder


@wrong("answer_rank", "ties_half", "ties count half")
def _(logits, answers):
    v = logits.gather(-1, answers.expand(logits.shape[:-1])[..., None])
    return (logits > v).sum(-1) + ((logits == v).sum(-1) - 1) // 2


@wrong("answer_rank", "argsort_twice", "ties get different ranks")
def _(logits, answers):
    places = logits.argsort(dim=-1, descending=True).argsort(dim=-1)
    return places.gather(-1, answers.expand(logits.shape[:-1])[..., None]).squeeze(-1)


@wrong("answer_rank", "one_lead_axis", "works for (depth, batch, vocabulary) only")
def _(logits, answers):
    rows = torch.arange(logits.shape[1])
    return (logits > logits[:, rows, answers][..., None]).sum(-1)


@wrong("answer_rank", "float", "counts as floats")
def _(logits, answers):
    v = logits.gather(-1, answers.expand(logits.shape[:-1])[..., None])
    return (logits > v).float().sum(-1)


@wrong("logit_lens", "in_place_norm", "centres the cached streams in place")
def _(model, tokens):
    x = hidden(model, tokens)
    x = x - x.mean(-1, keepdim=True)
    x = x / x.norm(dim=-1, keepdim=True) * model.cfg.d_model**0.5
    return model.unembed(x)


@wrong("logit_lens", "norm_over_everything", "statistics over the whole stack")
def _(model, tokens):
    x = hidden(model, tokens)
    x = (x - x.mean()) / x.std()
    return model.unembed(x * model.ln_final.weight + model.ln_final.bias)


@wrong("logit_lens", "unbiased_std", "divides by d - 1")
def _(model, tokens):
    x = hidden(model, tokens)
    x = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)
    return model.unembed(x * model.ln_final.weight + model.ln_final.bias)


@wrong("logit_lens", "resid_post_only", "depth 0 is missing, last twice")
def _(model, tokens):
    _, cache = model.run_with_cache(tokens)
    n = model.cfg.n_layers
    return model.unembed(model.ln_final(torch.stack([cache["resid_post", i] for i in [*range(n), n - 1]])))


@wrong("logit_lens", "four_layers", "hard-coded layer count")
def _(model, tokens):
    _, cache = model.run_with_cache(tokens)
    return model.unembed(
        model.ln_final(torch.stack([cache["resid_pre", i] for i in range(4)] + [cache["resid_post", 3]]))
    )


@wrong("logit_lens", "deltas", "decodes what each layer adds")
def _(model, tokens):
    x = hidden(model, tokens)
    return model.unembed(model.ln_final(torch.cat([x[:1], x[1:] - x[:-1]])))


@wrong("emergence_layer", "strict", "below at_most")
def _(ranks, at_most):
    bad = ranks >= at_most
    d = torch.arange(1, len(ranks) + 1).view(-1, *[1] * (ranks.ndim - 1))
    return (d * bad).amax(0)


@wrong("emergence_layer", "all_good_total", "counts good depths from the end, bad ones skipped")
def _(ranks, at_most):
    return len(ranks) - (ranks <= at_most).sum(0)


@wrong("emergence_layer", "last_change", "the last depth at which good and bad change")
def _(ranks, at_most):
    good = ranks <= at_most
    changes = torch.zeros_like(ranks)
    changes[1:] = (good[1:] != good[:-1]).long()
    d = torch.arange(len(ranks)).view(-1, *[1] * (ranks.ndim - 1))
    return (changes * d).amax(0)


@wrong("emergence_layer", "two_axes_only", "fails unless there is one more axis")
def _(ranks, at_most):
    return ((ranks > at_most) * torch.arange(1, len(ranks) + 1)[:, None]).amax(0)


@wrong("kl_to_final", "kl_div_args", "kl_div with its arguments swapped")
def _(logits):
    return F.kl_div(logits[-1:].log_softmax(-1).expand_as(logits), logits.softmax(-1), reduction="none").sum(-1)


@wrong("kl_to_final", "clamped", "probabilities clamped at 1e-9")
def _(logits):
    p, q = logits[-1].softmax(-1), logits.softmax(-1)
    return (p * (p.clamp(min=1e-9).log() - q.clamp(min=1e-9).log())).sum(-1)


@wrong("kl_to_final", "js", "Jensen-Shannon")
def _(logits):
    p, q = logits[-1:].softmax(-1).expand_as(logits), logits.softmax(-1)
    m = (0.5 * (p + q)).clamp(min=1e-30).log()
    return 0.5 * ((p * (p.clamp(min=1e-30).log() - m)).sum(-1) + (q * (q.clamp(min=1e-30).log() - m)).sum(-1))


@wrong("kl_to_final", "softmax_over_depths", "softmax over the wrong axis")
def _(logits):
    lp = logits.log_softmax(0)
    return (lp[-1].exp() * (lp[-1] - lp)).sum(-1)


@wrong("sub_updates", "normalised_values", "value vectors of unit length")
def _(model, tokens, layer):
    _, cache = model.run_with_cache(tokens)
    return cache["post", layer][..., None] * F.normalize(model.W_out[layer], dim=-1)


@wrong("sub_updates", "relu", "negative activations cut off")
def _(model, tokens, layer):
    _, cache = model.run_with_cache(tokens)
    return cache["post", layer].relu()[..., None] * model.W_out[layer]


@wrong("sub_updates", "last_layer", "always the last layer")
def _(model, tokens, layer):
    _, cache = model.run_with_cache(tokens)
    return cache["post", -1][..., None] * model.W_out[-1]


@wrong("value_vector_tokens", "weight_only", "not centred")
def _(model, layer, k):
    return (model.W_out[layer] * model.ln_final.weight @ model.W_U).topk(k).indices


@wrong("value_vector_tokens", "centred_after", "weight first, then centred")
def _(model, layer, k):
    v = model.W_out[layer] * model.ln_final.weight
    return ((v - v.mean(-1, keepdim=True)) @ model.W_U).topk(k).indices


@wrong("value_vector_tokens", "centred_over_neurons", "the mean over the wrong axis")
def _(model, layer, k):
    v = model.W_out[layer]
    return ((v - v.mean(0)) * model.ln_final.weight @ model.W_U).topk(k).indices


@wrong("value_vector_tokens", "embedding", "reads with W_E")
def _(model, layer, k):
    v = model.W_out[layer]
    return ((v - v.mean(-1, keepdim=True)) * model.ln_final.weight @ model.W_E.T).topk(k).indices


@wrong("value_vector_tokens", "unsorted", "the right tokens in any order")
def _(model, layer, k):
    v = model.W_out[layer]
    return ((v - v.mean(-1, keepdim=True)) * model.ln_final.weight @ model.W_U).topk(k).indices.sort(dim=-1).values


@wrong("erase_direction", "first_prompts_position", "the first prompt's position for all")
def _(model, tokens, depth, positions, directions):
    u = F.normalize(directions, dim=-1)

    def hook(stream, hook):
        stream = stream.clone()
        h = stream[:, positions[0]]
        stream[:, positions[0]] = h - (h * u).sum(-1, keepdim=True) * u
        return stream

    return model.run_with_hooks(tokens, fwd_hooks=[(stream_hook(model, depth), hook)])


@wrong("erase_direction", "every_depth", "erases at the depth and at all later ones")
def _(model, tokens, depth, positions, directions):
    u, rows = F.normalize(directions, dim=-1), torch.arange(len(tokens))

    def hook(stream, hook):
        stream = stream.clone()
        h = stream[rows, positions]
        stream[rows, positions] = h - (h * u).sum(-1, keepdim=True) * u
        return stream

    names = [stream_hook(model, d) for d in range(depth, model.cfg.n_layers + 1)]
    return model.run_with_hooks(tokens, fwd_hooks=[(name, hook) for name in names])


@wrong("erase_direction", "leaves_the_hook", "add_hook and never takes it away")
def _(model, tokens, depth, positions, directions):
    u, rows = F.normalize(directions, dim=-1), torch.arange(len(tokens))

    def hook(stream, hook):
        stream = stream.clone()
        h = stream[rows, positions]
        stream[rows, positions] = h - (h * u).sum(-1, keepdim=True) * u
        return stream

    model.add_hook(stream_hook(model, depth), hook)
    return model(tokens)


@wrong("erase_direction", "advanced_indexing", "stream[:, positions] edits all pairs")
def _(model, tokens, depth, positions, directions):
    u = F.normalize(directions, dim=-1)[:, None]

    def hook(stream, hook):
        stream = stream.clone()
        h = stream[:, positions]
        stream[:, positions] = h - (h * u).sum(-1, keepdim=True) * u
        return stream

    return model.run_with_hooks(tokens, fwd_hooks=[(stream_hook(model, depth), hook)])


@wrong("erase_direction", "keeps_the_norm", "rescales to the old length")
def _(model, tokens, depth, positions, directions):
    u, rows = F.normalize(directions, dim=-1), torch.arange(len(tokens))

    def hook(stream, hook):
        stream = stream.clone()
        h = stream[rows, positions]
        new = h - (h * u).sum(-1, keepdim=True) * u
        stream[rows, positions] = new * h.norm(dim=-1, keepdim=True) / new.norm(dim=-1, keepdim=True)
        return stream

    return model.run_with_hooks(tokens, fwd_hooks=[(stream_hook(model, depth), hook)])


def _lens(forward, weight=torch.zeros, bias_shape=lambda n, d: (n, d)):
    class Lens(nn.Module):
        def __init__(self, n_layers, d_model):
            super().__init__()
            self.weight = nn.Parameter(weight(n_layers, d_model, d_model))
            self.bias = nn.Parameter(torch.zeros(*bias_shape(n_layers, d_model)))

        def forward(self, streams):
            return forward(streams, self.weight, self.bias)

    return Lens


wrong("TunedLens", "linear_convention", "h @ weight.T, as nn.Linear has it")(
    _lens(lambda h, W, b: h + torch.einsum("lbpd,led->lbpe", h, W) + b[:, None, None])
)
wrong("TunedLens", "bias_by_position", "the bias meets the wrong axis where it can")(
    _lens(lambda h, W, b: h + h @ W[:, None] + b)
)
wrong("TunedLens", "skip_of_the_first", "adds depth 0 instead of its own stream")(
    _lens(lambda h, W, b: h[:1] + h @ W[:, None] + b[:, None, None])
)
wrong("TunedLens", "cumulative", "each translator goes on where the one before ended")(
    _lens(lambda h, W, b: h + (h @ W[:, None] + b[:, None, None]).cumsum(0))
)
wrong("TunedLens", "in_place", "adds into its input")(
    _lens(lambda h, W, b: h.add_(h.clone() @ W[:, None] + b[:, None, None]))
)
wrong("TunedLens", "identity_start", "h @ weight + bias with weight at the identity")(
    _lens(
        lambda h, W, b: h @ W[:, None] + b[:, None, None], weight=lambda n, d, _: torch.eye(d).expand(n, d, d).clone()
    )
)


@wrong("tuned_lens_loss", "batchmean", "kl_div's batchmean over all layers' positions")
def _(lens_logits, final_logits, keep):
    return torch.stack(
        [
            F.kl_div(x.log_softmax(-1), final_logits.detach().log_softmax(-1), log_target=True, reduction="batchmean")
            for x in lens_logits
        ]
    )


@wrong("tuned_lens_loss", "mse", "squared error of the logits")
def _(lens_logits, final_logits, keep):
    return ((lens_logits - final_logits.detach()) ** 2).mean(-1)[:, keep].mean(1)


@wrong("tuned_lens_loss", "detached_lens", "nothing learns")
def _(lens_logits, final_logits, keep):
    p = final_logits.detach().log_softmax(-1)
    return (p.exp() * (p - lens_logits.detach().log_softmax(-1))).sum(-1)[:, keep].mean(1)


@wrong("tuned_lens_loss", "half_detached", "only one of the two uses of final_logits is detached")
def _(lens_logits, final_logits, keep):
    p = final_logits.log_softmax(-1)
    return (p.detach().exp() * (p - lens_logits.log_softmax(-1))).sum(-1)[:, keep].mean(1)


@wrong("tuned_lens_loss", "padding_zeroed", "zeroes the logits of the padding before the softmax")
def _(lens_logits, final_logits, keep):
    p = final_logits.detach().log_softmax(-1)
    kl = (p.exp() * (p - lens_logits.log_softmax(-1))).sum(-1)
    return (kl * keep).mean((1, 2))


@wrong("patchscope", "same_run", "reads and writes in the target")
def _(model, source, source_depth, source_positions, target, target_depth, target_positions):
    rows = torch.arange(len(target))
    _, cache = model.run_with_cache(target)
    vector = cache[stream_hook(model, source_depth)][rows, source_positions.clamp(max=target.shape[1] - 1)]

    def put(stream, hook):
        stream = stream.clone()
        stream[rows, target_positions] = vector
        return stream

    return model.run_with_hooks(target, fwd_hooks=[(stream_hook(model, target_depth), put)])


@wrong("patchscope", "first_prompts_vector", "one vector for all prompts")
def _(model, source, source_depth, source_positions, target, target_depth, target_positions):
    rows = torch.arange(len(target))
    _, cache = model.run_with_cache(source)
    vector = cache[stream_hook(model, source_depth)][0, source_positions[0]]

    def put(stream, hook):
        stream = stream.clone()
        stream[rows, target_positions] = vector
        return stream

    return model.run_with_hooks(target, fwd_hooks=[(stream_hook(model, target_depth), put)])


@wrong("patchscope", "answers_only", "returns the logits at the target positions")
def _(model, source, source_depth, source_positions, target, target_depth, target_positions):
    rows = torch.arange(len(target))
    _, cache = model.run_with_cache(source)
    vector = cache[stream_hook(model, source_depth)][rows, source_positions]

    def put(stream, hook):
        stream = stream.clone()
        stream[rows, target_positions] = vector
        return stream

    return model.run_with_hooks(target, fwd_hooks=[(stream_hook(model, target_depth), put)])[rows, target_positions]


@wrong("patchscope", "post_hook", "resid_post of the layer before, also at depth 0")
def _(model, source, source_depth, source_positions, target, target_depth, target_positions):
    rows, last = torch.arange(len(target)), model.cfg.n_layers - 1
    _, cache = model.run_with_cache(source)
    vector = cache["resid_post", min(source_depth, last)][rows, source_positions]

    def put(stream, hook):
        stream = stream.clone()
        stream[rows, target_positions] = vector
        return stream

    name = f"blocks.{min(target_depth, last)}.hook_resid_post"
    return model.run_with_hooks(target, fwd_hooks=[(name, put)])


@wrong("blind_direction", "smallest_of_W_U", "smallest singular direction of W_U")
def _(weight, W_U):
    return torch.linalg.svd(W_U).U[:, -1]


@wrong("blind_direction", "projected_afterwards", "the least of all directions, made zero-mean afterwards")
def _(weight, W_U):
    v = torch.linalg.svd(weight[:, None] * (W_U - W_U.mean(1, keepdim=True))).U[:, -1]
    v = v - v.mean()
    return v / v.norm()


@wrong("blind_direction", "random_search", "the best of 2000 random directions")
def _(weight, W_U):
    tries = torch.randn(2000, len(weight), dtype=W_U.dtype)
    tries = F.normalize(tries - tries.mean(-1, keepdim=True), dim=-1)
    seen = tries * weight @ W_U
    return tries[(seen - seen.mean(-1, keepdim=True)).norm(dim=-1).argmin()]


# --------------------------------------------------------------------- WRONG, a second round


@wrong("answer_rank", "last_of_the_ties", "ties count as likelier")
def _(logits, answers):
    wanted = answers.expand(logits.shape[:-1])[..., None]
    return (logits >= logits.gather(-1, wanted)).sum(-1) - 1


@wrong("logit_lens", "each_layers_own_norm", "the next layer's ln1 in place of ln_final")
def _(model, tokens):
    _, cache = model.run_with_cache(tokens)
    n = model.cfg.n_layers
    read = [cache[f"blocks.{i}.ln1.hook_normalized"] for i in range(n)]
    return model.unembed(torch.stack([*read, model.ln_final(cache["resid_post", n - 1])]))


@wrong("emergence_layer", "over_all_prompts", "one depth for everybody")
def _(ranks, at_most):
    good = (ranks <= at_most).flatten(1).all(dim=1).long()
    return len(ranks) - good.flip(0).cumprod(0).sum()


@wrong("kl_to_final", "symmetric", "the mean of both KLs")
def _(logits):
    q = logits.log_softmax(-1)
    return ((q[-1].exp() - q.exp()) * (q[-1] - q)).sum(-1) / 2


@wrong("sub_updates", "scaled", "divided by the final LayerNorm's scale")
def _(model, tokens, layer):
    _, cache = model.run_with_cache(tokens)
    return (cache["post", layer] / cache["ln_final.hook_scale"])[..., None] * model.W_out[layer]


@wrong("value_vector_tokens", "with_b_U", "the unembedding's bias is added")
def _(model, layer, k):
    v = model.W_out[layer]
    return ((v - v.mean(-1, keepdim=True)) * model.ln_final.weight @ model.W_U + model.b_U).topk(k).indices


@wrong("erase_direction", "of_the_centred_stream", "the projection is taken after centring")
def _(model, tokens, depth, positions, directions):
    rows, unit = torch.arange(len(tokens)), F.normalize(directions, dim=-1)

    def hook(x, hook):
        x = x.clone()
        h = x[rows, positions]
        x[rows, positions] = h - ((h - h.mean(-1, keepdim=True)) * unit).sum(-1, keepdim=True) * unit
        return x

    return model.run_with_hooks(tokens, fwd_hooks=[(stream_hook(model, depth), hook)])


@wrong("TunedLens", "broadcast_bias", "parameters of another shape")
class _(nn.Module):
    def __init__(self, n_layers, d_model):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_layers, 1, d_model, d_model))
        self.bias = nn.Parameter(torch.zeros(n_layers, 1, 1, d_model))

    def forward(self, streams):
        return streams + streams @ self.weight + self.bias


@wrong("patchscope", "at_every_later_depth", "put in again and again")
def _(model, source, source_depth, source_positions, target, target_depth, target_positions):
    rows = torch.arange(len(source))
    vector = model.run_with_cache(source)[1][stream_hook(model, source_depth)][rows, source_positions]

    def put(x, hook):
        x = x.clone()
        x[rows, target_positions] = vector
        return x

    depths = range(target_depth, model.cfg.n_layers + 1)
    return model.run_with_hooks(target, fwd_hooks=[(stream_hook(model, d), put) for d in depths])


@wrong("blind_direction", "the_mean_itself", "the least visible of all directions, which is (1, ..., 1)")
def _(weight, W_U):
    effect = (weight[:, None] * (W_U - W_U.mean(1, keepdim=True))).T
    effect = effect - effect.mean(dim=-1, keepdim=True)
    return torch.linalg.svd(effect, full_matrices=False).Vh[-1]


# -------------------------------------------------------------------------------------- RIGHT, in unusual styles


@right("answer_rank", "subtract", "difference above zero")
def _(logits, answers):
    wanted = torch.take_along_dim(logits, answers.expand(logits.shape[:-1])[..., None], dim=-1)
    return torch.gt(logits - wanted, 0).sum(-1)


@right("answer_rank", "one_hot", "picks the logit with a one-hot mask")
def _(logits, answers):
    mask = F.one_hot(answers, logits.shape[-1]).bool()
    wanted = logits.masked_fill(~mask, float("-inf")).amax(-1, keepdim=True)
    return (logits > wanted).long().sum(-1)


@right("logit_lens", "loop", "depth by depth, prompt by prompt")
def _(model, tokens):
    rows = []
    for row in tokens:
        x = hidden(model, row[None])
        rows.append(torch.stack([model.unembed(model.ln_final(x[d]))[0] for d in range(len(x))]))
    return torch.stack(rows, dim=1)


@right("logit_lens", "double", "the norm in float64")
def _(model, tokens):
    x = hidden(model, tokens).double()
    x = x - x.mean(-1, keepdim=True)
    x = x / (x.var(-1, correction=0, keepdim=True) + model.cfg.eps).sqrt()
    return (x * model.ln_final.weight + model.ln_final.bias).float() @ model.W_U + model.b_U


@right("logit_lens", "functional", "F.layer_norm with the model's parameters")
def _(model, tokens):
    x = hidden(model, tokens)
    return model.unembed(F.layer_norm(x, x.shape[-1:], model.ln_final.weight, model.ln_final.bias, model.cfg.eps))


@right("emergence_layer", "where", "nonzero from the back")
def _(ranks, at_most):
    bad = (ranks > at_most).flip(0).long()
    return torch.where(bad.any(0), len(ranks) - bad.argmax(0), 0)


@right("emergence_layer", "cummax", "the running maximum from the end")
def _(ranks, at_most):
    worst = ranks.flip(0).cummax(0).values
    return (worst > at_most).sum(0)


@right("kl_to_final", "cross_entropy_less_entropy", "cross-entropy less entropy")
def _(logits):
    lp = logits.log_softmax(-1)
    p = lp[-1].exp()
    return -(p * lp).sum(-1) + (p * lp[-1]).sum(-1)


@right("kl_to_final", "loop", "F.kl_div depth by depth")
def _(logits):
    q = logits[-1].log_softmax(-1)
    return torch.stack([F.kl_div(x.log_softmax(-1), q, log_target=True, reduction="none").sum(-1) for x in logits])


@right("sub_updates", "linear", "by the weights of the module, activations recomputed from hook_pre")
def _(model, tokens, layer):
    _, cache = model.run_with_cache(tokens)
    return torch.einsum("...n,nd->...nd", cache[f"blocks.{layer}.mlp.hook_post"], model.blocks[layer].mlp.W_out)


@right("value_vector_tokens", "sort", "sorts all of the vocabulary")
def _(model, layer, k):
    v = model.W_out[layer]
    logits = (v - v.mean(-1, keepdim=True)) @ torch.diag(model.ln_final.weight) @ model.W_U
    return logits.sort(dim=-1, descending=True).indices[:, :k]


@right("erase_direction", "scatter", "a mask instead of indexing")
def _(model, tokens, depth, positions, directions):
    mask = F.one_hot(positions, tokens.shape[1]).bool()[..., None]
    u = F.normalize(directions, dim=-1)[:, None]

    def hook(stream, hook):
        return torch.where(mask, stream - (stream * u).sum(-1, keepdim=True) * u, stream)

    with model.hooks(fwd_hooks=[(stream_hook(model, depth), hook)]):
        return model(tokens)


@right("TunedLens", "bmm", "flattened to a batched matrix product")
class _(nn.Module):
    def __init__(self, n_layers, d_model):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(n_layers, d_model))
        self.weight = nn.Parameter(torch.zeros((n_layers, d_model, d_model)))

    def forward(self, streams):
        flat = streams.flatten(1, 2)
        return torch.baddbmm(flat + self.bias[:, None], flat, self.weight).view_as(streams)


@right("tuned_lens_loss", "weights", "weights that sum to one")
def _(lens_logits, final_logits, keep):
    w = keep.float() / keep.float().sum()
    with torch.no_grad():
        p = final_logits.log_softmax(-1)
    return torch.einsum("lbp,bp->l", (p.exp() * (p - lens_logits.log_softmax(-1))).sum(-1), w)


@right("patchscope", "no_clone", "writes into the hook's own tensor and returns it")
def _(model, source, source_depth, source_positions, target, target_depth, target_positions):
    saved = []
    rows = torch.arange(len(source))
    model.run_with_hooks(
        source,
        fwd_hooks=[(stream_hook(model, source_depth), lambda x, hook: saved.append(x[rows, source_positions].clone()))],
    )

    def put(stream, hook):
        mask = F.one_hot(target_positions, stream.shape[1]).bool()[..., None]
        return torch.where(mask, saved[0][:, None], stream)

    return model.run_with_hooks(target, fwd_hooks=[(stream_hook(model, target_depth), put)])


@right("blind_direction", "projector", "eigenvector of the projected quadratic form, the mean penalised")
def _(weight, W_U):
    d = len(weight)
    ones = torch.ones(d, d, dtype=W_U.dtype) / d
    C = torch.eye(d, dtype=W_U.dtype) - ones
    M = C @ torch.diag(weight) @ (W_U - W_U.mean(1, keepdim=True))
    return torch.linalg.eigh(M @ M.T + 1e6 * ones).eigenvectors[:, 0]
