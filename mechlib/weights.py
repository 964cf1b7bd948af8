"""What a component does, read off its weights: no prompt, no forward pass.

Methods of Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"
(https://transformer-circuits.pub/2021/framework/index.html). Every head is two maps of the residual stream to itself:
OV says what it moves, QK says where it looks. Both have a rank of d_head at most. Rows act from the left, as
everywhere in TransformerLens: `stream @ matrix`.

Load a model with `processed=True` before reading weights: then the LayerNorms' weights and biases are in these matrices
already.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor

# A TransformerBridge, as `mechlib.models.load` returns it.
Model = Any


def ov_circuit(model: Model, layer: int, head: int) -> Float[Tensor, "d_model d_model"]:
    """What a head moves: W_V W_O. If it attends to a position that reads x, it writes x @ ov (and its biases).

    Raises ValueError for grouped-query attention, where heads share their values.
    """
    _needs_own_keys(model)
    return model.W_V[layer, head] @ model.W_O[layer, head]


def qk_circuit(model: Model, layer: int, head: int) -> Float[Tensor, "d_model d_model"]:
    """Where a head looks: W_Q W_K^T, queries on the left. The score is query @ qk @ key / sqrt(d_head), and the
    terms of the biases.

    Raises ValueError for grouped-query attention, and for rotary positions, where the map depends on the distance.
    """
    _needs_own_keys(model)
    _needs_one_map(model)
    return model.W_Q[layer, head] @ model.W_K[layer, head].T


def virtual_weights(
    write: Float[Tensor, "*pairs write d_model"], read: Float[Tensor, "*pairs d_model read"]
) -> Float[Tensor, "*pairs"]:
    """How strongly one component reads what another wrote: ||write read||_F / (||write||_F ||read||_F).

    `write` is a matrix of directions written to the stream (W_E, W_O, an MLP's W_out), `read` one of directions that
    are read (W_Q, W_K, W_V, an MLP's W_in, W_U). The product is the weights that connect the two as if nothing lay
    between them. 0: they use different parts of the stream; 1: both use one direction, the same. Unrelated
    directions give about 1 / sqrt(d_model).
    """
    strength = (write @ read).norm(dim=(-2, -1))
    return strength / (write.norm(dim=(-2, -1)) * read.norm(dim=(-2, -1)))


def effective_dimensions(matrix: Float[Tensor, "*matrices rows columns"]) -> Float[Tensor, "*matrices"]:
    """Over how many directions a matrix spreads what it does: (sum s^2)^2 / sum s^4 of its singular values s.

    1 for a matrix of rank one, r for r equal singular values; never more than the rank.
    """
    from torch.linalg import svdvals

    squares = svdvals(matrix) ** 2
    return squares.sum(dim=-1) ** 2 / (squares**2).sum(dim=-1)


def _needs_own_keys(model: Model) -> None:
    if getattr(model.cfg, "n_key_value_heads", None) not in (None, model.cfg.n_heads):
        raise ValueError("this needs a key and a value of its own for every head; the model groups them")


def _needs_one_map(model: Model) -> None:
    if model.cfg.positional_embedding_type == "rotary":
        raise ValueError("with rotary positions the QK circuit is another one at every distance")
