"""Sparse autoencoders: each function against a definition written out, training that can be killed, files."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mechlib import models
from mechlib.feature_page import feature_page
from mechlib.sae import (
    SAE,
    ablate_feature,
    best_detectors,
    closed_form_gradients,
    dead_fraction,
    density,
    density_histogram,
    error_term,
    examples_by_level,
    explained_variance,
    from_sae_lens,
    heaviside,
    jumprelu,
    l0,
    load,
    logit_effect,
    loss_recovered,
    mean_max_cosine_similarity,
    names,
    plain_gradients,
    precision_recall_by_level,
    read_site,
    relu_l1_loss,
    remove_parallel_gradient,
    resample_dead,
    run_with_sae,
    save,
    splice_losses,
    steer,
    top_activations,
    topk_activation,
    train,
    training,
)
from mechlib.sae.files import SHIPPED, SAEError
from mechlib.sae.toy import hidden_activations, toy_model, toy_sae, true_directions


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(activation: str = "topk", d_in: int = 5, d_sae: int = 12, seed: int = 0) -> SAE:
    """An SAE whose parameters are all random, so that forgetting one shows."""
    k = 3 if activation == "topk" else None
    sae = SAE(d_in, d_sae, activation, k=k, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        sae.b_enc.copy_(0.2 * draw(seed + 1, d_sae))
        sae.b_dec.copy_(0.5 * draw(seed + 2, d_in))
        sae.W_enc.add_(0.1 * draw(seed + 3, d_in, d_sae))
    return sae


ACTIVATIONS = ("relu", "topk", "jumprelu")


# ---- the autoencoder


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_encode_and_decode_are_the_formula(activation):
    sae, x = make(activation), draw(9, 4, 7, 5)
    codes = sae.encode(x)
    for row, expected in zip(x.flatten(0, 1), codes.flatten(0, 1)):
        pre = [(row - sae.b_dec) @ sae.W_enc[:, i] + sae.b_enc[i] for i in range(12)]
        kept = sorted(pre)[-3:] if activation == "topk" else pre
        low = 0.1 if activation == "jumprelu" else 0.0
        by_hand = torch.stack(
            [p if p > low and p >= kept[0] or p > low and activation != "topk" else 0 * p for p in pre]
        )
        torch.testing.assert_close(expected, by_hand)
    torch.testing.assert_close(sae(x), torch.einsum("rpl,ld->rpd", codes, sae.W_dec) + sae.b_dec)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(12))


def test_topk_keeps_the_largest_and_only_positive_ones():
    pre = torch.tensor([[3.0, -1.0, 2.0, 5.0], [-1.0, -2.0, 0.5, -3.0]])
    assert topk_activation(pre, 2).tolist() == [[3, 0, 0, 5], [0, 0, 0.5, 0]]
    with pytest.raises(ValueError, match="k is 5, and there are 4 latents"):
        topk_activation(pre, 5)


def test_straight_through_gradients_estimate_the_expected_ones():
    """On many rows the estimate is the slope of the mean output, measured by moving the threshold."""
    pre = torch.rand(200_000, 1, generator=torch.Generator().manual_seed(0)) * 2
    for function in (jumprelu, heaviside):
        threshold = torch.tensor([0.8], requires_grad=True)
        function(pre, threshold, 0.2).mean().backward()
        step = 0.05
        up, down = (function(pre, torch.tensor([0.8 + s]), 0.2).mean() for s in (step, -step))
        assert threshold.grad.item() == pytest.approx(((up - down) / (2 * step)).item(), rel=0.05)
    pre = torch.tensor([[0.7, 0.9, 1.5, -1.0]], requires_grad=True)
    jumprelu(pre, torch.full((4,), 0.8), 0.05).sum().backward()
    assert pre.grad.tolist() == [[0, 1, 1, 0]]


def test_an_sae_for_larger_activations_does_the_same_with_them():
    for activation in ACTIVATIONS:
        sae, x = make(activation), draw(3, 20, 5)
        codes, reconstruction = sae.encode(x), sae(x)
        sae.for_larger(7.0)
        torch.testing.assert_close(sae.encode(7 * x), 7 * codes)
        torch.testing.assert_close(sae(7 * x), 7 * reconstruction)


def test_wrong_shapes_are_one_sentence():
    with pytest.raises(ValueError, match="width 6, and this SAE was made for width 5"):
        make().encode(draw(0, 3, 6))
    for wrong in (None, 0, 13):
        with pytest.raises(ValueError, match=f"k is {wrong}, and there are 12 latents"):
            SAE(5, 12, "topk", k=wrong)
    with pytest.raises(ValueError, match="k is 2.5, and there are 12 latents: choose a whole number from 1 to 12"):
        SAE(5, 12, "topk", k=2.5)
    with pytest.raises(
        ValueError, match="d_in is 8 and d_sae is 0: an SAE needs at least one dimension and one latent"
    ):
        SAE(8, 0)
    with pytest.raises(ValueError, match="activation is one of relu, topk, jumprelu, not 'gelu'"):
        SAE(5, 12, "gelu")


def test_relu_l1_loss_by_hand():
    x, reconstruction = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    codes = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])
    assert relu_l1_loss(x, reconstruction, codes, 0.5).item() == pytest.approx((4 + 1) / 2 + 0.5 * (3 + 3) / 2)


# ---- training


@pytest.mark.parametrize("activation", ["relu", "topk"])
def test_closed_form_gradients_are_autograds(activation):
    x = draw(4, 64, 5)
    plain, fast = make(activation), make(activation)
    for one, other in zip(plain_gradients(plain, x, 0.3), closed_form_gradients(fast, x, 0.3)):
        torch.testing.assert_close(one, other)
    for (name, one), other in zip(plain.named_parameters(), fast.parameters()):
        assert one.grad.abs().sum() > 0
        torch.testing.assert_close(one.grad, other.grad, msg=name)
    with pytest.raises(ValueError, match="plain_gradients"):
        closed_form_gradients(make("jumprelu"), x, 0.0)


@pytest.mark.parametrize("activation", ["relu", "topk"])
def test_both_gradients_train_the_same_sae(activation):
    x = sparse_data()
    trained = []
    for gradients in (plain_gradients, closed_form_gradients):
        sae = make(activation, 8, 16)
        train(sae, x, 30, 128, sparsity=0.1, gradients=gradients, quiet=True)
        trained.append(sae)
    for one, other in zip(trained[0].parameters(), trained[1].parameters()):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_parallel_gradient_is_gone_and_the_rest_stays():
    W_dec, gradient = 3 * draw(0, 6, 4), draw(1, 6, 4)
    rest = remove_parallel_gradient(W_dec, gradient)
    torch.testing.assert_close((rest * W_dec).sum(dim=1), torch.zeros(6), atol=1e-5, rtol=0)
    removed = gradient - rest
    torch.testing.assert_close(removed.norm(dim=1) * W_dec.norm(dim=1), (removed * W_dec).sum(dim=1).abs())
    assert (gradient * W_dec).sum(dim=1).abs().min() > 0.01  # there was something to remove


def test_resampling_points_dead_latents_at_what_is_reconstructed_badly():
    sae, x = make("relu"), draw(5, 50, 5)
    with torch.no_grad():
        sae.b_enc[[2, 7]] = -1e6
        x[13] *= 30  # nearly all of the squared losses
    dead = (sae.encode(x) > 0).sum(dim=0) == 0
    assert dead.nonzero().flatten().tolist() == [2, 7]
    optimizer = torch.optim.Adam(sae.parameters())
    plain_gradients(sae, x, 0.1)
    optimizer.step()
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    losses, old = (x - sae(x)).square().sum(dim=1), (sae.W_enc, sae.b_enc, sae.W_dec)
    W_enc, b_enc, W_dec = resample_dead(*old, sae.b_dec, dead, x, losses, torch.Generator().manual_seed(0))
    assert all(torch.equal(value, before[name]) for name, value in sae.state_dict().items())
    training._resample(sae, x, dead, torch.Generator().manual_seed(0), optimizer)
    assert torch.equal(sae.W_enc, W_enc) and torch.equal(sae.b_enc, b_enc) and torch.equal(sae.W_dec, W_dec)
    direction = torch.nn.functional.normalize(x[13] - sae.b_dec, dim=0)
    for latent in (2, 7):
        torch.testing.assert_close(sae.W_dec[latent], direction)
        length = 0.2 * before["W_enc"][:, ~dead].norm(dim=0).mean()
        torch.testing.assert_close(sae.W_enc[:, latent], length * direction)
        assert sae.b_enc[latent] == 0 and sae.encode(x)[13, latent] > 0
    assert torch.equal(sae.W_dec[~dead], before["W_dec"][~dead])
    assert torch.equal(sae.W_enc[:, ~dead], before["W_enc"][:, ~dead])
    averages = optimizer.state[sae.W_enc]["exp_avg"]
    assert averages[:, dead].abs().sum() == 0 and averages[:, ~dead].abs().sum() > 0


def sparse_data(n: int = 2000, features: int = 12, d_in: int = 8) -> torch.Tensor:
    draws = torch.Generator().manual_seed(1)
    directions = torch.nn.functional.normalize(torch.randn(features, d_in, generator=draws), dim=1)
    codes = torch.rand(n, features, generator=draws) * (torch.rand(n, features, generator=draws) < 0.1)
    return 5 * codes @ directions + 1.0


@pytest.mark.parametrize(("activation", "sparsity"), [("topk", 0.0), ("relu", 0.3), ("jumprelu", 0.3)])
def test_training_reconstructs_sparsely(activation, sparsity):
    x, seen = sparse_data(), []
    sae = SAE(8, 16, activation, k=3 if activation == "topk" else None, generator=torch.Generator().manual_seed(0))
    untrained = explained_variance(x, sae(x)).item()
    history = train(sae, x, 600, 256, 5e-3, sparsity, on_record=lambda h: seen.append(len(h)), quiet=True)
    assert seen == list(range(1, 13)) and [record["step"] for record in history] == list(range(50, 601, 50))
    codes = sae.encode(x)
    assert explained_variance(x, sae(x)) > 0.85 > 0.5 > untrained
    assert 0.5 < l0(codes) < 4
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(16))
    assert history[-1]["explained_variance"] == pytest.approx(explained_variance(x, sae(x)).item(), abs=0.05)


def test_resampling_revives():
    x = sparse_data()

    def dead_after(resample_every: int) -> float:
        sae = SAE(8, 16, "relu", generator=torch.Generator().manual_seed(0))
        sae.b_enc.data[:6] = -50.0
        train(sae, x, 300, 256, 3e-3, 0.1, resample_every=resample_every, quiet=True)
        return dead_fraction(density(sae.encode(x))).item()

    assert dead_after(0) >= 6 / 16 > dead_after(50)


def test_training_refuses_what_cannot_work():
    x = sparse_data(100)
    with pytest.raises(ValueError, match="the data set is empty"):
        train(make(), torch.zeros(0, 5), quiet=True)
    with pytest.raises(ValueError, match=r"width 8, and the SAE was made for width 5: make it with SAE\(8"):
        train(make(), x, quiet=True)
    with pytest.raises(ValueError, match="are of type torch.int64"):
        train(make(d_in=8), x.long(), quiet=True)
    with pytest.raises(ValueError, match="give one row an activation"):
        train(make(d_in=8), x[None], quiet=True)
    with pytest.raises(FloatingPointError, match="not all finite"):
        train(make(d_in=8), x.index_fill(0, torch.tensor([3]), math.nan), quiet=True)
    with pytest.raises(FloatingPointError, match=r"the loss is \S+ at step \d+: lower the learning rate"):
        train(make("relu", d_in=8), x, 100, 32, lr=1e30, quiet=True)


def test_training_again_goes_on_where_it_was():
    x, sae = sparse_data(), SAE(8, 16, "topk", k=3, generator=torch.Generator().manual_seed(0))
    train(sae, x, 300, 256, 5e-3, quiet=True)
    before = explained_variance(x, sae(x))
    train(sae, x, 1, 256, 1e-6, quiet=True)
    assert explained_variance(x, sae(x)).item() == pytest.approx(before.item(), abs=1e-3)


# A process that trains slowly enough to be killed in the middle.
SLOW = """
import sys, time
sys.path.insert(0, {tests!r})
from test_sae import resumable
resumable(sys.argv[1], on_record=lambda history: time.sleep(0.05))
"""


def resumable(checkpoint, **options):
    sae = SAE(8, 16, "topk", k=3, generator=torch.Generator().manual_seed(0))
    history = train(
        sae, sparse_data(), 120, 64, resample_every=20, checkpoint=checkpoint, save_every=10, record_every=3,
        quiet=True, **options,
    )  # fmt: skip
    return sae, history


def test_a_killed_run_resumes_and_ends_as_if_nothing_had_happened(tmp_path):
    file = tmp_path / "checkpoint.pt"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    code = SLOW.format(tests=str(Path(__file__).parent))
    process = subprocess.Popen([sys.executable, "-c", code, str(file)], env=environment)
    deadline = time.time() + 120
    while not file.exists():
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    step = torch.load(file, weights_only=True)["step"]
    assert 0 < step < 120
    steps_done = []
    resumed, history = resumable(file, on_record=lambda h: steps_done.append(h[-1]["step"]))
    assert steps_done[0] > step  # it did go on, and not start again
    whole, expected = resumable(None)
    assert history == expected
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), resumed.parameters()))
    with pytest.raises(ValueError, match="holds another run"):
        train(make(d_in=8), sparse_data(), 7, 64, checkpoint=file, quiet=True)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is damaged, or no checkpoint of a training"):
        resumable(file)


# ---- measures


def test_measures_by_hand():
    codes = torch.tensor([[0.0, 2.0, 0.0], [1.0, 1.0, 0.0]])
    assert l0(codes) == 1.5 and density(codes).tolist() == [0.5, 1, 0]
    assert dead_fraction(density(codes)).item() == pytest.approx(1 / 3)
    counts, edges = density_histogram(torch.tensor([0.0, 1e-7, 0.0011, 0.9]), bins=5, lowest=-5)
    assert counts.tolist() == [1, 0, 1, 0, 1] and edges.tolist() == [-5, -4, -3, -2, -1, 0]


def test_explained_variance():
    x = draw(0, 3, 50, 4) * torch.tensor([1.0, 2.0, 3.0, 0.1]) + 7
    mean = x.flatten(0, 1).mean(dim=0)
    assert explained_variance(x, x) == 1
    assert explained_variance(x, mean.expand_as(x)).item() == pytest.approx(0, abs=1e-5)
    assert explained_variance(x, mean + 0.5 * (x - mean)).item() == pytest.approx(0.75, abs=1e-4)
    assert explained_variance(x, torch.zeros_like(x)) < -1


def test_mean_max_cosine_similarity():
    true = torch.eye(4)
    assert mean_max_cosine_similarity(5 * true[[3, 1, 0, 2]], true) == 1
    assert mean_max_cosine_similarity(true[:2], true) == 0.5  # two features have no latent
    assert mean_max_cosine_similarity(-true, true) == 0
    assert mean_max_cosine_similarity(torch.cat([true, draw(0, 9, 4), torch.zeros(1, 4)]), true) == 1


@pytest.fixture(scope="module")
def pocket():
    return models.load("pocket", device="cpu")


@pytest.fixture(scope="module")
def tokens(pocket):
    from mechlib.recipes import corpus

    return torch.tensor(corpus.rows(5, 0, 12))


SITE = "blocks.2.hook_resid_post"


def perfect(d: int = 128) -> SAE:
    """Reconstructs everything: one latent for each direction and its opposite."""
    sae = SAE(d, 2 * d, "relu")
    sae.W_dec.data = torch.cat([torch.eye(d), -torch.eye(d)])
    sae.W_enc.data = sae.W_dec.data.T.contiguous()
    return sae.requires_grad_(False)


def test_loss_recovered_from_nothing_to_everything(pocket, tokens):
    everything = splice_losses(pocket, perfect(), SITE, tokens, batch_size=5)
    assert loss_recovered(pocket, perfect(), SITE, tokens) == pytest.approx(everything.share, abs=1e-5)
    assert everything.share == pytest.approx(1, abs=1e-4)
    assert everything.clean == pytest.approx(pocket(tokens, return_type="loss").item(), abs=1e-4)
    nothing = perfect()
    nothing.W_dec.data.zero_()
    nothing.b_dec.data = read_site(pocket, SITE, tokens).mean(dim=(0, 1))
    nothing = splice_losses(pocket, nothing, SITE, tokens)
    assert nothing.share == pytest.approx(0, abs=1e-4) and nothing.mean_ablated > nothing.clean + 1
    with pytest.raises(KeyError, match="no hook point 'blocks.9"):
        loss_recovered(pocket, perfect(), "blocks.9.hook_resid_post", tokens)


def test_steering_changes_one_direction_and_keeps_the_error(pocket, tokens):
    sae = make("topk", 128, 40).requires_grad_(False)
    clean = pocket(tokens)
    torch.testing.assert_close(run_with_sae(pocket, sae, SITE, tokens, error=True), clean, atol=1e-3, rtol=1e-3)
    assert (run_with_sae(pocket, sae, SITE, tokens) - clean).abs().max() > 1
    x = read_site(pocket, SITE, tokens)
    torch.testing.assert_close(sae(x) + error_term(sae, x), x)
    feature = int((sae.encode(x) > 0).sum(dim=(0, 1)).argmax())
    for value, logits in ((0.0, ablate_feature(pocket, sae, SITE, tokens, feature)),
                          (9.0, steer(pocket, sae, SITE, tokens, feature, 9.0))):  # fmt: skip
        change = (value - sae.encode(x)[..., feature, None]) * sae.W_dec[feature]
        expected = pocket.run_with_hooks(tokens, fwd_hooks=[(SITE, lambda x, hook, change=change: x + change)])
        torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-3)
        assert (logits - clean).abs().max() > 0.1
    where = torch.zeros_like(tokens, dtype=torch.bool)
    where[:, 40] = True
    only_there = steer(pocket, sae, SITE, tokens, feature, 9.0, where)
    torch.testing.assert_close(only_there[:, :40], clean[:, :40], atol=1e-3, rtol=1e-3)
    assert (only_there[:, 40] - clean[:, 40]).abs().max() > 0.1


@pytest.mark.parametrize("feature", [-1, 40])
def test_a_latent_that_is_not_there_is_one_sentence(pocket, tokens, feature):
    sae = make("topk", 128, 40).requires_grad_(False)
    sentence = f"there is no latent {feature}: this SAE has 40, numbered from 0 to 39"
    with pytest.raises(IndexError, match=sentence):
        steer(pocket, sae, SITE, tokens, feature, 1.0)
    with pytest.raises(IndexError, match=sentence):
        feature_page(pocket, sae, SITE, tokens, feature)


def test_logit_effect_is_the_direct_path(pocket, tokens):
    """A small push at the end changes the logits, apart from their mean and the LayerNorm's scale, as it says."""
    direction = draw(0, 128)
    direction -= direction.mean()
    last = f"blocks.{pocket.cfg.n_layers - 1}.hook_resid_post"
    x, cache = pocket.run_with_cache(tokens[:1])
    scale = cache["ln_final.hook_scale"][0, 7]
    stream = cache[last][0, 7]
    centred = stream - stream.mean()
    direction -= centred * (centred @ direction) / (centred @ centred)  # so that the scale stays
    pushed = pocket.run_with_hooks(tokens[:1], fwd_hooks=[(last, lambda s, hook: s + 0.01 * direction)])
    change = (pushed - x)[0, 7] / 0.01 * scale
    torch.testing.assert_close(change - change.mean(), logit_effect(pocket, direction), atol=0.05, rtol=0.01)


