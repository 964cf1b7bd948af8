# ruff: noqa: E501 (sentences)
"""Indirect object identification in `ioi-known`, whose circuit is known: the same look has to find it.

What is found is compared with the truth file. The thresholds are fixed on the first model and applied to the others.
"""

import json
from typing import Any

import torch
from matplotlib.figure import Figure

from mechlib import circuits, models, tasks
from mechlib.circuits import precision_recall
from tools.look_inside.figures import by_head, heatmaps
from tools.look_inside.prose import Numbers, Page, each, head, in_all, listing
from tools.look_inside.runs import Batch, from_run
from tools.look_inside.sweeps import Table, direct_effects, head_effects, share

N = 200
NAMES = ("ioi-known", "ioi-known-seed-1", "ioi-known-hard")
Head = tuple[int, int]  # layer, head
CLASSES = ("duplicate", "s-inhibition", "name mover")


def measure(name: str) -> dict[str, Any]:
    model, nodes = models.load(name, device="cpu"), truth(name)
    prompts = tasks.ioi(model.tokenizer, N, split="held-out pairs")
    batch = Batch.of(model, prompts)
    control = Batch.of(models.random_twin(name, device="cpu"), prompts)
    twin, (io, _) = batch.twin(), batch.answers.T
    directions = model.W_U.T[batch.answers[:, 0]] - model.W_U.T[batch.answers[:, 1]]
    direct = direct_effects(batch, directions)[0] / batch.score()
    mapped = {place for place, _ in nodes}
    layers, heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
    unmapped = [
        from_run("head", layer, twin, batch.everywhere, h)
        for layer in layers
        for h in heads
        if (layer, h) not in mapped
    ]
    mlps = [from_run("mlp", layer, twin, batch.everywhere) for layer in layers]
    whole = [from_run("head", layer, twin, batch.everywhere, h) for layer, h in mapped]
    return {
        "n": N,
        "accuracy": batch.says(io),
        "difference": batch.score(),
        "random weights": {"accuracy": control.says(io), "difference": control.score()},
        "truth": [[list(place), variable] for place, variable in nodes],
        "heads": head_effects(batch, twin),
        "heads at S2": head_effects(batch, twin, batch.at("s2")),
        "heads at END": head_effects(batch, twin, batch.at("end")),
        "direct": direct.tolist(),
        "attention S2 to S1": looks(batch, "s2", "s1"),
        "attention END to S2": looks(batch, "end", "s2"),
        "attention END to IO": looks(batch, "end", "io"),
        "the circuit": share(batch, twin, whole),
        "all other heads": share(batch, twin, unmapped),
        "all MLPs": share(batch, twin, mlps),
    }


def truth(name: str) -> list[tuple[Head, str]]:
    """Each head of the truth file, and the variable that it carries."""
    content = json.loads((models.SHIPPED / name / "truth.json").read_text(encoding="utf-8"))
    return [((node["layer"], node["head"]), node["variable"]) for node in content["nodes"]]


def looks(batch: Batch, query: str, key: str) -> list[list[float]]:
    """[layer][head]: the mean attention from one role to another."""
    where = [tasks.positions(batch.prompts, role) for role in (query, key)]
    return [
        batch.kept("attn.hook_pattern", layer)[batch.rows, :, where[0], where[1]].mean(dim=0).tolist()
        for layer in range(batch.model.cfg.n_layers)
    ]


# ---- what was found, against the truth


def scored(numbers: Numbers) -> dict[str, Any]:
    """Thresholds from the first model; each model's heads, their classes, precision and recall."""
    first = next(iter(numbers.values()))
    tables = {
        "patching": "heads",
        "attribution": "direct",
        "patching at S2": "heads at S2",
        "patching at END": "heads at END",
    }
    aims: dict[str, tuple[str, ...]] = {
        "patching": CLASSES,
        "attribution": ("name mover",),
        "patching at S2": ("duplicate",),
        "patching at END": ("s-inhibition", "name mover"),
    }
    limits = {m: fix_threshold(first[tables[m]], true(first, aims[m])) for m in tables}
    result: dict[str, Any] = {"limits": limits}
    for name, f in numbers.items():
        hits = {m: found(f[tables[m]], limits[m]) for m in tables}
        result[name] = {m: precision_recall(hits[m], true(f, aims[m])) for m in tables}
        classes = {
            "duplicate": hits["patching at S2"],
            "name mover": hits["patching at END"] & hits["attribution"],
            "s-inhibition": hits["patching at END"] - hits["attribution"],
        }
        wanted = [(tuple(place), variable) for place, variable in f["truth"] if variable in CLASSES]
        right = [variable for place, variable in wanted if place in classes[variable]]
        result[name]["classes"] = (len(right), len(wanted))
        result[name]["best other"] = max(
            f["heads"][i][j] for i in range(4) for j in range(4) if (i, j) not in true(f, CLASSES)
        )
    return result


