"""Prompts with answers: the behaviours that the course takes apart.

Every task is a function `task(tokenizer, n, seed, ...)` that returns a list of `Prompt`s: same seed, same prompts.
They work with any fast tokenizer; words that are not a single token for it are left out, and too few remaining words
are a ValueError that says so. What the course's corpus never shows is named in `mechlib.tasks.held_out`.
"""

from mechlib.tasks.agreement import agreement
from mechlib.tasks.facts import facts
from mechlib.tasks.greater_than import greater_than
from mechlib.tasks.held_out import SPLITS
from mechlib.tasks.ioi import ioi
from mechlib.tasks.prompt import Prompt, answer_tokens, positions, to_tokens, token_id
from mechlib.tasks.pronouns import pronouns
from mechlib.tasks.repeated_tokens import repeated_tokens
from mechlib.tasks.sentiment import sentiment

__all__ = [
    "SPLITS",
    "Prompt",
    "agreement",
    "answer_tokens",
    "facts",
    "greater_than",
    "ioi",
    "positions",
    "pronouns",
    "repeated_tokens",
    "sentiment",
    "to_tokens",
    "token_id",
]