# ---- ground truth


def test_the_toy_models_features_are_found_where_they_can_be():
    """One seed of the regime where it works; the slow test below has three, and the regimes where it does not."""
    model = toy_model()
    true = true_directions(model)
    assert (true.norm(dim=1) > 0.9).all()  # all are stored, so all could be found
    hidden, _ = hidden_activations(model, 30_000, 0.95)
    sae, _ = toy_sae(hidden)
    assert mean_max_cosine_similarity(sae.W_dec.detach(), true) >= 0.95
    untrained = SAE(20, 80, "topk", k=2, generator=torch.Generator().manual_seed(0))
    assert mean_max_cosine_similarity(untrained.W_dec.detach(), true) < 0.65


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_ground_truth_over_seeds(seed):
    model = toy_model(seed=seed)
    true = true_directions(model)

    def found(sparsity: float, **options: int) -> float:
        hidden, _ = hidden_activations(model, 60_000, sparsity, seed)
        return mean_max_cosine_similarity(toy_sae(hidden, seed=seed, **options)[0].W_dec.detach(), true).item()

    assert found(0.95) >= 0.95
    for sparsity, options in ((0.7, {}), (0.95, {"d_sae": 20}), (0.95, {"d_sae": 40, "k": 12})):
        assert found(sparsity, **options) < 0.9, (sparsity, options)


