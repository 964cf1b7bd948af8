"""What every test run shares."""

import datetime
import platform
from importlib import metadata
from pathlib import Path

SHOWN = ["torch", "transformer-lens", "transformers", "numpy", "matplotlib", "jupyterlab", "nbgrader"]


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
