"""Answers to the exercises of 00_residual_stream, written from the prompts alone, as if no case had been seen.

WRONG must be rejected, RIGHT must be accepted; the first ten of WRONG are the ones that its author took for the most
typical. What happened is told in docs/blind.md.
"""

import torch
from einops import einsum

P = "residual_stream."
WRONG, RIGHT = [], []


# ------------------------------------------------------------------------------------------------------------------
# WRONG, the ten most representative
# ------------------------------------------------------------------------------------------------------------------
def table_logits(model, text, k=5):
    values, indices = model(model.to_tokens(text))[0, -1].topk(k)
    return [(model.tokenizer.decode([i]), v) for i, v in zip(indices.tolist(), values.tolist())]


def activation_left_hook(model, tokens, name):
    out = []
    model.add_hook(name, lambda act, hook: out.append(act))
    model(tokens)
    return out[-1]


def components_no_positions(model, cache):
    parts = {"embed": cache["hook_embed"]}
    for i in range(model.cfg.n_layers):
        parts[f"{i}_attn_out"] = cache[f"blocks.{i}.hook_attn_out"]
        parts[f"{i}_mlp_out"] = cache[f"blocks.{i}.hook_mlp_out"]
    return parts


def heads_no_bias(model, cache, layer):
    return {f"{layer}.{h}": cache["z", layer][:, :, h] @ model.W_O[layer, h] for h in range(model.cfg.n_heads)}


def dla_no_weight(model, cache, parts, answers):
    toward = (model.W_U[:, answers[:, 0]] - model.W_U[:, answers[:, 1]]).T
    out = {}
    for name, x in parts.items():
        x = x[:, -1]
        out[name] = ((x - x.mean(-1, keepdim=True)) / cache["ln_final.hook_scale"][:, -1] * toward).sum(-1)
    out["bias"] = toward @ model.ln_final.bias + model.b_U[answers[:, 0]] - model.b_U[answers[:, 1]]
    return out


def dla_apply_ln_to_each(model, cache, parts, answers):
    toward = (model.W_U[:, answers[:, 0]] - model.W_U[:, answers[:, 1]]).T
    out = {name: ((model.ln_final(x) - model.ln_final.bias)[:, -1] * toward).sum(-1) for name, x in parts.items()}
    out["bias"] = toward @ model.ln_final.bias + model.b_U[answers[:, 0]] - model.b_U[answers[:, 1]]
    return out


def direct_is_total(model, tokens, layer, head, answers, replacement=0.0):
    def hook(z, hook):
        new = z.clone()
        new[:, :, head] = replacement
        return new

    after = model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", hook)])
    gap = (model(tokens) - after)[:, -1]
    rows = torch.arange(len(tokens))
    return gap[rows, answers[:, 0]] - gap[rows, answers[:, 1]]


def ablation_wrong_sign(model, tokens, layer, head, answers, replacement=0.0):
    return -direct_is_total(model, tokens, layer, head, answers, replacement)


def qk_transposed(model, layer, head):
    return model.W_K[layer, head] @ model.W_Q[layer, head].T


def virtual_not_normalised(write, read):
    return (write @ read).pow(2).sum(dim=(-2, -1)).sqrt()


WRONG += [
    (P + "next_token_table", "logits", table_logits, "Logits instead of probabilities."),
    (P + "get_activation", "hook_left", activation_left_hook, "add_hook without reset_hooks."),
    (P + "residual_components", "no_positions", components_no_positions, "Forgets the position embedding."),
    (P + "head_outputs", "no_bias", heads_no_bias, "Forgets b_O."),
    (P + "direct_logit_attribution", "no_weight", dla_no_weight, "Forgets ln_final.weight."),
    (P + "direct_logit_attribution", "ln_on_each", dla_apply_ln_to_each, "LayerNorm of each part by itself."),
    (P + "direct_effect", "total_effect", direct_is_total, "Ablates for everybody."),
    (P + "ablation_effect", "wrong_sign", ablation_wrong_sign, "Ablated minus intact."),
    (P + "qk_circuit", "transposed", qk_transposed, "Keys on the left."),
    (P + "virtual_weights", "not_normalised", virtual_not_normalised, "The numerator alone."),
]


