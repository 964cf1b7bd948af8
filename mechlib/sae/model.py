"""A sparse autoencoder, its three activation functions, and its losses.

    pre   = (x - b_dec) W_enc + b_enc          how much of each feature is in x
    codes = relu | topk | jumprelu of pre      all but a few set to 0
    x_hat = codes W_dec + b_dec                put together again from the few that are left

Bricken et al. 2023, "Towards Monosemanticity" (https://transformer-circuits.pub/2023/monosemantic-features), and
Cunningham et al. 2023 (https://arxiv.org/abs/2309.08600): ReLU with an L1 penalty. Gao et al. 2024
(https://arxiv.org/abs/2406.04093): TopK. Rajamanoharan et al. 2024 (https://arxiv.org/abs/2407.14435): JumpReLU.
"""

from numbers import Integral
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

Activation = Literal["relu", "topk", "jumprelu"]


# ---- activation functions


def _check_k(k: int | None, pre: Tensor) -> None:
    latents = pre.shape[-1]
    if not isinstance(k, Integral) or not 1 <= k <= latents:
        raise ValueError(f"k is {k}, and there are {latents} latents: choose a whole number from 1 to {latents}.")


def topk_activation(pre: Float[Tensor, "*lead latent"], k: int) -> Float[Tensor, "*lead latent"]:
    """The k largest entries of each row, those of them that are positive; 0 everywhere else (Gao 2024).

    Raises ValueError if k is no whole number from 1 to the number of latents.
    """
    _check_k(k, pre)
    values, latents = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, latents, values.relu())


class _JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,), (pre, threshold) = gradients, ctx.saved_tensors
        near = _within(pre, threshold, ctx.bandwidth)
        towards_threshold = (-threshold / ctx.bandwidth * near * gradient).flatten(0, -2).sum(dim=0)
        return gradient * (pre > threshold), towards_threshold, None


class _Heaviside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        (gradient,), (pre, threshold) = gradients, ctx.saved_tensors
        near = _within(pre, threshold, ctx.bandwidth)
        return None, (-1 / ctx.bandwidth * near * gradient).flatten(0, -2).sum(dim=0), None


