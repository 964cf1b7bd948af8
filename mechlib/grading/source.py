"""Read a chapter's percent-format source into a notebook with nbgrader's metadata, the same each time.

The format is described in docs/architecture.md. Ids, tags and points are derived: an author writes none.
"""

from __future__ import annotations

import base64
import copy
import difflib
import hashlib
import importlib
import importlib.metadata
import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import jupytext
from nbformat import NotebookNode
from nbformat.v4 import new_notebook

BEGIN, END = "BEGIN SOLUTION", "END SOLUTION"
SCHEMA_VERSION = 3
NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"},
}
NAMED_KINDS = ("exercise", "check", "question")
PLAIN_KINDS = ("setup", "experiment")


class SourceError(Exception):
    """What is wrong with a chapter's source, in one sentence."""


def read_source(path: Path, repository: str | None = None) -> NotebookNode:
    """The chapter at `path` as a notebook without outputs, with ids, tags and nbgrader's metadata."""
    if not path.is_file():
        raise SourceError(f"There is no source {path.name} in {path.parent.name}/: the source has its folder's name.")
    text = path.read_text(encoding="utf-8")
    if "{{repository}}" in text or "{{colab}}" in text:
        repository = repository or repository_url(path.parent)
        text = text.replace("{{repository}}", repository).replace("{{colab}}", colab_url(repository, path.stem))
    try:
        cells = jupytext.reads(text, fmt="py:percent").cells
        for cell in cells:
            _attach_pictures(cell, path.parent)
        return _notebook(cells)
    except SourceError as error:
        raise SourceError(f"{path.name}: {error}") from None


def _notebook(cells: list[NotebookNode]) -> NotebookNode:
    """The cells with everything derived: each cell's kind, id, tags and nbgrader metadata."""
    kinds = [_kind(cell, number) for number, cell in enumerate(cells, start=1)]
    _check_structure(cells, kinds)
    seen: Counter[str] = Counter()
    notebook = new_notebook(metadata=copy.deepcopy(NOTEBOOK_METADATA))
    for cell, kind in zip(cells, kinds, strict=True):
        _check_solution(cell, kind)
        header = dict(cell.metadata)
        cell.id = _cell_id(cell, kind, seen)
        cell.metadata = _metadata(header, kind, cell.id)
        notebook.cells.append(cell)
    notebook.metadata["mechlib"] = {"code": code_hash(notebook)}
    return notebook


def code_hash(notebook: NotebookNode) -> str:
    """A short hash of the code cells alone: when it stays, the outputs may stay too."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def colab_url(repository: str, chapter: str) -> str:
    """The address that opens a chapter's notebook in Colab, for a repository on GitHub."""
    name = repository.removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{name}/blob/main/chapters/{chapter}/{chapter}.ipynb"


def _attach_pictures(cell: NotebookNode, folder: Path) -> None:
    """Puts the PNG files that a prose cell shows into the cell, so that the notebook can travel alone."""
    if cell.cell_type != "markdown":
        return
    for name in re.findall(r"!\[[^\]]*\]\(([\w-]+\.png)\)", cell.source):
        if not (folder / name).is_file():
            raise SourceError(f"the picture {name} does not lie beside the source.")
        content = base64.b64encode((folder / name).read_bytes()).decode()
        cell.setdefault("attachments", {})[name] = {"image/png": content}
        cell.source = cell.source.replace(f"]({name})", f"](attachment:{name})")
    if other := re.search(r"!\[[^\]]*\]\((?!attachment:|data:|https?:)([^)]*)\)", cell.source):
        raise SourceError(f"the picture {other[1]} cannot travel: a picture is a .png file beside the source.")


def repository_url(start: Path) -> str:
    """The public address: from the installed package, else from the nearest pyproject.toml above `start`."""
    try:
        lines = importlib.metadata.metadata("mechlib").get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:
        lines = []
    for line in lines:
        label, _, url = line.partition(",")
        if label.strip().lower() == "repository":
            return url.strip().rstrip("/")
    for folder in start.resolve().parents:
        if (folder / "pyproject.toml").is_file():
            project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
            urls = {label.lower(): url for label, url in project.get("urls", {}).items()}
            if "repository" in urls:
                return str(urls["repository"]).rstrip("/")
    raise SourceError("{{repository}} is used, but pyproject.toml names no Repository under [project.urls].")


# ---- one cell


def _kind(cell: NotebookNode, number: int) -> str:
    """One of setup, exercise, check, experiment, question, prose."""
    named = [kind for kind in NAMED_KINDS if kind in cell.metadata]
    tagged = [kind for kind in PLAIN_KINDS if kind in cell.metadata.get("tags", [])]
    if len(named + tagged) > 1:
        raise SourceError(f"cell {number} says to be both {' and '.join(named + tagged)}: one kind a cell.")
    kind = (named + tagged + [""])[0]
    if cell.cell_type == "markdown" and kind in ("question", ""):
        return kind or "prose"
    if cell.cell_type == "code" and kind and kind != "question":
        return kind
    first = cell.source.strip().partition("\n")[0]
    raise SourceError(f"cell {number} ({cell.cell_type}, {first!r}) has no kind that fits: see docs/architecture.md.")


