"""Path patching: which later component uses what an earlier one says, and through which of its inputs?

A head's output reaches everything after it. Patching the head changes all of that at once; path patching changes it for
chosen receivers alone, as if the rest of the model had not noticed:

1. Take the activations of a run (`cache`), and put in the senders' outputs from another run (`source_cache`).
2. Let the difference travel to the receivers along the residual stream only. What lies in between keeps what it said,
   but for chosen components that answer to what they now read (`through`). There are two conventions for MLPs: all keep
   what they said (`mlps="frozen"`: only the direct edge), or all respond (`mlps="recomputed"`: Wang et al. 2023).
3. Run the model with the receivers' inputs so changed, and everything after them free to respond.

`path_sweep` does it for every head as the sender.

It works on models that add their heads' outputs to the stream as they are (GPT-2 and its like, attention-only ones
too). Not supported: grouped-query attention, rotary positions in `through`, and models that run attention and MLP side
by side.

Wang et al. 2023, "Interpretability in the Wild", appendix B (https://arxiv.org/abs/2211.00593); Goldowsky-Dill et al.
2023, "Localizing Model Behavior with Path Patching" (https://arxiv.org/abs/2304.05969).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Head = tuple[int, int]  # (layer, head)
Sender = tuple[int, int | str]  # (layer, head) or (layer, "mlp")
Receiver = tuple[Any, ...]  # (layer, head, "q" | "k" | "v") or (layer, "mlp")
Between = tuple[Any, ...]  # (layer, head): by all its inputs; (layer, head, "q" | "k" | "v"): by one; (layer, "mlp")
Convention = Literal["frozen", "recomputed"]
Stream = Float[Tensor, "batch position d_model"]
Logits = Float[Tensor, "batch position vocabulary"]
PARTS = ("q", "k", "v")


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
    senders: Sequence[Sender],
    receivers: Sequence[Receiver] | Literal["logits"] = "logits",
    *,
    mlps: Convention = "frozen",
    where: Bool[Tensor, "batch position"] | None = None,
    through: Sequence[Between] = (),
) -> Logits:
    """The logits on `tokens` if the receivers read the senders' outputs from another run.

    Args:
        cache: all activations of the run on `tokens`.
        source_cache: those of a run of the same shape, where the senders' outputs come from.
        senders: heads, as (layer, head), and MLPs, as (layer, "mlp").
        receivers: (layer, head, "q" | "k" | "v") or (layer, "mlp") for each input that is to notice, or "logits".
        mlps: whether MLPs between sender and receiver keep their output, or all respond.
        where: the positions at which the senders' outputs change; all unless told.
        through: what else responds in between: (layer, head), by all its inputs; (layer, head, "q" | "k" | "v"), by one
            of them; (layer, "mlp"). A path A -> B -> logits is senders=[A], through=[B] less what A does without B.

    A receiver that is not later than a sender has no path from it, and does not notice it (an MLP comes after the
    heads of its layer). Denoising: `tokens` are corrupted, the source is clean; noising: the other way round. A call
    costs one forward pass, and almost nothing for "logits" with frozen MLPs.

    Raises ValueError for an unknown setting, for runs of different shapes, and for grouped-query attention.
    """
    _check(model, cache, source_cache, senders, receivers, mlps, through)
    streams = patched_streams(model, cache, source_cache, senders, mlps == "recomputed", where, through)
    if isinstance(receivers, str):
        return model.unembed(model.ln_final(streams.last))
    return model.run_with_hooks(tokens, fwd_hooks=[_receive(model, receiver, streams) for receiver in receivers])


def path_sweep(
    model: Any,
    tokens: Int[Tensor, "batch position"],
    cache: Any,
    source_cache: Any,
    metric: Callable[[Tensor], Tensor],
    receivers: Sequence[Receiver] | Literal["logits"] = "logits",
    *,
    at: Int[Tensor, "batch"] | None = None,
    mlps: Convention = "frozen",
    where: Bool[Tensor, "batch position"] | None = None,
    through: Sequence[Between] = (),
) -> Float[Tensor, "layer head batch"]:
    """The metric on each prompt with each head as the only sender; the other arguments are those of `path_patch`.

    `metric` turns the logits where each prompt is read, [batch vocabulary], into a number for each; `at` is where that
    is, the last position if None. For "logits" it needs no forward pass at all: with the heads in between frozen, no
    position hears of another, so one position of every prompt is followed. Else one pass for each head.
    """
    _check(model, cache, source_cache, [], receivers, mlps, through)
    rows = torch.arange(len(tokens), device=tokens.device)
    end = torch.full_like(rows, tokens.shape[1] - 1) if at is None else at.to(tokens.device)
    with torch.no_grad():
        if receivers == "logits" and not through:
            streams = _ends(model, cache, source_cache, end, mlps == "recomputed", where)
            values = [metric(model.unembed(model.ln_final(stream[:, None]))[:, 0]) for stream in streams]
        else:
            settings: dict[str, Any] = {"mlps": mlps, "where": where, "through": through}
            values = [
                metric(path_patch(model, tokens, cache, source_cache, [head], receivers, **settings)[rows, end])
                for head in ((layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads))
            ]
    return torch.stack(values).view(model.cfg.n_layers, model.cfg.n_heads, len(tokens))


def _ends(
    model: Any, cache: Any, source_cache: Any, end: Tensor, mlps_respond: bool, where: Tensor | None
) -> Float[Tensor, "sender batch d_model"]:
    """The last residual stream at one position of each prompt, for every head as the sender."""
    rows = torch.arange(len(end), device=end.device)
    changes = cache["resid_pre", 0].new_zeros(0, len(end), model.cfg.d_model)
    for layer, block in enumerate(model.blocks):
        z = source_cache["z", layer][rows, end] - cache["z", layer][rows, end]  # [batch head d_head]
        said = torch.einsum("bhe,hed->hbd", z, model.W_O[layer])
        changes = torch.cat([changes, said if where is None else said * where[rows, end, None]])
        if mlps_respond:
            middle = (cache["resid_pre", layer] + cache["attn_out", layer])[rows, end]
            changes = changes + block.mlp(block.ln2(middle + changes)) - cache["mlp_out", layer][rows, end]
    return changes + cache["resid_post", len(model.blocks) - 1][rows, end]


@dataclass(frozen=True)
class Streams:
    """The residual stream as a receiver would see it: before each layer's attention, before its MLP, and at the end."""

    attention: list[Stream]
    mlp: list[Stream]
    last: Stream


