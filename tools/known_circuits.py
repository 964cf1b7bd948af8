"""Do ordinary methods find a circuit that is known? Fix their thresholds on one model, and score them on others.

    python tools/known_circuits.py

*Head patching*: run a prompt with one head's output (at all positions) from its twin, where the other person gives, and
see how much of the way to the twin's logit difference that goes (noising). *Direct logit attribution*: how much of the
logit difference at the end a head writes itself. Patching should find every head of the circuit, attribution only the
heads that write the answer. A threshold is the middle of the widest gap that separates best on `ioi-known`.

*Path patching from the logits back*: who speaks straight to the logits, who to the queries, keys or values of those,
and so on; with heads at their positions, so that the circuit's faithfulness can be measured too.
"""

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechlib import models, tasks
from mechlib.circuits import (
    Circuit,
    Edge,
    Faithfulness,
    Head,
    Node,
    ablation_values,
    faithfulness,
    fix_threshold,
    found,
    heads_of,
    position_roles,
    precision_recall,
    scorer,
    where,
)
from mechlib.metrics import logit_diff
from mechlib.models import circuit as known
from mechlib.paths import PARTS, path_patch, path_sweep

FIXED_ON, SCORED_ON = "ioi-known", ("ioi-known-seed-1", "ioi-known-hard")
ROLES = ("io", "s1", "s1+1", "s2", "end")


def head_scores(name: str, n: int = 300, split: str = "held-out pairs") -> dict[str, Float[Tensor, "layer head"]]:
    """Each head's score by each method, as a share of what there is to explain."""
    model = models.load(name, device="cpu", processed=True)
    prompts = tasks.ioi(model.tokenizer, n, split=split, corruption="s2")
    clean, twin = (
        tasks.to_tokens(model.tokenizer, [getattr(p, text) for p in prompts]) for text in ("text", "corrupted")
    )
    rows, end = torch.arange(n), tasks.positions(prompts)
    io, s = tasks.answer_tokens(model.tokenizer, prompts).T

    def difference(logits: Tensor) -> Tensor:
        return (logits[rows, end, io] - logits[rows, end, s]).mean()

    def keep(hook: str) -> bool:
        return hook.endswith("hook_z") or hook == "ln_final.hook_scale"

    with torch.no_grad():
        logits, cache = model.run_with_cache(clean, names_filter=keep)
        twin_logits, twin_cache = model.run_with_cache(twin, names_filter=keep)
        whole, way = difference(logits), difference(logits) - difference(twin_logits)
        patching = torch.zeros(model.cfg.n_layers, model.cfg.n_heads)
        attribution = torch.zeros_like(patching)
        direction = (model.W_U[:, io] - model.W_U[:, s]).T / cache["ln_final.hook_scale"][rows, end]
        for layer in range(model.cfg.n_layers):
            hook = f"blocks.{layer}.attn.hook_z"
            for head in range(model.cfg.n_heads):

                def patch(z: Tensor, hook: object, head: int = head, new: Tensor = twin_cache[hook]) -> Tensor:
                    z = z.clone()
                    z[:, :, head] = new[:, :, head]
                    return z

                patched = model.run_with_hooks(clean, fwd_hooks=[(hook, patch)])
                patching[layer, head] = (whole - difference(patched)) / way
                written = cache[hook][rows, end, head] @ model.W_O[layer, head]
                attribution[layer, head] = (written * direction).sum(dim=1).mean() / whole
    return {"head patching": patching, "direct logit attribution": attribution}


def to_find(circuit: known.Circuit, method: str) -> set[Head]:
    """The heads that a method ought to find."""
    return set(circuit.heads("name mover" if method == "direct logit attribution" else None))


@dataclass(frozen=True)
class Runs:
    """A model's prompts, what it says on them and on their twins, and how much of the metric is there to explain."""

    model: Any
    prompts: Sequence[tasks.Prompt]
    tokens: Tensor
    metric: Callable[[Tensor], Tensor]
    end: Tensor
    cache: Any
    twin_cache: Any
    whole: float
    way: float  # from the prompts' metric to that of the twins

    @classmethod
    def of(cls, name: str, n: int = 100, split: str = "held-out pairs") -> "Runs":
        model = models.load(name, device="cpu")
        prompts = tasks.ioi(model.tokenizer, n, split=split, corruption="s2")
        texts = ([getattr(p, text) for p in prompts] for text in ("text", "corrupted"))
        tokens, twins = (tasks.to_tokens(model.tokenizer, each) for each in texts)
        metric = partial(logit_diff, answers=tasks.answer_tokens(model.tokenizer, prompts))
        end, rows = tasks.positions(prompts), torch.arange(n)
        (logits, cache), (twin_logits, twin_cache) = (model.run_with_cache(each) for each in (tokens, twins))
        whole, other = (metric(each[rows, end]).mean().item() for each in (logits, twin_logits))
        return cls(model, prompts, tokens, metric, end, cache, twin_cache, whole, whole - other)

    def share(self, values: Tensor) -> Tensor:
        """How much of the way to the twins the metric has gone, as a mean over prompts."""
        return (self.whole - values.mean(dim=-1)) / self.way

    def shares(self, receivers: Any) -> Float[Tensor, "layer head"]:
        """For every head as the sender: path patching, MLPs recomputed as in Wang et al."""
        settings: dict[str, Any] = {"at": self.end, "mlps": "recomputed"}
        return self.share(
            path_sweep(self.model, self.tokens, self.cache, self.twin_cache, self.metric, receivers, **settings)
        )

    def edge(self, sender: Head, receivers: Any, where: Tensor | None = None) -> float:
        """The same for one sender, if it changes at some positions only."""
        logits = path_patch(
            self.model, self.tokens, self.cache, self.twin_cache, [sender], receivers, mlps="recomputed", where=where
        )
        return self.share(self.metric(logits[torch.arange(len(self.tokens)), self.end])).item()

    def role(self, sender: Head, receivers: Any) -> str:
        """At which of the named positions the sender's output matters most for these receivers."""
        roles = position_roles(self.prompts)
        return max(ROLES, key=lambda role: self.edge(sender, receivers, where(roles, role)))


