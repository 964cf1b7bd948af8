"""The corpus of `pocket`: a grammar of English-like texts that mixes the course's tasks into short stories.

Every text is made by the tasks' own generators with split="train", or by the stories here, so that nothing named in
`mechlib.tasks.held_out` is ever shown; `leaks` looks for it in a text. A training row is a page: the
beginning-of-sequence token, a text, the token again, the next text, cut off where the page ends. Held-out names have
pages of their own. The rows of a step depend on the seed and the step alone, so an interrupted training run goes on
where it was.
"""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from mechlib.tasks import held_out
from mechlib.tasks import words as w
from mechlib.tasks.agreement import NOUNS
from mechlib.tasks.agreement import WORDINGS as AGREEMENT
from mechlib.tasks.agreement import draft as agreement
from mechlib.tasks.facts import LEADS as FACT_LEADS
from mechlib.tasks.facts import RELATIONS
from mechlib.tasks.facts import draft as fact
from mechlib.tasks.greater_than import WORDINGS as GREATER_THAN
from mechlib.tasks.greater_than import draft as greater_than
from mechlib.tasks.ioi import ACTIONS, OPENINGS, THIRD_NAMES, draw_names
from mechlib.tasks.ioi import draft as ioi
from mechlib.tasks.prompt import Draft, fill, slots_of
from mechlib.tasks.pronouns import LEADS as PRONOUN_LEADS
from mechlib.tasks.pronouns import WORDINGS as PRONOUNS
from mechlib.tasks.pronouns import draft as pronoun
from mechlib.tasks.sentiment import WORDINGS as SENTIMENT
from mechlib.tasks.sentiment import draft as sentiment

BOS, UNK = "<bos>", "<unk>"
TRAIN_NAMES = tuple(name for name in w.NAMES if name not in held_out.NAMES)

# The share of each kind of text. Repetitions are long, so a quarter of the tokens are theirs.
MIX = {
    "facts": 0.24,
    "ioi": 0.20,
    "greater_than": 0.14,
    "repetition": 0.12,
    "story": 0.10,
    "sentiment": 0.08,
    "pronouns": 0.07,
    "agreement": 0.05,
}

# ---- the words of the stories

PREDICATES = ("here", "at home", "in the way", "gone", "easy to find", "hard to see", *w.ADJECTIVES)
PAST = ("seen", "left at home", "lost", "moved", "found")
REASONS = (
    "was hungry",
    "had no time",
    "wanted to sleep",
    "had to work",
    "needed help",
    "was ready to go",
    "had won",
    "was cold",
)
SOLO = (
    "{name} lived in {city} and worked at the {place}.",
    "{name} was born in {country}, but {pro} now lived in {city}.",
    "One day {name} went to the {place} to buy a {object}.",
    "At night {name} walked home from the {place}.",
    "A {profession} gave the {object} to {name}.",
    "The {profession} at the {place} sold a {object} to {name}.",
    "{Pro} tried to open the {object}, but it was too heavy.",
    "{Pro} got back home late, because the road was long.",
    "Last year {name} spent a week at the {place}.",
    "Once {pro} offered some help to a {profession}.",
    "The {profession} joined {name} for dinner at the {place}.",
    "{Pro} made a cake and wanted to bring it home.",
    "{Pro} wanted to travel to {country} and see {landmark}.",
    "{name} took a picture of {landmark}.",
    "To {name}, the {place} was like a home.",
    "In the end {name} sent a letter to the {profession}.",
    "{Pro} stood across the road and looked at the {place}.",
    "Then the {profession} told {name} a story, and {name} began to talk too.",
    "{name} found the {object} by the door.",
    "{Pro} left the {place} early.",
    "The {profession} said hello to {name}.",
    "A friend bought a {object} for {name}, and {name} was happy.",
    "{name} wrote a song about the {place}. The song of {name} was short.",
)
NEUTRAL = (
    "They say that the {place} was built long ago.",
    "The day ended with a song.",
    "Do you know this song?",
    "Look for the {object} on the map.",
    "Have you seen the {object}?",
    "They call it a {adjective} day.",
    "To see the {place}, you go across the road.",
    "When you are at the {place}, you hear people sing.",
    "It was late when the friend told the {profession} about it.",
    "In the end it was a good day.",
    "So they went home.",
    "The {place} of this city is famous.",
)


