"""Inputs that cannot travel as data: each side builds them from a name and plain arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from mechlib.checker.exercise import Recipe


def generator(seed: int) -> torch.Generator:
    """A CPU random generator in the state that the seed gives."""
    return torch.Generator().manual_seed(seed)


def handmade(name: str, seed: int = 0, **sizes: int) -> Any:
    """A model written by hand, on the CPU."""
    from mechlib.handmade import handmade

    return handmade(name, seed, device="cpu", **sizes)


BUILDERS: dict[str, Callable[..., Any]] = {"generator": generator, "handmade": handmade}


def build(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces every recipe among the inputs by what it describes."""
    return {
        name: BUILDERS[value.builder](**value.arguments) if isinstance(value, Recipe) else value
        for name, value in inputs.items()
    }
