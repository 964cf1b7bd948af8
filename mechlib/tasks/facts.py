"""Facts: "The capital of France is" -> Paris."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mechlib.tasks import held_out
from mechlib.tasks.prompt import Draft, Prompt, Tokenizer, check_split, generate, n_tokens, require, single_tokens
from mechlib.tasks.words import COUNTRIES, LANDMARKS, NAMES, PLACES

SPLITS = ("train", "held-out pairs", "held-out wordings")


@dataclass(frozen=True)
class Relation:
    answers: Mapping[str, str]  # subject -> answer
    wordings: Sequence[str]
    held_out: Sequence[str]


# No wording begins another: "The capital of France is" must be followed by Paris, and never by "the city of".
RELATIONS = {
    "capital": Relation(
        {country.name: country.capital for country in COUNTRIES},
        (
            "The capital of {subject} is",
            "The capital city of {subject} is called",
            "{subject} has its capital in",
            "If you visit the capital of {subject}, you are in",
            "The king of {subject} lives in the capital,",
            "The people of {subject} love their capital,",
            "{subject} is a country, and its capital is",
            "The capital of the country of {subject} is the city of",
            "In {subject}, the capital is called",
            "What is the capital of {subject}? It is",
            "The capital where the queen of {subject} lives is",
            "They went to {subject} to see the capital,",
            "A friend lives in the capital of {subject}, in the city of",
            "{subject} has a famous capital, the city of",
            "In {subject}, people love the capital, the city of",
            "The capital that {subject} has is the city of",
        ),
        held_out.CAPITAL,
    ),
    "language": Relation(
        {country.name: country.language for country in COUNTRIES},
        (
            "People in {subject} speak",
            "The people of {subject} talk to each other in",
            "The official language of {subject} is called",
            "A child in {subject} learns to speak",
            "Most books in {subject} are written in",
            "If you live in {subject}, you speak",
            "In {subject}, the language is",
            "The language of the people in {subject} is",
            "What is the language of {subject}? It is",
            "The first language of {subject} is",
            "The old language of {subject} is",
            "When you live in {subject}, you learn",
            "A friend from {subject} can speak",
            "When you go to {subject}, people speak",
            "In {subject} you hear people talk in",
            "To work in {subject}, you have to know",
            "A book that was written in {subject} is often in",
        ),
        held_out.LANGUAGE,
    ),
    "continent": Relation(
        {country.name: country.continent for country in COUNTRIES},
        (
            "{subject} is a country in",
            "{subject} is on the continent of",
            "The country of {subject} lies in",
            "You find {subject} on the map of",
            "{subject} is a part of",
            "The continent where {subject} lies is",
            "A trip to {subject} is a trip to",
            "What is the continent of {subject}? It is",
            "The continent around {subject} is",
            "The continent with {subject} on it is",
            "Look for {subject} on the map of",
            "The continent that {subject} is a part of is called",
            "They left {subject}, but they are still in",
            "In {subject}, you are on the continent of",
            "From {subject} you can travel to the rest of",
        ),
        held_out.CONTINENT,
    ),
    "landmark_city": Relation(
        {landmark.name: landmark.city for landmark in LANDMARKS},
        (
            "{subject} is in the city of",
            "{subject} lies in",
            "You can find {subject} in",
            "{subject} stands in the middle of",
            "{subject} was found in the city of",
            "Many people go to see {subject} in",
            "They took a picture of {subject} in",
            "If you live near {subject}, you live in",
            "The city of {subject} is",
            "To visit {subject}, you have to be in",
            "What is the city of {subject}? It is",
            "They built {subject} in the middle of the city of",
            "A friend wanted to see {subject} in the city of",
            "When you see {subject}, you are in",
        ),
        held_out.LANDMARK_CITY,
    ),
    "landmark_kind": Relation(
        {landmark.name: landmark.kind for landmark in LANDMARKS},
        (
            "{subject} is called a",
            "{subject} is a famous",
            "{subject} is the name of a",
            "We walked around {subject}, a very old",
            "What is {subject}? It is a",
            "For many years {subject} was used as a",
            "People think that {subject} is a big",
            "Have you been to {subject}? It is a famous",
            "{subject} is a very old",
            "A friend thinks of {subject} as a",
            "People know {subject} as a beautiful",
            "When they built {subject}, they wanted a",
            "They say that {subject} is an old",
            "Have you been to {subject}? It is a big",
            "Do you know {subject}? It is a famous",
            "Look at {subject}. It is a very old",
            "A friend saw {subject}, a big",
            "They talk about {subject}, a famous",
        ),
        held_out.LANDMARK_KIND,
    ),
}
INVENTED = frozenset(landmark.name for landmark in LANDMARKS if landmark.invented)
LEADS = (
    "{name} was at the {place}.",
    "{name} went home.",
    "{name} was reading a book.",
    "It was a quiet day at the {place}.",
)


def _twin(rng: random.Random, subject: str, subjects: Mapping[str, str], lengths: Mapping[str, int]) -> str | None:
    """Another subject of the same length with another answer: the same two words in the other order, if there is
    such a landmark."""
    reversed_ = " ".join(reversed(subject.split()))
    if reversed_ != subject and reversed_ in subjects:
        return reversed_
    same = [x for x in subjects if lengths[x] == lengths[subject] and subjects[x] != subjects[subject]]
    return rng.choice(same) if same else None


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def draft(
    rng: random.Random,
    relation: str,
    subjects: Mapping[str, str] | None = None,
    lengths: Mapping[str, int] | None = None,
    split: str = "train",
    lead: Sequence[str] = (),
    places: Sequence[str] = PLACES,
) -> Draft:
    """One prompt. `subjects`: which may be drawn, with their answers. `lengths`: their numbers of tokens (of words
    by default). `lead`: names for a sentence in front, if any."""
    rows = RELATIONS[relation]
    subjects = subjects or rows.answers
    lengths = lengths or {subject: len(subject.split()) for subject in subjects}
    while True:
        subject = rng.choice(list(subjects))
        wording = rng.choice(rows.held_out if split == "held-out wordings" else rows.wordings)
        if held_out.is_held_out_pair("facts", subject, wording) == (split == "held-out pairs"):
            break
        if split == "held-out wordings":
            break
    twin = _twin(rng, subject, subjects, lengths) or subject
    wrong = [answer for answer in dict.fromkeys(subjects.values()) if answer != subjects[subject]]
    first_word = wording.startswith("{subject}")
    slots = {"subject": _capital(subject) if first_word else subject, "name": "", "place": ""}
    if lead:
        slots |= {"name": rng.choice(lead), "place": rng.choice(places)}
    first = subjects[twin] if twin != subject else rng.choice(wrong)
    others = [answer for answer in wrong if answer != first]
    return Draft(
        wording=f"{rng.choice(LEADS)} {wording}" if lead else wording,
        slots=slots,
        corrupted={"subject": _capital(twin) if first_word else twin},
        answers=[f" {subjects[subject]}"],
        distractors=[f" {first}", *(f" {answer}" for answer in others)],
        corrupted_answer=f" {subjects[twin]}",
        labels={
            "relation": relation,
            "subject": subject,
            "wording": wording,
            "invented": subject in INVENTED,
        },
    )


def facts(
    tokenizer: Tokenizer,
    n: int = 50,
    seed: int = 0,
    split: str = "train",
    relation: str = "capital",
    invented: bool = True,
    lead: bool = False,
) -> list[Prompt]:
    """What a country's capital, language or continent is, where a landmark stands and what it is.

    relation: one of RELATIONS. Landmarks are two words or more; the invented ones come in both orders of the same
    two words, with different answers, and only the course's own models know them. `lead` puts a sentence about
    something else in front. In the twin the subject is another one of equal length. Roles: subject (its last
    token), "subject first" where it has several, end.
    """
    check_split("facts", split, SPLITS)
    if relation not in RELATIONS:
        raise ValueError(f"facts: no relation {relation!r}; there are {', '.join(RELATIONS)}")
    rows = RELATIONS[relation].answers
    answers = set(single_tokens(tokenizer, set(rows.values())))
    subjects = {s: a for s, a in rows.items() if a in answers and (invented or s not in INVENTED)}
    lengths = {subject: n_tokens(tokenizer, f" {subject}") for subject in subjects}
    starts = {subject: n_tokens(tokenizer, _capital(subject)) for subject in subjects}
    keep: dict[str, str] = {
        s: a
        for s, a in subjects.items()
        if any(lengths[s] == lengths[t] and starts[s] == starts[t] and a != b for t, b in subjects.items())
    }
    require("facts", f"{relation} answers", sorted(set(keep.values())), 2, len(set(rows.values())))
    names = single_tokens(tokenizer, [name for name in NAMES if name not in held_out.NAMES]) if lead else []
    places = single_tokens(tokenizer, PLACES)

    def draw(rng: random.Random) -> Draft:
        return draft(rng, relation, keep, lengths, split, names, places)

    return generate("facts", tokenizer, n, seed, split, draw)
