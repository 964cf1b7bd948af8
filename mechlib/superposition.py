"""Superposition: how a model holds more features than it has dimensions.

Methods of Elhage et al. 2022, "Toy Models of Superposition"
(https://transformer-circuits.pub/2022/toy_model/index.html).

Every toy model here is really a stack of *instances* trained side by side: one slice of the parameters for
each sparsity, seed or importance that an experiment compares. Instances never influence each other. Shapes
are written in words:

    W  instances hidden features     column W[i, :, f] is the direction in which instance i stores feature f
    b  instances features
    x  batch instances features
"""

import sys
from collections.abc import Callable

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm

# ---- reading geometry


def feature_norms(W: Float[Tensor, "instances hidden features"]) -> Float[Tensor, "instances features"]:
    """How strongly each feature is represented: the length ||W_f|| of its direction.

    About 1 means stored, about 0 means ignored.
    """
    return W.norm(dim=-2)


def superposition_index(W: Float[Tensor, "instances hidden features"]) -> Float[Tensor, "instances features"]:
    """How much each feature is crossed by the others: the sum over g != f of (unit(W_f) . W_g)^2.

    0: the feature has its direction to itself. 1 or more: along that direction the others are as large as a
    whole feature. A feature that is not represented (W_f = 0) has no direction to share and gets 0.
    """
    norms = W.norm(dim=-2, keepdim=True)
    unit = W / norms.where(norms > 0, torch.ones_like(norms))
    overlap = einsum(unit, W, "instances hidden f, instances hidden g -> instances f g") ** 2
    return overlap.sum(dim=-1) - overlap.diagonal(dim1=-2, dim2=-1)


def dimensions_per_feature(W: Float[Tensor, "instances hidden features"]) -> Float[Tensor, "instances"]:
    """Dimensions spent on a feature, D* = m / ||W||_F^2, with m hidden dimensions.

    The squared Frobenius norm estimates how many features are represented, so 1 means a dimension for each of
    them and 1/2 means two features a dimension. All-zero weights give infinity.
    """
    return W.shape[-2] / W.pow(2).sum(dim=(-2, -1))


def feature_dimensionality(
    W: Float[Tensor, "instances hidden features"],
) -> Float[Tensor, "instances features"]:
    """The fraction of a dimension that a feature gets: D_f = ||W_f||^2 / sum_g (unit(W_f) . W_g)^2, g = f
    included.

    1 for a feature alone in its dimension, 1/2 in an antipodal pair, 2/3 in a triangle, 2/5 in a pentagon,
    3/4 in a tetrahedron, 3/8 in a square antiprism. A feature that is not represented gets 0.
    """
    norms = W.norm(dim=-2, keepdim=True)
    unit = W / norms.where(norms > 0, torch.ones_like(norms))
    shared = einsum(unit, W, "instances hidden f, instances hidden g -> instances f g").pow(2).sum(dim=-1)
    return norms.squeeze(-2) ** 2 / shared.where(shared > 0, torch.ones_like(shared))


def polysemanticity(
    W: Float[Tensor, "instances hidden features"], threshold: float = 0.5
) -> Int[Tensor, "instances hidden"]:
    """How many features each neuron of a hidden-ReLU model answers to.

    A feature counts if, active alone at 1, it drives the neuron (ReLU(W[neuron, feature])) to at least
    `threshold` times the neuron's largest such response. Negative weights count for nothing; a neuron that no
    feature drives counts 0. 1 is a monosemantic neuron.
    """
    response = W.relu()
    largest = response.amax(dim=-1, keepdim=True)
    return ((response > 0) & (response >= threshold * largest)).sum(dim=-1)


# ---- sparse data


def _check_sparsity(sparsity: Float[Tensor, "instances"], lowest: float = 0.0) -> None:
    if not ((sparsity >= lowest) & (sparsity <= 1)).all():
        raise ValueError(f"sparsity is the probability of being 0: here it must lie in [{lowest:g}, 1]")


def _check_pairs(n_features: int) -> None:
    if n_features % 2:
        raise ValueError("features come in pairs: n_features must be even")


