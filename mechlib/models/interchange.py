"""Does a model work as its truth file says? Measured by editing it, on held-out prompts of `mechlib.tasks.ioi`.

An *interchange* takes what the heads of one variable write from a second prompt, the source: the answer has to become
what the causal model says when that variable alone comes from the source (Geiger et al. 2021, "Causal abstractions of
neural networks"). *Resampling* takes what everything else writes from any other prompt: the answer has to stay.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlib import circuits, tasks
from mechlib.models.circuit import Circuit, Edge, Node
from mechlib.tasks import Prompt

Head = tuple[int, int]  # layer, head
Edit = Callable[[Tensor], Tensor]  # what a hook sees -> what to go on with
Edits = dict[str, Edit]  # by the hook's name
READ = ("attn.hook_z", "hook_mlp_out", "hook_pattern")
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


def sources(prompts: Sequence[Prompt], seed: int = 0) -> tuple[list[Prompt], Int[Tensor, "prompt"]]:
    """For each prompt another one with its names at the same positions, of which S2 repeats the other. Returns the
    prompts (without the few that have none) and the number of each one's source."""
    rng = random.Random(f"sources/{seed}")
    by_names: dict[tuple[int, int], list[int]] = {}

    def names(prompt: Prompt) -> tuple[int, int]:
        return prompt.positions["io"], prompt.positions["s1"]

    present = {names(prompt) for prompt in prompts}
    kept = [prompt for prompt in prompts if names(prompt)[::-1] in present]
    for i, prompt in enumerate(kept):
        by_names.setdefault(names(prompt), []).append(i)
    return kept, torch.tensor([rng.choice(by_names[names(prompt)[::-1]]) for prompt in kept])


def donors(data: Sample, seed: int = 0) -> Int[Tensor, "prompt"]:
    """For each prompt a random one that is at least as long."""
    rng, ends = random.Random(f"donors/{seed}"), data.at["end"].tolist()
    return torch.tensor([rng.choice([j for j, other in enumerate(ends) if other >= end]) for end in ends])


# ---- runs


class Subject:
    """A model on the prompts of a split: its ordinary run, and for each prompt a source and a donor."""

    def __init__(self, model: Any, tokenizer: Any, split: str, n: int) -> None:
        prompts, self.source = sources(tasks.ioi(tokenizer, n, split=split))
        self.model, self.data = model, sample(tokenizer, prompts)
        self.there = self.data[self.source]
        self.donor = donors(self.data)
        with torch.no_grad():
            logits, cache = model.run_with_cache(self.data.tokens, names_filter=lambda name: name.endswith(READ))
        self.activations = dict(cache)
        self.rows = torch.arange(len(self.data))
        self.difference = self.differ(logits[self.rows, self.data.at["end"]])

    @torch.no_grad()
    def run(self, *edits: Edits) -> Float[Tensor, "prompt vocabulary"]:
        """The logits at the end of a run with edited activations; a later edit goes on from an earlier one."""
        hooks = [(name, lambda seen, hook, f=f: f(seen)) for edit in edits for name, f in edit.items()]
        return self.model.run_with_hooks(self.data.tokens, fwd_hooks=hooks)[self.rows, self.data.at["end"]]

    def written(self, node: Node, by_source: bool = False) -> Float[Tensor, "prompt size"]:
        """What a node writes in the ordinary run of each prompt, or of its source."""
        rows, data = (self.source, self.there) if by_source else (self.rows, self.data)
        return self.activations[z_hook(node.layer)][rows, data.at[node.at], node.head]

    def put(self, nodes: Sequence[Node], value: Callable[[Node], Tensor]) -> Edits:
        """Edits that put a value, [prompt, size] or [size], where each node writes."""

        def edit_of(layer: int) -> Edit:
            def edit(seen: Tensor) -> Tensor:
                seen = seen.clone()
                for node in nodes:
                    if node.layer == layer:
                        seen[self.rows, self.data.at[node.at], node.head] = value(node)
                return seen

            return edit

        return {z_hook(layer): edit_of(layer) for layer in {node.layer for node in nodes}}

    def differ(self, logits: Float[Tensor, "prompt vocabulary"]) -> float:
        """The mean over the prompts of the logit of IO less that of S."""
        return (logits[self.rows, self.data.io] - logits[self.rows, self.data.s]).mean().item()

    def kept(self, logits: Float[Tensor, "prompt vocabulary"]) -> float:
        """The logit difference as a share of the ordinary run's."""
        return self.differ(logits) / self.difference