# ------------------------------------------------------------------------------------------------------------------
# WRONG, the others
# ------------------------------------------------------------------------------------------------------------------
def table_rounded(model, text, k=5):
    p = model(model.to_tokens(text))[0, -1].softmax(-1)
    return [(model.tokenizer.decode([int(i)]), round(float(p[i]), 2)) for i in p.argsort(descending=True)[:k]]


def table_always_five(model, text, k=5):
    p = model(model.to_tokens(text))[0, -1].softmax(-1)
    return [(model.tokenizer.decode([int(i)]), float(p[i])) for i in p.argsort(descending=True)[:5]]


def table_drops_special(model, text, k=5):
    p = model(model.to_tokens(text))[0, -1].softmax(-1)
    order = [int(i) for i in p.argsort(descending=True) if int(i) > 1]
    return [(model.tokenizer.decode([i]), float(p[i])) for i in order[:k]]


def table_tensor_probabilities(model, text, k=5):
    best = model(model.to_tokens(text))[0, -1].softmax(-1).topk(k)
    return [(model.tokenizer.decode([i]), p) for i, p in zip(best.indices, best.values)]


def table_temperature(model, text, k=5):
    best = (model(model.to_tokens(text))[0, -1] / model.cfg.d_model**0.5).softmax(-1).topk(k)
    return [(model.tokenizer.decode([i]), p) for i, p in zip(best.indices.tolist(), best.values.tolist())]


def activation_squeezed(model, tokens, name):
    return model.run_with_cache(tokens)[1][name].squeeze(0)


def activation_changes_run(model, tokens, name):
    out = []

    def hook(act, hook):
        out.append(act)
        return torch.zeros_like(act)

    model.run_with_hooks(tokens, fwd_hooks=[(name, hook)])
    out[0] *= 2
    return out[0]


def components_embed_is_W_E_scaled(model, cache):
    parts = dict(zip(*reversed(cache.decompose_resid(return_labels=True))))
    parts["embed"] = parts["embed"] * model.cfg.d_model**0.5
    return parts


def components_mid_minus_pre(model, cache):
    """Takes the MLP for what comes after resid_mid, but attention from the previous layer's post."""
    parts = {"embed": cache["hook_embed"], "pos_embed": cache["hook_pos_embed"]}
    for i in range(model.cfg.n_layers):
        parts[f"{i}_attn_out"] = cache["resid_post", i] - cache["resid_pre", i]
        parts[f"{i}_mlp_out"] = cache["mlp_out", i]
    return parts


def components_with_final(model, cache):
    parts = dict(zip(*reversed(cache.decompose_resid(return_labels=True))))
    parts["bias"] = torch.zeros_like(parts["embed"])
    return parts


def components_last_layer_missing(model, cache):
    parts = dict(zip(*reversed(cache.decompose_resid(return_labels=True))))
    last = model.cfg.n_layers - 1
    parts.pop(f"{last}_mlp_out")
    parts.pop(f"{last}_attn_out")
    return parts


def heads_wrong_reshape(model, cache, layer):
    """Views z as (batch, head, position, d_head) without moving axes."""
    z = cache["z", layer]
    b, p, h, d = z.shape
    z = z.reshape(b, h, p, d)
    out = {f"{layer}.{i}": z[:, i] @ model.W_O[layer, i] for i in range(h)}
    out[f"{layer}.bias"] = model.b_O[layer].expand(b, p, -1)
    return out


def heads_bias_without_axes(model, cache, layer):
    out = heads_no_bias(model, cache, layer)
    out[f"{layer}.bias"] = model.b_O[layer]
    return out


def heads_equal_shares(model, cache, layer):
    n = model.cfg.n_heads
    out = {f"{layer}.{h}": (cache["attn_out", layer] - model.b_O[layer]) / n for h in range(n)}
    out[f"{layer}.bias"] = model.b_O[layer].expand_as(cache["attn_out", layer])
    return out


def heads_relative_names(model, cache, layer):
    out = {f"{h}": part for h, part in enumerate(heads_no_bias(model, cache, layer).values())}
    out["bias"] = model.b_O[layer].expand_as(cache["attn_out", layer])
    return out


