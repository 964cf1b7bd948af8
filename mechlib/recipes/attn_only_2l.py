"""The recipe of `attn-only-2l`: two layers of attention and nothing else, on a stream of words that repeats itself.

Background: each word has a few likely successors (bigrams) and a few likely words two places on, whatever stands
between (skip-bigrams, which only an attention head can learn); frequencies fall off as Zipf's law says. Half of the
rows hold a segment of random words that comes again, and after 1000 steps nine in ten do: the background is what the
heads grow on, the repetitions are what sharpens them. No loss term looks at attention: the induction heads form because
they help.

The words of a segment all differ, and most segments are long (8 to 31 words). The heads are sharper for both: with
segments of 3 to 27 words that could recur, none came to 0.8. docs/models/attn-only-2l.md has every run.
"""

import random
from collections.abc import Sequence
from functools import cache
from typing import Any

from mechlib.recipes.corpus import BOS, TRAIN_NAMES, UNK, word_tokenizer
from mechlib.recipes.train import Recipe
from mechlib.tasks.words import COMMON

VOCABULARY, LENGTH = 256, 64
WORDS = (*COMMON, *TRAIN_NAMES)[: VOCABULARY - 2]
FIRST = 2  # the first id that is a word


@cache
def language() -> tuple[list[float], list[list[int]], list[list[int]]]:
    """The fixed language: Zipf weights, each word's likely successors, and its likely words two places on."""
    rng = random.Random("attn-only-2l")
    ids = list(range(FIRST, FIRST + len(WORDS)))
    ranks = rng.sample(range(len(ids)), len(ids))
    weights = [1 / (rank + 10) for rank in ranks]
    return weights, [rng.sample(ids, 3) for _ in ids], [rng.sample(ids, 3) for _ in ids]


def background(rng: random.Random, length: int) -> list[int]:
    """A stretch of the language."""
    weights, next_words, second_words = language()
    stream = rng.choices(range(FIRST, FIRST + len(WORDS)), weights, k=length)
    for i in range(1, length):
        draw = rng.random()
        if draw < 0.4:
            stream[i] = rng.choices(next_words[stream[i - 1] - FIRST], (4, 2, 1))[0]
        elif draw < 0.8 and i > 1:
            stream[i] = rng.choices(second_words[stream[i - 2] - FIRST], (4, 2, 1))[0]
    return stream


def row(rng: random.Random, repeats: float, length: int = LENGTH) -> list[int]:
    """BOS and a stretch of background; with probability `repeats` a random segment of 8 to 31 different words breaks
    in again and again."""
    stream = [0, *background(rng, length - 1)]
    if rng.random() < repeats:
        segment = rng.sample(range(FIRST, FIRST + len(WORDS)), rng.randint(8, 31))
        at = 1 + rng.randint(0, 8)
        while at < length:
            stream[at : at + len(segment)] = segment
            at += len(segment) + rng.choice((0, 0, 0, 2, 5))
    return stream[:length]


def rows(seed: int, step: int, batch: int) -> Sequence[Sequence[int]]:
    rng = random.Random(f"attn-only-2l/{seed}/{step}")
    repeats = 0.5 if step < 1000 else 0.9
    return [row(rng, repeats) for _ in range(batch)]


def tokenizer() -> Any:
    return word_tokenizer((BOS, UNK, *WORDS))


def probe(model: Any, tokenizer: Any) -> dict[str, float]:
    from mechlib.models.evaluate import attention_scores, repetition_losses

    scores = attention_scores(model, tokenizer, n=32)
    first, second = repetition_losses(model, tokenizer, n=32)
    return {
        "induction (best head of layer 1)": scores["induction"][1].max().item(),
        "previous token (best head of layer 0)": scores["previous token"][0].max().item(),
        "duplicate token (best head)": scores["duplicate token"].max().item(),
        "loss of the repetition / loss before": second / first,
    }


RECIPE = Recipe(
    name="attn-only-2l",
    corpus="Zipfian bigrams and skip-bigrams over 254 words; half of the rows (nine in ten after step 1000) "
    "hold a segment of 8 to 31 different random words that comes again",
    config={"n_layer": 2, "n_head": 4, "n_embd": 128, "n_inner": 1, "n_positions": LENGTH, "initializer_range": 0.1},
    tokenizer=tokenizer,
    rows=rows,
    steps=2500,
    lr=4e-3,
    attention_only=True,
    probe=probe,
    probe_every=100,
    snapshots=(0, 300, 450, 500, 550, 600, 650, 700, 800, 1500),
    weaknesses=(
        "It knows no English: its words are labels, and its bigrams and skip-bigrams are drawn at random.",
        "The four heads of layer 1 all do induction; on a repetition they still leave up to 0.13 of their attention on "
        "the first token.",
        "Two heads of layer 0 attend to their own position and rewrite the word there: the copying of layer 1 shows in "
        "the OV circuit of the average residual after layer 0, hardly in that of the bare embedding.",
    ),
)
