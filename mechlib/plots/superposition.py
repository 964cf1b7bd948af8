"""The figures of chapter 01_superposition."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from mechlib.plots.style import COLOURS, SIGNED, STYLE, finish
from mechlib.superposition import strategy_losses


def _sparsity_axis(axis: Axes, sparsity: Tensor) -> None:
    """A logarithmic axis for 1 / (1 - S), with plain numbers."""
    low, high = (1 / (1 - sparsity.float().cpu())).aminmax()
    ticks = [tick for tick in (1, 1.5, 2, 3, 5, 10, 20, 50, 100) if 0.8 * low <= tick <= 1.1 * high]
    axis.set(xscale="log", xlabel="1 / (1 - S): sparser to the right")
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()


def plot_features_in_plane(
    W: Float[Tensor, "instances 2 features"],
    labels: Sequence[str],
    title: str = "",
    columns: int = 6,
    pairs: bool = False,
) -> Figure:
    """Each instance's feature directions in its two hidden dimensions, on a unit circle.

    Darker means an earlier, more important feature; with `pairs`, features 2k and 2k+1 share a colour and a
    marker.
    """
    W = W.detach().float().cpu()
    instances, _, features = W.shape
    columns = min(columns, instances)
    rows = -(-instances // columns)
    reach = max(1.15, 1.1 * W.norm(dim=1).max().item())
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(1.6 * columns, 1.9 * rows + 0.3), squeeze=False)
        shades = list(plt.colormaps["viridis"](torch.linspace(0, 0.85, features).numpy()))
        markers = ["o"] * features
        if pairs:
            shades = [COLOURS[feature // 2] for feature in range(features)]
            markers = ["os^Dv"[feature // 2 % 5] for feature in range(features)]
        for axis in axes.flat[instances:]:
            axis.set_visible(False)
        for axis, weights, label in zip(axes.flat, W, labels, strict=False):
            axis.add_patch(plt.Circle((0, 0), 1, fill=False, color="0.8", lw=0.8))
            for (x, y), shade, marker in zip(weights.T.tolist(), shades, markers, strict=True):
                axis.plot([0, x], [0, y], color=shade, lw=1.8)
                axis.plot(x, y, marker, color=shade, ms=5)
            axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
            axis.set_title(label, fontsize=8.5)
            axis.spines[:].set_visible(False)
        return finish(figure, title)


def plot_gram(W: Float[Tensor, "instances hidden features"], labels: Sequence[str], title: str = "") -> Figure:
    """W^T W of each instance: on the diagonal what is stored, off it which features interfere, with sign."""
    gram = torch.einsum("ihf,ihg->ifg", W, W).detach().float().cpu()
    limit = max(1.0, gram.abs().max().item())
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(gram), figsize=(1.75 * len(gram) + 0.7, 2.4), squeeze=False)
        for axis, matrix, label in zip(axes.flat, gram, labels, strict=True):
            image = axis.imshow(matrix.numpy(), cmap=SIGNED, vmin=-limit, vmax=limit)
            axis.set_title(label, fontsize=8.5)
            axis.set(xlabel="feature", xticks=[], yticks=[])
        axes[0, 0].set_ylabel("feature")
        figure.colorbar(image, ax=axes, label=r"$W^\top W$", shrink=0.8)
        return finish(figure, title)


def plot_dimensionality(
    sparsity: Float[Tensor, "instances"],
    dimensionality: Float[Tensor, "instances features"],
    control: Float[Tensor, "instances features"],
    plateaus: dict[str, float],
    title: str = "",
) -> Figure:
    """Each stored feature's dimensionality against 1 / (1 - S), beside a control, with lines at the plateaus.

    Right, how many features have each dimensionality. Features that are not stored should be NaN in both.
    """
    density = 1 / (1 - sparsity.float().cpu())
    jitter = torch.linspace(-0.02, 0.02, dimensionality.shape[1])
    bins = torch.linspace(0, 1.02, 52).tolist()
    sides = (("trained", dimensionality, COLOURS[0], "-", 1.0), ("control", control, "0.55", "--", 1.06))
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.6), sharey=True, width_ratios=[2.6, 1])
        for k, (name, value) in enumerate(plateaus.items()):
            for axis in (left, right):
                axis.axhline(value, color="0.8", lw=0.8, zorder=0)
            where = (1.03 + 0.14 * (k % 2), value)
            right.annotate(name, where, xycoords=("axes fraction", "data"), fontsize=7.5, va="center")
        for label, values, colour, style, shift in sides:
            values = values.float().cpu()
            x = density[:, None] * shift * jitter.exp()
            left.scatter(x, values, s=4, alpha=0.5, color=colour, linewidths=0)
            kept = values[~values.isnan()].numpy()
            right.hist(kept, bins, orientation="horizontal", histtype="step", color=colour, ls=style, label=label)
        _sparsity_axis(left, sparsity)
        left.set(ylabel="dimensionality of a feature")
        right.set(xlabel="features (log)", xscale="symlog")
        right.set_xticks([0, 10, 100], ["0", "10", "100"])
        right.legend(loc="upper right", bbox_to_anchor=(1.0, 0.97))
        return finish(figure, title)


def plot_dimensions_per_feature(
    sparsity: Float[Tensor, "instances"], dimensions: Float[Tensor, "instances"], title: str = ""
) -> Figure:
    """D* = m / ||W||_F^2 against 1 / (1 - S), with lines at the sticky points 1 and 1/2."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(4.6, 2.8))
        for value, name in ((1.0, "1: a dimension each"), (0.5, "1/2: antipodal pairs")):
            axis.axhline(value, color="0.75", lw=0.8, zorder=0)
            where = (0.98, value)
            axis.annotate(name, where, xycoords=("axes fraction", "data"), fontsize=7.5, va="bottom", ha="right")
        axis.plot(1 / (1 - sparsity.float().cpu()), dimensions.detach().float().cpu(), "o-", ms=3, lw=1)
        _sparsity_axis(axis, sparsity)
        axis.set(ylabel=r"$D^* = m \,/\, ||W||_F^2$", ylim=(0, 1.15))
        return finish(figure, title)


