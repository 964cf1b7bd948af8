"""What every task produces, and how it is made for a given tokenizer."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mechlib.tasks.held_out import SPLITS

# A fast tokenizer of transformers (the course's own, GPT-2's, any other).
Tokenizer = Any


@dataclass(frozen=True)
class Prompt:
    """A text that asks for one more token, and its corrupted twin of equal length.

    Answers carry the space before them, as most tokenizers want it (" Mary"). Positions count tokens of the whole
    input, with the beginning-of-sequence token at 0, and hold for the twin too. "end" is the last token.
    """

    task: str
    text: str
    answer: str
    distractor: str  # a wrong answer of the same kind
    corrupted: str  # the twin's text
    corrupted_answer: str
    positions: Mapping[str, int]  # role -> token position
    answers: tuple[str, ...]  # every right answer, `answer` first
    distractors: tuple[str, ...]  # every wrong answer of that kind, `distractor` first
    labels: Mapping[str, Any] = field(default_factory=dict)  # what the prompt is an example of


@dataclass(frozen=True)
class Draft:
    """A prompt before any tokenizer has seen it: a wording and the words that fill it."""

    wording: str
    slots: Mapping[str, str]
    corrupted: Mapping[str, str]  # slots that the twin fills differently
    answers: Sequence[str]
    distractors: Sequence[str]
    corrupted_answer: str
    roles: Mapping[str, str] = field(default_factory=dict)  # role -> slot; without an entry a slot is its own role
    corrupted_wording: str = ""  # where the twin needs another one
    labels: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return fill(self.wording, self.slots)[0]


def fill(wording: str, slots: Mapping[str, str]) -> tuple[str, dict[str, tuple[int, int]]]:
    """The wording with its slots filled, and the characters [start, end) where each slot landed."""
    text, spans = "", {}
    for literal, slot, _, _ in Formatter().parse(wording):
        text += literal
        if slot:
            spans[slot] = (len(text), len(text) + len(slots[slot]))
            text += slots[slot]
    return text, spans


def slots_of(wording: str) -> list[str]:
    return [slot for _, slot, _, _ in Formatter().parse(wording) if slot]


# ---- tokenizers


def n_tokens(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def is_single_token(tokenizer: Tokenizer, word: str, first: bool = False) -> bool:
    """Is the word one token, and a known one, after a space (and, with `first`, at the start of a text too)?"""
    for text in (f" {word}", word)[: 1 + first]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            return False
    return True


def single_tokens(tokenizer: Tokenizer, words: Iterable[str], first: bool = False) -> list[str]:
    return [word for word in words if is_single_token(tokenizer, word, first)]


def token_id(tokenizer: Tokenizer, answer: str) -> int:
    """The id of an answer such as " Mary"."""
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise ValueError(f"{answer!r} is {len(ids)} tokens for this tokenizer, not one")
    return ids[0]


def to_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> Int[Tensor, "batch position"]:
    """The input of a model: each text after the beginning-of-sequence token, padded on the right with that same
    token (which no earlier position of a causal model can see)."""
    bos = tokenizer.bos_token_id
    rows = [[bos, *ids] for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
    width = max(map(len, rows))
    return torch.tensor([row + [bos] * (width - len(row)) for row in rows])


def positions(prompts: Sequence[Prompt], role: str = "end") -> Int[Tensor, "batch"]:
    """Where each prompt has the token with this role."""
    return torch.tensor([prompt.positions[role] for prompt in prompts])


def answer_tokens(tokenizer: Tokenizer, prompts: Sequence[Prompt]) -> Int[Tensor, "batch 2"]:
    """The ids of each prompt's answer and distractor."""
    pairs = [[token_id(tokenizer, p.answer), token_id(tokenizer, p.distractor)] for p in prompts]
    return torch.tensor(pairs)


# ---- generating


def _token_at(offsets: Sequence[tuple[int, int]], character: int) -> int:
    """The position of the token that covers a character, counting the beginning-of-sequence token."""
    return 1 + next(i for i, (start, end) in enumerate(offsets) if start <= character < end)


def to_prompt(task: str, draft: Draft, tokenizer: Tokenizer) -> Prompt | None:
    """The prompt for this tokenizer, or None if it has no twin of equal length for it, or a word that it does not
    know."""
    text, spans = fill(draft.wording, draft.slots)
    twin, _ = fill(draft.corrupted_wording or draft.wording, {**draft.slots, **draft.corrupted})
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if len(encoded["input_ids"]) != n_tokens(tokenizer, twin):
        return None
    if tokenizer.unk_token_id in encoded["input_ids"]:
        return None
    offsets = encoded["offset_mapping"]
    roles = {slot: slot for slot in spans} | dict(draft.roles)
    at = {}
    for role, slot in roles.items():
        if slot in draft.roles.values() and role not in draft.roles:
            continue
        first, last = (_token_at(offsets, spans[slot][0]), _token_at(offsets, spans[slot][1] - 1))
        if last > first:
            at[f"{role} first"] = first
        at[role] = last
    return Prompt(
        task=task,
        text=text,
        answer=draft.answers[0],
        distractor=draft.distractors[0],
        corrupted=twin,
        corrupted_answer=draft.corrupted_answer,
        positions=at | {"end": len(offsets)},
        answers=tuple(draft.answers),
        distractors=tuple(draft.distractors),
        labels=dict(draft.labels),
    )


def generate(
    task: str, tokenizer: Tokenizer, n: int, seed: int, split: str, draw: Callable[[random.Random], Draft]
) -> list[Prompt]:
    """`n` different prompts. Raises ValueError when the task has fewer."""
    rng = random.Random(f"{task}/{split}/{seed}")
    found: dict[tuple[str, str], Prompt] = {}
    in_vain = 0  # draws in a row that brought nothing new
    while len(found) < n and in_vain < 1000:
        prompt = to_prompt(task, draw(rng), tokenizer)
        in_vain += 1
        if prompt is not None and (prompt.text, prompt.answer) not in found:
            found[prompt.text, prompt.answer] = prompt
            in_vain = 0
    if len(found) < n:
        raise ValueError(f"{task}: only {len(found)} different prompts with this tokenizer and split, not {n}")
    return list(found.values())


def check_split(task: str, split: str, known: Sequence[str]) -> None:
    if split not in known:
        other = " (of other tasks only)" if split in SPLITS else ""
        raise ValueError(f"{task}: no split {split!r}{other}; there are {', '.join(map(repr, known))}")


def require(task: str, what: str, words: Sequence[Any], at_least: int, out_of: int) -> None:
    """Raise ValueError with a message when a tokenizer leaves too few words."""
    if len(words) < at_least:
        raise ValueError(
            f"{task}: only {len(words)} of {out_of} {what} are single tokens for this tokenizer; "
            f"at least {at_least} are needed"
        )