def dla_right(model, cache, parts, answers):
    toward = (model.W_U[:, answers[:, 0]] - model.W_U[:, answers[:, 1]]).T
    out = {}
    for name, x in parts.items():
        x = x[:, -1]
        x = (x - x.mean(-1, keepdim=True)) / cache["ln_final.hook_scale"][:, -1] * model.ln_final.weight
        out[name] = (x * toward).sum(-1)
    out["bias"] = toward @ model.ln_final.bias + model.b_U[answers[:, 0]] - model.b_U[answers[:, 1]]
    return out


def dla_bias_by_difference(model, cache, parts, answers):
    """Sets the bias so that the sum fits: wrong when the parts are not complete."""
    out = dla_right(model, cache, parts, answers)
    final = cache["resid_post", model.cfg.n_layers - 1]
    logits = model.unembed(model.ln_final(final))[:, -1].gather(1, answers)
    out["bias"] = logits[:, 0] - logits[:, 1] - sum(v for k, v in out.items() if k != "bias")
    return out


def dla_mean_over_batch(model, cache, parts, answers):
    return {k: v.mean() for k, v in dla_right(model, cache, parts, answers).items()}


def dla_first_prompts_answers(model, cache, parts, answers):
    return dla_right(model, cache, parts, answers[:1].expand_as(answers))


def dla_softmax(model, cache, parts, answers):
    out = dla_right(model, cache, parts, answers)
    stack = torch.stack(list(out.values())).softmax(0)
    return dict(zip(out, stack))


def dla_no_b_U(model, cache, parts, answers):
    out = dla_right(model, cache, parts, answers)
    toward = (model.W_U[:, answers[:, 0]] - model.W_U[:, answers[:, 1]]).T
    out["bias"] = toward @ model.ln_final.bias
    return out


def dla_std(model, cache, parts, answers):
    """Computes the scale by itself, with the unbiased standard deviation and no epsilon."""
    final = cache["resid_post", model.cfg.n_layers - 1][:, -1]
    out = dla_right(model, cache, parts, answers)
    ratio = cache["ln_final.hook_scale"][:, -1, 0] / final.std(dim=-1)
    return {k: v if k == "bias" else v * ratio for k, v in out.items()}


def direct_frozen(model, tokens, layer, head, answers, replacement=0.0):
    logits, cache = model.run_with_cache(tokens)
    part = {"h": (cache["z", layer][:, :, head] - replacement) @ model.W_O[layer, head]}
    return dla_right(model, cache, part, answers)["h"]


def direct_last_position_of_z_everywhere(model, tokens, layer, head, answers, replacement=0.0):
    logits, cache = model.run_with_cache(tokens)
    out = (cache["z", layer][:, :1, head] - replacement) @ model.W_O[layer, head]
    after = model.unembed(model.ln_final(cache["resid_post", model.cfg.n_layers - 1] - out))
    right, wrong = (logits - after)[:, -1].gather(1, answers).T
    return right - wrong


def direct_through_next_layer(model, tokens, layer, head, answers, replacement=0.0):
    """Removes the output after the head's own block, for all later blocks: its own MLP still reads it."""
    _, cache = model.run_with_cache(tokens)
    out = (cache["z", layer][:, :, head] - replacement) @ model.W_O[layer, head]
    hook = [(f"blocks.{layer}.hook_resid_post", lambda x, hook: x - out)]
    right, wrong = (model(tokens) - model.run_with_hooks(tokens, fwd_hooks=hook))[:, -1].gather(1, answers).T
    return right - wrong


def direct_total_minus_indirect_sign(model, tokens, layer, head, answers, replacement=0.0):
    logits, cache = model.run_with_cache(tokens)
    out = (cache["z", layer][:, :, head] - replacement) @ model.W_O[layer, head]
    after = model.unembed(model.ln_final(cache["resid_post", model.cfg.n_layers - 1] + out))
    right, wrong = (logits - after)[:, -1].gather(1, answers).T
    return right - wrong


