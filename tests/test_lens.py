"""Lenses: against TransformerLens's own, against sums that must add up, and on models whose answers are known."""

import math

import pytest
import torch

from mechlib import handmade, lens, tasks
from mechlib.checker import recipes
from mechlib.models import load
from mechlib.recipes import corpus

TOKENS = torch.tensor([[0, 3, 4, 5, 9], [0, 5, 6, 7, 2]])
MODELS = {
    "random": lambda: recipes.gpt2(3),
    "random, processed": lambda: recipes.gpt2(3, processed=True),
    "attention only": lambda: recipes.gpt2(4, attention_only=True),
    "pocket": lambda: load("pocket", device="cpu"),
    "pocket, processed": lambda: load("pocket", device="cpu", processed=True),
    "attn-only-2l": lambda: load("attn-only-2l", device="cpu"),
    "handmade": lambda: handmade.handmade("indirect", device="cpu"),
}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def tokens_for(name):
    return TOKENS[:, :3] if name == "handmade" else TOKENS


@pytest.fixture(params=MODELS)
def named(request):
    return request.param, MODELS[request.param](), tokens_for(request.param)


# ---- the logit lens


def test_the_lens_agrees_with_transformer_lens(named):
    """FACTS: accumulated_resid(layer=-1, apply_ln=True) is a correct lens on raw and on processed weights."""
    from transformer_lens.tools.analysis import logit_lens

    name, model, tokens = named
    ours = lens.logit_lens(model, tokens)
    logits, cache = model.run_with_cache(tokens)
    by_hand = cache.accumulated_resid(layer=-1, apply_ln=True) @ model.W_U + model.b_U
    assert ours.shape == (model.cfg.n_layers + 1, *tokens.shape, model.cfg.d_vocab)
    torch.testing.assert_close(ours, by_hand, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours[-1], logits, rtol=1e-4, atol=1e-4)
    theirs = logit_lens(model, tokens, positions=None).values
    torch.testing.assert_close(ours.log_softmax(-1), theirs.log_softmax(-1), rtol=1e-4, atol=1e-4)


def test_processing_changes_no_lens_probability():
    raw, processed = load("pocket", device="cpu"), load("pocket", device="cpu", processed=True)
    views = [lens.logit_lens(model, TOKENS).log_softmax(dim=-1) for model in (raw, processed)]
    torch.testing.assert_close(*views, rtol=1e-3, atol=1e-3)


def test_the_scale_of_another_depth_is_another_lens():
    """The trap that the chapter shows: the norm's statistics belong to the vector that is read."""
    model = recipes.gpt2(3)
    streams = lens.residual_streams(model, TOKENS)
    _, cache = model.run_with_cache(TOKENS)
    stale = (streams - streams.mean(-1, keepdim=True)) / cache["ln_final.hook_scale"]
    stale = (stale * model.ln_final.weight + model.ln_final.bias) @ model.W_U + model.b_U
    right = lens.logit_lens(model, TOKENS)
    torch.testing.assert_close(stale[-1], right[-1], rtol=1e-4, atol=1e-4)
    assert (stale[:-1] - right[:-1]).abs().max() > 0.1


def test_a_depth_that_is_not_there():
    with pytest.raises(ValueError, match="no depth 4: this model has depths 0 to 3"):
        lens.stream_hook(recipes.gpt2(3), 4)
    with pytest.raises(ValueError, match="no depth -1"):
        lens.stream_hook(recipes.gpt2(3), -1)


# ---- numbers