PHASES = ["only feature 1", "only feature 2", "both (superposition)", "neither"]


def plot_phase_diagram(
    importance: Float[Tensor, "rows"],
    density: Float[Tensor, "columns"],
    phases: dict[str, Int[Tensor, "rows columns"]],
    title: str = "",
) -> Figure:
    """Theory's best strategy for two features in one dimension, then one map for each entry of `phases`.

    A map says which of `PHASES` was found at each relative importance and density, both spaced evenly in
    their logarithms; theory's boundary is drawn on it.
    """
    colours = ListedColormap(["#3B3B8F", "#5FA8D3", "#FBE58A", "#FFFFFF"])
    x, y = density.log10().cpu(), importance.log10().cpu()
    fine_x, fine_y = torch.linspace(x[0], x[-1], 300), torch.linspace(y[0], y[-1], 300)
    theory = strategy_losses(1 - 10 ** fine_x[None], 10 ** fine_y[:, None]).argmin(dim=0)
    maps = {"theory": (fine_x, fine_y, theory)} | {name: (x, y, phase.cpu()) for name, phase in phases.items()}
    with plt.rc_context(STYLE):
        size = (2.6 * len(maps) + 1.4, 3.1)
        figure, axes = plt.subplots(1, len(maps), figsize=size, sharey=True, squeeze=False)
        for axis, (name, (columns, rows, phase)) in zip(axes.flat, maps.items(), strict=True):
            mesh = axis.pcolormesh(columns, rows, phase, cmap=colours, vmin=-0.5, vmax=3.5, shading="nearest")
            for strategy in range(3):
                axis.contour(fine_x, fine_y, theory == strategy, [0.5], colors="black", linewidths=0.8)
            ticks = [tick for tick in (0.01, 0.03, 0.1, 0.3, 1.0) if tick >= 0.9 * density.min()]
            axis.set_xticks(torch.tensor(ticks).log10().tolist(), [f"{tick:g}" for tick in ticks])
            axis.set_yticks([-1.0, 0.0, 1.0], ["0.1", "1", "10"])
            axis.set(title=name, xlabel="density 1 - S")
        axes[0, 0].set_ylabel("importance of feature 2 / feature 1")
        bar = figure.colorbar(mesh, ax=axes, ticks=range(4), shrink=0.9)
        bar.set_ticklabels(PHASES)
        return finish(figure, title)


