"""Taking a head out: what is lost without it depends on what one puts in its place.

- zero: nothing at all. Off the model's distribution: later layers have never seen a stream without the head's average.
- mean: the average of what the head says on reference prompts, so that it carries no news of *this* prompt.
- resample: what the head says on another prompt, so that everything stays a real activation (Chan et al. 2022,
  "Causal Scrubbing", https://www.alignmentforum.org/posts/JvZhhzycHu2Yd57RN).
"""

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Method = Literal["zero", "mean", "resample"]


def ablate_head(
    model: Any,
    tokens: Int[Tensor, "batch position"],
    layer: int,
    head: int,
    method: Method,
    reference: Int[Tensor, "rows position"] | None = None,
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits on `tokens` with one head's output replaced.

    "zero" needs no reference. "mean" takes the head's average over the rows of `reference`, for each position by
    itself. "resample" takes the head's output on `reference`, row by row, which must have the shape of `tokens`.
    Raises ValueError for another method, and for a reference that is missing or does not fit.
    """
    _check(tokens, method, reference)
    name = f"blocks.{layer}.attn.hook_z"  # a head's output before W_O, which is linear
    replacement = torch.zeros(())  # broadcasts
    if reference is not None and method != "zero":
        _, cache = model.run_with_cache(reference, names_filter=name)
        replacement = cache[name][:, :, head]
    if method == "mean":
        replacement = replacement.mean(dim=0)

    def replace(z: Float[Tensor, "batch position head d_head"], hook: Any) -> Tensor:
        z = z.clone()
        z[:, :, head] = replacement
        return z

    return model.run_with_hooks(tokens, fwd_hooks=[(name, replace)])


def _check(tokens: Tensor, method: str, reference: Tensor | None) -> None:
    if method not in ("zero", "mean", "resample"):
        raise ValueError(f"method is 'zero', 'mean' or 'resample', not {method!r}")
    if method != "zero" and (reference is None or reference.shape[1] != tokens.shape[1]):
        raise ValueError(f"{method} ablation needs reference prompts as long as the tokens")
    if method == "resample" and reference is not None and len(reference) != len(tokens):
        raise ValueError("resample ablation needs as many reference prompts as there are rows of tokens")
