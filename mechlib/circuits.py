"""Circuits: which few components do a job, and how good is the claim that they do?

    roles = position_roles(prompts)                                   # "io", "s1", "s1+1", ... for every position
    values = ablation_values(model, roles, "mean", reference=twins)   # what a knocked-out component says instead
    logits = knock_out(model, tokens, values, keep=circuit, roles=roles)

A circuit is a set of *nodes*: heads (layer, head) and MLPs (layer, "mlp"), each everywhere or at one position's role,
such as (3, 0, "end"). Everything else is knocked out: it says what it says on average over reference prompts, at
positions of the same role. So every number here depends on the *reference distribution* and on the *ablation*; state
both. Then, with F a mean over prompts (often of the logit difference), C the circuit and M the whole model:

faithfulness    is F(C) close to F(M)?
completeness    for any K in C, is F(C without K) close to F(M without K)? If not, M has something that C lacks.
minimality      for every node v, is there a K in C such that F(C without K) changes when v goes too?

`scorer` gives F. The definitions, and mean ablation by role over prompts with three unrelated names ("ABC"), are those
of Wang et al. 2023, "Interpretability in the Wild" (https://arxiv.org/abs/2211.00593). Chan et al. 2022, "Causal
Scrubbing" (https://www.alignmentforum.org/posts/JvZhhzycHu2Yd57RN), have resampling.
"""

import itertools
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlib.models import circuit as known

Head = tuple[int, int]  # layer, head
Tokens = Int[Tensor, "batch position"]
Values = dict[str, Tensor]  # by the hook's name: [batch position head d_head], or [batch position d_model] for MLPs
Roles = Sequence[Sequence[str]]  # [batch][position]
Method = Literal["mean", "zero", "resample"]
METHODS = ("mean", "zero", "resample")


class Node(NamedTuple):
    """A component, everywhere or at the positions of one role. Plain tuples will do wherever nodes are asked for."""

    layer: int
    head: int | str  # its number, or "mlp"
    at: str | None = None

    @property
    def name(self) -> str:
        """As in the literature: "9.6" is head 6 of layer 9, "MLP 9" that layer's MLP."""
        return f"MLP {self.layer}" if self.head == "mlp" else f"{self.layer}.{self.head}"


Nodes = tuple[Node, ...]


class Edge(NamedTuple):
    """What one node says to another, and how much that is worth."""

    source: Node
    target: Node | str  # a node, or "logits"
    effect: float
    part: str = ""  # through which input: "q", "k", "v", or "" where there is one only


@dataclass(frozen=True)
class Circuit:
    """Nodes, edges between them, and what kind of node each is (where that is known)."""

    nodes: Nodes
    edges: tuple[Edge, ...] = ()
    classes: Mapping[Node, str] = field(default_factory=dict)


def as_nodes(nodes: Any) -> Nodes:
    """Nodes from tuples (layer, head) or (layer, head, role), from a `Circuit`, or from a truth file; each once.

    Raises ValueError for anything else.
    """
    try:
        found = [
            Node(node.layer, node.head, node.at or None) if hasattr(node, "layer") else Node(*node)
            for node in getattr(nodes, "nodes", nodes)
        ]
    except TypeError:
        raise ValueError(f"nodes are (layer, head), (layer, 'mlp') or (layer, head, role), not {nodes!r}.") from None
    return tuple(dict.fromkeys(found))


def heads_of(nodes: Any) -> set[Head]:
    """(layer, head) of the heads among the nodes, whatever their role."""
    return {(node.layer, node.head) for node in as_nodes(nodes) if not isinstance(node.head, str)}


# ---- roles


def position_roles(prompts: Sequence[Any], by_wording: bool = False) -> list[list[str]]:
    """A role for every position of the tokens that `tasks.to_tokens` makes of these prompts.

    The roles that the task gives ("io", "s2", "end") name their positions; any other position is named after the last
    one before it ("s2+1", "bos+2"). With `by_wording` the role includes the prompt's wording and the order of its
    names, so that only the same word of the same sentence counts as the same role, as Wang et al. average. Raises
    ValueError for prompts that have no "end".
    """
    for prompt in prompts:
        if "end" not in getattr(prompt, "positions", {}):
            raise ValueError("these prompts have no roles: take those of mechlib.tasks, with `positions` and an 'end'.")
    width = 1 + max(prompt.positions["end"] for prompt in prompts)
    return [_roles_of(prompt, width, by_wording) for prompt in prompts]


