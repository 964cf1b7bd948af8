"""Activation patching's sweep without a forward pass for each cell. The numbers are those of the naive loop.

What does a patch not change? (docs/fast-patching.md goes through it slowly.)

1. Nothing before the patched layer. So a cell *joins* the computation after its layer, with the residual stream of the
   base run (the one that is patched; computed once), plus what the patch adds to it.
2. Nothing left of the patched position, and, until the next attention, nothing right of it either. Only what changes is
   computed; the rest (keys and values on the left, say) is the base run's.
3. Nothing at all where the two runs agree: those cells keep the base run's value.
4. Nothing that the metric does not read. In the last layer only the position of the answer is computed, and a logit
   difference needs two columns of the unembedding.

The cells that are left run side by side, as one batch that grows from layer to layer (`_run`). Whatever the site, a
patch is an addition to the residual stream somewhere; `_Patches` finds it.

For GPT-2's architecture (LayerNorm, learned positions, full attention, one MLP), which `_Network` writes down.
`fast_sweep` raises `Unsupported` for any other, and also if this forward pass does not give the model's logits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlib import metrics
from mechlib.patching import SITES, measure, shape_of

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": functools.partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
}
# The stream that a patch of these sites is added to; for the others it is the one between attention and MLP.
ADDED_TO = {"resid_pre": "resid_pre", "mlp_out": "resid_post", "resid_post": "resid_post"}
# Our logits and the model's may differ by this part of the logits' range.
TOLERANCE = 1e-4
# Positions that are computed at once, at most: so many that matrix products are efficient, and that they stay in the
# processor's cache. Fewer where memory is short: see `_split`.
ROWS = 2048


class Unsupported(Exception):
    """The fast way cannot be taken; the message says why."""


def fast_sweep(
    model: Any,
    base: Int[Tensor, "batch position"],
    source: Int[Tensor, "batch position"],
    metric: Callable[[Tensor], Tensor],
    site: str,
    by_position: bool,
    at: Int[Tensor, batch] | None,
    memory: int | None = None,
) -> Float[Tensor, "layer ..."]:
    """As `patching.naive_sweep`: the metric on `base` with each cell of `source`'s activations. Raises Unsupported.

    `memory` is how many bytes a batch of cells may take; by default what keeps the whole sweep, weights included, under
    twice the model's weights plus the cache of one run. More cells than fit run one batch after the other.
    """
    if at is None:
        raise Unsupported("the metric reads all positions")
    network = _Network(model)
    patches = _Patches(network, base, source, site, by_position, at)
    ours, theirs = patches.logits[0], model(base[:1])[0, at[0]]
    if not (ours - theirs).abs().max() <= TOLERANCE * (theirs.max() - theirs.min()):
        raise Unsupported("the fast sweep does not reproduce this model's logits (has it hooks of its own?)")

    cells = patches.cells()
    shape = shape_of(model, base, site, by_position)
    values = measure(metric, patches.logits, None).repeat(*shape, 1).view(-1, len(base))
    place = patches.place(cells)
    answers, kept = _two_columns(metric), []
    if memory is None:
        memory = network.bytes - network.bytes_copied
        if answers is None:  # all ends are kept for the metric
            memory -= len(cells) * network.d_model * network.W_U.element_size()
    for some in _split(cells, network, patches, memory):
        ends, prompts = _run(network, patches, cells[some]), cells.prompt[some]
        if answers is None:
            kept.append(ends)
        else:
            values[place[some], prompts] = _difference(network, ends, answers.to(prompts.device)[prompts])
    if kept:
        _measure(values, network, patches, metric, place, cells.prompt, torch.cat(kept))
    return values.view(*shape, len(base))


# ---- GPT-2, written down


class _Network:
    """The model's weights, and its forward pass in pieces that can begin anywhere."""

    def __init__(self, model: Any):
        config: Any = getattr(getattr(model, "original_model", None), "config", None)
        if getattr(config, "model_type", None) != "gpt2":
            raise Unsupported("the fast sweep knows GPT-2's architecture only")
        if config.activation_function not in ACTIVATIONS or config.add_cross_attention:
            raise Unsupported("the fast sweep does not know this variant of GPT-2")
        self.n_heads, self.d_head, self.d_model = model.cfg.n_heads, model.cfg.d_head, model.cfg.d_model
        self.d_mlp = model.blocks[0].mlp.W_in.shape[1]
        self.activation = ACTIVATIONS[config.activation_function]
        self.eps = config.layer_norm_epsilon
        self.W_E, self.W_pos = model.W_E, model.W_pos
        self.blocks = [self._views(block) for block in model.blocks]
        self.W_U, self.b_U, self.ln_final = model.W_U, model.b_U, (model.ln_final.w, model.ln_final.b)
        self.bytes = sum(p.nbytes for p in model.parameters())
        self.bytes_copied = sum(block.W_Q.nbytes + block.W_KV.nbytes for block in self.blocks)

    def _views(self, block: Any) -> SimpleNamespace:
        """A layer's weights as matrices that multiply from the right, all heads side by side."""
        attention, mlp, d = block.attn, block.mlp, self.d_model
        q, k, v = (W.permute(1, 0, 2).reshape(d, d) for W in (attention.W_Q, attention.W_K, attention.W_V))
        return SimpleNamespace(
            ln1=(block.ln1.w, block.ln1.b),
            ln2=(block.ln2.w, block.ln2.b),
            W_Q=q,
            b_Q=attention.b_Q.flatten(),
            W_KV=torch.cat([k, v], dim=1),
            b_KV=torch.cat([attention.b_K.flatten(), attention.b_V.flatten()]),
            W_O=attention.W_O.reshape(d, d),
            b_O=attention.b_O,
            W_in=mlp.W_in,
            b_in=mlp.b_in,
            W_out=mlp.W_out,
            b_out=mlp.b_out,
        )

    def normed(self, stream: Tensor, layer_norm: tuple[Tensor, Tensor]) -> Tensor:
        return F.layer_norm(stream, (self.d_model,), *layer_norm, self.eps)

    def queries(self, block: Any, x: Float[Tensor, "item position d_model"]) -> Tensor:
        """[item position head d_head] from the normalised stream."""
        return torch.addmm(block.b_Q, x.flatten(0, 1), block.W_Q).view(*x.shape[:2], self.n_heads, self.d_head)

    def keys_and_values(self, block: Any, x: Float[Tensor, "item position d_model"]) -> Tensor:
        """[item position 2 head d_head] from the normalised stream."""
        return torch.addmm(block.b_KV, x.flatten(0, 1), block.W_KV).view(*x.shape[:2], 2, self.n_heads, self.d_head)

    def attend(self, q: Tensor, kv: Tensor, mask: Bool[Tensor, "item 1 query key"]) -> Tensor:
        """z, [item position head d_head], from queries, keys and values."""
        q, k, v = (x.transpose(1, 2) for x in (q, *kv.unbind(2)))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)

    def pattern(self, q: Tensor, k: Tensor) -> Float[Tensor, "batch head query key"]:
        scores = torch.einsum("bqhe,bkhe->bhqk", q, k) / self.d_head**0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        return scores.masked_fill(future, -torch.inf).softmax(dim=-1)

    def attn_out(self, block: Any, z: Float[Tensor, "item position head d_head"]) -> Tensor:
        """What attention writes: [item position d_model]."""
        return torch.addmm(block.b_O, z.flatten(0, 1).flatten(1), block.W_O).view(*z.shape[:2], self.d_model)

    def mlp_out(self, block: Any, stream: Float[Tensor, "item position d_model"]) -> Tensor:
        """What the MLP writes: [item position d_model]."""
        x = self.normed(stream, block.ln2).flatten(0, 1)
        hidden = self.activation(torch.addmm(block.b_in, x, block.W_in))
        return torch.addmm(block.b_out, hidden, block.W_out).view(stream.shape)

    def layers(self, tokens: Int[Tensor, "batch position"]) -> Iterator[dict[str, Tensor]]:
        """A forward pass: each layer's activations, by the name of the site."""
        stream = self.W_E[tokens] + self.W_pos[: tokens.shape[1]]
        for block in self.blocks:
            x = self.normed(stream, block.ln1)
            q, kv = self.queries(block, x), self.keys_and_values(block, x)
            k, v = kv.unbind(2)
            pattern = self.pattern(q, k)
            z = torch.einsum("bhqk,bkhe->bqhe", pattern, v)
            attn_out = self.attn_out(block, z)
            mlp_out = self.mlp_out(block, stream + attn_out)
            post = stream + attn_out + mlp_out
            yield {"resid_pre": stream, "q": q, "k": k, "v": v, "kv": kv, "pattern": pattern, "head": z,
                   "attn_out": attn_out, "mlp_out": mlp_out, "resid_post": post}  # fmt: skip
            stream = post

    def logits(self, stream: Float[Tensor, "item d_model"]) -> Float[Tensor, "item vocabulary"]:
        return torch.addmm(self.b_U, self.normed(stream, self.ln_final), self.W_U)


