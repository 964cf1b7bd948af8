"""The uniform sweep of Elhage et al. 2022: 400 equally important features in 30 dimensions, over sparsity.

    python -m mechlib.recipes.superposition_sweep

trains one toy model at each of 20 sparsities, all at once, and writes
`mechlib/data/superposition_sweep.safetensors`. One seed; four to eight minutes on one core.
`load()` reads the file back.
"""

import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mechlib.superposition import (
    ToyModel,
    dimensions_per_feature,
    feature_dimensionality,
    feature_norms,
    importance_weighted_loss,
    sparse_batch,
    train,
)

PATH = Path(__file__).parents[1] / "data" / "superposition_sweep.safetensors"
FEATURES, HIDDEN, STEPS, BATCH, LR, SEED = 400, 30, 3500, 256, 1e-2, 0


def load() -> dict[str, Tensor]:
    """The shipped sweep, in float32:

    sparsity       instances            S of each model; 1 / (1 - S) goes from 1.2 to 10 in equal ratios
    dimensionality instances features   D of each feature
    norms          instances features   ||W_f||; a feature counts as stored above 1/2
    control        instances features   D for random directions with the same norms
    per_feature    instances            D* = m / ||W||_F^2
    loss           instances            on a fresh batch of 4096
    """
    return {name: tensor.float() for name, tensor in load_file(PATH).items()}


def random_directions(W: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Gaussian directions with the norms of W's columns: the same norms without any geometry."""
    directions = torch.randn(W.shape, generator=generator)
    return directions / directions.norm(dim=-2, keepdim=True) * W.norm(dim=-2, keepdim=True)


def main() -> None:
    torch.set_num_threads(1)
    start = time.time()
    generator = torch.Generator().manual_seed(SEED)
    sparsity = 1 - 1 / torch.logspace(0.08, 1.0, 20)
    model = ToyModel(len(sparsity), FEATURES, HIDDEN, generator)
    importance = torch.ones(FEATURES)
    train(
        model,
        lambda size: sparse_batch(size, FEATURES, sparsity, generator),
        lambda y, x: importance_weighted_loss(y, x, importance),
        STEPS,
        LR,
        BATCH,
    )
    W = model.W.detach()
    with torch.no_grad():
        x = sparse_batch(4096, FEATURES, sparsity, generator)
        loss = importance_weighted_loss(model(x), x, importance)
    tensors = {
        "dimensionality": feature_dimensionality(W).half(),
        "norms": feature_norms(W).half(),
        "control": feature_dimensionality(random_directions(W, generator)).half(),
        "sparsity": sparsity,
        "per_feature": dimensions_per_feature(W),
        "loss": loss,
    }
    PATH.parent.mkdir(exist_ok=True)
    settings = f"n={FEATURES} m={HIDDEN} steps={STEPS} batch={BATCH} lr={LR} seed={SEED}"
    save_file(tensors, PATH, {"settings": settings, "torch": torch.__version__})
    print(f"{settings}: {time.time() - start:.0f} s, {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