def trace(runs: Runs, threshold: float) -> tuple[Circuit, Float[Tensor, "layer head"]]:
    """From the logits back: who speaks to them, who speaks to the queries, keys or values of those, and so on.

    Heads are added if their share is above the threshold. Returns the circuit (heads at their roles; an edge for every
    pair above a tenth of the threshold), and each head's largest share in any step.
    """
    best = runs.shares("logits")
    nodes = {head: Node(*head, runs.role(head, "logits")) for head in sorted(found(best, threshold))}
    edges = [Edge(node, "logits", best[head].item()) for head, node in nodes.items()]
    new = list(nodes)
    while new:
        listening, new = new, []
        for part in PARTS:
            receivers = [(*head, part) for head in listening]
            shares = runs.shares(receivers)
            best = torch.maximum(best, shares)
            for head in sorted(found(shares, threshold)):
                if head not in nodes:
                    nodes[head] = Node(*head, runs.role(head, receivers))
                    new.append(head)
                for receiver in listening:
                    if (effect := runs.edge(head, [(*receiver, part)])) > threshold / 10:
                        edges.append(Edge(nodes[head], nodes[receiver], effect, part))
    return Circuit(tuple(nodes[head] for head in sorted(nodes)), tuple(edges)), best


def kept(runs: Runs, circuit: Circuit, mlps: bool) -> Faithfulness:
    """Faithfulness with the mean, by role, over prompts with three unrelated names in place of everything else."""
    n, tokenizer = len(runs.prompts), runs.model.tokenizer
    abc = tasks.ioi(tokenizer, n, split="held-out pairs", corruption="abc")
    reference = tasks.to_tokens(tokenizer, [p.corrupted for p in abc])
    roles = position_roles(runs.prompts)
    values = ablation_values(runs.model, roles, "mean", reference, mlps=mlps)
    score = scorer(runs.model, runs.tokens, values, runs.metric, runs.end, roles)
    return faithfulness(score(circuit), score(), score(()))


def step_by_step() -> None:
    """Print what path patching finds, with two thresholds that are both fixed on the first model."""
    first = Runs.of(FIXED_ON)
    true = set(models.truth(FIXED_ON).heads())
    _, best = trace(first, 0.1)
    middles = {
        "the middle of the gap": fix_threshold(best, true),
        "its middle on a logarithmic scale": math.exp(fix_threshold(best.clamp(min=1e-4).log(), true)),
    }
    for rule, threshold in middles.items():
        print(f"\npath patching from the logits back, threshold {threshold:.3f} ({rule} on {FIXED_ON})")
        for name in (FIXED_ON, *SCORED_ON):
            runs, truth = (first if name == FIXED_ON else Runs.of(name)), models.truth(name)
            circuit, best = trace(runs, threshold)
            heads, places = heads_of(circuit), {(*node.place, node.at) for node in truth.nodes}
            precision, recall = precision_recall(heads, truth.heads())
            right = precision_recall(circuit.nodes, places)
            ratios = [kept(runs, circuit, mlps).ratio if circuit.nodes else 0.0 for mlps in (False, True)]
            print(f"  {name}: precision {precision:.2f} recall {recall:.2f}; with roles {right[0]:.2f} {right[1]:.2f}; "
                  f"faithfulness {ratios[0]:.2f}, without other MLPs {ratios[1]:.2f}")  # fmt: skip
            listed = [f"{node.name} {node.at} {best[node.layer, int(node.head)]:.2f}" for node in circuit.nodes]
            print(f"    {', '.join(listed)}", end="")
            others = [best[h].item() for h in itertools.product(*map(range, best.shape)) if h not in truth.heads()]
            print(f"; best other {max(others):.3f}; missed:", *(set(truth.heads()) - heads or ["none"]))


def main() -> int:
    scores = {name: head_scores(name) for name in (FIXED_ON, *SCORED_ON)}
    for method in scores[FIXED_ON]:
        threshold = fix_threshold(scores[FIXED_ON][method], to_find(models.truth(FIXED_ON), method))
        print(f"\n{method}, threshold {threshold:.3f} (fixed on {FIXED_ON}); in brackets, thresholds of 10, 5 and 2%")
        for name, by_method in scores.items():
            true, score = to_find(models.truth(name), method), by_method[method]
            results = [precision_recall(found(score, t), true) for t in (threshold, 0.1, 0.05, 0.02)]
            first, *others = [f"precision {p:.2f} recall {r:.2f}" for p, r in results]
            every = {(i, j): score[i, j].item() for i in range(len(score)) for j in range(score.shape[1])}
            print(f"  {name}: {first} ({'; '.join(others)})")
            print(f"    to find: {', '.join(f'{i}.{j} {every[i, j]:.2f}' for i, j in sorted(true))}", end="")
            print(f"; best other {max(x for head, x in every.items() if head not in true):.2f}")
    with torch.no_grad():
        step_by_step()
    return 0


if __name__ == "__main__":
    sys.exit(main())
