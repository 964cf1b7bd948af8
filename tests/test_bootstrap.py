"""`make lab` and `make test`: the set-up, and what it says when the machine is not up to it."""

import ast
import collections
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "tools" / "bootstrap.py"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="where there is no make, pip does this")


@pytest.fixture
def bootstrap(monkeypatch):
    monkeypatch.delenv("TORCH", raising=False)
    spec = importlib.util.spec_from_file_location("bootstrap", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fake_pip(bootstrap, monkeypatch):
    """pip and the environment's creation, recorded instead of run; torch appears when it is installed."""
    calls = []
    set_disk(monkeypatch, bootstrap, free=50e9)

    def pip(python, arguments, log):
        calls.append(arguments)
        torch = Path(log).parent / "lib" / "python3.11" / "site-packages" / "torch"
        torch.mkdir(parents=True, exist_ok=True)
        (torch / "version.py").touch()

    def make_venv(venv):
        python = Path(bootstrap.venv_python(venv))
        python.parent.mkdir(parents=True, exist_ok=True)
        if not python.exists():
            python.symlink_to(sys.executable)

    monkeypatch.setattr(bootstrap, "pip", pip)
    monkeypatch.setattr(bootstrap, "make_venv", make_venv)
    monkeypatch.setattr(bootstrap, "pip_has_its_own_index", lambda python: True)
    return calls


def set_disk(monkeypatch, module, free):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage(10**12, 10**12 - free, free))


# An old Python


def test_an_old_python_is_named_with_what_to_do(bootstrap, monkeypatch):
    monkeypatch.setattr(bootstrap, "newer_python", lambda: None)
    with pytest.raises(bootstrap.Stop) as stop:
        bootstrap.check_version((3, 8, 10), "/usr/bin/python3")
    assert "needs Python 3.11 or newer; this is Python 3.8.10 (/usr/bin/python3)" in str(stop.value)
    assert "python.org" in str(stop.value)


def test_a_newer_python_on_the_machine_is_offered(bootstrap, monkeypatch):
    monkeypatch.setattr(bootstrap, "newer_python", lambda: "python3.13")
    with pytest.raises(bootstrap.Stop, match="make lab PYTHON=python3.13"):
        bootstrap.check_version((3, 10, 1))


def test_every_supported_python_passes(bootstrap):
    for minor in (11, 12, 13):
        bootstrap.check_version((3, minor, 0))


def test_an_old_python_can_parse_it():
    ast.parse(SOURCE.read_text(encoding="utf-8"), feature_version=(3, 7))


def test_a_real_old_python_says_so():
    names = ["python2", *(f"python3.{minor}" for minor in range(6, 11))]
    old = [name for name in names if runs(name)]
    if not old:
        pytest.skip("no old Python on this machine")
    for name in old:
        result = subprocess.run([name, SOURCE], capture_output=True, text=True)
        assert result.returncode == 1
        assert result.stderr.startswith("mechlib needs Python 3.11 or newer; this is Python"), result.stderr


def runs(name: str) -> bool:
    try:
        return subprocess.run([name, "-c", "import json"], capture_output=True).returncode == 0
    except OSError:
        return False


# A full disk, no network


def test_a_full_disk_is_said_before_anything_is_made(bootstrap, monkeypatch, tmp_path, capsys):
    set_disk(monkeypatch, bootstrap, free=1.5e9)
    assert bootstrap.main(["--venv", str(tmp_path / "venv")]) == 1
    message = capsys.readouterr().err
    assert message.startswith("The disk is full: installing mechlib needs about 4 GB free in ")
    assert "1.5 GB are free" in message
    assert message.count("\n") == 1
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "disk is full",
        ),
        ("NewConnectionError('<...>: Failed to establish a new connection')", "check the network"),
        (
            "Failed to resolve 'pypi.org' ([Errno -3] Temporary failure in name resolution)",
            "check the network",
        ),
    ],
)
def test_what_pip_dies_of_is_said_in_a_sentence(bootstrap, tmp_path, capsys, output, said):
    pip = tmp_path / "pip"
    pip.write_text(f'#!/bin/sh\necho "{output}"\nexit 1\n')
    pip.chmod(0o755)
    with pytest.raises(bootstrap.Stop, match=said) as stop:
        bootstrap.pip(str(pip), ["install"], str(tmp_path / "install.log"))
    assert "\n" not in str(stop.value)
    assert output in (tmp_path / "install.log").read_text()


