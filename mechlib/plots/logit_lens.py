"""The figures of chapter 03_logit_lens."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mechlib.plots.style import COLOURS, STYLE, finish

Band = tuple[Float[Tensor, "depth"], Float[Tensor, "depth"], Float[Tensor, "depth"]]
DEPTH = "depth (layers that have written)"


def _grid(
    axis: Axes, top: Sequence[Sequence[str]], probability: Float[Tensor, "depth position"], tokens: Sequence[str]
) -> None:
    """Depths from bottom to top, tokens from left to right; in each cell the top token, darker when it is surer."""
    values = probability.detach().float().cpu()
    axis.imshow(values.numpy(), cmap="Blues", vmin=0, vmax=1, origin="lower", aspect="auto")
    for depth, row in enumerate(top):
        for position, word in enumerate(row):
            dark = values[depth, position] > 0.55
            axis.text(position, depth, word, ha="center", va="center", fontsize=7.5, color="w" if dark else "0.1")
    axis.set_xticks(range(len(tokens)), tokens, rotation=35, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(top)))
    axis.set(ylabel=DEPTH, xlabel="the prompt; each cell: the top token (darker: more probable)")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)


def plot_lens_grid(
    top: Sequence[Sequence[str]],
    probability: Float[Tensor, "depth position"],
    tokens: Sequence[str],
    title: str = "",
) -> Figure:
    """The logit lens on one prompt: what every depth would say at every position."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(0.75 * len(tokens) + 0.8, 0.36 * len(top) + 1.5))
        _grid(axis, top, probability, tokens)
        return finish(figure, title)


def plot_lens_and_shares(
    top: Sequence[Sequence[str]],
    probability: Float[Tensor, "depth position"],
    tokens: Sequence[str],
    shares: Mapping[str, Mapping[str, Sequence[float]]],
    title: str = "",
) -> Figure:
    """One prompt through the lens, and over many prompts what kind of token is on top at each depth.

    `shares` gives, for each model, the share of prompts by kind of top token, one number a depth.
    """
    shades = ["#0072B2", "#7FB2DD", "#D55E00", "#E3E3E3"]
    hatches = ["", "", "//", ""]
    with plt.rc_context(STYLE):
        widths = [0.62 * len(tokens) + 0.6, *[1.7] * len(shares)]
        figure, axes = plt.subplots(1, 1 + len(shares), figsize=(sum(widths) + 0.4, 3.6), width_ratios=widths)
        _grid(axes[0], top, probability, tokens)
        axes[0].set_title("one prompt", fontsize=9)
        for axis, (name, kinds) in zip(axes[1:], shares.items(), strict=True):
            left = torch.zeros(len(top))
            for (kind, values), shade, hatch in zip(kinds.items(), shades, hatches, strict=False):
                share = torch.as_tensor(values, dtype=torch.float32)
                bars = axis.barh(range(len(top)), share.tolist(), 0.8, left=left.tolist(), color=shade, label=kind)
                for bar in bars:
                    bar.set(hatch=hatch, edgecolor="w", lw=0.5)
                left = left + share
            axis.set(xlim=(0, 1), xlabel="share of prompts", yticks=range(len(top)))
            axis.set_xticks([0, 0.5, 1], ["0", "½", "1"])
            axis.set_title(name, fontsize=9)
        handles, labels = axes[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower right", ncols=4, title="the top token at the prompt's end is")
        return finish(figure, title)


def plot_depths(
    curves: Mapping[str, Float[Tensor, "depth"] | Band],
    ylabel: str,
    title: str = "",
    log: bool = False,
    reference: float | None = None,
    reference_label: str = "",
) -> Figure:
    """A quantity by depth, one curve a condition; (mean, low, high) draws an interval around the curve."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.4, 3.0))
        looks = zip(curves.items(), COLOURS, ["-", "--", "-.", ":"] * 2, "os^Dvx+*", strict=False)
        for (name, values), colour, style, marker in looks:
            mean, *interval = [v.detach().float().cpu() for v in (values if isinstance(values, tuple) else (values,))]
            depths = range(len(mean))
            axis.plot(depths, mean.tolist(), color=colour, ls=style, marker=marker, ms=4, lw=1.4, label=name)
            if interval:
                low, high = (bound.tolist() for bound in interval)
                axis.fill_between(depths, low, high, color=colour, alpha=0.25, lw=0)
        if reference is not None:
            axis.axhline(reference, color="0.5", lw=0.9, ls=(0, (6, 3)), zorder=0, label=reference_label)
        axis.set_xticks(range(len(mean)))
        axis.set(xlabel=DEPTH, ylabel=ylabel, yscale="log" if log else "linear")
        figure.legend(loc="outside right center")
        return finish(figure, title)


def plot_sites(
    sites: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    title: str = "",
    corners: Mapping[tuple[float, float], str] | None = None,
    chance: float | None = None,
) -> Figure:
    """A point a site of the model, a colour and a marker a task: what one method says there against another.

    `corners` writes a remark from a point (x, y) on; `chance` draws a vertical line.
    """
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.4, 3.8))
        for (name, (x, y)), colour, marker in zip(sites.items(), COLOURS, "os^DvP*X", strict=False):
            axis.plot(x, y, marker, color=colour, ms=5.5, alpha=0.8, label=name, mec="w", mew=0.4)
        if chance is not None:
            axis.axvline(chance, color="0.6", lw=0.9, ls=(0, (6, 3)), zorder=0)
        for (x_, y_), remark in (corners or {}).items():
            axis.text(x_, y_, remark, va="center", fontsize=8, style="italic", color="0.25")
        axis.set(xlabel=xlabel, ylabel=ylabel)
        figure.legend(loc="outside right center")
        return finish(figure, title)


def plot_depth_matrix(
    values: Float[Tensor, "source target"], xlabel: str, ylabel: str, title: str = "", label: str = ""
) -> Figure:
    """A number for each pair of depths: where a vector was read, where it was put."""
    shown = values.detach().float().cpu()
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(0.7 * shown.shape[1] + 2.2, 0.5 * shown.shape[0] + 1.2))
        image = axis.imshow(shown.numpy(), cmap="Blues", vmin=0, vmax=1, origin="lower", aspect="auto")
        for (source, target), value in zip(torch.cartesian_prod(*map(torch.arange, shown.shape)), shown.flatten()):
            colour = "w" if value > 0.55 else "0.1"
            axis.text(int(target), int(source), f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
        axis.set_xticks(range(shown.shape[1]))
        axis.set_yticks(range(shown.shape[0]))
        axis.set(xlabel=xlabel, ylabel=ylabel)
        axis.spines[:].set_visible(False)
        figure.colorbar(image, ax=axis, label=label)
        return finish(figure, title)
