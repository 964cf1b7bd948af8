"""The figures of chapter 05_ioi: heads as a scatter, how faithful circuits are, and who has which class of heads."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from torch import Tensor

from mechlib.plots.style import COLOURS, STYLE, finish


def plot_movers(
    panels: Mapping[str, tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]],
    xlabel: str,
    ylabel: str,
    title: str = "",
) -> Figure:
    """A dot for every head, one panel for each name: (where it looks, what it writes). The far ones get their names."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(3.2 * len(panels) + 0.8, 2.9), squeeze=False)
        for axis, (name, (x, y)) in zip(axes.flat, panels.items(), strict=True):
            x, y = x.detach().float().cpu(), y.detach().float().cpu()
            axis.axhline(0, color="0.8", lw=0.8, zorder=0)
            axis.scatter(x.flatten(), y.flatten(), s=22, color=COLOURS[0], alpha=0.8)
            far = (y.abs() > 0.25 * y.abs().max()) | (x > 0.5)
            for names, place in _together(far, x, y):
                axis.annotate(", ".join(names), place, xytext=(4, 3), textcoords="offset points", fontsize=8)
            axis.set(title=name, xlabel=xlabel, xlim=(-0.05, 1.12))
            axis.margins(y=0.15)
        axes[0, 0].set_ylabel(ylabel)
        return finish(figure, title)


def _together(
    far: Bool[Tensor, "layer head"], x: Float[Tensor, "layer head"], y: Float[Tensor, "layer head"]
) -> list[tuple[list[str], tuple[float, float]]]:
    """The names of the far heads, those that lie on top of each other in one label."""
    near_x, near_y = 0.12, 0.08 * float(y.max() - y.min())
    labels: list[tuple[list[str], tuple[float, float]]] = []
    for layer, head in far.nonzero().tolist():
        here = float(x[layer, head]), float(y[layer, head])
        for names, place in labels:
            if abs(place[0] - here[0]) < near_x and abs(place[1] - here[1]) < near_y:
                names.append(f"{layer}.{head}")
                break
        else:
            labels.append(([f"{layer}.{head}"], here))
    return labels


def plot_horizontal_bars(
    bars: Mapping[str, Mapping[str, float]],
    xlabel: str,
    title: str = "",
    band: tuple[float, float] | None = None,
    dots: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """Horizontal bars, a line for each name and in it a bar for each measure; `dots` draws a cloud in some lines, and
    `band` shades a stretch that is good."""
    measures = list(dict.fromkeys(measure for line in bars.values() for measure in line))
    width, hatches = 0.8 / len(measures), ["", "//", ".."]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.8, 0.3 * len(bars) * max(1, len(measures) ** 0.6) + 1.3))
        for k, measure in enumerate(measures):
            places = [i + (k - (len(measures) - 1) / 2) * width for i in range(len(bars))]
            values = [line.get(measure, 0.0) for line in bars.values()]
            drawn = axis.barh(places, values, 0.92 * width, color=COLOURS[k], label=measure)
            for bar in drawn:
                bar.set(hatch=hatches[k % 3], edgecolor="white")
            axis.bar_label(drawn, [f"{round(value, 2) + 0:.2f}" for value in values], fontsize=7.5, padding=3)
        for i, name in enumerate(bars):
            if cloud := (dots or {}).get(name):
                axis.scatter(
                    cloud,
                    [i + 0.25 * ((j * 7) % 11 / 5 - 1) for j in range(len(cloud))],
                    s=10,
                    color="black",
                    edgecolors="white",
                    linewidths=0.4,
                )
        if band:
            axis.axvspan(*band, color="0.9", zorder=0)
        axis.axvline(0, color="black", lw=0.8)
        axis.set_yticks(range(len(bars)), [textwrap.fill(name, 44) for name in bars])
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_xlabel(xlabel)
        if len(measures) > 1:
            figure.legend(loc="outside lower center", ncols=len(measures))
        return finish(figure, title)


VERDICTS = {"same": "#A9D4E8", "different": "#F7DFA5", "missing": "#F3C6A5", "": "white"}


def plot_classes(table: Mapping[str, Mapping[str, tuple[str, str]]], title: str = "") -> Figure:
    """A row for each class of heads, a column for each model: (verdict, heads). The colour is the verdict."""
    columns = list(next(iter(table.values())))
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(1.75 * len(columns) + 1.6, 0.5 * len(table) + 1.0))
        for i, row in enumerate(table.values()):
            for j, (verdict, heads) in enumerate(row.values()):
                axis.add_patch(plt.Rectangle((j - 0.5, i - 0.5), 1, 1, color=VERDICTS[verdict], ec="white", lw=2))
                text = f"{verdict}: {heads}" if verdict and heads else verdict or heads
                axis.text(j, i, textwrap.fill(text, 21), ha="center", va="center", fontsize=7.5)
        axis.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(table) - 0.5, -0.5))
        axis.set_xticks(range(len(columns)), columns)
        axis.set_yticks(range(len(table)), list(table))
        axis.xaxis.tick_top()
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        return finish(figure, title)
