"""Every figure draws, stays small and light, and is closed, so that a notebook shows it once."""

import io

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
import torch

from mechlib import plots
from mechlib.circuits import Circuit, Edge, Node

W = torch.randn(3, 2, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
LABELS = ["a", "b", "c"]
S = torch.tensor([0.2, 0.5, 0.9])
D = torch.rand(3, 6, generator=torch.Generator().manual_seed(1))
NODES = (Node(0, 1, "s2"), Node(2, "mlp"), Node(2, 0, "end"))
CIRCUIT = Circuit(
    NODES,
    (Edge(NODES[0], NODES[2], 0.5, "v"), Edge(NODES[0], NODES[2], 0.1, "k"), Edge(NODES[2], "logits", -1.0)),
    {NODES[2]: "name mover"},
)

FIGURES = {
    "features_in_plane": lambda: plots.plot_features_in_plane(W, LABELS, "t", columns=2),
    "pairs": lambda: plots.plot_features_in_plane(W, LABELS, pairs=True),
    "gram": lambda: plots.plot_gram(W, LABELS, "t"),
    "dimensionality": lambda: plots.plot_dimensionality(
        S, D.where(D > 0.3, torch.nan), D.where(D > 0.3, torch.nan), {"1/2": 0.5, "2/5": 0.4}, "t"
    ),
    "dimensions_per_feature": lambda: plots.plot_dimensions_per_feature(S, D[:, 0], "t"),
    "phase_diagram": lambda: plots.plot_phase_diagram(
        torch.logspace(-1, 1, 4), torch.logspace(-2, 0, 5), {"trained": torch.arange(20).view(4, 5) % 4}, "t"
    ),
    "shares": lambda: plots.plot_shares({"x": {"a": 0.2, "b": 0.8}, "y": {"a": 0.5, "b": 0.5}}, chance=0.5),
    "loss_curves": lambda: plots.plot_loss_curves({"a": D[0], "b": D[1]}, 100, "t"),
    "lines": lambda: plots.plot_lines([0, 0.5, 1], {"a": D[:, 0], "b": [1, 2, 3]}, "x", "y", reference=1.0),
    "neurons": lambda: plots.plot_neurons(W, LABELS, "t"),
    "sum": lambda: plots.plot_sum({"a": 1.0, "b": -0.4, "c": 2.0}, 2.6, "y", "t"),
    "grids": lambda: plots.plot_grids(
        {"x": D - 0.5, "y": 2 * D}, LABELS, list("abcdef"), "column", "row", mark=[(1, 2)]
    ),
    "patterns": lambda: plots.plot_patterns({"0.0": D[:, :3], "0.1": D[:, 3:]}, LABELS, "t"),
    "against_random": lambda: plots.plot_against_random(
        {"g": ({"a": 1.0, "b": 2.0}, [1.0, 1.1]), "h": ({"a": 1.5}, [0.9])}, "x", reference=1.0
    ),
    "lens_grid": lambda: plots.plot_lens_grid([["is"] * 4] * 3, D[:, :4], ["a", "b", "c", "d"], "t"),
    "lens_and_shares": lambda: plots.plot_lens_and_shares(
        [["is"] * 4] * 3, D[:, :4], ["a", "b", "c", "d"], {"m": {"x": [0.5] * 3, "y": [0.5] * 3}}, "t"
    ),
    "depths": lambda: plots.plot_depths({"a": D[0], "b": (D[1], D[1] - 0.1, D[1] + 0.1)}, "y", "t", reference=0.5),
    "sites": lambda: plots.plot_sites({"a": ([0.5], [1.0])}, "x", "y", "t", {(0.4, 1.0): "here"}, chance=0.5),
    "depth_matrix": lambda: plots.plot_depth_matrix(D[:, :4], "x", "y", "t"),
    "tables": lambda: plots.plot_tables({"a": D, "b": -D}, LABELS, list("uvwxyz"), "t", signed=True),
    "attention": lambda: plots.plot_attention({"0.1": D[:, :3], "1.0": D[:, 3:]}, LABELS, "t"),
    "head_effects": lambda: plots.plot_head_effects({"zero": D[:2], "mean": D[1:]}, "loss", "t"),
    "head_effects_linear": lambda: plots.plot_head_effects({"zero": -D}, "loss", log=False),
    "circuits": lambda: plots.plot_circuits({"a": D, "b": D - 0.5}, LABELS, list("uvwxyz"), "t", [(0, 1)]),
    "spectra": lambda: plots.plot_spectra({"a": D[0], "b": D[1]}, "t", width=9),
    "training": lambda: plots.plot_training(
        [1, 2, 5], {"loss": {"a": [3, 2, 1]}, "score": {"b": [0, 1, 2]}}, "t", (2, 4)
    ),
    "sweeps": lambda: plots.plot_sweeps({"denoising": D, "noising": -D}, list("abcdef"), "t", "position"),
    "long_sweeps": lambda: plots.plot_sweeps(
        {"stream": D.repeat(1, 2), "mlp": -D.repeat(1, 2)}, list("abcdefghijkl"), "t"
    ),
    "bars": lambda: plots.plot_bars({"AND": {"denoising": [0, 1], "noising": [-1, 0]}}, ["a", "b"], "t", "y"),
    "responses": lambda: plots.plot_responses(torch.arange(3.0), {name: torch.rand(3) for name in "abcd"}, "dose", "t"),
    "against": lambda: plots.plot_against(D[0], D[1], "x", "y", "t", {2: "0.1"}),
    "history": lambda: plots.plot_history([{"step": k, "loss": 3.0 / k, "L0": 5.0 * k} for k in (1, 2, 3)], "t"),
    "found": lambda: plots.plot_found({"trained": D, "random": D.flip(0)}, "t"),
    "panels": lambda: plots.plot_panels(
        [0.5, 2], {"p": {"a": [[1, 2], [3]]}, "q": {"a": [[1], [2]], "b": [[0], [1]]}}, "x", "t", {"q": (0.5, "here")}
    ),
    "concepts": lambda: plots.plot_concepts({"a": [0.1, 0.9, 0.5], "b": [0.3, 0.2, 0.5]}, LABELS, "F1", "t", split=1),
    "levels": lambda: plots.plot_levels({"f": (D[0], D[1] > 0.5)}, S, {"f": (S, 1 - S)}, "t"),
    "density": lambda: plots.plot_density({"a": D[0] * 0.1, "b": torch.zeros(4)}, "t"),
    "trade": lambda: plots.plot_trade({"a": ([0, 1], [0, 0.5]), "b": ([0, 2], [0, 1])}, "x", "y", "t"),
    "metric_table": lambda: plots.plot_metric_table(
        {"m": {"p": True, "q": False}}, {"p": True, "q": True}, "t", {"m": {"p": False, "q": False}}
    ),
    "circuit": lambda: plots.plot_circuit(CIRCUIT, "t", weakest=0.01),
    "movers": lambda: plots.plot_movers({"a": (D[:, :3], D[:, 3:] - 0.5)}, "x", "y", "t"),
    "horizontal_bars": lambda: plots.plot_horizontal_bars(
        {"a": {"x": 1.0, "y": 0.2}, "b": {"x": -0.3}}, "x", "t", band=(0.8, 1.2), dots={"b": [0.1, 0.2]}
    ),
    "classes": lambda: plots.plot_classes({"mover": {"m": ("same", "9.9"), "n": ("missing", "")}}, "t"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figure(name):
    before = dict(matplotlib.rcParams)
    figure = FIGURES[name]()
    assert not plt.get_fignums()
    assert dict(matplotlib.rcParams) == before
    image = io.BytesIO()
    figure.savefig(image, format="png")
    assert 1_000 < len(image.getvalue()) < 120_000


def test_long_titles_are_wrapped():
    figure = plots.plot_loss_curves({"a": D[0]}, 100, "a finding that is much longer than the figure is wide " * 3)
    assert figure.get_suptitle().count("\n") >= 1


def test_a_circuits_figure_says_what_is_in_it():
    """The boxes' names, the edges' numbers (one arrow for two inputs), the classes, and text that an SVG keeps."""
    figure = plots.plot_circuit(CIRCUIT, "t")
    axis = figure.axes[0]
    written = [text.get_text() for text in axis.texts if text.get_text()]
    assert sorted(written) == ["-1", "0.1\ns2", "2.0\nend", "MLP 2", "logits", "v k 0.5"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["layer 0", "layer 2"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["name mover", "effect > 0", "effect < 0"]
    widths = [text.arrow_patch.get_linewidth() for text in axis.texts if getattr(text, "arrow_patch", None)]
    assert len(widths) == 2 and max(widths) == pytest.approx(4.0)
    weak = [text.get_text() for text in plots.plot_circuit(CIRCUIT, weakest=0.7).axes[0].texts]
    assert "-1" in weak and "v k 0.5" not in weak
    image = io.StringIO()
    figure.savefig(image, format="svg")
    assert image.getvalue().startswith("<?xml") and len(image.getvalue()) < 120_000
