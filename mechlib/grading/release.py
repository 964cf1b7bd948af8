"""`mechlib release`: a source becomes the solved notebook with its figures and the students' notebook."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from mechlib.checker import settings
from mechlib.grading.course import StepFailed, open_api, release_config
from mechlib.grading.leaks import find_leaks, released_files
from mechlib.grading.solved import (
    LARGEST_NOTEBOOK,
    ExecutionFailed,
    carry_outputs,
    execute,
    read_notebook,
    same_code,
    without_outputs,
)
from mechlib.grading.source import SourceError, nearest, read_source

PROBLEMS = (SourceError, ExecutionFailed, StepFailed)


def main(argv: list[str] | None = None) -> int:
    """Release the chapters that are named, or all; with --check only say what is not as the source has it."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.package and arguments.check:
        parser.error("--check writes nothing: leave it out to write --package.")
    root = arguments.root.resolve()
    try:
        chapters = [chosen_chapter(root, name) for name in arguments.chapters] or all_chapters(root)
    except SourceError as error:
        print(error, file=sys.stderr)
        return 1
    problems = stray_chapters(root) if arguments.check and not arguments.chapters else []
    for chapter in chapters:
        try:
            if arguments.check:
                problems += check_chapter(root, chapter)
            else:
                problems += release_chapter(root, chapter, force=arguments.force)
        except PROBLEMS as error:
            problems.append(f"{chapter}: {error}")
    for problem in problems:
        print(problem, file=sys.stderr)
    if arguments.package and not problems:
        write_package(root, chapters, arguments.package, arguments.solutions)
    if not problems:
        done = "is what its source generates" if arguments.check else "is released"
        print(f"Every chapter {done}: {', '.join(chapters)}.")
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mechlib release", description=main.__doc__)
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help="such as 01_superposition; all if none is given")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 and say what differs or leaks")
    parser.add_argument("--force", action="store_true", help="execute again although the code has not changed")
    parser.add_argument("--package", type=Path, metavar="ZIP", help="put the students' notebooks into this zip too")
    parser.add_argument(
        "--no-solutions", dest="solutions", action="store_false", help="a graded course: switch reveal and borrow off"
    )
    parser.add_argument("--root", type=Path, default=Path(), help="the folder that holds solutions/ and chapters/")
    return parser


# ---- which chapters


def all_chapters(root: Path) -> list[str]:
    """The chapters that have a source, in order."""
    chapters = sorted(path.stem for path in root.glob("solutions/*/*.py") if path.stem == path.parent.name)
    if not chapters:
        where = f"There is no chapter in {root.resolve()}: expected solutions/NN_topic/NN_topic.py."
        raise SourceError(f"{where} Run this in a clone of the course, or name it with --root DIR.")
    return chapters


def chosen_chapter(root: Path, name: str) -> str:
    """The chapter with that name, which may be given as a path or by its number."""
    name = Path(name).name.removesuffix(".py").removesuffix(".ipynb")
    chapters = all_chapters(root)
    matches = [chapter for chapter in chapters if chapter == name or chapter.split("_")[0] == name]
    if not matches:
        raise SourceError(f"There is no chapter {name!r} under solutions/.{nearest(name, chapters)}")
    return matches[0]


def solved_path(root: Path, chapter: str) -> Path:
    return root / "solutions" / chapter / f"{chapter}.ipynb"


def chapter_path(root: Path, chapter: str) -> Path:
    return root / "chapters" / chapter / f"{chapter}.ipynb"


# ---- releasing


def release_chapter(root: Path, chapter: str, force: bool = False) -> list[str]:
    """Write the solved notebook, executed only if its code changed, and the students'; say what leaks."""
    source = read_source(root / "solutions" / chapter / f"{chapter}.py")
    released = student_notebook(source, chapter)
    target = solved_path(root, chapter)
    if not force and carry_outputs(read_notebook(target), source):
        print(f"{chapter}: the code has not changed, so its outputs stay")
    else:
        print(f"{chapter}: executing {sum(cell.cell_type == 'code' for cell in source.cells)} code cells")
        start = time.monotonic()
        execute(source)
        print(f"{chapter}: executed in {time.monotonic() - start:.0f} s")
    text = nbformat.writes(source) + "\n"
    size = len(text.encode())
    if size > LARGEST_NOTEBOOK:
        raise ExecutionFailed(f"the solved notebook would be {size / 1e6:.1f} MB; figures have to be smaller.")
    _write(target, text.encode())
    _write(chapter_path(root, chapter), released)
    print(f"{chapter}: solved notebook {size / 1e3:.0f} kB, students' notebook {len(released) / 1e3:.0f} kB")
    return [f"{chapter}: {leak}" for leak in find_leaks(source, chapter_path(root, chapter).parent)]


