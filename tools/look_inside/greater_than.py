# ruff: noqa: E501 (sentences)
"""Greater-than in `pocket`: the head that brings the first year to the end, and the MLPs that compare.

The score is the probability of all later years less that of all others; in the twin the first year ends in 01.
"""

from typing import Any

import torch
from matplotlib.figure import Figure

from mechlib import tasks
from tools.look_inside.figures import by_head, by_place, heatmaps
from tools.look_inside.prose import Numbers, Page, each, head, in_all
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
    assert batch.weights is not None
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


# ---- what the page says


def write(page: Page, numbers: Numbers) -> None:
    def e(read: Any, spec: str = ".2f") -> str:
        return each(numbers, read, spec)

    def cut(what: str) -> str:
        return e(lambda f: f["knockout"][what])

    def mover(f: Any) -> float:
        layer, which = f["movers"][0]
        return f["heads at END"][layer][which]

    page.lines.append("## Greater-than in `pocket`")
    page.add(
        f'"The war lasted from the year 1732 to the year 17": all later years together are more probable than all others by '
        f"{e(lambda f: f['probability difference'])}, on {N} prompts with unseen pairs of century and year; with random weights "
        f"by {e(lambda f: f['random weights'])}.",
        f"If the first year is the twin's, 01, the same sum is {e(lambda f: f['twin'])}.",
        f"A year that is one too early gets a probability of {e(lambda f: f['cut by year']['-1'][0], '.3f')}, the same year "
        f"{e(lambda f: f['cut by year']['0'][0], '.3f')}, the next {e(lambda f: f['cut by year']['1'][0], '.3f')}.",
    )
    page.lines.append("![Heads and positions that matter](look-inside/greater-than.png)")
    page.add(
        page.finding(
            in_all(numbers, lambda f: mover(f) > 0.8),
            f"**Mechanism.** One head brings the year to END: {e(lambda f: head(f['movers'][0]), '')}, which looks at the year "
            f"with {e(lambda f: f['attention']['year'][f['movers'][0][0]][f['movers'][0][1]])} of its attention; taken at END "
            f"from the twin, it makes {e(mover)} of the difference.",
            f"**Mechanism.** No head brings the year to END alone: the strongest, {e(lambda f: head(f['movers'][0]), '')}, makes "
            f"{e(mover)} of the difference.",
        ),
        page.finding(
            in_all(
                numbers,
                lambda f: (
                    f["all MLPs at END"] > 0.8 and sum(f["direct"]["mlps"]) > 5 * sum(map(sum, f["direct"]["heads"]))
                ),
            ),
            f"The MLPs at END compare: all of them from the twin make {e(lambda f: f['all MLPs at END'])}, and straight to the "
            f"logits (right years less wrong ones) they write {e(lambda f: sum(f['direct']['mlps']), '.1f')}, all heads together "
            f"{e(lambda f: sum(map(sum, f['direct']['heads'])), '.1f')}.",
            f"All MLPs at END from the twin make {e(lambda f: f['all MLPs at END'])}; straight to the logits they write "
            f"{e(lambda f: sum(f['direct']['mlps']), '.1f')}, the heads {e(lambda f: sum(map(sum, f['direct']['heads'])), '.1f')}.",
        ),
        f"MLP 0 from the twin makes {e(lambda f: f['mlps at END'][0])}, of which it writes little itself "
        f"({e(lambda f: f['direct']['mlps'][0], '.1f')} straight to the logits; the later three write "
        f"{e(lambda f: sum(f['direct']['mlps'][1:]), '.1f')}, and make {e(lambda f: sum(f['mlps at END'][1:]))} one by one, added up).",
    )
    page.add(
        f"**Control.** The same head taken from a prompt with another event and the same year makes "
        f"{e(lambda f: f['mover, from another event'])}, and all MLPs at all other positions, from the twin, "
        f"{e(lambda f: f['all MLPs elsewhere'])}.",
        f"If this head cannot see the year, {cut('the mover cannot see the year')} is left; if no other head can see it, "
        f"{cut('no other head can see the year')}; if END cannot see another word, {cut('END cannot see another word')}.",
    )
    page.add(
        f"**Not known.** How an MLP compares: the shares of the four add up to "
        f"{e(lambda f: sum(f['mlps at END']))}, so they do much of it one after the other or twice over, and no neuron has been "
        f"looked at.",
        f"Whether the century takes part, as hiding it leaves {cut('END cannot see the century')}, is open.",
    )


def draw(numbers: Numbers) -> dict[str, Figure]:
    panels = {
        model: [
            by_head(f["heads at END"], "each head at END"),
            by_head(f["attention"]["year"], "attention END to year"),
            by_place(
                f["stream"] | {"the MLP at END": f["mlps at END"]},
                "the stream before each layer; MLPs",
            ),
        ]
        for model, f in numbers.items()
    }
    return {
        "greater-than": heatmaps(
            panels,
            "Greater-than in pocket. Share of the probability difference's change when a part comes from a prompt with the year 01",
        )
    }
