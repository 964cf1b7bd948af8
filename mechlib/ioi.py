"""Indirect object identification, from behaviour to circuit: what chapter 05_ioi needs beside the general tools.

The tools are `mechlib.paths` (path patching), `mechlib.circuits` (knocking out, faithfulness, completeness, minimality)
and the scores of heads at the end of `mechlib.heads`. The two path patches here are the chapter's short form of
`paths.path_patch`.

Wang et al. 2023, "Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 small"
(https://arxiv.org/abs/2211.00593).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlib import paths, tasks
from mechlib.circuits import Roles, Score, where

Logits = Float[Tensor, "batch position vocabulary"]
Positions = Int[Tensor, "batch"]
REGIONS = ("names", "between", "s2", "end", "rest")


@dataclass(frozen=True)
class Batch:
    """Prompts of the task as a model reads them, and two corrupted twins of each."""

    prompts: Sequence[tasks.Prompt]
    tokens: Int[Tensor, "batch position"]
    twin: Int[Tensor, "batch position"]  # the other one gives: S2 is IO's name, and the answer is S
    abc: Int[Tensor, "batch position"]  # three other people, each named once: the reference distribution of Wang et al.
    answers: Int[Tensor, "batch 2"]  # IO and S
    at: Mapping[str, Positions]  # where "io", "s1", "s1+1", "s2" and "end" stand
    regions: Roles  # every position is one of REGIONS: "names" (IO and S1), "between" them and "s2", "end", "rest"
    templates: Roles  # wording and position: the same word of the same sentence


def batch(model: Any, n: int = 50, split: str = "held-out pairs", wordings: int = 10, seed: int = 0) -> Batch:
    """`n` prompts in so few wordings that an average over a wording's twins means something.

    Of `20 * n` prompts those in the commonest wordings are taken. Raises ValueError if these are too few.
    """
    drawn, abc = (
        tasks.ioi(model.tokenizer, 20 * n, seed=seed, split=split, corruption=corruption)
        for corruption in ("s2", "abc")
    )
    common = {wording for wording, _ in Counter(p.labels["wording"] for p in drawn).most_common(wordings)}
    # The same seed draws the same prompts; only the twins differ.
    chosen = [(p, other) for p, other in zip(drawn, abc, strict=True) if p.labels["wording"] in common][:n]
    if len(chosen) < n:
        raise ValueError(f"only {len(chosen)} prompts in {wordings} wordings, not {n}: allow more wordings")
    prompts = [p for p, _ in chosen]
    texts = [p.text for p in prompts], [p.corrupted for p in prompts], [other.corrupted for _, other in chosen]
    device = next(model.parameters()).device
    tokens, twin, abc_tokens = (tasks.to_tokens(model.tokenizer, list(text)).to(device) for text in texts)
    width = tokens.shape[1]
    return Batch(
        prompts=prompts,
        tokens=tokens,
        twin=twin,
        abc=abc_tokens,
        answers=tasks.answer_tokens(model.tokenizer, prompts).to(device),
        at={role: tasks.positions(prompts, role).to(device) for role in ("io", "s1", "s1+1", "s2", "end")},
        regions=[[_region(p.positions, position) for position in range(width)] for p in prompts],
        templates=[[f"{p.labels['wording']} @ {position}" for position in range(width)] for p in prompts],
    )


def _region(positions: Mapping[str, int], position: int) -> str:
    first, second = sorted((positions["io"], positions["s1"]))
    if position in (first, second):
        return "names"
    if position in (positions["s2"], positions["end"]):
        return "s2" if position == positions["s2"] else "end"
    return "between" if second < position < positions["s2"] else "rest"


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
