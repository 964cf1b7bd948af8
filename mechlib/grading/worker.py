"""One submission from file to verdicts, in a process of its own: find it, graft, run it in a sandbox, judge.

A worker knows the seed and the references, and reads what strangers wrote; so it is neither the process in
which their code runs nor the one that owns the gradebook. What it finds out goes into two files of the job's folder.
"""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import sys
import warnings
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from mechlib.grading import look
from mechlib.grading.clean import clean
from mechlib.grading.graft import EXTRA, UnreadableNotebook, graft, match_cells, read_submission
from mechlib.grading.judging import Judge, Verdicts
from mechlib.grading.limits import MIB, Limits
from mechlib.grading.remote import ClusterLost, observe_there
from mechlib.grading.run import Run, observe_submission
from mechlib.grading.sandbox import Sandbox
from mechlib.grading.store import write_json, write_whole

MEMORY = 8192 * MIB  # of a worker
FULL_DISK, CLUSTER_LOST = 74, 75  # exit statuses


def main(job: dict[str, Any], fds: list[int]) -> int:
    """Do a job; what the keys mean stands in `grade.Class.start`."""
    try:
        limit_memory()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote what a student wrote, on the instructor's terminal
            result = grade_submission(job)
        write_json(Path(job["folder"]) / "result.json", result | {"key": job["key"]})
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return FULL_DISK
        raise
    except ClusterLost as error:
        write_json(Path(job["folder"]) / "result.json", {"lost": str(error)})
        return CLUSTER_LOST


def grade_submission(job: dict[str, Any]) -> dict[str, Any]:
    """What is known about a submission: its state, remarks, and verdicts; the executed notebook lies beside it."""
    release = nbformat.read(job["release"], as_version=4)
    remarks: list[str] = []
    try:
        path = find_notebook(Path(job["submission"]), job["chapter"], release, remarks)
        grafted = graft(release, read_submission(path))
    except FileNotFoundError as error:
        return {"state": "missing", "remarks": [*remarks, str(error)]}
    except UnreadableNotebook as error:
        return {"state": "unreadable", "remarks": [*remarks, str(error)]}
    seed = json.loads(Path(job["seed"]).read_text(encoding="utf-8"))["seed"]
    notebook, limits = grafted.notebook, Limits(**job["limits"])
    judge = Judge([cell.metadata["check"] for cell in notebook.cells if "check" in cell.metadata], seed)
    if job["dask"]:
        os.environ.update(job["environment"])
        run = observe_there(job["dask"], notebook, release, judge.requests(), limits, job["sandbox"]["kind"])
    else:
        run = observe_submission(notebook, judge.requests(), limits, Sandbox(**job["sandbox"]))
    clean(notebook, release)
    verdicts = judge.settle(notebook, run)
    write_whole(Path(job["folder"]) / "notebook.ipynb", nbformat.writes(notebook).encode())
    added = {cell.id for cell in notebook.cells if EXTRA in cell.metadata.get("tags", [])}
    return {
        "state": "ran",
        "remarks": [
            *remarks,
            *grafted.remarks,
            *happenings(notebook, run, verdicts, limits),
            *look.remarks(notebook, judge.exercises),
        ],
        "started": grafted.started,
        "timed_out": bool(set(run.timed_out) - added),
        "killed": bool(run.died),
        "forged": run.forged,
        "verdicts": vars(verdicts),
    }


def limit_memory() -> None:
    """A notebook or an outcome that was made to fill the memory ends its worker, not the machine."""
    if hasattr(resource, "RLIMIT_DATA"):
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(
            resource.RLIMIT_DATA, (MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard), hard)
        )


# ---- which file


def find_notebook(folder: Path, chapter: str, release: NotebookNode, remarks: list[str]) -> Path:
    """The student's notebook, also under another name; FileNotFoundError says what was found instead.

    Links are not followed: they would lead to files that the student cannot read.
    """
    files = [path for path in sorted(folder.rglob("*")) if not path.is_dir() or path.is_symlink()]
    links = [path for path in files if path.is_symlink()]
    if folder.is_symlink() or links:
        remarks.append(f"links are not followed: {', '.join(path.name for path in links or [folder])}")
    found = [] if folder.is_symlink() else [path for path in files if path.suffix == ".ipynb" and path not in links]
    found = [path for path in found if path.is_file() and ".ipynb_checkpoints" not in path.parts]
    expected = folder / f"{chapter}.ipynb"
    if expected in found:
        return expected
    if not found:
        others = sorted({path.relative_to(folder).parts[0] for path in files})[:10]
        raise FileNotFoundError(f"no notebook was handed in{', only ' + ', '.join(others) if others else ''}")
    best = max(found, key=lambda path: resemblance(path, release))
    remarks.append(f"the notebook was called {best.name}")
    return best


def resemblance(path: Path, release: NotebookNode) -> int:
    """How many of the released cells a notebook has."""
    try:
        return sum(map(bool, match_cells(release.cells, read_submission(path)).values()))
    except UnreadableNotebook:
        return -1


# ---- what happened, in words


def happenings(notebook: NotebookNode, run: Run, verdicts: Verdicts, limits: Limits) -> list[str]:
    """A remark for each cell that was stopped, ended Python, does not run, or checks a borrowed answer."""
    remarks = [f"tried to forge: {what}" for what in run.forged]
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    borrowed = re.findall(r"""^[^#\n]*borrow\(\s*["']([\w.-]+)["']""", code, flags=re.MULTILINE)
    for cell in notebook.cells:
        name = cell.metadata.get("check")
        if cell.id == run.died:
            reason = "could not be stopped" if cell.id in run.timed_out else "ended Python"
            reason = f"was ended: {run.reason}" if run.reason else reason
            remarks.append(f"{place(cell)} {reason}, so nothing after it ran")
        elif cell.id in run.timed_out:
            remarks.append(f"{place(cell)} was stopped after {limits.cell:g} s")
        elif "exercise" in cell.metadata:
            errors = [output.ename for output in cell.outputs if output.output_type == "error"]
            remarks += [f"{place(cell)} does not run: {name}" for name in errors[:1]]
        elif name and (verdicts.status[name] == "borrowed" or (name in borrowed and not verdicts.earned[name])):
            remarks.append(f"{name} was borrowed")
    return remarks


def place(cell: NotebookNode) -> str:
    """Which cell, in words."""
    for kind, words in (("exercise", "the cell of"), ("check", "the check of")):
        if kind in cell.metadata:
            return f"{words} {cell.metadata[kind]}"
    return "an added cell" if EXTRA in cell.metadata.get("tags", []) else "a set-up cell"


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1]), []))
