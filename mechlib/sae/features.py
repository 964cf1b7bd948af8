"""What one feature is: where it fires, what it does to the logits, and how well it fits a concept.

Precision and recall against a known concept turn "this looks like a country feature" into two numbers; at several
levels of activation, because a feature that looks clean at its maximum may not be so below it (Bolukbasi 2021,
https://arxiv.org/abs/2104.07143; Huang 2023, https://arxiv.org/abs/2309.10312).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# ---- examples


def top_activations(
    codes: Float[Tensor, "row position"], k: int
) -> tuple[Float[Tensor, "k"], Int[Tensor, "k"], Int[Tensor, "k"]]:
    """Where one feature is largest: values, rows and positions of its k largest maxima, at most one a row."""
    best, positions = codes.max(dim=1)
    values, rows = best.topk(min(k, len(best)))
    return values, rows, positions[rows]


def examples_by_level(
    codes: Float[Tensor, "row position"],
    levels: int,
    k: int,
    generator: torch.Generator | None = None,
) -> list[tuple[Float[Tensor, "k"], Int[Tensor, "k"], Int[Tensor, "k"]]]:
    """Random examples from `levels` equal intervals between 0 and a feature's maximum, the highest interval first.

    Each is (values, rows, positions) of up to k tokens, at most one a row; there are fewer where fewer are to be had.
    """
    edges = torch.linspace(0, codes.max().item(), levels + 1)
    examples = []
    for low, high in zip(edges[:-1].flip(0), edges[1:].flip(0)):
        inside = (codes > low) & (codes <= high)
        rows = inside.any(dim=1).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)[:k]]
        draws = torch.rand(rows.shape + codes.shape[1:], generator=generator) * inside[rows]
        positions = draws.argmax(dim=1) if len(rows) else rows
        examples.append((codes[rows, positions], rows, positions))
    return examples


def logit_effect(model: Any, direction: Float[Tensor, "*lead d_model"]) -> Float[Tensor, "*lead vocabulary"]:
    """What a direction of the residual stream adds to the logits by the direct path, up to the final LayerNorm's
    scale: centred, times the LayerNorm's weight and the unembedding, less the mean over the vocabulary.

    For a decoder row: the tokens that the feature promotes and suppresses, if nothing later changes it.
    """
    centred = direction - direction.mean(dim=-1, keepdim=True)
    logits = centred * model.ln_final.weight @ model.W_U
    return logits - logits.mean(dim=-1, keepdim=True)


# ---- against a concept


def precision_recall_by_level(
    activation: Float[Tensor, "token"], concept: Bool[Tensor, "token"], levels: Float[Tensor, "level"]
) -> tuple[Float[Tensor, "level"], Float[Tensor, "level"]]:
    """Precision and recall of "the activation exceeds this share of its maximum" for the concept, at each level.

    Level 0 takes every token where the activation is positive. Precision is NaN where no token is left; recall is NaN
    if the concept never occurs.
    """
    fires = activation > levels[:, None] * activation.max()
    hits = (fires & concept).sum(dim=1)
    return hits / fires.sum(dim=1), hits / concept.sum()


@dataclass(frozen=True)
class Detector:
    """A unit (a latent, a neuron, a direction) read as a detector: the concept is there where `sign` * its activation
    exceeds `threshold`."""

    unit: int
    sign: int
    threshold: float
    f1: float  # on the split that it was chosen on

    def __call__(self, activations: Float[Tensor, "token unit"]) -> Bool[Tensor, "token"]:
        return self.sign * activations[:, self.unit] > self.threshold

    def score(
        self, activations: Float[Tensor, "token unit"], concept: Bool[Tensor, "token"]
    ) -> tuple[float, float, float]:
        """Precision, recall and F1 on another split; precision is 0 if it never fires."""
        fires = self(activations)
        hits, n_fires, n_concept = (n.sum().item() for n in (fires & concept, fires, concept))
        return hits / max(1, n_fires), hits / max(1, n_concept), 2 * hits / max(1, n_fires + n_concept)


@torch.no_grad()
def best_detectors(
    activations: Float[Tensor, "token unit"], concepts: Bool[Tensor, "token concept"], signs: tuple[int, ...] = (1, -1)
) -> list[Detector]:
    """For every concept the unit, the sign and the threshold with the largest F1, over all that could be chosen.

    The search is exhaustive: every unit, both signs (or only those in `signs`), a threshold between any two values.
    So the choice fits these tokens better than others: report the score of another split.
    """
    labels = concepts.float()
    positives = labels.sum(dim=0)
    best = [Detector(0, 1, float("inf"), -1.0) for _ in positives]
    for unit in range(activations.shape[1]):
        for sign in signs:
            values = sign * activations[:, unit]
            lowest = values.min()
            above = (values > lowest).nonzero().flatten()  # firing everywhere is no detector; most codes are 0
            values, order = values[above].sort(descending=True)
            below = torch.cat([values[1:], lowest[None]])
            ends = (below < values).nonzero().flatten()  # equal values are on the same side of any threshold
            hits = labels[above[order]].cumsum(dim=0)[ends]
            f1 = 2 * hits / (ends[:, None] + 1 + positives)
            if len(ends) == 0:
                continue
            for concept, (score, i) in enumerate(zip(*(row.tolist() for row in f1.max(dim=0)))):
                if score > best[concept].f1:
                    threshold = (values[ends[i]] + below[ends[i]]).item() / 2
                    best[concept] = Detector(unit, sign, threshold, score)
    return best
