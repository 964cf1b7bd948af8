"""What every test run shares."""

import datetime
import platform
import shutil
from importlib import metadata
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
SOLUTIONS = TESTS.parent / "solutions"
SHOWN = ["torch", "transformer-lens", "transformers", "numpy", "matplotlib", "jupyterlab", "nbgrader"]
RECORDS = pytest.StashKey[set]()


def pytest_report_header() -> str:
    """The date and the versions, so that a log says what it was measured with."""
    versions = []
    for name in SHOWN:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    today = datetime.date.today().isoformat()
    return f"{today}, Python {platform.python_version()}, {platform.system()}: {', '.join(versions)}"


def pytest_ignore_collect(collection_path: Path, config) -> bool | None:
    """`-m student` runs without the instructor's libraries, so it must not import the other files."""
    if config.getoption("markexpr") == "student" and collection_path.name.startswith("test_"):
        return "mark.student" not in collection_path.read_text(encoding="utf-8") or None
    return None


# ---- the solved notebooks, which nbval collects from solutions/: one test a code cell


def pytest_configure(config) -> None:
    """`pytest` alone runs the solved notebooks too, in this Python; without nbval (the student's side) it runs none."""
    config.stash[RECORDS] = set(SOLUTIONS.glob("*/.mechlib"))
    if not config.pluginmanager.hasplugin("nbval"):
        return
    config.option.nbval_lax = not config.option.nbval
    config.option.nbval_current_env = config.option.nbval_kernel_name is None
    config.option.nbval_sanitize_with = config.option.nbval_sanitize_with or str(TESTS / "nbval_sanitize.cfg")
    if getattr(config.option, "dist", "no") == "load":
        config.option.dist = "loadfile"  # with xdist: the cells of a notebook belong to one kernel


def pytest_terminal_summary(terminalreporter) -> None:
    """How many cells ran, so that a run without any does not look like a success."""
    reports = [report for group in ("passed", "failed") for report in terminalreporter.stats.get(group, [])]
    names = [report.nodeid.partition("::")[0] for report in reports if getattr(report, "when", "") == "call"]
    for name in dict.fromkeys(name for name in names if name.endswith(".ipynb")):
        terminalreporter.write_line(f"{name}: {names.count(name)} cells ran")


def pytest_sessionfinish(session) -> None:
    """The checks in the solved notebooks keep a record beside them; it goes if it was not there before."""
    for folder in set(SOLUTIONS.glob("*/.mechlib")) - session.config.stash[RECORDS]:
        shutil.rmtree(folder, ignore_errors=True)