def interchange(subject: Subject, nodes: Sequence[Node]) -> Edits:
    """What each prompt's source writes, put where the nodes write."""
    return subject.put(nodes, lambda node: subject.written(node, by_source=True))


def resampled(subject: Subject, keep: Sequence[Node | Head]) -> Float[Tensor, "prompt vocabulary"]:
    """The logits when everything comes from the donor, position by position, but for what is kept: a Node at its
    position, a head everywhere."""

    def edit_of(name: str, layer: int) -> Edit:
        def edit(seen: Tensor) -> Tensor:
            new = subject.activations[name][subject.donor]  # a copy
            for node in keep if name == z_hook(layer) else ():
                if isinstance(node, Node):
                    if node.layer == layer:
                        where = subject.rows, subject.data.at[node.at], node.head
                        new[where] = seen[where]
                elif node[0] == layer:
                    new[:, :, node[1]] = seen[:, :, node[1]]
            return new

        return edit

    layers = range(subject.model.cfg.n_layers)
    return subject.run({name: edit_of(name, layer) for layer in layers for name in (z_hook(layer), mlp_hook(layer))})


def removed(subject: Subject, nodes: Sequence[Node]) -> Float[Tensor, "prompt vocabulary"]:
    """The logits when each node writes its mean over the prompts."""
    return subject.run(subject.put(nodes, lambda node: subject.written(node).mean(dim=0)))


# ---- what is measured


def share_right(logits: Float[Tensor, "prompt vocabulary"], expected: Int[Tensor, "prompt"]) -> float:
    return (logits.argmax(dim=1) == expected).float().mean().item()


def expected_after(subject: Subject, variable: str) -> Int[Tensor, "prompt"]:
    """The causal model's answer after an interchange. S2 repeats the other of the two names in a source: so S becomes
    the answer, unless the answer itself comes from the source."""
    return subject.there.io if variable == "name mover" else subject.data.s


def interchange_accuracy(subject: Subject, circuit: Circuit, variable: str) -> float:
    """How often the likeliest of all words is the causal model's answer after an interchange of a variable."""
    logits = subject.run(interchange(subject, circuit.group(variable)))
    return share_right(logits, expected_after(subject, variable))


def attention(subject: Subject, node: Node) -> float:
    """The mean attention of a node to what it looks at."""
    pattern, at = subject.activations[f"blocks.{node.layer}.attn.hook_pattern"], subject.data.at
    return pattern[subject.rows, node.head, at[node.at], at[node.looks_at]].mean().item()


def vote(subject: Subject, node: Node) -> float:
    """How likely the answer follows the node, of the two that it can be, when the node alone is interchanged."""
    logits, new = subject.run(interchange(subject, [node])), expected_after(subject, node.variable)
    return (logits[subject.rows, new] - logits[subject.rows, subject.data.io]).sigmoid().mean().item()


def undone(subject: Subject, circuit: Circuit, source: str, target: str) -> float:
    """How much of an interchange of `source` goes away when `target` keeps what it ordinarily writes."""
    change = interchange(subject, circuit.group(source))
    restore = subject.put(circuit.group(target), subject.written)
    full, left = (subject.difference - subject.differ(subject.run(*edits)) for edits in ((change,), (change, restore)))
    return 1 - left / full


def measure(model: Any, tokenizer: Any, circuit: Circuit, n: int = 300) -> Circuit:
    """The circuit with what can be measured: where its heads look, their votes, how one variable acts on another."""
    subject = Subject(model, tokenizer, SPLITS["pairs of names"], n)
    nodes = tuple(
        replace(
            node,
            attention=round(attention(subject, node), 3),
            vote=None if node.variable == BACKUP else round(vote(subject, node), 3),
        )
        for node in circuit.nodes
    )
    pairs = (("duplicate", "s-inhibition"), ("s-inhibition", "name mover"), ("duplicate", "name mover"))
    edges = tuple(Edge(*pair, round(undone(subject, circuit, *pair), 3)) for pair in pairs)
    return replace(circuit, nodes=nodes, edges=edges)


