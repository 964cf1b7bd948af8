"""Nothing that a submission does gains a mark, harms a neighbour, or leaves a process or a file behind."""

import fnmatch
import hashlib
import os
import re
import shutil
import socket
import sqlite3
import tempfile
import threading
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import gradable
import nbformat
import psutil
import pytest
from hostile import corpus

import mechlib
from mechlib.grading import grade, report
from mechlib.grading.forkserver import ForkServer
from mechlib.grading.namespaces import NoSandbox
from mechlib.grading.release import chapter_path
from mechlib.grading.sandbox import choose

SEED = 192837465
MARK = f"mark-{os.urandom(6).hex()}"
# Where each kernel has to import everything anew, `make test` tries one attack of every kind.
FEW = {
    *("forged-kernel", "forged-outcome", "read-solutions", "read-processes", "read-secrets"),
    *("write-everywhere", "fork-bomb", "memory-in-children", "detached-children"),
    *("network", "network-by-the-grader", "mount-again", "honest"),
}


@dataclass
class Aftermath:
    """A class that was graded, and what was seen around it."""

    root: Path
    submissions: dict[str, corpus.Submission]
    rows: dict[str, report.Row]
    heard: list[bytes]  # by the listeners on the loopback
    dialled: list[bytes]  # by the grader itself, on a Unix socket of the host to which a student has led it
    left: list[psutil.Process]
    before: dict[str, str]  # fingerprints of files, see `fingerprints`
    after: dict[str, str]


@pytest.fixture(scope="module")
def course():
    return gradable.repository()


@pytest.fixture(scope="module", autouse=True)
def server(course):
    """One fork server for all runs; by MARK in its environment, every process that they start can be told."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{os.environ['PATH']}:/{MARK}")
        patch.setenv("COURSE_TOKEN", f"{MARK}-token")
        started = grade.fork_server(nbformat.read(chapter_path(course, gradable.CHAPTER), as_version=4))
        with started as address:
            patch.setattr(grade, "fork_server", lambda release: nullcontext(address))
            yield started


@pytest.fixture(
    scope="module",
    params=[
        "namespaces",
        "bubblewrap",
        pytest.param("bubblewrap, everything", marks=pytest.mark.slow),
    ],
)
def aftermath(request, course, server, tmp_path_factory):
    kind, everything, _ = request.param.partition(", everything")
    try:
        choose(kind, getattr(server, "address", ""))
    except NoSandbox as error:
        pytest.skip(f"no {kind} here: {error}")
    names = None if everything or kind == "namespaces" else FEW
    return suffer(course, tmp_path_factory.mktemp(kind), kind, names, server)


def suffer(course: Path, folder: Path, kind: str, names: set[str] | None, server) -> Aftermath:
    """Grade the class from hell, or those with these names, in a copy of the course."""
    root = Path(shutil.copytree(course, folder / "course"))
    with listeners(MARK, f"{root}.line") as (port, heard, dialled):
        everybody = [*corpus.clumsy(root), *corpus.attacks(root, MARK, port), *corpus.crooked(root, MARK)]
        submissions = {one.name: one for one in everybody if names is None or one.name in names}
        assert names is None or set(submissions) == names
        corpus.hand_in(root, list(submissions.values()))
        before = fingerprints(root)
        # Many attacks wait for their end: the others go on meanwhile. Bubblewrap's kernels import torch in their cells.
        limits = corpus.LIMITS if kind == "bubblewrap" else replace(corpus.LIMITS, cell=6)
        rows = grade.grade(root, gradable.CHAPTER, grade.Options(limits, SEED, jobs=4, sandbox=kind))
        ours = {os.getpid(), server.process.pid} if isinstance(server, ForkServer) else {os.getpid()}
        left = [one for one in psutil.process_iter() if one.pid not in ours and MARK in environment(one)]
        return Aftermath(
            root,
            submissions,
            {row.student: row for row in rows},
            heard,
            dialled,
            left,
            before,
            fingerprints(root),
        )


@contextmanager
def listeners(mark: str, path: str):
    """Who waits for a message from inside: on a port of the loopback, under a name, and in a file."""
    heard: list[bytes] = []
    dialled: list[bytes] = []

    def listen(listener: socket.socket) -> None:
        while True:
            try:
                (dialled if listener is file else heard).append(listener.accept()[0].recv(1000))
            except OSError:
                return

    unix = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    with socket.create_server(("127.0.0.1", 0)) as port, unix[0] as name, unix[1] as file:
        for one, address in ((name, f"\0{mark}"), (file, path)):
            one.bind(address)
            one.listen()
        threads = [threading.Thread(target=listen, args=[one], daemon=True) for one in (port, name, file)]
        for thread in threads:
            thread.start()
        yield port.getsockname()[1], heard, dialled
        for one in (port, name, file):
            one.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def environment(process: psutil.Process) -> str:
    try:
        return Path(f"/proc/{process.pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def fingerprints(root: Path) -> dict[str, str]:
    """The content of the course's sources and releases, and of everything that was handed in."""
    folders = [root / name for name in ("solutions", "chapters", "submitted")]
    return {str(path): fingerprint(path) for folder in folders for path in folder.rglob("*")}


