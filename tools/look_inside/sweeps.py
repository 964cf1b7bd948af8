"""The standard ways to look: patch every head, every MLP, the stream by position; read attention and direct effects.

An effect of patching is a share: 0, nothing happens; 1, the answer becomes the one of the run that is patched in.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tools.look_inside.runs import Batch, Edit, Where, from_run

Table = list[list[float]]


def share(batch: Batch, other: Batch, edits: Sequence[Edit]) -> float:
    """How far these edits move the score from the batch's towards the other run's."""
    start, goal = batch.score(), batch.score(other.logits)
    return (start - batch.score(batch.run(edits))) / (start - goal)


def head_effects(batch: Batch, other: Batch, where: Where | None = None) -> Table:
    """[layer][head]: the share when one head, everywhere or at some positions, says what it says in the other run."""
    where = batch.everywhere if where is None else where
    return [
        [share(batch, other, [from_run("head", layer, other, where, head)]) for head in range(batch.model.cfg.n_heads)]
        for layer in range(batch.model.cfg.n_layers)
    ]


def mlp_effects(batch: Batch, other: Batch, where: Where) -> list[float]:
    """[layer]: the same for one MLP at some positions."""
    return [share(batch, other, [from_run("mlp", layer, other, where)]) for layer in range(batch.model.cfg.n_layers)]


def stream_effects(batch: Batch, other: Batch, places: Mapping[str, Where]) -> dict[str, list[float]]:
    """{place: [layer]}: the share when the stream before a layer comes from the other run at these positions. It tells
    where the information stands before each layer."""
    return {
        place: [
            share(batch, other, [from_run("resid", layer, other, where)]) for layer in range(batch.model.cfg.n_layers)
        ]
        for place, where in places.items()
    }


def attention_from_end(batch: Batch, places: Mapping[str, Where]) -> dict[str, Table]:
    """{place: [layer][head]}: the mean attention that the last token pays to these positions."""
    found: dict[str, Table] = {}
    for place, where in places.items():
        found[place] = []
        for layer in range(batch.model.cfg.n_layers):
            paid = batch.kept("attn.hook_pattern", layer)[batch.rows, :, batch.end]  # batch head key
            found[place].append((paid * where[:, None]).sum(dim=-1).mean(dim=0).tolist())
    return found


def direct_effects(
    batch: Batch, directions: Float[Tensor, "batch d_model"]
) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer"], float]:
    """What each head, each MLP and the embeddings write straight along a direction of the unembedding at END, the
    LayerNorm's scale being that of this run. The three parts and the attention's biases add up to the final stream."""
    model, rows, end = batch.model, batch.rows, batch.end
    scale = batch.cache["ln_final.hook_scale"][rows, end]
    reader = directions * model.ln_final.weight
    reader = (reader - reader.mean(dim=-1, keepdim=True)) / scale

    def read(written: Float[Tensor, "batch d_model"]) -> Tensor:
        return (written * reader).sum(dim=-1).mean()

    layers, n_heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
    by_head = torch.stack(
        [
            torch.stack([read(batch.kept("head", layer)[rows, end, head] @ model.W_O[layer, head]) for head in n_heads])
            for layer in layers
        ]
    )
    by_mlp = torch.stack([read(batch.kept("mlp", layer)[rows, end]) for layer in layers])
    return by_head, by_mlp, read(batch.kept("resid", 0)[rows, end]).item()


def strongest(table: Table, n: int = 1) -> list[tuple[int, int]]:
    """(layer, head) of the largest entries."""
    flat = [(value, layer, head) for layer, row in enumerate(table) for head, value in enumerate(row)]
    return [(layer, head) for _, layer, head in sorted(flat, reverse=True)[:n]]


def name(head: tuple[int, int] | list[int]) -> str:
    return f"{head[0]}.{head[1]}"
