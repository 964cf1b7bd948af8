"""Our patching sweeps against `transformer_lens.patching.get_act_patch_*`, in one run and on the same prompts.

    python benchmarks/patching.py [pocket] [gpt2] > benchmarks/patching.md

Both work on one thread, and their turns alternate. Times are seconds of this process's processor, so another program
on the machine disturbs little; ours include both unpatched runs, TransformerLens's not even the cache that it needs.
Where TransformerLens would need many minutes, a fixed random 5% of its cells is timed and scaled up, and the
differences are those on these cells. Peak memory is the growth of the process (Linux only).
"""

import ctypes
import gc
import io
import platform
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformer_lens.patching as peer
from torch.utils.flop_counter import FlopCounterMode

from mechlib import models
from mechlib.metrics import logit_diff
from mechlib.patching import cells, shape_of, sweep
from mechlib.tasks import answer_tokens, ioi, to_tokens

BATCH, LENGTH = 8, 16
SWEEPS = {  # name: (site, by position, TransformerLens's axes)
    "heads, all positions": ("head", False, ["layer", "head"]),
    "residual stream by position": ("resid_pre", True, ["layer", "pos"]),
    "attention output by position": ("attn_out", True, ["layer", "pos"]),
    "MLP output by position": ("mlp_out", True, ["layer", "pos"]),
    "heads by position": ("head", True, ["layer", "pos", "head"]),
}
SETTERS = {
    ("layer", "head"): peer.layer_head_vector_patch_setter,
    ("layer", "pos"): peer.layer_pos_patch_setter,
    ("layer", "pos", "head"): peer.layer_pos_head_vector_patch_setter,
}
ACTIVATIONS = {"head": "z", "resid_pre": "resid_pre", "attn_out": "attn_out", "mlp_out": "mlp_out"}
# Where the names stand in "<bos> When Mary and John went to the store, John gave a drink to".
CORRUPTIONS = {"one token (S2)": [10], "three (all names)": [2, 4, 10], "all but `<bos>`": list(range(1, 16))}


def gpt2_shaped() -> Any:
    """A random GPT-2 with GPT-2 small's sizes."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from mechlib.handmade import word_tokenizer

    torch.manual_seed(0)
    network = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0))
    with torch.no_grad():
        for parameter in network.parameters():  # larger than at the start of training, so that patches do something
            parameter.add_(0.02 * torch.randn_like(parameter))
    words = ["<bos>", "<unk>", *(f"w{i}" for i in range(2, network.config.vocab_size))]
    return models.bridge(network, word_tokenizer(words), device="cpu")


def prompts(model: Any, changed: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Clean and corrupted tokens that differ at these positions, and the answers: IOI prompts where the model knows
    the words, else random ones."""
    generator = torch.Generator().manual_seed(0)
    if model.cfg.d_vocab < 10_000:
        corruption = "s2" if len(changed) == 1 else "names"
        found = [p for p in ioi(model.tokenizer, 300, corruption=corruption) if p.positions["end"] == LENGTH - 1][
            :BATCH
        ]
        clean = to_tokens(model.tokenizer, [p.text for p in found])
        twins = to_tokens(model.tokenizer, [p.corrupted for p in found])
        return clean, twins if len(changed) <= 3 else clean.roll(1, dims=0), answer_tokens(model.tokenizer, found)
    clean = torch.randint(2, model.cfg.d_vocab, (BATCH, LENGTH), generator=generator)
    clean[:, 0] = 0
    corrupted = clean.clone()
    corrupted[:, changed] = (clean[:, changed] - 2 + 7) % (model.cfg.d_vocab - 2) + 2
    return clean, corrupted, torch.randint(2, model.cfg.d_vocab, (BATCH, 2), generator=generator)


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result, the seconds of processor time, and by how many MB the process grew at its peak."""
    gc.collect()
    before = _memory("VmRSS", reset=True)
    start = time.process_time()
    with redirect_stderr(io.StringIO()):  # TransformerLens's progress bar
        result = run()
    seconds = time.process_time() - start
    return result, seconds, _memory("VmHWM") - before


def _memory(entry: str, reset: bool = False) -> float:
    """A number of MB from the kernel's record of this process; NaN where there is none."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return float("nan")
    if reset:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in status.read_text().splitlines() if line.startswith(entry))
    return int(line.split()[1]) / 1000