# ---- the table

SPLITS = {"pairs of names": "held-out pairs", "wordings": "held-out wordings", "names": "held-out names"}
AT_RANDOM = "logit difference kept by random sets of heads"

# What a model has to reach to be called good.
HARD_GATES = {
    **{f"ioi, unseen {unseen}": 0.99 for unseen in SPLITS},
    **{f"interchange, {v}, unseen {u}": 0.99 for v in ("duplicate", "s-inhibition", "name mover") for u in SPLITS},
}
GATES = {
    **HARD_GATES,
    **{f"logit difference kept by the circuit, unseen {unseen}": 0.9 for unseen in SPLITS},
    AT_RANDOM: 0.5,
    **{f"attention {arrow}": 0.8 for arrow in ("S2->S1", "END->S2", "END->IO")},
}
HARD_GATES |= {f"accuracy without the name movers, unseen {unseen}": 0.9 for unseen in SPLITS}
HARD_GATES |= {f"logit difference kept without the name movers and the backup, unseen {u}": 0.1 for u in SPLITS}
HARD_GATES |= {f"logit difference kept without the backup, unseen {unseen}": 0.9 for unseen in SPLITS}
LIMITS = {AT_RANDOM, *(gate for gate in HARD_GATES if "and the backup" in gate)}  # the most, not the least


def circuit_skills(model: Any, tokenizer: Any, circuit: Circuit, n: int = 300, sets: int = 100) -> dict[str, Any]:
    """The rows that a model with a truth file adds to the table of `evaluate`; all are shares."""
    skills: dict[str, Any] = {}

    def add(skill: str, value: float, count: int, measure: str) -> None:
        skills[skill] = {"value": round(value, 4), "n": count, "measure": measure}

    variables = [variable for variable in circuit.variables if variable != BACKUP]
    for unseen, split in SPLITS.items():
        subject = Subject(model, tokenizer, split, n)
        for variable in variables:
            value = interchange_accuracy(subject, circuit, variable)
            add(f"interchange, {variable}, unseen {unseen}", value, len(subject.data), "accuracy after an interchange")
        kept = subject.kept(resampled(subject, circuit.nodes))
        add(f"logit difference kept by the circuit, unseen {unseen}", kept, len(subject.data), "all else resampled")
        if BACKUP in circuit.variables:
            for skill, value in knock_outs(subject, circuit).items():
                add(f"{skill}, unseen {unseen}", value, len(subject.data), "knock-out by the mean")
    subject = Subject(model, tokenizer, SPLITS["pairs of names"], n)
    drawn = circuits.random_circuits(model, circuit.heads(), sets)  # some of their heads may be the circuit's own
    others = torch.tensor([subject.kept(resampled(subject, sorted(circuits.heads_of(heads)))) for heads in drawn])
    add(
        AT_RANDOM,
        others.quantile(0.95).item(),
        len(subject.data),
        f"95th percentile of {sets} sets as large as the circuit",
    )
    for variable in variables:
        group = circuit.group(variable)
        least = min(attention(subject, node) for node in group)
        arrow = f"{group[0].at}->{group[0].looks_at}".upper()
        add(f"attention {arrow}", least, len(subject.data), "mean; the least of the heads")
    return skills


def knock_outs(subject: Subject, circuit: Circuit) -> dict[str, float]:
    """Without the name movers the backup answers, and without both nobody does; with the name movers it is silent."""
    movers, backup = circuit.group("name mover"), circuit.group(BACKUP)
    both = (*movers, *backup)
    return {
        "accuracy without the name movers": share_right(removed(subject, movers), subject.data.io),
        "logit difference kept without the name movers": subject.kept(removed(subject, movers)),
        "logit difference kept without the name movers and the backup": subject.kept(removed(subject, both)),
        "logit difference kept without the backup": subject.kept(removed(subject, backup)),
    }
