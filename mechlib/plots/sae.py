"""The figures of chapter 06_sae."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from torch import Tensor

from mechlib.plots.style import COLOURS, STYLE, finish

MARKERS = "os^Dvx+*"
LINES = ["-", "--", "-.", ":"]


def plot_history(history: Sequence[Mapping[str, float]], title: str = "") -> Figure:
    """A training so far: one small panel for each quantity of its records, against the step.

    A record holds "step" and any other numbers; `history` is what a live display is drawn from again and again.
    """
    names = [name for name in history[0] if name != "step"]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(names), figsize=(2.1 * len(names) + 0.3, 2.0), squeeze=False)
        for k, (axis, name) in enumerate(zip(axes.flat, names, strict=True)):
            axis.plot([r["step"] for r in history], [r[name] for r in history], color=COLOURS[k % len(COLOURS)], lw=1.3)
            axis.set(title=name, xlabel="step")
            axis.set_ylim(bottom=min(0.0, *(r[name] for r in history)))
        return finish(figure, title)


def plot_found(cosines: Mapping[str, Float[Tensor, "feature latent"]], title: str = "") -> Figure:
    """Which latent found which true feature: the cosine of every pair, latents in the order of their best feature."""
    with plt.rc_context(STYLE):
        widths = [matrix.shape[1] for matrix in cosines.values()]
        size = (0.03 * sum(widths) + 1.2 * len(widths) + 1.2, 2.9)
        figure, axes = plt.subplots(1, len(cosines), figsize=size, squeeze=False, width_ratios=widths)
        for axis, (name, matrix) in zip(axes.flat, cosines.items(), strict=True):
            matrix = matrix.detach().float().cpu()
            order = (matrix.argmax(dim=0) - 0.4 * matrix.amax(dim=0)).argsort()
            image = axis.imshow(matrix[:, order], cmap="Greys", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
            axis.set(title=name, xlabel="latents, sorted by their feature", xticks=[], yticks=[])
        axes[0, 0].set_ylabel("true feature")
        figure.colorbar(image, ax=axes, label="cosine", shrink=0.9)
        return finish(figure, title)


def plot_panels(
    x: Sequence[Any],
    panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]],
    xlabel: str,
    title: str = "",
    reference: Mapping[str, tuple[float, str]] | None = None,
) -> Figure:
    """Small panels side by side over the same labelled positions: the mean line, and a dot for every seed.

    `panels[panel][line][i]` are the values of the seeds at x[i]; `reference[panel]` a horizontal line and its name.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(2.75 * len(panels) + 0.4, 2.7), squeeze=False)
        for axis, (panel, lines) in zip(axes.flat, panels.items(), strict=True):
            for k, (name, values) in enumerate(lines.items()):
                means = [sum(seeds) / len(seeds) for seeds in values]
                axis.plot(range(len(x)), means, color=COLOURS[k], ls=LINES[k % 4], lw=1.4, label=name)
                for i, seeds in enumerate(values):
                    axis.plot([i] * len(seeds), list(seeds), MARKERS[k], color=COLOURS[k], ms=3.5, alpha=0.75)
            if reference and panel in reference:
                level, label = reference[panel]
                axis.axhline(level, color="0.5", lw=0.9, ls=(0, (6, 3)), zorder=0, label=label)
            axis.set_xticks(range(len(x)), [f"{value:g}" if isinstance(value, float) else str(value) for value in x])
            axis.set(xlabel=xlabel, title=panel)
            low, high = axis.get_ylim()
            axis.set_ylim(min(0, low), high + 0.04 * (high - min(0, low)))  # no dot is cut off
            if len(lines) > 1 or (reference and panel in reference):
                axis.legend(fontsize=7)
        return finish(figure, title)


