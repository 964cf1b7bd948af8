"""Indirect object identification: "When Mary and John went to the store, John gave a drink to" -> Mary."""

import random
from collections.abc import Sequence
from dataclasses import replace

from mechlib.tasks import held_out
from mechlib.tasks.prompt import Draft, Prompt, Tokenizer, check_split, generate, require, single_tokens
from mechlib.tasks.words import NAMES, OBJECTS, PLACES

SPLITS = ("train", "held-out pairs", "held-out wordings", "held-out names")
ORDERS = ("ABBA", "BABA")
CORRUPTIONS = ("s2", "random", "order", "names", "abc")

OPENINGS = (
    "When {a} and {b} went to the {place},",
    "After {a} and {b} left the {place},",
    "While {a} and {b} were waiting at the {place},",
    "As soon as {a} and {b} arrived at the {place},",
    "{a} and {b} were working at the {place}, and",
    "Then {a} and {b} had a long talk at the {place}.",
    "{a} and {b} walked to the {place} together.",
    "Yesterday {a} and {b} came to the {place}, and then",
    "{a} met {b} at the {place}.",
    "One day {a} saw {b} near the {place}, and",
    "In the morning {a} and {b} had breakfast at the {place}. Later,",
    "The friends {a} and {b} were at the {place} when",
    "Last night {a} and {b} slept at the {place}.",
    "Last year {a} and {b} worked at the {place}.",
    "At night {a} and {b} sat by the {place}.",
    "{a} and {b} spent the night at the {place}.",
    "In the end {a} and {b} got home from the {place}.",
    "Once, {a} and {b} were lost near the {place}.",
    "{a} had dinner with {b} at the {place}, and",
    "{a} called {b} from the {place}, and then",
    "{a} spent the morning with {b} at the {place}.",
    "Because {a} and {b} were late for the {place},",
    "{a} followed {b} to the {place}, and later",
    "It was a quiet day, and {a} and {b} stood by the {place}.",
)
ACTIONS = (
    "{s2} gave a {object} to",
    "{s2} decided to give the {object} to",
    "{s2} handed the {object} to",
    "{s2} wanted to sell a {object} to",
    "{s2} showed a {object} to",
    "{s2} bought a {object} for",
    "{s2} sent the {object} to",
    "{s2} passed a {object} to",
    "{s2} told a story to",
    "{s2} said goodbye to",
    "{s2} threw the {object} to",
    "{s2} tried to hand a {object} to",
    "{s2} had to return the {object} to",
    "{s2} made dinner for",
    "{s2} left a {object} for",
    "{s2} found the {object} for",
    "{s2} brought a {object} to",
    "{s2} began to talk to",
    "{s2} offered some help to",
)
THIRD_NAMES = ("{c} was at home.", "{c} was tired of the {place2}.", "{c} had a {object2}.", "It was the day of {c}.")


def draw_names(rng: random.Random, names: Sequence[str], k: int, split: str = "train") -> list[str]:
    """`k` different names, no two of them a held-out pair; but for "held-out pairs" the first two are one."""
    while True:
        drawn = rng.sample(names, k)
        held = [held_out.is_held_out_name_pair(a, b) for i, a in enumerate(drawn) for b in drawn[i + 1 :]]
        if split == "held-out names" or held == [split == "held-out pairs"] + [False] * (len(held) - 1):
            return drawn


def draft(
    rng: random.Random,
    names: Sequence[str],
    places: Sequence[str] = PLACES,
    objects: Sequence[str] = OBJECTS,
    split: str = "train",
    order: str = "both",
    third_name: bool = False,
    corruption: str = "s2",
) -> Draft:
    """One prompt. `names` are those that may be drawn."""
    order = rng.choice(ORDERS) if order == "both" else order
    a, b, c, d, e = draw_names(rng, names, 5, split)
    opening = rng.choice(held_out.IOI_OPENINGS if split == "held-out wordings" else OPENINGS)
    action = rng.choice(held_out.IOI_ACTIONS if split == "held-out wordings" else ACTIONS)
    wording = f"{opening} {action}"
    if third_name:
        wording = f"{rng.choice(THIRD_NAMES)} {wording}"
    io, s = (a, b) if order == "ABBA" else (b, a)
    place, place2 = rng.sample(places, 2)
    thing, thing2 = rng.sample(objects, 2)
    slots = {"a": a, "b": b, "s2": s, "c": c, "place": place, "object": thing, "place2": place2, "object2": thing2}
    new_s = e if order == "ABBA" else d
    twin, twin_answer = {
        "s2": ({"s2": io}, s),
        "random": ({"s2": d}, s),
        "order": ({"a": b, "b": a}, io),
        "names": ({"a": d, "b": e, "s2": new_s}, d if order == "ABBA" else e),
        "abc": ({"a": d, "b": e, "s2": c}, new_s),
    }[corruption]
    return Draft(
        wording=wording,
        slots=slots,
        corrupted=twin,
        answers=[f" {io}"],
        distractors=[f" {s}", f" {c}"] if third_name else [f" {s}"],
        corrupted_answer=f" {twin_answer}",
        roles={"io": "a", "s1": "b"} if order == "ABBA" else {"s1": "a", "io": "b"},
        labels={"order": order, "names": 3 if third_name else 2, "wording": wording, "corruption": corruption},
    )


def ioi(
    tokenizer: Tokenizer,
    n: int = 300,
    seed: int = 0,
    split: str = "train",
    order: str = "both",
    third_name: bool = False,
    corruption: str = "s2",
) -> list[Prompt]:
    """Two people, and one of them (the subject S) gives something to the other (the indirect object IO).

    order: "ABBA" (IO first), "BABA" (S first) or "both". With `third_name`, somebody else is mentioned before.
    The twin changes one fact:
      "s2"      the other person gives: the answer becomes S
      "random"  somebody new gives: nothing tells IO from S (the twin's answer is given as S)
      "order"   IO and S1 change places: the answer stays
      "names"   two new people: the answer is the new IO
      "abc"     three new people, each named once: no name is left, and nothing tells IO from S (the twin's answer is
                given as its S1); the reference distribution of Wang et al. 2023
    Roles: io, s1, s1+1, s2, end, and place, object, c (the third name) where the wording has them.
    """
    check_split("ioi", split, SPLITS)
    if order not in (*ORDERS, "both") or corruption not in CORRUPTIONS:
        raise ValueError(f"ioi: order is one of {(*ORDERS, 'both')}, corruption one of {CORRUPTIONS}")
    if third_name and corruption == "abc":
        raise ValueError("ioi: the twins of 'abc' have three names of their own: leave out `third_name`")
    wanted = [name for name in NAMES if (name in held_out.NAMES) == (split == "held-out names")]
    names = single_tokens(tokenizer, wanted, first=True)
    places, objects = single_tokens(tokenizer, PLACES), single_tokens(tokenizer, OBJECTS)
    require("ioi", "names", names, 8, len(wanted))
    require("ioi", "places", places, 2, len(PLACES))
    require("ioi", "objects", objects, 2, len(OBJECTS))

    def draw(rng: random.Random) -> Draft:
        return draft(rng, names, places, objects, split, order, third_name, corruption)

    prompts = generate("ioi", tokenizer, n, seed, split, draw)
    return [replace(p, positions={**p.positions, "s1+1": p.positions["s1"] + 1}) for p in prompts]