def found(table: Table, threshold: float) -> set[Head]:
    return circuits.found(torch.tensor(table), threshold)


def fix_threshold(table: Table, wanted: set[Head]) -> float:
    return circuits.fix_threshold(torch.tensor(table), wanted)


def true(f: Any, classes: tuple[str, ...]) -> set[Head]:
    return {(place[0], place[1]) for place, variable in f["truth"] if variable in classes}


def write(page: Page, numbers: Numbers) -> None:
    if not numbers:
        return

    def e(read: Any, spec: str = ".2f") -> str:
        return each(numbers, read, spec)

    def mean(f: Any, table: str, variable: str) -> float:
        places = true(f, (variable,))
        return sum(f[table][layer][which] for layer, which in places) / len(places)

    def heads(variable: str) -> str:
        return e(lambda f: listing([head(place) for place in sorted(true(f, (variable,)))]), "")

    score = scored(numbers)
    by_model = {name: score[name] for name in numbers}

    def hit(method: str) -> str:
        return each(by_model, lambda s: f"{s[method][0]:.2f}/{s[method][1]:.2f}", "")

    page.lines.append("## Indirect object identification in `ioi-known`")
    page.add(
        f"Models that were made, not found: {listing([f'`{name}`' for name in numbers])} answer right in {e(lambda f: f['accuracy'])} "
        f"of {N} prompts (random weights {e(lambda f: f['random weights']['accuracy'])}), by a logit difference of "
        f"{e(lambda f: f['difference'], '.1f')}, and their truth files say with which heads.",
    )
    page.lines.append(
        "![Heads that matter, at S2 and at END, and what they write to the logits](look-inside/ioi-known.png)"
    )
    page.add(
        f"**Mechanism.** Heads {heads('duplicate')} look from S2 at S1 ({e(lambda f: mean(f, 'attention S2 to S1', 'duplicate'))} of "
        f"their attention) and note that it is a repetition; {heads('s-inhibition')} look from END at S2 "
        f"({e(lambda f: mean(f, 'attention END to S2', 's-inhibition'))}) and fetch the note; {heads('name mover')} look from END at "
        f"IO ({e(lambda f: mean(f, 'attention END to IO', 'name mover'))}) and write its name, "
        f"{e(lambda f: mean(f, 'direct', 'name mover'))} of the logit difference each.",
    )
    page.add(
        page.finding(
            all(min(s["patching"]) == 1 for s in by_model.values()),
            f"**Evidence.** Head by head, taken from a prompt where the other person gives, head patching finds the heads of the truth "
            f"and no other: precision and recall {hit('patching')}, at a share of {score['limits']['patching']:.2f} that was fixed on "
            f"the first model.",
            f"**Evidence.** Head by head, taken from a prompt where the other person gives, head patching has precision and recall "
            f"{hit('patching')}, at a share of {score['limits']['patching']:.2f} that was fixed on the first model.",
        ),
        f"By position: at S2 {hit('patching at S2')} for the duplicate heads, at END {hit('patching at END')} for the others; direct "
        f"logit attribution finds the name movers with {hit('attribution')}.",
        f"Put together, these three name the class of "
        f"{each(by_model, lambda s: '{} of {}'.format(*s['classes']), '')} heads as the truth does.",
    )
    page.add(
        page.finding(
            in_all(numbers, lambda f: abs(f["all other heads"]) < 0.2 and abs(f["all MLPs"]) < 0.2),
            f"**Control.** From the same prompt, the circuit's heads together make {e(lambda f: f['the circuit'])} of the difference, all "
            f"other heads {e(lambda f: f['all other heads'])}, all MLPs {e(lambda f: f['all MLPs'])}; the strongest single head outside "
            f"makes {each(by_model, lambda s: s['best other'])}.",
            f"**Control.** From the same prompt, the circuit's heads together make {e(lambda f: f['the circuit'])} of the difference, but "
            f"all other heads make {e(lambda f: f['all other heads'])} and all MLPs {e(lambda f: f['all MLPs'])}.",
        ),
    )
    page.add(
        f"**Not known.** What the other heads do: they are worth {e(lambda f: f['all other heads'])} for this difference and were not "
        f"asked about any other.",
    )


def draw(numbers: Numbers) -> dict[str, Figure]:
    if not numbers:
        return {}
    panels = {
        model: [
            by_head(f["heads at S2"], "each head at S2"),
            by_head(f["heads at END"], "each head at END"),
            by_head(f["direct"], "straight to the logits"),
        ]
        for model, f in numbers.items()
    }
    return {
        "ioi-known": heatmaps(panels, "IOI where the circuit is known. Share of the logit difference, or of its change")
    }
