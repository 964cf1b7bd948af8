"""Activation patching: run a model on one prompt with a piece of another run put in, and see what the answer does.

A *clean* prompt and its *corrupted* twin, of equal length, differ in one fact. There are two directions:

denoising   run the corrupted prompt, put clean activations in: what is *sufficient* to bring the answer back?
noising     run the clean prompt, put corrupted activations in: what is *necessary*, so that the answer breaks?

`patch_residual`, `patch_head` and their kin do one patch and are written to be read. `sweep` patches every cell of a
site, such as all heads at all positions, and returns the metric for each cell and each prompt:

    values = sweep(model, clean, corrupted, partial(logit_diff, answers=answers), site="head", by_position=False)
    values.mean(dim=-1)  # [layer head]

It gives the numbers of the naive loop, many times faster (mechlib/fast_sweep.py; docs/fast-patching.md).

Vig et al. 2020 (https://arxiv.org/abs/2004.12265); Meng et al. 2022, causal tracing (https://arxiv.org/abs/2202.05262);
Geva et al. 2023, attention knockout (https://arxiv.org/abs/2304.14767); Heimersheim & Nanda 2024, "How to use and
interpret activation patching" (https://arxiv.org/abs/2404.15255).
"""

import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlib.metrics import DIRECTIONS, logit_diff

Tokens = Int[Tensor, "batch position"]
# From the logits at the end of each prompt, [batch vocabulary], to a number for each prompt, [batch].
Metric = Callable[[Tensor], Tensor]
# Activations by hook name: an ActivationCache, or a dictionary.
Cache = Mapping[str, Tensor]


@dataclass(frozen=True)
class Site:
    """A kind of activation, which every layer has: its hook, and which axes are positions and heads."""

    hook: str
    position_axis: int = 1
    head_axis: int | None = None

    def name(self, layer: int) -> str:
        return f"blocks.{layer}.{self.hook}"


SITES = {
    "resid_pre": Site("hook_resid_pre"),  # the residual stream before a layer
    "resid_post": Site("hook_resid_post"),  # and after it
    "attn_out": Site("hook_attn_out"),  # what a layer's attention writes
    "mlp_out": Site("hook_mlp_out"),  # what its MLP writes
    "head": Site("attn.hook_z", head_axis=2),  # a head's output, before W_O
    "q": Site("attn.hook_q", head_axis=2),
    "k": Site("attn.hook_k", head_axis=2),
    "v": Site("attn.hook_v", head_axis=2),
    "pattern": Site("attn.hook_pattern", position_axis=2, head_axis=1),  # by position: the position of the query
}


# ---- one patch