# ---- what each patch adds to the stream


@dataclass
class _Cells:
    """The pairs of a cell and a prompt that have to be computed, sorted by the first position that changes, then by
    layer. Each is a number in these lists."""

    start: Int[Tensor, item]
    layer: Int[Tensor, item]
    head: Int[Tensor, item]  # 0 where the site has no heads
    prompt: Int[Tensor, item]

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, some: slice | Tensor) -> _Cells:
        return _Cells(self.start[some], self.layer[some], self.head[some], self.prompt[some])


class _Patches:
    """The base run, and how its residual stream changes when a cell is patched."""

    def __init__(self, network: _Network, base: Tensor, source: Tensor, site: str, by_position: bool, at: Tensor):
        self.network, self.site, self.by_position, self.at = network, site, by_position, at
        self.n_layers, (self.batch, self.length) = len(network.blocks), base.shape
        both = list(network.layers(torch.cat([base, source])))
        self.base = [{name: value[: self.batch] for name, value in layer.items()} for layer in both]
        self.source = [layer[site][self.batch :] for layer in both]
        self.logits = network.logits(self.base[-1]["resid_post"][torch.arange(self.batch), at])
        # Left of the first token that differs the two runs are the same, but for rounding.
        self.differs = ((base != source).cumsum(dim=1) > 0)[:, :, None, None]
        # A key or value that is patched at one position changes what later ones write; other patches only their own.
        self.spreads = by_position and site in ("k", "v")
        self.alone = by_position and not self.spreads
        self.everywhere = [self._written(layer, None) for layer in range(self.n_layers)]

    def cells(self) -> _Cells:
        """The cells that change anything for a prompt before its answer is read."""
        found = []
        positions = torch.arange(self.length, device=self.at.device)
        for layer in range(self.n_layers):
            read = positions <= self.at[:, None]
            if layer == self.n_layers - 1 and self.site != "resid_pre":  # after the last attention
                read = positions == self.at[:, None]
            for patched in range(self.length) if self.spreads else [None]:
                changed = self.written(layer, patched).any(dim=-1) & read[:, :, None]  # [prompt position head]
                if self.alone:
                    prompt, first, head = changed.nonzero(as_tuple=True)
                else:
                    prompt, head = changed.any(dim=1).nonzero(as_tuple=True)
                    first = changed.int().argmax(dim=1)[prompt, head]
                if patched is not None:
                    first = torch.full_like(first, patched)
                found.append(torch.stack([first, torch.full_like(first, layer), head, prompt]))
        table = torch.cat(found, dim=1)
        order = (table[0] * self.n_layers + table[1]).argsort(stable=True)
        return _Cells(*table[:, order])

    def place(self, cells: _Cells) -> Int[Tensor, item]:
        """The number of each cell in the order of the result."""
        place = cells.layer * self.length + cells.start if self.by_position else cells.layer
        return place * self.everywhere[0].shape[2] + cells.head

    def join(self, cells: _Cells, layer: int, stop: int) -> tuple[Int[Tensor, item], Tensor]:
        """The cells that first change the residual stream before this layer: their prompts, and their streams
        [item position d_model] from the first position that changes on, as far as they change.

        After the last layer that is the position where the answer is read. All cells have the same start.
        """
        own = layer if self.site == "resid_pre" else layer - 1
        here = cells[cells.layer == own]
        if not len(here):
            return here.prompt, self.base[0]["resid_pre"][:0, :1]
        network, base, start = self.network, self.base[own], int(here.start[0])
        prompts = torch.arange(self.batch, device=self.at.device)[:, None]
        where = torch.arange(start, start + 1 if self.alone else stop, device=self.at.device)[None]
        if layer == self.n_layers:
            where = self.at[:, None]
        added = self.written(own, start if self.spreads else None)[prompts, where]
        if SITES[self.site].head_axis is not None:
            W_O = network.blocks[own].W_O.view(network.n_heads, -1, network.d_model)
            added = torch.einsum("bphe,hed->bphd", added, W_O)
        added = added[here.prompt, :, here.head]
        if self.site in ADDED_TO:
            return here.prompt, base[ADDED_TO[self.site]][prompts, where][here.prompt] + added
        middle = (base["resid_pre"][prompts, where] + base["attn_out"][prompts, where])[here.prompt] + added
        return here.prompt, middle + network.mlp_out(network.blocks[own], middle)

    def written(self, layer: int, position: int | None) -> Float[Tensor, "batch position head d"]:
        """How what the site writes changes when it is patched, at one position or at all: z for each head, or the
        stream itself for sites without heads (as one head)."""
        return self.everywhere[layer] if position is None else self._written(layer, position)

    def _written(self, layer: int, position: int | None) -> Float[Tensor, "batch position head d"]:
        base = self.base[layer]
        old, new = base[self.site], self.source[layer]
        if position is not None:
            one = (slice(None), position)
            new = old.clone()
            new[one] = self.source[layer][one]
        match self.site:
            case "resid_pre" | "resid_post" | "attn_out" | "mlp_out":
                written = (new - old)[:, :, None]
            case "head":
                written = new - old
            case "v":
                written = torch.einsum("bhqk,bkhe->bqhe", base["pattern"], new - old)
            case "pattern":
                written = torch.einsum("bhqk,bkhe->bqhe", new - old, base["v"])
            case _:
                q, k = (new if which == self.site else base[which] for which in "qk")
                change = self.network.pattern(q, k) - base["pattern"]
                written = torch.einsum("bhqk,bkhe->bqhe", change, base["v"])
        return written * self.differs


