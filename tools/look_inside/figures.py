"""The figures of the page: rows of small heatmaps, one row a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from mechlib.plots.style import SIGNED, STYLE, finish
from tools.look_inside.prose import number

HEADS = [f"head {head}" for head in range(4)]


def by_head(table: Sequence[Sequence[float]], title: str, limit: float = 1.0) -> dict[str, Any]:
    """A panel [layer][head]."""
    return {
        "table": table,
        "rows": [f"layer {i}" for i in range(len(table))],
        "columns": HEADS,
        "title": title,
        "limit": limit,
    }


def by_place(places: Mapping[str, Sequence[float]], title: str, columns: Sequence[str] = ()) -> dict[str, Any]:
    """A panel {place: [layer]}."""
    width = len(next(iter(places.values())))
    columns = columns or [f"layer {i}" for i in range(width)]
    return {"table": list(places.values()), "rows": list(places), "columns": columns, "title": title, "limit": 1.0}


def heatmaps(models: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> Figure:
    """One row of panels for each model. Red is above zero, blue below; numbers are printed in the cells."""
    columns = max(len(panels) for panels in models.values())
    with plt.rc_context(STYLE):
        height = 0.55 + 0.27 * max(len(panel["table"]) for panels in models.values() for panel in panels)
        figure, axes = plt.subplots(
            len(models), columns, figsize=(3.4 * columns, (height + 0.55) * len(models) + 0.4), squeeze=False
        )
        for line, (model, panels) in zip(axes, models.items()):
            for axis, panel in zip(line, panels):
                table, limit = panel["table"], panel["limit"]
                axis.imshow(table, cmap=SIGNED, vmin=-limit, vmax=limit, aspect="auto")
                axis.set_xticks(range(len(panel["columns"])), panel["columns"], fontsize=7)
                axis.set_yticks(range(len(panel["rows"])), panel["rows"], fontsize=7)
                axis.set_title(f"{model}: {panel['title']}", fontsize=8)
                axis.tick_params(length=0)
                for i, row in enumerate(table):
                    for j, value in enumerate(row):
                        dark = abs(value) > 0.6 * limit
                        text = number(value, ".2f" if limit <= 1 else ".1f")
                        axis.text(
                            j, i, text, ha="center", va="center", fontsize=6.5, color="white" if dark else "black"
                        )
        return finish(figure, title)
