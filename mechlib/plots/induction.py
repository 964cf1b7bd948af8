"""The figures of chapter 02_induction: attention with tokens on its axes, grids of heads, curves over a prompt."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from mechlib.plots.style import COLOURS, SIGNED, STYLE, finish

LINES = ["-", "--", "-.", ":"]


def plot_by_position(
    curves: Mapping[str, Float[Tensor, "position"]],
    ylabel: str,
    title: str = "",
    marks: Mapping[int, str] | None = None,
) -> Figure:
    """A value at every position of a prompt, one line for each name; `marks` are named vertical lines."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.8, 2.9))
        for k, (name, curve) in enumerate(curves.items()):
            axis.plot(curve.detach().float().cpu(), ls=LINES[k % 4], color=COLOURS[k], lw=1.5, label=name)
        axis.set(xlabel="position of the token that is predicted from", ylabel=ylabel)
        axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
        for at, name in (marks or {}).items():
            axis.axvline(at, color="0.5", lw=0.9, ls=(0, (6, 3)), zorder=0)
            axis.annotate(name, (at, 1.02), xycoords=("data", "axes fraction"), fontsize=8, ha="center", color="0.3")
        figure.legend(loc="outside right center")
        return finish(figure, title)


def plot_tables(
    grids: Mapping[str, Float[Tensor, "rows columns"]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
    signed: bool = False,
    labels: tuple[str, str] = ("", ""),
) -> Figure:
    """One small table in colour for each name, its numbers written in; `signed` centres the colours at zero.

    `labels` names the rows and the columns.
    """
    limit = max(1e-6, *(grid.abs().max().item() for grid in grids.values()))
    with plt.rc_context(STYLE):
        size = (max(4.6, (0.62 * len(columns) + 0.5) * len(grids) + 1.0), 0.42 * len(rows) + 1.5)
        figure, axes = plt.subplots(1, len(grids), figsize=size, squeeze=False)
        for k, (axis, (name, grid)) in enumerate(zip(axes.flat, grids.items())):
            values = grid.detach().float().cpu()
            colours, low = (SIGNED, -limit) if signed else ("Blues", 0.0)
            axis.imshow(values.numpy(), cmap=colours, vmin=low, vmax=limit, aspect="auto")
            for (row, column), value in zip(torch.cartesian_prod(*map(torch.arange, values.shape)), values.flatten()):
                dark = abs(value) > 0.6 * limit
                text = f"{value:.2f}".replace("-0.00", "0.00")  # no negative zero
                axis.text(column, row, text, ha="center", va="center", fontsize=8, color="w" if dark else "k")
            axis.set_title(name, fontsize=8.5)
            axis.set_xticks(range(len(columns)), columns)
            axis.set_yticks(range(len(rows)), rows if k == 0 else [""] * len(rows))
            axis.set(xlabel=labels[1], ylabel=labels[0] if k == 0 else "")
            axis.tick_params(length=0)
            axis.spines[:].set_visible(False)
        return finish(figure, title)


def plot_attention(
    patterns: Mapping[str, Float[Tensor, "query key"]], tokens: Sequence[str], title: str = ""
) -> Figure:
    """Attention patterns side by side: each row shows where the token on the left looks."""
    with plt.rc_context(STYLE):
        side = 0.17 * len(tokens) + 0.9
        figure, axes = plt.subplots(1, len(patterns), figsize=(side * len(patterns) + 0.6, side + 0.5), squeeze=False)
        for k, (axis, (name, pattern)) in enumerate(zip(axes.flat, patterns.items())):
            image = axis.imshow(pattern.detach().float().cpu().numpy(), cmap="Blues", vmin=0, vmax=1)
            axis.set_title(name, fontsize=9)
            axis.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=7)
            axis.set_yticks(range(len(tokens)), tokens if k == 0 else [], fontsize=7)
            axis.set_xlabel("is looked at")
        axes[0, 0].set_ylabel("looks")
        figure.colorbar(image, ax=axes, label="attention", shrink=0.7)
        return finish(figure, title)


