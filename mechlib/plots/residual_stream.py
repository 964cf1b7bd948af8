"""Figures about the residual stream: a sum drawn as a staircase, maps over heads, attention, trained against random."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from mechlib.plots.style import COLOURS, SIGNED, STYLE, finish


def plot_sum(
    parts: Mapping[str, float], whole: float, ylabel: str, title: str = "", whole_label: str = "sum"
) -> Figure:
    """A sum as a staircase: a block for each part, from where the parts before it have got to; at the end the sum.

    The dashed line is `whole`, which was measured without the parts.
    """
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(0.52 * len(parts) + 2.2, 3.1))
        reached = 0.0
        for place, value in enumerate(parts.values()):
            axis.bar(place, value, 0.75, bottom=reached, color=COLOURS[1] if value >= 0 else COLOURS[0])
            top = max(reached, reached + value)
            axis.annotate(
                f"{round(value, 2) + 0:+.2f}",
                (place, top),
                (0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=7.5,
            )
            axis.plot([place - 0.375, place + 1.375], [reached + value] * 2, color="0.5", lw=0.7)
            reached += value
        axis.bar(len(parts), reached, 0.75, color="0.35")
        axis.annotate(
            f"{reached:.2f}", (len(parts), reached), (0, 2), textcoords="offset points", ha="center", fontsize=8
        )
        axis.axhline(whole, color="black", lw=1, ls="--", zorder=0)
        axis.text(-0.45, whole, f"the model itself: {whole:.2f}", va="bottom", fontsize=8)
        axis.axhline(0, color="black", lw=0.8)
        axis.set_xticks(range(len(parts) + 1), [*parts, whole_label], rotation=40, ha="right", rotation_mode="anchor")
        axis.set(ylabel=ylabel)
        axis.margins(y=0.12)
        return finish(figure, title)


def plot_grids(
    grids: Mapping[str, Float[Tensor, "row column"]],
    rows: Sequence[str],
    columns: Sequence[str],
    xlabel: str,
    ylabel: str,
    title: str = "",
    colour_label: str = "",
    mark: Sequence[tuple[int, int]] = (),
) -> Figure:
    """Numbers on grids side by side, each written into its cell: with one scale centred at zero, or, if none of them
    is negative, from zero up.

    `mark` frames some cells, (row, column), in every grid.
    """
    values = {name: grid.detach().float().cpu() for name, grid in grids.items()}
    limit = max(float(grid.abs().max()) for grid in values.values()) or 1.0
    signed = min(float(grid.min()) for grid in values.values()) < 0
    colours = {"cmap": SIGNED, "vmin": -limit} if signed else {"cmap": "Blues", "vmin": 0.0}
    with plt.rc_context(STYLE):
        size = ((0.52 * len(columns) + 0.5) * len(values) + 1.6, 0.42 * len(rows) + 1.25)
        figure, axes = plt.subplots(1, len(values), figsize=size, squeeze=False)
        for axis, (name, grid) in zip(axes.flat, values.items(), strict=True):
            image = axis.imshow(grid, **colours, vmax=limit, aspect="auto")
            for row, line in enumerate(grid.tolist()):
                for column, value in enumerate(line):
                    colour = "white" if abs(value) > 0.6 * limit else "black"
                    axis.text(
                        column, row, f"{round(value, 1) + 0:.1f}", ha="center", va="center", fontsize=7.5, color=colour
                    )
            for row, column in mark:
                frame = plt.Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, ec="black", lw=2, clip_on=False)
                axis.add_patch(frame)
            upright = max(map(len, columns)) <= 3
            axis.set_xticks(range(len(columns)), list(columns), rotation=0 if upright else 40,
                            ha="center" if upright else "right", rotation_mode="anchor")  # fmt: skip
            axis.set_yticks(range(len(rows)), list(rows))
            axis.set(title=name, xlabel=xlabel)
            axis.spines[:].set_visible(False)
        axes[0, 0].set_ylabel(ylabel)
        figure.colorbar(image, ax=axes, label=colour_label, shrink=0.9)
        return finish(figure, title)


def plot_patterns(
    patterns: Mapping[str, Float[Tensor, "query key"]], tokens: Sequence[str], title: str = "", columns: int = 4
) -> Figure:
    """Attention patterns, one panel each: rows are the positions that look, columns the ones that are looked at."""
    lines = -(-len(patterns) // columns)
    columns = min(columns, len(patterns))
    names = [token.strip() or token for token in tokens]
    with plt.rc_context(STYLE):
        side = 0.16 * len(tokens) + 0.7
        size = (columns * side + 1.7, lines * (side + 0.25) + 1.0)
        figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, sharex=True, sharey=True)
        for axis in axes.flat[len(patterns) :]:
            axis.set_visible(False)
        for axis, (name, pattern) in zip(axes.flat, patterns.items(), strict=False):
            image = axis.imshow(pattern.detach().float().cpu(), cmap="Blues", vmin=0, vmax=1)
            axis.set_title(name)
            axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
            axis.set_yticks(range(len(names)), names, fontsize=7)
        figure.supxlabel("looks at", fontsize=9)
        figure.supylabel("token that looks", fontsize=9)
        figure.colorbar(image, ax=axes, label="attention", shrink=0.8)
        return finish(figure, title)


def plot_against_random(
    groups: Mapping[str, tuple[Mapping[str, float], Sequence[float]]],
    xlabel: str,
    title: str = "",
    reference: float | None = None,
    reference_label: str = "",
    named: int = 2,
) -> Figure:
    """A line of dots for each group: the trained model's values (coloured) above the random twin's (grey).

    A group is (name -> value, values of the twin); its `named` largest values get their names.
    """
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.6, 0.62 * len(groups) + 1.3))
        for line, (trained, random) in enumerate(groups.values()):
            jitter = torch.linspace(-0.06, 0.06, 7)
            axis.scatter(list(random), [line + 0.17 + float(jitter[i % 7]) for i in range(len(random))], s=9,
                         color="0.65", label="random twin" if line == 0 else None)  # fmt: skip
            heights = [line - 0.12 + float(jitter[i % 7]) for i in range(len(trained))]
            label = "trained (names: largest first)" if named else "trained"
            axis.scatter(list(trained.values()), heights, s=13,
                         color=COLOURS[0], label=label if line == 0 else None)  # fmt: skip
            ranked = sorted(trained, key=lambda name: -trained[name])[:named]
            axis.annotate(", ".join(ranked), (max(trained.values()), line - 0.12), (7, 0), fontsize=7.5,
                          textcoords="offset points", va="center")  # fmt: skip
        if reference is not None:
            axis.axvline(reference, color="0.3", lw=0.9, ls="--", zorder=0, label=reference_label)
        axis.set_yticks(range(len(groups)), list(groups))
        axis.set(xlabel=xlabel, ylim=(len(groups) - 0.4, -0.65))
        low, high = axis.get_xlim()
        axis.set_xlim(low, high + (0.3 if named else 0.05) * (high - low))
        figure.legend(loc="outside lower center", ncols=3)
        return finish(figure, title)