def plot_shares(
    shares: dict[str, dict[str, float]], ylabel: str = "share", title: str = "", chance: float | None = None
) -> Figure:
    """Grouped bars: in each group (outer key) the share of each outcome (inner key), and as a line how
    often the first outcome would come about by chance."""
    outcomes = list(next(iter(shares.values())))
    hatches = ["", "//", "..", "xx"]
    width = 0.8 / len(outcomes)
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(1.5 * len(shares) + 2.2, 2.7))
        for k, outcome in enumerate(outcomes):
            places = [group + (k - (len(outcomes) - 1) / 2) * width for group in range(len(shares))]
            heights = [share[outcome] for share in shares.values()]
            bars = axis.bar(places, heights, 0.92 * width, label=outcome, color=COLOURS[k])
            for bar in bars:
                bar.set(hatch=hatches[k % 4], edgecolor="white")
            axis.bar_label(bars, fmt="%.2f", fontsize=7.5)
        if chance is not None:
            axis.axhline(chance, color="0.4", ls="--", lw=0.9, label=f"{outcomes[0]} by chance {chance:.2f}")
        axis.set_xticks(range(len(shares)), list(shares))
        axis.set(ylabel=ylabel, ylim=(0, 1.12))
        figure.legend(loc="outside lower center", ncols=len(outcomes) + (chance is not None))
        return finish(figure, title)


def plot_loss_curves(
    curves: dict[str, Float[Tensor, "records"]], steps: int, title: str = "", ylabel: str = "loss"
) -> Figure:
    """Loss against training step, one line for each named curve, on a logarithmic scale."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(5.6, 2.8))
        styles = ["-", "--", "-.", ":"]
        for k, (name, curve) in enumerate(curves.items()):
            at = (torch.arange(len(curve)) + 0.5) * steps / len(curve)
            axis.plot(at, curve.detach().float().cpu(), label=name, ls=styles[k % 4], lw=1.4)
        axis.set(xlabel="training step", ylabel=ylabel, yscale="log")
        figure.legend(loc="outside right center")
        return finish(figure, title)


def plot_lines(
    x: Sequence[float] | Tensor,
    lines: dict[str, Sequence[float] | Tensor],
    xlabel: str,
    ylabel: str,
    title: str = "",
    log: bool = False,
    reference: float | None = None,
    reference_label: str = "",
) -> Figure:
    """A few named lines over evenly spaced, labelled positions x; `reference` is a horizontal one."""
    names = [f"{float(value):g}" for value in (x.tolist() if isinstance(x, Tensor) else x)]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.4, 2.9))
        for (name, y), style, marker in zip(lines.items(), ["-", "--", "-.", ":"] * 2, "os^Dvx+*", strict=False):
            values = y.detach().float().cpu().tolist() if isinstance(y, Tensor) else list(y)
            axis.plot(range(len(names)), values, marker=marker, ls=style, ms=4, lw=1.3, label=name)
        if reference is not None:
            axis.axhline(reference, color="0.5", lw=0.9, ls=(0, (6, 3)), zorder=0, label=reference_label)
        axis.set_xticks(range(len(names)), names)
        axis.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
        figure.legend(loc="outside right center")
        return finish(figure, title)


def plot_neurons(W: Float[Tensor, "instances hidden features"], labels: Sequence[str], title: str = "") -> Figure:
    """Each neuron's weights, stacked: a bar a neuron, a block a feature (up: positive, down: negative).

    One block above the line is a monosemantic neuron; darker blocks are more important features.
    """
    W = W.detach().float().cpu()
    instances, neurons, features = W.shape
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, instances, figsize=(1.7 * instances + 0.6, 2.6), sharey=True, squeeze=False)
        shades = plt.colormaps["viridis"](torch.linspace(0, 0.95, features).numpy())
        for axis, weights, label in zip(axes.flat, W, labels, strict=True):
            up, down = torch.zeros(neurons), torch.zeros(neurons)
            for feature in range(features):
                block = weights[:, feature]
                base = torch.where(block >= 0, up, down)
                axis.bar(
                    range(1, neurons + 1),
                    block,
                    0.75,
                    bottom=base,
                    color=shades[feature],
                    edgecolor="white",
                    lw=0.6,
                )
                up, down = up + block.clamp(min=0), down + block.clamp(max=0)
            axis.axhline(0, color="black", lw=0.8)
            axis.set_title(label, fontsize=8.5)
            axis.set(xlabel="neuron", xticks=range(1, neurons + 1))
        axes[0, 0].set_ylabel("weights from features")
        return finish(figure, title)
