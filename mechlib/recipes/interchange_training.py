"""Run a small GPT-2 with activations taken from elsewhere, with gradients, and quickly: for training by interchange.

A *node* is a head's output before the layer's output matrix (`z`), or an MLP's output. An `Origin` says for every row,
position and node where the activation comes from: from the edited run itself, or from a row and position of the clean
run. One tensor thus describes any mixture of interchanges, resamplings and knock-outs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

OWN = -1


@dataclass(frozen=True)
class Run:
    """The last residual stream, and by layer what the heads and the MLP wrote and where the heads looked."""

    resid: Float[Tensor, "row position width"]
    z: list[Float[Tensor, "row position head size"]]
    mlp: list[Float[Tensor, "row position width"]]
    pattern: list[Float[Tensor, "row head query key"]]


Edit = Callable[[int, Tensor], Tensor]  # layer, own activation -> the activation to go on with


def run(
    model: Any,
    tokens: Int[Tensor, "row position"],
    words: Float[Tensor, "vocabulary width"],
    edit_z: Edit | None = None,
    edit_mlp: Edit | None = None,
) -> Run:
    """A GPT2LMHeadModel's forward pass (a test compares it with the model's own) with this embedding of the words."""
    network, heads, length = model.transformer, model.config.n_head, tokens.shape[1]
    future = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
    resid = torch.nn.functional.embedding(tokens, words) + network.wpe.weight[:length]
    done = Run(resid, [], [], [])
    for layer, block in enumerate(network.h):
        q, k, v = block.attn.c_attn(block.ln_1(resid)).unflatten(-1, (3, heads, -1)).unbind(2)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
        pattern = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
        z = torch.einsum("bhqk,bkhd->bqhd", pattern, v)
        z = edit_z(layer, z) if edit_z else z
        resid = resid + block.attn.c_proj(z.flatten(2))
        hidden = torch.nn.functional.gelu(block.mlp.c_fc(block.ln_2(resid)), approximate="tanh")
        mlp = block.mlp.c_proj(hidden)  # as block.mlp, whose gelu takes several steps
        mlp = edit_mlp(layer, mlp) if edit_mlp else mlp
        resid = resid + mlp
        for seen, what in ((done.z, z), (done.mlp, mlp), (done.pattern, pattern)):
            seen.append(what)
    return Run(resid, done.z, done.mlp, done.pattern)


def unembed(
    model: Any, resid: Float[Tensor, "*row width"], words: Float[Tensor, "vocabulary width"]
) -> Float[Tensor, "*row vocabulary"]:
    return model.transformer.ln_f(resid) @ words.T


def edited(
    model: Any,
    tokens: Int[Tensor, "row position"],
    words: Float[Tensor, "vocabulary width"],
    clean: Run,
    origin: Int[Tensor, "row position layer node"],
    end: Int[Tensor, "clean_row"],
) -> Run:
    """The run in which every node whose origin is not OWN takes its activation from `clean`.

    An origin is `row * positions + position`; the nodes of a layer are its heads, then its MLP. Two more origins knock
    a head out: `rows * positions` is zero, and the next one is the head's mean at the clean rows' ends.
    """

    def edit_z(layer: int, own: Tensor) -> Tensor:
        z = clean.z[layer]
        mean = z[torch.arange(len(z)), end].mean(dim=0, keepdim=True)
        table = torch.cat([z.flatten(0, 1), torch.zeros_like(mean), mean])  # origin, head, size
        here = origin[:, :, layer, :-1]
        which = here.clamp(min=0) * own.shape[2] + torch.arange(own.shape[2])
        taken = table.flatten(0, 1).index_select(0, which.flatten()).view_as(own)
        return torch.where((here == OWN)[..., None], own, taken)

    def edit_mlp(layer: int, own: Tensor) -> Tensor:
        here = origin[:, :, layer, -1]
        taken = clean.mlp[layer].flatten(0, 1).index_select(0, here.clamp(min=0).flatten()).view_as(own)
        return torch.where((here == OWN)[..., None], own, taken)

    return run(model, tokens, words, edit_z, edit_mlp)