def test_ranks():
    logits = torch.tensor([[3.0, 1.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    assert lens.answer_rank(logits, torch.tensor([2, 1])).tolist() == [1, 0]
    assert lens.answer_rank(logits, torch.tensor(1)).tolist() == [3, 0]
    by_depth = torch.randn(4, 3, 9)
    answers = torch.tensor([5, 0, 8])
    order = by_depth.argsort(dim=-1, descending=True)
    assert torch.equal(lens.answer_rank(by_depth, answers), (order == answers[:, None]).int().argmax(-1))


def test_emergence():
    ranks = torch.tensor([[9, 0, 0, 5, 0], [0, 0, 4, 1, 0], [0, 3, 0, 0, 0], [0, 0, 0, 2, 0]])
    assert lens.emergence_layer(ranks, at_most=0).tolist() == [1, 3, 2, 4, 0]
    assert lens.emergence_layer(ranks, at_most=2).tolist() == [1, 3, 2, 1, 0]
    assert lens.emergence_layer(ranks[:, 0], 0).item() == 1


def test_kl_and_entropy_know_the_closed_forms():
    uniform, sharp = torch.zeros(4), torch.tensor([100.0, 0.0, 0.0, 0.0])
    assert lens.entropy(uniform).item() == pytest.approx(math.log(4))
    assert lens.entropy(sharp).item() == pytest.approx(0, abs=1e-6)
    assert lens.entropy(torch.tensor([1e4, 0.0, 0.0])).isfinite()
    kl = lens.kl_to_final(torch.stack([uniform, sharp]))
    assert kl.tolist() == pytest.approx([math.log(4), 0], abs=1e-6)
    other = lens.kl_to_final(torch.stack([sharp, uniform]))
    assert other[0].item() == pytest.approx(75 - math.log(4))  # the other way round is another number
    logits = torch.randn(3, 2, 5, 7)
    target = logits[-1].expand(3, 2, 5, 7).softmax(-1)
    wanted = torch.nn.functional.kl_div(logits.log_softmax(-1), target, reduction="none").sum(-1)
    torch.testing.assert_close(lens.kl_to_final(logits), wanted)


def test_the_interval_of_a_mean():
    mean, low, high = lens.mean_interval(torch.arange(400.0))
    error = 1.96 * torch.arange(400.0).std().item() / 20  # the normal approximation
    assert mean == pytest.approx(199.5) and high - low == pytest.approx(2 * error, rel=0.1)
    assert low == pytest.approx(199.5 - error, abs=2)
    assert lens.mean_interval(torch.full((7,), 2.0)) == (2.0, 2.0, 2.0)


# ---- sub-updates


@pytest.mark.parametrize("name", ["random", "random, processed", "pocket", "pocket, processed", "handmade"])
def test_sub_updates_sum_to_the_mlps_output(name):
    model, tokens = MODELS[name](), tokens_for(name)
    _, cache = model.run_with_cache(tokens)
    for layer in range(model.cfg.n_layers):
        parts = lens.sub_updates(model, tokens, layer)
        assert parts.shape == (*tokens.shape, model.cfg.d_mlp, model.cfg.d_model)
        torch.testing.assert_close(parts.sum(2) + model.b_out[layer], cache["mlp_out", layer], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["attention only", "attn-only-2l"])
def test_attention_only_models_have_no_sub_updates(name):
    with pytest.raises(ValueError, match="attention only: it has no MLP neurons"):
        lens.sub_updates(MODELS[name](), TOKENS, 0)
    with pytest.raises(ValueError, match="attention only"):
        lens.value_vector_tokens(MODELS[name](), 0, k=3)


@pytest.mark.parametrize("build", [recipes.gpt2, lambda seed, processed=False: load("pocket", "cpu", processed)])
def test_value_vectors_read_the_same_on_raw_and_processed_weights(build):
    raw, processed = build(3), build(3, processed=True)
    for layer in range(raw.cfg.n_layers):
        ours = [lens.value_vector_tokens(model, layer, k=4) for model in (raw, processed)]
        assert (ours[0] == ours[1]).float().mean() > 0.999  # two tokens may tie to the last digit


def test_the_value_vectors_of_a_gate_say_yes_and_no():
    plan = handmade.BLUEPRINTS["indirect"]()
    model = plan.build(device="cpu")
    top = lens.value_vector_tokens(model, 1, k=1)[:, 0].tolist()
    assert [plan.words[token] for token in top] == ["yes", "no"]


# ---- the tuned lens


def test_a_tuned_lens_starts_as_the_logit_lens(named):
    _, model, tokens = named
    streams = lens.residual_streams(model, tokens)
    start = lens.TunedLens(model.cfg.n_layers, model.cfg.d_model)
    assert torch.equal(start(streams[:-1]), streams[:-1])
    assert torch.equal(lens.read_out(model, start(streams[:-1])), lens.logit_lens(model, tokens)[:-1])


def test_each_layer_has_a_translator_of_its_own():
    tuned = lens.TunedLens(3, 4)
    tuned.weight[1, 0, 2], tuned.bias[2, 3] = 5.0, 7.0
    streams = torch.randn(3, 2, 5, 4)
    moved = tuned(streams) - streams
    wanted = torch.zeros_like(streams)
    wanted[1, ..., 2], wanted[2, ..., 3] = 5 * streams[1, ..., 0], 7.0
    torch.testing.assert_close(moved, wanted)


def test_the_loss_is_the_kl_of_the_kept_positions():
    logits, final = torch.randn(3, 2, 5, 7), torch.randn(2, 5, 7)
    keep = torch.tensor([[True, True, False, False, True], [False, False, True, False, False]])
    kl = lens.kl_to_final(torch.cat([logits, final[None]]))[:-1]
    torch.testing.assert_close(lens.tuned_lens_loss(logits, final, keep), kl[:, keep].mean(1))
    with torch.enable_grad():
        final.requires_grad_()
        loss = lens.tuned_lens_loss(logits.requires_grad_(), final, keep).sum()
        loss.backward()
    assert final.grad is None and logits.grad.abs().sum() > 0
    assert logits.grad[:, ~keep].abs().max() == 0


def test_a_fitted_lens_is_nearer_to_the_model_than_the_logit_lens_on_held_out_text():
    model = load("pocket", device="cpu")
    rows = torch.tensor(corpus.rows(seed=900, step=0, batch=48))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.random.get_rng_state()
        tuned, history = lens.fit_tuned_lens(model, rows, rows != 0, steps=40, batch=8, lr=1e-2)
        assert torch.equal(torch.random.get_rng_state(), before)
    again, _ = lens.fit_tuned_lens(model, rows, rows != 0, steps=40, batch=8, lr=1e-2)
    assert torch.equal(again.weight, tuned.weight)
    assert history.shape == (40, 4) and (history[-5:].mean(0) < history[:5].mean(0)).all()
    prompts = tasks.facts(model.tokenizer, 30, split="held-out wordings") + tasks.ioi(
        model.tokenizer, 30, split="held-out wordings"
    )
    tokens = tasks.to_tokens(model.tokenizer, [prompt.text for prompt in prompts])
    streams = lens.residual_streams(model, tokens)
    final, keep = lens.read_out(model, streams[-1]), tokens != 0
    logit = lens.tuned_lens_loss(lens.read_out(model, streams[:-1]), final, keep)
    assert (lens.tuned_lens_loss(lens.read_out(model, tuned(streams[:-1])), final, keep) < logit).all()


# ---- acting


def test_a_patchscope_onto_the_same_place_is_the_models_own_output(named):
    _, model, tokens = named
    own = model(tokens)
    for depth in range(model.cfg.n_layers + 1):
        at = torch.tensor([depth % 3, 2])
        torch.testing.assert_close(lens.patchscope(model, tokens, depth, at, tokens, depth, at), own)


def test_a_patchscope_carries_the_source_over():
    """At the last depth the target's logits are the source's at the place where its vector went."""
    model = recipes.gpt2(3)
    source, target = TOKENS, TOKENS.flip(0)[:, :4]
    at, to = torch.tensor([1, 3]), torch.tensor([2, 0])
    moved, own = lens.patchscope(model, source, 3, at, target, 3, to), model(target)
    rows = torch.arange(2)
    torch.testing.assert_close(moved[rows, to], model(source)[rows, at])
    own[rows, to] = moved[rows, to]
    torch.testing.assert_close(moved, own)  # nothing else changes
    early = lens.patchscope(model, source, 1, at, target, 1, to)
    assert (early[0, :2] - own[0, :2]).abs().max() < 1e-5 and (early[0, 3] - own[0, 3]).abs().max() > 1e-3


def test_chain_hides_its_bit_from_the_lens_but_not_from_a_patchscope():
    """A negative lens result is uninformative: at the `.` the lens sees no difference, and a patch flips the answer."""
    model = handmade.handmade("chain", device="cpu")
    one, zero = model.to_tokens("1 . ="), model.to_tokens("0 . =")
    yes, no = model.tokenizer.convert_tokens_to_ids(["yes", "no"])
    for depth in (1, 2):
        at_dot = [lens.logit_lens(model, tokens)[depth, 0, 2] for tokens in (one, zero)]
        torch.testing.assert_close(*at_dot, rtol=0, atol=1e-4)
    moved = lens.patchscope(model, one, 1, torch.tensor([2]), zero, 1, torch.tensor([2]))
    assert (moved[0, 3, yes] - moved[0, 3, no]).item() == pytest.approx(4, abs=1e-3)


def test_erasing_a_direction_takes_away_its_component_and_nothing_else():
    model = recipes.gpt2(3)
    at, directions, rows = torch.tensor([1, 3]), torch.randn(2, 10), torch.arange(2)
    last = lens.erase_direction(model, TOKENS, 3, at, directions)
    stream = lens.residual_streams(model, TOKENS)[-1]
    unit = torch.nn.functional.normalize(directions, dim=-1)
    stream[rows, at] -= torch.einsum("bd,bd->b", stream[rows, at], unit)[:, None] * unit
    torch.testing.assert_close(last, lens.read_out(model, stream))
    torch.testing.assert_close(lens.erase_direction(model, TOKENS, 3, at, -3 * directions), last)
    for depth in range(3):
        assert not torch.allclose(lens.erase_direction(model, TOKENS, depth, at, directions), last)
    assert recipes.witness(model)["hooks left"] == 0


def test_the_blind_direction_is_the_least_visible():
    generator = torch.Generator().manual_seed(0)
    weight, W_U = 1 + torch.rand(6, generator=generator), torch.randn(6, 11, generator=generator)
    blind = lens.blind_direction(weight, W_U)
    assert blind.norm().item() == pytest.approx(1, abs=1e-5) and blind.sum().item() == pytest.approx(0, abs=1e-5)
    others = torch.randn(5000, 6, generator=generator)
    others = torch.nn.functional.normalize(others - others.mean(1, keepdim=True), dim=1)
    seen = lens.visibility(others, weight, W_U)
    assert lens.visibility(blind, weight, W_U) <= seen.min()
    assert lens.visibility(torch.ones(6), weight, W_U) < 1e-5  # the mean is invisible, and not what is asked for


def test_the_blind_direction_of_a_hand_written_model_is_invisible():
    model = handmade.handmade("chain", device="cpu")
    blind = lens.blind_direction(model.ln_final.weight, model.W_U)
    ratio = lens.visibility(blind, model.ln_final.weight, model.W_U) / lens.visibility(
        torch.randn(100, model.cfg.d_model, generator=torch.Generator().manual_seed(0)),
        model.ln_final.weight,
        model.W_U,
    )
    assert ratio.max() < 1e-4
