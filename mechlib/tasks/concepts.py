"""Twenty concepts of the course's corpus, to hold features against.

They were written down before any feature of any SAE had been looked at. Eight are decided by the current word alone;
a detector of words can find those. Twelve are not: the same word has them in one text and not in another.

A concept is a rule that reads the words of one text (see `mechlib.recipes.corpus`) and says for each of them, from
what stands up to there, whether the concept holds; only "a city comes next" looks one word ahead.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mechlib.tasks import words as w

Words = Sequence[str]

COUNTRIES = frozenset(country.name for country in w.COUNTRIES)
EUROPE = frozenset(country.name for country in w.COUNTRIES if country.continent == "Europe")
CITIES = frozenset([country.capital for country in w.COUNTRIES] + [landmark.city for landmark in w.LANDMARKS])
LANDMARKS = frozenset(tuple(landmark.name.removeprefix("the ").split()) for landmark in w.LANDMARKS)
LANDMARK_LENGTHS = sorted({len(name) for name in LANDMARKS})
WOMEN, MEN, NAMES = frozenset(w.WOMEN), frozenset(w.MEN), frozenset(w.NAMES)
FEELINGS = frozenset(("happy", "glad", "sad", "upset"))
PLURAL_VERBS = frozenset(("are", "were", "have"))
LATE = 70


@dataclass(frozen=True)
class Concept:
    name: str
    means: str
    current_word: bool  # does the word itself decide?
    rule: Callable[[Words], list[bool]]


def _word(name: str, means: str, vocabulary: Sequence[str] | frozenset[str]) -> Concept:
    return Concept(name, means, True, lambda words: [word in vocabulary for word in words])


def _sentences(words: Words) -> Iterator[tuple[int, int]]:
    """Where each sentence starts and ends; the full stop or question mark belongs to it."""
    start = 0
    for i, word in enumerate(words):
        if word in (".", "?"):
            yield start, i + 1
            start = i + 1
    if start < len(words):
        yield start, len(words)


def repeated_segment(words: Words) -> list[bool]:
    seen: set[tuple[str, ...]] = set()
    found = []
    for i in range(len(words)):
        last_three = tuple(words[max(0, i - 2) : i + 1])
        found.append(i >= 2 and last_three in seen)
        seen.add(last_three)
    return found


def repeated_name(words: Words) -> list[bool]:
    return [word in NAMES and word in words[:i] for i, word in enumerate(words)]


def second_person(words: Words) -> list[bool]:
    named = [NAMES & set(words[:i]) for i in range(len(words))]
    return [word in NAMES and word not in before and bool(before) for word, before in zip(words, named)]


def giver_known(words: Words) -> list[bool]:
    found = [False] * len(words)
    repeated = repeated_name(words)
    for start, end in _sentences(words):
        inside = False
        for i in range(start, end):
            if words[i] in NAMES:
                inside = not inside and repeated[i] and len(NAMES & set(words[:i])) >= 2
            found[i] = inside
    return found


def negated(words: Words) -> list[bool]:
    found = [False] * len(words)
    for start, end in _sentences(words):
        for i in range(start, end):
            found[i] = "not" in words[start:i]
    return found


def good_verdict(words: Words) -> list[bool]:
    found, verdict = [], ""
    for i, word in enumerate(words):
        if word in w.GOOD + w.BAD and i and words[i - 1] in ("was", "not"):
            verdict = "good" if (word in w.GOOD) == (words[i - 1] == "was") else "bad"
        if word in FEELINGS:
            verdict = ""
        found.append(verdict == "good")
    return found


def plural_subject(words: Words) -> list[bool]:
    found = [False] * len(words)
    for start, end in _sentences(words):
        if end - start > 1 and words[start] == "The" and words[start + 1] in w.PLURAL:
            for i in range(start + 2, end):
                if words[i] in PLURAL_VERBS:
                    break
                found[i] = True
    return found


def _numbers_before(words: Words) -> list[list[str]]:
    """The numbers of the same sentence up to each word, itself included."""
    found: list[list[str]] = [[] for _ in words]
    for start, end in _sentences(words):
        for i in range(start, end):
            found[i] = [word for word in words[start : i + 1] if word.isdigit()]
    return found


def larger_year_next(words: Words) -> list[bool]:
    return [word.isdigit() and len(numbers) == 3 for word, numbers in zip(words, _numbers_before(words))]


def first_year_late(words: Words) -> list[bool]:
    found = []
    for word, numbers in zip(words, _numbers_before(words)):
        between = len(numbers) == 3 or (len(numbers) == 2 and not word.isdigit())
        found.append(between and int(numbers[1]) >= LATE)
    return found


def european_country(words: Words) -> list[bool]:
    found = [False] * len(words)
    for start, end in _sentences(words):
        last = ""
        for i in range(start, end):
            found[i] = last in EUROPE and words[i] not in COUNTRIES
            last = words[i] if words[i] in COUNTRIES else last
    return found


def landmark_ends(words: Words) -> list[bool]:
    return [
        any(tuple(words[max(0, i + 1 - len(name)) : i + 1]) == name for name in LANDMARKS) for i in range(len(words))
    ]


def city_next(words: Words) -> list[bool]:
    return [word in CITIES for word in [*words[1:], ""]]


CONCEPTS = (
    _word("country", "the word is a country", COUNTRIES),
    _word("city", "the word is a city", CITIES),
    _word("woman's name", "the word is a woman's name", WOMEN),
    _word("man's name", "the word is a man's name", MEN),
    _word("profession", "the word is a profession", frozenset(w.PROFESSIONS)),
    _word("place", "the word is a place such as store or park", w.PLACES),
    _word("good adjective", "the word is an adjective such as wonderful", w.GOOD),
    _word("event", "the word is something that lasts for years, such as war", w.EVENTS),
    Concept("repeated segment", "this word and the two before it came before, in this order", False, repeated_segment),
    Concept("repeated name", "the word is a name that this text has mentioned before", False, repeated_name),
    Concept(
        "second person", "the word is a name, the first mention of somebody after somebody else", False, second_person
    ),
    Concept(
        "giver known", "of two people, one was named again: from there to the next name or the end", False, giver_known
    ),
    Concept("negated", 'the sentence has said "not" before this word', False, negated),
    Concept(
        "good verdict",
        "something was called good, or not bad, and no feeling has been named since",
        False,
        good_verdict,
    ),
    Concept(
        "plural subject", "the subject of the sentence was a plural, and its verb has not come", False, plural_subject
    ),
    Concept(
        "larger year next",
        "the second century of the sentence: a year above the first must follow",
        False,
        larger_year_next,
    ),
    Concept(
        "first year late",
        f"the sentence named a year ending in {LATE} or more, and the second has not come",
        False,
        first_year_late,
    ),
    Concept(
        "European country",
        "the last country that the sentence named, before this word, lies in Europe",
        False,
        european_country,
    ),
    Concept("landmark ends", "the last word of a landmark's name", False, landmark_ends),
    Concept("city next", "the next word is a city", False, city_next),
)


def concept_labels(
    tokenizer: Any, tokens: Int[Tensor, "row position"], concepts: Sequence[Concept] = CONCEPTS
) -> Bool[Tensor, "row position concept"]:
    """Where each concept holds, for rows of texts of which each stands after a beginning-of-sequence token. That token
    itself has no concept. The tokenizer's tokens have to be words, as pocket's are."""
    labels = torch.zeros(*tokens.shape, len(concepts), dtype=torch.bool)
    for row, ids in enumerate(tokens.tolist()):
        words = tokenizer.convert_ids_to_tokens(ids)
        starts = [i + 1 for i, token in enumerate(ids) if token == tokenizer.bos_token_id]
        for start, end in zip(starts, [*(start - 1 for start in starts[1:]), len(ids)]):
            if start < end:
                held = [concept.rule(words[start:end]) for concept in concepts]
                labels[row, start:end] = torch.tensor(held).T
    return labels
