"""Answers to the exercises of 02_induction, written from the prompts; by the chapter's author, so only half blind.

WRONG must be rejected, RIGHT must be accepted. What happened is told in docs/blind.md.
"""

import einops
import torch
import torch.nn.functional as F

from mechlib.handmade import SHARP, Blueprint, attend

P = "induction."


# ---- per_token_loss


def ptl_mean_over_batch(logits, tokens):
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none").mean(0)


def ptl_keeps_axis(logits, tokens):
    return -logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])


def ptl_drops_first_logits(logits, tokens):
    return F.cross_entropy(logits[:, 1:].transpose(1, 2), tokens[:, 1:], reduction="none")


def ptl_clamped(logits, tokens):
    p = logits[:, :-1].softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    return -(p + 1e-9).log()


def ptl_flat(logits, tokens):
    return F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1), reduction="none")


def ptl_pads(logits, tokens):
    loss = -logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    return F.pad(loss, (1, 0))


def ptl_numpy(logits, tokens):
    return (-logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]).numpy()


def ptl_by_one_hot(logits, tokens):
    hot = F.one_hot(tokens[:, 1:], logits.shape[-1]).to(logits.dtype)
    return -(logits[:, :-1].log_softmax(-1) * hot).sum(-1)


# ---- previous_token_score


def pts_over_queries_only_last(pattern):
    return pattern[:, :, -1, -2].mean(0)


def pts_trace(pattern):
    shifted = pattern.roll(1, dims=-1)  # the last key wraps around to the front
    return shifted.diagonal(dim1=-2, dim2=-1).mean(dim=(0, 2))


def pts_transposed(pattern):
    return pattern.mT.diagonal(offset=-1, dim1=-2, dim2=-1).mean(dim=(0, 2))


def pts_median(pattern):
    return pattern.diagonal(offset=-1, dim1=-2, dim2=-1).flatten(2).median(dim=-1).values.mean(0)


def pts_float(pattern):
    return [pattern[:, head].diagonal(offset=-1, dim1=-2, dim2=-1).mean().item() for head in range(pattern.shape[1])]


def pts_slices(pattern):
    return pattern[:, :, 1:, :-1].diagonal(dim1=-2, dim2=-1).mean((0, 2))


def pts_einops(pattern):
    one = einops.rearrange(pattern[..., 1:, :-1].diagonal(dim1=-2, dim2=-1), "b h p -> h (b p)")
    return one.mean(1)


# ---- duplicate_token_score, induction_score


def dts_python_set(pattern, tokens):
    total = torch.zeros(pattern.shape[1])
    count = 0
    for b in range(tokens.shape[0]):
        seen = {}
        for q in range(tokens.shape[1]):
            t = int(tokens[b, q])
            if t in seen:
                total += pattern[b, :, q, seen[t]]
                count += 1
            seen.setdefault(t, q)  # only the first occurrence
    return total / max(count, 1)


def dts_first_prompt(pattern, tokens):
    same = (tokens[0][:, None] == tokens[0][None]).tril(-1)
    return (pattern * same).sum((0, 2, 3)) / (same.any(-1).sum().clamp(min=1) * len(pattern))


def dts_max(pattern, tokens):
    same = (tokens[:, :, None] == tokens[:, None]).tril(-1)
    return (pattern * same[:, None]).amax(-1).sum((0, 2)) / same.any(-1).sum().clamp(min=1)


def dts_one_for_none(pattern, tokens):
    same = (tokens[:, :, None] == tokens[:, None]).tril(-1)
    n = same.any(-1).sum()
    return (pattern * same[:, None]).sum((0, 2, 3)) / n if n else torch.ones(pattern.shape[1])


def ind_half_mean(pattern, tokens):
    n = tokens.shape[1] // 2
    return pattern.diagonal(offset=1 - n, dim1=-2, dim2=-1).mean((0, 2))


def ind_previous_matches(pattern, tokens):
    """The key's previous token is the query's token, but position 0 counts the last token as its previous one."""
    before = tokens.roll(1, dims=1)
    wanted = (tokens[:, :, None] == before[:, None, :]).tril()
    return (pattern * wanted[:, None]).sum((0, 2, 3)) / wanted.any(-1).sum().clamp(min=1)