def _choice(rng: random.Random, table: Sequence[Any]) -> Any:
    return table[int(rng.random() * len(table))]


def _sentence(rng: random.Random, wording: str, name: str = "") -> str:
    """A sentence of a story, its other slots filled at random."""
    pro = "she" if name in w.WOMEN else "he"
    slots = {
        "name": name,
        "pro": pro,
        "Pro": pro.capitalize(),
        "place": _choice(rng, w.PLACES),
        "object": _choice(rng, w.OBJECTS),
        "adjective": _choice(rng, w.ADJECTIVES),
        "profession": _choice(rng, tuple(w.PROFESSIONS)),
        "landmark": _choice(rng, w.LANDMARKS).name,
    }
    country = _choice(rng, w.COUNTRIES)
    return fill(wording, slots | {"country": country.name, "city": country.capital})[0]


# ---- one kind of text each


@cache
def _odd_words() -> tuple[str, ...]:
    """Words that mean nothing to any of the tasks: no names, no nouns of agreement, no facts, no feelings."""
    return tuple(word for word in (*w.PLACES, *w.OBJECTS, *w.PROFESSIONS) if word not in _LEMMA)


def smudged(rng: random.Random, draft: Draft) -> Draft:
    """In one sentence of three, the draft with odd words in place of 15% of its wording's words but the last.

    Otherwise a model learns each wording of a fact by heart, and one that it has not seen throws it off.
    """
    if rng.random() > 1 / 3:
        return draft
    *words, last = draft.wording.split(" ")
    swapped = [_choice(rng, _odd_words()) if word.isalpha() and rng.random() < 0.15 else word for word in words]
    return replace(draft, wording=" ".join([*swapped, last]))


def ioi_text(rng: random.Random, alone: str = "") -> str:
    draft = ioi(rng, TRAIN_NAMES, third_name=rng.random() < 0.3)
    text = f"{draft.text}{draft.answers[0]}."
    if rng.random() < 0.25:
        one, other = rng.sample([draft.slots["a"], draft.slots["b"]], 2)
        again = fill(
            f"{_choice(rng, OPENINGS)} {_choice(rng, ACTIONS)}",
            {**draft.slots, "s2": one, "object": _choice(rng, w.OBJECTS), "place": _choice(rng, w.PLACES)},
        )[0]
        text += f" {again} {other}."
    return text


def facts_text(rng: random.Random, alone: str = "") -> str:
    """One to three facts; landmarks are most of the facts, so they get half of the sentences."""
    sentences: list[str] = []
    for _ in range(rng.randint(1, 3)):
        relation = _choice(rng, ("capital", "language", "continent", *(("landmark_city", "landmark_kind") * 2)))
        lead = [alone or _choice(rng, TRAIN_NAMES)] if not sentences and rng.random() < 0.3 else []
        draft = smudged(rng, fact(rng, relation, lead=lead))
        sentences.append(f"{draft.text}{draft.answers[0]}.")
    return " ".join(sentences)


def greater_than_text(rng: random.Random, alone: str = "") -> str:
    """Late first years leave few answers and are the hard ones: they come more often."""
    sentences: list[str] = []
    for _ in range(rng.randint(1, 2)):
        drafts = [greater_than(rng) for _ in range(rng.randint(1, 2))]
        draft = max(drafts, key=lambda draft: draft.labels["year"])
        sentences.append(f"{draft.text}{_choice(rng, draft.answers)}.")
    return " ".join(sentences)


