"""Chapter 02's finale: the drive that builds a student's blueprint, and the circuit written by hand."""

import pytest
import torch

from mechlib import exercises, heads
from mechlib.checker import drives, run
from mechlib.handmade import Blueprint, build_induction_circuit

WORDS = ["red", "green", "blue", "pink"]
TOKENS = torch.tensor([[0, 2, 3, 4, 2, 3, 4]])


def test_the_drive_runs_what_the_bridge_would_run():
    outputs = drives.blueprint(build_induction_circuit, {"words": WORDS, "n_ctx": 9}, tokens=TOKENS)
    logits, cache = build_induction_circuit(WORDS, 9).build("cpu").run_with_cache(TOKENS)
    torch.testing.assert_close(outputs["logits"], logits, atol=1e-4, rtol=0)
    patterns = torch.stack([cache["pattern", layer] for layer in (0, 1)])
    torch.testing.assert_close(outputs["patterns"], patterns, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda words, n_ctx: build_induction_circuit(words, n_ctx).build("cpu"), "asks for a Blueprint"),
        (lambda words, n_ctx: None, "asks for a Blueprint; got a NoneType"),
        (lambda words, n_ctx: Blueprint(words[:1], n_ctx), "too few words"),
        (lambda words, n_ctx: Blueprint(words, 3), "too short a context"),
    ],
)
def test_what_the_drive_refuses(answer, sentence):
    with pytest.raises(drives.Unusable, match=sentence):
        drives.blueprint(answer, {"words": WORDS, "n_ctx": 9}, tokens=TOKENS)


@pytest.mark.parametrize("seed", range(5))
def test_the_circuit_continues_any_repetition_and_only_its_two_heads_are_found(seed):
    draw = torch.Generator().manual_seed(seed)
    n_words = int(torch.randint(8, 30, (), generator=draw))
    length = int(torch.randint(5, n_words, (), generator=draw))
    letters = torch.randint(97, 123, (n_words, 7), generator=draw).tolist()
    model = build_induction_circuit(["".join(map(chr, row)) for row in letters], 2 * length + 1).build("cpu")
    segment = torch.rand(8, n_words, generator=draw).argsort(dim=1)[:, :length] + 2
    tokens = torch.cat([torch.zeros(8, 1, dtype=torch.long), segment, segment], dim=1)
    logits, cache = model.run_with_cache(tokens)
    right = logits[:, -length:-1].argmax(-1) == tokens[:, 1 - length :]
    assert right.float().mean() >= 0.99
    n = tokens.shape[1]
    even = (torch.ones(n, n).tril() / torch.arange(1, n + 1)[:, None]).expand(8, 2, n, n)
    for score, found in (
        (lambda pattern: heads.previous_token_score(pattern), (0, 1)),
        (lambda pattern: heads.induction_score(pattern, tokens), (1, 0)),
    ):
        scores = torch.stack([score(cache["pattern", layer]) for layer in (0, 1)])
        assert scores[found] >= 0.99
        scores[found] = 0
        assert scores.max() <= score(even).max() + 0.05


def test_a_circuit_that_predicts_with_too_many_heads_is_partly_right():
    def two_of_them(words, n_ctx):
        plan = answer(words, n_ctx)
        plan.heads[1, 0] = plan.heads[1, 1]
        return plan

    exercise = exercises.get("induction.build_induction_circuit")
    answer = exercise.equivalents[0]
    report = run(exercise, two_of_them)
    assert (report.status, report.earned) == ("partly", 3.0)
    assert report.verdict.sentence.startswith("More than one head has an induction score")
