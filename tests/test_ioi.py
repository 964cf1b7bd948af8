"""The chapter's own part of the circuit tools: its prompts, its short path patches, its scores."""

import pytest
import torch

from mechlib import circuits, ioi
from mechlib.handmade import handmade
from mechlib.models import load, truth

CORRUPTED, CLEAN = "0", "1"


@pytest.fixture(scope="module")
def known():
    return load("ioi-known", device="cpu")


@pytest.fixture(scope="module")
def batch(known):
    return ioi.batch(known, n=12, wordings=6)


def test_the_twins_differ_from_the_prompts_in_the_names_alone(batch):
    rows = torch.arange(len(batch.tokens))
    assert batch.tokens.shape == batch.twin.shape == batch.abc.shape
    changed = {"twin": batch.tokens != batch.twin, "abc": batch.tokens != batch.abc}
    assert changed["twin"].sum() == len(rows) and changed["twin"][rows, batch.at["s2"]].all()
    assert changed["abc"].sum() == 3 * len(rows)
    assert all(changed["abc"][rows, batch.at[role]].all() for role in ("io", "s1", "s2"))
    assert (batch.twin[rows, batch.at["s2"]] == batch.tokens[rows, batch.at["io"]]).all()


def test_the_regions_are_where_the_roles_are(batch):
    assert {region for row in batch.regions for region in row} == set(ioi.REGIONS)
    for i, row in enumerate(batch.regions):
        at = {role: int(position[i]) for role, position in batch.at.items()}
        assert (row[at["io"]], row[at["s1"]], row[at["s2"]], row[at["end"]]) == ("names", "names", "s2", "end")
        assert row.count("names") == 2 and row.count("s2") == row.count("end") == 1
        between = [p for p, region in enumerate(row) if region == "between"]
        assert between == list(range(max(at["io"], at["s1"]) + 1, at["s2"]))


def test_a_template_means_the_same_word_everywhere(batch):
    """But for what fills the slots: names, places and things."""
    words: dict[str, set[int]] = {}
    for tokens, row in zip(batch.tokens.tolist(), batch.templates, strict=True):
        for token, template in zip(tokens, row, strict=True):
            words.setdefault(template, set()).add(token)
    assert sum(len(same) == 1 for same in words.values()) > len(words) / 2


def test_too_many_prompts_are_refused(known):
    with pytest.raises(ValueError, match="allow more wordings"):
        ioi.batch(known, n=12, wordings=1)


def logit_difference(model, logits):
    return float(logits[0, -1, model.to_single_token("yes")] - logits[0, -1, model.to_single_token("no")])


@pytest.mark.parametrize(
    "name, sender, mlps, expected",
    [
        ("indirect", (0, 0), "frozen", -4),  # reaches the logits through an MLP alone
        ("indirect", (0, 0), "recomputed", 4),
        ("indirect", (0, 1), "frozen", 4),
        ("chain", (0, 1), "recomputed", -4),  # reaches them through a head alone
        ("chain", (1, 0), "frozen", 4),
        ("diamond", (1, 0), "recomputed", -4),
        ("diamond", (2, 1), "frozen", 4),
    ],
)
def test_path_patching_to_the_logits_by_hand(name, sender, mlps, expected):
    model = handmade(name, device="cpu")
    ending = " =" if name == "indirect" else " . ="
    corrupted, clean = (model.run_with_cache(model.to_tokens(bit + ending))[1] for bit in (CORRUPTED, CLEAN))
    patched = ioi.path_patch(model, corrupted, clean, [sender], mlps)
    assert logit_difference(model, patched) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    "sender, receiver, expected",
    [
        ((0, 1), (1, 0, "v"), 4),
        ((0, 1), (1, 2, "v"), -4),  # the dead branch
        ((1, 0), (2, 1, "v"), 4),
        ((1, 0), (2, 1, "k"), -4),
        ((2, 1), (1, 0, "v"), -4),  # backwards: not heard
    ],
)
def test_path_patching_to_receivers_in_the_diamond(sender, receiver, expected):
    model = handmade("diamond", device="cpu")
    tokens, clean = model.to_tokens("0 . ="), model.to_tokens("1 . =")
    cache, source = model.run_with_cache(tokens)[1], model.run_with_cache(clean)[1]
    patched = ioi.path_patch_to_receivers(model, tokens, cache, source, [sender], [receiver], "frozen")
    assert logit_difference(model, patched) == pytest.approx(expected, abs=0.05)


def test_heads_that_fetch_the_note_look_at_the_second_mention(known, batch):
    cache = known.run_with_cache(batch.tokens)[1]
    scores = ioi.second_mention_score(cache, known.cfg.n_layers, batch.at)
    assert circuits.found(scores, 0.5) == set(truth("ioi-known").heads("s-inhibition"))


def test_the_known_model_is_right(known, batch):
    clean, twin = (
        ioi.mean_logit_diff(known(tokens), batch.answers, batch.at["end"]) for tokens in (batch.tokens, batch.twin)
    )
    assert clean > 10 and twin < -10


def test_role_means_keep_the_mean_of_every_role():
    activation = torch.tensor([[1.0, 2.0], [5.0, 6.0]])
    means = ioi.role_means(activation, [["a", "b"], ["b", "b"]])
    assert torch.allclose(means, torch.tensor([[1.0, 13 / 3], [13 / 3, 13 / 3]]))


def test_minimality_is_that_of_the_library(known, batch):
    values = circuits.ablation_values(known, batch.templates, "mean", batch.abc, mlps=True)
    answers = batch.answers

    def metric(end):
        return end.gather(1, answers) @ torch.tensor([1.0, -1.0])

    score = circuits.scorer(known, batch.tokens, values, metric, batch.at["end"], batch.regions)
    circuit = circuits.as_nodes(truth("ioi-known"))
    subsets = circuits.random_subsets([node for node in circuit if node != circuit[0]], 4)
    expected = circuits.minimality_score(score, circuit, circuit[0], subsets)
    assert ioi.minimality_score(score, circuit, circuit[0], subsets) == pytest.approx((expected.score, expected.naive))
