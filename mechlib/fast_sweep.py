"""Activation patching's sweep without a forward pass for each cell. The numbers are those of the naive loop.

What does a patch not change? (docs/fast-patching.md goes through it slowly.)

1. Nothing before the patched layer. So a cell *joins* the computation at its layer: with the residual stream of the
   base run (the one that is patched; computed once), plus what the patch adds to it.
2. Nothing left of the patched position. Only positions from there on are computed; they look at the base run's keys and
   values on their left.
3. Nothing at all where the two runs agree: those cells keep the base run's value.
4. Nothing that the metric does not read. In the last layer only the position of the answer is computed, and a logit
   difference needs two columns of the unembedding.

The cells that are left run side by side, as one batch that grows from layer to layer (`_run`). Whatever the site, a
patch is an addition to the residual stream before or after some layer's attention; `_Patches` finds it.

For GPT-2's architecture (LayerNorm, learned positions, full attention, one MLP). `fast_sweep` raises `Unsupported` for
any other, and also if its own forward pass does not reproduce the model's logits.
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
# Patches of these sites join before the attention of their own layer (0) or of the next (1), the others after it.
JOINS_BEFORE = {"resid_pre": 0, "mlp_out": 1, "resid_post": 1}
# Our logits and the model's may differ by this part of the logits' range.
TOLERANCE = 1e-4
# Positions that are computed at once, at most: so many that matrix products are efficient, and that they stay in the
# processor's cache. Fewer where the model is small: see `_split`.
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
) -> Float[Tensor, "layer ..."]:
    """As `patching.naive_sweep`: the metric on `base` with each cell of `source`'s activations. Raises Unsupported."""
    if at is None:
        raise Unsupported("the metric reads all positions")
    network = _Network(model)
    patches = _Patches(model, network, base, source, site, by_position, at)
    _check(network, patches)

    cells = patches.cells()
    shape = shape_of(model, base, site, by_position)
    values = measure(metric, patches.logits, None).repeat(*shape, 1).view(-1, len(base))
    ends = torch.empty(len(cells), network.d_model, dtype=patches.logits.dtype, device=base.device)
    for some in _split(cells, network, patches):
        ends[some] = _run(network, patches, cells[some], at)
    _fill(values, network, patches, metric, cells, ends)
    return values.view(*shape, len(base))


# ---- GPT-2, written down