def patch_residual(
    model: Any, tokens: Tokens, source: Cache, layer: int, position: int
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits on `tokens` with the residual stream before `layer` at `position` taken from another run.

    `source` is the other run's cache. Raises ValueError if it does not fit the tokens, or if there is no such
    layer or position.
    """
    name = f"blocks.{layer}.hook_resid_pre"
    _check_cell(model, tokens, layer, position)
    _check_source(tokens, source, name)

    def put(stream: Tensor, hook: Any) -> Tensor:
        stream = stream.clone()
        stream[:, position] = source[name][:, position]
        return stream

    return model.run_with_hooks(tokens, fwd_hooks=[(name, put)])


def patch_head(
    model: Any, tokens: Tokens, source: Cache, layer: int, head: int, position: int | None = None
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits with one head's output (z, before W_O) taken from another run: at one position, or at all."""
    return _patch(model, tokens, source, "head", layer, position, head)


def patch_mlp(
    model: Any, tokens: Tokens, source: Cache, layer: int, position: int | None = None
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits with what an MLP writes taken from another run: at one position, or at all."""
    return _patch(model, tokens, source, "mlp_out", layer, position)


def patch_pattern(
    model: Any, tokens: Tokens, source: Cache, layer: int, head: int, position: int | None = None
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits with where a head looks taken from another run: for the query at one position, or for all."""
    return _patch(model, tokens, source, "pattern", layer, position, head)


def _patch(
    model: Any, tokens: Tokens, source: Cache, site: str, layer: int, position: int | None, head: int | None = None
) -> Tensor:
    """The logits with any site's activation taken from another run."""
    _check_cell(model, tokens, layer, position, head)
    name, part = SITES[site].name(layer), part_of(SITES[site], position, head)
    _check_source(tokens, source, name)

    def put(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        value[part] = source[name][part]
        return value

    return model.run_with_hooks(tokens, fwd_hooks=[(name, put)])


def part_of(site: Site, position: int | None, head: int | None) -> tuple:
    """The index of one cell in an activation of the site; None means all positions, or all heads."""
    part: list[Any] = [slice(None)] * 3
    if position is not None:
        part[site.position_axis] = position
    if head is not None and site.head_axis is not None:
        part[site.head_axis] = head
    return tuple(part)


# ---- every patch


def sweep(
    model: Any,
    clean: Tokens,
    corrupted: Tokens,
    metric: Metric,
    site: str = "resid_pre",
    by_position: bool = True,
    direction: str = "denoising",
    at: Int[Tensor, "batch"] | str | None = None,
    fast: bool = True,
) -> Float[Tensor, "layer ..."]:
    """The metric after patching every cell of a site, one at a time.

    Args:
        metric: from the logits at the end of each prompt, [batch vocabulary], to a number for each, [batch].
        site: one of `SITES`.
        by_position: patch each position by itself, or all of them at once.
        direction: "denoising" runs the corrupted prompts with clean activations, "noising" the other way round.
        at: the position where each prompt's answer is read; the last one if None. With "all", the metric is given the
            logits of all positions, [batch position vocabulary].
        fast: share the work between cells (the same numbers); else one forward pass for each cell.

    Returns:
        The metric, [layer, position, head, prompt]: without positions unless `by_position`, without heads
        unless the site has them. Where the fast way does not support the model or the metric, hooks do the
        work and a warning says so, once.

    Raises:
        ValueError: prompts of different shapes or on another device than the model's, an unknown site or
            direction, a metric of the wrong shape, `at` out of range. One sentence each.
    """
    from mechlib import fast_sweep

    check_prompts(model, clean, corrupted)
    check_choice("site", site, SITES)
    check_choice("direction", direction, DIRECTIONS)
    base, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    read = reading(base, at)
    with torch.no_grad():
        if fast:
            try:
                return fast_sweep.fast_sweep(model, base, source, metric, site, by_position, read)
            except fast_sweep.Unsupported as reason:
                _say_once(f"mechlib.patching.sweep takes one forward pass for each cell here: {reason}.")
        return naive_sweep(model, base, source, metric, site, by_position, read)


def naive_sweep(
    model: Any,
    base: Tokens,
    source: Tokens,
    metric: Metric,
    site: str,
    by_position: bool,
    at: Int[Tensor, "batch"] | None,
) -> Float[Tensor, "layer ..."]:
    """The naive loop: one forward pass for each cell. `at=None` hands all logits to the metric."""
    names = [SITES[site].name(layer) for layer in range(model.cfg.n_layers)]
    _, cache = model.run_with_cache(source, names_filter=names)
    values = []
    for cell in cells(model, base, site, by_position):
        logits = _patch(model, base, cache, site, *cell)
        values.append(measure(metric, logits, at))
    return torch.stack(values).view(*shape_of(model, base, site, by_position), len(base))


def residual_sweep(
    model: Any, clean: Tokens, corrupted: Tokens, answers: Int[Tensor, "batch 2"], direction: str = "denoising"
) -> Float[Tensor, "layer position"]:
    """The mean logit difference at the last position, for each patch of the residual stream.

    The loop that a chapter's reader writes first: one forward pass for each cell. `sweep` gives the same numbers.
    """
    base, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    _, cache = model.run_with_cache(source)
    values = torch.zeros(model.cfg.n_layers, base.shape[1], device=base.device)
    for layer, position in itertools.product(*map(range, values.shape)):
        logits = patch_residual(model, base, cache, layer, position)
        values[layer, position] = logit_diff(logits[:, -1], answers).mean()
    return values


def cells(model: Any, tokens: Tokens, site: str, by_position: bool) -> Iterable[tuple[int, int | None, int | None]]:
    """(layer, position, head) of every cell, in the order of the result; None where a cell has all of them."""
    heads = range(n_heads(model, site)) if SITES[site].head_axis else [None]
    positions = range(tokens.shape[1]) if by_position else [None]
    return itertools.product(range(model.cfg.n_layers), positions, heads)


def shape_of(model: Any, tokens: Tokens, site: str, by_position: bool) -> list[int]:
    shape = [model.cfg.n_layers]
    if by_position:
        shape.append(tokens.shape[1])
    if SITES[site].head_axis:
        shape.append(n_heads(model, site))
    return shape


def n_heads(model: Any, site: str) -> int:
    """The heads of a site. Models with grouped-query attention have fewer keys and values than queries."""
    grouped = getattr(model.cfg, "n_key_value_heads", None) if site in ("k", "v") else None
    return grouped or model.cfg.n_heads


def measure(metric: Metric, logits: Tensor, at: Int[Tensor, "batch"] | None) -> Float[Tensor, "batch"]:
    """The metric's value for each prompt. Raises ValueError, in one sentence, if it has another shape."""
    values = metric(logits if at is None else logits[torch.arange(len(logits), device=logits.device), at])
    if not isinstance(values, Tensor) or values.shape != (len(logits),):
        got = f"shape {list(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
        raise ValueError(f"The metric should return one number for each prompt, shape [{len(logits)}]; it gave {got}.")
    return values


# ---- ablation: what if a head said nothing about this prompt?


def zero_ablation(model: Any, tokens: Tokens, layer: int, head: int) -> Float[Tensor, "batch position vocabulary"]:
    """The logits with a head's output (z) set to zero: a value that the rest of the model may never have seen."""
    return _replace_head(model, tokens, layer, head, lambda z: torch.zeros_like(z))


def mean_ablation(
    model: Any, tokens: Tokens, reference: Tokens, layer: int, head: int
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits with a head's output (z) set, at each position, to its mean over the reference prompts.

    The reference prompts are as long as the others; there may be any number of them.
    """
    other = _head_output(model, tokens, reference, layer, head)
    return _replace_head(model, tokens, layer, head, lambda z: other.mean(dim=0).expand_as(z))


def resample_ablation(
    model: Any, tokens: Tokens, reference: Tokens, layer: int, head: int, generator: torch.Generator | None = None
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits with a head's output (z) as it is on another prompt: for each, one reference prompt is drawn."""
    other = _head_output(model, tokens, reference, layer, head)
    drawn = torch.randint(len(reference), (len(tokens),), generator=generator)
    return _replace_head(model, tokens, layer, head, lambda z: other[drawn.to(other.device)])


def _head_output(model: Any, tokens: Tokens, reference: Tokens, layer: int, head: int) -> Tensor:
    """[prompt position d_head]: what the head gives on the reference prompts."""
    _check_cell(model, tokens, layer, head=head)
    if reference.shape[1] != tokens.shape[1]:
        raise ValueError(
            f"The reference prompts have {reference.shape[1]} tokens and the others {tokens.shape[1]}: "
            "take prompts of equal length."
        )
    name = SITES["head"].name(layer)
    return model.run_with_cache(reference, names_filter=[name])[1][name][:, :, head]


def _replace_head(
    model: Any, tokens: Tokens, layer: int, head: int, by: Callable[[Tensor], Tensor]
) -> Float[Tensor, "batch position vocabulary"]:
    _check_cell(model, tokens, layer, head=head)

    def put(z: Tensor, hook: Any) -> Tensor:
        z = z.clone()
        z[:, :, head] = by(z[:, :, head])
        return z

    return model.run_with_hooks(tokens, fwd_hooks=[(SITES["head"].name(layer), put)])


# ---- attention knockout


def attention_knockout(
    model: Any, tokens: Tokens, edges: Sequence[tuple[int, int]], layers: Iterable[int] | None = None
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits when no head of these layers (all by default) may look along these edges.

    An edge is (query position, key position). Its score is set to minus infinity before the softmax, so the
    other keys share the attention. Raises ValueError for an edge out of range, for one that looks forward, and
    if a query is left without any key.
    """
    layers = list(range(model.cfg.n_layers) if layers is None else layers)
    edges = [(query, key) for query, key in edges]
    for layer in layers:
        _check_cell(model, tokens, layer)
    _check_edges(edges, tokens.shape[1])

    def cut(scores: Tensor, hook: Any) -> Tensor:
        scores = scores.clone()
        for query, key in edges:
            scores[:, :, query, key] = -torch.inf
        return scores

    hooks = [(f"blocks.{layer}.attn.hook_attn_scores", cut) for layer in layers]
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


# ---- causal tracing


def corrupt_by_noise(
    embeddings: Float[Tensor, "batch position d_model"],
    positions: Sequence[int],
    scale: float,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch position d_model"]:
    """A copy of the embeddings with Gaussian noise of standard deviation `scale` added at some positions.

    Meng et al. take three standard deviations of the model's token embeddings as the scale. The noise is drawn for
    each prompt, position and dimension, on the CPU. Raises ValueError if a position is out of range.
    """
    length = embeddings.shape[1]
    for position in positions:
        check_position(position, length)
    noised = embeddings.clone()
    shape = (len(embeddings), len(positions), embeddings.shape[2])
    noise = torch.randn(shape, generator=generator, dtype=torch.float32)
    noised[:, list(positions)] += scale * noise.to(embeddings)
    return noised


@dataclass(frozen=True)
class CausalTrace:
    """What causal tracing measured, for each prompt: the metric on three kinds of runs."""

    clean: Float[Tensor, "batch"]
    corrupted: Float[Tensor, "batch"]
    restored: Float[Tensor, "layer position batch"]

    @property
    def effects(self) -> tuple[Tensor, Tensor, Tensor]:
        """`trace_effects` of what was measured."""
        return trace_effects(self.clean, self.corrupted, self.restored)


def trace_effects(
    clean: Float[Tensor, "batch"], corrupted: Float[Tensor, "batch"], restored: Float[Tensor, "layer position batch"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "layer position"], Float[Tensor, "layer position"]]:
    """The total effect, the indirect effects, and the fraction restored, from a metric on three kinds of runs.

    The total effect is how much the corruption takes away, an indirect effect how much of it a restored state gives
    back, both means over prompts; the fraction is their ratio. Meng et al. 2022.
    """
    total = (clean - corrupted).mean()
    indirect = (restored - corrupted).mean(dim=-1)
    return total, indirect, indirect / total


def causal_trace(
    model: Any,
    tokens: Tokens,
    subject: Sequence[int],
    metric: Metric,
    scale: float,
    site: str = "resid_post",
    window: int = 1,
    at: Int[Tensor, "batch"] | str | None = None,
    generator: torch.Generator | None = None,
) -> CausalTrace:
    """Causal tracing: noise on the subject's embeddings, then one clean state (or a window of them) put back.

    At each layer and position the site's clean activations are restored in `window` layers around that layer
    (Meng et al.: 1 for the stream, 10 for MLPs and attention of 48 layers), everything else stays corrupted. All
    runs see the same noise. Raises ValueError as `sweep` does.
    """
    check_choice("site", site, SITES)
    n_layers, read = model.cfg.n_layers, reading(tokens, at)
    names = [SITES[site].name(layer) for layer in range(n_layers)]
    state = generator.get_state() if generator else None

    def noise(embeddings: Tensor, hook: Any) -> Tensor:
        return corrupt_by_noise(embeddings, subject, scale, _again(generator, state))

    with torch.no_grad():
        clean, cache = model.run_with_cache(tokens, names_filter=names)
        if generator is None:
            generator = torch.Generator().manual_seed(0)
            state = generator.get_state()
        corrupted = model.run_with_hooks(tokens, fwd_hooks=[("hook_embed", noise)])
        rows = []
        for layer, position in itertools.product(range(n_layers), range(tokens.shape[1])):
            first = max(0, min(layer - (window - 1) // 2, n_layers - window))
            hooks: list[tuple[str, Callable]] = [("hook_embed", noise)]
            hooks += [(name, _put(cache[name], position)) for name in names[first : first + window]]
            rows.append(measure(metric, model.run_with_hooks(tokens, fwd_hooks=hooks), read))
    restored = torch.stack(rows).view(n_layers, tokens.shape[1], len(tokens))
    return CausalTrace(measure(metric, clean, read), measure(metric, corrupted, read), restored)


def _again(generator: torch.Generator | None, state: Tensor | None) -> torch.Generator | None:
    """The generator as it was before the first draw, so that every run sees the same noise."""
    if generator is not None and state is not None:
        generator.set_state(state)
    return generator


def _put(clean: Tensor, position: int) -> Callable[[Tensor, Any], Tensor]:
    def put(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        value[:, position] = clean[:, position]
        return value

    return put


# ---- what can go wrong, in one sentence


def check_prompts(model: Any, clean: Tokens, corrupted: Tokens) -> None:
    """Raises ValueError if the prompts cannot be patched into each other, or are not where the model is."""
    for name, tokens in (("clean", clean), ("corrupted", corrupted)):
        if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.is_floating_point():
            raise ValueError(f"The {name} prompts should be token ids, a tensor [batch position] of integers.")
        check_device(model, tokens, f"The {name} prompts are")
    if clean.shape[1] != corrupted.shape[1]:
        raise ValueError(
            f"The clean prompts have {clean.shape[1]} tokens and the corrupted ones {corrupted.shape[1]}: "
            "corrupt by swapping words of equal length, so that positions mean the same in both."
        )
    if len(clean) != len(corrupted):
        raise ValueError(f"There are {len(clean)} clean prompts and {len(corrupted)} corrupted ones: give pairs.")


def check_device(model: Any, tokens: Tensor, who: str) -> None:
    device = next(model.parameters()).device
    if tokens.device != device:
        raise ValueError(f"{who} on {tokens.device} and the model is on {device}: move them with .to({str(device)!r}).")


def check_choice(what: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise ValueError(f"{what} is one of {', '.join(map(repr, known))}, not {value!r}.")


def check_position(position: int, length: int) -> None:
    if not -length <= position < length:
        raise ValueError(f"Position {position} is out of range: the prompts have {length} tokens.")


def _check_cell(model: Any, tokens: Tokens, layer: int, position: int | None = None, head: int | None = None) -> None:
    check_device(model, tokens, "The tokens are")
    if not 0 <= layer < model.cfg.n_layers:
        raise ValueError(f"There is no layer {layer}: the model has {model.cfg.n_layers}, counted from 0.")
    if head is not None and not 0 <= head < model.cfg.n_heads:
        raise ValueError(f"There is no head {head}: a layer has {model.cfg.n_heads}, counted from 0.")
    if position is not None:
        check_position(position, tokens.shape[1])


def _check_edges(edges: Sequence[tuple[int, int]], length: int) -> None:
    for query, key in edges:
        if not 0 <= key <= query < length:
            raise ValueError(f"({query}, {key}) is not an edge: write (query, key) with 0 <= key <= query < {length}.")
        if all((query, k) in edges for k in range(query + 1)):
            raise ValueError(f"Position {query} has no key left to look at: keep one, such as (query, 0).")


def _check_source(tokens: Tokens, source: Cache, name: str) -> None:
    if name not in source:
        raise ValueError(f"The other run's cache has no {name}: make it with model.run_with_cache(tokens).")
    value = source[name]
    length = value.shape[2] if "pattern" in name else value.shape[1]
    if len(value) not in (1, len(tokens)) or length != tokens.shape[1]:
        raise ValueError(
            f"The other run had {len(value)} prompts of {length} tokens, and this one has {len(tokens)} of "
            f"{tokens.shape[1]}: patch between prompts of equal length."
        )


def reading(tokens: Tokens, at: Int[Tensor, "batch"] | str | None) -> Int[Tensor, "batch"] | None:
    """Where the answers are read; None for everywhere. Raises ValueError if that is out of range."""
    batch, length = tokens.shape
    if isinstance(at, str):
        check_choice("at", at, ["all"])
        return None
    if at is None:
        return torch.full((batch,), length - 1, device=tokens.device)
    if at.shape != (batch,):
        raise ValueError(f"`at` should hold one position for each prompt, shape [{batch}], not {list(at.shape)}.")
    for position in (int(at.min()), int(at.max())):
        check_position(position, length)
    return (at % length).to(tokens.device)


_SAID: set[str] = set()


def _say_once(sentence: str) -> None:
    if sentence not in _SAID:
        _SAID.add(sentence)
        warnings.warn(sentence, stacklevel=3)
