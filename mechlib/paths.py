"""Path patching: which later component uses what an earlier head says, and through which of its inputs?

A head's output reaches everything after it. Patching the head changes all of that at once; path patching changes it for
chosen receivers alone, as if the rest of the model had not noticed:

1. Take the activations of a run (`cache`), and put in the senders' outputs from another run (`source_cache`).
2. Let the difference travel to the receivers along the residual stream only: heads in between keep what they said;
   MLPs in between keep it too (`mlps="frozen"`: the direct edge) or answer to what they now read
   (`mlps="recomputed"`: Wang et al. 2023).
3. Run the model with the receivers' queries, keys or values so changed, and everything after them free to respond.

It works on models that add their heads' outputs to the stream as they are (GPT-2 and its like, attention-only ones
too). Not supported: grouped-query attention, and models that run attention and MLP side by side.

Wang et al. 2023, "Interpretability in the Wild", appendix B (https://arxiv.org/abs/2211.00593); Goldowsky-Dill et al.
2023, "Localizing Model Behavior with Path Patching" (https://arxiv.org/abs/2304.05969).
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Head = tuple[int, int]  # (layer, head)
Receiver = tuple[int, int, str]  # (layer, head, "q", "k" or "v")
Stream = Float[Tensor, "batch position d_model"]
Logits = Float[Tensor, "batch position vocabulary"]


def patch_keys(
    model: Any, tokens: Int[Tensor, "batch position"], cache: Any, source_cache: Any, sender: Head, receiver: Head
) -> Logits:
    """The logits on `tokens` if the keys of one head, and nothing else, read the sender's output from another run.

    `cache` is that of `tokens`, `source_cache` that of the other run; both have the same shape. The same as
    `path_patch(..., senders=[sender], receivers=[(*receiver, "k")])`, written out.
    """
    (layer, head), (later, reader) = sender, receiver
    change = (source_cache["z", layer] - cache["z", layer])[:, :, head] @ model.W_O[layer, head]
    seen = model.blocks[later].ln1(cache["resid_pre", later] + change)

    def patch(keys: Float[Tensor, "batch position head d_head"], hook: Any) -> Tensor:
        keys = keys.clone()
        keys[:, :, reader] = seen @ model.W_K[later, reader] + model.b_K[later, reader]
        return keys

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{later}.attn.hook_k", patch)])


def path_patch(
    model: Any,
    tokens: Int[Tensor, "batch position"],
    cache: Any,
    source_cache: Any,
    senders: Sequence[Head],
    receivers: Sequence[Receiver] | Literal["logits"] = "logits",
    *,
    mlps: Literal["frozen", "recomputed"] = "frozen",
    where: Bool[Tensor, "batch position"] | None = None,
) -> Logits:
    """The logits on `tokens` if the receivers read the senders' outputs from another run.

    Args:
        cache: all activations of the run on `tokens`.
        source_cache: those of a run of the same shape, where the senders' outputs come from.
        senders: heads, as (layer, head).
        receivers: (layer, head, "q" | "k" | "v") for each input that is to notice, or "logits".
        mlps: whether MLPs between sender and receiver keep their output, or respond.
        where: the positions at which the senders' outputs change; all unless told.

    A receiver that is not in a later layer than a sender has no path from it, and does not notice it. Denoising:
    `tokens` are corrupted, the source is clean; noising: the other way round. A sweep hands the same two caches
    to every call; a call costs one forward pass, and almost nothing for "logits" with frozen MLPs.

    Raises ValueError for an unknown setting, for runs of different shapes, and for grouped-query attention.
    """
    _check(model, cache, source_cache, receivers, mlps)
    streams = patched_streams(model, cache, source_cache, senders, mlps == "recomputed", where)
    if isinstance(receivers, str):
        return model.unembed(model.ln_final(streams[-1]))
    return model.run_with_hooks(tokens, fwd_hooks=[_receive(model, receiver, streams) for receiver in receivers])


def patched_streams(
    model: Any,
    cache: Any,
    source_cache: Any,
    senders: Sequence[Head],
    mlps_respond: bool = False,
    where: Bool[Tensor, "batch position"] | None = None,
) -> list[Stream]:
    """The residual stream before each layer, and after the last, as a receiver there would see it.

    Other heads keep what they said; MLPs too, unless they respond.
    """
    change = torch.zeros_like(cache["resid_pre", 0])
    streams = []
    for layer, block in enumerate(model.blocks):
        streams.append(cache["resid_pre", layer] + change)
        for _, head in [sender for sender in senders if sender[0] == layer]:
            z = source_cache["z", layer][:, :, head] - cache["z", layer][:, :, head]
            said = z @ model.W_O[layer, head]
            change = change + (said if where is None else said * where[..., None])
        if mlps_respond and change.any():
            middle = cache["resid_pre", layer] + cache["attn_out", layer] + change
            change = change + block.mlp(block.ln2(middle)) - cache["mlp_out", layer]
    return [*streams, cache["resid_post", len(model.blocks) - 1] + change]


def _receive(model: Any, receiver: Receiver, streams: Sequence[Stream]) -> tuple[str, Any]:
    """The hook that gives a head the queries, keys or values which it computes from the patched stream."""
    layer, head, part = receiver
    weight, bias = (getattr(model, f"{kind}_{part.upper()}")[layer, head] for kind in ("W", "b"))
    mine = model.blocks[layer].ln1(streams[layer]) @ weight + bias

    def patch(activation: Float[Tensor, "batch position head d_head"], hook: Any) -> Tensor:
        activation = activation.clone()
        activation[:, :, head] = mine
        return activation

    return f"blocks.{layer}.attn.hook_{part}", patch


def _check(model: Any, cache: Any, source_cache: Any, receivers: Any, mlps: str) -> None:
    if mlps not in ("frozen", "recomputed"):
        raise ValueError(f"mlps is 'frozen' or 'recomputed', not {mlps!r}")
    if receivers != "logits" and (isinstance(receivers, str) or not all(r[2] in ("q", "k", "v") for r in receivers)):
        raise ValueError(f"receivers is 'logits' or a list of (layer, head, 'q' | 'k' | 'v'), not {receivers!r}")
    if cache["z", 0].shape != source_cache["z", 0].shape:
        raise ValueError(
            f"the two runs differ in shape: {cache['z', 0].shape[:2]} and {source_cache['z', 0].shape[:2]}"
        )
    if getattr(model.cfg, "n_key_value_heads", None) not in (None, model.cfg.n_heads):
        raise ValueError("path_patch does not support grouped-query attention, where heads share keys and values")