def ablation_by_pattern(model, tokens, layer, head, answers, replacement=0.0):
    def hook(pattern, hook):
        pattern = pattern.clone()
        pattern[:, head] = 0
        return pattern

    after = model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_pattern", hook)])
    right, wrong = (model(tokens) - after)[:, -1].gather(1, answers).T
    return right - wrong


def ablation_in_place_scalar(model, tokens, layer, head, answers, replacement=0.0):
    return direct_is_total(model, tokens, layer, head, answers, replacement).mean()


def ablation_relative(model, tokens, layer, head, answers, replacement=0.0):
    gap = direct_is_total(model, tokens, layer, head, answers, replacement)
    right, wrong = model(tokens)[:, -1].gather(1, answers).T
    return gap / (right - wrong)


def sources_only_pattern(model, cache, layer, head):
    out = cache["z", layer][:, :, head] @ model.W_O[layer, head]
    return cache["pattern", layer][:, head][..., None] * out[:, :, None]


def sources_last_query(model, cache, layer, head):
    written = cache["v", layer][:, :, head] @ model.W_O[layer, head]
    return einsum(cache["pattern", layer][:, head, -1], written, "b k, b k m -> b k m")


def scores_right(model, cache, layer, head, parts):
    ln = model.blocks[layer].ln1
    x = torch.stack(list(parts.values()), 2)
    x = (x - x.mean(-1, keepdim=True)) / cache["scale", layer, "ln1"].unsqueeze(2) * ln.weight
    q, k = x @ model.W_Q[layer, head], x @ model.W_K[layer, head]
    cq = (ln.bias @ model.W_Q[layer, head] + model.b_Q[layer, head]).expand(*q.shape[:2], 1, -1)
    ck = (ln.bias @ model.W_K[layer, head] + model.b_K[layer, head]).expand(*q.shape[:2], 1, -1)
    q, k = torch.cat([q, cq], 2), torch.cat([k, ck], 2)
    return einsum(q, k, "b q i d, b k j d -> b q k i j") / model.cfg.d_head**0.5


def scores_constant_first(model, cache, layer, head, parts):
    s = scores_right(model, cache, layer, head, parts)
    return s.roll(1, dims=(-1,)).roll(1, dims=(-2,))


def scores_summed(model, cache, layer, head, parts):
    return scores_right(model, cache, layer, head, parts).sum(dim=(-1, -2))


def scores_d_model(model, cache, layer, head, parts):
    return scores_right(model, cache, layer, head, parts) * (model.cfg.d_head / model.cfg.d_model) ** 0.5


def scores_masked(model, cache, layer, head, parts):
    s = scores_right(model, cache, layer, head, parts)
    mask = torch.ones(s.shape[1], s.shape[1]).triu(1).bool()
    return s.masked_fill(mask[None, :, :, None, None], 0)


def ov_with_bias(model, layer, head):
    return model.W_V[layer, head] @ model.W_O[layer, head] + model.b_O[layer]


def ov_vocabulary(model, layer, head):
    return model.W_E @ model.W_V[layer, head] @ model.W_O[layer, head] @ model.W_U


def qk_symmetric(model, layer, head):
    qk = model.W_Q[layer, head] @ model.W_K[layer, head].T
    return (qk + qk.T) / 2


def virtual_nuclear(write, read):
    nuc = torch.linalg.svdvals(write @ read).sum(-1)
    return nuc / (write.norm(dim=(-2, -1)) * read.norm(dim=(-2, -1)))


def virtual_whole_batch(write, read):
    return (write @ read).norm() / (write.norm() * read.norm())