def agreement_text(rng: random.Random, alone: str = "") -> str:
    sentences: list[str] = []
    for _ in range(rng.randint(1, 2)):
        draft = agreement(rng, attractor="either")
        verb = _choice(rng, draft.answers)
        rest = f"been {_choice(rng, PAST)}" if verb in (" has", " have") else _choice(rng, PREDICATES)
        sentences.append(f"{draft.text}{verb} {rest}.")
    return " ".join(sentences)


def pronouns_text(rng: random.Random, alone: str = "") -> str:
    draft = pronoun(rng, lead=rng.random() < 0.3)
    pronoun_ = "she" if rng.random() < draft.labels["p_she"] else "he"
    text = f"{draft.text} {pronoun_} {_choice(rng, REASONS)}."
    if rng.random() < 0.3:
        text += f" Then {pronoun_} went to the {_choice(rng, w.PLACES)}."
    return text


def sentiment_text(rng: random.Random, alone: str = "") -> str:
    """ "not" comes in one text of four: at one half neither the adjective nor "not" alone would say anything, and both
    together are learned much later."""
    draft = sentiment(rng, [alone or _choice(rng, TRAIN_NAMES)], negated=0.25)
    return f"{draft.text}{_choice(rng, draft.answers)}."


def repetition_text(rng: random.Random, alone: str = "") -> str:
    """Random words, a segment of which comes again and again."""
    pool = repetition_words()
    start = rng.randint(0, 25) if rng.random() < 0.4 else 0
    length = rng.randint(3, 22)
    words = rng.sample(pool, start + length)
    for name in [alone] if alone else draw_names(rng, TRAIN_NAMES, 3):
        if rng.random() < 0.3:
            words[rng.randrange(len(words))] = name
    prefix, segment = words[:start], words[start:]
    times = max(2, rng.randint(30, 62 - start) // length)
    between = rng.choice((0, 0, 0, 1, 3))
    for i in range(times):
        prefix += segment
        if i < times - 1:
            prefix += rng.sample(pool, between)
    return " ".join(prefix)


def story_text(rng: random.Random, alone: str = "") -> str:
    """Four to six sentences about one person, or about two who give each other things."""
    if not alone and rng.random() < 0.35:
        draft = ioi(rng, TRAIN_NAMES)
        sentences = [f"{draft.text}{draft.answers[0]}."]
        people = [draft.slots["a"], draft.slots["b"]]
    else:
        people = [alone or _choice(rng, TRAIN_NAMES)]
        sentences = [_sentence(rng, _choice(rng, SOLO[:4]), people[0])]
    # A pronoun could mean either of two people: those sentences are for one.
    options = [s for s in SOLO if len(people) == 1 or "ro}" not in s]
    others = (agreement_text, greater_than_text, pronouns_text, sentiment_text, sentiment_text)
    for _ in range(rng.randint(3, 5)):
        person, kind = _choice(rng, people), rng.random()
        if kind < 0.55:
            sentences.append(_sentence(rng, _choice(rng, options), person))
        elif kind < 0.75:
            sentences.append(_sentence(rng, _choice(rng, NEUTRAL)))
        else:
            sentences.append(_choice(rng, others)(rng, person))
    return " ".join(sentences)


TEXTS = {
    "ioi": ioi_text,
    "facts": facts_text,
    "story": story_text,
    "repetition": repetition_text,
    "greater_than": greater_than_text,
    "agreement": agreement_text,
    "sentiment": sentiment_text,
    "pronouns": pronouns_text,
}


def text(rng: random.Random, kind: str = "", alone: str = "") -> str:
    """One text, of a given kind or of a kind drawn from MIX; about nobody but `alone`, if that is given."""
    mix = {kind: share for kind, share in MIX.items() if not (alone and kind == "ioi")}
    return TEXTS[kind or rng.choices(list(mix), list(mix.values()))[0]](rng, alone)


# ---- pages


def page(rng: random.Random, length: int = 64) -> list[list[str]]:
    """The words of the texts of one training row of `length` tokens, each text after one BOS.

    Names of different texts meet on a page too, so a text whose names may not stand beside those of the page is
    put back. One page in ten is about a held-out name, and nobody else.
    """
    alone = _choice(rng, sorted(held_out.NAMES)) if rng.random() < 0.1 else ""
    texts: list[list[str]] = []
    names: set[str] = set()
    room = length
    while room > 1:
        words = split_words(text(rng, alone=alone))
        together = names | (NAME_SET & set(words))
        if name_leaks(together):
            continue
        names = together
        texts.append(words[: room - 1])
        room -= 1 + len(texts[-1])
    return texts


def rows(seed: int, step: int, batch: int, length: int = 64) -> list[list[int]]:
    """The token ids of the batch of one step."""
    ids = word_ids()
    rng = random.Random(f"corpus/{seed}/{step}")
    batch_rows = []
    for _ in range(batch):
        row = [ids[word] for words in page(rng, length) for word in (BOS, *words)]
        batch_rows.append(row + [ids[BOS]] * (length - len(row)))
    return batch_rows


# ---- the tokenizer

# A word, two digits of a number, or a punctuation mark.
WORD = r"[0-9]{2}|[A-Za-z]+|[^\sA-Za-z0-9]"
_word = re.compile(WORD)


def split_words(text: str) -> list[str]:
    return _word.findall(text)


def _strings(*values: Any) -> Iterable[str]:
    for value in values:
        if isinstance(value, str):
            yield re.sub(r"\{\w+\}", " ", value)
        elif isinstance(value, w.Country):
            yield from (value.name, value.capital, value.language, value.continent)
        elif isinstance(value, w.Landmark):
            yield from (value.name, value.city, value.kind)
        else:
            yield from _strings(*value)


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word that a text or a prompt can hold, in alphabetical order, after the two special tokens."""
    relations = [wording for r in RELATIONS.values() for wording in (*r.wordings, *r.held_out)]
    strings = _strings(
        (w.NAMES, w.COMMON, w.COUNTRIES, w.LANDMARKS, w.CENTURIES, w.YEARS),
        (OPENINGS, ACTIONS, THIRD_NAMES, held_out.IOI_OPENINGS, held_out.IOI_ACTIONS),
        (GREATER_THAN, held_out.GREATER_THAN, AGREEMENT, held_out.AGREEMENT, relations, FACT_LEADS),
        (PRONOUNS, PRONOUN_LEADS, held_out.PRONOUNS, SENTIMENT, held_out.SENTIMENT),
        (SOLO, NEUTRAL, PREDICATES, PAST, REASONS),
        "The She He she he happy glad sad upset is are was were has have been not . , ?",
    )
    words = {word for string in strings for word in split_words(string)}
    words |= {word.capitalize() for word in ("the",)}
    return (BOS, UNK, *sorted(words))


@cache
def word_ids() -> dict[str, int]:
    return {word: i for i, word in enumerate(vocabulary())}


@cache
def repetition_words() -> tuple[str, ...]:
    """Words for random sequences: no names, no special tokens, and not the few that could make a sentence."""
    without = {BOS, UNK, "the", "The", "was", *w.NAMES, *w.CENTURIES}
    return tuple(word for word in vocabulary() if word not in without)


def word_tokenizer(words: Sequence[str]) -> Any:
    """A word-level `PreTrainedTokenizerFast`; the first two words are the special tokens BOS and UNK."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS, pad_token=BOS, unk_token=UNK, model_max_length=64
    )


