"""The gradients of an SAE's loss, written out: what autograd finds, in less time.

With e = 2 (x_hat - x) / batch, the gradient of the loss for the reconstruction, and d the one for `pre`:

    d       e W_dec^T where a latent is active (for "relu" plus l1 / batch)
    W_dec   codes^T e                   b_dec   sum of e - (sum of d) W_enc^T
    W_enc   (x - b_dec)^T d             b_enc   sum of d

Autograd multiplies whole matrices for each, and keeps copies. For "relu" it is enough not to. In a TopK SAE all but k
entries of a row of `codes` and `d` are 0, so that all these products are weighted sums of a few rows, which PyTorch's
`embedding_bag` computes: k rows of W_dec for a reconstruction; for a latent's gradient, the rows of x where it is
active. Only the encoder multiplies by a whole matrix, and finding the k largest takes most of the time that is left.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding_bag

from mechlib.sae.model import SAE


def closed_form_gradients(sae: SAE, x: Float[Tensor, "batch d_in"], sparsity: float) -> tuple[Tensor, Tensor, Tensor]:
    """Like `plain_gradients`, to float error, for "relu" and "topk". Raises ValueError for "jumprelu"."""
    if sae.activation == "jumprelu":
        raise ValueError("there is no closed form for jumprelu here: use plain_gradients.")
    with torch.no_grad():
        return _topk(sae, x) if sae.activation == "topk" else _relu(sae, x, sparsity)


def _relu(sae: SAE, x: Float[Tensor, "batch d_in"], sparsity: float) -> tuple[Tensor, Tensor, Tensor]:
    centred = x - sae.b_dec
    codes = torch.addmm(sae.b_enc, centred, sae.W_enc).relu_()
    reconstruction = torch.addmm(sae.b_dec, codes, sae.W_dec)
    error = reconstruction - x
    loss = (error.square().sum() + sparsity * codes.sum()) / len(x)
    e = error.mul_(2 / len(x))
    d = (e @ sae.W_dec.T).add_(sparsity / len(x)).mul_(codes > 0)
    sae.W_dec.grad = codes.T @ e
    sae.W_enc.grad = centred.T @ d
    _biases(sae, e, d.sum(dim=0))
    return loss, reconstruction, codes


def _topk(sae: SAE, x: Float[Tensor, "batch d_in"]) -> tuple[Tensor, Tensor, Tensor]:
    assert sae.k is not None
    centred = x - sae.b_dec
    pre = torch.addmm(sae.b_enc, centred, sae.W_enc)
    values, latents = pre.topk(sae.k, dim=1, sorted=False)
    values.relu_()
    with torch.enable_grad():  # for d alone: the products of e with the rows that were picked
        picked = embedding_bag(latents, sae.W_dec.detach(), per_sample_weights=values.requires_grad_(), mode="sum")
    reconstruction = picked.detach() + sae.b_dec
    error = reconstruction - x
    loss = error.square().sum() / len(x)
    e = error.mul_(2 / len(x))
    (d,) = torch.autograd.grad(picked, values, e)
    values = values.detach()
    d *= values > 0

    which = latents.flatten()
    order = which.argsort()  # the entries of one latent after those of another
    starts = torch.bincount(which, minlength=sae.d_sae).cumsum(dim=0).roll(1)
    starts[0] = 0
    rows = order // sae.k

    def sums(weights: Float[Tensor, "batch k"], vectors: Float[Tensor, "batch d_in"]) -> Float[Tensor, "latent d_in"]:
        """For each latent the sum, over the rows that picked it, of weight * vector."""
        return embedding_bag(rows, vectors, starts, per_sample_weights=weights.flatten()[order], mode="sum")

    sae.W_dec.grad = sums(values, e)
    sae.W_enc.grad = sums(d, centred).T.contiguous()
    _biases(sae, e, torch.zeros_like(sae.b_enc).index_add_(0, which, d.flatten()))
    return loss, reconstruction, pre.zero_().scatter_(1, latents, values)  # the codes, in the memory of pre


def _biases(sae: SAE, e: Float[Tensor, "batch d_in"], d_sum: Float[Tensor, "latent"]) -> None:
    sae.b_enc.grad = d_sum
    sae.b_dec.grad = e.sum(dim=0) - d_sum @ sae.W_enc.T
