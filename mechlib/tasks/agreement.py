"""Subject-verb agreement with attractors: "The keys to the cabinet" -> are."""

import random
from collections.abc import Sequence

from mechlib.tasks import held_out
from mechlib.tasks.prompt import Draft, Prompt, Tokenizer, check_split, generate, is_single_token, require
from mechlib.tasks.words import PLURAL, SINGULAR

SPLITS = ("train", "held-out pairs", "held-out wordings")

WORDINGS = (
    "The {subject} near the {attractor}",
    "The {subject} behind the {attractor}",
    "The {subject} beside the {attractor}",
    "The {subject} under the {attractor}",
    "The {subject} in front of the {attractor}",
    "The {subject} that saw the {attractor}",
    "The {subject} that fell on the {attractor}",
    "The {subject} to the left of the {attractor}",
    "The {subject} with the {attractor}",
)
NOUNS = tuple(zip(SINGULAR, PLURAL))


def draft(
    rng: random.Random,
    nouns: Sequence[tuple[str, str]] = NOUNS,
    split: str = "train",
    attractor: str = "other number",
) -> Draft:
    """One prompt. The attractor has the "other number" than the subject, the "same number", or "either"."""
    wording = rng.choice(held_out.AGREEMENT if split == "held-out wordings" else WORDINGS)
    while True:
        subject, other = rng.sample(nouns, 2)
        if held_out.is_held_out_pair("agreement", subject[0], other[0]) == (split == "held-out pairs"):
            break
    number = rng.randrange(2)
    differs = {"other number": 1, "same number": 0, "either": rng.randrange(2)}[attractor]
    return Draft(
        wording=wording,
        slots={"subject": subject[number], "attractor": other[number ^ differs]},
        corrupted={"subject": subject[1 - number]},
        answers=[[" is", " was", " has"], [" are", " were", " have"]][number],
        distractors=[[" are", " were", " have"], [" is", " was", " has"]][number],
        corrupted_answer=[" are", " is"][number],
        labels={"number": ["singular", "plural"][number], "attractor": bool(differs), "wording": wording},
    )


def agreement(
    tokenizer: Tokenizer, n: int = 300, seed: int = 0, split: str = "train", attractor: str = "other number"
) -> list[Prompt]:
    """The verb agrees with the subject, not with the nearer noun.

    attractor: its number is the "other number" (the hard case), the "same number", or "either". The answer is " is"
    or " are"; in the twin the subject has the other number. Roles: subject, attractor, end.
    """
    check_split("agreement", split, SPLITS)
    nouns = [pair for pair in NOUNS if all(is_single_token(tokenizer, noun) for noun in pair)]
    require("agreement", "nouns", nouns, 4, len(NOUNS))
    return generate("agreement", tokenizer, n, seed, split, lambda rng: draft(rng, nouns, split, attractor))
