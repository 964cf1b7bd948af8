"""Repeated tokens: random words, and then the same words again."""

import random
from collections.abc import Sequence
from dataclasses import replace

from mechlib.tasks.prompt import Draft, Prompt, Tokenizer, generate, require, single_tokens
from mechlib.tasks.words import COMMON

ROLES = ("first", "source", "copied", "repeat", "end")


def draft(rng: random.Random, words: Sequence[str], length: int, start: int = 0, shown: int | None = None) -> Draft:
    """One prompt: `start` words, then a segment of `length` different words, then its first `shown` words again
    (2 to length - 1; at random by default). The next word of the segment is the answer."""
    drawn = rng.sample(words, start + length + 1)
    prefix, segment, other = drawn[:start], drawn[start:-1], drawn[-1]
    shown = shown or rng.randint(2, length - 1)
    names = [f"w{i}" for i in range(start + length + shown)]
    slots = dict(zip(names, [*prefix, *segment, *segment[:shown]]))
    copied = start + shown
    return Draft(
        wording=" ".join(f"{{{name}}}" for name in names),
        slots=slots,
        corrupted={f"w{copied}": other},
        answers=[f" {segment[shown]}"],
        distractors=[f" {other}"],
        corrupted_answer=f" {other}",
        roles={
            "first": f"w{start}",
            "source": f"w{copied - 1}",
            "copied": f"w{copied}",
            "repeat": f"w{start + length}",
        },
        labels={"length": length, "start": start, "shown": shown},
    )


def repeated_tokens(
    tokenizer: Tokenizer,
    n: int = 300,
    seed: int = 0,
    length: int = 10,
    start: int = 0,
    shown: int | None = None,
    words: Sequence[str] = COMMON,
) -> list[Prompt]:
    """Random words that begin to repeat: only copying from the context can give the answer.

    After `start` unrelated words a segment of `length` different words is followed by its first `shown` words
    again (at least 2; at random by default). In the twin the word that has to be copied is another one, so the
    answer is that one. Roles: first (of the segment), source (the earlier occurrence of the last word), copied
    (the word after it: the answer), repeat (where the repetition starts), end.
    """
    if length < 3 or (shown is not None and not 2 <= shown < length):
        raise ValueError("repeated_tokens: length is at least 3, and shown from 2 to length - 1")
    pool = single_tokens(tokenizer, words, first=True)
    require("repeated_tokens", "words", pool, start + length + 1, len(words))
    prompts = generate(
        "repeated_tokens", tokenizer, n, seed, "train", lambda rng: draft(rng, pool, length, start, shown)
    )
    return [replace(p, positions={role: p.positions[role] for role in ROLES}) for p in prompts]
