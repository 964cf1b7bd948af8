"""Path patching of every head to the logits: `path_sweep` against one `path_patch` for each head.

    python benchmarks/paths.py [pocket] [gpt2] > benchmarks/paths.md

Times are seconds of this process's processor, on one thread, without the two runs whose caches both need. Where one
call for each head takes long, some heads drawn at random are timed and scaled up; the differences are those on them.
"""

import platform
import random
import sys
from datetime import date
from functools import partial
from typing import Any

import torch
from patching import gpt2_shaped, timed  # benchmarks/patching.py

from mechlib import models
from mechlib.metrics import logit_diff
from mechlib.paths import path_patch, path_sweep
from mechlib.tasks import answer_tokens, ioi, positions, to_tokens

BATCH, LENGTH = 32, 16


def prompts(model: Any) -> tuple[Any, Any, Any, Any]:
    """Tokens, those of the other run, the answers and where they are read: IOI prompts, or random ones."""
    if model.cfg.d_vocab < 10_000:
        found = [p for p in ioi(model.tokenizer, 600, corruption="s2") if p.positions["end"] == LENGTH - 1][:BATCH]
        texts = ([getattr(p, text) for p in found] for text in ("text", "corrupted"))
        clean, twins = (to_tokens(model.tokenizer, each) for each in texts)
        return clean, twins, answer_tokens(model.tokenizer, found), positions(found)
    generator = torch.Generator().manual_seed(0)
    clean, twins = torch.randint(2, model.cfg.d_vocab, (2, BATCH, LENGTH), generator=generator)
    answers = torch.randint(2, model.cfg.d_vocab, (BATCH, 2), generator=generator)
    return clean, twins, answers, torch.full((BATCH,), LENGTH - 1)


def compare(name: str, model: Any, sample: int) -> None:
    tokens, twins, answers, end = prompts(model)
    metric, rows = partial(logit_diff, answers=answers), torch.arange(len(tokens))
    (_, cache), (_, source) = (model.run_with_cache(each) for each in (tokens, twins))
    heads = [(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
    some = random.Random(0).sample(heads, min(sample, len(heads)))
    for mlps in ("frozen", "recomputed"):
        quick = partial(path_sweep, model, tokens, cache, source, metric, at=end, mlps=mlps)

        def one_by_one(mlps: Any = mlps) -> list[Any]:
            patched = (path_patch(model, tokens, cache, source, [head], mlps=mlps)[rows, end] for head in some)
            return [metric(logits) for logits in patched]

        (values, seconds, _), (expected, slow, _) = timed(quick), timed(one_by_one)
        difference = max((values[head] - value).abs().max().item() for head, value in zip(some, expected))
        slow *= len(heads) / len(some)
        print(f"| {name} | {mlps} | {len(heads)} | {seconds:.2f} | {slow:.1f} | {slow / seconds:.0f} |"
              f" {difference / (values.max() - values.min()):.0e} |", flush=True)  # fmt: skip


def main() -> None:
    which = sys.argv[1:] or ["pocket", "gpt2"]
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    print(f"""# Path patching: all heads to the logits

{date.today()}, {platform.machine()}, one thread, torch {torch.__version__}, {BATCH} prompts of {LENGTH} tokens.
Made by `python benchmarks/paths.py`. gpt2: a random GPT-2 with GPT-2 small's sizes (12 layers of 12 heads, width 768,
vocabulary 50257).

- *sweep*: `path_sweep`, seconds of processor time.
- *one by one*: `path_patch` for each head (gpt2: 3 of the 144, scaled up).

| model | MLPs | heads | sweep, s | one by one, s | ratio | largest difference / range |
|---|---|---|---|---|---|---|""")
    if "pocket" in which:
        compare("pocket", models.load("pocket", device="cpu"), 16)
    if "gpt2" in which:
        compare("gpt2", gpt2_shaped(), 3)


if __name__ == "__main__":
    main()
