"""Train one of the course's language models: `mechlib train NAME`.

A recipe says what the model is and what it reads; everything else is here. A run depends on the recipe and the seed
alone: the rows and the learning rate of a step are functions of the step, so a run that was killed resumes from its
last checkpoint and ends with the same weights as an uninterrupted one (on a CPU).
"""

import argparse
import datetime
import hashlib
import json
import math
import os
import pkgutil
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from mechlib.models import circuit as truth
from mechlib.models.circuit import Circuit

RECIPES = {
    "attn-only-2l": "mechlib.recipes.attn_only_2l:RECIPE",
    "ioi-known": "mechlib.recipes.ioi_known:RECIPE",
    "ioi-known-hard": "mechlib.recipes.ioi_known:HARD",
    "pocket": "mechlib.recipes.pocket:RECIPE",
}


@dataclass(frozen=True)
class Recipe:
    """What a model is, what it reads, and how it is judged."""

    name: str
    corpus: str  # in words, for the card
    config: dict[str, Any]  # of a GPT2Config
    tokenizer: Callable[[], Any]
    rows: Callable[[int, int, int], Sequence[Sequence[int]]]  # seed, step, batch -> token ids
    steps: int
    loss: Callable[..., Tensor] | None = None  # recipe, model, rows, seed, step -> loss; without it `language_loss`
    batch: int = 32
    lr: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    warmup: int = 100
    attention_only: bool = False  # zero the MLPs and leave them so
    save_every: int = 250
    probe: Callable[..., dict[str, float]] | None = None  # skills that are cheap to measure while training
    probe_every: int = 250
    snapshots: tuple[int, ...] = ()  # steps after which the weights are kept
    weaknesses: tuple[str, ...] = field(default=())
    start: Callable[[Any], None] | None = None  # changes the fresh model
    circuits: tuple[Circuit, ...] = ()  # which heads are made to carry what: seeds take turns

    def circuit(self, seed: int) -> Circuit:
        return self.circuits[seed % len(self.circuits)]


def recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    return pkgutil.resolve_name(RECIPES[name])


def build(recipe: Recipe, tokenizer: Any, seed: int) -> Any:
    """The untrained `GPT2LMHeadModel`; also the random-weights twin of a trained one."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    special: dict[str, Any] = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.bos_token_id}
    special |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(vocab_size=len(tokenizer), use_cache=False, **special, **recipe.config)
    model: Any = GPT2LMHeadModel(config)
    if recipe.attention_only:
        for block in model.transformer.h:
            for parameter in (*block.mlp.parameters(), *block.ln_2.parameters()):
                parameter.requires_grad_(False)
            for parameter in block.mlp.parameters():
                parameter.zero_()
    if recipe.start:
        recipe.start(model)
    return model


def learning_rate(recipe: Recipe, step: int) -> float:
    """Up in a line over the warm-up, then down along a half cosine."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * done))


def make_optimizer(recipe: Recipe, model: Any) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas)


def language_loss(model: Any, rows: Tensor) -> Tensor:
    """The mean cross-entropy of every token but the first, given those before it."""
    logits = model(rows).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten())