def _cell_id(cell: NotebookNode, kind: str, seen: Counter[str]) -> str:
    """The exercise's or question's name, or a hash of the content and how often that content came before."""
    if kind in NAMED_KINDS:
        return grade_id(kind, cell.metadata[kind])
    digest = hashlib.sha256(f"{cell.cell_type}\0{cell.source}".encode()).hexdigest()[:8]
    seen[digest] += 1
    return f"{kind}-{digest}" if seen[digest] == 1 else f"{kind}-{digest}-{seen[digest]}"


def grade_id(kind: str, name: str) -> str:
    """Ids know no dots: the exercise `toys.add` becomes `toys-add`, its check `check-toys-add`."""
    slug = name.replace(".", "-")
    slug = f"check-{slug}" if kind == "check" else slug
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", slug):
        raise SourceError(f"{name!r} cannot be an id: letters, digits, '.', '_' and '-', at most 58 of them.")
    return slug


def _metadata(header: dict, kind: str, cell_id: str) -> dict:
    """The metadata that a cell gets: tags, its name if it has one, nbgrader's own."""
    tags = [kind] + [tag for tag in header.get("tags", []) if tag != kind]
    if "finding" in tags:
        tags.append("nbval-check-output")
    metadata: dict = {"tags": tags}
    if kind in NAMED_KINDS:
        metadata[kind] = header[kind]
        metadata["nbgrader"] = {
            "schema_version": SCHEMA_VERSION,
            "grade_id": cell_id,
            "grade": kind != "exercise",
            "solution": kind != "check",
            "locked": kind == "check",
            "task": False,
        }
    if kind == "check":
        metadata["nbgrader"]["points"] = _points(header[kind])
    if kind == "question":
        if not isinstance(header.get("points"), int | float):
            raise SourceError(f"the question {header[kind]!r} does not say its points: write points=2 in its header.")
        metadata["nbgrader"]["points"] = header["points"]
    return metadata


def _points(name: str) -> float:
    """What the exercise is worth, which stands in the exercise itself."""
    exercises = importlib.import_module("mechlib.exercises")
    try:
        return exercises.get(name).points
    except LookupError:
        known = [exercise.id for exercise in exercises.all_exercises()]
        raise SourceError(f"there is no exercise {name!r}.{nearest(name, known)}") from None


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that names what was probably meant, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else ""


# ---- the structure


def _check_structure(cells: list[NotebookNode], kinds: list[str]) -> None:
    """Every name once a kind; every check after its exercise, every exercise with a check that calls it."""
    names = [(kind, cell.metadata[kind]) for cell, kind in zip(cells, kinds, strict=True) if kind in NAMED_KINDS]
    for (kind, name), count in Counter(names).items():
        if count > 1:
            raise SourceError(f"the {kind} {name!r} appears {count} times: ids are used once.")
    ids = Counter(grade_id(kind, name) for kind, name in names)
    for slug, count in ids.items():
        if count > 1:
            raise SourceError(f"two cells would get the id {slug!r}: rename one of them.")
    for position, (kind, name) in enumerate(names):
        if kind == "check" and ("exercise", name) not in names[:position]:
            raise SourceError(f"the check {name!r} has no exercise cell above it.")
        if kind == "exercise" and ("check", name) not in names[position:]:
            raise SourceError(f"the exercise {name!r} has no check below it.")
    for cell, kind in zip(cells, kinds, strict=True):
        if kind == "check" and cell.metadata["check"] not in cell.source:
            raise SourceError(f"the check cell of {cell.metadata['check']!r} does not name that exercise in its code.")


def _check_solution(cell: NotebookNode, kind: str) -> None:
    """Solution markers come in pairs, in exercise cells only, and each exercise has some."""
    markers = re.findall(f"{BEGIN}|{END}", cell.source)
    if kind != "exercise":
        if markers:
            first = cell.source.strip().partition("\n")[0]
            raise SourceError(f"the {kind} cell {first!r} has a solution marker: they belong into exercise cells.")
        return
    name = cell.metadata["exercise"]
    if not markers:
        raise SourceError(f"the exercise {name!r} has no '### {BEGIN}' and '### {END}'.")
    if markers != [BEGIN, END] * (len(markers) // 2):
        raise SourceError(f"the solution markers of the exercise {name!r} do not come in pairs.")


def solution_lines(cell: NotebookNode) -> list[str]:
    """The lines that a student must not see: the solution regions of an exercise, the whole of a question."""
    if "question" in cell.metadata:
        return cell.source.splitlines()
    lines, inside = [], False
    for line in cell.source.splitlines():
        if BEGIN in line or END in line:
            inside = BEGIN in line
        elif inside:
            lines.append(line)
    return lines
