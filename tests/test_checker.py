"""The machinery of checking: what crosses between the two sides, and what each kind of failure says."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import mechlib
from mechlib.checker import Case, Exercise, Mistake, Recipe, run
from mechlib.checker.compare import close, moments
from mechlib.checker.encoding import Other, decode, encode
from mechlib.checker.observe import Outcome, UsedReference, disabled, observe, request

pytestmark = pytest.mark.student

# ------------------------------------------------------------------------------------------------------------ encoding


def test_views_parameters_and_shared_memory_cross():
    base = torch.arange(12.0).reshape(3, 4)
    value = {"transposed": base.T, "row": base[0], "same": base, "parameter": nn.Parameter(base)}
    back = decode(encode(value))
    assert all(torch.equal(back[name], value[name]) for name in value)
    assert not back["parameter"].requires_grad


def test_what_is_not_plain_data_crosses_as_its_type_name_only():
    class Liar:
        def __eq__(self, other):
            return True

    back = decode(encode([Liar(), print, torch.zeros(2).to_sparse(), np.float32(1.5)]))
    assert isinstance(back[0], Other) and "Liar" in back[0].type_name
    assert isinstance(back[1], Other)
    assert torch.equal(back[2], torch.zeros(2)) and back[3] == np.float32(1.5)


def test_endless_structures_are_cut():
    loop: list = []
    loop.append(loop)
    assert "deeply" in str(decode(encode(loop)))


def test_half_a_surrogate_pair_can_be_shown():
    assert decode(encode("a\ud800")) == "a?"


@pytest.mark.skipif(not hasattr(torch, "float8_e8m0fnu"), reason="PyTorch 2.6 has no such dtype")
def test_dtypes_that_safetensors_cannot_read_cross_as_their_name():
    back = decode(encode(torch.ones(3).to(torch.float8_e8m0fnu)))
    assert back == Other("tensor (torch.float8_e8m0fnu, cpu)")


def test_numpy_arrays_of_any_layout_cross():
    array = np.arange(3.0)[::-1]
    assert np.array_equal(decode(encode(array)), array)


def test_recipes_travel_and_are_built_on_the_other_side():
    case = Case({"generator": Recipe("generator", {"seed": 3})})
    outcome = observe(lambda generator: torch.rand(2, generator=generator), request(case))
    assert torch.equal(outcome.outputs, torch.rand(2, generator=torch.Generator().manual_seed(3)))


# --------------------------------------------------------------------------------- one sentence for each way to fail


def double(x):
    """The reference of the little exercise below."""
    return 2 * x


def exercise(**changes):
    values = {
        "id": "test.double",
        "chapter": "00_test",
        "title": "Double",
        "points": 1,
        "minutes": 1,
        "difficulty": 1,
        "reference": double,
        "cases": lambda seed: [Case({"x": torch.arange(1.0, 7.0).reshape(2, 3) + seed}, note="a small one")],
        "mistakes": [Mistake("halved", lambda x: x / 2, "You divide: multiply.")],
        "equivalents": [],
        "hints": ["Think.", "Multiply.", "2 * x"],
    }
    return Exercise(**(values | changes))


def fails(answer, **changes):
    report = run(exercise(**changes), answer)
    assert report.status in ("fail", "not_written") and report.earned == 0
    return report


def test_a_right_answer_passes():
    report = run(exercise(), lambda x: x + x)
    assert (report.status, report.earned) == ("pass", 1.0)


def test_a_named_mistake_is_told_by_its_sentence():
    report = fails(lambda x: x * 0.5)
    assert report.mistake == "halved" and report.verdict.sentence == "You divide: multiply."


@pytest.mark.parametrize(
    "answer, kind, words",
    [
        (lambda: 1, "arguments", "takes (nothing)"),
        (lambda x, y: x, "arguments", "(x, y), but the exercise calls it with (x)"),
        (lambda x: (2 * x)[0], "shape", "shape (2, 3); yours has (3,)"),
        (lambda x: (2 * x).double(), "dtype", "float32; yours is float64"),
        (lambda x: 2 * x / torch.zeros_like(x), "nan", "NaN or infinite"),
        (lambda x: 3 * x, "value", "wrong numbers"),
        (lambda x: None, "type", "`return` missing"),
        (lambda x: (2 * x).tolist(), "type", "should be a torch tensor; yours is of type list"),
        (lambda x: (2 * x).numpy(), "type", "NumPy array"),
        (lambda x: print, "type", "an object of type"),
        (lambda x: x.mul_(2), "changed_inputs", "changes its inputs"),
        (lambda x: double(x), "used_reference", "calls the library's own"),
        (lambda x: (2 * x).to("meta"), "type", "tensor"),
        (torch.ones(2), "unusable", "without parentheses"),
        (None, "unusable", "without parentheses"),
    ],
)
def test_every_way_to_fail_has_its_own_sentence(answer, kind, words):
    verdict = fails(answer).verdict
    assert verdict.kind == kind
    assert words in verdict.sentence


class UnreadableDict(dict):
    def items(self):
        raise RuntimeError("mine")


class UnreadableError(Exception):
    def __str__(self):
        raise RuntimeError("mine")


def endless():
    loop: list = []
    loop.append(loop)
    return loop


def doubling():
    tree: list = []
    for _ in range(31):
        tree = [tree, tree]
    return tree


@pytest.mark.parametrize(
    "result, words",
    [
        (endless, "of type list"),
        (doubling, "too much data"),
        (lambda: torch.zeros(1).expand(2**40), "too much data"),
        (lambda: 10**5000, "object of type int"),
        (lambda: UnreadableDict(a=1), "cannot be read"),
    ],
)
def test_strange_results_have_a_sentence_too(result, words):
    assert words in fails(lambda x: result()).verdict.sentence


def test_an_exception_without_a_message_is_shown():
    def answer(x):
        raise UnreadableError

    assert "UnreadableError" in dict(fails(answer).verdict.details)["exception"]


def test_a_stub_is_not_written_yet():
    def stub(x):
        raise NotImplementedError

    report = fails(stub)
    assert report.status == "not_written" and "not written yet" in report.verdict.sentence


def test_an_exception_shows_the_students_line_not_ours():
    def answer(x):
        y = x + 1
        return y.norm(dim=7)

    verdict = fails(answer).verdict
    details = dict(verdict.details)
    assert verdict.kind == "raised"
    assert "IndexError" in details["exception"]
    assert "return y.norm(dim=7)" in details["your code"] and "in answer" in details["your code"]


def test_a_students_file_beside_the_library_is_theirs():
    path = Path(mechlib.__file__).parent.with_name("mechlib_answers.py")
    namespace: dict = {}
    exec(compile("def answer(x):\n    return x.norm(dim=7)", str(path), "exec"), namespace)
    assert "line 2, in answer" in dict(fails(namespace["answer"]).verdict.details)["your code"]


@pytest.mark.parametrize("error", [SystemExit(3), RecursionError(), AssertionError("mine"), KeyError("W")])
def test_any_exception_is_caught(error):
    def answer(x):
        raise error

    assert fails(answer).verdict.kind == "raised"


def test_keyboard_interrupt_is_not_swallowed():
    def answer(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(exercise(), answer)


def test_the_first_difference_is_shown():
    def answer(x):
        result = 2 * x
        result[1, 2] += 1
        return result

    details = dict(fails(answer).verdict.details)
    assert "[1, 2]: expected 12, got 13 (1 of 6 values differ)" in details[""]
    assert details["this case"] == "a small one"
    assert "float32 tensor (2, 3)" in details["called with"]


def test_what_the_answer_printed_is_shown():
    def answer(x):
        print("x is", x.shape)
        return x

    assert "x is torch.Size([2, 3])" in dict(fails(answer).verdict.details)["printed"]


def test_the_reference_itself_is_borrowed():
    report = run(exercise(), double)
    assert (report.status, report.earned) == ("borrowed", 0.0)


def test_the_reference_is_disabled_under_every_name_and_works_again_afterwards():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = 3

        def forward(self, x):
            return x * self.scale

    model, alias = Model(), double
    with disabled(double), pytest.raises(UsedReference):
        alias(1)
    with disabled(Model):
        with pytest.raises(UsedReference):
            Model()
        with pytest.raises(UsedReference):
            model(torch.ones(1))
    assert alias(1) == 2 and Model()(torch.ones(1)) == 3


def test_pytorchs_own_not_implemented_is_no_stub():
    def answer(x):
        raise NotImplementedError("\"svd\" not implemented for 'BFloat16'")

    assert fails(answer).verdict.kind == "raised"


def test_what_pytorch_cannot_do_in_bfloat16_is_not_held_against_the_student():
    cases = [Case({"x": torch.ones(2, 2)}), Case({"x": torch.ones(2, 2, dtype=torch.bfloat16)})]
    report = run(exercise(cases=lambda seed: cases), lambda x: 2 * x + 0 * torch.linalg.svdvals(x).sum())
    assert report.status == "pass"


def test_a_small_guard_against_zero_is_no_mistake():
    cases = [Case({"x": torch.arange(1.0, 7.0, dtype=torch.float64)})]
    assert run(exercise(cases=lambda seed: cases), lambda x: x / (0.5 + 1e-6)).status == "pass"


def test_numbers_that_look_alike_are_told_apart():
    cases = [Case({"x": torch.arange(1.0, 7.0, dtype=torch.float64)})]
    details = dict(fails(lambda x: 2 * x + 0.0003 * (x == 1), cases=lambda seed: cases).verdict.details)
    assert "expected 2.0, got 2.0003" in details[""]


def test_a_mistake_that_agrees_on_one_case_only_is_not_claimed():
    cases = [Case({"x": torch.ones(2)}), Case({"x": -torch.ones(2)})]
    absolute = exercise(mistakes=[Mistake("absolute", lambda x: 2 * x.abs(), "Signed!")], cases=lambda seed: cases)
    assert run(absolute, lambda x: 2 + 0 * x).verdict.sentence == "Signed!"
    other = run(absolute, lambda x: 2.5 + 0.5 * x).verdict.sentence
    assert other == "The result has the right shape, but wrong numbers."


def test_a_truth_that_the_reference_cannot_bend():
    def three(x):
        return 3 * x

    def truth(out):
        return None if float(out.sum()) == 42 else "The sum should be 42."

    cases = [Case({"x": torch.arange(1.0, 7.0)}, truth=truth)]
    report = run(exercise(reference=three, cases=lambda seed: cases), lambda x: x * 3)
    assert report.verdict.sentence == "The sum should be 42."


def test_parts_give_partial_credit():
    cases = [Case({"x": torch.ones(2)}, part="ones"), Case({"x": -torch.ones(2)}, part="negative")]
    partly = exercise(points=3, parts={"ones": 1, "negative": 2}, cases=lambda seed: cases)
    report = run(partly, lambda x: 2 * x.abs())
    assert (report.status, report.earned) == ("partly", 1.0)
    assert report.parts == {"ones": True, "negative": False}


def test_parts_must_add_up():
    with pytest.raises(ValueError, match="do not add up to 2 points"):
        exercise(points=2, parts={"a": 3})


def test_the_mistake_that_explains_most_cases_wins():
    mistakes = [Mistake("absolute", lambda x: x.abs(), "abs"), Mistake("plain", lambda x: x.clone(), "plain")]
    cases = [Case({"x": torch.ones(2)}), Case({"x": -torch.ones(2)})]
    both = exercise(mistakes=mistakes, cases=lambda seed: cases)
    assert run(both, lambda x: x + 0).mistake == "plain"
    assert run(both, lambda x: x.abs() + 0).mistake == "absolute"


def test_a_seed_gives_the_same_cases_and_another_gives_others():
    hard_coded = torch.arange(1.0, 7.0).reshape(2, 3) * 2
    assert run(exercise(), lambda x: hard_coded.clone(), seed=0).status == "pass"
    assert run(exercise(), lambda x: hard_coded.clone(), seed=1).status == "fail"


def test_the_answers_random_draws_do_not_disturb_the_notebooks():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    run(exercise(), lambda x: 2 * x + 0 * torch.rand(1) * torch.manual_seed(9).initial_seed())
    assert torch.equal(torch.rand(1), expected)


def learns(x, w):
    """A reference whose gradient counts."""
    return (x * w).sum()


def torch_state():
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch.get_default_device(),
    )


@pytest.fixture
def restored_torch():
    yield
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


@pytest.mark.usefixtures("restored_torch")
@pytest.mark.parametrize(
    "change",
    [
        lambda: torch.set_grad_enabled(False),
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.set_default_device("meta"),
    ],
)
class TestTorchState:
    def check(self, answer):
        def cases(seed):
            yield Case({"x": torch.rand(3), "w": torch.rand(3)}, drive="gradient", settings={"wrt": "w"})

        return run(exercise(reference=learns, cases=cases, mistakes=[]), answer)

    def test_of_the_notebook_changes_no_verdict(self, change):
        change()
        before = torch_state()
        assert self.check(lambda x, w: (x * w).sum()).status == "pass"
        assert self.check(lambda x, w: (x * w.detach()).sum()).status == "fail"
        assert self.check(lambda x, w: (x * w * torch.tensor(1.0)).sum()).status == "pass"
        assert torch_state() == before

    def test_that_an_answer_changes_is_put_back(self, change):
        before = torch_state()

        def answer(x, w):
            change()
            return (x * w).sum()

        self.check(answer)
        assert torch_state() == before


def test_inference_mode_changes_no_verdict():
    with torch.inference_mode():
        assert run(exercise(), lambda x: x + x).status == "pass"


def test_the_answer_does_not_write_to_the_notebook(capsys):
    def answer(x):
        print("out")
        print("err", file=sys.stderr)
        for i in range(100):
            warnings.warn(f"warning {i}", stacklevel=1)
        return x

    details = dict(fails(answer).verdict.details)
    assert details["printed"] == "out\nerr" and details["warning"].count(";") < 10
    assert capsys.readouterr() == ("", "")


def test_too_much_data_is_refused():
    report = fails(lambda x: torch.zeros(2**27))
    assert "too much data" in report.verdict.sentence


def test_outcome_round_trip():
    outcome = Outcome(outputs={"a": torch.ones(2)}, devices=["cpu"], warnings=["w"], printed="p")
    back = Outcome.decode(outcome.encode())
    assert torch.equal(back.outputs["a"], torch.ones(2)) and back.printed == "p" and back.failure is None


# ------------------------------------------------------------------------------------------------------------- compare


@pytest.mark.parametrize("dtype, factor", [(torch.float64, 1e-10), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_close_allows_rounding_and_no_more(dtype, factor):
    x = torch.linspace(1, 2, 5, dtype=dtype)
    assert close(x, (x * (1 + factor)).to(dtype)) is None
    assert close(x, (x * 1.2).to(dtype)).kind == "value"


def test_close_names_where_structures_part():
    assert "keys ['a']" in close({"a": 1}, {"b": 1}).sentence
    assert "should have 2 entries" in close([1, 2], [1]).sentence
    assert "`a[1]`" in close({"a": [1, 2]}, {"a": [1, 3]}).sentence
    assert close(1, True) is not None and close(2.0, 2) is None and close("x", "x") is None


def test_statistics_pass_fresh_draws_and_catch_a_shift():
    compare = moments(lambda x: {"the mean": x})

    def sample(seed, shift=0.0):
        draw = torch.rand(4000, 3, generator=torch.Generator().manual_seed(seed)) + shift
        return {"draw": draw, "repeats": True, "moves_on": True}

    assert all(compare(sample(0), sample(seed)) is None for seed in range(1, 50))
    assert "the mean" in compare(sample(0), sample(1, shift=0.05)).sentence
    assert "generator" in compare(sample(0), sample(1) | {"repeats": False}).sentence
    assert "two different samples" in compare(sample(0), sample(1) | {"moves_on": False}).sentence


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda x: -x, "Every one has the opposite sign."),
        (lambda x: 2 * x, "Every one is 2 times the right one."),
        (lambda x: x / 3, "Every one is 1/3 of the right one."),
        (lambda x: -x / 4, "Every one is -1/4 of the right one."),
        (lambda x: 0.123 * x, "Every one is 0.123 times the right one."),
        (lambda x: x - 0.5, "Every one is 0.5 too small."),
        (lambda x: x.flip(1), "in reverse order along axis 1."),
        (lambda x: x.roll(1, 2), "moved by one place along axis 2."),
        (lambda x: x.transpose(0, 1), "with axes 0 and 1 exchanged."),
        (lambda x: x + torch.arange(4), "wrong numbers."),
        (lambda x: x.square(), "wrong numbers."),
    ],
)
def test_a_simple_relation_to_the_right_numbers_is_said(wrong, words):
    right = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(0))
    assert close(right, wrong(right)).sentence.endswith(words)
    assert close(right, right.clone()) is None


def test_a_relation_is_not_claimed_where_every_number_would_have_it():
    constant, scalar = torch.full((2, 3), 2.0), torch.tensor(2.0)
    for right in (constant, scalar, torch.tensor([1.0, 2.0]), torch.tensor([3, 4, 5])):
        assert close(right, right * 2).sentence.endswith("wrong numbers.")
    holes = torch.tensor([1.0, float("inf"), 3.0, 7.0])
    assert close(holes, holes * 2).sentence.endswith("Every one is 2 times the right one.")
