"""docs/look-inside.md says what its numbers say, and its numbers are those of the models that are shipped."""

import copy
import re
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from mechlib import models, tasks

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tools.look_inside import __main__ as look  # noqa: E402
from tools.look_inside import facts, other_corpus  # noqa: E402
from tools.look_inside.runs import SITES, Batch, blind, from_run, put  # noqa: E402
from tools.look_inside.sweeps import share  # noqa: E402

PAGE = (ROOT / "docs" / "look-inside.md").read_text(encoding="utf-8")
NUMBERS = look.read("numbers.json")
N = 40


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@cache
def model(name="pocket"):
    return models.load(name, device="cpu")


# ---- the page and its numbers


def test_the_page_says_what_the_numbers_say():
    assert look.write(NUMBERS, look.read("corpus.json")).text() == PAGE, "python -m tools.look_inside --prose"


def test_the_numbers_are_those_of_the_shipped_weights():
    for name, checksum in NUMBERS["sha256"].items():
        assert models.card(name)["sha256"] == checksum, f"{name} has changed: python -m tools.look_inside"


def test_every_sentence_has_a_number():
    lines = [line for line in PAGE.splitlines() if line and not line.startswith(("#", "!["))]
    sentences = [s for line in lines for s in re.split(r"(?<=[.?!])\s+(?=[A-Z\"*`(])", line)]
    assert len(sentences) > 50
    # "was it as expected?" and how the test is made: what was expected, not what was found
    about = ("We expected", "The test:", '"Taken from"', '"Cannot see"', '"Straight to')
    bare = [s for s in sentences if not re.search(r"\d", s) and not s.startswith(about)]
    assert not bare


def test_every_figure_is_there_and_small():
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", PAGE)
    assert len(shown) == len(set(shown)) >= 6
    for path in shown:
        assert (ROOT / "docs" / path).read_bytes()[:4] == b"\x89PNG"
        assert (ROOT / "docs" / path).stat().st_size < 150_000