def fingerprint(path: Path) -> str:
    if path.is_symlink():
        return f"a link to {os.readlink(path)}"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"


# ---- what came of it


def test_everybody_gets_what_was_expected(aftermath):
    wrong = []
    for name, expected in aftermath.submissions.items():
        row = aftermath.rows[name]
        if row.score != expected.score or row.status not in expected.statuses:
            wrong.append(f"{name}: {expected.score:g} {' | '.join(expected.statuses)}, got {row.score:g} {row.status}"
                         f" ({'; '.join(row.remarks)}; {row.verdicts})")  # fmt: skip
    assert not wrong, "\n".join(["", *wrong])


def test_the_corpus_is_large(course, tmp_path):
    root = Path(shutil.copytree(course, tmp_path / "course"))
    names = [one.name for one in [*corpus.attacks(root, "mark", 1), *corpus.crooked(root, "mark")]]
    assert len(names) == len(set(names)) >= 40
    assert len([name for name in names if name.startswith("forged-")]) >= 10


def test_the_gradebook_has_the_same_scores(aftermath):
    with closing(sqlite3.connect(aftermath.root / "gradebook.db")) as book:
        found = dict(book.execute(
            "select s.student_id, sum(coalesce(g.manual_score, g.auto_score)) from submitted_assignment s"
            " join submitted_notebook n on n.assignment_id = s.id join grade g on g.notebook_id = n.id"
            " group by s.student_id"
        ))  # fmt: skip
    rows = {name: row.score for name, row in aftermath.rows.items() if row.status != report.MISSING}
    assert {name: found[name] or 0 for name in rows} == rows


def test_no_process_is_left(aftermath):
    assert not aftermath.left


def test_no_file_was_changed_or_left(aftermath):
    assert aftermath.after == aftermath.before
    everything = [*aftermath.root.rglob("*"), *Path(mechlib.__file__).parent.rglob("*")]
    marked = [path for path in everything if MARK in path.name]
    for folder in {
        Path(tempfile.gettempdir()),
        Path("/tmp"),
        Path("/var/tmp"),
        Path("/dev/shm"),
        Path.home(),
        Path("/"),
    }:
        marked += folder.glob(f"*{MARK}*")
    assert not marked


def test_nobody_was_called(aftermath):
    assert not aftermath.heard


def test_the_grader_calls_nobody(aftermath):
    assert "network-by-the-grader" in aftermath.submissions
    assert not aftermath.dialled


def test_no_page_has_a_secret_or_a_script(aftermath):
    for page in aftermath.root.glob("feedback/*/*/*.html"):
        text = page.read_text(encoding="utf-8")
        for secret in (f"{MARK}-token", f"{MARK} secret", str(SEED)):
            assert secret not in text, f"{page}: {secret}"
        for script in (f"<script>alert('{MARK}", f"<img src=x onerror=\"alert('{MARK}"):
            assert script not in text, f"{page}: {script}"
        for link in (f"javascript:{MARK}", f"//{MARK}"):
            assert f'="{link}' not in text, f"{page}: {link}"


def test_no_remark_has_more_than_text(aftermath):
    """The terminal, grades.csv, the feedback and the class report show them, with names that students have chosen."""
    remarks = [remark for row in aftermath.rows.values() for remark in row.remarks]
    assert remarks and all(remark.isprintable() and not set(remark) & set("<>&`$[]|\\") for remark in remarks)


def test_the_threat_model_names_attacks_that_are_there(course, tmp_path):
    root = Path(shutil.copytree(course, tmp_path / "course"))
    names = [one.name for one in [*corpus.attacks(root, "mark", 1), *corpus.crooked(root, "mark")]]
    text = (Path(__file__).parents[1] / "docs" / "grading.md").read_text(encoding="utf-8")
    cited = [name for line in text.splitlines() if line.count("|") == 4 and "stops" not in line
             for name in re.findall(r"`([^`]+)`", line.split("|")[3])]  # fmt: skip
    assert len(cited) > 30
    for name in cited:
        file = Path(__file__).parents[1] / name
        assert file.is_file() if "/" in name else fnmatch.filter(names, name), name


# ---- the control: without walls the same attacks get through


def test_without_walls_the_attacks_succeed(course, server, tmp_path):
    if not os.path.isdir("/proc/self"):
        pytest.skip("the attacks are written for Linux")
    root = Path(shutil.copytree(course, tmp_path / "any"))
    alive = {one.name for one in corpus.attacks(root, "mark", 1) if one.open_score}
    aftermath = suffer(course, tmp_path, "none", alive | {"honest", "network-by-the-grader"}, server)
    got = {name: row.score for name, row in aftermath.rows.items()}
    expected = {name: one.open_score or one.score for name, one in aftermath.submissions.items()}
    assert got == expected
    assert aftermath.dialled
    assert len(aftermath.heard) == 2 and (aftermath.root / MARK).exists()
