"""A circuit as a graph (chapter 05_ioi): layers from bottom to top, and at the top the logits."""

import math
from typing import Any

import matplotlib.pyplot as plt
import networkx as nx
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mechlib.circuits import Circuit, Node, as_nodes
from mechlib.plots.style import COLOURS, STYLE, finish

Point = tuple[float, float]
CLASSES = [*COLOURS[:5], "#F0E442", "#000000"]  # yellow for the sixth, whose blue is too near the first one's
POSITIVE, NEGATIVE = "#B2182B", "#2166AC"  # the ends of `SIGNED`: red above zero, blue below
LOGITS = "logits"
STEP = 1.5  # from node to node in a row, where from row to row is 1
MANY = 30  # so many edges are readable with a number at each


def plot_circuit(circuit: Circuit, title: str = "", weakest: float = 0.0, unit: str = "effect") -> Figure:
    """Boxes for nodes, coloured by class; arrows for edges: wider for larger effects, red above zero, blue and dashed
    below. Of edges into several inputs of a node the strongest is drawn. Up to thirty edges have their inputs (q, k, v)
    and their effect written beside them.

    Layers that hold nothing are left out. Edges weaker than `weakest` are not drawn. The figure can be saved as SVG.
    """
    graph = _graph(circuit, weakest)
    place = _places(graph)
    classes = list(dict.fromkeys(circuit.classes.values()))
    colours = {name: CLASSES[i % len(CLASSES)] for i, name in enumerate(classes)}
    heights: dict[int, set[float]] = {}
    for node, (_, height) in place.items():
        if node != LOGITS:
            heights.setdefault(node.layer, set()).add(height)
    across = max([abs(x) for x, _ in place.values()], default=0)
    strongest = max([abs(edge["effect"]) for *_, edge in graph.edges(data=True)], default=1.0)
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(max(4.4, 1.7 * across + 2.2), 0.85 * place[LOGITS][1] + 1.9))
        for source, target, edge in graph.edges(data=True):
            _draw_edge(axis, place, source, target, edge, strongest)
            if graph.number_of_edges() <= MANY:
                _number_edge(axis, place, source, target, edge)
        for node, (x, y) in place.items():
            colour = "#FFFFFF" if node == LOGITS else _light(colours.get(circuit.classes.get(node, ""), "#8A8A8A"))
            label = node if node == LOGITS else node.name + (f"\n{node.at}" if node.at else "")
            axis.text(x, y, label, ha="center", va="center", fontsize=8.5, zorder=4, linespacing=1.1,
                      bbox={"boxstyle": "round,pad=0.35", "fc": colour, "ec": "0.25", "lw": 0.9})  # fmt: skip
        middles = {layer: sum(rows) / len(rows) for layer, rows in sorted(heights.items())}
        axis.set_yticks(list(middles.values()), [f"layer {layer}" for layer in middles])
        axis.set(xlim=(-across - 0.8, across + 0.8), ylim=(-0.4, place[LOGITS][1] + 0.4), xticks=[], aspect="equal")
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        handles = [
            Line2D([], [], marker="s", ls="", ms=9, mfc=_light(colours[c]), mec="0.25", label=c) for c in classes
        ]
        handles += [
            Line2D([], [], color=colour, ls=style, lw=2, label=f"{unit} {sign} 0")
            for colour, style, sign, some in ((POSITIVE, "-", ">", 1), (NEGATIVE, "--", "<", -1))
            if any(some * edge["effect"] > 0 for *_, edge in graph.edges(data=True))
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=max(1, int(figure.get_figwidth() / 1.5)))
        return finish(figure, title)


def _graph(circuit: Circuit, weakest: float) -> Any:
    """A directed graph of the nodes and the logits; an edge has `effect` and `parts`, such as "q k"."""
    graph = nx.DiGraph()
    graph.add_nodes_from([*as_nodes(circuit), LOGITS])
    for edge in sorted(circuit.edges, key=lambda edge: -abs(edge.effect)):
        source, target = (
            as_nodes([edge.source])[0],
            edge.target if edge.target == LOGITS else as_nodes([edge.target])[0],
        )
        if abs(edge.effect) < weakest:
            continue
        if graph.has_edge(source, target):
            graph[source][target]["parts"].append(edge.part)
        else:
            graph.add_edge(source, target, effect=edge.effect, parts=[edge.part])
    return graph


