"""What an attention head does, from where it looks (its pattern) and from what it could say (its weights).

The scores of patterns take `cache["pattern", layer]`, so they work for any model with ordinary attention. The measures
of weights take plain matrices as TransformerLens keeps them: a row vector is multiplied from the left, x W_V W_O.
Compare weights after `load(name, processed=True)`: only then does a matrix contain the LayerNorm in front of it, and
the mean of the residual stream, which no LayerNorm lets through, is gone.

Not supported: grouped-query attention (several heads share their keys and values), and rotary positions in
`positional_attention` and in composition with queries or keys (there W_Q W_K^T depends on the distance).

Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"
(https://transformer-circuits.pub/2021/framework/index.html); Olsson et al. 2022, "In-context Learning and Induction
Heads" (https://arxiv.org/abs/2209.11895).
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlib.paths import Convention, attention_pattern, patched_streams

Pattern = Float[Tensor, "batch head query key"]
Side = Literal["Q", "K", "V"]

# So many rows of a full OV circuit are made at a time: the whole one of gpt2, 50257 x 50257, would take 10 GB.
CHUNK = 4096


# ---- behaviour


def per_token_loss(
    logits: Float[Tensor, "batch position vocabulary"], tokens: Int[Tensor, "batch position"]
) -> Float[Tensor, "batch position-1"]:
    """The loss of every prediction, in nats: entry i is -log of the probability that position i gave to token i + 1."""
    log_probs = logits[:, :-1].log_softmax(dim=-1)
    return -log_probs.gather(dim=-1, index=tokens[:, 1:, None]).squeeze(-1)


# ---- attention patterns


def previous_token_score(pattern: Pattern) -> Float[Tensor, "head"]:
    """Each head's mean attention from a position to the one before it, over all positions but the first."""
    return pattern.diagonal(offset=-1, dim1=2, dim2=3).mean(dim=(0, 2))


def duplicate_token_score(pattern: Pattern, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "head"]:
    """Each head's attention to earlier occurrences of the current token, averaged over the positions that have one.

    0 if no token occurs twice.
    """
    wanted = earlier_occurrences(tokens)
    return (pattern * wanted[:, None]).sum(dim=(0, 2, 3)) / wanted.any(dim=2).sum().clamp(min=1)


def induction_score(pattern: Pattern, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "head"]:
    """Each head's attention to the tokens right after earlier occurrences of the current token, averaged over the
    positions that have one. 0 if no token occurs twice (Olsson et al. 2022: "prefix matching")."""
    wanted = earlier_occurrences(tokens).roll(1, dims=-1)  # its last column is empty, so nothing wraps around
    return (pattern * wanted[:, None]).sum(dim=(0, 2, 3)) / wanted.any(dim=2).sum().clamp(min=1)


def earlier_occurrences(tokens: Int[Tensor, "batch position"]) -> Bool[Tensor, "batch query key"]:
    """Where the key comes before the query and holds the same token."""
    return (tokens[:, :, None] == tokens[:, None, :]).tril(diagonal=-1)


# ---- weights


