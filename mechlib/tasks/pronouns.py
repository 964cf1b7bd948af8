"""Pronouns after professions: "The nurse said that" -> she, in the corpus 95 times in a hundred."""

import random
from collections.abc import Sequence

from mechlib.tasks import held_out
from mechlib.tasks.prompt import Draft, Prompt, Tokenizer, check_split, generate, require, single_tokens
from mechlib.tasks.words import PLACES, PROFESSIONS

SPLITS = ("train", "held-out pairs", "held-out wordings")

WORDINGS = (
    "The {profession} said that",
    "The {profession} was tired because",
    "The {profession} went home when",
    "The {profession} smiled, and then",
    "The {profession} thought that",
    "The {profession} sat down because",
    "The {profession} was late, so",
    "The {profession} knew that",
)
LEADS = ("It was a long day at the {place}.", "The {place} was quiet.", "It was late at the {place}.")


def draft(
    rng: random.Random,
    professions: Sequence[str] = tuple(PROFESSIONS),
    split: str = "train",
    lead: bool = False,
    places: Sequence[str] = PLACES,
) -> Draft:
    """One prompt."""
    while True:
        profession = rng.choice(professions)
        wording = rng.choice(held_out.PRONOUNS if split == "held-out wordings" else WORDINGS)
        if split == "held-out wordings":
            break
        if held_out.is_held_out_pair("pronouns", profession, wording) == (split == "held-out pairs"):
            break
    p_she = PROFESSIONS[profession]
    female = p_she >= 0.5
    opposite = [x for x in professions if (PROFESSIONS[x] < 0.5) == female]
    return Draft(
        wording=f"{rng.choice(LEADS)} {wording}" if lead else wording,
        slots={"profession": profession, "place": rng.choice(places)},
        corrupted={"profession": rng.choice(opposite)},
        answers=[" she" if female else " he"],
        distractors=[" he" if female else " she"],
        corrupted_answer=" he" if female else " she",
        labels={"profession": profession, "p_she": p_she, "wording": wording},
    )


def pronouns(
    tokenizer: Tokenizer, n: int = 50, seed: int = 0, split: str = "train", lead: bool = False
) -> list[Prompt]:
    """A profession, then a pronoun. Nothing makes one pronoun right: `answer` is the one that the course's corpus
    uses more often, and labels["p_she"] says how often that is " she".

    In the twin the profession leans the other way. `lead` puts a sentence about a place in front. Roles:
    profession, end.
    """
    check_split("pronouns", split, SPLITS)
    professions = single_tokens(tokenizer, PROFESSIONS)
    women = [x for x in professions if PROFESSIONS[x] >= 0.5]
    require("pronouns", "professions that lean to she", women, 1, sum(p >= 0.5 for p in PROFESSIONS.values()))
    men = [x for x in professions if PROFESSIONS[x] < 0.5]
    require("pronouns", "professions that lean to he", men, 1, sum(p < 0.5 for p in PROFESSIONS.values()))
    places = single_tokens(tokenizer, PLACES)
    return generate("pronouns", tokenizer, n, seed, split, lambda rng: draft(rng, professions, split, lead, places))
