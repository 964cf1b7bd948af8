"""Trusted routines that exercise an answer: call it, construct a class, draw from it, differentiate it.

A drive runs beside student code, so it decides nothing: it returns plain data for the judge. Each takes the answer, the
case's inputs (in the order of the answer's parameters) and the case's settings.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

Inputs = Mapping[str, Any]


class WrongArguments(TypeError):
    """The answer cannot be called with the arguments that the exercise gives."""


class Unusable(Exception):
    """The answer lacks something that the exercise asks for; the message says what."""


class WrongDevice(Exception):
    """The answer mixes devices when its inputs are not on the CPU."""


def invoke(answer: Callable, inputs: Inputs) -> Any:
    """Calls the answer, telling a wrong parameter list apart from a TypeError inside the answer."""
    try:
        signature = inspect.signature(answer)
    except (TypeError, ValueError):  # some builtins and C functions have none
        return answer(*inputs.values())
    try:
        signature.bind(*inputs.values())
    except TypeError as error:
        has, needs = ", ".join(signature.parameters) or "nothing", ", ".join(inputs) or "nothing"
        raise WrongArguments(f"Your answer takes ({has}), but the exercise calls it with ({needs}): {error}.") from None
    return answer(*inputs.values())


def call(answer: Callable, inputs: Inputs) -> Any:
    """Calls the answer once; the outputs are what it returns."""
    return invoke(answer, inputs)


def gradient(answer: Callable, inputs: Inputs, *, wrt: str, weights: torch.Tensor | None = None) -> dict[str, Any]:
    """Calls the answer and backpropagates its result, weighted (by 1 unless told) and summed, to the input `wrt`."""
    leaf = inputs[wrt].detach().clone().requires_grad_()
    value = invoke(answer, {**inputs, wrt: leaf})
    fits = isinstance(value, torch.Tensor) and weights is not None and value.shape == weights.shape
    weighted = value * weights if fits else value
    return {"value": value, "gradient": _gradients(weighted, {wrt: leaf})[wrt]}


def construct(answer: Callable, inputs: Inputs) -> dict[str, Any]:
    """Constructs the class and returns its parameters by name."""
    torch.manual_seed(0)
    return {name: value.detach() for name, value in _module(answer, inputs).named_parameters()}


def module(answer: Callable, inputs: Inputs, *, method: str = "forward") -> dict[str, Any]:
    """Constructs the class with `inputs["arguments"]`, loads `inputs["parameters"]`, calls it (or another method
    than `forward`) on `inputs["x"]`.

    The outputs are the result and the gradients of its sum, so that a detached parameter shows.
    """
    model = _module(answer, inputs["arguments"])
    parameters = {name: _parameter(model, name, value) for name, value in inputs["parameters"].items()}
    with torch.no_grad():
        for name, value in inputs["parameters"].items():
            parameters[name].copy_(value)
    if not callable(run := model if method == "forward" else getattr(model, method, None)):
        raise Unusable(f"Your class has no method `{method}`.")
    output = run(inputs["x"])
    return {"output": output, "gradients": _gradients(output, parameters)}


def draw(answer: Callable, inputs: Inputs) -> dict[str, Any]:
    """Draws twice from a sampler whose last input is a random generator, and once more from its first state.

    Where that input is None there is no state to go back to: `repeats` is None.
    """
    generator = list(inputs.values())[-1]
    state = generator.get_state() if generator else None
    first, following = invoke(answer, inputs), invoke(answer, inputs)
    repeats = None
    if generator:
        generator.set_state(state)
        repeats = _same(first, invoke(answer, inputs))
    return {"draw": first, "repeats": repeats, "moves_on": not _same(first, following)}


def other_device(answer: Callable, inputs: Inputs) -> list[str] | None:
    """Calls the answer on tensors that are not on the CPU, and returns the devices of what comes back.

    It needs no GPU: tensors of PyTorch's meta device have a shape, a dtype and a device, but no numbers. None if the
    answer looks at numbers (a loop with an `if`, say) and so cannot be tried this way.
    """
    moved = {name: value.to("meta") if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
    try:
        return devices(answer(*moved.values()))
    except Exception as error:
        if "expected device" in str(error) or "same device" in str(error):
            raise WrongDevice from None
        return None


def blueprint(answer: Callable, inputs: Inputs, *, tokens: torch.Tensor) -> dict[str, Any]:
    """Calls the answer for a `mechlib.handmade.Blueprint`, builds the model that it plans, and runs it on `tokens`.

    The outputs are the logits [batch position vocabulary] and all attention [layer batch head query key].
    """
    from mechlib.handmade import Blueprint

    plan = invoke(answer, inputs)
    if not isinstance(plan, Blueprint):
        raise Unusable(f"The exercise asks for a Blueprint; got a {type(plan).__name__}. Return the plan, not built.")
    if len(plan.words) <= tokens.max() or plan.n_ctx < tokens.shape[1]:
        raise Unusable("Your Blueprint has too few words or too short a context: make it of the words and n_ctx given.")
    network = plan.network().eval()
    network.set_attn_implementation("eager")
    with torch.no_grad():
        run = network(tokens, attention_mask=torch.ones_like(tokens), output_attentions=True)
    return {"logits": run.logits, "patterns": torch.stack(run.attentions)}


DRIVES: dict[str, Callable[..., Any]] = {
    "call": call,
    "gradient": gradient,
    "construct": construct,
    "module": module,
    "draw": draw,
    "other_device": other_device,
    "blueprint": blueprint,
}


def devices(value: Any) -> list[str]:
    """The device types of all tensors in plain data, sorted, each once."""
    found, seen, waiting = set(), set(), [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            found.add(value.device.type)
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))  # a structure may hold itself
            waiting += value.values() if isinstance(value, dict) else value
    return sorted(found)


def _module(answer: Callable, arguments: Inputs) -> torch.nn.Module:
    if not isinstance(answer, type):
        raise Unusable(f"The exercise asks for a class; got a {type(answer).__name__}. Pass the class itself.")
    model = invoke(answer, arguments)
    if not isinstance(model, torch.nn.Module):
        raise Unusable("Your class is not a torch.nn.Module: derive it from nn.Module.")
    return model


def _parameter(model: torch.nn.Module, name: str, value: torch.Tensor) -> torch.Tensor:
    parameter = getattr(model, name, None)
    if not isinstance(parameter, torch.Tensor):
        raise Unusable(f"Your model has no parameter `{name}`.")
    if parameter.shape != value.shape:
        raise Unusable(f"`{name}` should have shape {tuple(value.shape)}; yours is {tuple(parameter.shape)}.")
    return parameter


def _gradients(value: Any, leaves: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor | None]:
    """The gradient of the summed value with respect to each leaf; None where no gradient arrives."""
    if not (isinstance(value, torch.Tensor) and value.requires_grad):
        return dict.fromkeys(leaves)
    asked = [name for name, leaf in leaves.items() if leaf.requires_grad]
    found = torch.autograd.grad(value.sum(), [leaves[name] for name in asked], allow_unused=True)
    return dict.fromkeys(leaves) | dict(zip(asked, found, strict=True))


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, tuple) and isinstance(second, tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    return isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor) and torch.equal(first, second)
