"""The course's one style: colours that stay apart for colour-blind readers and in greyscale; small, light figures."""

import textwrap
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

COLOURS = [
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#8A8A8A",
]  # Okabe & Ito 2008
STYLE: dict[Any, Any] = {
    "figure.dpi": 80,
    "savefig.dpi": 80,
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": plt.cycler(color=COLOURS),
    "figure.constrained_layout.use": True,
}
SIGNED = "RdBu_r"  # red above zero, blue below; always drawn with limits symmetric about zero


def finish(figure: Figure, title: str) -> Figure:
    """Write the title and close the figure, so that a notebook shows it once: as the value of its cell."""
    if title:
        figure.suptitle(textwrap.fill(title, int(13.5 * figure.get_figwidth())), fontsize=10)
    plt.close(figure)
    return figure