def plot_concepts(
    scores: Mapping[str, Sequence[float]], concepts: Sequence[str], xlabel: str, title: str = "", split: int = 0
) -> Figure:
    """A dot plot as a table: one row for each concept, one marker for each way of finding a unit for it.

    Rows from `split` on are set apart by a line.
    """
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.6, 0.215 * len(concepts) + 1.2))
        for k, (name, values) in enumerate(scores.items()):
            axis.plot(
                values,
                range(len(concepts)),
                MARKERS[k],
                color=COLOURS[k],
                ms=max(4.5, 6 - 0.6 * k),
                mew=1.4,
                label=name,
            )
        for row, values in enumerate(zip(*scores.values(), strict=True)):
            axis.plot([min(values), max(values)], [row, row], color="0.85", lw=0.8, zorder=0)
        if split:
            axis.axhline(split - 0.5, color="0.4", lw=0.8, ls=":")
        axis.set_yticks(range(len(concepts)), concepts, fontsize=8)
        axis.invert_yaxis()
        axis.set(xlabel=xlabel, xlim=(-0.03, 1.03))
        figure.legend(loc="outside right center")
        return finish(figure, title)


def plot_levels(
    features: Mapping[str, tuple[Float[Tensor, "token"], Bool[Tensor, "token"]]],
    levels: Float[Tensor, "level"],
    rates: Mapping[str, tuple[Float[Tensor, "level"], Float[Tensor, "level"]]],
    title: str = "",
) -> Figure:
    """One column for each feature: above, its activations, split by whether the concept is there; below, precision
    and recall of "it exceeds this share of its maximum"."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            2, len(features), figsize=(2.4 * len(features) + 1.6, 3.7), squeeze=False, sharex=True
        )
        for column, (name, (activation, concept)) in enumerate(features.items()):
            share = (activation / activation.max()).cpu()
            bins = torch.linspace(0, 1, 21).tolist()
            above, below = axes[:, column]
            for there, label, colour, line in (
                (~concept, "no concept", COLOURS[1], "--"),
                (concept, "concept", COLOURS[0], "-"),
            ):
                above.hist(
                    share[(share > 0) & there.cpu()].numpy(),
                    bins,
                    histtype="step",
                    color=colour,
                    ls=line,
                    lw=1.4,
                    label=label,
                )
            above.set(title=textwrap.fill(name, 26), yscale="symlog")
            precision, recall = rates[name]
            below.plot(levels, precision, "o-", ms=3, color=COLOURS[2], label="precision")
            below.plot(levels, recall, "s--", ms=3, color=COLOURS[3], label="recall")
            below.set(xlabel="share of its maximum", ylim=(-0.03, 1.05))
        axes[0, 0].set_ylabel("tokens")
        figure.legend(*above.get_legend_handles_labels(), loc="outside right upper")
        figure.legend(*below.get_legend_handles_labels(), loc="outside right lower")
        return finish(figure, title)


def plot_density(densities: Mapping[str, Float[Tensor, "latent"]], title: str = "") -> Figure:
    """How often the latents are active: a histogram of the logarithm for each SAE; dead ones stand at the left edge."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(5.4, 2.6))
        lowest = -5.0
        bins = torch.linspace(lowest, 0, 41).tolist()
        for k, (name, density) in enumerate(densities.items()):
            logs = density.detach().float().cpu().clamp(min=10**lowest).log10().numpy()
            axis.hist(logs, bins, histtype="step", color=COLOURS[k], ls=LINES[k % 4], lw=1.4, label=name)
        axis.set_xticks([-5, -4, -3, -2, -1, 0], ["never", "0.0001", "0.001", "0.01", "0.1", "1"])
        axis.set(xlabel="share of tokens on which a latent is active", ylabel="latents")
        figure.legend(loc="outside right center")
        return finish(figure, title)


def plot_trade(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str, title: str = ""
) -> Figure:
    """Effect against side effect: a line for each method, a dot for each strength, from weak to strong."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(5.8, 3.1))
        for k, (name, (cost, effect)) in enumerate(curves.items()):
            axis.plot(cost, effect, marker=MARKERS[k], ls=LINES[k % 4], color=COLOURS[k], ms=4.5, lw=1.3, label=name)
        axis.set(xlabel=xlabel, ylabel=ylabel, ylim=(-0.03, 1.05))
        figure.legend(loc="outside right center")
        return finish(figure, title)
