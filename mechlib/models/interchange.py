"""Does a model work as its truth file says? Measured by editing it, on held-out prompts of indirect object identification.

An *interchange* takes what the heads of one variable write from a second prompt, the source: the answer has to become
what the causal model says when that variable alone comes from the source (Geiger et al. 2021, "Causal abstractions of
neural networks"). *Resampling* takes what everything else writes from any other prompt: the answer has to stay.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlib import tasks
from mechlib.models.circuit import Circuit, Edge, Node
from mechlib.tasks import Prompt

Head = tuple[int, int]  # layer, head
Activations = dict[str, Tensor]  # hook name -> what it saw
Edit = Callable[[Tensor], Tensor]  # what a hook sees -> what to go on with
BACKUP = "backup name mover"


def z_hook(layer: int) -> str:
    """Where a layer's heads are read and edited: [batch, position, head, size]."""
    return f"blocks.{layer}.attn.hook_z"


def mlp_hook(layer: int) -> str:
    return f"blocks.{layer}.hook_mlp_out"


# ---- prompts


@dataclass(frozen=True)
class Sample:
    """Prompts as tensors: tokens, the position of each role, the two names, and which of the two S2 repeats."""

    tokens: Int[Tensor, "prompt position"]
    at: dict[str, Int[Tensor, "prompt"]]  # "io", "s1", "s2", "end"
    io: Int[Tensor, "prompt"]
    s: Int[Tensor, "prompt"]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: Int[Tensor, "row"]) -> "Sample":
        at = {role: where[rows] for role, where in self.at.items()}
        return Sample(self.tokens[rows], at, self.io[rows], self.s[rows])


def sample(tokenizer: Any, prompts: Sequence[Prompt]) -> Sample:
    at = {role: tasks.positions(prompts, role) for role in ("io", "s1", "s2", "end")}
    io, s = tasks.answer_tokens(tokenizer, prompts).T
    return Sample(tasks.to_tokens(tokenizer, [prompt.text for prompt in prompts]), at, io, s)


def sources(prompts: Sequence[Prompt], seed: int = 0) -> Int[Tensor, "prompt"]:
    """For each prompt another one with its names at the same positions, where S2 repeats the other of the two; -1 where
    there is none."""
    rng = random.Random(f"sources/{seed}")

    def key(prompt: Prompt, other: bool = False) -> tuple[int, int]:
        pair = prompt.positions["io"], prompt.positions["s1"]
        return pair[::-1] if other else pair

    by_key: dict[tuple[int, int], list[int]] = {}
    for i, prompt in enumerate(prompts):
        by_key.setdefault(key(prompt), []).append(i)
    return torch.tensor([rng.choice(by_key.get(key(prompt, other=True), [-1])) for prompt in prompts])


def donors(data: Sample, seed: int = 0) -> Int[Tensor, "prompt"]:
    """For each prompt a random one that is at least as long."""
    rng, ends = random.Random(f"donors/{seed}"), data.at["end"].tolist()
    return torch.tensor([rng.choice([j for j, other in enumerate(ends) if other >= end]) for end in ends])


# ---- runs


@torch.no_grad()
def observe(model: Any, data: Sample) -> tuple[Float[Tensor, "prompt vocabulary"], Activations]:
    """The logits at the end, and what every head and MLP wrote."""
    logits, cache = model.run_with_cache(
        data.tokens, names_filter=lambda name: name.endswith(("attn.hook_z", "hook_mlp_out", "hook_pattern"))
    )
    return logits[torch.arange(len(data)), data.at["end"]], dict(cache)


@torch.no_grad()
def edited(model: Any, data: Sample, edits: dict[str, Edit]) -> Float[Tensor, "prompt vocabulary"]:
    """The logits at the end of a run with edited activations."""
    hooks = [(name, lambda seen, hook, edit=edit: edit(seen)) for name, edit in edits.items()]
    return model.run_with_hooks(data.tokens, fwd_hooks=hooks)[torch.arange(len(data)), data.at["end"]]


def put(nodes: Iterable[Node], data: Sample, value: Callable[[Node], Tensor]) -> dict[str, Edit]:
    """Edits that put a value ([prompt, size], or what broadcasts to it) where each node writes."""
    by_layer: dict[int, list[Node]] = {}
    for node in nodes:
        by_layer.setdefault(node.layer, []).append(node)

    def edit_of(group: list[Node]) -> Edit:
        def edit(seen: Tensor) -> Tensor:
            seen = seen.clone()
            for node in group:
                seen[torch.arange(len(data)), data.at[node.at], node.head] = value(node)
            return seen

        return edit

    return {z_hook(layer): edit_of(group) for layer, group in by_layer.items()}


