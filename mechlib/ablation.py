"""Taking a head out: what is lost without it depends on what one puts in its place.

- zero: nothing at all. Off the model's distribution: later layers have never seen a stream without the head's average.
- mean: the average of what the head says on reference prompts, so that it carries no news of *this* prompt.
- resample: what the head says on another prompt, so that everything stays a real activation (Chan et al. 2022,
  "Causal Scrubbing", https://www.alignmentforum.org/posts/JvZhhzycHu2Yd57RN). This is activation patching from
  a prompt that was drawn, not made for the purpose.
"""

from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

from mechlib import patching

Method = Literal["zero", "mean", "resample"]
Prompts = Int[Tensor, "rows position"]


def ablate_head(
    model: Any,
    tokens: Int[Tensor, "batch position"],
    layer: int,
    head: int,
    method: Method,
    reference: Prompts | None = None,
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits on `tokens` with one head's output (z, before W_O) replaced.

    "zero" needs no reference. "mean" takes the head's average over the rows of `reference`, for each position by
    itself. "resample" takes the head's output on `reference`, row by row, or on its only row.
    Raises ValueError for another method, and for a reference that is missing or does not fit.
    """
    match method:
        case "zero":
            return patching.zero_ablation(model, tokens, layer, head)
        case "mean":
            return patching.mean_ablation(model, tokens, _given(reference), layer, head)
        case "resample":
            _, source = model.run_with_cache(_given(reference))
            return patching.patch_head(model, tokens, source, layer, head)
    raise ValueError(f"method is 'zero', 'mean' or 'resample', not {method!r}")


def _given(reference: Prompts | None) -> Prompts:
    if reference is None:
        raise ValueError("mean and resample ablation need reference prompts")
    return reference
