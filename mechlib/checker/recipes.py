"""Inputs that cannot travel as data: each side builds them from a name and plain arguments.

Models are built once and kept, so a check stays quick; `witness` tells whether an answer has left something behind
on one, and `restore` throws a changed one away.
"""

from __future__ import annotations

import contextlib
import copy
import zlib
from collections.abc import Callable, Mapping
from functools import cache as keep
from functools import lru_cache
from typing import Any

import torch

from mechlib.checker.encoding import decode, encode
from mechlib.checker.exercise import Recipe


def generator(seed: int) -> torch.Generator:
    """A CPU random generator in the state that the seed gives."""
    return torch.Generator().manual_seed(seed)


@keep
def handmade(name: str, seed: int = 0, **sizes: int) -> Any:
    """A model written by hand, on the CPU."""
    from mechlib.handmade import handmade

    return handmade(name, seed, device="cpu", **sizes)


@keep
def model(name: str, processed: bool = False, checkpoint: int | None = None) -> Any:
    """A model that comes with the course, on the CPU."""
    from mechlib.models import load

    return load(name, device="cpu", processed=processed, checkpoint=checkpoint)


@keep
def gpt2(
    seed: int,
    layers: int = 3,
    heads: int = 2,
    d_head: int = 5,
    d_mlp: int = 13,
    vocabulary: int = 17,
    context: int = 12,
    attention_only: bool = False,
    processed: bool = False,
) -> Any:
    """A small GPT-2 with random weights, on the CPU.

    By default every axis has another length. Biases and LayerNorms are random too, so that forgetting one shows.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    from mechlib import models
    from mechlib.handmade import word_tokenizer

    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=context,
        n_embd=heads * d_head,
        n_layer=layers,
        n_head=heads,
        n_inner=1 if attention_only else d_mlp,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    draws = generator(seed)
    network = GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            scale = 0.3 if parameter.ndim == 1 else 0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=draws))
            if ".ln_" in name and name.endswith("weight"):
                parameter.add_(1.0)
            if attention_only and ".mlp." in name:
                parameter.zero_()
    words = ["<bos>", "<unk>", *(f"w{i}" for i in range(2, vocabulary))]
    return models.bridge(network, word_tokenizer(words), device="cpu", processed=processed)


def sae(seed: int, d_in: int, d_sae: int) -> Any:
    """A sparse autoencoder with random parameters, on the CPU: decoder rows of any length, no bias is zero."""
    from mechlib.sae import SAE

    made, draws = SAE(d_in, d_sae), generator(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=draws))
    return made.requires_grad_(False)


def activations(model: Any, tokens: torch.Tensor) -> Any:
    """The ActivationCache of a model on some tokens; `model` is itself a recipe.

    The same run is asked for again and again, once for every mistake that an answer is compared with: it is made once,
    and everybody gets a copy.
    """
    run = copy.copy(_run(model, encode(tokens)))
    run.cache_dict = {name: value.clone() for name, value in run.cache_dict.items()}
    return run


@lru_cache(maxsize=20)
def _run(model: Any, tokens: bytes) -> Any:
    with torch.no_grad():
        return model.run_with_cache(decode(tokens))[1]


def score(nodes: list[Any], values: torch.Tensor, pairs: list[Any], worth: torch.Tensor) -> Callable[..., torch.Tensor]:
    """F of sets of nodes (`mechlib.circuits.Score`) without a model, so that the right answers are known.

    For each prompt, every node adds its value [batch node] while it works, and every pair of nodes (their numbers) its
    worth [batch pair] while one of the two works: they back each other up.
    """
    names = [tuple(node) for node in nodes]

    def score(keep: Any = None, without: Any = ()) -> torch.Tensor:
        works = set(names if keep is None else map(tuple, keep)) - set(map(tuple, without))
        alive = [name in works for name in names]
        backed = [alive[i] or alive[j] for i, j in pairs]
        return (values * torch.tensor(alive)).sum(dim=1) + (worth * torch.tensor(backed, dtype=torch.bool)).sum(dim=1)

    return score


BUILDERS: dict[str, Callable[..., Any]] = {
    "generator": generator,
    "handmade": handmade,
    "model": model,
    "gpt2": gpt2,
    "sae": sae,
    "activations": activations,
    "score": score,
}
KEPT: tuple[Any, ...] = (handmade, model, gpt2)


def build(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces every recipe among the inputs by what it describes; a recipe's arguments may be recipes."""
    with torch.random.fork_rng(devices=[]):  # making a model draws from torch's own generator
        return {
            name: BUILDERS[value.builder](**build(value.arguments)) if isinstance(value, Recipe) else value
            for name, value in inputs.items()
        }


# ------------------------------------------------------------------------------------- what an answer leaves behind

SWITCHES = ("set_use_attn_result", "set_use_split_qkv_input", "set_use_hook_mlp_in", "set_use_attn_in")


def witness(value: Any) -> Any:
    """Plain data that is the same before and after an answer which leaves an input as it was."""
    if _is_model(value):
        return {"hooks left": _count_hooks(value), "weights": _fingerprint(value.parameters())}
    if type(value).__name__ == "ActivationCache":
        return {"activations": _fingerprint(value.cache_dict.values())}
    if isinstance(value, torch.nn.Module):
        return {"weights": _fingerprint(value.parameters())}
    return "a function" if callable(value) else value


def restore(inputs: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """Makes the kept models fit for the next case: hooks off, switches off, and a changed one is built anew."""
    for name, value in inputs.items():
        if not _is_model(value):
            continue
        value.reset_hooks()
        for switch in SWITCHES:
            with contextlib.suppress(AttributeError):
                getattr(value, switch)(False)
        if any(part.training for part in value.modules()):
            value.eval()
        if witness(value) != before[name]:
            for builder in KEPT:
                builder.cache_clear()


def _is_model(value: Any) -> bool:
    return isinstance(value, torch.nn.Module) and hasattr(value, "hook_dict")


def _count_hooks(model: Any) -> int:
    return sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in set(model.hook_dict.values()))


def _fingerprint(tensors: Any) -> str:
    """A checksum that changes when any number does."""
    total = 0
    for tensor in tensors:
        total = zlib.crc32(tensor.detach().contiguous().numpy().tobytes(), total)
    return f"{total:08x}"
