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

    Red is above zero, blue below; all maps share one scale, symmetric about zero.
    """
    limit = max(1e-9, max(effect.abs().max().item() for effect in effects.values()))
    with plt.rc_context(STYLE):
        width = max(2.4, 0.46 * len(columns) + 0.9)
        size = (width * len(effects) + 1.0, 0.36 * len(next(iter(effects.values()))) + 1.9)
        figure, axes = plt.subplots(1, len(effects), figsize=size, sharey=True, squeeze=False)
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
            axis.set(title=name, xlabel=xlabel)
        axes[0, 0].set_ylabel("layer")
        figure.colorbar(image, ax=axes, label=label, shrink=0.9)
        return finish(figure, title)


def _cells(values: Tensor) -> list[tuple[int, int]]:
    return [(row, column) for row in range(values.shape[0]) for column in range(values.shape[1])]


def plot_gates(
    effects: Mapping[str, Mapping[str, Sequence[float]]], sites: Sequence[str], title: str = "", ylabel: str = ""
) -> Figure:
    """Grouped bars: a panel for each gate, a group for each patched site, a bar for each direction."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(effects), figsize=(3.5 * len(effects), 2.9), sharey=True, squeeze=False)
        for axis, (gate, directions) in zip(axes.flat, effects.items(), strict=True):
            for k, (direction, values) in enumerate(directions.items()):
                places = [i + 0.36 * (k - 0.5) for i in range(len(sites))]
                bars = axis.bar(places, values, 0.34, color=COLOURS[k], label=direction if axis is axes[0, 0] else None)
                for bar in bars:
                    bar.set(hatch=["", "//"][k % 2], edgecolor="white")
                axis.bar_label(bars, fmt="%.0f", fontsize=7.5)
            axis.axhline(0, color="black", lw=0.8)
            axis.set_xticks(range(len(sites)), sites)
            axis.set(title=gate, ylim=(-1.3, 1.3))
        axes[0, 0].set_ylabel(ylabel)
        figure.legend(loc="outside lower center", ncols=2)
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


def plot_metric_table(table: Mapping[str, Mapping[str, bool]], good: Mapping[str, bool], title: str = "") -> Figure:
    """A row for each metric, a column for each property: "yes" or "no", green-blue where that is what one wants."""
    metrics, properties = list(table), list(good)
    wanted = torch.tensor([[table[m][p] == good[p] for p in properties] for m in metrics]).float()
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(1.35 * len(properties) + 1.5, 0.36 * len(metrics) + 1.5))
        axis.imshow(wanted, cmap=ListedColormap(["#F3C6A5", "#A9D4E8"]), vmin=0, vmax=1, aspect="auto")
        for (row, column), metric in zip(_cells(wanted), [m for m in metrics for _ in properties], strict=True):
            axis.text(column, row, "yes" if table[metric][properties[column]] else "no", ha="center", va="center")
        axis.set_xticks(range(len(properties)), [p.replace("_", " ").replace(", ", ",\n") for p in properties])
        axis.set_yticks(range(len(metrics)), metrics)
        axis.xaxis.tick_top()
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        return finish(figure, title)