# ---- features


def test_top_activations_at_most_one_a_row():
    codes = torch.tensor([[0.0, 5.0, 4.0], [1.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    values, rows, positions = top_activations(codes, 2)
    assert values.tolist() == [5, 3] and rows.tolist() == [0, 2] and positions.tolist() == [1, 2]
    assert len(top_activations(codes, 10)[0]) == 3


def test_examples_by_level_lie_in_their_intervals():
    codes = draw(0, 200, 9).relu()
    examples = examples_by_level(codes, 4, 5, torch.Generator().manual_seed(0))
    maximum = codes.max()
    assert len(examples) == 4 and any(len(values) == 5 for values, _, _ in examples)
    for level, (values, rows, positions) in zip((3, 2, 1, 0), examples):
        assert torch.equal(values, codes[rows, positions]) and len(set(rows.tolist())) == len(rows)
        assert (values > level / 4 * maximum).all() and (values <= (level + 1) / 4 * maximum).all()
    assert [len(e[0]) for e in examples_by_level(torch.tensor([[0.0, 1.0]]), 3, 5)] == [1, 0, 0]


def test_precision_and_recall_by_hand():
    activation = torch.tensor([10.0, 6.0, 4.0, 0.0, 0.0])
    concept = torch.tensor([True, False, True, True, False])
    precision, recall = precision_recall_by_level(activation, concept, torch.tensor([0.0, 0.5, 0.9, 1.0]))
    torch.testing.assert_close(precision, torch.tensor([2 / 3, 1 / 2, 1, math.nan]), equal_nan=True)
    torch.testing.assert_close(recall, torch.tensor([2 / 3, 1 / 3, 1 / 3, 0]))


def test_best_detector_is_the_best_of_all_thresholds():
    activations, concepts = draw(0, 60, 4).round(decimals=1), draw(1, 60, 3) > 0.5
    concepts[:, 2] = activations[:, 3] < -0.75  # found perfectly by one unit, read upside down
    found = best_detectors(activations, concepts)
    for concept, detector in enumerate(found):
        best = 0.0
        for unit in range(4):
            for sign in (1, -1):
                values = sign * activations[:, unit]
                for threshold in values.unique().tolist():
                    fires = values > threshold
                    hits = (fires & concepts[:, concept]).sum()
                    best = max(best, (2 * hits / (fires.sum() + concepts[:, concept].sum())).item())
        assert detector.f1 == pytest.approx(best)
        assert detector.score(activations, concepts[:, concept])[2] == pytest.approx(best)
    assert (found[2].unit, found[2].sign) == (3, -1) and found[2].score(activations, concepts[:, 2]) == (1, 1, 1)


# ---- files


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_saved_and_loaded(tmp_path, activation):
    sae, x = make(activation), draw(0, 30, 5)
    save(sae, tmp_path, {"site": SITE})
    again = load(tmp_path)
    assert torch.equal(again.encode(x), sae.encode(x)) and again.card["site"] == SITE
    assert not any(parameter.requires_grad for parameter in again.parameters())
    save(sae, tmp_path, dtype=torch.float16)
    torch.testing.assert_close(load(tmp_path)(x), sae(x), atol=0.2, rtol=0.01)
    (tmp_path / "sae.safetensors").write_bytes(b"something else")
    with pytest.raises(SAEError, match="not the file that its card describes"):
        load(tmp_path)
    with pytest.raises(SAEError, match="no sparse autoencoder"):
        load(tmp_path / "nowhere")
    save(sae, tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    for shape in (None, {**card["sae"], "d_sae": 7}, {**card["sae"], "activation": "gelu"}):
        (tmp_path / "card.json").write_text(json.dumps({**card, "sae": shape}))
        with pytest.raises(SAEError, match="do not fit what is said about them"):
            load(tmp_path)
    (tmp_path / "sae.safetensors").unlink()
    with pytest.raises(SAEError, match="has a card and no sae.safetensors"):
        load(tmp_path)


def lens_folder(folder: Path, config: dict, sae: SAE) -> Path:
    """What sae-lens writes: cfg.json and sae_weights.safetensors."""
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text(json.dumps({"d_in": 5, "d_sae": 12, "dtype": "float32", **config}))
    weights = {name: getattr(sae, name).detach().contiguous() for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    if config.get("architecture") == "jumprelu":
        weights["threshold"] = sae.threshold.detach()
    save_file(weights, folder / "sae_weights.safetensors")
    return folder


def test_sae_lens_folders(tmp_path):
    x = draw(0, 30, 5)
    standard, topk, jump = (make(activation).requires_grad_(False) for activation in ACTIVATIONS)
    v6 = {"apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none"}
    v6["metadata"] = {"hook_name": SITE}
    for name, sae, config in (
        ("standard", standard, {"architecture": "standard"}),
        ("topk", topk, {"architecture": "topk", "k": 3, "rescale_acts_by_decoder_norm": False}),
        ("jumprelu", jump, {"architecture": "jumprelu"}),
        ("old", topk, {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}, "hook_point": SITE}),
    ):
        lens_folder(tmp_path / "many" / name, {**v6, **config}, sae)
        found = from_sae_lens(tmp_path / "many", name)
        torch.testing.assert_close(found.encode(x), sae.encode(x))
        torch.testing.assert_close(found(x), sae(x))
    assert from_sae_lens(tmp_path / "many" / "topk").card["metadata"]["hook_name"] == SITE

    # b_dec is not subtracted from the input: the codes are those of x @ W_enc + b_enc.
    lens_folder(tmp_path / "no_b_dec", {"architecture": "standard", "apply_b_dec_to_input": False}, standard)
    codes = (x @ standard.W_enc + standard.b_enc).relu()
    torch.testing.assert_close(from_sae_lens(tmp_path / "no_b_dec").encode(x), codes)

    # Codes in units of length: longer decoder rows win more often, and the reconstruction divides it out again.
    topk.W_dec.mul_(torch.linspace(0.5, 2, 12)[:, None])
    lens_folder(tmp_path / "rescaled", {"architecture": "topk", "k": 3, "rescale_acts_by_decoder_norm": True}, topk)
    length = topk.W_dec.norm(dim=1)
    codes = topk_activation(topk.pre_activations(x) * length, 3)
    found = from_sae_lens(tmp_path / "rescaled")
    torch.testing.assert_close(found.encode(x), codes)
    torch.testing.assert_close(found(x), (codes / length) @ topk.W_dec + topk.b_dec)


def test_sae_lens_folders_that_cannot_be_read(tmp_path):
    sae = make("relu")
    for name, config, message in (
        ("gated", {"architecture": "gated"}, "'gated' is not supported"),
        ("norm", {"normalize_activations": "layer_norm"}, "layer_norm"),
        ("hook_z", {"reshape_activations": "hook_z"}, "hook_z"),
        ("no_k", {"architecture": "topk"}, "do not fit what is said about them .k is None"),
    ):
        with pytest.raises(SAEError, match=message):
            from_sae_lens(lens_folder(tmp_path / name, config, sae))
    lens_folder(tmp_path / "no_threshold", {}, sae)
    (tmp_path / "no_threshold" / "cfg.json").write_text('{"architecture": "jumprelu"}')
    with pytest.raises(
        SAEError, match="a jumprelu SAE has W_dec, W_enc, b_dec, b_enc, threshold; the weights here are"
    ):
        from_sae_lens(tmp_path / "no_threshold")
    with pytest.raises(SAEError, match="has no folder 'nowhere'"):
        from_sae_lens(tmp_path, "nowhere")
    (tmp_path / "gated" / "sae_weights.safetensors").unlink()
    with pytest.raises(SAEError, match="has no sae_weights.safetensors"):
        from_sae_lens(tmp_path / "gated")
    (tmp_path / "norm" / "cfg.json").write_text("{}")
    (tmp_path / "norm" / "sae_weights.safetensors").write_bytes(b"short")
    with pytest.raises(SAEError, match="damaged"):
        from_sae_lens(tmp_path / "norm")


def test_the_hub_out_of_reach_is_one_sentence(monkeypatch):
    import huggingface_hub

    def unreachable(*_):
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(SAEError, match="cannot be had from the hub"):
        from_sae_lens("owner/name", "blocks.8.hook_resid_pre")


# ---- those that come with the course


def test_the_shipped_ones_are_what_their_cards_say(pocket):
    """Measured again, on fewer texts than for the card; the targets hold for the card's own numbers."""
    from mechlib.recipes import sae as recipe

    assert names() == ["pocket", "pocket-random"]
    sizes = [path.stat().st_size for name in names() for path in (SHIPPED / name).iterdir()]
    assert sum(sizes) < 3_000_000
    sae = load("pocket")
    card = sae.card
    assert card["site"] == recipe.SITE and card["recipe"]["steps"] == recipe.STEPS
    assert (sae.d_sae, sae.k) == (recipe.D_SAE, recipe.K)
    assert recipe.misses(card["measures"]) == []
    measured = recipe.measure(pocket, sae, rows=60)
    for name in ("loss recovered", "explained variance"):
        assert measured[name] == pytest.approx(card["measures"][name], abs=0.02), name
    assert measured["l0"] <= 32 and measured["loss recovered"] >= 0.95
    # The other model's activations are not what it was made for.
    twin = models.random_twin("pocket", device="cpu")
    assert recipe.measure(twin, sae, rows=20)["explained variance"] < 0.5
    assert recipe.measure(twin, load("pocket-random"), rows=20)["explained variance"] > 0.5


@pytest.mark.slow
def test_the_concepts_on_the_card_are_measured_again(pocket):
    from mechlib.recipes import sae as recipe

    twin = models.random_twin("pocket", device="cpu")
    table = recipe.concept_table(pocket, load("pocket"), twin, load("pocket-random"))
    card = load("pocket").card["concepts"]
    assert table.keys() == card.keys()
    for name, row in table.items():
        for kind in recipe.KINDS:
            assert row[kind]["F1"] == pytest.approx(card[name][kind]["F1"], abs=0.02), (name, kind)


def test_the_recipe_from_end_to_end(tmp_path, monkeypatch, capsys):
    from mechlib.cli import main
    from mechlib.recipes import sae as recipe

    small = {"D_SAE": 40, "K": 4, "STEPS": 6, "BATCH": 64, "RESAMPLE": 3}
    small |= {"TRAIN_TEXTS": (11, 8), "CHOICE_TEXTS": (101, 8), "REPORT_TEXTS": (102, 8)}
    small |= {"NEURONS": ("blocks.0.hook_mlp_out",)}  # fewer units
    for name, value in small.items():
        monkeypatch.setattr(recipe, name, value)
    assert main(["train", "sae", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "not reached: loss recovered" in said and "| country |" in said and "| negated * |" in said
    for name in ("pocket", "pocket-random"):
        assert load(tmp_path / name).card["measures"]["l0"] <= 4 and not (tmp_path / f"{name}.pt").exists()


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def peers(tmp_path_factory) -> Path:
    """Where the peers' environments are made, which takes minutes and a network; MECHLIB_PEERS keeps them."""
    return Path(os.environ.get("MECHLIB_PEERS") or tmp_path_factory.mktemp("peers"))


@pytest.mark.slow
def test_a_step_is_no_slower_than_the_fastest_peers(peers):
    run = subprocess.run([sys.executable, BENCHMARKS / "sae.py", "--peers", peers], capture_output=True, text=True)
    print(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
def test_what_sae_lens_saves_gives_the_codes_that_sae_lens_computes(peers, tmp_path):
    sys.path.insert(0, str(BENCHMARKS))
    from sae import python_of

    subprocess.run([python_of("sae-lens", peers), BENCHMARKS / "sae_peers.py", "sae-lens", tmp_path], check=True)
    assert len(list(tmp_path.iterdir())) == 5
    for folder in tmp_path.iterdir():
        expected, sae = load_file(folder / "expected.safetensors"), from_sae_lens(folder)
        torch.testing.assert_close(sae.encode(expected["x"]), expected["codes"], msg=folder.name)
        torch.testing.assert_close(sae(expected["x"]), expected["x_hat"], msg=folder.name)