# ---- the batch that grows


def _run(network: _Network, patches: _Patches, cells: _Cells) -> Float[Tensor, "item d_model"]:
    """The final residual stream of each cell where the answer is read. All have the same start."""
    at, last = patches.at, len(network.blocks) - 1
    start, stop = int(cells.start[0]), int(at[cells.prompt].max()) + 1
    prompts, streams = cells.prompt[:0], patches.base[0]["resid_pre"][:0, start:stop]
    for layer, (block, base) in enumerate(zip(network.blocks, patches.base)):
        new_prompts, new = patches.join(cells, layer, stop)
        prompts = torch.cat([prompts, new_prompts])
        if not len(prompts):
            continue

        # What does not change is the base run's.
        x, new_x = network.normed(streams, block.ln1), network.normed(new, block.ln1)
        computed = network.keys_and_values(block, x), network.keys_and_values(block, new_x)
        kv = _put(base["kv"][prompts, :stop], start, *computed)
        streams = _put(base["resid_pre"][prompts, start:stop], 0, streams, new)
        query = torch.arange(start, stop, device=at.device)[None]
        if layer < last:
            q = _put(base["q"][prompts, start:stop], 0, network.queries(block, x), network.queries(block, new_x))
        else:  # nobody will look at the other positions
            query = at[prompts][:, None]
            streams = streams[torch.arange(len(prompts), device=at.device), at[prompts] - start][:, None]
            q = network.queries(block, network.normed(streams, block.ln1))
        mask = (torch.arange(stop, device=at.device) <= query[..., None])[:, None]
        streams = streams + network.attn_out(block, network.attend(q, kv, mask))
        streams = streams + network.mlp_out(block, streams)
    _, new = patches.join(cells, last + 1, stop)
    return torch.cat([streams[:, 0], new[:, 0]])


