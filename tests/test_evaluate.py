"""The evaluation measures what it says, on models whose skills are known, and the same through a bridge."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mechlib import models, tasks
from mechlib.models import evaluate as e
from mechlib.recipes import attn_only_2l, corpus, pocket, train


class Copier(torch.nn.Module):
    """Predicts the word that came after the last occurrence of the current word; else word number 5."""

    def __init__(self, vocabulary: int):
        super().__init__()
        self.anything = torch.nn.Parameter(torch.zeros(1))
        self.vocabulary = vocabulary

    def forward(self, tokens: torch.Tensor) -> SimpleNamespace:
        logits = torch.zeros(*tokens.shape, self.vocabulary)
        for row, out in zip(tokens.tolist(), logits):
            after: dict[int, int] = {}
            for i, token in enumerate(row):
                out[i, after.get(token, 5)] = 20.0
                if i + 1 < len(row):
                    after[token] = row[i + 1]
        return SimpleNamespace(logits=logits)


def test_a_model_that_copies_perfectly():
    tokenizer = corpus.tokenizer()
    model = Copier(len(tokenizer))
    assert e.induction_accuracy(model, tokenizer, 60) == 1.0
    first, second = e.repetition_losses(model, tokenizer, 20)
    assert first > 10 and second < 0.01


def test_measures_by_hand(monkeypatch):
    tokenizer = corpus.tokenizer()
    prompts = tasks.ioi(tokenizer, 4)
    logits = torch.zeros(4, len(tokenizer))
    answers, distractors = tasks.answer_tokens(tokenizer, prompts).T
    logits[range(4), answers] = torch.tensor([3.0, 3.0, 3.0, 1.0])
    logits[range(4), distractors] = torch.tensor([1.0, 1.0, 1.0, 2.0])
    monkeypatch.setattr(e, "last_logits", lambda *_: logits)
    assert e.accuracy(None, tokenizer, prompts) == e.preference(None, tokenizer, prompts) == 0.75
    assert e.logit_difference(None, tokenizer, prompts) == pytest.approx((2 + 2 + 2 - 1) / 4)
    years = tasks.greater_than(tokenizer, 4)
    logits = torch.full((4, len(tokenizer)), -1e9)
    for row, prompt in zip(logits, years):
        row[tasks.token_id(tokenizer, prompt.answers[0])] = 0.0  # half of the probability each
        row[tasks.token_id(tokenizer, prompt.distractors[0])] = 0.0 if prompt is years[0] else -1e9
    monkeypatch.setattr(e, "last_logits", lambda *_: logits)
    assert e.probability_difference(None, tokenizer, years) == pytest.approx(0.75)


def test_pronoun_bias_of_a_model_that_has_it(monkeypatch):
    tokenizer = corpus.tokenizer()
    prompts = tasks.pronouns(tokenizer, 100, lead=True)
    bias = torch.tensor([prompt.labels["p_she"] for prompt in prompts])
    logits = torch.zeros(100, len(tokenizer))
    logits[:, tasks.token_id(tokenizer, " she")] = bias.logit()
    monkeypatch.setattr(e, "last_logits", lambda *_: logits)
    assert e.pronoun_bias(None, tokenizer, prompts) == pytest.approx(1.0)
    monkeypatch.setattr(e, "last_logits", lambda *_: -logits)
    assert e.pronoun_bias(None, tokenizer, prompts) < -0.9


def test_the_same_through_a_bridge(tmp_path):
    from transformer_lens.model_bridge import TransformerBridge

    for recipe in (pocket.RECIPE, attn_only_2l.RECIPE):
        folder = tmp_path / recipe.name
        tokenizer = recipe.tokenizer()
        model = train.build(replace(recipe, config={**recipe.config, "initializer_range": 0.3}), tokenizer, 0).eval()
        train.save_model(model, tokenizer, folder)
        plain, tokenizer = e.load_plain(folder)
        bridge = TransformerBridge.boot_transformers(str(folder), device="cpu").eval()
        for name, scores in e.attention_scores(plain, tokenizer, 10).items():
            torch.testing.assert_close(scores, e.attention_scores(bridge, tokenizer, 10)[name], atol=1e-5, rtol=1e-5)
        one, other = (e.repetition_losses(m, tokenizer, 10) for m in (plain, bridge))
        assert one == pytest.approx(other, abs=1e-4)


def test_skills_that_the_tokenizer_has_no_words_for_are_left_out():
    tokenizer = attn_only_2l.RECIPE.tokenizer()
    model = train.build(attn_only_2l.RECIPE, tokenizer, 0).eval()
    skills = e.evaluate(model, tokenizer, n=10)
    assert "induction on random words" in skills and set(e.TARGETS["attn-only-2l"]) <= set(skills)
    assert not any("ioi" in skill or "greater" in skill or "facts" in skill for skill in skills)
    with pytest.raises(ValueError, match="only 0 different prompts"):
        tasks.agreement(tokenizer, 10)


def test_repetitions():
    tokenizer = corpus.tokenizer()
    tokens = e.repetitions(tokenizer, 5, length=6, start=3)
    assert tokens.shape == (5, 1 + 3 + 2 * 6) and (tokens[:, 0] == 0).all()
    assert (tokens[:, 4:10] == tokens[:, 10:]).all()
    assert all(len(set(row[:10].tolist())) == 10 for row in tokens)


def test_table_and_misses():
    skills = {
        "ioi": {"value": 0.97, "n": 300, "measure": ""},
        "loss of a repetition / loss before": {"value": 0.1, "n": 300, "measure": ""},
    }
    targets = {"ioi": 0.98, "loss of a repetition / loss before": 0.2, "sentiment": 0.5}
    assert e.misses(skills, targets) == ["ioi", "sentiment"]
    lines = e.table(skills, targets).splitlines()
    assert len(lines) == 3 and ">= 0.98" in lines[1] and "<= 0.2" in lines[2]


def test_every_target_is_a_skill():
    """A target that no evaluation measures would never be missed aloud."""
    recipe = replace(pocket.RECIPE, config={"n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": 64})
    tokenizer = recipe.tokenizer()
    skills = e.evaluate(train.build(recipe, tokenizer, 0).eval(), tokenizer, n=20)
    for name, targets in e.TARGETS.items():
        measured = models.card(name)["skills"] if models.has_truth(name) else skills  # of a circuit: on its card
        assert set(targets) <= set(measured)
