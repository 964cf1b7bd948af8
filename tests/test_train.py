"""Training: a run that is killed goes on where it was and ends with the same weights."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mechlib.models.evaluate import load_plain, logits_of
from mechlib.recipes import attn_only_2l, pocket, train

TINY = replace(
    pocket.RECIPE,
    name="tiny",
    config={"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 64},
    steps=60,
    batch=4,
    save_every=10,
    probe=None,
    warmup=5,
)

# The same recipe in a process of its own, slow enough to be killed in the middle.
SLOW = """
import sys, time
from dataclasses import replace
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
from test_train import TINY
from mechlib.recipes import train

def rows(*args):
    time.sleep(0.05)
    return TINY.rows(*args)

torch.set_num_threads(1)
train.train(replace(TINY, rows=rows), Path(sys.argv[1]), seed=3, quiet=True)
"""


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_plain(folder)[0].state_dict()


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_killed_run_resumes_and_ends_with_the_same_weights(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    history = train.train(TINY, whole, seed=3, quiet=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    code = SLOW.format(tests=str(Path(__file__).parent))
    process = subprocess.Popen([sys.executable, "-c", code, str(killed)], env=environment)
    deadline = time.time() + 120
    while not (killed / "training" / "state.pt").exists():
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.01)
    time.sleep(0.2)  # somewhere between two checkpoints
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (killed / "model.safetensors").exists()
    resumed = train.train(TINY, killed, seed=3, quiet=True)
    assert_same(weights(whole), weights(killed))
    assert resumed["loss"] == history["loss"]


def test_interrupted_twice_in_one_process(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.train(TINY, whole, quiet=True)
    for stop in (17, 42):
        train.train(TINY, parts, stop_after=stop, quiet=True)
        assert not (parts / "model.safetensors").exists()
    train.train(TINY, parts, quiet=True)
    assert_same(weights(whole), weights(parts))


def test_another_seed_is_another_model_and_another_folder(tmp_path):
    train.train(TINY, tmp_path / "a", seed=0, stop_after=10, quiet=True)
    with pytest.raises(ValueError, match="another run"):
        train.train(TINY, tmp_path / "a", seed=1, quiet=True)
    tokenizer = TINY.tokenizer()
    one, same, other = (train.build(TINY, tokenizer, seed).state_dict() for seed in (0, 0, 1))
    assert_same(one, same)
    assert not torch.equal(one["transformer.wte.weight"], other["transformer.wte.weight"])


def test_the_folder_is_hugging_faces_layout(tmp_path):
    recipe = replace(TINY, steps=10, snapshots=(0, 10))
    history = train.train(recipe, tmp_path, quiet=True)
    model, tokenizer = load_plain(tmp_path)
    assert model.dtype == torch.float32 and json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"
    assert tokenizer("Mary went home.")["input_ids"] == TINY.tokenizer()("Mary went home.")["input_ids"]
    start, end = (load_plain_model(tmp_path / "checkpoints" / f"step-{step:05}") for step in (0, 10))
    assert_same(end, model.state_dict())
    assert not torch.equal(start["transformer.wpe.weight"], end["transformer.wpe.weight"])
    train.plot_history(history, "tiny", tmp_path / "training.png")
    assert (tmp_path / "training.png").stat().st_size > 1000
    card = train.write_card(recipe, tmp_path, 0, history)
    assert card["sha256"] == train.checksum(tmp_path / "model.safetensors")
    assert card["architecture"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert len(card["checkpoints"]) == 2 and card["skills"]["sentiment"]["n"] == 300
    assert card == json.loads((tmp_path / "card.json").read_text())


def load_plain_model(folder: Path) -> dict[str, torch.Tensor]:
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(folder).state_dict()


def test_attention_only_stays_so(tmp_path):
    recipe = replace(attn_only_2l.RECIPE, steps=5, batch=4, probe=None, snapshots=())
    train.train(recipe, tmp_path, quiet=True)
    model, tokenizer = load_plain(tmp_path)
    assert all(p.abs().sum() == 0 for block in model.transformer.h for p in block.mlp.parameters())
    assert len(tokenizer) == attn_only_2l.VOCABULARY == model.config.vocab_size
    logits = logits_of(model, torch.tensor(recipe.rows(0, 0, 2)))
    assert logits.shape == (2, 64, 256)


def test_learning_rate_rises_and_falls():
    rates = [train.learning_rate(TINY, step) for step in range(TINY.steps)]
    assert rates[TINY.warmup - 1] == max(rates) == TINY.lr and rates[-1] < 0.01 * TINY.lr
    assert sorted(rates[: TINY.warmup]) == rates[: TINY.warmup]
    assert sorted(rates[TINY.warmup :], reverse=True) == rates[TINY.warmup :]


def test_rows_of_the_attention_only_corpus():
    rows = attn_only_2l.rows(0, 0, 200)
    assert rows == attn_only_2l.rows(0, 0, 200) != attn_only_2l.rows(0, 1, 200)
    assert all(len(row) == 64 and row[0] == 0 and all(2 <= token < 256 for token in row[1:]) for row in rows)

    def repeats(row: list[int]) -> bool:
        triples = [tuple(row[i : i + 3]) for i in range(1, 62)]
        return len(set(triples)) < len(triples)

    assert 0.4 < sum(map(repeats, rows)) / 200 < 0.7


def test_a_repeated_segment_is_long_and_its_words_differ():
    rng = random.Random(0)
    for _ in range(200):
        row = attn_only_2l.row(rng, repeats=1.0)
        runs = [
            row[i : i + 8] for i in range(1, 57) for gap in range(1, 57 - i) if row[i : i + 8] == row[i + gap :][:8]
        ]
        assert runs and all(len(set(run)) == 8 for run in runs)


def test_the_command(capsys):
    from mechlib.cli import main

    with pytest.raises(SystemExit):
        main(["train", "nothing"])
    assert "attn-only-2l" in capsys.readouterr().err
    assert set(train.RECIPES) == {train.recipe(name).name for name in train.RECIPES}
    with pytest.raises(ValueError, match="there are attn-only-2l, ioi-known, ioi-known-hard, pocket"):
        train.recipe("nothing")


@pytest.mark.slow
@pytest.mark.parametrize("name", train.RECIPES)
def test_another_seed_passes_the_same_card(name, tmp_path, capsys):
    """The recipe makes such a model, not the seed: five to fifty minutes each."""
    code = train.main([name, "--seed", "1", "--out", str(tmp_path)])
    with capsys.disabled():
        print((tmp_path / "card.json").read_text())
    assert code == 0