def _within(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """1 where pre is less than half a bandwidth from its threshold: the kernel of the straight-through estimate."""
    return ((pre - threshold).abs() < bandwidth / 2).to(pre)


def jumprelu(
    pre: Float[Tensor, "*lead latent"], threshold: Float[Tensor, "latent"], bandwidth: float
) -> Float[Tensor, "*lead latent"]:
    """`pre` where it exceeds its latent's threshold (a positive number), else 0.

    The true gradient for the threshold is 0 almost everywhere, so that nothing would be learnt. Instead it is taken
    as -threshold / bandwidth where pre is within half a bandwidth of the threshold, and 0 elsewhere: the estimate, on
    many rows, of how the expected output changes (Rajamanoharan 2024, equation 11). The gradient for `pre` is exact.
    """
    return _JumpReLU.apply(pre, threshold, bandwidth)


def heaviside(
    pre: Float[Tensor, "*lead latent"], threshold: Float[Tensor, "latent"], bandwidth: float = 0.05
) -> Float[Tensor, "*lead latent"]:
    """1 where `pre` exceeds its threshold, else 0: summed over the latents it is the L0.

    The gradient for the threshold is estimated as -1 / bandwidth within half a bandwidth of it (Rajamanoharan 2024,
    equation 12); `pre` gets none.
    """
    return _Heaviside.apply(pre, threshold, bandwidth)


# ---- the autoencoder


class SAE(nn.Module):
    """A sparse autoencoder of activations of width `d_in` with `d_sae` latents.

    `activation` is "relu", "topk" (needs `k`, the latents that may be active at once) or "jumprelu" (its thresholds
    start at `threshold`). The decoder's rows start at length 1 in random directions, the encoder as the decoder's
    transpose. Raises ValueError for another activation, a size below 1, or a k that is no whole number from 1 to d_sae.
    """

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        activation: Activation = "relu",
        k: int | None = None,
        threshold: float = 0.1,
        bandwidth: float = 0.05,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        _check_sizes(d_in, d_sae)
        _check_activation(activation, k, d_sae)
        self.d_in, self.d_sae = d_in, d_sae
        self.activation, self.k, self.bandwidth = activation, k, bandwidth
        self.card: dict[str, Any] = {}  # what is known about a saved one
        directions = torch.randn(d_sae, d_in, generator=generator)
        directions /= directions.norm(dim=1, keepdim=True)
        self.W_dec = nn.Parameter(directions)
        # Contiguous, because Adam's fused kernel silently goes wrong on a transposed view.
        self.W_enc = nn.Parameter(directions.T.clone(memory_format=torch.contiguous_format))
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        if activation == "jumprelu":
            self.log_threshold = nn.Parameter(torch.full((d_sae,), threshold).log())

    @property
    def threshold(self) -> Float[Tensor, "latent"]:
        """What a pre-activation must exceed, always positive; only JumpReLU has one."""
        return self.log_threshold.exp()

    def pre_activations(self, x: Float[Tensor, "*lead d_in"]) -> Float[Tensor, "*lead latent"]:
        """Raises ValueError if x has another width than d_in."""
        _check_width(x, self.d_in)
        return (x - self.b_dec) @ self.W_enc + self.b_enc

    def activate(self, pre: Float[Tensor, "*lead latent"]) -> Float[Tensor, "*lead latent"]:
        return _activate(self, pre)

    def encode(self, x: Float[Tensor, "*lead d_in"]) -> Float[Tensor, "*lead latent"]:
        """The codes: how much of each feature is in x, at least 0."""
        return self.activate(self.pre_activations(x))

    def decode(self, codes: Float[Tensor, "*lead latent"]) -> Float[Tensor, "*lead d_in"]:
        """The activations that these codes stand for."""
        return codes @ self.W_dec + self.b_dec

    def forward(self, x: Float[Tensor, "*lead d_in"]) -> Float[Tensor, "*lead d_in"]:
        """The reconstruction of x."""
        return self.decode(self.encode(x))

    def for_larger(self, factor: float) -> None:
        """Change the SAE in place into one that does with factor * x what it did with x: codes and reconstructions
        come out `factor` times larger. All three activation functions allow that; the directions stay."""
        _enlarge(self, factor)


# What an SAE refuses, and what depends on its activation function.


def _check_sizes(d_in: int, d_sae: int) -> None:
    if min(d_in, d_sae) < 1:
        raise ValueError(f"d_in is {d_in} and d_sae is {d_sae}: an SAE needs at least one dimension and one latent.")


def _check_activation(activation: str, k: int | None, latents: int) -> None:
    if activation not in get_args(Activation):
        raise ValueError(f"activation is one of {', '.join(get_args(Activation))}, not {activation!r}.")
    if activation == "topk":
        _check_k(k, torch.empty(latents))


def _check_width(x: Tensor, d_in: int) -> None:
    if x.shape[-1] != d_in:
        raise ValueError(
            f"the activations have width {x.shape[-1]}, and this SAE was made for width {d_in}: "
            "read them from the site that it was trained on."
        )


def check_latent(sae: SAE, feature: int) -> None:
    """Raises IndexError with one sentence if the SAE has no latent of that number."""
    if not 0 <= feature < len(sae.W_dec):
        raise IndexError(
            f"there is no latent {feature}: this SAE has {len(sae.W_dec)}, numbered from 0 to {len(sae.W_dec) - 1}."
        )


def _activate(sae: SAE, pre: Float[Tensor, "*lead latent"]) -> Float[Tensor, "*lead latent"]:
    if sae.activation == "topk":
        assert sae.k is not None
        return topk_activation(pre, sae.k)
    return pre.relu() if sae.activation == "relu" else jumprelu(pre, sae.threshold, sae.bandwidth)


@torch.no_grad()
def _enlarge(sae: SAE, factor: float) -> None:
    for bias in (sae.b_enc, sae.b_dec):
        bias.mul_(factor)
    if sae.activation == "jumprelu":
        sae.log_threshold.add_(torch.tensor(factor).log().item())
        sae.bandwidth *= factor


# ---- losses


def squared_error(x: Float[Tensor, "batch d_in"], reconstruction: Float[Tensor, "batch d_in"]) -> Float[Tensor, ""]:
    """The squared distance, summed over the width and averaged over the batch."""
    return (x - reconstruction).square().sum(dim=-1).mean()


def relu_l1_loss(
    x: Float[Tensor, "batch d_in"],
    reconstruction: Float[Tensor, "batch d_in"],
    codes: Float[Tensor, "batch latent"],
    l1: float,
) -> Float[Tensor, ""]:
    """The squared error plus `l1` times the sum of the codes, averaged over the batch (Bricken 2023).

    The penalty means something only while the decoder's rows have length 1: else small codes and long rows would
    escape it.
    """
    return squared_error(x, reconstruction) + l1 * codes.abs().sum(dim=-1).mean()


def jumprelu_l0_loss(
    x: Float[Tensor, "batch d_in"],
    reconstruction: Float[Tensor, "batch d_in"],
    pre: Float[Tensor, "batch latent"],
    threshold: Float[Tensor, "latent"],
    l0: float,
    bandwidth: float = 0.05,
) -> Float[Tensor, ""]:
    """The squared error plus `l0` times the number of active latents, averaged over the batch (Rajamanoharan 2024)."""
    return squared_error(x, reconstruction) + l0 * heaviside(pre, threshold, bandwidth).sum(dim=-1).mean()
