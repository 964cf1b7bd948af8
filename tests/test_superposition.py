"""The superposition chapter's methods: closed forms, moments, shapes, dtypes, devices.

Randomised statements use a fixed generator and a tolerance of six standard errors (two-sided false-alarm rate
2e-9 each for a Gaussian mean), so that a change of generator or platform does not make them fail either.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from mechlib import superposition as sp

SIGMAS = 6
MEASURES = [
    sp.feature_norms,
    sp.superposition_index,
    sp.dimensions_per_feature,
    sp.feature_dimensionality,
]
sizes = st.integers(1, 6)


def ring(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """`count` unit vectors at equal angles, as one instance."""
    angle = 2 * math.pi * torch.arange(count, dtype=torch.float64) / count
    return torch.stack([angle.cos(), angle.sin()])[None].to(dtype)


def tetrahedron() -> torch.Tensor:
    corners = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    return (corners / 3**0.5).T[None]


def square_antiprism() -> torch.Tensor:
    """Two squares of unit vectors, turned by 45 degrees, at the height that makes it a tight frame: D = 3/8
    for each."""
    height, radius = (1 / 3) ** 0.5, (2 / 3) ** 0.5
    angle = torch.arange(8) * math.pi / 4
    return torch.stack([radius * angle.cos(), radius * angle.sin(), height * (-1.0) ** torch.arange(8)])[None]


# ---- geometry


@pytest.mark.parametrize(
    ("W", "dimensionality", "index"),
    [
        (torch.eye(4)[None], 1.0, 0.0),
        (torch.tensor([[[1.0, -1.0]]]), 1 / 2, 1.0),
        (ring(3), 2 / 3, 1 / 2),
        (ring(5), 2 / 5, 3 / 2),
        (tetrahedron(), 3 / 4, 1 / 3),
        (square_antiprism(), 3 / 8, 5 / 3),
    ],
    ids=["orthogonal", "antipodal", "triangle", "pentagon", "tetrahedron", "antiprism"],
)
def test_closed_forms(W, dimensionality, index):
    features = W.shape[-1]
    torch.testing.assert_close(sp.feature_norms(W), torch.ones(1, features))
    torch.testing.assert_close(sp.feature_dimensionality(W), torch.full((1, features), dimensionality))
    torch.testing.assert_close(sp.superposition_index(W), torch.full((1, features), index))
    torch.testing.assert_close(sp.dimensions_per_feature(W), torch.tensor([W.shape[-2] / features]))
    # all of these spend their dimensions exactly
    torch.testing.assert_close(sp.feature_dimensionality(W).sum(), torch.tensor(float(W.shape[-2])))


def test_zero_features_are_zero_and_never_nan():
    W = torch.cat([ring(5), torch.zeros(1, 2, 2)], dim=-1)
    for measure in (sp.feature_norms, sp.superposition_index, sp.feature_dimensionality):
        values = measure(W)
        assert values.isfinite().all()
        assert (values[:, 5:] == 0).all()
        torch.testing.assert_close(values[:, :5], measure(ring(5)))
    assert sp.superposition_index(torch.zeros(2, 3, 4)).eq(0).all()
    assert sp.dimensions_per_feature(torch.zeros(2, 3, 4)).isinf().all()


@settings(deadline=None, max_examples=40)
@given(sizes, sizes, sizes, st.integers(0, 2**31))
def test_geometry_matches_its_definition(instances, hidden, features, seed):
    W = torch.randn(instances, hidden, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    index, dimensionality = torch.zeros(2, instances, features, dtype=torch.float64)
    for i in range(instances):
        for f in range(features):
            unit = W[i, :, f] / W[i, :, f].norm()
            crossed = sum((unit @ W[i, :, g]) ** 2 for g in range(features) if g != f)
            index[i, f] = crossed
            dimensionality[i, f] = W[i, :, f] @ W[i, :, f] / (crossed + W[i, :, f] @ W[i, :, f])
    torch.testing.assert_close(sp.superposition_index(W), index, atol=1e-10, rtol=1e-9)
    torch.testing.assert_close(sp.feature_dimensionality(W), dimensionality)
    assert (sp.feature_dimensionality(W).sum(-1) <= min(hidden, features) + 1e-9).all()
    # the geometry knows no basis: rotating the hidden space changes nothing
    Q = torch.linalg.qr(
        torch.randn(hidden, hidden, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ).Q
    torch.testing.assert_close(sp.feature_dimensionality(Q @ W), dimensionality)


def test_polysemanticity_by_hand():
    W = torch.tensor([[[1.0, 0.5, 0.49, -2.0], [-1.0, -1.0, 0.0, 0.0], [0.2, 0.2, 0.2, 0.2]]])
    assert sp.polysemanticity(W).tolist() == [[2, 0, 4]]
    assert sp.polysemanticity(W, threshold=0.4).tolist() == [[3, 0, 4]]
    assert sp.polysemanticity(W, threshold=1.0).tolist() == [[1, 0, 4]]
    assert not sp.polysemanticity(W).dtype.is_floating_point


def test_classify_geometry():
    turn = torch.tensor(0.7)
    rotation = torch.tensor([[turn.cos(), -turn.sin()], [turn.sin(), turn.cos()]])
    pair = torch.tensor([[1.0, 0, 0.1, 0, 0], [0, 1.0, 0, 0, 0.2]])
    crossed = torch.tensor([[1.0, -1, 0, 0, 0.1], [0, 0, 1, -1, 0]])
    triangle = torch.cat([ring(3)[0], torch.zeros(2, 2)], dim=1)
    same = torch.ones(2, 5)
    W = rotation @ torch.stack([pair, crossed, ring(5)[0], triangle, same, torch.zeros(2, 5)])
    expected = ["orthogonal pair", "two antipodal pairs", "pentagon", "triangle", "other", "other"]
    assert sp.classify_geometry(W) == expected


def test_share_near():
    values = torch.tensor([[0.5, 0.515], [0.53, 0.75]])
    torch.testing.assert_close(sp.share_near(values, [0.5, 0.75, 1.0]), torch.tensor([0.5, 0.25, 0.0]))


# ---- samplers

SAMPLERS = [sp.sparse_batch, sp.correlated_batch, sp.anticorrelated_batch, sp.signed_sparse_batch]


@pytest.mark.parametrize("sampler", SAMPLERS)
@settings(deadline=None, max_examples=15)
@given(sizes, sizes, sizes)
def test_batch_shape(sampler, batch, instances, half):
    assert sampler(batch, 2 * half, torch.full((instances,), 0.7)).shape == (batch, instances, 2 * half)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_marginals(sampler):
    """P(active), mean and variance of the magnitudes, and active against how large: all within six standard
    errors."""
    n, features = 40_000, 6
    sparsity = torch.tensor([0.5, 0.8, 0.95])
    x = sampler(n, features, sparsity, torch.Generator().manual_seed(0)).double()
    low = -1.0 if sampler is sp.signed_sparse_batch else 0.0
    assert x.min() >= low and x.max() <= 1
    p = (1 - sparsity.double())[:, None]
    assert ((x != 0).double().mean(0) - p).abs().le(SIGMAS * (p * (1 - p) / n) ** 0.5).all()
    mean, width = (1 + low) / 2, 1 - low
    for i in range(3):
        for f in range(features):
            active = x[:, i, f][x[:, i, f] != 0]
            spread = SIGMAS / len(active) ** 0.5
            assert abs(active.mean() - mean) <= spread * width / 12**0.5
            assert abs((active - mean).pow(2).mean() - width**2 / 12) <= spread * width**2 / 180**0.5


def pair_statistics(sampler, sparsity=0.7, n=60_000):
    x = sampler(n, 4, torch.tensor([sparsity]), torch.Generator().manual_seed(1))[:, 0].double()
    on = (x != 0).double()
    together = {(i, j): (on[:, i] * on[:, j]).mean().item() for i in range(4) for j in range(i + 1, 4)}
    return x, together


@pytest.mark.parametrize(
    ("sampler", "within"),
    [(sp.sparse_batch, 0.09), (sp.correlated_batch, 0.3), (sp.anticorrelated_batch, 0.0)],
)
def test_who_is_active_together(sampler, within):
    x, together = pair_statistics(sampler)
    for (i, j), share in together.items():
        expected = within if (i, j) in ((0, 1), (2, 3)) else 0.09
        assert abs(share - expected) <= SIGMAS * (expected * (1 - expected) / len(x)) ** 0.5
    both = x[(x[:, 0] != 0) & (x[:, 1] != 0)]
    if len(both):  # where both are active their magnitudes are independent
        assert torch.corrcoef(both[:, :2].T)[0, 1].abs() <= SIGMAS / len(both) ** 0.5


def test_sampler_extremes():
    for sampler in SAMPLERS:
        assert sampler(100, 4, torch.ones(2)).eq(0).all()
    for sampler in (sp.sparse_batch, sp.correlated_batch):
        assert sampler(1000, 4, torch.zeros(2)).gt(0).float().mean() > 0.999
    halves = sp.anticorrelated_batch(1000, 4, torch.tensor([0.5]))
    assert (halves[..., 0::2] * halves[..., 1::2]).eq(0).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampler_errors_and_seeds(sampler):
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError):
            sampler(3, 4, torch.tensor([0.6, bad]))
    if sampler in (sp.correlated_batch, sp.anticorrelated_batch):
        with pytest.raises(ValueError):
            sampler(3, 5, torch.tensor([0.6]))
    if sampler is sp.anticorrelated_batch:
        with pytest.raises(ValueError):
            sampler(3, 4, torch.tensor([0.4]))
    draws = [sampler(5, 4, torch.tensor([0.6]), torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert draws[0].equal(draws[1]) and not draws[0].equal(draws[2])


# ---- models and losses


@pytest.mark.parametrize(("kind", "gate"), [(sp.ToyModel, lambda h: h), (sp.ReluHiddenModel, torch.relu)])
def test_model_forward_instance_by_instance(kind, gate):
    g = torch.Generator().manual_seed(0)
    model = kind(3, 5, 2, g)
    assert model.W.shape == (3, 2, 5) and model.b.shape == (3, 5) and model.b.eq(0).all()
    assert not model.W[0].equal(model.W[1])
    torch.nn.init.normal_(model.b, generator=g)
    x = torch.rand(7, 3, 5, generator=g)
    for i in range(3):
        expected = (gate(x[:, i] @ model.W[i].T) @ model.W[i] + model.b[i]).relu()
        torch.testing.assert_close(model(x)[:, i], expected)


def test_loss_by_hand():
    prediction, target = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]]), torch.zeros(2, 1, 2)
    assert sp.importance_weighted_loss(prediction, target, torch.tensor([1.0, 0.5])).tolist() == [1.5]
    assert sp.importance_weighted_loss(prediction, target, torch.tensor([[0.0, 1.0]])).tolist() == [2.0]
    two = sp.importance_weighted_loss(prediction.expand(2, 2, 2), target, torch.tensor([[1.0, 0], [0, 1.0]]))
    assert two.tolist() == [0.5, 2.0]


@settings(deadline=None, max_examples=30)
@given(sizes, st.integers(0, 15))
def test_absolute_value_weights_are_exact(features, hidden):
    W_in, W_out, b = sp.absolute_value_weights(features, hidden)
    assert W_in.shape == (hidden, features) and W_out.shape == (features, hidden) and b.shape == (features,)
    x = torch.randn(20, features, generator=torch.Generator().manual_seed(0))
    y = ((x @ W_in.T).relu() @ W_out.T + b).relu()
    kept = min(hidden // 2, features)
    assert y[:, :kept].equal(x[:, :kept].abs())
    assert y[:, kept:].eq(0).all()


def test_absolute_value_model_holds_the_handmade_weights():
    model = sp.AbsoluteValueModel(2, 4, 6, torch.Generator().manual_seed(0))
    W_in, W_out, b = sp.absolute_value_weights(4, 6)
    model.load_state_dict({"W_in": W_in.expand(2, -1, -1), "W_out": W_out.expand(2, -1, -1), "b": b.expand(2, -1)})
    x = torch.randn(9, 2, 4)
    torch.testing.assert_close(model(x), x.abs() * torch.tensor([1.0, 1, 1, 0]))


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("importance", [0.3, 1.0, 4.0])
def test_strategy_losses_by_monte_carlo(sparsity, importance):
    """The three losses, each within six standard errors of 200 000 draws."""
    x = sp.sparse_batch(200_000, 2, torch.tensor([sparsity]), torch.Generator().manual_seed(2))[:, 0].double()
    p = 1 - sparsity
    weight = torch.tensor([1.0, importance], dtype=torch.float64)
    keep_first = torch.stack([x[:, 0], torch.full_like(x[:, 0], p / 2)], -1)
    keep_second = torch.stack([torch.full_like(x[:, 0], p / 2), x[:, 1]], -1)
    hidden = x[:, :1] - x[:, 1:]
    antipodal = torch.cat([hidden, -hidden], -1).relu()
    theory = sp.strategy_losses(torch.tensor(sparsity), torch.tensor(importance))
    for answer, expected in zip((keep_first, keep_second, antipodal), theory, strict=True):
        errors = (weight * (answer - x) ** 2).sum(-1)
        assert abs(errors.mean() - expected) <= SIGMAS * errors.std() / len(errors) ** 0.5


def test_strategy_losses_broadcast():
    out = sp.strategy_losses(torch.rand(4, 1), torch.rand(3))
    assert out.shape == (3, 4, 3)
    # symmetric in the two features: at equal importance the first two strategies cost the same
    assert sp.strategy_losses(torch.tensor(0.3), torch.tensor(1.0))[:2].unique().numel() == 1


def test_training_lowers_the_loss_and_repeats(capsys):
    def run():
        g = torch.Generator().manual_seed(0)
        model, sparsity = sp.ToyModel(3, 4, 2, g), torch.tensor([0.0, 0.7, 0.9])
        return sp.train(
            model,
            lambda batch: sp.sparse_batch(batch, 4, sparsity, g),
            lambda y, x: sp.importance_weighted_loss(y, x, torch.ones(4)),
            steps=150, lr=0.05, batch_size=128, records=10,
        )  # fmt: skip

    history = run()
    assert history.shape == (10, 3) and not history.requires_grad
    assert (history[-1] < 0.8 * history[0]).all()
    torch.testing.assert_close(run(), history)
    captured = capsys.readouterr()
    assert "150/150" in captured.out and captured.err == ""


# ---- dtype and device


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes_are_kept(dtype):
    W = ring(5, dtype)
    for measure in (
        sp.feature_norms,
        sp.superposition_index,
        sp.dimensions_per_feature,
        sp.feature_dimensionality,
    ):
        assert measure(W).dtype == dtype
    for sampler in SAMPLERS:
        assert sampler(2, 4, torch.tensor([0.6], dtype=dtype)).dtype == dtype
    x = torch.rand(3, 1, 5, dtype=dtype)
    for kind in (sp.ToyModel, sp.ReluHiddenModel, sp.AbsoluteValueModel):
        assert kind(1, 5, 2).to(dtype)(x).dtype == dtype
    assert sp.importance_weighted_loss(x, x, torch.ones(5, dtype=dtype)).dtype == dtype
    assert sp.strategy_losses(torch.tensor(0.5, dtype=dtype), torch.tensor(1.0, dtype=dtype)).dtype == dtype


def test_everything_stays_on_the_inputs_device():
    """On fake cuda tensors, which need no GPU: anything allocated on the CPU beside them raises or shows."""
    with FakeTensorMode():
        W = torch.randn(2, 3, 5, device="cuda")
        for measure in (*MEASURES, sp.polysemanticity):
            assert measure(W).device.type == "cuda"
        x = torch.rand(4, 2, 5, device="cuda")
        for kind in (sp.ToyModel, sp.ReluHiddenModel, sp.AbsoluteValueModel):
            model = kind(2, 5, 3)
            fake = {name: torch.randn(value.shape, device="cuda") for name, value in model.named_parameters()}
            assert torch.func.functional_call(model, fake, x).device.type == "cuda"
        assert sp.importance_weighted_loss(x, x, torch.ones(5, device="cuda")).device.type == "cuda"
        assert sp.strategy_losses(torch.rand(4, device="cuda"), torch.rand(4, device="cuda")).device.type == "cuda"
        assert sp.share_near(W, [0.5, 1.0]).device.type == "cuda"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_stay_on_the_device_of_sparsity(sampler):
    """With another default device, what the sampler forgot to place shows; sparsity is on the CPU."""
    sparsity = torch.tensor([0.6, 0.9])
    with torch.device("meta"):
        assert sampler(3, 4, sparsity).device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_references_give_on_a_gpu_what_they_give_on_the_cpu():
    W = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    for measure in MEASURES:
        torch.testing.assert_close(measure(W.cuda()).cpu(), measure(W))
    model = sp.ToyModel(2, 5, 3)
    x = torch.rand(4, 2, 5)
    expected = model(x)
    torch.testing.assert_close(model.cuda()(x.cuda()).cpu(), expected, rtol=1e-4, atol=1e-5)
    sparsity = torch.tensor([0.0, 0.7], device="cuda")
    for sampler in (sp.sparse_batch, sp.correlated_batch):
        batch = sampler(8, 6, sparsity, torch.Generator("cuda").manual_seed(0))
        assert batch.device.type == "cuda" and (batch[:, 0] > 0).all()
    importance = torch.ones(5, device="cuda")
    history = sp.train(
        model,
        lambda n: sp.sparse_batch(n, 5, sparsity),
        lambda y, x: sp.importance_weighted_loss(y, x, importance),
        200,
    )
    assert (history[-1] < history[0]).all()
