"""`mechlib collect`: from what students have handed in somewhere else to submitted/STUDENT/CHAPTER/.

Takes a folder or a zip: nbgrader's exchange, the download of a learning platform, or plain files named by students.
Nothing in it is trusted: names are not paths, links are not followed, and what a zip unpacks to is counted.
"""

from __future__ import annotations

import argparse
import fnmatch
import re
import shutil
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from mechlib.grading.grade import NothingToGrade, released_chapter
from mechlib.grading.graft import LARGEST_SUBMISSION
from mechlib.grading.source import nearest
from mechlib.grading.store import write_whole

MOST_FILES = 20_000
MOST_BYTES = 4_000_000_000  # of all notebooks together
STAMP = "timestamp.txt"

# Whose is a file? The first that fits the path says it; what students may choose themselves comes last in each.
NAMES = {
    "nbgrader's exchange": r"(?P<student>[^/+]+)\+(?P<chapter>[^/+]+)\+(?P<time>[^/+]+)(\+[^/]*)?/.+",
    "Moodle": r"(?P<student>[^/_]+)_(?P<person>\d+)_assignsubmission_file_?/?.+",
    "Blackboard": r"[^/]*?_(?P<student>[^/_]+)_attempt_(?P<time>[\d-]+)_?.*",
    "Canvas": r"(?P<student>[^/_]+)(_LATE)?_(?P<person>\d+)_\d+_[^/]+",
    "a folder for each student": r"(?P<student>[^/]+)/.+",
    "a file for each student": r"(?P<student>[^/]+)\.ipynb",
}
HEADINGS = {"name", "full name", "student", "students", "student id", "user", "username", "user name", "login", "id"}
SAFE = re.compile(r"(?![.-])[\w@.' -]{1,100}(?<![. ])")  # what a student's folder may be called


class CannotCollect(Exception):
    """The source as a whole cannot be used; the message says why."""


@dataclass
class File:
    """A file in the source: where it stands there, and how to get its content (at most so many bytes)."""

    path: PurePosixPath
    read: Callable[[int], bytes]


@dataclass
class Collected:
    """What came of it: the students, and one line for everything that was left out."""

    students: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def main(argv: list[str] | None = None) -> int:
    """Sort what students have handed in elsewhere into submitted/STUDENT/CHAPTER/; exit 1 if something was left out."""
    parser = argparse.ArgumentParser(prog="mechlib collect", description=main.__doc__)
    parser.add_argument("chapter", metavar="CHAPTER", help="such as 01_superposition")
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a folder or a zip")
    parser.add_argument("--course", type=Path, default=Path(), metavar="DIR", help="holds chapters/ and submitted/")
    parser.add_argument("--pattern", metavar="REGEX", help="whose a file is, by its path: (?P<student>...) is the name")
    parser.add_argument("--roster", type=Path, metavar="FILE", help="the students, one a line; nobody else is taken")
    options = parser.parse_args(argv)
    try:
        chapter = released_chapter(options.course, options.chapter)
        patterns = [pattern(options.pattern)] if options.pattern else list(map(re.compile, NAMES.values()))
        roster = read_roster(options.roster) if options.roster else None
        collected = collect(options.source, chapter, options.course / "submitted", patterns, roster)
    except (CannotCollect, NothingToGrade, OSError) as error:
        print(f"mechlib collect: {error}", file=sys.stderr)
        return 1
    for line in collected.left_out:
        print(f"left out: {line}", file=sys.stderr)
    if not collected.students:
        print(f"mechlib collect: there is no notebook of {chapter} to take in {options.source}.", file=sys.stderr)
        return 1
    count = len(collected.students)
    print(f"{count} student{'s' * (count != 1)} in {options.course / 'submitted'}: {', '.join(collected.students)}")
    if roster and (absent := sorted(set(roster) - set(collected.students))):
        print(f"nothing from {len(absent)}: {', '.join(absent)}")
    return 1 if collected.left_out else 0


def pattern(text: str) -> re.Pattern[str]:
    """The instructor's own pattern."""
    try:
        compiled = re.compile(text)
    except re.error as error:
        raise CannotCollect(f"--pattern is not a regular expression: {error}.") from None
    if "student" not in compiled.groupindex:
        raise CannotCollect("--pattern has to name the student's part: (?P<student>...).")
    return compiled


