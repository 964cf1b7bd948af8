"""A sparse autoencoder inside a running model: read its codes, put its reconstruction in, change one feature.

What an SAE does not reconstruct, its error term, carries behaviour of its own. With `error=True` that is put back
after the codes have been edited, so that only the edit shows: without an edit the model then runs as ever.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlib.sae.model import SAE, check_latent

Edit = Callable[[Tensor], Tensor]  # codes -> codes, both batch position latent


@torch.no_grad()
def read_site(
    model: Any, site: str, tokens: Int[Tensor, "row position"], batch_size: int = 64
) -> Float[Tensor, "row position d_in"]:
    """The activations at the hook point `site`. Raises KeyError if the model has none of that name."""
    if site not in model.hook_dict:
        raise KeyError(f"there is no hook point {site!r}: model.hook_dict lists them")
    some = [model.run_with_cache(rows, names_filter=site)[1][site] for rows in tokens.split(batch_size)]
    return torch.cat(some)


def error_term(sae: SAE, x: Float[Tensor, "*lead d_in"]) -> Float[Tensor, "*lead d_in"]:
    """What the SAE misses: x less its reconstruction."""
    return x - sae(x)


def run_with_sae(
    model: Any,
    sae: SAE,
    site: str,
    tokens: Int[Tensor, "batch position"],
    edit: Edit | None = None,
    error: bool = False,
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits with the SAE's reconstruction in place of the activations at `site`.

    `edit` changes the codes before they are decoded; with `error` the error term is added back.
    """

    def splice(x: Float[Tensor, "batch position d_in"], hook: Any) -> Tensor:
        codes = sae.encode(x)
        new = sae.decode(codes if edit is None else edit(codes))
        return new + (x - sae.decode(codes)) if error else new

    return model.run_with_hooks(tokens, fwd_hooks=[(site, splice)])


def steer(
    model: Any,
    sae: SAE,
    site: str,
    tokens: Int[Tensor, "batch position"],
    feature: int,
    value: float,
    where: Bool[Tensor, "batch position"] | None = None,
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits with one feature clamped: its code becomes `value` at every position, or only `where` that is true.

    Everything else, the error term too, stays as it was. Usual values are multiples of the feature's largest code
    (Templeton 2024, "Scaling Monosemanticity", https://transformer-circuits.pub/2024/scaling-monosemanticity).
    Raises IndexError if the SAE has no such latent.
    """
    check_latent(sae, feature)

    def clamp(codes: Float[Tensor, "batch position latent"]) -> Tensor:
        codes = codes.clone()
        codes[..., feature] = value if where is None else torch.where(where, value, codes[..., feature])
        return codes

    return run_with_sae(model, sae, site, tokens, clamp, error=True)


def ablate_feature(
    model: Any, sae: SAE, site: str, tokens: Int[Tensor, "batch position"], feature: int
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits without one feature: its code becomes 0 everywhere, and everything else stays."""
    return steer(model, sae, site, tokens, feature, 0.0)
