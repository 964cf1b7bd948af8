"""The student's side of a check: run the answer on one case and write down what happened, as plain data."""

from __future__ import annotations

import contextlib
import io
import linecache
import os
import sysconfig
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from mechlib.checker import drives, recipes
from mechlib.checker.encoding import Unreadable, decode, encode
from mechlib.checker.exercise import Case

MAX_PRINTED = 2000
MAX_WARNINGS = 5
FAILURES = ("not_written", "arguments", "unusable", "device", "used_reference", "raised")


@dataclass(frozen=True)
class Failure:
    """Why an answer gave no result.

    `kind` is one of `FAILURES`; of not_written the message is the name of what is missing.
    """

    kind: str
    message: str
    line: str = ""


@dataclass(frozen=True)
class Outcome:
    """What happened when an answer ran on a case. Nothing but plain data."""

    outputs: Any = None
    inputs_after: dict[str, Any] = field(default_factory=dict)
    devices: list[str] = field(default_factory=list)
    failure: Failure | None = None
    warnings: list[str] = field(default_factory=list)
    printed: str = ""

    def encode(self) -> bytes:
        return encode({**vars(self), "failure": asdict(self.failure) if self.failure else None})

    @classmethod
    def decode(cls, data: bytes) -> Outcome:
        """The outcome in these bytes, which may come from a stranger's process.

        Raises:
            Unreadable: they are not an outcome.
        """
        fields = decode(data)
        match fields:
            case {
                "outputs": _,
                "inputs_after": dict(),
                "devices": list(devices),
                "failure": None | {"kind": str(), "message": str(), "line": str()} as failure,
                "warnings": list(caught),
                "printed": str(printed),
                **rest,
            } if not rest and all(isinstance(text, str) for text in devices + caught) and len(printed) <= MAX_PRINTED:
                known = failure is None or (failure["kind"] in FAILURES and len(failure) == 3)
                if known and len(caught) <= MAX_WARNINGS:
                    return cls(**{**fields, "failure": Failure(**failure) if failure else None})
        raise Unreadable("not an outcome")


class UsedReference(Exception):
    """The answer called the function that it was asked to write."""


def request(case: Case) -> bytes:
    """The part of a case that travels to the side where student code runs."""
    return encode({"inputs": dict(case.inputs), "drive": case.drive, "settings": dict(case.settings)})


def observe(answer: Callable, case: bytes, reference: Callable | None = None) -> Outcome:
    """Runs the answer on one encoded case (see `request`).

    Args:
        reference: the library's own answer, disabled while the student's runs.
    """
    fields = decode(case)
    inputs = recipes.build(fields["inputs"])
    before = {name: recipes.witness(value) for name, value in inputs.items()}
    printed = io.StringIO()
    outputs, failure = None, None
    with (
        warnings.catch_warnings(record=True) as caught,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        usual_torch(),
        disabled(reference),
    ):
        warnings.simplefilter("always")
        try:
            if not callable(answer):
                raise drives.Unusable(_not_callable(answer))
            outputs = drives.DRIVES[fields["drive"]](answer, inputs, **fields["settings"])
        except (Exception, SystemExit) as error:
            failure = explain(error)
    after = {n: recipes.witness(value) for n, value in inputs.items() if not isinstance(value, torch.Generator)}
    recipes.restore(inputs, before)
    return Outcome(
        outputs=outputs,
        inputs_after=after,
        devices=drives.devices(outputs),
        failure=failure,
        warnings=sorted({str(warning.message)[:300] for warning in caught})[:MAX_WARNINGS],
        printed=printed.getvalue()[:MAX_PRINTED],
    )


def explain(error: BaseException) -> Failure:
    """Sorts an exception that came out of an answer into the kinds that a student is told about."""
    kinds: list[tuple[type[BaseException], str]] = [
        (NotImplementedError, "not_written"),
        (drives.WrongArguments, "arguments"),
        (drives.Unusable, "unusable"),
        (drives.WrongDevice, "device"),
        (UsedReference, "used_reference"),
    ]
    kind = next((name for kind, name in kinds if isinstance(error, kind)), "raised")
    if kind == "not_written" and (type(error) is not NotImplementedError or str(error)):
        kind = "raised"  # PyTorch's own, as for a dtype that an operation does not know
    message = str(error) if kind != "raised" else "".join(traceback.format_exception_only(error)).strip()
    if kind == "not_written":  # of a class, it may be one method that is missing
        message = traceback.extract_tb(error.__traceback__)[-1].name.removeprefix("__init__")
    return Failure(kind, message[:1000], _students_line(error))


@contextlib.contextmanager
def usual_torch() -> Iterator[None]:
    """PyTorch as it is after `import torch`, whatever the notebook has changed; puts the notebook's state back."""
    grad, dtype, device = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_default_device()
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            _set_torch(True, torch.float32, torch.device("cpu"))
            yield
    finally:
        _set_torch(grad, dtype, device)


def _set_torch(grad: bool, dtype: torch.dtype, device: torch.device) -> None:
    torch.set_grad_enabled(grad)
    torch.set_default_dtype(dtype)
    if device != torch.get_default_device():
        torch.set_default_device(None if device.type == "cpu" else device)


@contextlib.contextmanager
def disabled(reference: Callable | None) -> Iterator[None]:
    """Makes every call of the reference raise `UsedReference`, under whatever name it was imported.

    The function object stays the same and only its code is exchanged, so an alias does not escape.
    """
    functions = _functions(reference)
    saved = [function.__code__ for function in functions]
    try:
        for function in functions:
            # The stand-in must name as many free variables as the code that it replaces.
            function.__code__ = _refuse.__code__.replace(co_freevars=function.__code__.co_freevars)
        yield
    finally:
        for function, code in zip(functions, saved, strict=True):
            function.__code__ = code


def _refuse(*args: Any, **kwargs: Any) -> Any:
    from mechlib.checker.observe import UsedReference  # runs with another module's globals

    raise UsedReference


def _functions(reference: Callable | None) -> list[types.FunctionType]:
    members = vars(reference).values() if isinstance(reference, type) else [reference]
    return [member for member in members if isinstance(member, types.FunctionType)]


def _not_callable(answer: Any) -> str:
    kind = type(answer).__name__
    return f"The check wants the function itself, but got {kind!r}. Pass its name, without parentheses or quotes."


_NOT_THEIRS = tuple(
    f"{Path(folder).resolve()}{os.sep}"
    for folder in (Path(__file__).parents[1], sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))
)


def _students_line(error: BaseException) -> str:
    """The innermost line of the traceback that the student wrote: not ours, not a library's."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith(_NOT_THEIRS) or frame.filename.startswith("<frozen"):
            continue
        text = linecache.getline(frame.filename, frame.lineno or 0).strip()
        return f"line {frame.lineno}, in {frame.name}: {text}".removesuffix(": ")
    return ""