def patched_streams(
    model: Any,
    cache: Any,
    source_cache: Any,
    senders: Sequence[Sender],
    mlps_respond: bool = False,
    where: Bool[Tensor, "batch position"] | None = None,
    through: Sequence[Between] = (),
) -> Streams:
    """The residual streams with the senders' outputs from another run, if only some components respond to that.

    A sender says what it says in the other run, even if it is named in `through`.
    """
    change = torch.zeros_like(cache["resid_pre", 0])
    attention, mlp = [], []
    for layer, block in enumerate(model.blocks):
        attention.append(cache["resid_pre", layer] + change)
        sending = [component for where_, component in senders if where_ == layer]
        for head in range(model.cfg.n_heads):
            if head in sending:
                z = source_cache["z", layer][:, :, head]
            elif (parts := _responding(through, layer, head)) and change.any():
                z = _respond(model, cache, layer, head, parts, attention[-1])
            else:
                continue
            said = (z - cache["z", layer][:, :, head]) @ model.W_O[layer, head]
            change = change + (said if where is None or head not in sending else said * where[..., None])
        mlp.append(cache["resid_pre", layer] + cache["attn_out", layer] + change)
        if "mlp" in sending:
            said = source_cache["mlp_out", layer] - cache["mlp_out", layer]
            change = change + (said if where is None else said * where[..., None])
        elif (mlps_respond or (layer, "mlp") in through) and change.any():
            change = change + block.mlp(block.ln2(mlp[-1])) - cache["mlp_out", layer]
    return Streams(attention, mlp, cache["resid_post", len(model.blocks) - 1] + change)


