"""Ways to compare what an answer gave with what was expected. Both are plain data.

A comparison returns None when the two agree, and else the first `Difference`. It is symmetric in spirit: the judge
uses it for the reference against the answer, and again for each named mistake against the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

# Relative and absolute tolerance by dtype: room for another order of summing, and for a guard against zero, as in
# x / (norm + 1e-6). A wrong answer is off by much more.
TOLERANCES = {
    torch.float64: (1e-4, 1e-8),
    torch.float32: (5e-4, 1e-5),
    torch.bfloat16: (4e-2, 4e-2),
    torch.float16: (4e-3, 4e-3),
}


@dataclass(frozen=True)
class Difference:
    """Where two results part. `kind` is one of: type, structure, shape, dtype, nan, value, statistic, truth."""

    kind: str
    sentence: str
    expected: str = ""
    got: str = ""
    where: str = ""


Compare = Callable[[Any, Any], Difference | None]


def close(expected: Any, got: Any, path: str = "") -> Difference | None:
    """Same structure, types, shapes and dtypes, and values within float tolerance."""
    if type(expected) is not type(got) and not (_is_number(expected) and _is_number(got)):
        return Difference("type", _wrong_type(expected, got, path), describe(expected), describe(got))
    match expected:
        case torch.Tensor():
            return _close_tensors(expected, got, path)
        case dict():
            if list(map(str, expected)) != list(map(str, got)):
                sentence = f"The result{_at(path)} should have the keys {list(expected)}; yours are {list(got)}."
                return Difference("structure", sentence)
            pairs = [(f"{path} {key}".strip(), expected[key], got[key]) for key in expected]
        case list() | tuple():
            if len(expected) != len(got):
                sentence = f"The result{_at(path)} should have {len(expected)} entries; yours has {len(got)}."
                return Difference("structure", sentence)
            pairs = [(f"{path}[{i}]", e, g) for i, (e, g) in enumerate(zip(expected, got, strict=True))]
        case _:
            same = np.isclose(expected, got, equal_nan=True) if _is_number(expected) else expected == got
            if not same:
                return Difference("value", f"The value{_at(path)} is off.", describe(expected), describe(got))
            return None
    return next((difference for p, e, g in pairs if (difference := close(e, g, p))), None)


def moments(
    columns: Callable[[torch.Tensor], dict[str, torch.Tensor]], z: float = 6.0, axes: str = "[statistic]"
) -> Compare:
    """Compares random answers by their statistics.

    Args:
        columns: turns a sample with draws along dimension 0 into named columns (draws, ...); the means of
            a column over the draws are compared by a two-sample z-test.
        z: how many standard errors two means may differ. At z = 6 a right answer fails with a probability of 2e-9
            a statistic, under 1e-6 for the few hundred statistics of an exercise.
        axes: what a column's axes after the draws are, to tell a student where the worst statistic is.

    The outcome is that of the drive "draw".
    """

    def compare(expected: Any, got: Any) -> Difference | None:
        if form := close(_form(expected["draw"]), _form(got["draw"])):
            return form
        if not torch.isfinite(got["draw"]).all():
            return Difference("nan", "Your sample contains NaN or infinite values.")
        ours, theirs = columns(expected["draw"].double()), columns(got["draw"].double())
        for name in ours:
            if difference := _means_differ(name, ours[name], theirs[name], z):
                return replace(difference, where=f"worst at {axes} = {difference.where}")
        for flag, sentence in _RANDOMNESS.items():
            if expected[flag] != got[flag]:
                return Difference("statistic", sentence)
        return None

    return compare


_RANDOMNESS = {
    "repeats": "Drawing twice with the generator in the same state should give the same sample. "
    "Hand `generator=generator` to every random function that you call.",
    "moves_on": "Drawing twice in a row should give two different samples. Yours are the same: use the generator as it "
    "comes, and do not reset its seed.",
}


WRONG_DEVICE = (
    "Given tensors on a GPU, your answer would fail or come back on the CPU. Make new tensors on the device of the "
    "inputs, as in torch.zeros(n, device=W.device)."
)


def other_device(expected: Any, got: Any) -> Difference | None:
    """For the drive "other_device": results are where the inputs were, or the answer could not be tried (None)."""
    return None if got is None or got == ["meta"] else Difference("device", WRONG_DEVICE)


def numbers(values: torch.Tensor) -> str:
    """The numbers of a tensor in a row, floats with four significant digits."""
    return ", ".join(_number(x) for x in values.flatten().tolist())


def describe(value: Any) -> str:
    """A short text for a piece of plain data: what it is, and its first numbers."""
    if isinstance(value, torch.Tensor):
        head = f"{str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
        if value.numel() == 0:
            return head
        return f"{head}: {numbers(value.flatten()[:6])}{', ...' if value.numel() > 6 else ''}"
    if isinstance(value, np.ndarray | np.generic):
        return f"NumPy array of shape {np.shape(value)}"
    if type_name := getattr(value, "type_name", None):
        return f"an object of type {type_name}"
    if isinstance(value, list | tuple | dict):
        return f"{type(value).__name__} of {len(value)}"
    return _number(value) if _is_number(value) else repr(value)[:200]


def _close_tensors(expected: torch.Tensor, got: torch.Tensor, path: str) -> Difference | None:
    name = f"The result{_at(path)}"
    if expected.shape != got.shape:
        sentence = f"{name} should have shape {tuple(expected.shape)}; yours has {tuple(got.shape)}."
        return Difference("shape", sentence, describe(expected), describe(got))
    if expected.dtype != got.dtype:
        ours, theirs = (str(t.dtype).removeprefix("torch.") for t in (expected, got))
        keep = " Keep the dtype of the inputs." if expected.is_floating_point() and got.is_floating_point() else ""
        sentence = f"{name} should be {ours}; yours is {theirs}.{keep}"
        return Difference("dtype", sentence, describe(expected), describe(got))
    if expected.is_complex():
        return _close_tensors(torch.view_as_real(expected), torch.view_as_real(got), path)
    rtol, atol = TOLERANCES.get(expected.dtype, (0.0, 0.0))
    equal = torch.isclose(expected.double(), got.double(), rtol=rtol, atol=atol, equal_nan=True)
    if equal.all():
        return None
    first = tuple((~equal).nonzero()[0].tolist()) if equal.ndim else ()
    ours, theirs = _tell_apart(expected[first].item(), got[first].item())
    where = f"first difference at {list(first)}: expected {ours}, got {theirs} "
    where += f"({int((~equal).sum())} of {equal.numel()} values differ)"
    bad = (~torch.isfinite(got.double()) & torch.isfinite(expected.double())).any()
    kind, sentence = (
        ("nan", f"{name} contains NaN or infinite values: look for a division by zero or the log of zero.")
        if bad
        else ("value", f"{name} has the right shape, but wrong numbers.{_relation(expected, got, rtol)}")
    )
    return Difference(kind, sentence, describe(expected), describe(got), where)


def _relation(expected: torch.Tensor, got: torch.Tensor, rtol: float) -> str:
    """How wrong numbers relate to the right ones, where that is simple: a sign, a factor, an offset, an order."""
    if not expected.is_floating_point() or expected.numel() < 3:
        return ""
    right, wrong = expected.double(), got.double()
    finite = torch.isfinite(right)
    spread = right[finite].std() if finite.sum() > 2 else torch.tensor(0.0)
    if not torch.equal(finite, torch.isfinite(wrong)) or spread <= 100 * rtol * right[finite].abs().max():
        return ""  # nearly constant values are a multiple of anything

    def same(other: torch.Tensor) -> bool:
        return other.shape == wrong.shape and torch.allclose(other, wrong, rtol, rtol * float(spread), equal_nan=True)

    factor = float((right * wrong)[finite].sum() / right[finite].square().sum())
    offset = float((wrong - right)[finite].mean())
    if same(-right):
        return " Every one has the opposite sign."
    if abs(factor) > 1e-6 and same(factor * right):
        return f" Every one is {_factor(factor)} the right one."
    if same(right + offset):
        return f" Every one is {abs(offset):.4g} too {'large' if offset > 0 else 'small'}."
    for axis in range(right.ndim):
        if right.shape[axis] > 2 and same(right.flip(axis)):
            return f" They are the right ones in reverse order along axis {axis}."
        for shift in (1, -1):
            if right.shape[axis] > 2 and same(right.roll(shift, axis)):
                return f" They are the right ones, moved by one place along axis {axis}."
    for i in range(right.ndim):
        for j in range(i + 1, right.ndim):
            if same(right.transpose(i, j)):
                return f" They are the right ones with axes {i} and {j} exchanged."
    return ""


def _factor(factor: float) -> str:
    """ "2 times", "1/3 of", "-0.4321 times"."""
    if abs(1 / factor - round(1 / factor)) < 1e-3 and abs(round(1 / factor)) > 1:
        return f"{'-' if factor < 0 else ''}1/{abs(round(1 / factor))} of"
    return f"{factor:.4g} times"


def _means_differ(name: str, ours: torch.Tensor, theirs: torch.Tensor, z: float) -> Difference | None:
    means = ours.mean(0), theirs.mean(0)
    errors = ((ours.var(0) / len(ours)) + (theirs.var(0) / len(theirs))).sqrt()
    # Where nothing varies (sparsity 0 or 1) the error is zero and the means must agree to rounding.
    scores = (means[0] - means[1]).abs() / errors.clamp(min=1e-7)
    worst = tuple(int(i) for i in torch.unravel_index(scores.argmax(), scores.shape))
    if scores[worst] <= z:
        return None
    sentence = f"The sample's statistics are off: {name} is not what it should be."
    expected, got = (f"{mean[worst]:.3f} ± {errors[worst]:.3f}" for mean in means)
    return Difference("statistic", sentence, f"{name} {expected}", f"{name} {got}", str(list(worst)))


def _form(sample: Any) -> Any:
    """The sample with its numbers blanked: comparing two of these compares type, shape and dtype."""
    return torch.zeros_like(sample) if isinstance(sample, torch.Tensor) else sample


def _wrong_type(expected: Any, got: Any, path: str) -> str:
    if got is None and path.startswith("gradient"):
        return f"No gradient reaches{_at(path).replace(' at', '')}: keep .detach(), .data and .item() out of it."
    if got is None:
        return f"Your answer returned nothing{_at(path)}. Is a `return` missing?"
    return f"The result{_at(path)} should be {_type_name(expected)}; yours is {_type_name(got)}."


def _type_name(value: Any) -> str:
    if type_name := getattr(value, "type_name", None):
        return f"an object of type {type_name}"
    names = {torch.Tensor: "a torch tensor", np.ndarray: "a NumPy array", type(None): "None"}
    return names.get(type(value), f"of type {type(value).__name__}")


def _at(path: str) -> str:
    return f" at `{path}`" if path else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tell_apart(expected: Any, got: Any) -> tuple[str, str]:
    """Both numbers, with more digits where four do not show the difference."""
    short = _number(expected), _number(got)
    return short if short[0] != short[1] else (repr(expected), repr(got))


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