def ind_strict(pattern, tokens):
    before = tokens[:, :-1]
    wanted = torch.zeros(len(tokens), tokens.shape[1], tokens.shape[1], dtype=torch.bool)
    wanted[:, :, 1:] = tokens[:, :, None] == before[:, None, :]
    wanted = wanted.tril(-1)  # not the position itself
    return (pattern * wanted[:, None]).sum((0, 2, 3)) / wanted.any(-1).sum().clamp(min=1)


def ind_previous_right(pattern, tokens):
    wanted = torch.zeros(len(tokens), tokens.shape[1], tokens.shape[1], dtype=torch.bool)
    wanted[:, :, 1:] = tokens[:, :, None] == tokens[:, None, :-1]
    wanted = wanted.tril()
    return (pattern * wanted[:, None]).sum((0, 2, 3)) / wanted.any(-1).sum().clamp(min=1)


# ---- ablate_head


def ah_permanent(model, tokens, layer, head, method, reference=None):
    def hook(z, hook):
        z = z.clone()
        z[:, :, head] = 0
        return z

    if method == "zero":
        model.add_hook(f"blocks.{layer}.attn.hook_z", hook)
        return model(tokens)
    return model(tokens)


def ah_zero_always(model, tokens, layer, head, method, reference=None):
    def hook(z, hook):
        z[:, :, head] = 0.0
        return z

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", hook)])


def ah_next_layer(model, tokens, layer, head, method, reference=None):
    name = f"blocks.{min(layer + 1, model.cfg.n_layers - 1)}.attn.hook_z"
    new = torch.zeros(()) if method == "zero" else model.run_with_cache(reference)[1][name][:, :, head]
    new = new.mean(0) if method == "mean" else new

    def hook(z, hook):
        z = z.clone()
        z[:, :, head] = new
        return z

    return model.run_with_hooks(tokens, fwd_hooks=[(name, hook)])


def ah_first_reference(model, tokens, layer, head, method, reference=None):
    name = f"blocks.{layer}.attn.hook_z"

    def hook(z, hook):
        z = z.clone()
        if method == "zero":
            z[:, :, head] = 0
        else:
            other = model.run_with_cache(reference)[1][name][:, :, head]
            z[:, :, head] = other.mean(0) if method == "mean" else other[:1]
        return z

    return model.run_with_hooks(tokens, fwd_hooks=[(name, hook)])


def ah_last_position(model, tokens, layer, head, method, reference=None):
    name = f"blocks.{layer}.attn.hook_z"
    new = 0.0 if method == "zero" else model.run_with_cache(reference)[1][name][:, -1, head]
    new = new.mean(0) if method == "mean" else new

    def hook(z, hook):
        z = z.clone()
        z[:, -1, head] = new
        return z

    return model.run_with_hooks(tokens, fwd_hooks=[(name, hook)])


def ah_with_context(model, tokens, layer, head, method, reference=None):
    name = f"blocks.{layer}.attn.hook_z"
    if method != "zero":
        _, cache = model.run_with_cache(reference, names_filter=[name])
        z_reference = cache[name]

    def hook(z, hook):
        out = z.clone()
        if method == "zero":
            out[:, :, head, :] = torch.zeros_like(out[:, :, head, :])
        elif method == "mean":
            out[:, :, head, :] = einops.reduce(z_reference[:, :, head, :], "b p d -> p d", "mean")
        else:
            out[:, :, head, :] = z_reference[:, :, head, :]
        return out

    with model.hooks(fwd_hooks=[(name, hook)]):
        return model(tokens)


# ---- copying_score


def cs_transposed_unembed(W_E, W_V, W_O, W_U):
    circuit = W_E @ W_V @ W_O @ W_E.T
    e = torch.linalg.eigvals(circuit)
    return (circuit.argmax(-1) == torch.arange(len(circuit))).to(W_E.dtype).mean(), e.sum().real / e.abs().sum()


def cs_complex(W_E, W_V, W_O, W_U):
    circuit = W_E @ W_V @ W_O @ W_U
    e = torch.linalg.eigvals(circuit)
    return (circuit.argmax(-1) == torch.arange(len(circuit))).to(W_E.dtype).mean(), e.sum() / e.abs().sum()


