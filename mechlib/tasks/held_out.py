# ruff: noqa: SIM905
"""Everything that the course's corpus never shows, in one place.

Four splits, the same for every task that has them:

train                 the corpus may show it
held-out names        names that the corpus shows only alone, never in a text with a second name (ioi)
held-out pairs        combinations of two seen things that no text shows together: two names (ioi), a subject and
                      its attractor (agreement), a century and a first year (greater_than), a subject and a wording
                      (facts, pronouns), a thing and an adjective (sentiment)
held-out wordings     sentences that no text uses, made of words that other texts do use; in facts: paraphrases

`mechlib.recipes.corpus.leaks` looks for all of them in a text, and a test reads thousands of texts with it.
"""

import zlib
from functools import cache

SPLITS = ("train", "held-out pairs", "held-out wordings", "held-out names")

NAMES = frozenset("Alice Claire Hannah Katie Megan Sophie Henry Jack Luke Samuel Simon Patrick".split())


def is_held_out_pair(kind: str, first: str, second: str) -> bool:
    """One pair in five, the same everywhere and forever: by a checksum of the words, not by a random draw."""
    return zlib.crc32(f"{kind}|{first}|{second}".encode()) % 5 == 0


@cache
def is_held_out_name_pair(first: str, second: str) -> bool:
    """Two names, in either order."""
    return is_held_out_pair("names", *sorted((first, second)))


# In a wording, {braces} are filled; sentences that share a task's slots can stand for each other.
IOI_OPENINGS = (
    "Once {a} and {b} got back to the {place},",
    "Last week {a} and {b} spent a day at the {place}.",
    "{a} joined {b} for dinner at the {place}, and then",
)
IOI_ACTIONS = (
    "{s2} offered a {object} to",
    "{s2} tried to bring the {object} to",
    "{s2} made a {object} for",
)
GREATER_THAN = (
    "The {event} began in the year {century}{year} and ended in the year {century2}",
    "They say that the {event} was long, from {century}{year} to {century2}",
)
AGREEMENT = (
    "The {subject} across from the {attractor}",
    "The {subject} that stood by the {attractor}",
)
CAPITAL = (
    "In {subject}, the capital is the city of",
    "Do you know the capital of {subject}? It is",
)
LANGUAGE = (
    "The language of {subject} is",
    "When you are in {subject}, you hear people speak",
)
CONTINENT = (
    "The continent of {subject} is",
    "Look for {subject} on the continent of",
)
LANDMARK_CITY = (
    "To see {subject}, go to the city of",
    "{subject} was built in the city of",
)
LANDMARK_KIND = (
    "They call {subject} a famous",
    "Have you seen {subject}? It is a big",
)
PRONOUNS = (
    "The {profession} left early because",
    "The {profession} told the friend that",
)
SENTIMENT = (
    "At night the {thing} {was} {adjective}, so {name} felt",
    "To {name}, the {thing} {was} {adjective}. In the end {name} was",
)