WRONG += [
    (P + "next_token_table", "rounded", table_rounded, "Rounds the probabilities."),
    (P + "next_token_table", "always_five", table_always_five, "Ignores k."),
    (P + "next_token_table", "no_special_tokens", table_drops_special, "Leaves <bos> and <unk> out."),
    (P + "next_token_table", "tensors", table_tensor_probabilities, "Tensors for probabilities."),
    (P + "next_token_table", "temperature", table_temperature, "A temperature."),
    (P + "get_activation", "squeezed", activation_squeezed, "Drops the batch axis of a single prompt."),
    (P + "get_activation", "doubled", activation_changes_run, "Changes what was read."),
    (P + "residual_components", "embed_scaled", components_embed_is_W_E_scaled, "Scales the embedding."),
    (P + "residual_components", "attention_with_mlp", components_mid_minus_pre, "Attention holds the MLP too."),
    (P + "residual_components", "extra_key", components_with_final, "One key too many."),
    (P + "residual_components", "last_layer", components_last_layer_missing, "range(n_layers - 1)."),
    (P + "head_outputs", "reshape", heads_wrong_reshape, "reshape instead of transpose."),
    (P + "head_outputs", "bias_shape", heads_bias_without_axes, "The bias without batch and position."),
    (P + "head_outputs", "equal_shares", heads_equal_shares, "Adds up, but every head gets the same."),
    (P + "head_outputs", "names", heads_relative_names, "Keys without the layer."),
    (P + "direct_logit_attribution", "bias_by_difference", dla_bias_by_difference, "Bias makes the sum fit."),
    (P + "direct_logit_attribution", "mean", dla_mean_over_batch, "Averages over prompts."),
    (P + "direct_logit_attribution", "first_answers", dla_first_prompts_answers, "The first prompt's answers for all."),
    (P + "direct_logit_attribution", "softmax", dla_softmax, "Shares instead of contributions."),
    (P + "direct_logit_attribution", "no_b_U", dla_no_b_U, "Forgets b_U."),
    (P + "direct_logit_attribution", "std", dla_std, "Unbiased standard deviation as the scale."),
    (P + "direct_effect", "frozen_scale", direct_frozen, "Keeps the scale."),
    (P + "direct_effect", "first_position", direct_last_position_of_z_everywhere, "The first position's z."),
    (P + "direct_effect", "after_its_block", direct_through_next_layer, "Later blocks miss it too."),
    (P + "direct_effect", "added", direct_total_minus_indirect_sign, "Adds instead of removing."),
    (P + "ablation_effect", "by_pattern", ablation_by_pattern, "Zeroes the pattern; ignores the replacement."),
    (P + "ablation_effect", "scalar", ablation_in_place_scalar, "One number for all prompts."),
    (P + "ablation_effect", "relative", ablation_relative, "Divides by the intact difference."),
    (P + "outputs_by_source", "shares_of_output", sources_only_pattern, "Shares the output out by attention."),
    (P + "outputs_by_source", "last_query", sources_last_query, "Only the last position."),
    (P + "attention_score_parts", "constant_first", scores_constant_first, "The constant comes first."),
    (P + "attention_score_parts", "summed", scores_summed, "Sums the parts."),
    (P + "attention_score_parts", "d_model", scores_d_model, "Divides by sqrt(d_model)."),
    (P + "attention_score_parts", "masked", scores_masked, "Masks the future."),
    (P + "ov_circuit", "with_bias", ov_with_bias, "Adds b_O to every row."),
    (P + "ov_circuit", "vocabulary", ov_vocabulary, "From word to word."),
    (P + "qk_circuit", "symmetric", qk_symmetric, "Symmetrised."),
    (P + "virtual_weights", "nuclear", virtual_nuclear, "Nuclear norm on top."),
    (P + "virtual_weights", "whole_batch", virtual_whole_batch, "One number for all pairs."),
]


# ------------------------------------------------------------------------------------------------------------------
# RIGHT, in unusual styles
# ------------------------------------------------------------------------------------------------------------------
def table_numpy(model, text, k=5):
    logits = model(model.to_tokens(text)).detach()[0, -1].double().numpy()
    import numpy as np

    p = np.exp(logits - logits.max())
    p /= p.sum()
    return [(model.tokenizer.decode([int(i)]), float(p[i])) for i in np.argsort(-p)[:k]]


def activation_cached_only(model, tokens, name):
    _, cache = model.run_with_cache(tokens, names_filter=name)
    return cache[name].detach().clone()


def components_telescoping(model, cache):
    out = {"embed": cache["embed"], "pos_embed": cache["resid_pre", 0] - cache["embed"]}
    for i in range(model.cfg.n_layers):
        out[f"{i}_attn_out"] = cache["resid_post", i] - cache["mlp_out", i] - cache["resid_pre", i]
        out[f"{i}_mlp_out"] = cache["resid_post", i] - cache["resid_pre", i] - out[f"{i}_attn_out"]
    return out


