"""Attribution patching: an estimate of every patch's effect from two forward passes and one backward pass.

A patch moves an activation from its value on the base run to its value on the other. Near the base run the metric is
almost linear, so the change is about gradient times difference, summed over the activation's dimensions. One backward
pass gives the gradients of all activations at once. Where the metric is not linear along the way (a saturated
softmax, a ReLU that is off, a LayerNorm with little to normalise) the estimate is wrong, and says nothing about it.

Nanda 2023, "Attribution Patching" (https://www.neelnanda.io/mechanistic-interpretability/attribution-patching);
Syed et al. 2023 (https://arxiv.org/abs/2310.10348); Kramar et al. 2024, AtP* (https://arxiv.org/abs/2403.00745).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlib.metrics import DIRECTIONS, logit_diff
from mechlib.patching import SITES, Metric, Site, Tokens, check_choice, check_prompts, measure, reading


def attribution_patching(
    model: Any,
    clean: Tokens,
    corrupted: Tokens,
    metric: Metric,
    site: str = "resid_pre",
    by_position: bool = True,
    direction: str = "denoising",
    at: Int[Tensor, "batch"] | str | None = None,
) -> Float[Tensor, "layer ..."]:
    """The estimated change of the metric for every cell that `patching.sweep` would patch, in the same order.

    Note that `sweep` gives the metric itself: compare with `sweep(...) - the metric on the unpatched run`. The
    arguments and the errors are those of `sweep`. The model's parameters may be frozen. For several sites at once,
    from the same three passes, see `attribute`.
    """
    return attribute(model, clean, corrupted, metric, [site], by_position, direction, at)[site]


def attribute(
    model: Any,
    clean: Tokens,
    corrupted: Tokens,
    metric: Metric,
    sites: Sequence[str],
    by_position: bool = True,
    direction: str = "denoising",
    at: Int[Tensor, "batch"] | str | None = None,
) -> dict[str, Float[Tensor, "layer ..."]]:
    """`attribution_patching` for several sites, from two forward passes and one backward pass in all."""
    check_prompts(model, clean, corrupted)
    check_choice("direction", direction, DIRECTIONS)
    for site in sites:
        check_choice("site", site, SITES)
    base, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    names = [SITES[site].name(layer) for site in sites for layer in range(model.cfg.n_layers)]
    with torch.no_grad():
        _, there = model.run_with_cache(source, names_filter=names)
    here, slopes = gradients(model, base, metric, names, reading(base, at))
    effects = {}
    for site in sites:
        layers = [SITES[site].name(layer) for layer in range(model.cfg.n_layers)]
        each = [_by_cell(slopes[name] * (there[name] - here[name]), SITES[site], by_position) for name in layers]
        effects[site] = torch.stack(each)
    return effects


def head_attribution(
    model: Any, clean: Tokens, corrupted: Tokens, answers: Int[Tensor, "batch 2"]
) -> Float[Tensor, "layer head"]:
    """Every head's estimated effect when denoising (its output, z, at all positions): the change of the logit
    difference at the last position, mean over prompts."""
    metric = partial(logit_diff, answers=answers)
    return attribution_patching(model, clean, corrupted, metric, "head", by_position=False).mean(dim=-1)


def gradients(
    model: Any, tokens: Tokens, metric: Metric, names: Sequence[str], at: Int[Tensor, "batch"] | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The activations at these hooks, and each prompt's metric differentiated with respect to them.

    Prompts do not see each other, so the gradient of the sum holds every prompt's own.
    """
    held: dict[str, Tensor] = {}

    def begin(embeddings: Tensor, hook: Any) -> Tensor:
        return embeddings.detach().requires_grad_(True)  # the parameters may be frozen; here the graph begins

    def hold(name: str) -> Any:
        def keep(value: Tensor, hook: Any) -> Tensor:
            held[name] = value.view_as(value)  # a tensor of its own: the gradient of what reads this hook, no more
            return held[name]

        return keep

    hooks = [("hook_embed", begin), *((name, hold(name)) for name in names)]
    with torch.enable_grad():
        total = measure(metric, model.run_with_hooks(tokens, fwd_hooks=hooks), at).sum()
        if not total.requires_grad:
            raise ValueError("The metric has no gradient: accuracy and rank jump; take logit_diff or log_prob.")
        slopes = torch.autograd.grad(total, [held[name] for name in names], allow_unused=True)
    filled = [torch.zeros_like(held[n]) if slope is None else slope for n, slope in zip(names, slopes)]
    return {name: value.detach() for name, value in held.items()}, dict(zip(names, filled))


def _by_cell(product: Tensor, site: Site, by_position: bool) -> Float[Tensor, "..."]:
    """Sum over all that belongs to one cell; what remains is [position, head, prompt], as far as there are any."""
    kept = [axis for axis in (site.position_axis if by_position else None, site.head_axis) if axis is not None]
    summed = [axis for axis in range(1, product.ndim) if axis not in kept]
    product = product.sum(dim=summed) if summed else product
    if site.head_axis == 1 and by_position:  # a pattern: [prompt head query]
        product = product.transpose(1, 2)
    return product.movedim(0, -1)
