"""Indirect object identification, from behaviour to circuit: what chapter 05_ioi needs beside the general tools.

The tools are `mechlib.paths` (path patching), `mechlib.circuits` (knocking out, faithfulness, completeness, minimality)
and the scores of heads at the end of `mechlib.heads`. The two path patches here are the chapter's short form of
`paths.path_patch`.

Wang et al. 2023, "Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 small"
(https://arxiv.org/abs/2211.00593).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlib import paths
from mechlib.circuits import Roles, Score, where

Logits = Float[Tensor, "batch position vocabulary"]
Positions = Int[Tensor, "batch"]


def mean_logit_diff(logits: Logits, answers: Int[Tensor, "batch 2"], end: Positions) -> Float[Tensor, ""]:
    """The mean over prompts of logit(answer) - logit(distractor), each read at its prompt's own last token."""
    rows = torch.arange(len(logits), device=logits.device)
    right, wrong = logits[rows, end].gather(1, answers).unbind(dim=1)
    return (right - wrong).mean()


def second_mention_score(cache: Any, n_layers: int, at: Mapping[str, Positions]) -> Float[Tensor, "layer head"]:
    """How much more every head looks from END at S2 than at S1, which is the same name: a mean over the prompts.

    A head that looks for the name looks at both. One that carries what was found out *at* S2, that the name is
    a repetition, looks at S2 alone. `at` holds the positions of the roles "end", "s1" and "s2".
    """
    rows = torch.arange(len(at["end"]), device=at["end"].device)
    scores = []
    for layer in range(n_layers):
        from_end = cache["pattern", layer][rows, :, at["end"]]  # [batch head key]
        scores.append((from_end[rows, :, at["s2"]] - from_end[rows, :, at["s1"]]).mean(dim=0))
    return torch.stack(scores)


def path_patch(
    model: Any, cache: Any, source_cache: Any, senders: Sequence[paths.Sender], mlps: paths.Convention
) -> Logits:
    """The logits of the run of `cache` if the senders had said what they said in the other run, all other heads keep
    what they said, and the MLPs are "frozen" or "recomputed"."""
    streams = paths.patched_streams(model, cache, source_cache, senders, mlps == "recomputed")
    return model.unembed(model.ln_final(streams.last))


def path_patch_to_receivers(
    model: Any,
    tokens: Int[Tensor, "batch position"],
    cache: Any,
    source_cache: Any,
    senders: Sequence[paths.Sender],
    receivers: Sequence[paths.Receiver],
    mlps: paths.Convention,
) -> Logits:
    """The logits if the receivers' queries, keys or values, and nothing else, read the senders from another run."""
    return paths.path_patch(model, tokens, cache, source_cache, senders, receivers, mlps=mlps)


def role_means(activation: Float[Tensor, "batch position ..."], roles: Roles) -> Float[Tensor, "batch position ..."]:
    """Every position gets the mean over all positions, of all prompts, that have its role."""
    means = torch.empty_like(activation)
    for role in {role for row in roles for role in row}:
        here = where(roles, role)
        means[here] = activation[here].mean(dim=0)
    return means


def minimality_score(score: Score, circuit: Any, node: Any, subsets: Sequence[Any]) -> tuple[float, float]:
    """How much a node does for a circuit: the largest change of the mean score when it goes, over circuits that lack
    one of the subsets already, and the change when it alone goes.

    The second number is the naive one: it finds a node useless that others back up. Neither has a sign. The subsets do
    not hold the node itself. `circuits.minimality_score` says which subset it was.
    """
    changes = [
        (score(circuit, subset) - score(circuit, [*subset, node])).mean().abs().item() for subset in [[], *subsets]
    ]
    return max(changes), changes[0]
