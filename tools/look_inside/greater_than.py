"""Greater-than in `pocket`: the head that brings the first year to the end, and the MLPs that compare.

The score is the probability of all later years less that of all others; in the twin the first year ends in 01.
"""

from typing import Any

import torch

from mechlib import tasks
from tools.look_inside.runs import Batch, blind, from_run
from tools.look_inside.sweeps import (
    attention_from_end,
    direct_effects,
    head_effects,
    mlp_effects,
    share,
    stream_effects,
    strongest,
)

N = 200
LAYERS = range(4)


def measure(model: Any, random_model: Any) -> dict[str, Any]:
    prompts = tasks.greater_than(model.tokenizer, N, split="held-out pairs")
    batch = Batch.of_many(model, prompts)
    twin, control = batch.twin(), Batch.of_many(random_model, prompts)
    end, year = batch.at("end"), batch.at("year")
    places = {"the year": year, "between year and END": batch.span("year", "end"), "END": end}
    found: dict[str, Any] = {
        "n": N,
        "probability difference": batch.score(),
        "twin": batch.score(twin.logits),
        "random weights": control.score(),
        "heads": head_effects(batch, twin),
        "heads at END": head_effects(batch, twin, end),
        "mlps at END": mlp_effects(batch, twin, end),
        "mlps elsewhere": mlp_effects(batch, twin, ~end),
        "mlps at the year": mlp_effects(batch, twin, year),
        "stream": stream_effects(batch, twin, places),
        "attention": attention_from_end(batch, {"year": year, "century": batch.at("century")}),
    }
    found["all MLPs at END"] = share(batch, twin, [from_run("mlp", layer, twin, end) for layer in LAYERS])
    found["all MLPs elsewhere"] = share(batch, twin, [from_run("mlp", layer, twin, ~end) for layer in LAYERS])
    movers = strongest(found["heads at END"], 4)
    found["movers"] = movers
    layer, head = movers[0]
    rest = [h for h in range(model.cfg.n_heads) if h != head]
    # Patching the same heads from a prompt with another event and the same year must change nothing.
    tokens = batch.tokens.clone()
    tokens[batch.at("event")] = tokens[batch.at("event")].roll(1)
    other_event = batch.with_tokens(tokens)
    found["mover, from another event"] = (
        batch.score() - batch.score(batch.run([from_run("head", layer, other_event, end, head)]))
    ) / (batch.score() - batch.score(twin.logits))
    cut = {
        "END cannot see the year": blind(LAYERS, end, year),
        "END cannot see the century": blind(LAYERS, end, batch.at("century")),
        "END cannot see another word": blind(LAYERS, end, batch.elsewhere(batch.at("year", "century", "end"))),
        "the mover cannot see the year": blind([layer], end, year, [head]),
        "the mover's neighbours cannot see the year": blind([layer], end, year, rest),
        "no other head can see the year": [
            *blind([layer], end, year, rest),
            *blind([other for other in LAYERS if other != layer], end, year),
        ],
    }
    found["knockout"] = {what: batch.score(batch.run(edits)) for what, edits in cut.items()}
    # what is written straight to the logits at END: the mean of the right years less that of the wrong ones
    right, wrong = ((batch.weights == sign).float() for sign in (1, -1))
    directions = (right / right.sum(1, keepdim=True) - wrong / wrong.sum(1, keepdim=True)) @ model.W_U.T
    by_head, by_mlp, embedding = direct_effects(batch, directions)
    found["direct"] = {"heads": by_head.tolist(), "mlps": by_mlp.tolist(), "embedding": embedding}
    found["cut by year"] = curve(batch)
    return found


def curve(batch: Batch) -> dict[str, list[float]]:
    """The probability of each second year, by the first: where the model's step is."""
    model = batch.model
    years = [tasks.token_id(model.tokenizer, f"{year:02}") for year in range(100)]
    first = torch.tensor([prompt.labels["year"] for prompt in batch.prompts])
    probabilities = batch.logits.softmax(dim=1)[:, years]
    offsets = torch.arange(100)[None, :] - first[:, None]
    found = {}
    for offset in (-5, -2, -1, 0, 1, 2, 5):
        found[str(offset)] = [probabilities[offsets == offset].mean().item()]
    return found
