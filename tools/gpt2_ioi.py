"""Is GPT-2 small's circuit for indirect objects what the paper says? Measured with the course's tools, and compared.

    python tools/gpt2_ioi.py            # downloads gpt2; exits with 1 if a number is not near the published one

The prompts have the paper's wordings and our names, places and objects, after a beginning-of-sequence token; heads
that are knocked out say their mean over prompts with three unrelated names, word by word of each wording. So the
numbers need not be the paper's to the last digit: the tolerances stand in `CLAIMS`. On a model with random weights
every number can be computed and few claims hold: that is all that the tests here can show. Wang et al. 2023
(https://arxiv.org/abs/2211.00593).
"""

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from mechlib import models, tasks
from mechlib.circuits import ablation_values, faithfulness, position_roles, published, scorer
from mechlib.heads import name_copying_score
from mechlib.metrics import logit_diff
from mechlib.paths import path_sweep
from mechlib.tasks.ioi import ORDERS
from mechlib.tasks.prompt import Draft, generate, single_tokens
from mechlib.tasks.words import NAMES, OBJECTS, PLACES

PAPER = published("gpt2-ioi")


def prompts(tokenizer: Any, n: int, seed: int = 0) -> list[tasks.Prompt]:
    """The paper's wordings; the twin has three other names, each once."""
    names = single_tokens(tokenizer, NAMES, first=True)
    places, objects = single_tokens(tokenizer, PLACES), single_tokens(tokenizer, OBJECTS)

    def draw(rng: random.Random) -> Draft:
        a, b, c, d, e = rng.sample(names, 5)
        order = rng.choice(ORDERS)
        io, s = (a, b) if order == "ABBA" else (b, a)
        wording = rng.choice(PAPER.wordings)
        return Draft(
            wording=wording,
            slots={"a": a, "b": b, "s2": s, "place": rng.choice(places), "object": rng.choice(objects)},
            corrupted={"a": c, "b": d, "s2": e},
            answers=[f" {io}"],
            distractors=[f" {s}"],
            corrupted_answer=f" {d if order == 'ABBA' else c}",
            roles={"io": "a", "s1": "b"} if order == "ABBA" else {"s1": "a", "io": "b"},
            labels={"order": order, "wording": wording},
        )

    found = generate("ioi of the paper", tokenizer, n, seed, "train", draw)
    return [replace(p, positions={**p.positions, "s1+1": p.positions["s1"] + 1}) for p in found]


def measure(model: Any, n: int = 150) -> dict[str, Any]:
    """The model's and the circuit's logit difference; who writes it; whether name movers copy names."""
    found = prompts(model.tokenizer, n)
    device = next(model.parameters()).device
    tokens, twins = (
        tasks.to_tokens(model.tokenizer, [getattr(p, text) for p in found]).to(device) for text in ("text", "corrupted")
    )
    answers, end = tasks.answer_tokens(model.tokenizer, found).to(device), tasks.positions(found).to(device)
    metric = partial(logit_diff, answers=answers)
    values = ablation_values(model, position_roles(found, by_wording=True), "mean", twins)
    score = scorer(model, tokens, values, metric, end, position_roles(found))
    whole, circuit = score(), score(PAPER.circuit)
    kept = [hook for layer in range(model.cfg.n_layers) for hook in hooks(layer)]
    cache, source = (model.run_with_cache(each, names_filter=kept)[1] for each in (tokens, twins))
    straight = path_sweep(model, tokens, cache, source, metric, at=end, mlps="recomputed").mean(dim=-1) - whole.mean()
    io = tasks.positions(found, "io").to(device)
    copies = name_copying_score(model, cache["resid_post", 0][torch.arange(n, device=device), io], answers[:, 0])
    ranked = [divmod(i, model.cfg.n_heads) for i in straight.flatten().argsort().tolist()]
    return {
        "logit difference": whole.mean().item(),
        "logit difference of the circuit": circuit.mean().item(),
        "faithfulness": circuit.mean().item() / whole.mean().item(),  # as the paper has it: F(C) / F(M)
        "normalised": faithfulness(circuit, whole, score(())).ratio,
        "hurt most when patched": ranked[:3],
        "help most when patched": ranked[:-3:-1],
        "name movers copy": min(copies[head].item() for head in PAPER.classes()["name mover"]),
    }


def hooks(layer: int) -> list[str]:
    names = ("hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "attn.hook_z")
    return [f"blocks.{layer}.{name}" for name in names]


# What the paper says, as a sentence and a test of what was measured.
CLAIMS: Sequence[tuple[str, Callable[[dict[str, Any]], bool]]] = (
    ("the logit difference is 3.56 (within 0.7)", lambda m: abs(m["logit difference"] - 3.56) < 0.7),
    ("the circuit keeps 87% of it (within 15)", lambda m: abs(m["faithfulness"] - 0.87) < 0.15),
    ("the name movers 9.9, 9.6, 10.0 write it",
     lambda m: set(m["hurt most when patched"]) == set(PAPER.classes()["name mover"])),
    ("10.7 and 11.10 write against it",
     lambda m: set(m["help most when patched"]) == set(PAPER.classes()["negative name mover"])),
    ("name movers copy more than 95% of the names", lambda m: m["name movers copy"] > 0.95),
)  # fmt: skip


def main() -> int:
    with torch.no_grad():
        measured = measure(models.load("gpt2"))
    for name, value in measured.items():
        said = value if isinstance(value, list) else round(value, 3)
        print(f"{name}: {said} (published: {PAPER.numbers.get(name, '-')})")
    missed = [sentence for sentence, holds in CLAIMS if not holds(measured)]
    for sentence, _ in CLAIMS:
        print(f"{'NOT SO: ' if sentence in missed else 'as published: '}{sentence}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