def read_roster(path: Path) -> list[str]:
    """The names in the first column of a file, without its heading."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    names = [name for line in lines if (name := re.split(r"[,;\t]", line)[0].strip().strip('"'))]
    return names[1:] if names and names[0].casefold() in HEADINGS else names


def collect(
    source: Path, chapter: str, submitted: Path, patterns: list[re.Pattern[str]], roster: list[str] | None = None
) -> Collected:
    """Write everybody's notebooks to submitted/STUDENT/CHAPTER/. Who hands in again replaces what was there.

    Raises:
        CannotCollect: the source is neither a folder nor a zip, or unpacks to too much.
    """
    result = Collected()
    handed_in: dict[str, dict[str, list[File]]] = {}  # by student and time
    persons: dict[str, set[str]] = {}  # a platform's numbers for people, by name
    for file in files(source, chapter, result):
        found = owner(file.path, patterns)
        if found is None:
            result.left_out.append(f"{shown(file.path)}: its name does not say whose it is")
        elif found.get("chapter", chapter) == chapter:  # the exchange holds all chapters
            handed_in.setdefault(found["student"], {}).setdefault(found.get("time") or "", []).append(file)
            persons.setdefault(found["student"], set()).add(found.get("person") or "")
    left = MOST_BYTES
    for student, times in sorted(handed_in.items()):
        if len(persons[student]) > 1:
            result.left_out.append(f"{student!r}: {len(persons[student])} people have this name; rename their files")
        elif reason := refused(student, handed_in, roster):
            result.left_out.append(f"{student!r}: {reason}")
        else:
            left -= write(submitted / student, chapter, times[max(times)], left, result)
            result.students.append(student)
    return result


def owner(path: PurePosixPath, patterns: list[re.Pattern[str]]) -> dict[str, str] | None:
    """What the path says: student, and where it is known, time and chapter."""
    for each in patterns:
        if found := each.fullmatch(str(path)):
            return found.groupdict()
    return None


def refused(student: str, everybody: dict[str, dict], roster: list[str] | None) -> str:
    """Why there will be no folder of that name; "" if there will."""
    if not SAFE.fullmatch(student):
        return "not a name for a folder: letters, digits, spaces and . _ - @ ' only; rename the file"
    twins = [name for name in everybody if name.casefold() == student.casefold() and name != student]
    if twins:
        return f"there is {twins[0]!r} too, which is the same folder on some computers; rename one"
    if roster is not None and student not in roster:
        return f"not in the roster.{nearest(student, roster)}"
    return ""


def write(folder: Path, chapter: str, files: list[File], left: int, result: Collected) -> int:
    """Write one student's files, all or none; how many bytes they have."""
    half, target = folder / f".{chapter}.partial", folder / chapter
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    size, names = 0, [file.path.name for file in files]
    for number, file in enumerate(files):
        try:
            content = file.read(LARGEST_SUBMISSION + 1)
        except (OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            result.left_out.append(f"{shown(file.path)}: {error}")
            continue
        size += len(content)
        if size > left:
            shutil.rmtree(half)
            raise CannotCollect(f"the notebooks have more than {MOST_BYTES / 1e9:g} GB together; at {folder.name}.")
        if len(content) > LARGEST_SUBMISSION:
            result.left_out.append(f"{shown(file.path)}: more than {LARGEST_SUBMISSION / 1e6:g} MB")
            continue
        name = file.path.name if names.count(file.path.name) == 1 else f"{number}-{file.path.name}"
        write_whole(half / name[-100:], content)
    if target.is_symlink():
        target.unlink()
    shutil.rmtree(target, ignore_errors=True)
    half.rename(target)
    return size


# ---- what is in the source


def files(source: Path, chapter: str, result: Collected) -> Iterator[File]:
    """The notebooks in a folder or a zip, and the exchange's time stamps; what is neither is said."""
    if source.is_dir():
        found = list(in_folder(source, result))
    elif source.is_file() and zipfile.is_zipfile(source):
        found = list(in_zip(source, result))
    elif not source.exists():
        raise CannotCollect(f"there is no {source}.")
    else:
        raise CannotCollect(f"{source} is neither a folder nor a zip.")
    found = without_wrapper(found, {source.stem, chapter})
    for file in found:
        if file.path.suffix == ".ipynb" or file.path.name == STAMP:
            yield file
        elif file.path.suffix not in ("", ".html", ".csv"):  # a platform's own lists
            result.left_out.append(f"{shown(file.path)}: not a notebook")


def in_folder(source: Path, result: Collected) -> Iterator[File]:
    for path in sorted(source.rglob("*")):
        relative = PurePosixPath(path.relative_to(source))
        if path.is_symlink():
            result.left_out.append(f"{shown(relative)}: links are not followed")
        elif path.is_file() and not hidden(relative):
            yield File(relative, partial(read_some, path))


def read_some(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        return file.read(most)


def in_zip(source: Path, result: Collected) -> Iterator[File]:
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise CannotCollect(f"{source} is a damaged zip: {error}.") from None
    if len(archive.infolist()) > MOST_FILES:
        raise CannotCollect(f"{source} has more than {MOST_FILES} files.")
    for info in archive.infolist():
        path = PurePosixPath(info.filename)
        if info.is_dir():
            continue
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename:
            result.left_out.append(f"{shown(path)}: a path that leads elsewhere")
        elif hidden(path):
            continue
        elif (info.external_attr >> 28) == 0xA:
            result.left_out.append(f"{shown(path)}: links are not followed")
        else:
            yield File(path, partial(read_member, archive, info))


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes:
    """No more than so many bytes are unpacked, whatever the zip says about its size."""
    with archive.open(info) as member:
        return member.read(most)


def hidden(path: PurePosixPath) -> bool:
    """What a computer, not a person, has put there."""
    return any(fnmatch.fnmatch(part, name) for part in path.parts for name in ("__MACOSX", ".*"))


def without_wrapper(found: list[File], names: set[str]) -> list[File]:
    """Take off a folder around everything that is called like the zip or the chapter."""
    tops = {file.path.parts[0] for file in found}
    if len(tops) != 1 or not tops <= names or any(len(file.path.parts) == 1 for file in found):
        return found
    return [File(file.path.relative_to(file.path.parts[0]), file.read) for file in found]


def shown(path: PurePosixPath) -> str:
    """A stranger's name on our terminal."""
    return ascii(str(path)[:200])[1:-1]


if __name__ == "__main__":
    sys.exit(main())
