"""Inputs that both sides build: models and caches, and what an answer may leave behind on one."""

import pytest
import torch

from mechlib.checker import Case, Exercise, Recipe, recipes
from mechlib.checker.encoding import decode, encode
from mechlib.checker.run import run

TOKENS = torch.tensor([[0, 3, 4, 5], [0, 5, 6, 7]])
MODELS = {
    "gpt2": Recipe("gpt2", {"seed": 1}),
    "attention only": Recipe("gpt2", {"seed": 2, "attention_only": True}),
    "processed": Recipe("gpt2", {"seed": 1, "processed": True}),
    "shipped": Recipe("model", {"name": "pocket"}),
    "handmade": Recipe("handmade", {"name": "induction"}),
}


def reads(model, tokens):
    with torch.no_grad():
        return model.run_with_cache(tokens)[1]["blocks.1.hook_resid_pre"]


def reads_again(model, tokens):
    return model.run_with_cache(tokens)[1]["resid_pre", 1].detach()


def leaves_a_hook(model, tokens):
    seen = []
    model.add_hook("blocks.1.hook_resid_pre", lambda activation, hook: seen.append(activation.detach()))
    model(tokens)
    return seen[0]


def changes_a_weight(model, tokens):
    result = reads_again(model, tokens)
    next(iter(model.parameters())).data[0] += 1e-3
    return result


def turns_a_switch(model, tokens):
    model.set_use_attn_result(True)
    return reads_again(model, tokens)


def exercise(model: Recipe) -> Exercise:
    return Exercise(
        "t.reads", "c", "", 1, 1, 1, reads, lambda seed: [Case({"model": model, "tokens": TOKENS})], [], [], []
    )


@pytest.mark.parametrize("name", MODELS)
def test_what_an_answer_leaves_on_a_model(name):
    ours = exercise(MODELS[name])
    assert run(ours, reads_again).status == "pass"
    assert "leaves a hook" in run(ours, leaves_a_hook).verdict.sentence
    assert "changes its inputs" in run(ours, changes_a_weight).verdict.sentence
    assert run(ours, turns_a_switch).status == "pass"
    # and none of it reaches the next check
    assert run(ours, reads_again).status == "pass"
    model = recipes.build({"model": MODELS[name]})["model"]
    assert not model.cfg.use_attn_result
    assert recipes.witness(model)["hooks left"] == 0


def test_an_edit_of_the_cache_is_noticed():
    cache = Recipe("activations", {"model": MODELS["gpt2"], "tokens": TOKENS})

    def doubled(cache):
        return cache["resid_pre", 0] * 2

    def in_place(cache):
        activation = cache["resid_pre", 0]
        activation *= 2
        return activation

    ours = Exercise("t.doubled", "c", "", 1, 1, 1, doubled, lambda seed: [Case({"cache": cache})], [], [], [])
    assert run(ours, lambda cache: cache["resid_pre", 0] + cache["resid_pre", 0]).status == "pass"
    assert "changes its inputs" in run(ours, in_place).verdict.sentence


def test_recipes_in_recipes_travel():
    wanted = Recipe("activations", {"model": MODELS["gpt2"], "tokens": TOKENS})
    there = decode(encode({"cache": wanted}))["cache"]
    assert there.arguments["model"] == MODELS["gpt2"] and torch.equal(there.arguments["tokens"], TOKENS)
    assert torch.equal(recipes.build({"c": there})["c"]["resid_pre", 1], reads(recipes.build(MODELS)["gpt2"], TOKENS))


def test_random_models_have_biases_and_the_sizes_asked_for():
    model = recipes.gpt2(5, layers=2, heads=3, d_head=4, d_mlp=7, vocabulary=11, context=9)
    assert (model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_head, model.cfg.d_mlp) == (2, 3, 4, 7)
    assert (model.cfg.d_vocab, model.cfg.n_ctx) == (11, 9)
    assert model.b_O.abs().min() > 0 and model.b_out.abs().min() > 0 and (model.ln_final.weight - 1).abs().max() > 0.1
    assert recipes.gpt2(5) is recipes.gpt2(5) is not recipes.gpt2(6)
    without = recipes.gpt2(5, attention_only=True)
    with torch.no_grad():
        assert without.run_with_cache(TOKENS)[1]["mlp_out", 1].abs().max() == 0