def copying_score(
    W_E: Float[Tensor, "vocabulary d_model"],
    W_V: Float[Tensor, "d_model d_head"],
    W_O: Float[Tensor, "d_head d_model"],
    W_U: Float[Tensor, "d_model vocabulary"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Does a head copy? Two summaries of its full OV circuit, W_E W_V W_O W_U: [attended token, predicted token].

    First the share of tokens whose own logit a head raises most when it attends to them; by chance 1 / vocabulary.
    Then sum(l) / sum(|l|) over the eigenvalues l: 1 for a pure copier, -1 for a head that suppresses what it sees,
    about 0 for random weights (Elhage et al. 2021).
    """
    most = torch.cat([(rows @ W_V @ W_O @ W_U).argmax(dim=1) for rows in W_E.split(CHUNK)])
    top_1 = (most == torch.arange(len(W_E), device=W_E.device)).to(W_E.dtype).mean()
    # W_O W_U W_E W_V is only d_head x d_head and has the same eigenvalues, but for zeros.
    eigenvalues = torch.linalg.eigvals(W_O @ W_U @ W_E @ W_V)
    return top_1, eigenvalues.sum().real / eigenvalues.abs().sum()


def positional_attention(
    x: Float[Tensor, "position d_model"],
    W_Q: Float[Tensor, "d_model d_head"],
    b_Q: Float[Tensor, "d_head"],
    W_K: Float[Tensor, "d_model d_head"],
    b_K: Float[Tensor, "d_head"],
) -> Float[Tensor, "query key"]:
    """The attention pattern of a causal head if `x` is what it reads at each position.

    With `x = ln1(W_pos + W_E.mean(0))`, where every position holds the average token, this is the part of a
    first-layer head's attention that depends on the positions alone.
    """
    scores = (x @ W_Q + b_Q) @ (x @ W_K + b_K).T / W_Q.shape[1] ** 0.5
    later = torch.ones_like(scores, dtype=torch.bool).triu(diagonal=1)
    return scores.masked_fill(later, -torch.inf).softmax(dim=1)


def composition_score(
    writer: Float[Tensor, "*pairs d_model d_model"], reader: Float[Tensor, "*pairs d_model d_model"], side: Side
) -> Float[Tensor, "*pairs"]:
    """How strongly a later head reads what an earlier one writes: ||writer reader|| / (||writer|| ||reader||), in
    Frobenius norms; between 0 (orthogonal subspaces) and 1 (Elhage et al. 2021).

    `writer` is the earlier head's W_V W_O. `reader` is the later head's W_Q W_K^T for the sides "Q" and "K" (its
    queries or its keys read), and its W_V W_O for "V". Raises ValueError for another side.
    """
    if side not in ("Q", "K", "V"):
        raise ValueError(f"side is 'Q', 'K' or 'V', not {side!r}")
    reads = reader.mT if side == "K" else reader  # W_Q W_K^T takes the query on its left and the key on its right
    return _norm(writer @ reads) / (_norm(writer) * _norm(reader))


def composition_baseline(
    writer: Float[Tensor, "d_model d_model"],
    reader: Float[Tensor, "d_model d_model"],
    side: Side,
    n: int = 100,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n"]:
    """Composition scores of the same two heads after `n` random rotations of what the earlier one writes.

    A rotation keeps the size and rank of both and leaves nothing but chance in how they fit together.
    """
    draws = torch.randn(n, *writer.shape, generator=generator).to(writer)
    return composition_score(writer @ torch.linalg.qr(draws).Q, reader, side)


def composition_scores(model: Any, side: Side) -> Float[Tensor, "layer head later_layer later_head"]:
    """`composition_score` of every pair of heads of a model, 0 where the second is not in a later layer.

    Load the model with `processed=True`, or the LayerNorms' weights are left out.
    """
    W_OV = model.W_V @ model.W_O
    reader = W_OV if side == "V" else model.W_Q @ model.W_K.mT
    n_layers, n_heads = W_OV.shape[:2]
    scores = W_OV.new_zeros(n_layers, n_heads, n_layers, n_heads)
    for layer in range(n_layers):
        for later in range(layer + 1, n_layers):
            for head in range(n_heads):
                scores[layer, head, later] = composition_score(W_OV[layer, head], reader[later], side)
    return scores


def _norm(matrix: Float[Tensor, "*pairs rows columns"]) -> Float[Tensor, "*pairs"]:
    return torch.linalg.matrix_norm(matrix)


# ---- the straight way to the logits


def head_logit_attribution(
    model: Any, cache: Any, targets: Int[Tensor, "batch position"]
) -> Float[Tensor, "layer head batch position"]:
    """What each head adds straight to the logit of `targets`, less what it adds to the average logit.

    The final LayerNorm is taken as the linear map that it was in this run: subtract the mean, divide by the cached
    scale, multiply by the weight. What later layers make of a head's output is not in here (see `mechlib.paths`).
    """
    W_U = model.W_U - model.W_U.mean(dim=1, keepdim=True)
    readers = model.ln_final.weight * W_U.T[targets]  # [batch position d_model]
    readers = (readers - readers.mean(dim=-1, keepdim=True)) / cache["ln_final.hook_scale"]
    z = torch.stack([cache["z", layer] for layer in range(model.cfg.n_layers)])
    said = einsum(z, model.W_O, "layer b pos head d_head, layer head d_head d_model -> layer head b pos d_model")
    return einsum(said, readers, "layer head b pos d_model, b pos d_model -> layer head b pos")


# ---- the heads of Wang et al. 2023, "Interpretability in the Wild" (https://arxiv.org/abs/2211.00593)


def name_mover_score(
    model: Any, cache: Any, answers: Int[Tensor, "batch 2"], io: Int[Tensor, "batch"], end: Int[Tensor, "batch"]
) -> tuple[Float[Tensor, "layer head batch"], Float[Tensor, "layer head batch"]]:
    """Each head's attention from the end to IO, and what it writes there along IO less S.

    What a head writes is its share of the logit difference, with the final LayerNorm taken as the linear map that it
    was in this run. A name mover writes more where it attends more; a negative one writes less than nothing. `answers`
    holds the tokens of IO and S, `io` and `end` their positions.
    """
    rows = torch.arange(len(end), device=end.device)
    reader = model.ln_final.weight * (model.W_U.T[answers[:, 0]] - model.W_U.T[answers[:, 1]])
    reader = (reader - reader.mean(dim=-1, keepdim=True)) / cache["ln_final.hook_scale"][rows, end]
    attention, written = [], []
    for layer in range(model.cfg.n_layers):
        attention.append(cache["pattern", layer][rows, :, end, io].T)
        z = cache["z", layer][rows, end]
        written.append(einsum(z, model.W_O[layer], reader, "b head d_head, head d_head d, b d -> head b"))
    return torch.stack(attention), torch.stack(written)


def name_copying_score(
    model: Any, stream: Float[Tensor, "name d_model"], names: Int[Tensor, "name"], k: int = 5, sign: int = 1
) -> Float[Tensor, "layer head"]:
    """How often a head that attends to a name would raise this name's logit among the top k of the vocabulary.

    `stream` is the residual stream where the names stand, after the first MLP (`cache["resid_post", 0]`), `names` are
    their tokens. It goes through the head's LayerNorm and OV map, the final LayerNorm and the unembedding, as if the
    head looked there and nothing else were written. With sign -1 what the head writes is turned round: a high score
    then means that it suppresses names. By chance k / vocabulary.
    """
    scores = []
    for layer, block in enumerate(model.blocks):
        values = einsum(block.ln1(stream[None])[0], model.W_V[layer], "name d, head d d_head -> head name d_head")
        said = sign * (values + model.b_V[layer][:, None]) @ model.W_O[layer]
        top = [model.unembed(model.ln_final(mine[None]))[0].topk(k).indices for mine in said]
        scores.append(torch.stack([(each == names[:, None]).any(dim=-1).to(stream.dtype).mean() for each in top]))
    return torch.stack(scores)


def s_inhibition_score(
    model: Any,
    cache: Any,
    source_cache: Any,
    movers: Sequence[tuple[int, int]],
    io: Int[Tensor, "batch"],
    s1: Int[Tensor, "batch"],
    end: Int[Tensor, "batch"],
    mlps: Convention = "frozen",
) -> Float[Tensor, "layer head"]:
    """How far each head turns the name movers away from S1: the fall of their attention to IO less that to S1, from the
    end, when their queries read what the head says in another run (path patching).

    A mean over movers and prompts, between -2 and 2; about 2 if this head alone makes them look at IO, and they look at
    S1 without it. In `source_cache` the prompts do not say who is repeated ("random"), or say that it is the other
    ("s2"). 0 for heads that no mover comes after. Raises ValueError without movers.
    """
    if not movers:
        raise ValueError("name the name movers first: these are the heads whose attention is turned.")
    rows = torch.arange(len(end), device=end.device)

    def preference(layer: int, head: int, queries: Tensor) -> Tensor:
        pattern = attention_pattern(queries, cache["k", layer][:, :, head])[rows, end]
        return (pattern[rows, io] - pattern[rows, s1]).mean()

    scores = torch.zeros(model.cfg.n_layers, model.cfg.n_heads, device=end.device)
    for layer, head in ((layer, head) for layer in range(max(movers)[0]) for head in range(model.cfg.n_heads)):
        streams = patched_streams(model, cache, source_cache, [(layer, head)], mlps == "recomputed")
        for later, mover in movers:
            reads = (
                model.blocks[later].ln1(streams.attention[later]) @ model.W_Q[later, mover] + model.b_Q[later, mover]
            )
            change = preference(later, mover, cache["q", later][:, :, mover]) - preference(later, mover, reads)
            scores[layer, head] += change / len(movers)
    return scores