def _put(values: Tensor, start: int, old: Tensor, new: Tensor) -> Tensor:
    """Write into `values`, from position `start` on: the first items' are in `old`, those of the rest in `new`."""
    values[: len(old), start : start + old.shape[1]] = old
    values[len(old) :, start : start + new.shape[1]] = new
    return values


def _split(cells: _Cells, network: _Network, patches: _Patches, memory: int) -> Iterator[slice]:
    """Runs of cells with the same start, so short that each needs no more than `memory` bytes."""
    begin, length, d, n_heads = 0, patches.length, network.d_model, network.n_heads
    # Whatever its size, a batch makes every head's change and, for patched keys, new patterns.
    shared = patches.batch * length * ((n_heads + 3) * d + 2 * n_heads * length)
    for start, count in zip(*(x.tolist() for x in cells.start.unique_consecutive(return_counts=True))):
        width = length - start
        floats = width * (4 * d + 2 * network.d_mlp) + 2 * length * d + 4 * d
        most = max(1, min(ROWS // width, (memory // network.W_U.element_size() - shared) // floats))
        most = -(-count // -(-count // most))  # no fewer batches for that, but of equal size
        for first in range(begin, begin + count, most):
            yield slice(first, min(first + most, begin + count))
        begin += count


# ---- the metric


def _difference(
    network: _Network, ends: Float[Tensor, "item d_model"], answers: Int[Tensor, "item 2"]
) -> Float[Tensor, item]:
    """The logit difference, from the two columns of the unembedding that it needs."""
    x = network.normed(ends, network.ln_final)
    right, wrong = ((x * network.W_U.T[which]).sum(dim=-1) + network.b_U[which] for which in answers.T)
    return right - wrong


def _measure(
    values: Float[Tensor, "cell batch"],
    network: _Network,
    patches: _Patches,
    metric: Callable[[Tensor], Tensor],
    place: Int[Tensor, item],
    prompt: Int[Tensor, item],
    ends: Float[Tensor, "item d_model"],
) -> None:
    """Write any metric of every computed cell into its place; prompts that a cell does not change have their logits."""
    for cell in place.unique():
        here = place == cell
        logits = patches.logits.clone()
        logits[prompt[here]] = network.logits(ends[here])
        values[cell] = measure(metric, logits, None)


def _two_columns(metric: Any) -> Int[Tensor, "batch 2"] | None:
    """The answers, if the metric is `partial(logit_diff, answers=...)`; else None."""
    if isinstance(metric, functools.partial) and metric.func is metrics.logit_diff and not metric.args:
        return metric.keywords.get("answers")
    return None
