"""The figures of chapter 04_patching."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from jaxtyping import Float
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from mechlib.plots.style import COLOURS, SIGNED, STYLE, finish


def plot_sweeps(
    effects: Mapping[str, Float[Tensor, "layer column"]],
    columns: Sequence[str],
    title: str = "",
    xlabel: str = "",
    label: str = "normalised effect",
) -> Figure:
    """One map for each entry: layers from bottom to top, a column for each token (or head), large values written in.

    Red is above zero, blue below; all maps share one scale, symmetric about zero. Maps of long prompts stand below
    each other.
    """
    limit = max(1e-9, max(effect.abs().max().item() for effect in effects.values()))
    rows, across = (len(effects), 1) if len(columns) > 10 else (1, len(effects))
    with plt.rc_context(STYLE):
        width, height = max(2.4, 0.46 * len(columns) + 0.9), 0.36 * len(next(iter(effects.values()))) + 0.5
        size = (width * across + 1.0, height * rows + 1.4)
        figure, axes = plt.subplots(rows, across, figsize=size, sharex=True, sharey=True, squeeze=False)
        for axis, (name, effect) in zip(axes.flat, effects.items(), strict=True):
            effect = effect.detach().float().cpu()
            image = axis.imshow(effect, cmap=SIGNED, vmin=-limit, vmax=limit, origin="lower", aspect="auto")
            for (row, column), value in zip(_cells(effect), effect.flatten().tolist(), strict=True):
                if abs(value) > 0.1 * limit:
                    dark = abs(value) > 0.6 * limit
                    axis.text(column, row, f"{value:.2f}" if limit < 10 else f"{value:.1f}", ha="center", va="center",
                              fontsize=6.5, color="white" if dark else "black")  # fmt: skip
            axis.set_xticks(range(len(columns)), columns, rotation=60, ha="right", rotation_mode="anchor")
            axis.set_yticks(range(len(effect)), [str(layer) for layer in range(len(effect))])
            axis.set(
                title=name, xlabel=xlabel if axis in axes[-1] else "", ylabel="layer" if axis in axes[:, 0] else ""
            )
        figure.colorbar(image, ax=axes, label=label, shrink=0.9)
        return finish(figure, title)


def _cells(values: Tensor) -> list[tuple[int, int]]:
    return [(row, column) for row in range(values.shape[0]) for column in range(values.shape[1])]


def plot_bars(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    groups: Sequence[str],
    title: str = "",
    ylabel: str = "",
    form: str = "%.2f",
) -> Figure:
    """Grouped bars with their values: a panel for each entry, a group for each name, a bar for each series."""
    values = [value for panel in panels.values() for series in panel.values() for value in series]
    low, high = min(0.0, *values), max(0.0, *values)
    pad = 0.15 * (high - low)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1,
            len(panels),
            figsize=((0.45 * len(groups) * len(next(iter(panels.values()))) + 0.6) * len(panels), 2.9),
            sharey=True,
            squeeze=False,
        )
        for axis, (name, panel) in zip(axes.flat, panels.items(), strict=True):
            step = 0.76 / len(panel)
            for k, (series, heights) in enumerate(panel.items()):
                places = [i + step * (k - (len(panel) - 1) / 2) for i in range(len(groups))]
                bars = axis.bar(places, heights, 0.94 * step, color=COLOURS[k], label=series)
                for bar in bars:
                    bar.set(hatch=["", "//", ".."][k % 3], edgecolor="white")
                written = [form % height for height in heights]
                written = [number if float(number) else number.removeprefix("-") for number in written]  # no "-0"
                axis.bar_label(bars, written, fontsize=7.5, padding=1)
            axis.axhline(0, color="black", lw=0.8)
            axis.set_xticks(range(len(groups)), groups)
            axis.set(title=name, ylim=(low - pad if low < 0 else 0, high + pad))
        axes[0, 0].set_ylabel(ylabel)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(panel))
        return finish(figure, title)


def plot_responses(
    x: Float[Tensor, "doses"], curves: Mapping[str, Float[Tensor, "doses"]], xlabel: str, title: str = ""
) -> Figure:
    """A small panel for each curve, on its own scale, with the straight line between its ends (dashed)."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            -(-len(curves) // 3), 3, figsize=(7.2, 1.9 * -(-len(curves) // 3) + 0.7), sharex=True
        )
        for axis, (name, y) in zip(axes.flat, curves.items(), strict=False):
            shown = y.detach().float().cpu()
            axis.plot([x[0], x[-1]], [shown[0], shown[-1]], color="0.5", lw=0.9, ls="--")
            axis.plot(x, shown, color=COLOURS[0], lw=1.6)
            axis.set(title=name)
        for axis in axes.flat[len(curves) :]:
            axis.set_axis_off()
        figure.supxlabel(xlabel, fontsize=9)
        return finish(figure, title)


def plot_against(
    x: Float[Tensor, "points"],
    y: Float[Tensor, "points"],
    xlabel: str,
    ylabel: str,
    title: str = "",
    labels: Mapping[int, str] | None = None,
) -> Figure:
    """Points on equal axes with the diagonal, on which both would agree; `labels` names some of them."""
    x, y = x.detach().float().cpu(), y.detach().float().cpu()
    low, high = min(x.min().item(), y.min().item()), max(x.max().item(), y.max().item())
    pad = 0.06 * (high - low) or 1.0
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(3.9, 3.5))
        axis.plot([low - pad, high + pad], [low - pad, high + pad], color="0.6", lw=0.9, ls="--", zorder=0)
        axis.axhline(0, color="0.85", lw=0.8, zorder=0)
        axis.axvline(0, color="0.85", lw=0.8, zorder=0)
        axis.scatter(x, y, s=22, color=COLOURS[0])
        for point, name in (labels or {}).items():
            axis.annotate(name, (x[point], y[point]), xytext=(4, 3), textcoords="offset points", fontsize=8)
        axis.set(xlabel=xlabel, ylabel=ylabel, xlim=(low - pad, high + pad), ylim=(low - pad, high + pad))
        return finish(figure, title)


def plot_metric_table(
    table: Mapping[str, Mapping[str, bool]],
    good: Mapping[str, bool],
    title: str = "",
    quoted: Mapping[str, Mapping[str, bool]] | None = None,
) -> Figure:
    """A row for each metric, a column for each property: "yes" or "no", blue where that is what one wants.

    Where `quoted` says otherwise, the cell says so.
    """
    metrics, properties = list(table), list(good)
    wanted = torch.tensor([[table[m][p] == good[p] for p in properties] for m in metrics]).float()
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(1.4 * len(properties) + 1.7, 0.42 * len(metrics) + 1.5))
        axis.imshow(wanted, cmap=ListedColormap(["#F3C6A5", "#A9D4E8"]), vmin=0, vmax=1, aspect="auto")
        for (row, column), metric in zip(_cells(wanted), [m for m in metrics for _ in properties], strict=True):
            property = properties[column]
            said = "yes" if table[metric][property] else "no"
            if quoted is not None and quoted[metric].get(property, table[metric][property]) != table[metric][property]:
                said += f"  (quoted: {'no' if table[metric][property] else 'yes'})"
            axis.text(column, row, said, ha="center", va="center", fontsize=9 if len(said) < 4 else 8)
        axis.set_xticks(range(len(properties)), [p.replace("_", " ").replace(", ", ",\n") for p in properties])
        axis.set_yticks(range(len(metrics)), metrics)
        axis.xaxis.tick_top()
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        return finish(figure, title)
