"""The shipped models: each is what its card says, and does what its card says."""

from pathlib import Path

import pytest
import torch

import mechlib
from mechlib.models import card, names
from mechlib.models.evaluate import attention_scores, evaluate_folder, load_plain, misses, targets
from mechlib.recipes import train

MODELS = Path(mechlib.__file__).parent / "models"
SHIPPED = [name for name in names() if card(name)["name"] in train.RECIPES]


def test_they_are_small():
    files = [path for name in SHIPPED for path in (MODELS / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10_000_000
    assert not any("training" in path.parts for path in files)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_card_describes_the_files(name):
    written = card(name)
    recipe = train.recipe(written["name"])
    assert written["sha256"] == train.checksum(MODELS / name / "model.safetensors")
    for file, checksum in written["checkpoints"].items():
        assert checksum == train.checksum(MODELS / name / file)
    assert written["steps"] == recipe.steps and written["corpus"] == recipe.corpus
    assert written["weaknesses"] == list(recipe.weaknesses)
    _, tokenizer = load_plain(MODELS / name)
    assert tokenizer.get_vocab() == recipe.tokenizer().get_vocab()


@pytest.mark.parametrize("name", SHIPPED)
def test_the_skills_are_those_of_the_card(name):
    """Measured again here; a card never claims a target that the model misses."""
    written = card(name)
    skills = evaluate_folder(MODELS / name)
    assert skills.keys() == written["skills"].keys()
    for skill, row in skills.items():
        assert row["n"] >= 300
        assert row["value"] == pytest.approx(written["skills"][skill]["value"], abs=0.02), skill
    assert misses(skills, targets(name)) == misses(written["skills"], targets(name)) == written["not reached"]


def test_the_phase_change_shows_in_the_checkpoints():
    folders = [*sorted((MODELS / "attn-only-2l" / "checkpoints").iterdir()), MODELS / "attn-only-2l"]
    assert 8 <= len(folders) <= 14
    tokenizer = load_plain(MODELS / "attn-only-2l")[1]
    from transformers import GPT2LMHeadModel

    best = []
    for folder in folders:
        model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
        best.append(attention_scores(model, tokenizer, n=64)["induction"][1].max().item())
    assert best[0] < 0.1 and best[-1] >= 0.8
    steepest = max(range(len(best) - 1), key=lambda i: best[i + 1] - best[i])
    assert 0 < steepest < len(best) - 2  # something before the change, and something after it
