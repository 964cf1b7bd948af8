"""Do ordinary methods find a circuit that is known? Fix their thresholds on one model, and score them on others.

    python tools/known_circuits.py

*Head patching*: run a prompt with one head's output (at all positions) from its twin, where the other person gives, and
see how much of the way to the twin's logit difference that goes (noising). *Direct logit attribution*: how much of the
logit difference at the end a head writes itself. Patching should find every head of the circuit, attribution only the
heads that write the answer. A threshold is the middle of the widest gap that separates best on `ioi-known`.
"""

import sys

import torch
from jaxtyping import Float
from torch import Tensor

from mechlib import models, tasks
from mechlib.models.circuit import Circuit

FIXED_ON, SCORED_ON = "ioi-known", ("ioi-known-seed-1", "ioi-known-hard")
Heads = set[tuple[int, int]]


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


def to_find(circuit: Circuit, method: str) -> Heads:
    """The heads that a method ought to find."""
    return set(circuit.heads("name mover" if method == "direct logit attribution" else None))


def found(scores: Float[Tensor, "layer head"], threshold: float) -> Heads:
    return {(layer, head) for layer, head in (scores > threshold).nonzero().tolist()}


def precision_recall(heads: Heads, true: Heads) -> tuple[float, float]:
    """Of what was found, how much is true; of what is true, how much was found."""
    return len(heads & true) / max(1, len(heads)), len(heads & true) / len(true)


def fix_threshold(scores: Float[Tensor, "layer head"], true: Heads) -> float:
    """The middle between two neighbouring scores with the best precision times recall, and of those the widest gap."""
    ranked = scores.flatten().sort().values
    middles = ((ranked[1:] + ranked[:-1]) / 2).tolist()

    def quality(i: int) -> tuple[float, float]:
        precision, recall = precision_recall(found(scores, middles[i]), true)
        return precision * recall, (ranked[i + 1] - ranked[i]).item()

    return middles[max(range(len(middles)), key=quality)]


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
    return 0


if __name__ == "__main__":
    sys.exit(main())
