"""docs/models.md says what the cards say, and nothing else."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import model_cards  # noqa: E402


def test_the_page_is_made_from_the_cards():
    assert model_cards.PAGE.read_text(encoding="utf-8") == model_cards.page()


def test_check_sees_a_page_that_was_typed_by_hand(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(model_cards, "PAGE", tmp_path / "models.md")
    assert model_cards.main([]) == 0 and model_cards.main(["--check"]) == 0
    model_cards.PAGE.write_text(model_cards.page().replace("parameters", "parametres"), encoding="utf-8")
    assert model_cards.main(["--check"]) == 1
    assert "run python tools/model_cards.py" in capsys.readouterr().out


def test_what_was_missed_is_marked():
    card = {
        "seed": 3,
        "skills": {"a": {"value": 0.5}, "b": {"value": 0.9}},
        "not reached": ["a"],
    }
    rows = model_cards.skills([card, {**card, "seed": 4, "not reached": []}], {"a": 0.8})
    assert rows[0] == "| skill | asked for | seed 3 | seed 4 |"
    assert rows[2] == "| a | ≥ 0.8 | **0.500** (not reached) | 0.500 |"
    assert rows[3] == "| b |  | 0.900 | 0.900 |"


@pytest.mark.parametrize("name", ["pocket", "attn-only-2l"])
def test_two_seeds_are_on_the_page(name):
    """Another seed gives a model that passes the same card: its card stands beside the shipped one's."""
    shipped, *others = [model_cards.card(name), *model_cards.further_seeds(name)]
    assert others and all(other["seed"] != shipped["seed"] for other in others)
    assert all(other["recipe"]["lr"] == shipped["recipe"]["lr"] for other in others)
    assert all(other["steps"] == shipped["steps"] and other["corpus"] == shipped["corpus"] for other in others)


def test_the_sparse_autoencoders_are_on_the_page():
    """What their cards say, beside what was asked for."""
    card = {**model_cards.sae.load("pocket").card, "name": "other"}
    card["measures"] = {**card["measures"], "loss recovered": 0.5}
    rows = model_cards.sae_section([card]).splitlines()
    assert "| loss recovered | ≥ 0.95 | 0.500 |" in rows and "| l0 | ≤ 32 | 16.000 |" in rows
    assert "| width, latents, k |  | 128, 512 (topk), 16 |" in rows
    assert "## Sparse autoencoders" in model_cards.page()
