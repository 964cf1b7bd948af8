"""Sentiment: "The movie was wonderful. Mary was" -> happy; "The movie was not wonderful. Mary was" -> sad."""

import random
from collections.abc import Sequence

from mechlib.tasks import held_out
from mechlib.tasks.prompt import Draft, Prompt, Tokenizer, check_split, generate, require, single_tokens
from mechlib.tasks.words import BAD, EXPERIENCES, GOOD, NAMES

SPLITS = ("train", "held-out pairs", "held-out wordings")

WORDINGS = (
    "The {thing} {was} {adjective}. {name} was",
    "{name} said that the {thing} {was} {adjective}. {name} was",
    "Everyone thought that the {thing} {was} {adjective}, and {name} was very",
    "The {thing} of {name} {was} {adjective}. After the {thing2}, {name} felt",
    "The {thing} {was} {adjective}, so {name} felt",
)


def draft(
    rng: random.Random,
    names: Sequence[str],
    things: Sequence[str] = EXPERIENCES,
    adjectives: tuple[Sequence[str], Sequence[str]] = (GOOD, BAD),
    split: str = "train",
    negated: float = 0.5,
) -> Draft:
    """One prompt. `names` are those that may be drawn; `negated` is the probability of "was not"."""
    wording = rng.choice(held_out.SENTIMENT if split == "held-out wordings" else WORDINGS)
    side = rng.randrange(2)
    while True:
        thing, adjective = rng.choice(things), rng.choice(adjectives[side])
        if held_out.is_held_out_pair("sentiment", thing, adjective) == (split == "held-out pairs"):
            break
    opposite = [
        x for x in adjectives[1 - side] if not held_out.is_held_out_pair("sentiment", thing, x) or split != "train"
    ]
    negation = rng.random() < negated
    happy = (side == 0) != negation
    right, wrong = [" happy", " glad"], [" sad", " upset"]
    return Draft(
        wording=wording,
        slots={
            "thing": thing,
            "was": "was not" if negation else "was",
            "adjective": adjective,
            "name": rng.choice(names),
            "thing2": thing,
        },
        corrupted={"adjective": rng.choice(opposite)},
        answers=right if happy else wrong,
        distractors=wrong if happy else right,
        corrupted_answer=(wrong if happy else right)[0],
        labels={"feeling": "good" if happy else "bad", "negated": negation, "wording": wording},
    )


def sentiment(
    tokenizer: Tokenizer, n: int = 300, seed: int = 0, split: str = "train", negated: float = 0.5
) -> list[Prompt]:
    """Something was good or bad, or was not, and somebody feels accordingly.

    In the twin the adjective is of the other kind, so the answer turns around. Roles: thing, was (its last token:
    "not", where there is one), adjective, name, end.
    """
    check_split("sentiment", split, SPLITS)
    names = single_tokens(tokenizer, [name for name in NAMES if name not in held_out.NAMES], first=True)
    things = single_tokens(tokenizer, EXPERIENCES)
    good, bad = single_tokens(tokenizer, GOOD), single_tokens(tokenizer, BAD)
    require("sentiment", "names", names, 1, len(NAMES))
    require("sentiment", "things", things, 2, len(EXPERIENCES))
    for words, all_words, kind in ((good, GOOD, "good"), (bad, BAD, "bad")):
        require("sentiment", f"{kind} adjectives", words, 2, len(all_words))

    def draw(rng: random.Random) -> Draft:
        return draft(rng, names, things, (good, bad), split, negated)

    return generate("sentiment", tokenizer, n, seed, split, draw)