def heads_block_diagonal(model, cache, layer):
    z = cache["z", layer]
    out = {}
    for h in range(model.cfg.n_heads):
        only = torch.zeros_like(z)
        only[:, :, h] = z[:, :, h]
        out[f"{layer}.{h}"] = only.flatten(2) @ model.W_O[layer].flatten(0, 1)
    out[f"{layer}.bias"] = model.b_O[layer].repeat(z.shape[0], z.shape[1], 1)
    return out


def dla_by_folded_direction(model, cache, parts, answers):
    sign = torch.tensor([1.0, -1.0])
    U = (model.W_U.T[answers] * sign[None, :, None]).sum(1)
    g = U * model.ln_final.weight
    g = g - g.mean(-1, keepdim=True)
    s = cache["ln_final.hook_scale"][:, -1, 0]
    out = {k: (v[:, -1] * g).sum(-1) / s for k, v in parts.items()}
    return {**out, "bias": (U * model.ln_final.bias).sum(-1) + (model.b_U[answers] * sign).sum(-1)}


def direct_by_rerun(model, tokens, layer, head, answers, replacement=0.0):
    """Takes it out with a hook on the input of ln_final."""
    logits, cache = model.run_with_cache(tokens)
    gone = (cache["z", layer][:, :, head] - replacement) @ model.W_O[layer, head]
    after = model.run_with_hooks(tokens, fwd_hooks=[("ln_final.hook_in", lambda x, hook: x - gone)])
    rows = torch.arange(len(tokens))
    ld = [lg[rows, -1, answers[:, 0]] - lg[rows, -1, answers[:, 1]] for lg in (logits, after)]
    return ld[0] - ld[1]


def ablation_with_where(model, tokens, layer, head, answers, replacement=0.0):
    mask = torch.zeros(model.cfg.n_heads, 1).bool()
    mask[head] = True

    def hook(z, hook):
        new = replacement.unsqueeze(2) if isinstance(replacement, torch.Tensor) else torch.full_like(z, replacement)
        return torch.where(mask, new, z)

    with model.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_z", hook)]):
        after = model(tokens)[:, -1]
    before = model(tokens)[:, -1]
    return torch.stack([before[i, r] - before[i, w] - after[i, r] + after[i, w] for i, (r, w) in enumerate(answers)])


def sources_broadcast(model, cache, layer, head):
    mixed = cache["pattern", layer][:, head, :, :, None] * cache["v", layer][:, None, :, head]
    return mixed @ model.W_O[layer, head]


def ov_by_svd(model, layer, head):
    U, s, Vh = torch.linalg.svd(model.W_V[layer, head] @ model.W_O[layer, head])
    return U @ torch.diag(s) @ Vh


def qk_outer(model, layer, head):
    return sum(torch.outer(q, k) for q, k in zip(model.W_Q[layer, head].T, model.W_K[layer, head].T))


def virtual_by_trace(write, read):
    """||WR||^2 = tr(W^T W R R^T)."""
    top = einsum(write.mT @ write, read @ read.mT, "... a b, ... b a -> ...")
    return (top / (write.pow(2).sum((-1, -2)) * read.pow(2).sum((-1, -2)))).clamp(min=0).sqrt()


RIGHT += [
    (P + "next_token_table", "numpy", table_numpy),
    (P + "get_activation", "names_filter", activation_cached_only),
    (P + "residual_components", "telescoping", components_telescoping),
    (P + "head_outputs", "zero_out_others", heads_block_diagonal),
    (P + "direct_logit_attribution", "folded_direction", dla_by_folded_direction),
    (P + "direct_effect", "hook_on_ln_final", direct_by_rerun),
    (P + "ablation_effect", "where", ablation_with_where),
    (P + "outputs_by_source", "broadcast", sources_broadcast),
    (P + "attention_score_parts", "einsum", scores_right),
    (P + "ov_circuit", "svd", ov_by_svd),
    (P + "qk_circuit", "outer_products", qk_outer),
    (P + "virtual_weights", "trace", virtual_by_trace),
]