def test_any_other_failure_shows_the_end_of_pips_output(bootstrap, tmp_path):
    pip = tmp_path / "pip"
    pip.write_text("#!/bin/sh\necho 'ERROR: ResolutionImpossible'\nexit 1\n")
    pip.chmod(0o755)
    with pytest.raises(bootstrap.Stop, match=r"(?s)ResolutionImpossible.*install\.log"):
        bootstrap.pip(str(pip), ["install"], str(tmp_path / "install.log"))


def test_a_python_too_new_for_the_wheels(bootstrap, monkeypatch, tmp_path):
    pip = tmp_path / "pip"
    pip.write_text("#!/bin/sh\necho 'ERROR: No matching distribution found for torch'\nexit 1\n")
    pip.chmod(0o755)
    monkeypatch.setattr(bootstrap.sys, "version_info", (3, 16, 0, "final", 0))
    with pytest.raises(bootstrap.Stop, match=r"with Python 3\.11 to 3\.13: .*make lab PYTHON=python3\.13"):
        bootstrap.pip(str(pip), ["install"], str(tmp_path / "install.log"))


def test_debian_without_venv(bootstrap, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(bootstrap.Stop, match="sudo apt install python3-venv"):
        bootstrap.make_venv(str(tmp_path / "venv"))


# Once, and only what is missing


def test_what_is_installed(bootstrap, fake_pip, tmp_path):
    venv = str(tmp_path / "venv")
    assert bootstrap.main(["--venv", venv, "--extras", "lab"]) == 0
    assert fake_pip == [["install", "-e", f"{ROOT}[lab]", "-c", str(ROOT / "requirements" / "tested.txt")]]
    assert bootstrap.main(["--venv", venv, "--extras", "lab"]) == 0
    assert len(fake_pip) == 1
    assert bootstrap.main(["--venv", venv, "--extras", "dev,grade"]) == 0
    assert fake_pip[1][2] == f"{ROOT}[dev,grade,lab]"
    assert bootstrap.main(["--venv", venv, "--extras", "lab"]) == 0
    assert len(fake_pip) == 2


def test_without_constraints_everything_is_upgraded(bootstrap, fake_pip, tmp_path):
    assert bootstrap.main(["--venv", str(tmp_path / "venv"), "--constraints", ""]) == 0
    assert fake_pip == [["install", "--upgrade", "--upgrade-strategy", "eager", "-e", f"{ROOT}[lab]"]]


def test_changed_requirements_are_installed(bootstrap, fake_pip, monkeypatch, tmp_path):
    venv = str(tmp_path / "venv")
    assert bootstrap.main(["--venv", venv]) == 0
    monkeypatch.setattr(bootstrap, "fingerprint", lambda constraints: "another")
    assert bootstrap.main(["--venv", venv]) == 0
    assert len(fake_pip) == 2


def test_a_half_finished_installation_is_finished(bootstrap, fake_pip, monkeypatch, tmp_path, capsys):
    venv = str(tmp_path / "venv")

    def interrupted(python, arguments, log):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "pip", interrupted)
        assert bootstrap.main(["--venv", venv]) == 130
    assert "goes on where this one stopped" in capsys.readouterr().err
    assert bootstrap.main(["--venv", venv]) == 0
    assert len(fake_pip) == 1


