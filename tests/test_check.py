"""What a notebook calls: check, hint, reveal, borrow, progress; in a terminal, in IPython, and under nbgrader."""

import json
from contextlib import nullcontext

import pytest
import torch

from mechlib import check as module
from mechlib import superposition
from mechlib.check import CheckFailed, SolutionsHidden, borrow, check, hint, progress, reveal
from mechlib.checker import record

pytestmark = pytest.mark.student
ID = "superposition.feature_norms"


def right(W):
    return W.norm(dim=1)


def wrong(W):
    return W.square().sum(dim=1)


def half(n_features, n_hidden):
    """|x|, but only where there are neurons enough."""
    W_in = torch.cat([torch.eye(n_features), -torch.eye(n_features), torch.zeros(max(n_hidden, 0), n_features)])
    return W_in[:n_hidden], W_in[:n_hidden].abs().T.contiguous(), torch.zeros(n_features)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("NBGRADER_EXECUTION", "MECHLIB_SEED", "MECHLIB_SOLUTIONS"):
        monkeypatch.delenv(name, raising=False)


def test_a_pass_is_one_line(capsys):
    assert check(ID, right) is None
    assert capsys.readouterr().out == f"✓ {ID}   1 / 1\n"


def test_a_failure_raises_with_the_card_as_its_text():
    with pytest.raises(CheckFailed, match="squared lengths: take the square root") as caught:
        check(ID, wrong)
    text = str(caught.value)
    assert text.startswith(f"✗ {ID}   0 / 1") and "called with" in text and f'hint("{ID}")' in text


def test_in_ipython_the_card_is_shown_and_the_traceback_is_short(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        shell.user_ns.update(check=check, wrong=wrong)
        shell.run_cell(f'check("{ID}", wrong)')
        out = capsys.readouterr().out
        assert "take the square root" in out and f"CheckFailed: {ID}" in out
        assert "Traceback" not in out and "run.py" not in out
    finally:
        InteractiveShell.clear_instance()


def test_the_card_escapes_what_the_student_wrote():
    def answer(W):
        raise ValueError("<script>alert(1)</script>")

    with pytest.raises(CheckFailed) as caught:
        check(ID, answer)
    html = module.card.card(caught.value.report)._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html


@pytest.mark.parametrize("answer, result", [(right, 1.0), (superposition.feature_norms, 0.0)])
def test_under_nbgrader_the_result_is_the_points(answer, result, monkeypatch):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    points = check(ID, answer)
    assert type(points) is float and points == result
    assert not record.FILE.exists()


def test_under_nbgrader_a_failure_fails_the_cell_and_says_why(monkeypatch):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    with pytest.raises(CheckFailed) as caught:
        check(ID, wrong)
    assert "take the square root" in "\n".join(caught.value._render_traceback_())


def test_under_nbgrader_a_check_made_of_parts_gives_partial_credit(monkeypatch, capsys):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    assert check("superposition.absolute_value_weights", half) == 2.0
    out = capsys.readouterr().out
    assert "2 / 3" in out and "enough neurons ✓, too few neurons ✗" in out


def test_the_grading_run_supplies_the_seed(monkeypatch):
    seen = []

    def answer(W):
        seen.append(W.flatten()[0].item())
        return right(W)

    check(ID, answer)
    usual = seen[0]
    monkeypatch.setenv("MECHLIB_SEED", "99")
    seen.clear()
    check(ID, answer)
    assert seen[0] != usual


def test_hints_come_one_after_the_other(capsys):
    for number in (1, 2, 3, 3):
        hint(ID)
        assert f"hint {number} of 3" in capsys.readouterr().out
    hint(ID)
    assert "last hint" in capsys.readouterr().out


def test_reveal_shows_the_source_and_borrow_hands_it_over(capsys):
    reveal(ID)
    assert "def feature_norms" in capsys.readouterr().out
    borrowed = borrow(ID)
    check(ID, borrowed)
    assert "earns no points" in capsys.readouterr().out
    assert record.load()[ID]["status"] == "borrowed"


def test_an_instructor_can_switch_solutions_off(monkeypatch):
    monkeypatch.setenv("MECHLIB_SOLUTIONS", "off")
    for call in (reveal, borrow):
        with pytest.raises(SolutionsHidden, match="switched off"):
            call(ID)


@pytest.mark.parametrize(
    ("content", "allowed"),
    [('{"solutions": false}', False), ('{"solutions": true}', True), ("{}", True), ("damaged", True), ("[]", True)],
)
def test_a_courses_file_can_switch_solutions_off(monkeypatch, tmp_path, content, allowed):
    (tmp_path / "mechlib-course.json").write_text(content)
    (tmp_path / "chapters" / "01_toy").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "chapters" / "01_toy")
    for call in (reveal, borrow):
        with nullcontext() if allowed else pytest.raises(SolutionsHidden, match="switched off"):
            call(ID)


def test_progress_is_drawn_from_a_file_beside_the_notebook(capsys):
    check(ID, right)
    with pytest.raises(CheckFailed):
        check("superposition.dimensions_per_feature", wrong)
    hint("superposition.dimensions_per_feature")
    capsys.readouterr()
    progress()
    out = capsys.readouterr().out
    assert "01_superposition" in out and "1 of 11 exercises, 1 of 22 points" in out
    assert "✓ feature_norms" in out and "✗ dimensions_per_feature" in out and "1 hint\n" in out


def test_solved_stays_solved():
    check(ID, right)
    with pytest.raises(CheckFailed):
        check(ID, wrong)
    assert record.load()[ID] | {} == {"status": "pass", "earned": 1.0, "tries": 2, "hints": 0}


def test_a_damaged_progress_file_is_put_aside():
    record.FILE.parent.mkdir()
    record.FILE.write_text("{ not json")
    with pytest.warns(UserWarning, match="moved to"):
        check(ID, right)
    assert json.loads(record.FILE.read_text())[ID]["status"] == "pass"
    assert record.FILE.with_suffix(".damaged.json").read_text() == "{ not json"


def test_a_folder_that_cannot_be_written_does_not_stop_a_check(monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    with pytest.warns(UserWarning, match="could not be saved"):
        check(ID, right)
    assert "✓" in capsys.readouterr().out


def test_import_is_light():
    import subprocess
    import sys

    heavy = ("nbgrader", "jupyterlab", "transformer_lens")
    code = f"import sys, mechlib.check; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_card_can_be_printed_where_there_are_no_ticks(tmp_path, encoding):
    """Where Windows writes into a file or a pipe, say."""
    import os
    import subprocess
    import sys

    code = (
        "from mechlib.check import check, hint, progress\n"
        f"check('{ID}', lambda W: W.norm(dim=1))\nprogress()\nhint('{ID}')\n"
        f"try: check('{ID}', lambda W: W)\nexcept AssertionError as error: print(error)"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"+ {ID}   1 / 1\n") and f"\nx {ID}   0 / 1\n" in result.stdout