def _places(graph: Any) -> dict[Any, Point]:
    """Rows by layer, an MLP above the heads of its layer; in a row the nodes stand side by side, near what they speak
    to."""
    rows: dict[tuple[int, bool], list[Any]] = {}
    for node in graph:
        if node != LOGITS:
            rows.setdefault((node.layer, node.head == "mlp"), []).append(node)
    place: dict[Any, Point] = {LOGITS: (0.0, float(len(rows)))}
    for height, which in reversed(list(enumerate(sorted(rows)))):
        row = rows[which]

        def aim(node: Node) -> float:
            listeners = [place[target][0] for target in graph.successors(node) if target in place]
            return sum(listeners) / len(listeners) if listeners else 0.0

        row.sort(key=lambda node: (aim(node), str(node.head)))
        for i, node in enumerate(row):
            # A box alone in its row stands right or left in turn, and other odd rows a little aside: so arrows across
            # a row miss its boxes.
            aside = (0.6 if height % 2 else -0.6) if len(row) == 1 else 0.3 if height % 2 and len(row) % 2 else 0.0
            place[node] = (STEP * (i - (len(row) - 1) / 2) + aside, float(height))
    return place


def _on_curve(start: Point, end: Point, bend: float, t: float) -> Point:
    """Where an arrow is after the share t of its way: it is a Bezier curve with one control point."""
    (x0, y0), (x1, y1) = start, end
    bow = 2 * t * (1 - t) * bend
    return x0 + t * (x1 - x0) + bow * (y1 - y0), y0 + t * (y1 - y0) - bow * (x1 - x0)


def _bend(place: dict[Any, Point], source: Any, target: Any) -> float:
    """The smallest bow with which an arrow misses the other boxes; if none does, the one that keeps farthest away."""
    others = [point for node, point in place.items() if node not in (source, target)]
    bends = (0.0, 0.15, -0.15, 0.3, -0.3, 0.45, -0.45)

    def distance(bend: float) -> float:
        way = [_on_curve(place[source], place[target], bend, i / 20) for i in range(21)]
        return min((math.dist(point, box) for point in way for box in others), default=math.inf)

    return next((bend for bend in bends if distance(bend) > 0.45), max(bends, key=distance))


def _colour(edge: Any) -> str:
    return POSITIVE if edge["effect"] > 0 else NEGATIVE


def _draw_edge(axis: Any, place: Any, source: Any, target: Any, edge: Any, strongest: float) -> None:
    axis.annotate("", place[target], place[source], zorder=2, arrowprops={
        "arrowstyle": "-|>,head_length=0.5,head_width=0.22", "color": _colour(edge), "shrinkA": 14, "shrinkB": 14,
        "lw": 0.6 + 3.4 * abs(edge["effect"]) / strongest, "ls": "-" if edge["effect"] > 0 else (0, (3, 1.5)),
        "alpha": 0.8, "connectionstyle": f"arc3,rad={_bend(place, source, target)}",
    })  # fmt: skip


def _number_edge(axis: Any, place: Any, source: Any, target: Any, edge: Any) -> None:
    """The input and the effect, on the arrow: nearer to its beginning where it may cross another."""
    t = min(0.5, 0.3 * STEP / max(0.1, abs(place[target][0] - place[source][0])))
    bend = _bend(place, source, target)
    x, y = _on_curve(place[source], place[target], bend, 0.3 if bend else t)
    parts = " ".join(part for part in edge["parts"] if part)
    axis.text(x, y, f"{parts} {edge['effect']:.2g}".strip(), fontsize=7, color=_colour(edge), zorder=3, ha="center",
              va="center", bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.85})  # fmt: skip


def _light(colour: str) -> tuple[float, float, float]:
    """The colour mixed with white, so that black text is readable on it."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return (0.45 * red + 0.55, 0.45 * green + 0.55, 0.45 * blue + 0.55)