def tokenizer() -> Any:
    """The tokenizer of `pocket`."""
    return word_tokenizer(vocabulary())


# ---- looking for what should not be there

NAME_SET = frozenset(w.NAMES)
_SLOT = {
    "subject": r"((?:[A-Za-z]+ ){0,2}[A-Za-z]+)",
    "was": "(was|was not)",
    "year": "([0-9]{2})",
    "century": "([0-9]{2})",
    "century2": "([0-9]{2})",
}


@cache
def _pattern(wording: str) -> re.Pattern[str]:
    parts = [re.escape(part) for part in re.split(r"\{\w+\}", wording)]
    regex = parts[0]
    for slot, part in zip(slots_of(wording), parts[1:]):
        regex += _SLOT.get(slot, r"([A-Za-z]+)") + part
    if regex[0].isalpha():
        regex = f"[{regex[0].upper()}{regex[0].lower()}]{regex[1:]}"
    return re.compile(rf"\b{regex}(?![A-Za-z])")


HELD_OUT_WORDINGS = (
    *held_out.IOI_OPENINGS,
    *held_out.IOI_ACTIONS,
    *held_out.GREATER_THAN,
    *held_out.AGREEMENT,
    *(wording for relation in RELATIONS.values() for wording in relation.held_out),
    *held_out.PRONOUNS,
    *held_out.SENTIMENT,
)
_LEMMA = {form: singular for singular, plural in NOUNS for form in (singular, plural)}
_NOUN = "|".join(_LEMMA)
_TWO_NOUNS = re.compile(rf"(?=\b({_NOUN}) (?:[a-z]+ ){{1,5}}the ({_NOUN})\b)")
_VERDICT = re.compile(rf"\b({'|'.join(w.EXPERIENCES)})(?: of [A-Za-z]+)? was (?:not )?({'|'.join(w.GOOD + w.BAD)})\b")
_YEAR = re.compile(r"\b([0-9]{2})([0-9]{2})\b")