def test_an_environment_whose_python_is_gone_is_made_again(bootstrap, fake_pip, tmp_path):
    venv = str(tmp_path / "venv")
    assert bootstrap.main(["--venv", venv]) == 0
    Path(bootstrap.venv_python(venv)).unlink()
    assert bootstrap.main(["--venv", venv]) == 0
    assert len(fake_pip) == 2


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "The disk is full"),
        (PermissionError(13, "Permission denied"), "failed: [Errno 13] Permission denied"),
    ],
)
def test_a_disk_that_cannot_be_written(bootstrap, fake_pip, monkeypatch, tmp_path, capsys, error, said):
    def fail(venv, stamp):
        raise error

    monkeypatch.setattr(bootstrap, "write_stamp", fail)
    assert bootstrap.main(["--venv", str(tmp_path / "venv")]) == 1
    assert said in capsys.readouterr().err


def test_a_finished_environment_serves_an_old_python_too(bootstrap, fake_pip, monkeypatch, tmp_path):
    venv = str(tmp_path / "venv")
    assert bootstrap.main(["--venv", venv]) == 0
    monkeypatch.setattr(bootstrap.sys, "version_info", (3, 8, 10, "final", 0))
    assert bootstrap.main(["--venv", venv]) == 0


def test_the_second_call_is_quick(bootstrap, tmp_path):
    venv = tmp_path / "venv"
    python = Path(bootstrap.venv_python(str(venv)))
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    stamp = {"key": bootstrap.fingerprint("requirements/tested.txt"), "extras": ["lab"], "python": "3.11"}
    Path(bootstrap.stamp_file(str(venv))).write_text(json.dumps(stamp))
    start = time.perf_counter()
    subprocess.run([sys.executable, SOURCE, "--venv", venv], check=True)
    assert time.perf_counter() - start < 2


# Which torch


@pytest.mark.parametrize(
    ("choice", "gpu", "own_index", "cpu"),
    [
        ("auto", False, False, True),
        ("auto", True, False, False),
        ("auto", False, True, False),
        ("cpu", True, True, True),
        ("default", False, False, False),
    ],
)
def test_torch_without_cuda_where_it_is_of_no_use(bootstrap, monkeypatch, choice, gpu, own_index, cpu):
    monkeypatch.setattr(bootstrap, "gpu_present", lambda: gpu)
    monkeypatch.setattr(bootstrap, "pip_has_its_own_index", lambda python: own_index)
    assert bootstrap.wants_cpu_torch(choice, "python") is cpu


def test_the_cpu_build_comes_first(bootstrap, fake_pip, monkeypatch, tmp_path):
    monkeypatch.setattr(bootstrap.sys, "platform", "linux")
    assert bootstrap.main(["--venv", str(tmp_path / "venv"), "--torch", "cpu"]) == 0
    assert fake_pip[0][:5] == ["install", "--no-deps", "--index-url", bootstrap.CPU_INDEX, "torch"]
    assert fake_pip[1][:2] == ["install", "-e"]


@pytest.mark.parametrize(
    ("listing", "own"),
    [
        ("global.timeout='60'\n", False),
        ("", False),
        ("global.index-url='https://pypi.example/simple'\n", True),
        (":env:.find-links='wheels'\nglobal.cert='x'\n", True),
    ],
)
def test_pips_own_configuration_is_noticed(bootstrap, monkeypatch, listing, own):
    monkeypatch.setattr(bootstrap.subprocess, "check_output", lambda *args, **kwargs: listing)
    assert bootstrap.pip_has_its_own_index("python") is own


# make


def make(*arguments: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, env=environment)


def test_make_passes_options_on():
    lab = make("--dry-run", "lab", "ARGS=--no-browser --port=8899").stdout
    assert "-m mechlib lab --no-browser --port=8899" in lab
    assert "-m pytest -k 'one two' -x" in make("--dry-run", "test", "ARGS=-k 'one two' -x").stdout


def test_make_alone_lists_every_target():
    text = make().stdout
    for target in ("lab", "test", "verify", "release", "grade-demo", "lint", "clean"):
        assert f"make {target} " in text


def test_make_says_that_there_is_no_python():
    result = make("lab", "PYTHON=python-that-is-not-there")
    assert result.returncode != 0
    assert "mechlib needs Python 3.11 or newer, and there is no python-that-is-not-there" in result.stdout
