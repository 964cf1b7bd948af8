"""What is known about the inside of a model that was made, not found: its truth file.

    circuit = truth("ioi-known")               # mechlib.models.truth
    circuit.heads("name mover")                # ((3, 0), (3, 2))
    for node in circuit.nodes: print(node.layer, node.head, node.at, node.variable)

A truth file says which head carries which variable of a causal model at which position, because training put it there
and interchanges confirmed it. Where a head looks, how much its vote weighs and how one variable acts on another was
measured afterwards, on held-out prompts. What the file does not list is not known, which is not the same as absent.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FILE = "truth.json"


@dataclass(frozen=True)
class Node:
    """A head that carries a variable at one position."""

    layer: int
    head: int
    variable: str
    at: str  # the position's role in `mechlib.tasks.ioi`, such as "s2" or "end"
    share: float = 0.0  # of its group's vote, as trained: a variable's add up to 1; 0 if nobody trained it
    looks_at: str = ""  # the role that it attends to from there
    attention: float | None = None  # measured: its mean attention to that
    vote: float | None = None  # measured: how likely the answer follows this head when it alone is interchanged

    @property
    def place(self) -> tuple[int, int]:
        """(layer, head)."""
        return self.layer, self.head


@dataclass(frozen=True)
class Edge:
    """Measured: how much of an interchange of `source` is undone when `target` keeps its value."""

    source: str
    target: str
    undone: float | None = None  # None where that was not measured


@dataclass(frozen=True)
class Circuit:
    """The causal model's variables, with their meaning, and the heads that carry them."""

    task: str
    variables: Mapping[str, str]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...] = field(default=())

    def group(self, variable: str) -> tuple[Node, ...]:
        """The heads that carry a variable. Raises ValueError for one that the circuit has not."""
        if variable not in self.variables:
            raise ValueError(f"the circuit has no variable {variable!r}; there are {', '.join(self.variables)}")
        return tuple(node for node in self.nodes if node.variable == variable)

    def heads(self, variable: str | None = None) -> tuple[tuple[int, int], ...]:
        """(layer, head) of every head that carries the variable, or any variable."""
        nodes = self.nodes if variable is None else self.group(variable)
        return tuple(sorted(node.place for node in nodes))


def write(circuit: Circuit, path: Path) -> None:
    path.write_text(json.dumps(asdict(circuit), indent=2) + "\n", encoding="utf-8")


def read(path: Path) -> Circuit:
    """Raises KeyError or TypeError for a file of another form."""
    return parse(json.loads(path.read_text(encoding="utf-8")))


def parse(content: Mapping[str, Any]) -> Circuit:
    """The circuit in a file's content. Raises KeyError or TypeError for another form."""
    return Circuit(
        task=content["task"],
        variables=content["variables"],
        nodes=tuple(Node(**node) for node in content["nodes"]),
        edges=tuple(Edge(**edge) for edge in content["edges"]),
    )