def student_notebook(source: NotebookNode, chapter: str) -> bytes:
    """What nbgrader makes of the solved notebook for students, byte for byte the same each time.

    It is generated in a folder of its own: nbgrader copies everything that lies beside the notebook,
    the source with its answers too.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        bare = without_outputs(source)
        del bare.metadata["mechlib"]
        _write(solved_path(root, chapter), nbformat.writes(bare).encode())
        result = open_api(root, release_config()).generate_assignment(chapter, force=True)
        path = chapter_path(root, chapter)
        if not result["success"] or not path.is_file():
            raise StepFailed("generate the students' notebook", result)
        return path.read_bytes().rstrip() + b"\n"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


# ---- the students' zip

START = """Unpack this folder, install mechlib as your course says, and run `mechlib lab` in it.
Hand in the notebooks of chapters/.
"""


def write_package(root: Path, chapters: list[str], target: Path, solutions: bool) -> None:
    """Write a zip with the students' notebooks and nothing else of the course; the same bytes each time."""
    files = {f"chapters/{chapter}/{chapter}.ipynb": chapter_path(root, chapter).read_bytes() for chapter in chapters}
    files[settings.FILE] = json.dumps({"solutions": solutions}).encode() + b"\n"
    files["START.md"] = START.encode()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in sorted(files.items()):
            info = zipfile.ZipInfo(f"{target.stem}/{name}")  # its date is fixed
            info.external_attr = 0o644 << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    print(f"{target}: {len(chapters)} chapter{'s' * (len(chapters) != 1)}, {target.stat().st_size / 1e3:.0f} kB")


# ---- checking


def check_chapter(root: Path, chapter: str) -> list[str]:
    """One sentence for everything in which the generated files are not what the source generates now."""
    print(f"{chapter}: checking")
    source = read_source(root / "solutions" / chapter / f"{chapter}.py")
    again = f"run 'mechlib release {chapter}'"
    problems = [f"{chapter}: {problem}; {again}." for problem in _check_solved(source, solved_path(root, chapter))]
    path = chapter_path(root, chapter)
    if not path.is_file():
        problems.append(f"{chapter}: there is no students' notebook; {again}.")
    elif path.read_bytes() != student_notebook(source, chapter):
        problems.append(f"{chapter}: the students' notebook is not what the source generates; {again}.")
    for extra in released_files(path.parent):
        if extra != path:
            problems.append(f"{chapter}: {extra.relative_to(root)} does not belong there; delete it.")
    return problems + [f"{chapter}: {leak}" for leak in find_leaks(source, path.parent)]


def _check_solved(source: NotebookNode, path: Path) -> list[str]:
    """What is wrong with the solved notebook."""
    solved = read_notebook(path)
    if solved is None:
        return ["there is no solved notebook that can be read"]
    if not same_code(solved, source):
        return ["the code of the solved notebook is not what the source generates"]
    if without_outputs(solved).cells != without_outputs(source).cells:
        return ["the prose of the solved notebook is not what the source generates"]
    if path.stat().st_size > LARGEST_NOTEBOOK:
        return [f"the solved notebook has {path.stat().st_size / 1e6:.1f} MB"]
    if not any(cell.get("execution_count") for cell in solved.cells):
        return ["the solved notebook has not been executed"]
    return []


def stray_chapters(root: Path) -> list[str]:
    """What lies under chapters/ without a source."""
    known = {root / "chapters" / chapter for chapter in all_chapters(root)}
    strays = [path for path in sorted((root / "chapters").glob("*")) if path not in known]
    return [f"{path.relative_to(root)} has no source under solutions/." for path in strays]


if __name__ == "__main__":
    sys.exit(main())
