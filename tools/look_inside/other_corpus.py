"""Does another corpus make the subject's own position do work? Two short trainings that differ in one thing.

Both models read nothing but where landmarks stand and what countries' capitals are. In the plain corpus a sentence
names one subject. In the other one half of the sentences name a second, of the same kind, on either side of the first
("You can find Alder Vale, unlike Tarn Maren, in", "You can find not Tarn Maren but Alder Vale in"): a bag of the words
in sight is then not enough, because the words of the two subjects have to be kept apart.

    python -m tools.look_inside.other_corpus     # about ten minutes on one core; writes docs/look-inside/corpus.json
"""

import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from mechlib.models import load
from mechlib.recipes import corpus
from mechlib.recipes.train import Recipe, train
from mechlib.tasks.facts import RELATIONS
from mechlib.tasks.facts import draft as fact
from mechlib.tasks.prompt import fill
from tools.look_inside import facts

OUT = Path(__file__).parents[2] / "docs" / "look-inside" / "corpus.json"
STEPS, BATCH = 1500, 16
WORDS = (*corpus.vocabulary(), *sorted({"unlike", "but"} - set(corpus.vocabulary())))


@cache
def word_ids() -> dict[str, int]:
    return {word: i for i, word in enumerate(WORDS)}


def sentence(rng: random.Random, second: bool) -> str:
    relation = rng.choice(("landmark_city", "landmark_city", "capital"))
    draft = fact(rng, relation)
    slots = dict(draft.slots)
    if second and rng.random() < 0.5:
        subject, answers = draft.labels["subject"], RELATIONS[relation].answers
        other = rng.choice([name for name in answers if name != subject])
        plain = slots["subject"]
        slots["subject"] = f"{plain}, unlike {other}," if rng.random() < 0.5 else f"not {other} but {subject}"
    return f"{fill(draft.wording, slots)[0]}{draft.answers[0]}."


def rows(second: bool, seed: int, step: int, batch: int) -> Sequence[Sequence[int]]:
    ids, rng = word_ids(), random.Random(f"other corpus/{second}/{seed}/{step}")
    found = []
    for _ in range(batch):
        row: list[int] = []
        while len(row) < 64:
            row += [ids[word] for word in (corpus.BOS, *corpus.split_words(sentence(rng, second)))]
        found.append(row[:64])
    return found


def recipe(second: bool, steps: int) -> Recipe:
    return Recipe(
        name="facts-with-a-second-subject" if second else "facts",
        corpus="landmarks' cities and capitals",
        config={"n_layer": 4, "n_head": 4, "n_embd": 128, "n_positions": 64, "initializer_range": 0.05},
        tokenizer=lambda: corpus.word_tokenizer(WORDS),
        rows=lambda seed, step, batch: rows(second, seed, step, batch),
        steps=steps,
        batch=BATCH,
        lr=3e-3,
        warmup=100,
    )


def measure(second: bool, steps: int = STEPS) -> dict[str, Any]:
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        train(recipe(second, steps), Path(folder), quiet=True)
        model = load(folder)
    found = facts.one_kind(model, model, facts.landmarks(model.tokenizer))
    found["CPU minutes"] = (time.process_time() - start) / 60
    found["accuracy with a second subject"] = accuracy(model)
    keys = ("n", "accuracy", "difference", "stream", "knockout", "mlps at the subject", "taken over at the subject")
    return {key: found[key] for key in (*keys, "CPU minutes", "accuracy with a second subject")}


def accuracy(model: Any, n: int = 200) -> float:
    """How often the city is right when a second landmark is named."""
    rng, ids = random.Random("accuracy"), word_ids()
    texts: list[list[int]] = []
    right: list[int] = []
    while len(texts) < n:
        text = sentence(rng, True)
        if "unlike" in text or " but " in text:
            *prompt, answer, _ = corpus.split_words(text)
            texts.append([ids[word] for word in (corpus.BOS, *prompt)])
            right.append(ids[answer])
    width = max(map(len, texts))
    tokens = torch.tensor([text + [0] * (width - len(text)) for text in texts])
    ends = torch.tensor([len(text) - 1 for text in texts])
    top = model(tokens)[torch.arange(n), ends].argmax(dim=1)
    return (top == torch.tensor(right)).float().mean().item()


CORPORA = {"plain": False, "second subject": True}


def main(which: Sequence[str]) -> None:
    """Train and measure one or both; what the file says of the other stays."""
    torch.set_num_threads(1)
    for name in which or CORPORA:
        found = rounded(measure(CORPORA[name]))
        before = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
        OUT.parent.mkdir(exist_ok=True)
        text = json.dumps(before | {"steps": STEPS, name: found}, indent=1, sort_keys=True) + "\n"
        OUT.write_text(text, encoding="utf-8")
        print(name, json.dumps(found))


def rounded(value: Any) -> Any:
    """Four decimals, all the way down."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(entry) for entry in value]
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main(sys.argv[1:])
