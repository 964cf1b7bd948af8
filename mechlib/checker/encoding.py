"""Plain data to bytes and back: JSON for the structure, safetensors for the numbers, never pickle.

Everything that crosses between the student's side and the judging side goes through here, so nothing that a
student wrote (a class with its own `__eq__`, a patched tensor) reaches the judge.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from mechlib.checker.exercise import Recipe

MAX_BYTES = 256 * 2**20
MAX_DEPTH = 32
MAX_INT_BITS = 4096
NODE_BYTES = 1024  # what each number, string or list counts for on its own


@dataclass(frozen=True)
class Other:
    """What stands in the data for an object that is not plain data: only its type's name crosses."""

    type_name: str


class TooLarge(ValueError):
    """The data is larger than any answer needs to be."""


@dataclass
class _Store:
    """The tensors of some data, and how many bytes it may still take."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    left: int = MAX_BYTES

    def spend(self, n_bytes: int) -> None:
        self.left -= n_bytes
        if self.left < 0:
            raise TooLarge(f"more than {MAX_BYTES // 2**20} MiB")

    def add(self, kind: str, value: Any) -> Any:
        """Puts a tensor or an array among the tensors and returns the node that points to it."""
        self.spend(value.itemsize * int(np.prod(value.shape)))
        try:
            tensor = torch.as_tensor(np.array(value)) if kind == "array" else value
            # safetensors wants dense, contiguous tensors that share no memory.
            tensor = tensor.detach().to_dense().cpu().contiguous().clone().as_subclass(torch.Tensor)
            probe = tensor[..., :0] if tensor.ndim else tensor
            safetensors.torch.load(safetensors.torch.save({"probe": probe}))
        except (RuntimeError, TypeError, ValueError, KeyError, safetensors.SafetensorError, NotImplementedError):
            return {"other": f"{kind} ({getattr(value, 'dtype', 'unknown')}, {getattr(value, 'device', 'cpu')})"}
        key = str(len(self.tensors))
        self.tensors[key] = tensor
        return {kind: key}


def encode(value: Any) -> bytes:
    """Turns plain data into bytes; an object that is not plain data becomes `Other`."""
    store = _Store()
    tree = json.dumps(_to_tree(value, store, 0)).encode()
    store.spend(len(tree))
    return len(tree).to_bytes(8, "little") + tree + safetensors.torch.save(store.tensors)


def decode(data: bytes) -> Any:
    """Turns the bytes of `encode` back into plain data. Tensors come back on the CPU, without gradients."""
    end = 8 + int.from_bytes(data[:8], "little")
    tensors = safetensors.torch.load(data[end:])
    return _from_tree(json.loads(data[8:end]), tensors)


def _to_tree(value: Any, store: _Store, depth: int) -> Any:
    if depth > MAX_DEPTH:
        return {"other": "a structure nested too deeply"}
    store.spend(NODE_BYTES)

    def inner(child: Any) -> Any:
        return _to_tree(child, store, depth + 1)

    match value:
        case None | bool():
            return value
        case np.ndarray() | np.generic():
            return store.add("array", value)
        case int() if value.bit_length() <= MAX_INT_BITS:
            return int(value)
        case float():
            return float(value)
        case str():
            return str(value).encode(errors="replace").decode()  # half a surrogate pair cannot be shown
        case torch.Tensor():
            return store.add("tensor", value)
        case Recipe():
            return {"recipe": value.builder, "arguments": inner(dict(value.arguments))}
        case list():
            return [inner(child) for child in value]
        case tuple():
            return {"tuple": [inner(child) for child in value]}
        case dict():
            return {"dict": [[inner(key), inner(child)] for key, child in value.items()]}
    return {"other": f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")}


def _from_tree(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    def inner(child: Any) -> Any:
        return _from_tree(child, tensors)

    match tree:
        case {"tensor": key}:
            return tensors[key]
        case {"array": key}:
            return tensors[key].float().numpy() if tensors[key].dtype == torch.bfloat16 else tensors[key].numpy()
        case {"recipe": builder, "arguments": arguments}:
            return Recipe(builder, inner(arguments))
        case {"tuple": children}:
            return tuple(inner(child) for child in children)
        case {"dict": items}:
            return {inner(key): inner(child) for key, child in items}
        case {"other": type_name}:
            return Other(type_name)
        case list():
            return [inner(child) for child in tree]
    return tree
