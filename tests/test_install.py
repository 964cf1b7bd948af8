"""The wheel holds what a student needs and nothing else, and Colab's torch survives the set-up cell."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell

from mechlib.exercises import all_exercises
from mechlib.grading.graft import graft, read_submission
from mechlib.grading.quiet import QUIET_KERNEL

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
CHAPTER = ROOT / "chapters" / "01_superposition" / "01_superposition.ipynb"

pytestmark = pytest.mark.install

# The set-up cell of a chapter, until there is one to read.
SAMPLE = """\
try:
    import mechlib
except ImportError:  # in Colab, or in a bare folder: install it once; the torch that is already there stays
    %pip install --quiet "mechlib @ git+{{repository}}"
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def tracked(*paths: str) -> set[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *paths]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f"not a git checkout: {result.stderr.strip()}")
    return {name for name in result.stdout.splitlines() if (ROOT / name).exists()}


def test_the_wheel_holds_the_library_and_nothing_else(wheel):
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside == tracked("mechlib")


def test_the_wheel_says_what_it_is(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = wheel.read(name).decode()
    assert f"Project-URL: Repository, {REPOSITORY}" in metadata
    assert "Requires-Python: >=3.11" in metadata
    assert "License-Expression: MIT" in metadata
    entry_points = wheel.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert "mechlib = mechlib.cli:main" in entry_points


def setup_cell() -> str:
    if not CHAPTER.exists():
        return SAMPLE.replace("{{repository}}", REPOSITORY)
    cells = json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    (cell,) = [cell for cell in cells if "setup" in cell["metadata"].get("tags", [])]
    return "".join(cell["source"])


def import_or_install(cell: str) -> str:
    """The set-up cell's first try statement in plain Python; what follows it needs the installed course."""
    tree = ast.parse(TransformerManager().transform_cell(cell))
    return next(ast.unparse(node) for node in tree.body if isinstance(node, ast.Try))


@pytest.fixture
def colab(tmp_path) -> Path:
    """An environment like Colab's: google.colab, a CUDA torch that has to stay, and no mechlib."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "colab"], check=True)
    packages = next((tmp_path / "colab").glob("lib/*/site-packages"))
    (packages / "google" / "colab").mkdir(parents=True)
    (packages / "google" / "colab" / "__init__.py").touch()
    (packages / "torch").mkdir()
    (packages / "torch" / "__init__.py").write_text('__version__ = "2.8.0+cu126"\n')
    info = packages / "torch-2.8.0+cu126.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.8.0+cu126\n")
    (info / "INSTALLER").write_text("pip\n")
    (info / "RECORD").write_text("torch/__init__.py,,\n")
    return tmp_path / "colab"


# The cell runs for real; only its %pip is told to report what it would install.
COLAB = """\
import os, shlex, subprocess, sys
import google.colab

def pip(name, line):
    assert name == "pip", name
    print("pip", line)
    command = [{python!r}, "-m", "pip", "--python", sys.executable, *shlex.split(line), *{options!r}]
    subprocess.run(command, check=True, env=os.environ | {environment!r})
    sys.modules["mechlib"] = type(sys)("mechlib")  # nothing was installed, and the cell imports it next

class Shell:
    run_line_magic = staticmethod(pip)

get_ipython = Shell
"""


def run_in_colab(colab: Path, cell: str, options: list[str], environment: dict[str, str]) -> str:
    head = COLAB.format(python=sys.executable, options=options, environment=environment)
    program = head + import_or_install(cell)
    command = [colab / "bin" / "python", "-c", program]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # it may lead to a mechlib
    result = subprocess.run(command, capture_output=True, text=True, cwd=colab, env=clean)
    if re.search(r"NewConnectionError|name resolution|NameResolutionError|Max retries", result.stderr):
        pytest.skip("no network: pip cannot ask what it would install")
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.skipif(os.name == "nt", reason="Colab is Linux")
def test_the_set_up_cell_leaves_colabs_torch_alone(colab, tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    report = tmp_path / "report.json"
    environment = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{ROOT}.insteadOf",
        "GIT_CONFIG_VALUE_0": REPOSITORY,
    }
    output = run_in_colab(colab, setup_cell(), ["--dry-run", "--report", str(report)], environment)
    assert output.startswith("pip install")
    would_install = {item["metadata"]["name"].lower() for item in json.loads(report.read_text())["install"]}
    assert {"mechlib", "transformer-lens"} <= would_install
    assert "torch" not in would_install


@pytest.mark.skipif(os.name == "nt", reason="Colab is Linux")
def test_the_set_up_cell_installs_nothing_twice(colab):
    packages = next(colab.glob("lib/*/site-packages"))
    (packages / "mechlib").mkdir()
    (packages / "mechlib" / "__init__.py").touch()
    assert run_in_colab(colab, setup_cell(), [], {}) == ""


# Nothing but this computer: kernels talk through its loopback. It is put where Python imports it at its start.
OFFLINE = """\
import socket

def refuse_others(name):
    method = getattr(socket.socket, name)
    def connect(self, address, *rest):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"offline: {address}")
        return method(self, address, *rest)
    setattr(socket.socket, name, connect)