class _Network:
    """The model's weights (not copied), and its forward pass in pieces that can begin anywhere."""

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
        self.blocks = [self._views(block) for block in model.blocks]
        self.W_U, self.b_U, self.ln_final = model.W_U, model.b_U, (model.ln_final.w, model.ln_final.b)
        self.bytes = sum(p.numel() * p.element_size() for p in model.parameters())

    def _views(self, block: Any) -> SimpleNamespace:
        """A layer's weights as matrices that multiply from the right, all heads side by side."""
        attention, mlp, d = block.attn, block.mlp, self.d_model
        return SimpleNamespace(
            ln1=(block.ln1.w, block.ln1.b),
            ln2=(block.ln2.w, block.ln2.b),
            W_Q=attention.W_Q.permute(1, 0, 2).reshape(d, d),
            W_K=attention.W_K.permute(1, 0, 2).reshape(d, d),
            W_V=attention.W_V.permute(1, 0, 2).reshape(d, d),
            W_O=attention.W_O.reshape(d, d),
            b_Q=attention.b_Q.flatten(),
            b_K=attention.b_K.flatten(),
            b_V=attention.b_V.flatten(),
            b_O=attention.b_O,
            W_in=mlp.W_in,
            b_in=mlp.b_in,
            W_out=mlp.W_out,
            b_out=mlp.b_out,
        )

    def normed(self, stream: Tensor, layer_norm: tuple[Tensor, Tensor]) -> Tensor:
        return F.layer_norm(stream, (self.d_model,), *layer_norm, self.eps)

    def project(self, W: Tensor, b: Tensor, x: Float[Tensor, "item position d_model"]) -> Tensor:
        """Queries, keys or values of all heads: [item position head d_head]."""
        return torch.addmm(b, x.flatten(0, 1), W).view(*x.shape[:2], self.n_heads, self.d_head)

    def attend(self, block: Any, q: Tensor, k: Tensor, v: Tensor, mask: Bool[Tensor, "item 1 query key"]) -> Tensor:
        """What attention writes, from [item position head d_head] each: [item query d_model]."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
        return torch.addmm(block.b_O, z.flatten(0, 1).flatten(1), block.W_O).view(*z.shape[:2], self.d_model)

    def mlp(self, block: Any, stream: Float[Tensor, "item position d_model"]) -> Tensor:
        """What the MLP writes: [item position d_model]."""
        x = self.normed(stream, block.ln2).flatten(0, 1)
        hidden = self.activation(torch.addmm(block.b_in, x, block.W_in))
        return torch.addmm(block.b_out, hidden, block.W_out).view(stream.shape)


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

    def __init__(
        self,
        model: Any,
        network: _Network,
        base: Tensor,
        source: Tensor,
        site: str,
        by_position: bool,
        at: Tensor,
    ):
        self.network, self.site, self.by_position, self.at = network, site, by_position, at
        self.n_layers, self.length = model.cfg.n_layers, base.shape[1]
        needed = ["hook_resid_pre", "hook_attn_out", "attn.hook_k", "attn.hook_v", SITES[site].hook]
        if site in ("q", "k", "v", "pattern"):
            needed += ["attn.hook_q", "attn.hook_pattern"]
        names = {f"blocks.{layer}.{hook}" for layer in range(self.n_layers) for hook in needed}
        end = f"blocks.{self.n_layers - 1}.hook_resid_post"
        logits, both = model.run_with_cache(torch.cat([base, source]), names_filter=[*names, end])
        self.base = {name: both[name][: len(base)] for name in [*names, end]}
        self.source = {name: both[name][len(base) :] for name in names if name.endswith(SITES[site].hook)}
        self.logits = logits[torch.arange(len(base)), at]
        # Left of the first token that differs the two runs are the same, but for rounding.
        self.differs = (base != source).cumsum(dim=1) > 0

    def stream(self, layer: int, after_attention: bool) -> Float[Tensor, "batch position d_model"]:
        """The base run's residual stream before a layer's attention (or before a layer too many), or after it."""
        if layer == self.n_layers:
            return self.base[f"blocks.{layer - 1}.hook_resid_post"]
        stream = self.base[f"blocks.{layer}.hook_resid_pre"]
        return stream + self.base[f"blocks.{layer}.hook_attn_out"] if after_attention else stream

    def cells(self) -> _Cells:
        """The cells that change anything for a prompt before its answer is read."""
        found = []
        positions = range(self.length) if self.by_position else [None]
        read = torch.arange(self.length, device=self.at.device) <= self.at[:, None]
        for layer in range(self.n_layers):
            for position in positions:
                changed = self._written(layer, position).any(dim=-1) & read[..., None]  # [prompt position head]
                prompt, head = changed.any(dim=1).nonzero(as_tuple=True)
                first = (
                    changed.int().argmax(dim=1)[prompt, head] if position is None else torch.full_like(head, position)
                )
                found.append(torch.stack([first, torch.full_like(head, layer), head, prompt]))
        table = torch.cat(found, dim=1)
        order = (table[0] * self.n_layers + table[1]).argsort(stable=True)
        return _Cells(*table[:, order])

    def join(self, cells: _Cells, layer: int, after_attention: bool, stop: int) -> tuple[Tensor, Tensor] | None:
        """The prompts and the patched streams [item position d_model] of the cells that join here, from the first
        position that changes up to `stop`. All cells have the same start."""
        before = JOINS_BEFORE.get(self.site)
        if after_attention != (before is None):
            return None
        own = layer - (before or 0)
        here = cells[cells.layer == own]
        if not len(here):
            return None
        start = int(here.start[0])
        written = self._written(own, start if self.by_position else None)[:, start:stop]
        if SITES[self.site].head_axis is not None:
            W_O = self.network.blocks[own].W_O.view(self.network.n_heads, -1, self.network.d_model)
            written = torch.einsum("bphe,hed->bphd", written, W_O)
        added = written[here.prompt, :, here.head]
        return here.prompt, self.stream(layer, after_attention)[here.prompt, start:stop] + added

    def _written(self, layer: int, position: int | None) -> Float[Tensor, "batch position head d"]:
        """How what the site writes changes when it is patched, at one position or at all: z for each head, or the
        stream itself for sites without heads (as one head)."""
        name = SITES[self.site].name(layer)
        old, new = self.base[name], self.source[name]
        axis = SITES[self.site].position_axis
        if position is not None:
            one = torch.zeros_like(old)
            part = (slice(None),) * axis + (position,)
            one[part] = new[part] - old[part]
            new, change = old + one, one
        else:
            change = new - old
        at = f"blocks.{layer}.attn.hook_"
        match self.site:
            case "resid_pre" | "resid_post" | "attn_out" | "mlp_out":
                written = change[:, :, None]
            case "head":
                written = change
            case "v":
                written = torch.einsum("bhqk,bkhe->bqhe", self.base[at + "pattern"], change)
            case "pattern":
                written = torch.einsum("bhqk,bkhe->bqhe", change, self.base[at + "v"])
            case _:
                q, k = (new if which == self.site else self.base[at + which] for which in "qk")
                change = self._pattern(q, k) - self._pattern(self.base[at + "q"], self.base[at + "k"])
                written = torch.einsum("bhqk,bkhe->bqhe", change, self.base[at + "v"])
        return written * self.differs[:, :, None, None]

    def _pattern(self, q: Tensor, k: Tensor) -> Float[Tensor, "batch head query key"]:
        scores = torch.einsum("bqhe,bkhe->bhqk", q, k) / self.network.d_head**0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        return scores.masked_fill(future, -torch.inf).softmax(dim=-1)


# ---- the batch that grows


def _run(
    network: _Network,
    patches: _Patches,
    cells: _Cells,
    at: Int[Tensor, batch],
    join: Callable[..., tuple[Tensor, Tensor] | None] | None = None,
) -> Float[Tensor, "item d_model"]:
    """The final, normalised residual stream of each cell where the answer is read. All have the same start."""
    join = join or patches.join
    start, stop = int(cells.start[0]), int(at[cells.prompt].max()) + 1
    prompts = cells.prompt[:0]
    streams = patches.stream(0, False)[:0, start:stop]
    last = len(network.blocks) - 1

    def take(joining: tuple[Tensor, Tensor] | None) -> None:
        nonlocal prompts, streams
        if joining is not None:
            new_prompts, new = joining
            if new.shape[1] != streams.shape[1]:  # past the last layer's attention
                new = _at(new, at[new_prompts] - start)
            prompts, streams = torch.cat([prompts, new_prompts]), torch.cat([streams, new])

    for layer, block in enumerate(network.blocks):
        take(join(cells, layer, False, stop))
        x = network.normed(streams, block.ln1)
        left = [patches.base[f"blocks.{layer}.attn.hook_{which}"][prompts, :start] for which in "kv"]
        keys = torch.cat([left[0], network.project(block.W_K, block.b_K, x)], dim=1)
        values = torch.cat([left[1], network.project(block.W_V, block.b_V, x)], dim=1)
        query = torch.arange(start, stop, device=at.device)[None]
        if layer == last:  # nobody will look at the other positions
            query = at[prompts][:, None]
            x, streams = (_at(value, at[prompts] - start) for value in (x, streams))
        mask = (torch.arange(stop, device=at.device) <= query[..., None])[:, None]
        queries = network.project(block.W_Q, block.b_Q, x)
        streams = streams + network.attend(block, queries, keys, values, mask)
        take(join(cells, layer, True, stop))
        streams = streams + network.mlp(block, streams)
    take(join(cells, last + 1, False, stop))
    return network.normed(streams[:, 0], network.ln_final)


def _at(values: Float[Tensor, "item position d"], positions: Int[Tensor, item]) -> Float[Tensor, "item 1 d"]:
    return values[torch.arange(len(values), device=values.device), positions][:, None]


def _split(cells: _Cells, network: _Network, patches: _Patches) -> Iterator[slice]:
    """Runs of cells with the same start, so short that they need no more memory than weights and base run do."""
    size = network.W_U.element_size()
    budget = network.bytes + sum(value.numel() for value in patches.base.values()) * size
    begin, length = 0, patches.length
    for start, count in zip(*(x.tolist() for x in cells.start.unique_consecutive(return_counts=True))):
        width = length - start
        floats = width * (6 * network.d_model + 2 * network.d_mlp) + 4 * length * network.d_model
        most = max(1, min(ROWS // width, budget // (floats * size)))
        for first in range(begin, begin + count, most):
            yield slice(first, min(first + most, begin + count))
        begin += count


# ---- the metric


def _fill(
    values: Float[Tensor, "cell batch"],
    network: _Network,
    patches: _Patches,
    metric: Callable[[Tensor], Tensor],
    cells: _Cells,
    ends: Float[Tensor, "item d_model"],
) -> None:
    """Write the metric of every computed cell into its place."""
    n_heads = patches.source[SITES[patches.site].name(0)].shape[SITES[patches.site].head_axis or 0]
    place = cells.layer * patches.length + cells.start if patches.by_position else cells.layer
    if SITES[patches.site].head_axis is not None:
        place = place * n_heads + cells.head
    answers = _two_columns(metric)
    if answers is not None:
        right, wrong = answers.to(cells.prompt.device)[cells.prompt].T
        logits = [(ends * network.W_U.T[which]).sum(dim=-1) + network.b_U[which] for which in (right, wrong)]
        values[place, cells.prompt] = logits[0] - logits[1]
        return
    for cell in place.unique():
        here = place == cell
        logits = patches.logits.clone()
        logits[cells.prompt[here]] = ends[here] @ network.W_U + network.b_U
        values[cell] = measure(metric, logits, None)


def _two_columns(metric: Any) -> Int[Tensor, "batch 2"] | None:
    """The answers, if the metric is `partial(logit_diff, answers=...)`; else None."""
    if isinstance(metric, functools.partial) and metric.func is metrics.logit_diff and not metric.args:
        return metric.keywords.get("answers")
    return None


def _check(network: _Network, patches: _Patches) -> None:
    """Raises Unsupported if the first prompt, without any patch, does not come out as the model has it."""
    zero = patches.at.new_zeros(1)
    cell = _Cells(zero, zero, zero, zero)

    def join(cells: _Cells, layer: int, after_attention: bool, stop: int) -> tuple[Tensor, Tensor] | None:
        return (zero, patches.stream(0, False)[:1, :stop]) if layer == 0 and not after_attention else None

    ours = _run(network, patches, cell, patches.at, join) @ network.W_U + network.b_U
    theirs = patches.logits[:1]
    if not (ours - theirs).abs().max() <= TOLERANCE * (theirs.max() - theirs.min()):
        raise Unsupported("the fast sweep does not reproduce this model's logits (has it hooks of its own?)")
