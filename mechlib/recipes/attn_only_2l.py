"""The recipe of `attn-only-2l`: two layers of attention and nothing else, on a stream of words that repeats itself.

Background: each word has a few likely successors (bigrams), some words change their successor after an earlier word
(skip-trigrams), and frequencies fall off as Zipf's law says. Most rows hold a segment of random words that comes
again, often several times. No loss term looks at attention: the induction heads form because they help.
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
def language() -> tuple[list[float], list[list[int]], dict[int, list[int]], list[int]]:
    """The fixed language: Zipf weights, each word's likely successors, the switched words with a successor for each
    switch, and the switches."""
    rng = random.Random("attn-only-2l")
    ids = list(range(FIRST, FIRST + len(WORDS)))
    order = rng.sample(ids, len(ids))
    weights = [0.0] * len(ids)
    for rank, token in enumerate(order):
        weights[token - FIRST] = 1 / (rank + 10)
    successors = [rng.sample(ids, 4) for _ in ids]
    switches = order[:6]
    switched = {token: rng.sample(ids, len(switches)) for token in order[6:26]}
    return weights, successors, switched, switches


def background(rng: random.Random, length: int) -> list[int]:
    """A stretch of the language."""
    weights, successors, switched, switches = language()
    ids = range(FIRST, FIRST + len(WORDS))
    zipf = iter(rng.choices(ids, weights, k=length))
    stream: list[int] = []
    switch = None
    for token in zipf:
        if stream and rng.random() < 0.6:
            last = stream[-1]
            if last in switched and switch is not None:
                token = switched[last][switch]
            else:
                token = rng.choices(successors[last - FIRST], (8, 4, 2, 1))[0]
        if token in switches:
            switch = switches.index(token)
        stream.append(token)
    return stream


def row(rng: random.Random, length: int = LENGTH) -> list[int]:
    """BOS and a stretch of background; in 85 rows of 100 a random segment of 3 to 27 words breaks in again and
    again."""
    stream = [0, *background(rng, length - 1)]
    if rng.random() < 0.85:
        segment = rng.choices(range(FIRST, FIRST + len(WORDS)), k=rng.randint(3, 27))
        at = 1 + rng.randint(0, 8)
        while at < length:
            stream[at : at + len(segment)] = segment
            at += len(segment) + rng.choice((0, 0, 0, 2, 5))
    return stream[:length]


def rows(seed: int, step: int, batch: int) -> Sequence[Sequence[int]]:
    rng = random.Random(f"attn-only-2l/{seed}/{step}")
    return [row(rng) for _ in range(batch)]


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
    corpus="Zipfian bigrams and skip-trigrams over 254 words; 85% of the rows hold a segment of 3 to 27 random words "
    "that comes again",
    config={"n_layer": 2, "n_head": 4, "n_embd": 64, "n_inner": 1, "n_positions": LENGTH, "initializer_range": 0.1},
    tokenizer=tokenizer,
    rows=rows,
    steps=6000,
    lr=5e-3,
    attention_only=True,
    probe=probe,
    probe_every=200,
    snapshots=tuple(range(0, 6001, 300)),
    weaknesses=("It knows no English: its words are labels, and its bigrams and skip-trigrams are drawn at random.",),
)