for name in ("connect", "connect_ex"):
    refuse_others(name)

look_up = socket.getaddrinfo
def getaddrinfo(host, *rest, **options):
    if host not in (None, "", "127.0.0.1", "::1", "localhost"):
        raise socket.gaierror(f"offline: {host}")
    return look_up(host, *rest, **options)
socket.getaddrinfo = getaddrinfo
"""
ALONE = """\
import importlib.metadata, socket, mechlib
print(mechlib.__file__)
print(importlib.metadata.distribution("mechlib").locate_file("mechlib"))
for attempt in (lambda: socket.create_connection(("192.0.2.1", 80)), lambda: socket.getaddrinfo("example.org", 80)):
    try:
        attempt()
    except OSError as error:
        print(error)
"""


def test_the_wheel_alone_is_enough_for_a_chapter(wheel, tmp_path, monkeypatch):
    """The wheel's files, a student's notebook in an empty folder, no network, no source tree: every check passes."""
    for name in ("NBGRADER_EXECUTION", "MECHLIB_SEED", "MECHLIB_SOLUTIONS"):
        monkeypatch.delenv(name, raising=False)
    installed, folder = tmp_path / "installed", tmp_path / "work"
    folder.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", installed, wheel.filename], check=True, capture_output=True, text=True)
    (installed / "sitecustomize.py").write_text(OFFLINE)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(installed), "IPYTHONDIR": str(tmp_path / "ipython")}

    released = nbformat.read(CHAPTER, as_version=4)
    solved = ROOT / "solutions" / CHAPTER.parent.name / CHAPTER.name
    grafted = graft(released, read_submission(solved))  # the answers are filled in, the experiments are skipped
    assert grafted.remarks == []
    notebook = grafted.notebook
    notebook.cells.insert(0, new_code_cell(ALONE))
    nbformat.write(notebook, folder / CHAPTER.name)
    client = NotebookClient(
        notebook, timeout=120, extra_arguments=QUIET_KERNEL, resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=environment)  # an answer that fails its check would raise

    where, metadata, *refused = notebook.cells[0].outputs[0].text.splitlines()
    assert Path(where) == installed / "mechlib" / "__init__.py" and Path(metadata) == installed / "mechlib"
    assert [line.split(":")[0] for line in refused] == ["offline", "offline"]
    checks = [cell for cell in notebook.cells if "check" in cell.metadata]
    assert len(checks) == len([exercise for exercise in all_exercises() if exercise.chapter == CHAPTER.stem])
    for cell in checks:
        (output,) = cell.outputs
        points = f"{cell.metadata['nbgrader']['points']:g}"
        assert output.data["text/plain"] == f"✓ {cell.metadata['check']}   {points} / {points}"
    skipped = [cell for cell in notebook.cells if "experiment" in cell.metadata.get("tags", [])]
    assert skipped and not any(cell.outputs for cell in skipped)
    assert sorted(path.name for path in folder.iterdir()) == [".mechlib", CHAPTER.name]
