"""The shipped sweep: what the chapter says about it holds in the file."""

import torch

from mechlib.recipes import superposition_sweep
from mechlib.superposition import share_near


def test_shipped_sweep():
    assert superposition_sweep.PATH.stat().st_size < 300_000
    sweep = superposition_sweep.load()
    shapes = {name: tuple(tensor.shape) for name, tensor in sweep.items()}
    per_feature, per_instance = (20, 400), (20,)
    assert shapes == {
        "sparsity": per_instance,
        "dimensionality": per_feature,
        "norms": per_feature,
        "control": per_feature,
        "per_feature": per_instance,
        "loss": per_instance,
    }
    assert all(tensor.isfinite().all() and tensor.dtype == torch.float32 for tensor in sweep.values())
    stored = sweep["norms"] > 0.5
    half = share_near(sweep["dimensionality"][stored], [0.5], 0.01)
    assert half > 0.25 and share_near(sweep["control"][stored], [0.5], 0.01) < 0.01


def test_random_directions_keep_the_norms():
    W = torch.randn(2, 3, 5)
    turned = superposition_sweep.random_directions(W, torch.Generator().manual_seed(0))
    torch.testing.assert_close(turned.norm(dim=1), W.norm(dim=1))
    assert not torch.allclose(turned, W)
