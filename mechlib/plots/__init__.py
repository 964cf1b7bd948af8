"""Every figure of the course, in one style (`mechlib.plots.style`); one file a topic.

Each function takes plain tensors, draws one figure and returns it; a title that states the finding is passed
by the caller. Signed quantities use a diverging map centred at zero. Figures are small on purpose: a solved notebook
with all of them must stay light.
"""

from mechlib.plots.circuits import plot_circuit
from mechlib.plots.induction import (
    plot_attention,
    plot_by_position,
    plot_circuits,
    plot_head_effects,
    plot_spectra,
    plot_tables,
    plot_training,
)
from mechlib.plots.ioi import plot_classes, plot_horizontal_bars, plot_movers
from mechlib.plots.logit_lens import (
    plot_depth_matrix,
    plot_depths,
    plot_lens_and_shares,
    plot_lens_grid,
    plot_sites,
)
from mechlib.plots.patching import plot_against, plot_bars, plot_metric_table, plot_responses, plot_sweeps
from mechlib.plots.residual_stream import plot_against_random, plot_grids, plot_patterns, plot_sum
from mechlib.plots.sae import (
    plot_concepts,
    plot_density,
    plot_found,
    plot_history,
    plot_levels,
    plot_panels,
    plot_trade,
)
from mechlib.plots.style import COLOURS, SIGNED, STYLE
from mechlib.plots.superposition import (
    plot_dimensionality,
    plot_dimensions_per_feature,
    plot_features_in_plane,
    plot_gram,
    plot_lines,
    plot_loss_curves,
    plot_neurons,
    plot_phase_diagram,
    plot_shares,
)

__all__ = [
    "COLOURS",
    "SIGNED",
    "STYLE",
    "plot_against_random",
    "plot_depth_matrix",
    "plot_depths",
    "plot_against",
    "plot_dimensionality",
    "plot_dimensions_per_feature",
    "plot_features_in_plane",
    "plot_bars",
    "plot_gram",
    "plot_grids",
    "plot_lens_and_shares",
    "plot_lens_grid",
    "plot_lines",
    "plot_loss_curves",
    "plot_metric_table",
    "plot_neurons",
    "plot_patterns",
    "plot_phase_diagram",
    "plot_responses",
    "plot_shares",
    "plot_sum",
    "plot_sites",
    "plot_attention",
    "plot_by_position",
    "plot_circuits",
    "plot_tables",
    "plot_head_effects",
    "plot_spectra",
    "plot_training",
    "plot_sweeps",
    "plot_horizontal_bars",
    "plot_classes",
    "plot_movers",
    "plot_concepts",
    "plot_density",
    "plot_found",
    "plot_history",
    "plot_levels",
    "plot_panels",
    "plot_trade",
    "plot_circuit",
]
