"""What grading keeps between its steps, under COURSE/.mechlib/grading/, so that it can be killed and go on.

Every file is written whole or not at all. A student is done when the record is there, which is written last; its key
says what it was made from, so that only what has changed is graded again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import mechlib
from mechlib.grading.course import WORK
from mechlib.grading.graft import LARGEST_SUBMISSION
from mechlib.grading.report import Row


class InUse(Exception):
    """Somebody else is grading this course."""


class Store:
    """The files of one chapter's grading."""

    def __init__(self, course: Path, chapter: str):
        self.course, self.chapter = course, chapter
        self.root = course / WORK
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)

    def job(self, student: str) -> Path:
        """The folder of what a worker makes of a submission: notebook.ipynb and result.json."""
        return self.root / "jobs" / self.chapter / student

    def new_job(self, student: str) -> Path:
        folder = self.job(student)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def result(self, student: str, key: str) -> dict[str, Any] | None:
        """What a worker found out about exactly this submission, if it has."""
        result = read_json(self.job(student) / "result.json")
        return result if result and result.get("key") == key else None

    # ---- records

    def _record(self, student: str) -> Path:
        return self.root / "records" / self.chapter / f"{student}.json"

    def record(self, student: str, key: str, read: list) -> Row | None:
        """The row of a student who is done, if it was made from the same, and a person has entered nothing since."""
        record = read_json(self._record(student))
        if not record or record["key"] != key or record.get("read") != read:
            return None
        return Row(**record["row"])

    def records(self) -> list[Row]:
        """The rows of all students who are done."""
        return [Row(**read_json(path)["row"]) for path in sorted(self._record("x").parent.glob("*.json"))]

    def write_record(self, row: Row, key: str, read: list) -> None:
        write_json(self._record(row.student), {"key": key, "read": read, "row": asdict(row)})

    def forget(self, student: str) -> None:
        """A student is not done any more."""
        self._record(student).unlink(missing_ok=True)

    # ---- what a person has read, kept while nbgrader scores

    def _read(self, student: str) -> Path:
        return self.root / "read" / self.chapter / f"{student}.json"

    def kept_read(self, student: str) -> dict[str, float] | None:
        return read_json(self._read(student))

    def keep_read(self, student: str, read: dict[str, float]) -> None:
        write_json(self._read(student), read)

    def drop_read(self, student: str) -> None:
        self._read(student).unlink(missing_ok=True)

    # ---- the whole course

    def seed(self, wanted: int | None) -> int:
        """The course's secret: everybody is graded on the same cases, also who hands in later."""
        path = self.root / "seed.json"
        known = read_json(path)
        if wanted is None and known:
            return known["seed"]
        seed = secrets.randbelow(2**31) if wanted is None else wanted
        write_json(path, {"seed": seed})
        return seed

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One grader at a time; the lock goes with its process, however that ends."""
        with (self.root / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InUse("somebody is grading this course already: wait until that has ended.") from None
            yield


# ---- keys


def key(folder: Path, release: bytes, seed: int, conditions: Any) -> str:
    """A hash of everything that a grade depends on: the submission in `folder`, the release, the seed, our own code."""
    parts = [fingerprint(folder), hashlib.sha256(release).hexdigest(), seed, conditions, version()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def fingerprint(folder: Path) -> list[str]:
    """One line for each notebook in a folder, and for the time it was handed in."""
    lines = []
    for path in [*sorted(folder.rglob("*.ipynb")), folder / "timestamp.txt"]:
        if path.is_file() and not path.is_symlink():
            size = path.stat().st_size
            content = f"{size} bytes" if size > LARGEST_SUBMISSION else hashlib.sha256(path.read_bytes()).hexdigest()
            lines.append(f"{path.relative_to(folder)}: {content}")
    return lines


@cache
def version() -> str:
    """A hash of mechlib's own sources: when a check changes, what it has judged is judged again."""
    sources = sorted(Path(mechlib.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()


# ---- files


def read_json(path: Path) -> Any:
    """The content, or None if there is no such file, or none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_json(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, indent=1).encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that after a crash it has the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
