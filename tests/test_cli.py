"""The command `mechlib`: what it says, what it starts, and what it does not import."""

import json
import subprocess
import sys
import types

import pytest

from mechlib import __version__, cli, lab

pytestmark = pytest.mark.student


def test_without_a_command_it_lists_them(capsys):
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    assert cli.main(["--help"]) == 0
    assert capsys.readouterr().out == text
    for name in ("lab", "exercises", "release", "grade"):
        assert f"mechlib {name} " in text


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"mechlib {__version__}\n"


def test_an_unknown_command_is_one_sentence(capsys):
    assert cli.main(["exercise"]) == 2
    message = capsys.readouterr().err
    assert message == (
        "mechlib: there is no command `exercise` (did you mean `exercises`?); `mechlib --help` lists them.\n"
    )


@pytest.mark.parametrize("command", ["release", "grade"])
def test_the_instructors_commands_say_which_extra_they_need(command, monkeypatch, capsys):
    def main(arguments):
        raise ModuleNotFoundError("No module named 'nbgrader'", name="nbgrader.apps")

    install(monkeypatch, f"mechlib.grading.{command}", main=main)
    assert cli.main([command, "01_superposition"]) == 1
    message = capsys.readouterr().err
    assert message == f"mechlib: `mechlib {command}` needs nbgrader: pip install 'mechlib[grade]'\n"


def test_a_missing_library_of_the_course_is_not_hidden(monkeypatch):
    def main(arguments):
        raise ModuleNotFoundError("No module named 'einops'", name="einops")

    install(monkeypatch, "mechlib.grading.grade", main=main)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["grade", "01_superposition"])


@pytest.mark.parametrize("command", ["release", "grade"])
def test_arguments_are_passed_on(command, monkeypatch):
    seen = []
    install(monkeypatch, f"mechlib.grading.{command}", main=lambda arguments: seen.append(arguments) or 3)
    assert cli.main([command, "--check", "01_superposition", "--help"]) == 3
    assert seen == [["--check", "01_superposition", "--help"]]


def test_ctrl_c_is_not_a_traceback(monkeypatch):
    def main(arguments):
        raise KeyboardInterrupt

    install(monkeypatch, "mechlib.grading.grade", main=main)
    assert cli.main(["grade", "01_superposition"]) == 130


def test_exercises(monkeypatch, capsys):
    exercise = types.SimpleNamespace(
        id="superposition.norms",
        chapter="01_superposition",
        points=2,
        mistakes=["transposed", "squared"],
        equivalents=["loop"],
        minutes=10,
        difficulty=1,
    )
    other = types.SimpleNamespace(**{**vars(exercise), "id": "superposition.gram", "points": 10})
    install(monkeypatch, "mechlib.exercises", all_exercises=lambda: [exercise, other])
    assert cli.main(["exercises", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in rows] == ["superposition.norms", "superposition.gram"]
    assert rows[0] | {"id": ""} == {
        "id": "",
        "chapter": "01_superposition",
        "points": 2,
        "mistakes": 2,
        "equivalents": 1,
        "minutes": 10,
        "difficulty": 1,
    }
    assert cli.main(["exercises"]) == 0
    head, *body, line, total = capsys.readouterr().out.splitlines()
    assert head.split() == list(rows[0])
    assert [row.split()[0] for row in body] == ["superposition.norms", "superposition.gram"]
    assert len({row.index(" 01_super") for row in body}) == 1
    assert set(line) == {"-"}
    assert total.split() == ["2", "exercises", "12", "4", "2", "20"]


def install(monkeypatch, name, **members):
    """Put a module in the place of one that needs more than a student has."""
    module = types.ModuleType(name)
    vars(module).update(members)
    parent, _, child = name.rpartition(".")
    if parent != "mechlib":
        package = types.ModuleType(parent)
        package.__path__ = []
        monkeypatch.setitem(sys.modules, parent, package)
        monkeypatch.setattr(sys.modules["mechlib"], "grading", package, raising=False)
        monkeypatch.setattr(package, child, module, raising=False)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def started(monkeypatch):
    """The commands that `mechlib lab` would have become."""
    commands = []
    monkeypatch.setattr(lab, "run", lambda command: commands.append(command) or 0)
    monkeypatch.setattr(lab.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(lab.os, "geteuid", lambda: 1000, raising=False)
    return commands


def test_lab_opens_the_chapters_and_passes_options_on(started, monkeypatch, tmp_path):
    (tmp_path / "chapters").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["lab", "--no-browser", "--port", "8899"]) == 0
    assert started == [[sys.executable, "-m", "jupyterlab", "chapters", "--no-browser", "--port", "8899"]]


def test_lab_opens_another_folder(started, tmp_path):
    assert cli.main(["lab", str(tmp_path), "--no-browser"]) == 0
    assert started[0][3:] == [str(tmp_path), "--no-browser"]


def test_lab_opens_a_folder_with_a_downloaded_notebook(started, monkeypatch, tmp_path):
    (tmp_path / "01_superposition.ipynb").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lab, "__file__", str(tmp_path / "site-packages" / "mechlib" / "lab.py"))
    assert cli.main(["lab"]) == 0
    assert started[0][3:] == ["."]


def test_lab_as_root_in_a_container(started, monkeypatch, tmp_path):
    monkeypatch.setattr(lab.os, "geteuid", lambda: 0, raising=False)
    assert cli.main(["lab", str(tmp_path)]) == 0
    assert started[0][4:] == ["--allow-root"]


def test_lab_says_that_there_is_no_such_folder(started, capsys, tmp_path):
    assert cli.main(["lab", str(tmp_path / "missing")]) == 1
    assert capsys.readouterr().err == f"mechlib: there is no folder {tmp_path / 'missing'}.\n"
    assert not started


def test_lab_says_that_there_are_no_chapters(started, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lab, "__file__", str(tmp_path / "site-packages" / "mechlib" / "lab.py"))
    monkeypatch.setattr(lab, "repository", lambda: "https://example.org/course")
    assert cli.main(["lab"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("mechlib: there is no chapters/ here: ")
    assert "git clone https://example.org/course" in message
    assert message.count("\n") == 1


def test_lab_says_that_jupyterlab_is_missing(started, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(lab.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["lab", str(tmp_path)]) == 1
    assert "pip install 'mechlib[lab]'" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["lab", "--help"], ["help", "lab"]])
def test_lab_help(started, capsys, arguments):
    assert cli.main(arguments) == 0
    assert "--no-browser --port=8899" in capsys.readouterr().out
    assert not started


def test_the_public_address_comes_from_the_package():
    assert lab.repository().startswith("https://")


def test_the_command_imports_only_what_it_needs():
    program = (
        "import sys; from mechlib.cli import main; main(['--help']); import mechlib.lab; "
        "print([n for n in ('torch', 'jupyterlab', 'nbgrader', 'matplotlib') if n in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
