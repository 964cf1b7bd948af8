"""What students have handed in elsewhere comes into the right folders, and nothing else comes anywhere."""

import os
import stat
import zipfile
from pathlib import Path

import pytest

from mechlib.grading import collect as collecting
from mechlib.grading.collect import main

CHAPTER = "01_toy"


@pytest.fixture
def course(tmp_path):
    root = tmp_path / "course"
    (root / "chapters" / CHAPTER).mkdir(parents=True)
    (root / "chapters" / CHAPTER / f"{CHAPTER}.ipynb").write_text("{}")
    return root


def zipped(path: Path, files: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def collect(course, source, *options):
    return main([CHAPTER, str(source), "--course", str(course), *options])


def submitted(course) -> dict[str, str]:
    root = course / "submitted"
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


PLATFORMS = {
    "plain": {"ada.ipynb": "A", "Zoë Müller.ipynb": "Z"},
    "folders": {"ada/my work.ipynb": "A", "Zoë Müller/01_toy.ipynb": "Z"},
    "in a folder of the zip's name": {"download/ada.ipynb": "A", "download/Zoë Müller.ipynb": "Z"},
    "Moodle": {
        "ada_1234_assignsubmission_file_/my work.ipynb": "A",
        "Zoë Müller_77_assignsubmission_file_01_toy.ipynb": "Z",
    },
    "Canvas": {"ada_101_5005_01_toy.ipynb": "A", "Zoë Müller_LATE_102_5006_a_b_c.ipynb": "Z"},
    "Blackboard": {
        "Homework 1_ada_attempt_2026-10-01-08-00-00_old.ipynb": "old",
        "Homework 1_ada_attempt_2026-10-02-08-00-00_new.ipynb": "A",
        "Homework 1_Zoë Müller_attempt_2026-10-02-09-00-00_x.ipynb": "Z",
    },
    "nbgrader's exchange": {
        "ada+01_toy+2026-10-01 10:00:00.000000 UTC/01_toy.ipynb": "old",
        "ada+01_toy+2026-10-02 10:00:00.000000 UTC+Ab9/01_toy.ipynb": "A",
        "ada+02_other+2026-10-03 10:00:00.000000 UTC/02_other.ipynb": "another chapter",
        "Zoë Müller+01_toy+2026-10-01 11:00:00.000000 UTC/01_toy.ipynb": "Z",
    },
}


@pytest.mark.parametrize("files", PLATFORMS.values(), ids=PLATFORMS)
@pytest.mark.parametrize("form", ["zip", "folder"])
def test_every_platforms_names(course, tmp_path, files, form):
    source = tmp_path / "download"
    if form == "zip":
        source = zipped(tmp_path / "download.zip", files)
    else:
        for name, content in files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_text(content)
    assert collect(course, source) == 0
    found = submitted(course)
    assert {path.split("/")[0]: content for path, content in found.items()} == {"ada": "A", "Zoë Müller": "Z"}
    assert all(Path(path).parts[1] == CHAPTER for path in found) and len(found) == 2


def test_the_exchanges_time_comes_along(course, tmp_path):
    folder = tmp_path / "inbound" / "ada+01_toy+2026-10-01 10:00:00.000000 UTC"
    folder.mkdir(parents=True)
    (folder / "01_toy.ipynb").write_text("A")
    (folder / "timestamp.txt").write_text("2026-10-01 10:00:00.000000 UTC")
    assert collect(course, tmp_path / "inbound") == 0
    assert set(submitted(course)) == {"ada/01_toy/01_toy.ipynb", "ada/01_toy/timestamp.txt"}


def test_who_hands_in_again_replaces_what_was_there(course, tmp_path):
    assert collect(course, zipped(tmp_path / "1.zip", {"ada/01_toy.ipynb": "first", "bob.ipynb": "B"})) == 0
    assert collect(course, zipped(tmp_path / "2.zip", {"ada/better.ipynb": "second"})) == 0
    assert submitted(course) == {"ada/01_toy/better.ipynb": "second", "bob/01_toy/bob.ipynb": "B"}


def test_what_cannot_be_matched_is_said(course, tmp_path, capsys):
    files = {
        "ada.ipynb": "A",
        "bob.ipynb": "B",
        "essay.pdf": "P",
        "a*b.ipynb": "x",
        "Ada.ipynb": "x",
        ".hidden/x.ipynb": "",
    }
    (tmp_path / "roster.csv").write_text("\ufeffid,name\nbob,Bob\ncarol,Carol\n")
    assert collect(course, zipped(tmp_path / "x.zip", files), "--roster", str(tmp_path / "roster.csv")) == 1
    out, err = capsys.readouterr()
    assert list(submitted(course)) == ["bob/01_toy/bob.ipynb"]
    for words in ("essay.pdf: not a notebook", "'a*b': not a name", "'ada': there is 'Ada' too"):
        assert words in err
    assert "nothing from 1: carol" in out  # the heading is none


def test_two_people_of_one_name_are_not_mixed_up(course, tmp_path, capsys):
    files = {f"Ada Lovelace_{number}_assignsubmission_file_/x.ipynb": str(number) for number in (1, 2)}
    assert collect(course, zipped(tmp_path / "x.zip", files)) == 1
    assert not submitted(course) and "2 people have this name" in capsys.readouterr().err


def test_a_pattern_of_ones_own(course, tmp_path, capsys):
    source = zipped(tmp_path / "x.zip", {"hw1/group-3-ada.ipynb": "A"})
    assert collect(course, source, "--pattern", r".*-(?P<student>\w+)\.ipynb") == 0
    assert list(submitted(course)) == ["ada/01_toy/group-3-ada.ipynb"]
    assert collect(course, source, "--pattern", r".*-(\w+)\.ipynb") == 1
    assert "has to name the student's part" in capsys.readouterr().err


# ---- hostile zips


def outside(tmp_path, course) -> list[Path]:
    """Every file but the source and those in submitted/."""
    return [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".zip" and "submitted" not in p.parts]


@pytest.mark.parametrize(
    "name",
    [
        *("../../evil.ipynb", "ada/../../../evil.ipynb", "/tmp/evil.ipynb", "..\\..\\evil.ipynb", "C:/evil.ipynb"),
        *("-rf.ipynb", "a\nb.ipynb", "\x1b[2Jada.ipynb", "con trol\x07/x.ipynb", "a" * 300 + ".ipynb"),
        *("../evil/x.ipynb", "./../x.ipynb", "..ipynb", "ada /x.ipynb"),
    ],
)
def test_names_that_lead_elsewhere(course, tmp_path, name, capsys):
    before = outside(tmp_path, course)
    assert collect(course, zipped(tmp_path / "x.zip", {name: "evil", "bob.ipynb": "B"})) == (
        0 if name == "..ipynb" else 1
    )
    assert list(submitted(course)) == ["bob/01_toy/bob.ipynb"]
    assert outside(tmp_path, course) == before and not Path("/tmp/evil.ipynb").exists()
    assert "\x1b" not in capsys.readouterr().err


def test_a_bomb_is_not_unpacked(course, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(collecting, "LARGEST_SUBMISSION", 100_000)
    source = zipped(tmp_path / "x.zip", {"ada.ipynb": bytes(30_000_000), "bob.ipynb": "B"})
    assert source.stat().st_size < 50_000
    assert collect(course, source) == 1
    assert list(submitted(course)) == ["bob/01_toy/bob.ipynb"]
    assert "ada.ipynb: more than 0.1 MB" in capsys.readouterr().err


def test_a_bomb_that_lies_about_its_size(course, tmp_path, monkeypatch):
    monkeypatch.setattr(collecting, "LARGEST_SUBMISSION", 100_000)
    source = zipped(tmp_path / "x.zip", {"ada.ipynb": bytes(30_000_000)})
    data = source.read_bytes().replace((30_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    source.write_bytes(data)
    assert collect(course, source) == 1 and not submitted(course)


def test_many_bombs_together(course, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(collecting, "MOST_BYTES", 1_000_000)
    source = zipped(tmp_path / "x.zip", {f"s{number}.ipynb": bytes(300_000) for number in range(10)})
    assert collect(course, source) == 1
    assert "together" in capsys.readouterr().err and len(submitted(course)) == 3


def test_too_many_files(course, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(collecting, "MOST_FILES", 10)
    assert collect(course, zipped(tmp_path / "x.zip", {f"s{number}.ipynb": "" for number in range(11)})) == 1
    assert "more than 10 files" in capsys.readouterr().err and not submitted(course)


def test_links_are_not_followed(course, tmp_path):
    secret = tmp_path / "secret.ipynb"
    secret.write_text("secret")
    info = zipfile.ZipInfo("ada.ipynb")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, str(secret))
    assert collect(course, tmp_path / "x.zip") == 1 and not submitted(course)
    (tmp_path / "folder").mkdir()
    os.symlink(secret, tmp_path / "folder" / "ada.ipynb")
    assert collect(course, tmp_path / "folder") == 1 and not submitted(course)


def test_a_link_in_submitted_is_replaced_not_followed(course, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious.txt").write_text("here")
    (course / "submitted" / "ada").mkdir(parents=True)
    os.symlink(victim, course / "submitted" / "ada" / CHAPTER)
    assert collect(course, zipped(tmp_path / "x.zip", {"ada.ipynb": "A"})) == 0
    assert [path.name for path in victim.iterdir()] == ["precious.txt"]
    assert submitted(course) == {"ada/01_toy/ada.ipynb": "A"}


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04" + bytes(100)])
def test_what_is_no_zip(course, tmp_path, content, capsys):
    (tmp_path / "x.zip").write_bytes(content)
    assert collect(course, tmp_path / "x.zip") == 1
    assert "neither a folder nor a zip" in capsys.readouterr().err


def test_where_there_is_nothing_that_is_said(course, tmp_path, capsys):
    assert collect(course, tmp_path / "nowhere.zip") == 1
    assert "there is no " in capsys.readouterr().err
    (tmp_path / "wrong").mkdir()
    assert collect(course, tmp_path / "wrong") == 1
    assert f"no notebook of {CHAPTER} to take in {tmp_path / 'wrong'}" in capsys.readouterr().err


def test_a_zip_in_a_zip_is_said_and_not_opened(course, tmp_path, capsys):
    inner = zipped(tmp_path / "inner.zip", {"ada.ipynb": "A"})
    assert collect(course, zipped(tmp_path / "x.zip", {"ada.zip": inner.read_bytes(), "bob.ipynb": "B"})) == 1
    assert "ada.zip: not a notebook" in capsys.readouterr().err