@pytest.mark.parametrize(
    ("task", "path", "value", "gone"),
    [
        ("agreement", ["attention", "subject"], [[0.0] * 4] * 4, "A few heads carry the number"),
        ("induction", ["1 copiers"], 0.9, "Several heads share the copying"),
        ("greater_than", ["all MLPs at END"], 0.1, "The MLPs at END compare"),
        ("ioi", ["S and S, then IO gives", "S"], 0.1, "Nothing detects a duplicate"),
        (
            "facts",
            ["landmark", "taken over at the subject"],
            [0.1, 0.9, 0.9, 0.0],
            "do not make the subject's last",
        ),
    ],
)
def test_a_finding_that_no_longer_holds_is_not_printed(task, path, value, gone):
    numbers = copy.deepcopy(NUMBERS)
    place = numbers[task]["pocket"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    before, after = look.write(NUMBERS, None), look.write(numbers, None)
    assert gone in before.text() and gone not in after.text()
    assert len(after.failed) == len(before.failed) + 1


# ---- the edited runs are the model's


def by_the_bridge(batch, edits):
    """The same edits with TransformerLens's hooks."""
    hooks = []
    for edit in edits:

        def change(activation, hook, edit=edit):
            if edit.site == "look":
                cut = edit.where[:, :, None] & edit.keys[:, None, :] & ~torch.eye(edit.keys.shape[1], dtype=torch.bool)
                heads = torch.tensor([edit.heads is None or h in edit.heads for h in range(activation.shape[1])])
                return activation.masked_fill(cut[:, None] & heads[None, :, None, None], torch.finfo().min)
            activation = activation.clone()
            if edit.heads is None:
                activation[edit.where] = edit.value[edit.where]
            else:
                activation[:, :, edit.heads[0]][edit.where] = edit.value[:, :, edit.heads[0]][edit.where]
            return activation

        hooks.append((f"blocks.{edit.layer}.{SITES.get(edit.site, 'attn.hook_attn_scores')}", change))
    return batch.model.run_with_hooks(batch.tokens, fwd_hooks=hooks)[batch.rows, batch.end]


def test_edited_runs_are_transformer_lens_s():
    batch = Batch.of(model(), tasks.ioi(model().tokenizer, 4, split="held-out pairs"))
    twin, end, names = batch.twin(), batch.at("end"), batch.at("io", "s1")
    cases = {
        "stream": [from_run("resid", 2, twin, batch.at("s2"))],
        "head": [from_run("head", 0, twin, batch.everywhere, 3)],
        "head at END": [from_run("head", 0, twin, end, 1)],
        "MLPs at END": [from_run("mlp", layer, twin, end) for layer in range(4)],
        "a vector": [put("mlp", 1, torch.ones(128), batch.at("io"))],
        "END blind": blind(range(4), end, names),
        "others blind": blind([0, 2], batch.span("io", "end"), names),
        "one head blind": blind([3], end, names, [2]),
        "several": [from_run("resid", 1, twin, batch.at("s2")), *blind([2], end, batch.at("io"))],
    }
    for what, edits in cases.items():
        mine, theirs = batch.run(edits), by_the_bridge(batch, edits)
        assert (mine - theirs).abs().max() < 1e-3, what
        assert (mine - batch.logits).abs().max() > 1e-3, f"{what}: the edit does nothing"
    _, pattern = batch.run(blind([1], end, names), watch=(2, 3))
    assert pattern.shape == (4, batch.tokens.shape[1], batch.tokens.shape[1])


def test_a_run_from_the_twin_altogether_is_the_twin():
    batch = Batch.of(model(), tasks.agreement(model().tokenizer, 8, split="held-out pairs"))
    twin = batch.twin()
    assert share(batch, twin, [from_run("resid", 0, twin, batch.everywhere)]) == pytest.approx(1, abs=1e-3)
    assert share(batch, twin, [from_run("resid", 0, batch, batch.everywhere)]) == pytest.approx(0, abs=1e-3)


# ---- key numbers again, on a small sample of other prompts


def test_the_readers_of_ioi():
    found = NUMBERS["ioi"]["pocket"]
    batch = Batch.of(model(), tasks.ioi(model().tokenizer, N, seed=1, split="held-out pairs"))
    twin = batch.twin()
    edits = [from_run("head", layer, twin, batch.at("end"), head) for layer, head in found["readers"]]
    assert share(batch, twin, edits) == pytest.approx(found["readers at END together"], abs=0.1)
    others = [(0, head) for head in range(4) if [0, head] not in found["readers"]]
    edits = [from_run("head", layer, twin, batch.at("end"), head) for layer, head in others]
    assert share(batch, twin, edits) < found["readers at END together"] / 2


def test_the_mover_of_greater_than():
    found = NUMBERS["greater_than"]["pocket"]
    batch = Batch.of_many(model(), tasks.greater_than(model().tokenizer, N, seed=1, split="held-out pairs"))
    twin, (layer, head) = batch.twin(), found["movers"][0]
    value = share(batch, twin, [from_run("head", layer, twin, batch.at("end"), head)])
    assert value == pytest.approx(found["heads at END"][layer][head], abs=0.1)


def test_the_previous_token_head_of_induction():
    found = NUMBERS["induction"]["pocket"]
    batch = Batch.of(model(), tasks.repeated_tokens(model().tokenizer, N, seed=1, length=10, start=5))
    head, cut = look.induction.previous(found)
    edits = blind([int(head[0])], batch.at("copied"), batch.at("source"), [int(head[2])])
    assert batch.says(batch.answers[:, 0]) == pytest.approx(found["accuracy"], abs=0.1)
    assert batch.says(batch.answers[:, 0], batch.run(edits)) == pytest.approx(found["knockout"][cut]["right"], abs=0.15)


# ---- the other corpus


def test_the_corpora_differ_by_the_second_subject_alone():
    words = {word: i for i, word in enumerate(other_corpus.WORDS)}
    unlike = {words["unlike"], words["but"], words["not"]}
    for second in (False, True):
        rows = other_corpus.rows(second, seed=0, step=3, batch=8)
        assert rows == other_corpus.rows(second, seed=0, step=3, batch=8)
        assert all(len(row) == 64 for row in rows)
        assert bool(unlike & {token for row in rows for token in row}) == second


@pytest.mark.skipif(
    look.read("corpus.json") is None, reason="no trainings yet: python -m tools.look_inside.other_corpus"
)
def test_what_the_experiment_found_is_recorded():
    found = look.read("corpus.json")
    assert found["steps"] == other_corpus.STEPS
    assert set(other_corpus.CORPORA) <= set(found)
    assert "A corpus that forces more" in PAGE


def test_the_page_says_what_the_second_corpus_did():
    knockout = {what: {"right": 0.5} for what in (facts.JOIN, facts.CONTROL, facts.EARLY)}
    plain = {"CPU minutes": 1.0, "accuracy": 0.9, "n": 200, "accuracy with a second subject": 0.8, "knockout": knockout}
    plain["taken over at the subject"] = [0.1, 0.1, 0.1, 0.0]
    plain["stream"] = {facts.LAST: [0.5, 0.1, 0.1, 0.1]}
    for helped, says in ((0.9, "It helps"), (0.2, "It does not help")):
        second = plain | {"taken over at the subject": [0.1, helped, 0.1, 0.0]}
        text = look.write(NUMBERS, {"steps": 1500, "plain": plain, "second subject": second}).text()
        assert says in text


# ---- where the circuit is known


def known_numbers(circuit):
    """What `measure` would return for a model whose heads do just what the truth file says."""

    def table(of):
        return [[0.5 if (layer, head) in of else 0.01 * head for head in range(4)] for layer in range(4)]

    duplicate, inhibition, mover = (set(circuit[name]) for name in look.ioi_known.CLASSES)
    return {
        "truth": [[list(place), name] for name in circuit for place in circuit[name]],
        "accuracy": 1.0,
        "difference": 9.0,
        "random weights": {"accuracy": 0.0, "difference": 0.0},
        "heads": table(duplicate | inhibition | mover),
        "heads at S2": table(duplicate),
        "heads at END": table(inhibition | mover),
        "direct": table(mover),
        "attention S2 to S1": table(duplicate),
        "attention END to S2": table(inhibition),
        "attention END to IO": table(mover),
        "the circuit": 1.0,
        "all other heads": 0.0,
        "all MLPs": 0.0,
    }


CIRCUIT = {"duplicate": [(0, 1), (1, 2)], "s-inhibition": [(2, 0)], "name mover": [(3, 1), (3, 3)]}


def test_a_circuit_that_shows_is_found_and_one_that_hides_is_not():
    numbers = {"a": known_numbers(CIRCUIT), "b": known_numbers(CIRCUIT | {"name mover": [(2, 3)]})}
    score = look.ioi_known.scored(numbers)
    assert score["b"]["patching"] == score["b"]["attribution"] == (1, 1)
    assert score["a"]["classes"] == (5, 5) and score["b"]["classes"] == (4, 4)
    page = look.Page()
    look.ioi_known.write(page, numbers)
    assert not page.failed and "1.00/1.00" in page.text()
    numbers["b"]["heads"][2][3] = numbers["b"]["direct"][2][3] = 0.0  # a mover that does not show
    numbers["b"]["heads"][3][3] = 0.5  # and a head that should not
    score = look.ioi_known.scored(numbers)
    assert score["b"]["patching"] == (pytest.approx(3 / 4), pytest.approx(3 / 4))
    assert score["b"]["attribution"] == (0, 0) and score["b"]["classes"] == (3, 4)
    page = look.Page()
    look.ioi_known.write(page, numbers)
    assert len(page.failed) == 1 and "Not as expected" in page.text()
