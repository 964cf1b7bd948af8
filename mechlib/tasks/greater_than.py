"""Greater-than: "The war lasted from the year 1732 to the year 17" -> any two digits above 32."""

import random
from collections.abc import Mapping, Sequence

from mechlib.tasks import held_out
from mechlib.tasks.prompt import Draft, Prompt, Tokenizer, check_split, generate, require, single_tokens
from mechlib.tasks.words import CENTURIES, EVENTS, YEARS

SPLITS = ("train", "held-out pairs", "held-out wordings")
FIRST, LAST = 2, 98  # the first year's two digits

WORDINGS = (
    "The {event} lasted from the year {century}{year} to the year {century2}",
    "The {event} went on from {century}{year} to {century2}",
    "The {event} started in {century}{year} and was over in {century2}",
    "In {century}{year} the {event} started, and it was over in the year {century2}",
    "There was a {event} from {century}{year} to {century2}",
)


def draft(
    rng: random.Random,
    events: Sequence[str] = EVENTS,
    years: Mapping[str, Sequence[str]] | None = None,
    split: str = "train",
) -> Draft:
    """One prompt. `years`: the two-digit years that may be used in each century (all of them by default)."""
    years = years or dict.fromkeys(CENTURIES, YEARS)
    wording = rng.choice(held_out.GREATER_THAN if split == "held-out wordings" else WORDINGS)
    while True:
        century = rng.choice(list(years))
        year = rng.choice(years[century])
        held = held_out.is_held_out_pair("years", century, year)
        if held == (split == "held-out pairs") and FIRST <= int(year) <= LAST and max(years[century]) > year:
            break
    above = [later for later in years[century] if later > year]
    below = [earlier for earlier in years[century] if earlier <= year]
    return Draft(
        wording=wording,
        slots={"event": rng.choice(events), "century": century, "year": year, "century2": century},
        corrupted={"year": "01"},
        answers=above,
        distractors=below[::-1],
        corrupted_answer="02",
        labels={"century": int(century), "year": int(year), "wording": wording},
    )


def greater_than(tokenizer: Tokenizer, n: int = 300, seed: int = 0, split: str = "train") -> list[Prompt]:
    """Something lasts from one year to another of the same century, so its last two digits must be larger.

    `answers` are all the larger two-digit years, `distractors` all the others. In the twin the first year ends in
    01, so that the wrong answers become right ones. Roles: event, century, year, century2, end.
    """
    check_split("greater_than", split, SPLITS)
    events = single_tokens(tokenizer, EVENTS)
    years = {century: [y for y in YEARS if _splits(tokenizer, century, y)] for century in CENTURIES}
    years = {century: some for century, some in years.items() if len(some) >= 20 and "01" in some}
    require("greater_than", "nouns", events, 2, len(EVENTS))
    require("greater_than", "centuries", list(years), 1, len(CENTURIES))

    def draw(rng: random.Random) -> Draft:
        return draft(rng, events, years, split)

    return generate("greater_than", tokenizer, n, seed, split, draw)


def _splits(tokenizer: Tokenizer, century: str, year: str) -> bool:
    """Is "1732" the token of "17" followed by the token of "32"?"""
    ids, start, end = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in (f" {century}{year}", f" {century}", year)
    )
    return len(start) == len(end) == 1 and ids == start + end