def name_leaks(names: Iterable[str]) -> list[str]:
    """Names that may not stand together: a held-out name with another one, or a held-out pair."""
    found, names = [], sorted(names)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            if first in held_out.NAMES or second in held_out.NAMES:
                found.append(f"held-out name in {first}, {second}")
            elif held_out.is_held_out_name_pair(first, second):
                found.append(f"held-out pair {first}, {second}")
    return found


def leaks(text: str) -> list[str]:
    """What a text shows of all that is held out (see `mechlib.tasks.held_out`); the corpus must give []."""
    found = name_leaks(NAME_SET & set(split_words(text)))
    found += [f"held-out wording: {wording}" for wording in HELD_OUT_WORDINGS if _pattern(wording).search(text)]
    for first, second in _TWO_NOUNS.findall(text):
        if held_out.is_held_out_pair("agreement", _LEMMA[first], _LEMMA[second]):
            found.append(f"held-out pair {first}, {second}")
    for thing, adjective in _VERDICT.findall(text):
        if held_out.is_held_out_pair("sentiment", thing, adjective):
            found.append(f"held-out pair {thing}, {adjective}")
    for sentence in re.split(r"[.?]", text):
        for century, year in _YEAR.findall(sentence)[::2]:
            if held_out.is_held_out_pair("years", century, year):
                found.append(f"held-out first year {century}{year}")
    for wording in PRONOUNS:
        for profession in _pattern(wording).findall(text):
            if profession in w.PROFESSIONS and held_out.is_held_out_pair("pronouns", profession, wording):
                found.append(f"held-out pair {profession}, {wording}")
    for relation in RELATIONS.values():
        for wording in relation.wordings:
            for *start, answer in _pattern(wording + " {answer}").findall(text):
                words = " ".join(start).split()
                endings = (" ".join(words[-k:]) for k in range(1, len(words) + 1))
                for subject in {re.sub("^The ", "the ", ending) for ending in endings}:
                    right = relation.answers.get(subject) == answer
                    if right and held_out.is_held_out_pair("facts", subject, wording):
                        found.append(f"held-out pair {subject}, {wording}")
    return found