def plot_head_effects(
    effects: Mapping[str, Float[Tensor, "layer head"]], ylabel: str, title: str = "", log: bool = True
) -> Figure:
    """Bars for every head, one for each name (a way of ablating, say), numbers on top; the scale is logarithmic beyond
    0.1 unless told."""
    n_layers, n_heads = next(iter(effects.values())).shape
    width, hatches = 0.8 / len(effects), ["", "//", "..", "xx"]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(1.15 * n_layers * n_heads, 3.0))
        for k, (name, effect) in enumerate(effects.items()):
            places = [i + (k - (len(effects) - 1) / 2) * width for i in range(n_layers * n_heads)]
            heights = effect.detach().float().cpu().flatten().tolist()
            bars = axis.bar(places, heights, 0.92 * width, label=name, color=COLOURS[k])
            for bar in bars:
                bar.set(hatch=hatches[k % 4], edgecolor="white")
            labels = [f"{round(height, 2) + 0:.2f}" for height in heights]  # + 0: no negative zero
            axis.bar_label(bars, labels, fontsize=7, rotation=90, padding=2)
        axis.axhline(0, color="black", lw=0.8)
        if log:
            axis.set_yscale("symlog", linthresh=0.1)
            axis.set_yticks([0, 0.1, 1, 10], ["0", "0.1", "1", "10"])
            axis.set_ylim(top=4 * max(effect.max().item() for effect in effects.values()))
        else:
            axis.margins(y=0.2)
        axis.set_xticks(
            range(n_layers * n_heads), [f"{layer}.{head}" for layer in range(n_layers) for head in range(n_heads)]
        )
        axis.set(xlabel="head (layer.head)", ylabel=ylabel)
        figure.legend(loc="outside lower center", ncols=len(effects))
        return finish(figure, title)


def plot_circuits(
    circuits: Mapping[str, Float[Tensor, "source predicted"]],
    sources: Sequence[str],
    predicted: Sequence[str],
    title: str = "",
    marks: Sequence[tuple[int, int]] = (),
) -> Figure:
    """Parts of full OV circuits: what attending to the word on the left adds to the logit of the word below.

    `marks` puts a ring on some cells. Every panel has its own scale.
    """
    with plt.rc_context(STYLE):
        size = ((0.24 * len(predicted) + 0.5) * len(circuits) + 1.0, 0.2 * len(sources) + 1.6)
        figure, axes = plt.subplots(1, len(circuits), figsize=size, squeeze=False)
        for k, (axis, (name, circuit)) in enumerate(zip(axes.flat, circuits.items())):
            values = circuit.detach().float().cpu()
            limit = values.abs().max().item()
            image = axis.imshow(values.numpy(), cmap=SIGNED, vmin=-limit, vmax=limit, aspect="auto")
            for row, column in marks:
                axis.plot(column, row, "o", mfc="none", mec="black", ms=7, mew=1.0)
            axis.set_title(name, fontsize=8.5)
            axis.set_xticks(range(len(predicted)), predicted, rotation=90, fontsize=7)
            axis.set_yticks(range(len(sources)), sources if k == 0 else [], fontsize=7)
            axis.set_xlabel("predicted")
        axes[0, 0].set_ylabel("looked at")
        key = figure.colorbar(image, ax=axes, ticks=[-limit, 0, limit], label="the predicted word's logit")
        key.set_ticklabels(["lowered", "0", "raised"])
        return finish(figure, title)


def plot_spectra(spectra: Mapping[str, Float[Tensor, "rank"]], title: str = "", width: int | None = None) -> Figure:
    """Singular values, largest first, one line for each name; `width` marks how many there could be."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.0, 2.7))
        for k, (name, values) in enumerate(spectra.items()):
            values = values.detach().float().cpu()
            axis.plot(range(1, len(values) + 1), values, ls=LINES[k % 4], color=COLOURS[k], lw=1.4, label=name)
        axis.set(xlabel="singular value, in order", ylabel="size", ylim=(0, None), xlim=(0, width))
        figure.legend(loc="outside right center")
        return finish(figure, title)


def plot_training(
    steps: Sequence[int],
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    title: str = "",
    shade: tuple[int, int] | None = None,
) -> Figure:
    """Curves over training, one panel for each y label; `shade` marks a stretch of steps in all of them."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(len(panels), 1, figsize=(6.8, 1.8 * len(panels) + 0.7), sharex=True, squeeze=False)
        for axis, (ylabel, curves) in zip(axes.flat, panels.items()):
            for k, (name, values) in enumerate(curves.items()):
                axis.plot(steps, values, marker="os^D"[k % 4], ms=3.5, ls=LINES[k % 4], color=COLOURS[k], label=name)
            if shade:
                axis.axvspan(*shade, color="0.9", zorder=0)
            axis.set(ylabel=ylabel, ylim=(0, None))
            axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        axes[-1, 0].set_xlabel("training step")
        return finish(figure, title)
