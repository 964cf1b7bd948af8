"""One source becomes two notebooks, byte for byte, and nothing of an answer reaches the students'."""

import shutil
import zipfile
from pathlib import Path

import nbformat
import pytest
import standin

from mechlib.checker import settings
from mechlib.grading import release, solved
from mechlib.grading.source import SourceError, read_source

CHAPTER = standin.CHAPTER


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A course with a released chapter; tests that change it take a copy."""
    root = tmp_path_factory.mktemp("released") / "course"
    standin.write_course(root)
    with pytest.MonkeyPatch.context() as monkeypatch:
        standin.install(monkeypatch, root)
        assert release.main(["--root", str(root)]) == 0
        yield root


@pytest.fixture
def course(released, tmp_path):
    """A copy of the released course."""
    return shutil.copytree(released, tmp_path / "course")


def source_of(course):
    return course / "solutions" / CHAPTER / f"{CHAPTER}.py"


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def run(course, *arguments):
    return release.main(["--root", str(course), *arguments])


def files(course):
    return {path.relative_to(course): path.read_bytes() for path in course.rglob("*.ipynb")}


def test_the_course_itself_is_what_its_sources_generate(capsys):
    root = Path(__file__).parents[1]
    if not any(root.glob("solutions/*/*.py")):
        pytest.skip("there is no chapter yet")
    problems = release.main(["--root", str(root), "--check"])
    assert not problems, capsys.readouterr().err


def test_two_releases_are_the_same_and_the_second_executes_nothing(course, monkeypatch):
    before = files(course)
    assert len(before) == 2
    monkeypatch.setattr(release, "execute", lambda *_: pytest.fail("executed again"))
    assert run(course) == 0
    assert files(course) == before


def test_release_from_nothing_is_the_same(course):
    before = files(course)
    for path in before:
        (course / path).unlink()
    assert run(course, CHAPTER) == 0
    assert files(course) == before


def test_force_executes_again(course, monkeypatch):
    executed = []
    monkeypatch.setattr(release, "execute", executed.append)
    assert run(course, "--force") == 0
    assert len(executed) == 1


def test_students_get_stubs_and_no_outputs(course):
    notebook = nbformat.read(course / "chapters" / CHAPTER / f"{CHAPTER}.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = {cell.id: cell for cell in notebook.cells}
    stub = "        # YOUR CODE HERE\n        raise NotImplementedError"
    assert cells["toy-counter"].source.count(stub) == 2
    assert cells["toy-why"].source == "YOUR ANSWER HERE"
    assert not any(cell.get("outputs") for cell in notebook.cells)
    assert "mechlib" not in notebook.metadata


def test_metadata_comes_from_the_header_and_the_exercise(course):
    notebook = read_source(source_of(course))
    cells = {cell.id: cell.metadata for cell in notebook.cells}
    assert cells["check-toy-counter"]["nbgrader"]["points"] == 5
    assert cells["check-toy-counter"]["nbgrader"]["locked"]
    assert cells["toy-counter"]["nbgrader"]["solution"] and not cells["toy-counter"]["nbgrader"]["grade"]
    assert cells["toy-why"]["nbgrader"]["points"] == 2
    finding = next(metadata for metadata in cells.values() if "finding" in metadata["tags"])
    assert finding["tags"] == ["experiment", "finding", "nbval-check-output"]
    assert "https://" in notebook.cells[0].source and "{{" not in notebook.cells[0].source


def test_solved_notebook_keeps_what_the_cells_print(course):
    notebook = nbformat.read(course / "solutions" / CHAPTER / f"{CHAPTER}.ipynb", as_version=4)
    printed = [output.text for cell in notebook.cells for output in cell.get("outputs", [])]
    assert "two and three make 5\n" in printed


def test_check_notices_changed_code_until_it_is_released_again(course, capsys):
    assert run(course, "--check") == 0
    edit(source_of(course), "first + second", "second + first")
    assert run(course, "--check") == 1
    assert "the code of the solved notebook is not what the source generates" in capsys.readouterr().err
    assert run(course) == 0
    assert run(course, "--check") == 0


def test_changed_prose_keeps_the_outputs(course, monkeypatch, capsys):
    edit(source_of(course), "Add two numbers.", "Add two numbers, please.")
    assert run(course, "--check") == 1
    error = capsys.readouterr().err
    assert "the prose of the solved notebook" in error and "the students' notebook" in error
    monkeypatch.setattr(release, "execute", lambda *_: pytest.fail("executed again"))
    assert run(course) == 0
    assert run(course, "--check") == 0
    test_solved_notebook_keeps_what_the_cells_print(course)


def test_check_notices_an_edited_or_missing_students_notebook(course, capsys):
    path = course / "chapters" / CHAPTER / f"{CHAPTER}.ipynb"
    edit(path, "A toy", "A boy")
    assert run(course, "--check") == 1
    path.unlink()
    assert run(course, "--check") == 1
    assert "there is no students' notebook" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("helper.py", "sum_of_both   =  first + second\n", "shows a line of the answer to toy.add"),
        ("notes.md", "### BEGIN SOLUTION", "contains a solution marker"),
        ("data.csv", "1,2", "does not belong there"),
    ],
)
def test_check_notices_leaks_in_any_file(course, capsys, name, content, message):
    (course / "chapters" / CHAPTER / name).write_text(content)
    assert run(course, "--check") == 1
    assert message in capsys.readouterr().err


def test_release_notices_an_answer_in_the_prose(course, capsys):
    edit(source_of(course), "# Add two numbers.", "# Add two numbers: `sum_of_both = first + second`.")
    assert run(course) == 1
    assert "shows a line of the answer to toy.add" in capsys.readouterr().err
    edit(source_of(course), "# %% [markdown]\n# Add", '# %% [markdown] tags=["shows-answer"]\n# Add')
    assert run(course) == 0


def test_a_line_that_the_stub_shows_is_no_secret(course):
    edit(source_of(course), "The sum of two numbers.", "The sum: sum_of_both = first + second, for instance.")
    edit(source_of(course), "# Add two numbers.", "# Add two numbers: `sum_of_both = first + second`.")
    assert run(course) == 0


def test_a_students_own_progress_is_left_alone(course):
    progress = course / "chapters" / CHAPTER / ".mechlib" / "progress.json"
    progress.parent.mkdir()
    progress.write_text("{}")
    assert run(course) == 0 and run(course, "--check") == 0
    assert progress.exists()


def test_check_notices_a_chapter_without_source(course, capsys):
    (course / "chapters" / "99_left_over").mkdir()
    assert run(course, "--check") == 1
    assert "99_left_over has no source" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"toy.counter"', '"toy.countre"', "no exercise 'toy.countre'. Did you mean toy.counter"),
        ("### BEGIN SOLUTION\n    sum", "sum", "do not come in pairs"),
        ("    ### BEGIN SOLUTION\n    return sum(", "    return sum(", "do not come in pairs"),
        ('# %% check="toy.mean"', '# %% check="toy.add"', "appears 2 times"),
        ('# %% exercise="toy.mean"', '# %% tags=["experiment"]', "has no exercise cell above it"),
        ('# %% check="toy.mean"', '# %% tags=["experiment"]', "has no check below it"),
        ("# # A toy", "# ![a toy](toy.jpg)", "toy.jpg cannot travel"),
        ("# # A toy", "# ![a toy](toy.png)", "toy.png does not lie beside the source"),
        ("# # A toy", "# ### BEGIN SOLUTION", "belong into exercise cells"),
        ('# %% tags=["setup"]', "# %%", "has no kind that fits"),
        (" points=2", "", "does not say its points"),
        ('check("toy.mean", mean)', "check(mean)", "does not name that exercise"),
        ('exercise="toy.add"', 'exercise="toy.add" tags=["setup"]', "both exercise and setup"),
    ],
)
def test_mistakes_in_a_source_are_named(course, old, new, message):
    path = source_of(course)
    edit(path, old, new)
    with pytest.raises(SourceError, match=message):
        read_source(path)


def test_an_exercise_without_markers_and_a_check_without_exercise(course):
    path = source_of(course)
    text = path.read_text(encoding="utf-8")
    path.write_text("\n".join(line for line in text.splitlines() if "SOLUTION" not in line), encoding="utf-8")
    with pytest.raises(SourceError, match="has no '### BEGIN SOLUTION'"):
        read_source(path)
    path.write_text('# %% check="toy.add"\ncheck("toy.add", add)\n', encoding="utf-8")
    with pytest.raises(SourceError, match="no exercise cell above it"):
        read_source(path)


def test_an_unknown_chapter_is_answered_with_the_nearest(course, capsys):
    assert run(course, "01_boy") == 1
    assert "Did you mean 01_toy?" in capsys.readouterr().err


def test_a_cell_that_fails_is_reported_and_nothing_is_written(course, capsys):
    before = files(course)
    edit(source_of(course), 'print("two and three make", add(2, 3))', "1 / 0")
    assert run(course) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert files(course) == before


def test_a_notebook_that_is_too_large_is_refused(course, monkeypatch, capsys):
    monkeypatch.setattr(release, "LARGEST_NOTEBOOK", 1000)
    assert run(course) == 1
    assert "figures have to be smaller" in capsys.readouterr().err


def test_tidy_drops_warnings_widgets_and_heavy_html_and_refuses_paths():
    def notebook(**output):
        cell = nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output(**output)])
        return nbformat.v4.new_notebook(cells=[cell], metadata={"language_info": {"name": "python", "version": "3"}})

    warned = notebook(output_type="stream", name="stderr", text="careful")
    widget = notebook(output_type="display_data", data={solved.WIDGETS: {}, "text/plain": "100%"})
    heavy = notebook(output_type="display_data", data={"text/html": "x" * 200_000})
    for each in (warned, widget, heavy):
        solved.tidy(each, machine_paths=["/somewhere"])
    assert not warned.cells[0].outputs and not widget.cells[0].outputs
    assert "run the cell" in heavy.cells[0].outputs[0].data["text/html"]
    assert "version" not in heavy.metadata["language_info"]
    with pytest.raises(solved.ExecutionFailed, match="a path of this machine"):
        solved.tidy(notebook(output_type="stream", name="stdout", text="/somewhere/x"), ["/somewhere"])


# ---- the students' zip


def test_the_students_zip_has_their_notebooks_and_nothing_else(course, tmp_path, monkeypatch):
    assert run(course, "--package", str(tmp_path / "interp.zip"), "--no-solutions") == 0
    notebook = f"chapters/{CHAPTER}/{CHAPTER}.ipynb"
    with zipfile.ZipFile(tmp_path / "interp.zip") as archive:
        assert set(archive.namelist()) == {f"interp/{n}" for n in (notebook, "mechlib-course.json", "START.md")}
        archive.extractall(tmp_path)
    assert (tmp_path / "interp" / notebook).read_bytes() == (course / notebook).read_bytes()
    monkeypatch.chdir(tmp_path / "interp" / "chapters" / CHAPTER)
    assert not settings.solutions_allowed()


def test_the_students_zip_is_the_same_each_time(course, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        assert run(course, "--package", str(tmp_path / folder / "interp.zip")) == 0
    assert (tmp_path / "a" / "interp.zip").read_bytes() == (tmp_path / "b" / "interp.zip").read_bytes()


def test_what_leaks_is_not_packed(course, tmp_path):
    (course / "chapters" / CHAPTER / "answers.py").write_text("# ### BEGIN SOLUTION")
    assert run(course, "--package", str(tmp_path / "interp.zip")) == 1
    assert not (tmp_path / "interp.zip").exists()