def _responding(through: Sequence[Between], layer: int, head: int) -> set[str]:
    """By which of its inputs a head in between responds."""
    named = [between for between in through if between[:2] == (layer, head)]
    return set(PARTS) if (layer, head) in named else {between[2] for between in named}


def _respond(
    model: Any, cache: Any, layer: int, head: int, parts: set[str], stream: Stream
) -> Float[Tensor, "batch position d_head"]:
    """A head's output (z) if some of its inputs read this stream, and the others what they read before."""
    q, k, v = (
        _read(model, layer, head, part, stream) if part in parts else cache[part, layer][:, :, head] for part in PARTS
    )
    return attention_pattern(q, k) @ v


def _read(model: Any, layer: int, head: int, part: str, stream: Stream) -> Float[Tensor, "batch position d_head"]:
    """The queries, keys or values that a head computes from a stream."""
    weight, bias = (getattr(model, f"{kind}_{part.upper()}")[layer, head] for kind in ("W", "b"))
    return model.blocks[layer].ln1(stream) @ weight + bias


def attention_pattern(
    q: Float[Tensor, "batch query d_head"], k: Float[Tensor, "batch key d_head"]
) -> Float[Tensor, "batch query key"]:
    """A causal head's attention, from its queries and keys."""
    scores = q @ k.mT / q.shape[-1] ** 0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(dim=-1)


def _receive(model: Any, receiver: Receiver, streams: Streams) -> tuple[str, Any]:
    """The hook that gives a receiver what it computes from the patched stream."""
    layer, head, *part = receiver
    if head == "mlp":
        block = model.blocks[layer]
        output = block.mlp(block.ln2(streams.mlp[layer]))
        return f"blocks.{layer}.hook_mlp_out", lambda value, hook: output
    mine = _read(model, layer, head, part[0], streams.attention[layer])

    def patch(activation: Float[Tensor, "batch position head d_head"], hook: Any) -> Tensor:
        activation = activation.clone()
        activation[:, :, head] = mine
        return activation

    return f"blocks.{layer}.attn.hook_{part[0]}", patch


def _check(
    model: Any, cache: Any, source_cache: Any, senders: Any, receivers: Any, mlps: str, through: Sequence[Between]
) -> None:
    if mlps not in ("frozen", "recomputed"):
        raise ValueError(f"mlps is 'frozen' or 'recomputed', not {mlps!r}")
    if receivers != "logits" and (isinstance(receivers, str) or not all(_is_input(r) for r in receivers)):
        raise ValueError(
            f"receivers is 'logits' or a list of (layer, head, 'q' | 'k' | 'v') and (layer, 'mlp'), not {receivers!r}"
        )
    if not all(_is_input(between) or len(between) == 2 for between in through):
        raise ValueError(
            f"through is a list of (layer, head), (layer, head, 'q' | 'k' | 'v'), (layer, 'mlp'): {through!r}"
        )
    named = [*senders, *(() if isinstance(receivers, str) else receivers), *through]
    for layer, head, *_ in named:
        if not (0 <= layer < model.cfg.n_layers and (head == "mlp" or head in range(model.cfg.n_heads))):
            raise ValueError(
                f"there is no {layer}.{head}: the model has {model.cfg.n_layers} layers of {model.cfg.n_heads} heads"
            )
    if cache["z", 0].shape != source_cache["z", 0].shape:
        raise ValueError(
            f"the two runs differ in shape: {cache['z', 0].shape[:2]} and {source_cache['z', 0].shape[:2]}"
        )
    if getattr(model.cfg, "n_key_value_heads", None) not in (None, model.cfg.n_heads):
        raise ValueError("path_patch does not support grouped-query attention, where heads share keys and values")


def _is_input(receiver: Receiver) -> bool:
    return receiver[1:] == ("mlp",) or (len(receiver) == 3 and receiver[2] in PARTS)