def written(activations: Activations, data: Sample, node: Node) -> Float[Tensor, "prompt size"]:
    return activations[z_hook(node.layer)][torch.arange(len(data)), data.at[node.at], node.head]


def resampled(
    model: Any, data: Sample, activations: Activations, donor: Int[Tensor, "prompt"], keep: Sequence[Node | Head]
) -> Float[Tensor, "prompt vocabulary"]:
    """The logits when everything comes from the donor, position by position, but for what is kept: a Node at its
    position, a head everywhere."""
    rows = torch.arange(len(data))

    def edit_of(name: str, layer: int) -> Edit:
        def edit(seen: Tensor) -> Tensor:
            new = activations[name][donor]
            if name == z_hook(layer):
                new = new.clone()
                for node in keep:
                    if isinstance(node, Node) and node.layer == layer:
                        where = rows, data.at[node.at], node.head
                        new[where] = seen[where]
                    elif not isinstance(node, Node) and node[0] == layer:
                        new[:, :, node[1]] = seen[:, :, node[1]]
            return new

        return edit

    layers = range(model.cfg.n_layers)
    return edited(model, data, {name: edit_of(name, i) for i in layers for name in (z_hook(i), mlp_hook(i))})


def difference(logits: Float[Tensor, "prompt vocabulary"], data: Sample) -> Float[Tensor, "prompt"]:
    """The logit of IO less that of S."""
    rows = torch.arange(len(data))
    return logits[rows, data.io] - logits[rows, data.s]


def share_right(logits: Float[Tensor, "prompt vocabulary"], expected: Int[Tensor, "prompt"]) -> float:
    return (logits.argmax(dim=1) == expected).float().mean().item()


# ---- what is measured


def interchange(
    model: Any, data: Sample, activations: Activations, source: Int[Tensor, "prompt"], nodes: Sequence[Node]
) -> Float[Tensor, "prompt vocabulary"]:
    """The logits when these nodes come from each prompt's source."""
    there = data[source]
    taken = {name: value[source] for name, value in activations.items()}
    return edited(model, data, put(nodes, data, lambda node: written(taken, there, node)))


def expected_after(variable: str, data: Sample, source: Int[Tensor, "prompt"]) -> Int[Tensor, "prompt"]:
    """The causal model's answer. The sources repeat the other of the two names: so S becomes the answer, unless the answer
    itself comes from the source."""
    return data.io[source] if variable == "name mover" else data.s


def interchange_accuracy(
    model: Any, data: Sample, activations: Activations, source: Int[Tensor, "prompt"], circuit: Circuit, variable: str
) -> float:
    """How often the whole vocabulary's likeliest word is the causal model's answer after an interchange of a variable."""
    logits = interchange(model, data, activations, source, circuit.group(variable))
    return share_right(logits, expected_after(variable, data, source))


def removed(activations: Activations, data: Sample, nodes: Sequence[Node]) -> dict[str, Edit]:
    """Edits that put the mean over the prompts where each node writes."""
    return put(nodes, data, lambda node: written(activations, data, node).mean(dim=0))