def sparse_batch(
    batch_size: int,
    n_features: int,
    sparsity: Float[Tensor, "instances"],
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch instances features"]:
    """Features that are 0 with probability `sparsity` (one number an instance), else uniform in [0, 1].

    Which features are active and how large they are is drawn independently. The batch has the device and
    dtype of `sparsity`; a generator, if given, must live on that device too. Raises ValueError if a sparsity
    is outside [0, 1].
    """
    _check_sparsity(sparsity)
    shape = (batch_size, len(sparsity), n_features)
    active = torch.rand(shape, generator=generator, device=sparsity.device) >= sparsity[:, None]
    magnitude = torch.rand(shape, generator=generator, device=sparsity.device, dtype=sparsity.dtype)
    return magnitude * active


def signed_sparse_batch(
    batch_size: int,
    n_features: int,
    sparsity: Float[Tensor, "instances"],
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch instances features"]:
    """Like `sparse_batch`, but an active feature is uniform in [-1, 1]."""
    _check_sparsity(sparsity)
    shape = (batch_size, len(sparsity), n_features)
    active = torch.rand(shape, generator=generator, device=sparsity.device) >= sparsity[:, None]
    magnitude = torch.rand(shape, generator=generator, device=sparsity.device, dtype=sparsity.dtype)
    return (2 * magnitude - 1) * active


def correlated_batch(
    batch_size: int,
    n_features: int,
    sparsity: Float[Tensor, "instances"],
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch instances features"]:
    """Like `sparse_batch`, but features 2k and 2k+1 are active together or not at all.

    Each is still 0 with probability `sparsity`, and their magnitudes are independent. Raises ValueError if
    `n_features` is odd or a sparsity is outside [0, 1].
    """
    _check_pairs(n_features)
    _check_sparsity(sparsity)
    pairs = (batch_size, len(sparsity), n_features // 2)
    pair_active = torch.rand(pairs, generator=generator, device=sparsity.device) >= sparsity[:, None]
    active = pair_active.repeat_interleave(2, dim=-1)
    return torch.rand(active.shape, generator=generator, device=sparsity.device, dtype=sparsity.dtype) * active


def anticorrelated_batch(
    batch_size: int,
    n_features: int,
    sparsity: Float[Tensor, "instances"],
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch instances features"]:
    """Like `sparse_batch`, but of features 2k and 2k+1 at most one is active.

    Each is still 0 with probability `sparsity`. Raises ValueError if `n_features` is odd or a sparsity is
    outside [1/2, 1]: two features that exclude each other cannot both be active more than half of the time.
    """
    _check_pairs(n_features)
    _check_sparsity(sparsity, lowest=0.5)
    pairs = (batch_size, len(sparsity), n_features // 2)
    draw = torch.rand(pairs, generator=generator, device=sparsity.device)
    first, second = draw < 1 - sparsity[:, None], draw >= sparsity[:, None]
    active = torch.stack([first, second], dim=-1).flatten(-2)
    return torch.rand(active.shape, generator=generator, device=sparsity.device, dtype=sparsity.dtype) * active


# ---- models


def _xavier(instances: int, rows: int, columns: int, generator: torch.Generator | None) -> Tensor:
    """Random starting weights of Xavier's size, different in each instance."""
    return torch.randn(instances, rows, columns, generator=generator) * (2 / (rows + columns)) ** 0.5


class ToyModel(nn.Module):
    """Squeeze the features into fewer dimensions and read them back: ReLU(W^T W x + b), in many instances at
    once."""

    def __init__(self, n_instances: int, n_features: int, n_hidden: int, generator: torch.Generator | None = None):
        super().__init__()
        self.W = nn.Parameter(_xavier(n_instances, n_hidden, n_features, generator))
        self.b = nn.Parameter(torch.zeros(n_instances, n_features))

    def forward(self, x: Float[Tensor, "batch instances features"]) -> Float[Tensor, "batch instances features"]:
        """The reconstructed features, each at least 0."""
        hidden = torch.einsum("ihf,bif->bih", self.W, x)
        return (torch.einsum("ihf,bih->bif", self.W, hidden) + self.b).relu()


class ReluHiddenModel(ToyModel):
    """The toy model with a ReLU on its hidden layer, which makes neurons of it: ReLU(W^T ReLU(W x) + b)."""

    def forward(self, x: Float[Tensor, "batch instances features"]) -> Float[Tensor, "batch instances features"]:
        """The reconstructed features, each at least 0."""
        neurons = torch.einsum("ihf,bif->bih", self.W, x).relu()
        return (torch.einsum("ihf,bih->bif", self.W, neurons) + self.b).relu()


class AbsoluteValueModel(nn.Module):
    """One hidden layer of neurons that must compute |x| for every feature: ReLU(W_out ReLU(W_in x) + b)."""

    def __init__(self, n_instances: int, n_features: int, n_hidden: int, generator: torch.Generator | None = None):
        super().__init__()
        self.W_in = nn.Parameter(_xavier(n_instances, n_hidden, n_features, generator))
        self.W_out = nn.Parameter(_xavier(n_instances, n_features, n_hidden, generator))
        self.b = nn.Parameter(torch.zeros(n_instances, n_features))

    def forward(self, x: Float[Tensor, "batch instances features"]) -> Float[Tensor, "batch instances features"]:
        """The model's estimate of |x|."""
        neurons = torch.einsum("ihf,bif->bih", self.W_in, x).relu()
        return (torch.einsum("ifh,bih->bif", self.W_out, neurons) + self.b).relu()


def absolute_value_weights(
    n_features: int, n_hidden: int
) -> tuple[Float[Tensor, "hidden features"], Float[Tensor, "features hidden"], Float[Tensor, "features"]]:
    """Weights written by hand, W_in, W_out and b, with which ReLU(W_out ReLU(W_in x) + b) is |x| without
    superposition.

    Two neurons a feature, since |x| = ReLU(x) + ReLU(-x): exact for the first n_hidden // 2 features (all of
    them if there are neurons enough), 0 for the rest.
    """
    W_in, W_out = torch.zeros(n_hidden, n_features), torch.zeros(n_features, n_hidden)
    for feature in range(min(n_hidden // 2, n_features)):
        W_in[2 * feature, feature], W_in[2 * feature + 1, feature] = 1.0, -1.0
        W_out[feature, 2 * feature] = W_out[feature, 2 * feature + 1] = 1.0
    return W_in, W_out, torch.zeros(n_features)


# ---- loss and training


def importance_weighted_loss(
    prediction: Float[Tensor, "batch instances features"],
    target: Float[Tensor, "batch instances features"],
    importance: Float[Tensor, "features"] | Float[Tensor, "instances features"],
) -> Float[Tensor, "instances"]:
    """One loss an instance: importance times squared error, summed over features, averaged over the batch."""
    return (importance * (prediction - target) ** 2).sum(dim=-1).mean(dim=0)


def strategy_losses(
    sparsity: Float[Tensor, "*shape"], importance: Float[Tensor, "*shape"]
) -> Float[Tensor, "3 *shape"]:
    """What three strategies for two features in one hidden dimension cost, by theory.

    The features' importances are 1 and `importance`; each is active with probability p = 1 - sparsity, then
    uniform in [0, 1]. The arguments broadcast. The strategies:
    0. keep only the first feature, answer the second one's mean p/2: importance times its variance;
    1. keep only the second: the first one's variance, p/3 - p^2/4;
    2. both as an antipodal pair, W = [1, -1] and b = 0: wrong only where both are active, then by the smaller
       of the two in both outputs: (1 + importance) p^2 / 6.
    """
    p = 1 - sparsity
    variance = p / 3 - p**2 / 4
    return torch.stack(torch.broadcast_tensors(importance * variance, variance, (1 + importance) * p**2 / 6))


def train(
    model: nn.Module,
    sample: Callable[[int], Float[Tensor, "batch instances features"]],
    loss: Callable[[Tensor, Tensor], Float[Tensor, "instances"]],
    steps: int,
    lr: float = 1e-2,
    batch_size: int = 1024,
    records: int = 100,
    label: str = "training",
) -> Float[Tensor, "records instances"]:
    """Train every instance at once with Adam, the learning rate falling to 0 along a half cosine; return the
    loss curves.

    `sample(batch_size)` draws a batch x, `loss(model(x), x)` gives one loss an instance. Each record is the
    mean loss over a stretch of steps / records steps. Adam scales every parameter by itself, so instances do
    not share a learning rate.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    history = []
    for _ in tqdm(range(steps), desc=label, file=sys.stdout, mininterval=0.5):
        x = sample(batch_size)
        losses = loss(model(x), x)
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        schedule.step()
        history.append(losses.detach())
    return torch.stack([part.mean(dim=0) for part in torch.stack(history).tensor_split(min(records, steps))])


# ---- naming what was found


def classify_geometry(W: Float[Tensor, "instances 2 features"], tolerance: float = 12.0) -> list[str]:
    """Name the arrangement of the features that are represented (||W_f|| > 1/2) in two dimensions.

    Looks at the angles, in degrees, from each represented feature to the next: 90 is an "orthogonal pair"
    (two features), four of 90 are "two antipodal pairs", five of 72 a "pentagon", three of 120 a "triangle",
    all within `tolerance` degrees; anything else is "other".
    """
    shapes = {"orthogonal pair": (90.0, 270.0), "triangle": (120.0,) * 3}
    shapes |= {"two antipodal pairs": (90.0,) * 4, "pentagon": (72.0,) * 5}
    names = []
    for weights in W.detach():
        x, y = weights[:, weights.norm(dim=0) > 0.5]
        angles = torch.atan2(y, x).rad2deg().sort().values
        gaps = (torch.cat([angles, angles[:1] + 360]).diff() if len(angles) else angles).sort().values
        fits = [
            name
            for name, shape in shapes.items()
            if len(shape) == len(gaps) and (gaps - gaps.new_tensor(shape)).abs().max() <= tolerance
        ]
        names.append(fits[0] if fits else "other")
    return names


def share_near(
    values: Float[Tensor, "*shape"], plateaus: list[float], width: float = 0.02
) -> Float[Tensor, "plateaus"]:
    """The share of `values` within `width` of each plateau."""
    near = (rearrange(values, "... -> (...) 1") - torch.tensor(plateaus).to(values)).abs() <= width
    return near.float().mean(dim=0)
