"""The gradients of an SAE's loss, written out: what autograd finds, in less time.

With e = 2 (x_hat - x) / batch, the gradient of the loss for the reconstruction:

    W_dec   codes^T e                           b_dec   sum of e - (sum of d) W_enc^T
    d       e W_dec^T where a latent is active  b_enc   sum of d
    W_enc   (x - b_dec)^T d

"relu" adds l1 / batch to d where a latent is active. Two things make it faster than autograd, which does the same
multiplications: no gradient is computed for x, and nothing is copied to be kept for later. In a TopK SAE only k codes
of each row are not 0, so the decoder gathers k rows of W_dec instead of multiplying with all of them.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from mechlib.sae.model import SAE


@torch.no_grad()
def closed_form_gradients(sae: SAE, x: Float[Tensor, "batch d_in"], sparsity: float) -> tuple[Tensor, Tensor, Tensor]:
    """Like `plain_gradients`, to float error, for "relu" and "topk". Raises ValueError for "jumprelu"."""
    if sae.activation == "jumprelu":
        raise ValueError("there is no closed form for jumprelu here: use plain_gradients.")
    centred = x - sae.b_dec
    pre = torch.addmm(sae.b_enc, centred, sae.W_enc)
    if sae.activation == "topk":
        assert sae.k is not None
        values, latents = pre.topk(sae.k, dim=1, sorted=False)
        values.relu_()
        codes = pre.zero_().scatter_(1, latents, values)  # in the memory of pre
        reconstruction = torch.nn.functional.embedding_bag(latents, sae.W_dec, per_sample_weights=values, mode="sum")
        reconstruction += sae.b_dec
    else:
        codes = pre.relu_()
        reconstruction = torch.addmm(sae.b_dec, codes, sae.W_dec)
    error = reconstruction - x
    loss = error.square().sum() / len(x)
    e = error.mul_(2 / len(x))
    d = e @ sae.W_dec.T
    if sae.activation == "relu":
        loss = loss + sparsity * codes.sum() / len(x)
        d += sparsity / len(x)
    d *= codes > 0
    sae.W_dec.grad = codes.T @ e
    sae.W_enc.grad = centred.T @ d
    sae.b_enc.grad = d.sum(dim=0)
    sae.b_dec.grad = e.sum(dim=0) - sae.b_enc.grad @ sae.W_enc.T
    return loss, reconstruction, codes