def random_sets(model: Any, circuit: Circuit, n: int, seed: int = 0) -> list[list[Head]]:
    """Sets of as many heads as the circuit has, none of them the circuit's own."""
    rng, own = random.Random(f"sets/{seed}"), circuit.heads()
    heads = [(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
    drawn: list[list[Head]] = []
    while len(drawn) < n:
        chosen = rng.sample(heads, len(own))
        if tuple(sorted(chosen)) != own:
            drawn.append(chosen)
    return drawn


def attention(activations: Activations, data: Sample, node: Node) -> float:
    """The mean attention of a node to what it looks at."""
    pattern = activations[f"blocks.{node.layer}.attn.hook_pattern"]
    return pattern[torch.arange(len(data)), node.head, data.at[node.at], data.at[node.looks_at]].mean().item()


def measure(model: Any, tokenizer: Any, circuit: Circuit, n: int = 300) -> Circuit:
    """The circuit with what can be measured of it: attention, each head's vote, and the edges between variables."""
    prompts = tasks.ioi(tokenizer, n, split="held-out pairs")
    source = sources(prompts)
    data = sample(tokenizer, prompts)
    clean, activations = observe(model, data)
    nodes = []
    for node in circuit.nodes:
        vote = None
        if node.variable != BACKUP:
            logits = interchange(model, data, activations, source, [node])
            new = expected_after(node.variable, data, source)
            both = torch.stack([logits.gather(1, token[:, None])[:, 0] for token in (new, data.io)])
            vote = round(both.softmax(dim=0)[0].mean().item(), 3)
        nodes.append(replace(node, attention=round(attention(activations, data, node), 3), vote=vote))
    edges = []
    for first, second in (("duplicate", "s-inhibition"), ("s-inhibition", "name mover")):
        there, taken = data[source], {name: value[source] for name, value in activations.items()}
        change = put(circuit.group(first), data, lambda node: written(taken, there, node))  # noqa: B023
        restore = put(circuit.group(second), data, lambda node: written(activations, data, node))
        both_edits = {name: chain(change.get(name), restore.get(name)) for name in change.keys() | restore.keys()}
        base = difference(clean, data).mean()
        full, left = (base - difference(edited(model, data, e), data).mean() for e in (change, both_edits))
        edges.append(Edge(first, second, undone=round((1 - left / full).item(), 3)))
    return replace(circuit, nodes=tuple(nodes), edges=tuple(edges))


def chain(first: Edit | None, second: Edit | None) -> Edit:
    """One edit after the other."""
    return lambda seen: second(first(seen) if first else seen) if second else first(seen) if first else seen


# ---- the table

SPLITS = {"pairs of names": "held-out pairs", "wordings": "held-out wordings", "names": "held-out names"}


def circuit_skills(model: Any, tokenizer: Any, circuit: Circuit, n: int = 300, sets: int = 100) -> dict[str, Any]:
    """The rows that a model with a truth file adds to `evaluate`'s table; shares but for the last column's counts."""
    skills: dict[str, Any] = {}

    def add(skill: str, value: float, count: int, measure: str) -> None:
        skills[skill] = {"value": round(value, 4), "n": count, "measure": measure}

    for unseen, split in SPLITS.items():
        prompts = tasks.ioi(tokenizer, n, split=split)
        source = sources(prompts)
        paired = torch.nonzero(source >= 0)[:, 0]
        data = sample(tokenizer, prompts)
        clean, activations = observe(model, data)
        for variable in circuit.variables:
            if variable != BACKUP:
                value = interchange_accuracy(model, data, activations, source, circuit, variable)
                add(f"interchange, {variable}, unseen {unseen}", value, len(paired), "accuracy")
        base, donor = difference(clean, data).mean(), donors(data)

        def kept(keep: Sequence[Node | Head]) -> float:
            return (difference(resampled(model, data, activations, donor, keep), data).mean() / base).item()  # noqa: B023

        add(f"logit difference kept by the circuit, unseen {unseen}", kept(circuit.nodes), n, "share")
        if split == "held-out pairs":
            others = torch.tensor([kept(chosen) for chosen in random_sets(model, circuit, sets)])
            add(KEPT_AT_RANDOM, others.quantile(0.95).item(), sets, "95th percentile of sets of heads")
        for variable in circuit.variables:
            if variable != BACKUP:
                least = min(attention(activations, data, node) for node in circuit.group(variable))
                where = f"{circuit.group(variable)[0].at}->{circuit.group(variable)[0].looks_at}".upper()
                add(f"attention {where}, unseen {unseen}", least, n, "mean attention of the least of these heads")
        if BACKUP in circuit.variables:
            add_backup(add, unseen, model, data, activations, clean, circuit)
    return skills


KEPT_AT_RANDOM = "logit difference kept by as many random heads"


def add_backup(
    add: Callable[..., None],
    unseen: str,
    model: Any,
    data: Sample,
    activations: Activations,
    clean: Tensor,
    circuit: Circuit,
) -> None:
    """The knock-outs: without the name movers the backup answers, without both nobody does; with the name movers the
    backup is silent."""
    movers, backup = circuit.group("name mover"), circuit.group(BACKUP)
    for name, nodes in (
        ("name movers", movers),
        ("name movers and backup", (*movers, *backup)),
        ("the strongest name mover", [max(movers, key=lambda node: node.share)]),
    ):
        logits = edited(model, data, removed(activations, data, nodes))
        add(f"accuracy without {name}, unseen {unseen}", share_right(logits, data.io), len(data), "knock-out by the mean")
    logits = edited(model, data, removed(activations, data, backup))
    kept = (difference(logits, data).mean() / difference(clean, data).mean()).item()
    add(f"logit difference kept without the backup, unseen {unseen}", kept, len(data), "knock-out by the mean")
