"""Ground truth: an SAE for a toy model of superposition, whose features are known.

The toy model of `mechlib.superposition` squeezes sparse features into fewer dimensions. Its hidden activations h = W x
are all that the SAE sees; the columns of W are the directions that it should find.

With 40 features in 20 dimensions, each active in 5% of the examples, a TopK SAE with twice as many latents as features
and k = 2 (as many as are active on average) finds all of them, whatever the seed. It fails where the literature says
that it must: features that are active together most of the time (sparsity 0.7), fewer latents than features, or a k
far above the number of active features, so that nothing forces one latent to stand for one feature.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from mechlib.sae.closed_form import closed_form_gradients
from mechlib.sae.model import SAE
from mechlib.sae.training import Record, train
from mechlib.superposition import ToyModel, importance_weighted_loss, sparse_batch
from mechlib.superposition import train as train_toy


def toy_model(n_features: int = 40, n_hidden: int = 20, sparsity: float = 0.95, seed: int = 0) -> ToyModel:
    """One trained toy model with equally important features."""
    generator = torch.Generator().manual_seed(seed)
    model = ToyModel(1, n_features, n_hidden, generator)
    share, importance = torch.tensor([sparsity]), torch.ones(n_features)
    train_toy(
        model,
        lambda size: sparse_batch(size, n_features, share, generator),
        lambda y, x: importance_weighted_loss(y, x, importance),
        steps=2000,
        label="toy model",
    )
    return model.requires_grad_(False)


def true_directions(model: ToyModel) -> Float[Tensor, "feature hidden"]:
    """The direction of every feature in the hidden space: the columns of W."""
    return model.W.detach()[0].T


def hidden_activations(
    model: ToyModel, n: int, sparsity: float, seed: int = 0
) -> tuple[Float[Tensor, "n hidden"], Float[Tensor, "n feature"]]:
    """What the SAE sees, h = W x, and the features x behind it, whose sparsity need not be that of the training."""
    generator = torch.Generator().manual_seed(seed)
    x = sparse_batch(n, model.W.shape[-1], torch.tensor([sparsity]), generator)[:, 0]
    return x @ true_directions(model), x


def toy_sae(
    hidden: Float[Tensor, "n hidden"], d_sae: int = 80, k: int = 2, seed: int = 0, steps: int = 1500
) -> tuple[SAE, list[Record]]:
    """A TopK SAE of these activations, and the history of its training: two to four seconds."""
    sae = SAE(hidden.shape[1], d_sae, "topk", k=k, generator=torch.Generator().manual_seed(seed))
    history = train(
        sae, hidden, steps, 1024, lr=3e-3, resample_every=100, seed=seed, gradients=closed_form_gradients, quiet=True
    )
    return sae, history
