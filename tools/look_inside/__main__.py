# ruff: noqa: E501 (sentences)
"""A look inside: measures every number, draws every figure and writes docs/look-inside.md.

python -m tools.look_inside           # some minutes on one core
python -m tools.look_inside --prose   # figures and text again, from docs/look-inside/numbers.json
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mechlib import models
from mechlib.models import load, random_twin
from tools.look_inside import agreement, facts, greater_than, induction, ioi, ioi_known
from tools.look_inside.other_corpus import rounded
from tools.look_inside.prose import Page

DOCS = Path(__file__).parents[2] / "docs"
FOLDER = DOCS / "look-inside"
POCKETS = ("pocket", "pocket-seed-1")
TASKS = {"ioi": ioi, "facts": facts, "greater_than": greater_than, "agreement": agreement, "induction": induction}
ALL = ("ioi_known", *TASKS)


def measure(chosen: Sequence[str]) -> dict[str, Any]:
    """The numbers of some tasks: {task: {model: what was measured}}."""
    pockets = [name for name in POCKETS if name in models.names()]
    known = [name for name in ioi_known.NAMES if name in models.names()]
    numbers: dict[str, Any] = {task: {} for task in chosen}
    for name in pockets:
        model, random_model = load(name, device="cpu"), random_twin(name, device="cpu")
        for task in TASKS.keys() & set(chosen):
            numbers[task][name] = TASKS[task].measure(model, random_model)
            print(name, task, json.dumps(rounded(numbers[task][name])), flush=True)
    for name in known if "ioi_known" in chosen else []:
        numbers["ioi_known"][name] = ioi_known.measure(name)
        print(name, json.dumps(rounded(numbers["ioi_known"][name])), flush=True)
    numbers["sha256"] = {name: models.card(name)["sha256"] for name in (*pockets, *known)}
    return rounded(numbers)


def write(numbers: Mapping[str, Any], corpora: dict[str, Any] | None) -> Page:
    """The page's text."""
    page = Page()
    ioi_known.write(page, numbers["ioi_known"])
    for task, module in TASKS.items():
        if task == "facts":
            facts.write(page, numbers[task], corpora)
        else:
            module.write(page, numbers[task])
    pockets = list(numbers["ioi"])
    page.lines[:0] = [
        "# A look inside",
        f"What goes on in the models of this course, task by task (the mechanism, the evidence, a control, and what is not known), "
        f"in {count(numbers)} numbers that `python -m tools.look_inside` measures. It draws the figures and writes the sentences too: "
        f"{page.findings} of them are findings, and one that new weights do not bear out comes out as another sentence, marked *Not as "
        f"expected*. Numbers with a stroke between them are those of {' / '.join(f'`{name}`' for name in pockets)}, {len(pockets)} models "
        f"that differ by their seed alone; each is from {ioi.N} prompts that training has not shown, except where it says so.",
        '"Taken from" a prompt means activation patching: a part of the model says what it says there, and its share is how far that '
        'moves the answer, from 0 (not at all) to 1 (all the way). "Cannot see" means attention knockout: the attention from one position '
        'to another is set to 0. "Straight to the logits" is direct logit attribution. S1 and S2 are the first and second mention of the '
        "one who gives, IO is the other name, END is the last of the prompt's tokens, and head 2.1 is head 1 of layer 2.",
    ]
    return page


def count(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(map(count, value.values()))
    if isinstance(value, list):
        return sum(map(count, value))
    return int(isinstance(value, (int, float)))


def read(name: str) -> Any:
    path = FOLDER / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.look_inside", description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="*", help="measure these only: " + ", ".join(ALL))
    parser.add_argument("--prose", action="store_true", help="write figures and text again, without measuring")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    FOLDER.mkdir(parents=True, exist_ok=True)
    start = time.process_time()
    if not options.prose:
        before = read("numbers.json") if options.task else {}
        text = json.dumps(before | measure(options.task or ALL), indent=1) + "\n"
        (FOLDER / "numbers.json").write_text(text, encoding="utf-8")
    numbers = read("numbers.json")
    for task in ALL:
        for name, figure in (TASKS | {"ioi_known": ioi_known})[task].draw(numbers[task]).items():
            figure.savefig(FOLDER / f"{name}.png")
    page = write(numbers, read("corpus.json"))
    (DOCS / "look-inside.md").write_text(page.text(), encoding="utf-8")
    print(f"{DOCS / 'look-inside.md'}: {time.process_time() - start:.0f} seconds of CPU time")
    for sentence in page.failed:
        print(f"not borne out: {sentence}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
