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
MAX_TREE_BYTES = 8 * 2**20  # of the JSON alone
MAX_DEPTH = 32
MAX_INT_BITS = 4096
NODE_BYTES = 1024  # what each number, string or list counts for on its own


@dataclass(frozen=True)
class Other:
    """What stands in the data for an object that is not plain data: only its type's name crosses."""

    type_name: str


class TooLarge(ValueError):
    """The data is larger than any answer needs to be."""


class Unreadable(ValueError):
    """These are not the bytes of `encode`."""


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
    if len(tree) > MAX_TREE_BYTES:
        raise TooLarge(f"more than {MAX_TREE_BYTES // 2**20} MiB of text and lists")
    return len(tree).to_bytes(8, "little") + tree + safetensors.torch.save(store.tensors)


def decode(data: bytes) -> Any:
    """Turns the bytes of `encode` back into plain data. Tensors come back on the CPU, without gradients.

    The bytes may come from a process that a stranger's code runs in, so nothing in them is believed.

    Raises:
        Unreadable: they are not what `encode` writes, or more than it would write.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    if len(data) > MAX_BYTES + MAX_TREE_BYTES or not 8 < end <= min(len(data), 8 + MAX_TREE_BYTES):
        raise Unreadable("not the size of encoded data")
    try:
        tree = json.loads(data[8:end])
        store = _Store(safetensors.torch.load(data[end:]))
        value = _from_tree(tree, store, 0)
    except Unreadable:
        raise
    except Exception as error:  # every library has its own; and a RecursionError
        raise Unreadable(f"not encoded data: {error!r}"[:300]) from None
    if store.tensors:
        raise Unreadable("tensors that stand nowhere")
    return value


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


def _from_tree(tree: Any, store: _Store, depth: int) -> Any:
    if depth > MAX_DEPTH + 1:  # where `encode` has cut, it says so one level deeper
        raise Unreadable("nested too deeply")
    store.spend(NODE_BYTES)

    def inner(child: Any) -> Any:
        return _from_tree(child, store, depth + 1)

    match tree:
        case None | bool() | int() | float() | str():
            return tree
        case list():
            return [inner(child) for child in tree]
        case {"tensor": str(key), **rest} if not rest:
            return store.tensors.pop(key)  # once, as `encode` does: one tensor named a million times is a bomb
        case {"array": str(key), **rest} if not rest:
            tensor = store.tensors.pop(key)
            return tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
        case {"recipe": str(builder), "arguments": arguments, **rest} if not rest:
            return Recipe(builder, inner(arguments))
        case {"tuple": list(children), **rest} if not rest:
            return tuple(inner(child) for child in children)
        case {"dict": list(items), **rest} if not rest:
            return {inner(key): inner(child) for key, child in items}
        case {"other": str(type_name), **rest} if not rest:
            return Other(type_name[:200])
    raise Unreadable("a node that `encode` does not write")