def cs_symmetric(W_E, W_V, W_O, W_U):
    circuit = W_E @ W_V @ W_O @ W_U
    e = torch.linalg.eigvalsh(circuit)
    return (circuit.argmax(-1) == torch.arange(len(circuit))).to(W_E.dtype).mean(), e.sum() / e.abs().sum()


def cs_floats(W_E, W_V, W_O, W_U):
    circuit = W_E @ W_V @ W_O @ W_U
    e = torch.linalg.eigvals(circuit)
    top = (circuit.argmax(-1) == torch.arange(len(circuit))).float().mean().item()
    return top, (e.sum().real / e.abs().sum()).item()


def cs_rank(W_E, W_V, W_O, W_U):
    circuit = torch.einsum("vd,dh,he,eu->vu", W_E, W_V, W_O, W_U)
    own = circuit.diagonal()[:, None]
    top = (circuit <= own).all(-1).to(W_E.dtype).mean()
    e = torch.linalg.eig(circuit).eigenvalues
    return top, e.real.sum() / e.abs().sum()


# ---- positional_attention


def pa_large_negative(x, W_Q, b_Q, W_K, b_K):
    q, k = x @ W_Q + b_Q, x @ W_K + b_K
    scores = q @ k.T / W_Q.shape[-1] ** 0.5
    scores = scores - 10 * torch.ones_like(scores).triu(1)
    return scores.softmax(-1)


def pa_no_key_bias_for_queries(x, W_Q, b_Q, W_K, b_K):
    q, k = x @ W_Q, x @ W_K + b_K
    scores = q @ k.T / W_Q.shape[-1] ** 0.5
    return scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf).softmax(-1)


def pa_lower(x, W_Q, b_Q, W_K, b_K):
    q, k = x @ W_Q + b_Q, x @ W_K + b_K
    scores = q @ k.T / W_Q.shape[-1] ** 0.5
    return scores.masked_fill(torch.ones_like(scores).tril(-1).bool(), -torch.inf).softmax(-1)


def pa_exp(x, W_Q, b_Q, W_K, b_K):
    q, k = x @ W_Q + b_Q, x @ W_K  # a bias of the keys adds the same to all of a query's scores
    scores = (q @ k.T) * W_Q.shape[-1] ** -0.5
    scores = scores - scores.amax(-1, keepdim=True)
    weights = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf).exp()
    weights = (scores + torch.ones_like(scores).triu(1) * -1e4).softmax(-1) if (weights.sum(-1) == 0).any() else weights
    return weights / weights.sum(-1, keepdim=True)


# ---- composition_score


def co_cosine(writer, reader, side):
    r = reader.T if side == "K" else reader
    return (writer * r).sum() / (writer.norm() * r.norm())


def co_writer_transposed(writer, reader, side):
    w = writer.T if side == "K" else writer
    return (w @ reader).norm() / (writer.norm() * reader.norm())


def co_nuclear(writer, reader, side):
    r = reader.T if side == "K" else reader
    return torch.linalg.matrix_norm(writer @ r, ord="nuc") / (writer.norm() * reader.norm())


def co_python_float(writer, reader, side):
    r = reader.T if side == "K" else reader
    return float((writer @ r).norm() / (writer.norm() * r.norm()))


def co_trace(writer, reader, side):
    r = reader if side != "K" else reader.T
    product = writer @ r
    return (torch.trace(product @ product.T) / torch.trace(writer @ writer.T) / torch.trace(r @ r.T)).sqrt()


# ---- patch_keys


def pk_at_last_position(model, tokens, cache, source_cache, sender, receiver):
    (l0, h0), (l1, h1) = sender, receiver
    change = (source_cache["z", l0][:, :, h0] - cache["z", l0][:, :, h0]) @ model.W_O[l0, h0]
    new = model.blocks[l1].ln1(cache["resid_pre", l1] + change) @ model.W_K[l1, h1] + model.b_K[l1, h1]

    def hook(k, hook):
        k = k.clone()
        k[:, -1, h1] = new[:, -1]
        return k

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{l1}.attn.hook_k", hook)])