def _roles_of(prompt: Any, width: int, by_wording: bool) -> list[str]:
    named = {position: role for role, position in prompt.positions.items()}
    labels = [str(prompt.labels[key]) for key in ("wording", "order") if by_wording and key in prompt.labels]
    last, distance, roles = "bos", 0, []
    for position in range(width):
        if position in named:
            last, distance = named[position], 0
        roles.append(" | ".join([*labels, f"{last}+{distance}" if distance else last]))
        distance += 1
    return roles


def where(roles: Roles, role: str) -> Bool[Tensor, "batch position"]:
    """The positions that have a role. Raises ValueError if none has."""
    here = torch.tensor([[name == role for name in row] for row in roles])
    if not here.any():
        known_roles = sorted({name for row in roles for name in row if name and "+" not in name})
        raise ValueError(f"no position has the role {role!r}; there are {', '.join(known_roles[:12])}.")
    return here


# ---- ablation


def ablation_values(
    model: Any,
    roles: Roles,
    method: Method = "mean",
    reference: Int[Tensor, "rows position"] | None = None,
    reference_roles: Roles | None = None,
    mlps: bool = False,
    seed: int = 0,
) -> Values:
    """What each component says when it is knocked out, for prompts with these roles.

    Args:
        method: "mean": the average over all positions of the reference prompts that have the same role; "resample":
            what it says on one reference prompt, drawn for each prompt among those that have all of its roles (the
            same for all components); "zero": nothing.
        reference: the prompts that stand for "no news", such as the twins of `tasks.ioi(..., corruption="abc")`.
        reference_roles: their roles; the same as `roles` unless told (twins have the same).
        mlps: MLPs too. As in Wang et al., they cannot be knocked out unless asked for.

    Returns values by hook name: [batch position head d_head] for heads (z), [batch position d_model] for MLPs. Raises
    ValueError for another method, a reference that is missing or has no position of some role, and lengths that do not
    fit.
    """
    _check_values(roles, method, reference, reference_roles or roles)
    layers = range(model.cfg.n_layers)
    names = [z_hook(layer) for layer in layers] + [mlp_hook(layer) for layer in layers if mlps]
    shape = len(roles), len(roles[0])
    if method == "zero" or reference is None:
        head, width = (model.cfg.n_heads, model.cfg.d_head), (model.cfg.d_model,)
        device = next(model.parameters()).device
        return {name: torch.zeros(*shape, *(head if "hook_z" in name else width), device=device) for name in names}
    with torch.no_grad():
        _, cache = model.run_with_cache(reference, names_filter=names)
    theirs = reference_roles or roles
    if method == "resample":
        rows, positions = _draw(roles, theirs, random.Random(f"resample/{seed}"))
        return {name: cache[name][rows, positions] for name in names}
    numbers = {role: i for i, role in enumerate(dict.fromkeys(role for row in theirs for role in row))}
    place, target = (torch.tensor([[numbers[role] for role in row] for row in rs]) for rs in (theirs, roles))
    return {name: _mean_by_role(cache[name], place, len(numbers))[target] for name in names}


def _mean_by_role(
    activation: Float[Tensor, "rows position ..."], place: Int[Tensor, "rows position"], n: int
) -> Float[Tensor, "role ..."]:
    flat, place = activation.flatten(0, 1), place.flatten().to(activation.device)
    total = flat.new_zeros(n, *flat.shape[1:]).index_add_(0, place, flat)
    return total / place.bincount(minlength=n).view(n, *[1] * (flat.ndim - 1))


def _draw(roles: Roles, theirs: Roles, rng: random.Random) -> tuple[Tensor, Tensor]:
    """For every position of every prompt, a row and a position of the reference with the same role."""
    at = [{role: position for position, role in reversed(list(enumerate(row)))} for row in theirs]
    rows, positions = [], []
    for mine in roles:
        fits = [i for i, has in enumerate(at) if all(role in has for role in mine)]
        if not fits:
            raise ValueError("no reference prompt has all roles of some prompt: take twins of the prompts themselves.")
        rows.append([rng.choice(fits)] * len(mine))
        positions.append([at[rows[-1][0]][role] for role in mine])
    return torch.tensor(rows), torch.tensor(positions)