def train(
    recipe: Recipe, out: Path, seed: int = 0, device: str = "cpu", stop_after: int | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Train from the last checkpoint in `out` (or from the start) to the recipe's last step, and write the model in
    Hugging Face's layout. Returns the history. `stop_after` ends a run early, at that step, as a kill would."""
    tokenizer = recipe.tokenizer()
    model = build(recipe, tokenizer, seed).to(device).train()
    optimizer = make_optimizer(recipe, model)
    history: dict[str, Any] = {"loss": [], "probes": [], "seconds": 0.0}
    work = out / "training"
    work.mkdir(parents=True, exist_ok=True)
    recent: list[float] = []  # losses since the last line of the history
    state_file, run = work / "state.pt", {"recipe": recipe.name, "seed": seed}
    run |= {name: getattr(recipe, name) for name in ("steps", "batch", "lr", "weight_decay")}
    first = 0
    if state_file.exists():
        state = torch.load(state_file, map_location=device, weights_only=True)
        if state["run"] != run:
            raise ValueError(f"{out} holds another run, {state['run']}: choose another --out, or delete it")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        history, first, recent = state["history"], state["step"], state["recent"]
    last = recipe.steps if stop_after is None else min(stop_after, recipe.steps)
    start, before = time.time(), history["seconds"]
    bar = tqdm(range(first, last), desc=recipe.name, initial=first, total=recipe.steps, file=sys.stdout, disable=quiet)
    for step in bar:
        if step in recipe.snapshots:
            save_snapshot(model, out, step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        rows = torch.tensor(recipe.rows(seed, step, recipe.batch), device=device)
        loss = recipe.loss(recipe, model, rows, seed, step) if recipe.loss else language_loss(model, rows)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent.append(loss.item())
        done = step + 1
        if done % 50 == 0:
            bar.set_postfix(loss=f"{sum(recent) / len(recent):.3f}")
            history["loss"].append([done, sum(recent) / len(recent)])
            recent = []
        if recipe.probe and done % recipe.probe_every == 0:
            extra = {"circuit": recipe.circuit(seed)} if recipe.circuits else {}
            skills = recipe.probe(model.eval(), tokenizer, **extra)
            model.train()
            history["probes"].append([done, skills])
            if not quiet:
                tqdm.write(f"step {done}: " + ", ".join(f"{k} {v:.2f}" for k, v in skills.items()), file=sys.stdout)
        if done % recipe.save_every == 0:
            history["seconds"] = before + time.time() - start
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "history": history}
            _save(state | {"step": done, "run": run, "recent": recent}, state_file)
    history["seconds"] = before + time.time() - start
    if last == recipe.steps:
        if recipe.steps in recipe.snapshots:
            save_snapshot(model, out, recipe.steps)
        save_model(model, tokenizer, out)
        (out / "history.json").write_text(json.dumps(history) + "\n", encoding="utf-8")
    return history


def _save(state: dict[str, Any], path: Path) -> None:
    """A kill while writing leaves the old file."""
    torch.save(state, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def save_model(model: Any, tokenizer: Any, out: Path) -> None:
    """Weights in half precision (to be read as float32), config and tokenizer."""
    from transformers import GPT2LMHeadModel

    copy = GPT2LMHeadModel(model.config)
    copy.load_state_dict(model.state_dict())
    copy.half().save_pretrained(out)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    (out / "config.json").write_text(
        json.dumps(config | {"dtype": "float32"}, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    (out / "generation_config.json").unlink(missing_ok=True)
    if tokenizer is not None:
        tokenizer.save_pretrained(out)
        file = out / "tokenizer_config.json"  # the class's public name, which every version knows
        settings = json.loads(file.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
        settings.pop("backend", None)
        file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def save_snapshot(model: Any, out: Path, step: int) -> None:
    save_model(model, None, out / "checkpoints" / f"step-{step:05}")


# ---- the card and the picture


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_card(recipe: Recipe, out: Path, seed: int, history: dict[str, Any], device: str = "cpu") -> dict[str, Any]:
    """Evaluate the saved model and write card.json beside it (and truth.json, if it was made to have a circuit)."""
    import transformers

    from mechlib import models
    from mechlib.models import interchange
    from mechlib.models.evaluate import TARGETS, evaluate_folder, load_plain, misses

    if recipe.circuits:
        (out / "card.json").unlink(missing_ok=True)  # an older one has another checksum
        bridge = models.load(out, device="cpu")
        truth.write(interchange.measure(bridge, bridge.tokenizer, recipe.circuit(seed)), out / truth.FILE)
    skills = evaluate_folder(out)
    model, _ = load_plain(out)
    config = model.config
    files = sorted([out / "model.safetensors", *out.glob("checkpoints/*/model.safetensors")])
    sums = {path.relative_to(out).as_posix(): checksum(path) for path in files}
    card = {
        "name": recipe.name,
        "architecture": {
            "kind": "GPT-2" + (", attention only (the MLPs are zero)" if recipe.attention_only else ""),
            "layers": config.n_layer,
            "heads": config.n_head,
            "width": config.n_embd,
            "mlp": 0 if recipe.attention_only else config.n_inner or 4 * config.n_embd,
            "context": config.n_positions,
            "vocabulary": config.vocab_size,
            "parameters": sum(p.numel() for p in model.parameters()),
        },
        "corpus": recipe.corpus,
        "recipe": {
            "command": f"mechlib train {recipe.name} --seed {seed}",
            "optimizer": "AdamW",
            "lr": recipe.lr,
            "betas": list(recipe.betas),
            "weight_decay": recipe.weight_decay,
            "batch": recipe.batch,
            "clip": 1.0,
            "device": device,
        },
        "seed": seed,
        "steps": recipe.steps,
        "minutes": round(history["seconds"] / 60, 1),
        "date": datetime.date.today().isoformat(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "sha256": sums.pop("model.safetensors"),
        "checkpoints": sums,
        "licence": "MIT",
        "skills": skills,
        "not reached": misses(skills, TARGETS.get(recipe.name, {})),
        "weaknesses": list(recipe.weaknesses),
    }
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return card


def plot_history(history: dict[str, Any], title: str, path: Path) -> None:
    """The loss above, the skills below, over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from mechlib.plots import STYLE

    with plt.rc_context(STYLE):
        figure, (top, bottom) = plt.subplots(2, 1, figsize=(6, 5), sharex=True)
        top.plot([step for step, _ in history["loss"]], [loss for _, loss in history["loss"]])
        top.set(ylabel="training loss", title=title)
        for i, skill in enumerate(history["probes"][0][1] if history["probes"] else ()):
            style = ["-", "--", ":", "-."][i // 7 % 4]
            bottom.plot([s for s, _ in history["probes"]], [p[skill] for _, p in history["probes"]], style, label=skill)
        bottom.set(xlabel="step", ylabel="skill", ylim=(-0.05, 1.05))
        if history["probes"]:
            bottom.legend(fontsize=6, ncols=2)
        figure.savefig(path)
        plt.close(figure)


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["sae"]:
        from mechlib.recipes import sae

        return sae.main(arguments[1:])
    from transformers.utils.logging import disable_progress_bar

    from mechlib.models.evaluate import TARGETS, table

    parser = argparse.ArgumentParser(
        prog="mechlib train",
        description="Train one of the course's language models. A run that was interrupted goes on where it was.",
        epilog="`mechlib train sae` trains the sparse autoencoders.",
    )
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the model goes (default: trained/NAME-SEED)")
    parser.add_argument("--steps", type=int, help="shorter or longer than the recipe says")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1, which small models like)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    disable_progress_bar()  # one bar is enough
    chosen = recipe(options.name)
    if options.steps:
        chosen = replace(chosen, steps=options.steps)
    out = options.out or Path("trained") / f"{options.name}-{options.seed}"

    history = train(chosen, out, options.seed, options.device)
    plot_history(history, f"{chosen.name}, seed {options.seed}", out / "training.png")
    card = write_card(chosen, out, options.seed, history, options.device)
    shutil.rmtree(out / "training")
    print(table(card["skills"], TARGETS.get(chosen.name, {})))
    missed = card["not reached"]
    print(f"{out}: {'every target is reached' if not missed else 'not reached: ' + ', '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