def theirs(model: Any, base: Any, cache: Any, metric: Any, site: str, axes: list[str], rows: pd.DataFrame) -> Any:
    return peer.generic_activation_patch(
        model, base, cache, lambda logits: metric(logits[:, -1]).mean(), SETTERS[tuple(axes)], ACTIVATIONS[site],
        index_df=rows,
    )  # fmt: skip


def compare(model: Any, share: float) -> None:
    head = "sweep|corrupted|cells|TransformerLens, s|ours, s|ratio|forward passes|"
    head += "largest difference / range|peak, MB (TransformerLens)"
    clean, corrupted, answers = prompts(model, [1])
    with torch.no_grad():
        _, cache = model.run_with_cache(clean)
        sweep(model, clean, corrupted, partial(logit_diff, answers=answers))  # what is made once, is made
    held = {value.data_ptr(): value.nbytes for value in cache.values()}
    bound = sum(p.nbytes for p in model.parameters()) + sum(held.values())
    print(f"A sweep may grow the process by the model's weights and the cache of one run: {bound / 1e6:.0f} MB.\n")
    print("| " + head.replace("|", " | ") + " |\n" + "|---" * 9 + "|")
    with FlopCounterMode(display=False) as one, torch.no_grad():
        model(clean)
    for name, (site, by_position, axes) in SWEEPS.items():
        for corruption, changed in CORRUPTIONS.items():
            clean, corrupted, answers = prompts(model, changed)
            metric = partial(logit_diff, answers=answers)
            every = [[i for i in cell if i is not None] for cell in cells(model, clean, site, by_position)]
            generator = torch.Generator().manual_seed(0)
            picked = torch.randperm(len(every), generator=generator)[: max(1, round(share * len(every)))].tolist()
            rows = pd.DataFrame([every[i] for i in picked], columns=axes)
            with torch.no_grad():
                _, cache = model.run_with_cache(clean)
                ours_run = partial(sweep, model, clean, corrupted, metric, site, by_position)
                with FlopCounterMode(display=False) as all_of_it:  # which costs little; pocket's other runs go without
                    found, ours, peak = timed(ours_run)
                expected, peer_s, peer_peak = timed(partial(theirs, model, corrupted, cache, metric, site, axes, rows))
                repeats = 4 if len(picked) == len(every) else 1
                for _ in range(repeats - 1):
                    ours = min(ours, timed(ours_run)[1])
                    run = partial(theirs, model, corrupted, cache, metric, site, axes, rows)
                    peer_s = min(peer_s, timed(run)[1])
            values = found.mean(dim=-1).flatten()
            difference = (values[picked] - expected).abs().max() / (values.max() - values.min())
            peer_s *= len(every) / len(picked)
            passes = all_of_it.get_total_flops() / one.get_total_flops()
            assert list(found.shape[:-1]) == shape_of(model, clean, site, by_position)
            print(f"| {name} | {corruption} | {len(every)} | {peer_s:.2f} | {ours:.2f} | **{peer_s / ours:.1f}** |"
                  f" {passes:.1f} | {difference:.0e} | {peak:.0f} ({peer_peak:.0f}) |",
                  flush=True)  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    which = sys.argv[1:] or ["pocket", "gpt2"]
    a, b = torch.randn(1024, 768), torch.randn(768, 3072)
    rate = 2 * a.numel() * b.shape[1] / min(timed(lambda: a @ b)[1] for _ in range(20)) / 1e9
    print(f"""# Patching sweeps: TransformerLens against mechlib

{date.today()}, {platform.machine()}, one thread, torch {torch.__version__},
transformer-lens {version("transformer-lens")},
{BATCH} prompts of {LENGTH} tokens. Made by `python benchmarks/patching.py`.

- Times are processor seconds of one run each (pocket: the best of four), the two taking turns.
- *forward passes*: the arithmetic of our sweep as PyTorch's flop counter has it, in units of a full forward pass;
  TransformerLens spends one a cell.
- *corrupted*: how many tokens differ between the twins. TransformerLens does not care; ours skips what cannot change.
- This processor multiplies large matrices at {rate:.0f} GFLOP/s.
""")
    if "pocket" in which:
        model = models.load("pocket", device="cpu")
        print("\n## pocket (4 layers, width 128)\n\nTransformerLens runs every cell.\n")
        compare(model, 1.0)
    if "gpt2" in which:
        model = gpt2_shaped()
        print("\n## A random GPT-2 (12 layers, width 768, vocabulary 50257)\n")
        print("TransformerLens runs a fixed random 5% of the cells; its time is scaled up.\n")
        compare(model, 0.05)


if __name__ == "__main__":
    main()
