"""A small course with exercises of the library's own, quick to release and to grade."""

import atexit
import os
import shutil
import tempfile
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import nbformat

from mechlib.grading import demo, grade, release
from mechlib.grading.forkserver import ForkServer
from mechlib.grading.namespaces import NoSandbox
from mechlib.grading.sandbox import choose

CHAPTER = "01_toy"
NORMS, MODEL, DIMENSIONS = (
    "superposition.feature_norms",
    "superposition.ToyModel",
    "superposition.dimensions_per_feature",
)
WHY = "toy.why"
WORDS = {NORMS, MODEL, DIMENSIONS, WHY}

SOURCE = '''\
# %% tags=["setup"]
import torch
from torch import nn

from mechlib.check import borrow, check

# %% exercise="superposition.feature_norms"
def feature_norms(W):
    """The length of every feature's direction."""
    ### BEGIN SOLUTION
    return W.norm(dim=1)
    ### END SOLUTION

# %% check="superposition.feature_norms"
check("superposition.feature_norms", feature_norms)

# %% tags=["experiment", "finding"]
print("three and four make", feature_norms(torch.tensor([[[3.0], [4.0]]])).item())

# %% exercise="superposition.ToyModel"
class ToyModel(nn.Module):
    """ReLU(W^T W x + b), in many instances at once."""

    def __init__(self, n_instances: int, n_features: int, n_hidden: int):
        super().__init__()
        ### BEGIN SOLUTION
        self.W = nn.Parameter(0.3 * torch.randn(n_instances, n_hidden, n_features))
        self.b = nn.Parameter(torch.zeros(n_instances, n_features))
        ### END SOLUTION

    def forward(self, x):
        ### BEGIN SOLUTION
        hidden = torch.einsum("imf,bif->bim", self.W, x)
        return (torch.einsum("imf,bim->bif", self.W, hidden) + self.b).relu()
        ### END SOLUTION

# %% check="superposition.ToyModel"
check("superposition.ToyModel", ToyModel)

# %% [markdown]
# Why is there a ReLU?

# %% [markdown] question="toy.why" points=2
# Because it forgives negative interference.
#
# Rubric: 2 points for the word or for an example.

# %% exercise="superposition.dimensions_per_feature"
def dimensions_per_feature(W):
    """Hidden dimensions spent on a stored feature: m / ||W||_F^2."""
    ### BEGIN SOLUTION
    return W.shape[1] / W.pow(2).sum(dim=(1, 2))
    ### END SOLUTION

# %% check="superposition.dimensions_per_feature"
check("superposition.dimensions_per_feature", dimensions_per_feature)
'''


@cache
def repository() -> Path:
    """A repository with this one chapter, released; made once, so do not write into it."""
    root = Path(tempfile.mkdtemp(prefix="mechlib-test-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    source = root / "solutions" / CHAPTER / f"{CHAPTER}.py"
    source.parent.mkdir(parents=True)
    source.write_text(SOURCE, encoding="utf-8")
    assert release.main(["--root", str(root)]) == 0
    return root


def hand_in(course: Path, student: str, *changes, answered: set[str] = WORDS):
    """Put a student's notebook into the submitted/ of a course, which may be new; return its path."""
    root = repository()
    released = nbformat.read(release.chapter_path(root, CHAPTER), as_version=4)
    solved = nbformat.read(release.solved_path(root, CHAPTER), as_version=4)
    target = release.chapter_path(course, CHAPTER)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(release.chapter_path(root, CHAPTER).read_bytes())
    folder = course / "submitted" / student / CHAPTER
    folder.mkdir(parents=True)
    notebook = demo.hand_in(released, solved, answered, changes)
    nbformat.write(notebook, folder / f"{CHAPTER}.ipynb")
    return folder / f"{CHAPTER}.ipynb"


@cache
def server() -> str:
    """The address of one fork server for all tests of this process."""
    running = ForkServer([*grade.HEAVY, *grade.OURS], (grade.WARM_UP, [NORMS, MODEL, DIMENSIONS]))
    atexit.register(running.__exit__)
    return running.__enter__()


def share_server(monkeypatch) -> None:
    """Let the grader use that server instead of starting its own."""
    monkeypatch.setattr(grade, "fork_server", lambda release: nullcontext(server()))


@cache
def sandbox() -> str:
    """The sandbox that tests use: the machine's best, or none where it has none (the tests of sandboxes skip there)."""
    if chosen := os.environ.get("MECHLIB_TEST_SANDBOX"):
        return chosen
    try:
        return choose("auto", server())[0]
    except NoSandbox:
        return "none"
