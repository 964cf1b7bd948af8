"""The recipe of `pocket`, the course's all-round language model: a small GPT-2 that reads `mechlib.recipes.corpus`."""

from collections.abc import Sequence
from typing import Any

from mechlib.recipes import corpus
from mechlib.recipes.train import Recipe


def rows(seed: int, step: int, batch: int) -> Sequence[Sequence[int]]:
    return corpus.rows(seed, step, batch)


def probe(model: Any, tokenizer: Any) -> dict[str, float]:
    from mechlib.models.evaluate import evaluate

    return {skill: row["value"] for skill, row in evaluate(model, tokenizer, n=60, only_shares=True).items()}


RECIPE = Recipe(
    name="pocket",
    corpus="short English-like texts made by a grammar (mechlib.recipes.corpus): "
    + ", ".join(f"{kind.replace('_', ' ')} {share:.0%}" for kind, share in corpus.MIX.items()),
    config={"n_layer": 4, "n_head": 4, "n_embd": 128, "n_positions": 64, "initializer_range": 0.05},
    tokenizer=corpus.tokenizer,
    rows=rows,
    steps=6000,
    lr=3e-3,
    warmup=200,
    probe=probe,
    probe_every=500,
    weaknesses=(
        "It knows 700 words and the sentences of its grammar, and nothing else.",
        "It solves indirect object identification in its own way, not in GPT-2's.",
        'An action that it has not seen, "tried to bring the ... to", makes it name somebody else in a quarter of the '
        "prompts.",
        "A feeling in a wording that it has not seen is right in half of the prompts.",
    ),
)