def pk_final_norm(model, tokens, cache, source_cache, sender, receiver):
    (l0, h0), (l1, h1) = sender, receiver
    change = (source_cache["z", l0][:, :, h0] - cache["z", l0][:, :, h0]) @ model.W_O[l0, h0]
    new = model.ln_final(cache["resid_pre", l1] + change) @ model.W_K[l1, h1] + model.b_K[l1, h1]

    def hook(k, hook):
        k = k.clone()
        k[:, :, h1] = new
        return k

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{l1}.attn.hook_k", hook)])


def pk_other_stream(model, tokens, cache, source_cache, sender, receiver):
    (l0, h0), (l1, h1) = sender, receiver
    change = (source_cache["z", l0][:, :, h0] - cache["z", l0][:, :, h0]) @ model.W_O[l0, h0]
    new = model.blocks[l1].ln1(source_cache["resid_pre", l1] + change) @ model.W_K[l1, h1] + model.b_K[l1, h1]

    def hook(k, hook):
        k = k.clone()
        k[:, :, h1] = new
        return k

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{l1}.attn.hook_k", hook)])


def pk_whole_layer_sends(model, tokens, cache, source_cache, sender, receiver):
    (l0, _), (l1, h1) = sender, receiver
    change = source_cache["attn_out", l0] - cache["attn_out", l0]
    new = model.blocks[l1].ln1(cache["resid_pre", l1] + change) @ model.W_K[l1, h1] + model.b_K[l1, h1]

    def hook(k, hook):
        k = k.clone()
        k[:, :, h1] = new
        return k

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{l1}.attn.hook_k", hook)])


def pk_queries_and_keys(model, tokens, cache, source_cache, sender, receiver):
    (l0, h0), (l1, h1) = sender, receiver
    change = (source_cache["z", l0][:, :, h0] - cache["z", l0][:, :, h0]) @ model.W_O[l0, h0]
    seen = model.blocks[l1].ln1(cache["resid_pre", l1] + change)

    def hook_k(k, hook):
        k = k.clone()
        k[:, :, h1] = seen @ model.W_K[l1, h1] + model.b_K[l1, h1]
        return k

    def hook_q(q, hook):
        q = q.clone()
        q[:, :, h1] = seen @ model.W_Q[l1, h1] + model.b_Q[l1, h1]
        return q

    name = f"blocks.{l1}.attn.hook_"
    return model.run_with_hooks(tokens, fwd_hooks=[(name + "k", hook_k), (name + "q", hook_q)])


def pk_in_the_hook(model, tokens, cache, source_cache, sender, receiver):
    (l0, h0), (l1, h1) = sender, receiver
    W_O = model.blocks[l0].attn.W_O[h0]
    was, now = (c[f"blocks.{l0}.attn.hook_z"][:, :, h0, :] @ W_O for c in (cache, source_cache))

    def hook(k, hook):
        stream = cache[f"blocks.{l1}.hook_resid_pre"] - was + now
        fresh = einops.einsum(model.blocks[l1].ln1(stream), model.W_K[l1], "b p m, h m d -> b p h d") + model.b_K[l1]
        return torch.cat([k[:, :, :h1], fresh[:, :, h1 : h1 + 1], k[:, :, h1 + 1 :]], dim=2)

    with model.hooks(fwd_hooks=[(f"blocks.{l1}.attn.hook_k", hook)]):
        return model(tokens)


# ---- head_logit_attribution


def hl_log_softmax(model, cache, targets):
    out = []
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            said = cache["z", layer][:, :, head] @ model.W_O[layer, head]
            said = (said - said.mean(-1, keepdim=True)) / cache["ln_final.hook_scale"] * model.ln_final.weight
            out.append((said @ model.W_U).log_softmax(-1).gather(-1, targets[..., None])[..., 0])
    return torch.stack(out).view(model.cfg.n_layers, model.cfg.n_heads, *targets.shape)


def hl_with_bias(model, cache, targets):
    W = (model.W_U - model.W_U.mean(-1, keepdim=True)).T[targets]
    out = []
    for layer in range(model.cfg.n_layers):
        said = torch.einsum("bphd,hdm->hbpm", cache["z", layer], model.W_O[layer])
        said = (said - said.mean(-1, keepdim=True)) / cache["ln_final.hook_scale"]
        out.append(((said * model.ln_final.weight + model.ln_final.bias) * W).sum(-1))
    return torch.stack(out)


