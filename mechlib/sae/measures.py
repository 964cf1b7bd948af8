"""How good a sparse autoencoder is: sparse, faithful, and, where the truth is known, right."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlib.heads import per_token_loss
from mechlib.sae.model import SAE
from mechlib.sae.steering import read_site, run_with_sae

# ---- sparse and faithful


def l0(codes: Float[Tensor, "*lead latent"]) -> Float[Tensor, ""]:
    """How many latents are active at once, on average."""
    return (codes != 0).sum(dim=-1).float().mean()


def explained_variance(
    x: Float[Tensor, "*lead d_in"], reconstruction: Float[Tensor, "*lead d_in"]
) -> Float[Tensor, ""]:
    """1 less the squared error as a share of x's variance around its mean.

    1 is perfect, 0 is as good as always answering the mean; it can be negative. Sums run over rows and width together.
    """
    x, reconstruction = x.flatten(0, -2), reconstruction.flatten(0, -2)
    return 1 - (x - reconstruction).square().sum() / (x - x.mean(dim=0)).square().sum()


@dataclass(frozen=True)
class SpliceLosses:
    """A model's loss in nats a token: as it is, with the SAE's reconstruction in place of the site's activations, and
    with the activations' mean there."""

    clean: float
    spliced: float
    mean_ablated: float

    @property
    def share(self) -> float:
        """1: the reconstruction does as well as the activations; 0: no better than their mean."""
        return (self.mean_ablated - self.spliced) / (self.mean_ablated - self.clean)


@torch.no_grad()
def splice_losses(
    model: Any, sae: SAE, site: str, tokens: Int[Tensor, "row position"], batch_size: int = 64
) -> SpliceLosses:
    """The model's loss as it is, with the SAE's reconstruction at `site`, and with the mean of the site's activations
    there (one mean for all positions, taken over `tokens`)."""
    mean = read_site(model, site, tokens, batch_size).flatten(0, -2).mean(dim=0)

    def ablate(x: Tensor, hook: Any) -> Tensor:
        return mean.expand_as(x)

    losses = torch.zeros(3)
    for some in tokens.split(batch_size):
        runs = (
            model(some),
            run_with_sae(model, sae, site, some),
            model.run_with_hooks(some, fwd_hooks=[(site, ablate)]),
        )
        losses += torch.stack([per_token_loss(logits, some).sum().cpu() for logits in runs])
    return SpliceLosses(*(losses / tokens[:, 1:].numel()).tolist())


def loss_recovered(model: Any, sae: SAE, site: str, tokens: Int[Tensor, "row position"]) -> float:
    """How much of the model's loss the SAE's reconstruction keeps: 1 as good as the activations themselves, 0 as bad as
    their mean (`splice_losses`)."""
    return splice_losses(model, sae, site, tokens).share


# ---- dead and dense latents


def density(codes: Float[Tensor, "*lead latent"]) -> Float[Tensor, "latent"]:
    """The share of tokens on which each latent is active."""
    return (codes != 0).flatten(0, -2).float().mean(dim=0)


def dead_fraction(density: Float[Tensor, "latent"]) -> Float[Tensor, ""]:
    """The share of latents that are never active."""
    return (density == 0).float().mean()


def density_histogram(
    density: Float[Tensor, "latent"], bins: int = 30, lowest: float = -5.0
) -> tuple[Float[Tensor, "bins"], Float[Tensor, "bins+1"]]:
    """How many latents have which log10 of the density: counts, and the edges of equal bins from `lowest` to 0.

    Latents that are never active have no logarithm and are left out; what is below `lowest` counts in the first bin.
    """
    logs = density[density > 0].log10().clamp(min=lowest)
    edges = torch.linspace(lowest, 0, bins + 1)
    return torch.histc(logs.float().cpu(), bins, lowest, 0), edges


# ---- right


def mean_max_cosine_similarity(
    found: Float[Tensor, "latent d_in"], true: Float[Tensor, "feature d_in"]
) -> Float[Tensor, ""]:
    """For every true feature the cosine similarity of the latent that is most like it; their mean (Sharkey 2022,
    https://www.alignmentforum.org/posts/z6QQJbtpkEAX3Aojj).

    Only missing features lower it: latents that are like no feature do not show. Directions of length 0 are like
    nothing. The sign counts.
    """
    found, true = (torch.nn.functional.normalize(directions) for directions in (found, true))
    return (true @ found.T).amax(dim=1).mean()