def knock_out(
    model: Any, tokens: Tokens, values: Values, keep: Any = None, drop: Any = (), roles: Roles | None = None
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits on `tokens` when some components say what `values` has for them.

    `keep` are the nodes that go on working: all others that `values` knows are knocked out; None keeps all, () none.
    `drop` are nodes that are knocked out even so. A node with a role, (3, 0, "end"), is kept or dropped at the
    positions of that role alone, and `roles` are needed. Raises ValueError for an unknown node or role, and for values
    of another shape.
    """
    kept, dropped = None if keep is None else as_nodes(keep), as_nodes(drop)
    _check_nodes(model, values, kept, dropped, roles)
    silent = _silent(tokens, values, kept, dropped, roles)

    def put(name: str, mask: Tensor) -> Callable[[Tensor, Any], Tensor]:
        return lambda value, hook: torch.where(mask[..., None].to(value.device), values[name].to(value), value)

    hooks = [(name, put(name, mask)) for name, mask in silent.items() if mask.any()]
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


def _silent(
    tokens: Tokens, values: Values, kept: Nodes | None, dropped: Nodes, roles: Roles | None
) -> dict[str, Bool[Tensor, "batch position *head"]]:
    """Where each hook's activation is replaced."""
    for name, value in values.items():
        if value.shape[:2] != tokens.shape:
            raise ValueError(
                f"the values at {name} are for {list(value.shape[:2])} prompts and positions, the tokens are "
                f"{list(tokens.shape)}: make both from the same prompts."
            )
    masks = {name: torch.full(value.shape[:-1], kept is not None) for name, value in values.items()}
    for nodes, silent in ((kept or (), False), (dropped, True)):
        for node in nodes:
            name = hook_of(node)
            if name in masks:
                here = torch.ones(tokens.shape, dtype=torch.bool) if node.at is None else where(roles or [[]], node.at)
                part = masks[name] if isinstance(node.head, str) else masks[name][..., node.head]
                part[here] = silent
    return masks


def z_hook(layer: int) -> str:
    """A layer's heads before W_O: [batch position head d_head]."""
    return f"blocks.{layer}.attn.hook_z"


def mlp_hook(layer: int) -> str:
    """What a layer's MLP writes: [batch position d_model]."""
    return f"blocks.{layer}.hook_mlp_out"


def hook_of(node: Node) -> str:
    return mlp_hook(node.layer) if node.head == "mlp" else z_hook(node.layer)


# ---- how good is a circuit?


class Score(Protocol):
    """F: a metric, prompt by prompt, with `keep` working (None: all; (): nothing), and `without` these."""

    def __call__(self, keep: Any = None, without: Any = ()) -> Float[Tensor, "batch"]: ...


def scorer(
    model: Any,
    tokens: Tokens,
    values: Values,
    metric: Callable[[Tensor], Tensor],
    at: Int[Tensor, "batch"] | None = None,
    roles: Roles | None = None,
) -> Score:
    """F of sets of nodes: `score()` is the model, `score(())` nothing, `score(circuit, without=K)` a part of it.

    `metric` turns the logits at the end of each prompt, [batch vocabulary], into a number for each. `at` is where that
    is; the last position if None. What was asked before is remembered: a call costs one forward pass, once.
    """
    rows = torch.arange(len(tokens), device=tokens.device)
    end = torch.full_like(rows, tokens.shape[1] - 1) if at is None else at.to(tokens.device)
    seen: dict[Any, Tensor] = {}

    def score(keep: Any = None, without: Any = ()) -> Tensor:
        kept, dropped = None if keep is None else frozenset(as_nodes(keep)), frozenset(as_nodes(without))
        if (kept, dropped) not in seen:
            with torch.no_grad():
                seen[kept, dropped] = metric(knock_out(model, tokens, values, kept, dropped, roles)[rows, end])
        return seen[kept, dropped]

    return score


class Faithfulness(NamedTuple):
    difference: float  # F(M) - F(C): 0 is best
    ratio: float  # (F(C) - F(nothing)) / (F(M) - F(nothing)): 1 is best; above 1 the circuit does more than the model


def faithfulness(
    circuit: Float[Tensor, "batch"], model: Float[Tensor, "batch"], empty: Float[Tensor, "batch"]
) -> Faithfulness:
    """How much of the model's behaviour the circuit keeps, from a metric on each prompt with the circuit alone working,
    with everything, and with nothing.

    Means over prompts come first, and then the ratio: prompts where the model is hardly better than nothing would
    otherwise decide it. Raises ValueError if the model is no better than nothing: then there is nothing to keep.
    """
    of_circuit, of_model, of_nothing = (scores.mean().item() for scores in (circuit, model, empty))
    if of_model == of_nothing:
        raise ValueError("the model scores the same as with everything knocked out: there is nothing to explain here.")
    return Faithfulness(of_model - of_circuit, (of_circuit - of_nothing) / (of_model - of_nothing))


def completeness_gap(score: Score, circuit: Any, K: Any) -> float:
    """|F(C without K) - F(M without K)|: 0 for every K if the circuit has all that the model would fall back on."""
    return (score(circuit, without=K).mean() - score(None, without=K).mean()).abs().item()


def random_subsets(nodes: Any, n: int, seed: int = 0) -> list[Nodes]:
    """`n` subsets; each node is in each of them with probability 1/2."""
    rng, nodes = random.Random(f"subsets/{seed}"), _some(nodes)
    return [tuple(node for node in nodes if rng.random() < 0.5) for _ in range(n)]


def greedy_subset(score: Score, circuit: Any, size: int, tries: int = 10, seed: int = 0) -> Nodes:
    """A K that makes the completeness gap large: node by node, the best of a few random candidates, while it grows."""
    rng, nodes = random.Random(f"greedy/{seed}"), _some(circuit)
    K: Nodes = ()
    while len(K) < size and (left := [node for node in nodes if node not in K]):
        candidates = rng.sample(left, min(tries, len(left)))
        best = max(((*K, node) for node in candidates), key=lambda larger: completeness_gap(score, circuit, larger))
        if completeness_gap(score, circuit, best) <= completeness_gap(score, circuit, K):
            break
        K = best
    return K


class Minimality(NamedTuple):
    score: float  # the largest change
    subset: Nodes  # the K that shows it
    naive: float  # the change with K empty: of the node alone


def minimality_score(
    score: Score, circuit: Any, node: Any, subsets: Iterable[Any] | None = None, most: int = 10
) -> Minimality:
    """The largest |F(C without K) - F(C without K and v)| over subsets K of the circuit, for a node v.

    A node with a backup looks useless when it alone is removed (`naive`); with the backup in K it does not. `subsets`
    are those to try; all of them if None, which `most` other nodes allow. Raises ValueError for a node that is not in
    the circuit, and for too many.
    """
    nodes, v = as_nodes(circuit), as_nodes([node])[0]
    if v not in nodes:
        raise ValueError(f"{v.name} is not in the circuit, so it cannot be needed there.")
    others = [each for each in nodes if each != v]
    if subsets is None and len(others) > most:
        raise ValueError(f"{len(others)} nodes have too many subsets to try all: say which, such as random_subsets.")
    if subsets is None:
        subsets = itertools.chain.from_iterable(itertools.combinations(others, k) for k in range(len(others) + 1))

    def change(K: Nodes) -> float:
        return (score(nodes, without=K) - score(nodes, without=(*K, v))).mean().abs().item()

    tried = {K: change(K) for K in [(), *(tuple(n for n in as_nodes(K) if n != v) for K in subsets)]}
    best = max(tried, key=lambda K: tried[K])
    return Minimality(tried[best], best, tried[()])


def precision_recall(found: Iterable[Any], true: Iterable[Any]) -> tuple[float, float]:
    """Of what was found, how much is true; of what is true, how much was found. Finding nothing has precision 0.

    Raises ValueError if nothing is true: then nothing can be found.
    """
    found, true = set(found), set(true)
    if not true:
        raise ValueError("there is nothing to find: the known circuit is empty.")
    both = len(found & true)
    return both / max(1, len(found)), both / len(true)


def random_circuits(model: Any, circuit: Any, n: int, seed: int = 0) -> list[Nodes]:
    """`n` random circuits with as many heads and MLPs as this one, at the same roles, none of them the circuit itself.

    Some of their nodes may be the circuit's own. Raises ValueError for an empty circuit.
    """
    rng, nodes = random.Random(f"sets/{seed}"), _some(circuit)
    heads, mlps = ([node.at for node in nodes if (node.head == "mlp") == kind] for kind in (False, True))
    layers = range(model.cfg.n_layers)
    all_heads = [(layer, head) for layer in layers for head in range(model.cfg.n_heads)]

    def draw() -> Nodes:
        drawn = rng.sample(all_heads, len(heads))
        chosen = rng.sample(layers, len(mlps)) if mlps else []
        return (
            *(Node(*head, at) for head, at in zip(drawn, heads)),
            *(Node(layer, "mlp", at) for layer, at in zip(chosen, mlps)),
        )

    return [drawn for drawn in (draw() for _ in range(10 * n)) if set(drawn) != set(nodes)][:n]


# ---- which heads count as found?


def found(scores: Float[Tensor, "layer head"], threshold: float) -> set[Head]:
    """The heads with a score above the threshold."""
    return {(layer, head) for layer, head in (scores > threshold).nonzero().tolist()}


def fix_threshold(scores: Float[Tensor, "layer head"], true: set[Head]) -> float:
    """The middle between two neighbouring scores with the best precision times recall, and of those the widest gap.

    To be fixed where the circuit is known, and then used where it is not.
    """
    ranked = scores.flatten().sort().values
    middles = ((ranked[1:] + ranked[:-1]) / 2).tolist()

    def quality(i: int) -> tuple[float, float]:
        precision, recall = precision_recall(found(scores, middles[i]), true)
        return precision * recall, (ranked[i + 1] - ranked[i]).item()

    return middles[max(range(len(middles)), key=quality)]


# ---- circuits that others found


@dataclass(frozen=True)
class Published:
    """A circuit as a paper has it: its classes of heads, at their roles, and the numbers measured there."""

    circuit: known.Circuit
    model: str
    source: str
    numbers: Mapping[str, float]
    wordings: tuple[str, ...]  # of the prompts, with the slots of `tasks.ioi`

    def classes(self) -> dict[str, tuple[Head, ...]]:
        """The heads of each class, in the paper's order."""
        return {name: tuple(node.place for node in self.circuit.group(name)) for name in self.circuit.variables}


def published(name: str = "gpt2-ioi") -> Published:
    """A published circuit: "gpt2-ioi", the 26 heads of GPT-2 small (Wang et al. 2023). Raises ValueError for others."""
    folder = resources.files("mechlib") / "data" / "circuits"
    names = sorted(file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json"))
    if name not in names:
        raise ValueError(f"there is no published circuit {name!r}; there are {', '.join(names)}.")
    content = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return Published(
        known.parse(content), content["model"], content["source"], content["numbers"], tuple(content["wordings"])
    )


# ---- what can go wrong, in one sentence


def _some(circuit: Any) -> Nodes:
    nodes = as_nodes(circuit)
    if not nodes:
        raise ValueError("the circuit is empty: it has no node to take out or to compare with.")
    return nodes


def _check_values(roles: Roles, method: str, reference: Tensor | None, reference_roles: Roles) -> None:
    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(map(repr, METHODS))}, not {method!r}.")
    for which in (roles, reference_roles):
        if not which or len({len(row) for row in which}) > 1:
            raise ValueError("the roles are of mixed lengths: one role for each position of the padded tokens.")
    if method == "zero":
        return
    if reference is None:
        raise ValueError(f"{method} ablation needs reference prompts: what would a component say without news?")
    shape = [len(reference_roles), len(reference_roles[0])]
    if list(reference.shape) != shape:
        raise ValueError(f"the reference is {list(reference.shape)} and its roles {shape}: prompts of mixed lengths?")
    if missing := {role for row in roles for role in row} - {role for row in reference_roles for role in row}:
        raise ValueError(f"no reference prompt has the role {min(missing)!r}: take twins of the prompts themselves.")


def _check_nodes(model: Any, values: Values, kept: Nodes | None, dropped: Nodes, roles: Roles | None) -> None:
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    for node in (*(kept or ()), *dropped):
        is_head = not isinstance(node.head, str) and 0 <= node.head < n_heads
        if not 0 <= node.layer < n_layers or not (is_head or node.head == "mlp"):
            raise ValueError(
                f"there is no {node.name}: the model has {n_layers} layers of {n_heads} heads and an 'mlp'."
            )
        if node.at is not None and roles is None:
            raise ValueError(f"{node.name} is meant at {node.at!r}: give the `roles` of the positions.")
    for node in dropped:
        if hook_of(node) not in values:
            raise ValueError(f"there is nothing to put for {node.name}: make the values with mlps=True.")