def hl_last_position(model, cache, targets):
    W = (model.W_U - model.W_U.mean(-1, keepdim=True)).T[targets]
    out = []
    for layer in range(model.cfg.n_layers):
        said = torch.einsum("bphd,hdm->hbpm", cache["z", layer], model.W_O[layer])
        said = (said - said.mean(-1, keepdim=True)) / cache["ln_final.hook_scale"][:, -1:]
        out.append((said * model.ln_final.weight * W).sum(-1))
    return torch.stack(out)


def hl_by_difference(model, cache, targets):
    """Apply the frozen LayerNorm to the stream with and without the head."""
    last = cache["resid_post", model.cfg.n_layers - 1]

    def logits(stream):
        normed = (stream - stream.mean(-1, keepdim=True)) / cache["ln_final.hook_scale"]
        out = (normed * model.ln_final.weight + model.ln_final.bias) @ model.W_U
        return out.gather(-1, targets[..., None])[..., 0] - out.mean(-1)

    rows = []
    for layer in range(model.cfg.n_layers):
        mine = [
            logits(last) - logits(last - cache["z", layer][:, :, head] @ model.W_O[layer, head])
            for head in range(model.cfg.n_heads)
        ]
        rows.append(torch.stack(mine))
    return torch.stack(rows)


# ---- build_induction_circuit


def circuit(words, n_ctx, **changes):
    plan = Blueprint(words, n_ctx, n_heads=2)
    size = len(plan.words)
    token, previous, guess = plan.space("token", size), plan.space("previous", size), plan.space("guess", size)
    plan.embed(token)
    plan.head(0, 0).qk(
        plan.position, plan.position, attend({i: i - 1 for i in range(1, changes.get("until", n_ctx))}, n_ctx)
    ).ov(token, previous)
    plan.head(1, 0).qk(token, previous, changes.get("sharp", SHARP)).ov(token, guess)
    if changes.get("twice"):
        plan.head(1, 1).qk(token, previous, SHARP).ov(token, guess)
    plan.unembed(guess, changes.get("gain", 20.0))
    return plan


def bu_built(words, n_ctx):
    return circuit(words, n_ctx).build("cpu")


def bu_short_context(words, n_ctx):
    return circuit(words, n_ctx - 1)


def bu_own_words(words, n_ctx):
    return circuit([f"w{i}" for i in range(5)], n_ctx)


def bu_two_induction_heads(words, n_ctx):
    return circuit(words, n_ctx, twice=True)


def bu_first_eight(words, n_ctx):
    return circuit(words, n_ctx, until=8)


def bu_blunt(words, n_ctx):
    return circuit(words, n_ctx, sharp=3.0)


def bu_seeded(words, n_ctx):
    plan = circuit(words, n_ctx, gain=1.0)
    plan.seed = 11
    return plan


def bu_reuses_the_other_space(words, n_ctx):
    """The copied word goes where the previous one stood; the unembedding reads it with a gain that drowns that one."""
    plan = Blueprint(words, n_ctx)  # (had a third, idle layer before the exercise asked for two)
    size = len(plan.words)
    token, work = plan.space("token", size), plan.space("work", size)
    plan.embed(token)
    plan.head(0, 0).qk(plan.position, plan.position, attend({i: i - 1 for i in range(1, n_ctx)}, n_ctx)).ov(token, work)
    plan.head(1, 0).qk(token, work, 2 * SHARP).ov(token, work, 5.0)
    plan.unembed(work, 4.0)
    return plan


WRONG = [
    (P + "per_token_loss", "mean over the batch", ptl_mean_over_batch, "typical"),
    (P + "previous_token_score", "the upper diagonal, by transposing", pts_transposed, "typical"),
    (P + "duplicate_token_score", "only the first occurrence", dts_python_set, "typical"),
    (P + "induction_score", "half the prompt's length", ind_half_mean, "typical"),
    (P + "ablate_head", "zero whatever is asked", ah_zero_always, "typical"),
    (P + "copying_score", "the embedding instead of the unembedding", cs_transposed_unembed, "typical"),
    (P + "positional_attention", "hides the past instead of the future", pa_lower, "typical"),
    (P + "composition_score", "cosine", co_cosine, "typical"),
    (P + "patch_keys", "the whole layer sends", pk_whole_layer_sends, "typical"),
    (P + "head_logit_attribution", "a log-softmax for each head", hl_log_softmax, "typical"),
    (P + "per_token_loss", "an axis too many", ptl_keeps_axis, ""),
    (P + "per_token_loss", "the first logits dropped", ptl_drops_first_logits, ""),
    (P + "per_token_loss", "a floor under the probability", ptl_clamped, "off only where a probability is tiny"),
    (P + "per_token_loss", "flattened", ptl_flat, ""),
    (P + "per_token_loss", "padded in front", ptl_pads, ""),
    (P + "per_token_loss", "as NumPy", ptl_numpy, ""),
    (P + "previous_token_score", "the last position only", pts_over_queries_only_last, ""),
    (P + "previous_token_score", "rolled, so that one entry wraps", pts_trace, ""),
    (P + "previous_token_score", "the median", pts_median, ""),
    (P + "previous_token_score", "a list of floats", pts_float, ""),
    (P + "duplicate_token_score", "the first prompt's duplicates for all", dts_first_prompt, ""),
    (P + "duplicate_token_score", "the largest of several", dts_max, ""),
    (P + "duplicate_token_score", "1 where none recurs", dts_one_for_none, ""),
    (P + "induction_score", "the last token before the first", ind_previous_matches, "a roll that wraps"),
    (P + "induction_score", "not the position itself", ind_strict, ""),
    (P + "ablate_head", "a hook that stays", ah_permanent, ""),
    (P + "ablate_head", "the next layer", ah_next_layer, ""),
    (P + "ablate_head", "one reference prompt for all", ah_first_reference, ""),
    (P + "ablate_head", "the last position only", ah_last_position, ""),
    (P + "copying_score", "a complex score", cs_complex, ""),
    (P + "copying_score", "eigenvalues of a symmetric matrix", cs_symmetric, ""),
    (P + "copying_score", "Python floats", cs_floats, ""),
    (P + "positional_attention", "a mask of -10", pa_large_negative, ""),
    (P + "positional_attention", "no bias for the queries", pa_no_key_bias_for_queries, ""),
    (P + "composition_score", "the writer transposed", co_writer_transposed, ""),
    (P + "composition_score", "the nuclear norm", co_nuclear, ""),
    (P + "composition_score", "a Python float", co_python_float, ""),
    (P + "patch_keys", "the last position only", pk_at_last_position, ""),
    (P + "patch_keys", "the final LayerNorm", pk_final_norm, ""),
    (P + "patch_keys", "on the other run's stream", pk_other_stream, ""),
    (P + "patch_keys", "the queries too", pk_queries_and_keys, ""),
    (P + "head_logit_attribution", "with the LayerNorm's bias", hl_with_bias, ""),
    (P + "head_logit_attribution", "the last position's scale", hl_last_position, ""),
    (P + "build_induction_circuit", "built", bu_built, ""),
    (P + "build_induction_circuit", "a context too short", bu_short_context, ""),
    (P + "build_induction_circuit", "words of its own", bu_own_words, ""),
    (P + "build_induction_circuit", "two induction heads", bu_two_induction_heads, ""),
    (P + "build_induction_circuit", "looks back in the first eight positions only", bu_first_eight, ""),
    (P + "build_induction_circuit", "too soft", bu_blunt, ""),
]

RIGHT = [
    (P + "per_token_loss", "one-hot", ptl_by_one_hot, ""),
    (P + "previous_token_score", "slices", pts_slices, ""),
    (P + "previous_token_score", "einops", pts_einops, ""),
    (P + "induction_score", "the key's previous token", ind_previous_right, ""),
    (P + "ablate_head", "inside a context", ah_with_context, ""),
    (P + "copying_score", "by comparison with the diagonal", cs_rank, ""),
    (P + "positional_attention", "exponentials, and no key bias", pa_exp, ""),
    (P + "composition_score", "by traces", co_trace, ""),
    (P + "patch_keys", "inside the hook, without an index assignment", pk_in_the_hook, ""),
    (P + "head_logit_attribution", "the stream with and without the head", hl_by_difference, ""),
    (P + "build_induction_circuit", "another seed, and logits of 1", bu_seeded, ""),
    (P + "build_induction_circuit", "two spaces instead of three", bu_reuses_the_other_space, ""),
]
