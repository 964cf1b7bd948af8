"""The residual stream as a sum: who wrote what, and what each part does to the logits.

Methods of Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"
(https://transformer-circuits.pub/2021/framework/index.html). Everything a GPT-2 writes is *added* to the residual
stream, and the logits are a linear function of it but for the final LayerNorm's scale. Shapes are written in words:

    parts    name -> batch position d_model    what one component adds to the stream
    answers  batch 2                           each prompt's right and wrong next token
    effect   batch                             logits, of the right token less the wrong one, at the last position

The functions take raw and processed weights, models with and without MLPs. They need absolute positions and
LayerNorm; another norm is a ValueError.
"""

from typing import Any

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

# A TransformerBridge, as `mechlib.models.load` returns it, and what its run_with_cache gives.
Model = Any
Cache = Any


# ---- looking inside


def next_token_table(model: Model, text: str, k: int = 5) -> list[tuple[str, float]]:
    """The `k` most likely next tokens after a text, as (token, probability), the likeliest first."""
    probabilities = model(model.to_tokens(text))[0, -1].softmax(dim=-1)
    best = probabilities.topk(k)
    return [(model.tokenizer.decode(token), p) for token, p in zip(best.indices.tolist(), best.values.tolist())]


def get_activation(model: Model, tokens: Int[Tensor, "batch position"], name: str) -> Tensor:
    """The activation at the hook point `name`, read with a hook that is gone afterwards.

    Raises KeyError if there is no such hook point, and ValueError if it did not run.
    """
    if name not in model.hook_dict:
        raise KeyError(f"there is no hook point {name!r}: model.hook_dict lists them")
    kept: list[Tensor] = []

    def keep(activation: Tensor, hook: Any) -> None:
        kept.append(activation.clone())

    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=[(name, keep)])
    if not kept:
        raise ValueError(f"{name} did not run: some hook points have to be switched on first")
    return kept[0]


# ---- the stream as a sum


def residual_components(model: Model, cache: Cache) -> dict[str, Float[Tensor, "batch position d_model"]]:
    """What every component adds to the residual stream: "embed", "pos_embed", "0_attn_out", "0_mlp_out", ...

    Their sum is the final stream, `cache["resid_post", n_layers - 1]`. An attention-only model's MLP outputs are 0.
    """
    _needs_layer_norm(model)
    parts = {"embed": cache["hook_embed"], "pos_embed": cache["hook_pos_embed"].expand_as(cache["hook_embed"])}
    for layer in range(model.cfg.n_layers):
        parts[f"{layer}_attn_out"] = cache["attn_out", layer]
        parts[f"{layer}_mlp_out"] = cache["mlp_out", layer]
    return parts


def head_outputs(model: Model, cache: Cache, layer: int) -> dict[str, Float[Tensor, "batch position d_model"]]:
    """What each head of a layer adds to the stream, "2.0", "2.1", ...: its mixed values `z` times its rows of W_O.

    The last entry, "2.bias", is the bias b_O, which belongs to no head. The sum of all is the attention's output.
    """
    z = cache["z", layer]
    parts = {f"{layer}.{head}": z[:, :, head] @ model.W_O[layer, head] for head in range(model.cfg.n_heads)}
    parts[f"{layer}.bias"] = model.b_O[layer].expand_as(cache["attn_out", layer])
    return parts


def outputs_by_source(
    model: Model, cache: Cache, layer: int, head: int
) -> Float[Tensor, "batch position source d_model"]:
    """What a head adds to the stream, split by the position that it comes from: the attention paid to a source
    times the source's values through W_O. The sum over the sources is the head's output.

    Grouped-query attention, where several heads share their values, is not supported.
    """
    written = cache["v", layer][:, :, head] @ model.W_O[layer, head]
    return einsum(
        cache["pattern", layer][:, head], written, "batch pos source, batch source d_model -> batch pos source d_model"
    )


# ---- from the stream to the logits


def direct_logit_attribution(
    model: Model,
    cache: Cache,
    parts: dict[str, Float[Tensor, "batch position d_model"]],
    answers: Int[Tensor, "batch 2"],
) -> dict[str, Float[Tensor, "batch"]]:
    """What each part adds directly to the logit difference at the last position.

    The final LayerNorm is taken apart: its centring and weight act on each part, its scale is the one of this
    run, and its bias is, with the unembedding's, an entry of its own: "bias". If the parts sum to the final stream,
    the entries sum to the logit difference.
    """
    _needs_layer_norm(model)
    W_U = model.W_U.T[answers]  # batch 2 d_model
    direction = W_U[:, 0] - W_U[:, 1]
    scale = cache["ln_final.hook_scale"][:, -1]
    attribution = {}
    for name, part in parts.items():
        last = part[:, -1]
        normalised = (last - last.mean(dim=-1, keepdim=True)) / scale * model.ln_final.weight
        attribution[name] = (normalised * direction).sum(dim=-1)
    b_U = model.b_U[answers]
    attribution["bias"] = direction @ model.ln_final.bias + b_U[:, 0] - b_U[:, 1]
    return attribution


def direct_effect(
    model: Model,
    tokens: Int[Tensor, "batch position"],
    layer: int,
    head: int,
    answers: Int[Tensor, "batch 2"],
    replacement: Float[Tensor, "#batch #position d_head"] | float = 0.0,
) -> Float[Tensor, "batch"]:
    """By how much the logit difference falls if a head's output is taken out of the final stream alone.

    Everybody else still reads what the head wrote; only the final LayerNorm, whose scale is computed anew, and the
    unembedding miss it. `replacement` is what the head's mixed values become for them, as in `ablation_effect`.
    """
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens)
        removed = (cache["z", layer][:, :, head] - replacement) @ model.W_O[layer, head]
        without = model.unembed(model.ln_final(cache["resid_post", model.cfg.n_layers - 1] - removed))
    return _logit_difference(logits, answers) - _logit_difference(without, answers)


def ablation_effect(
    model: Model,
    tokens: Int[Tensor, "batch position"],
    layer: int,
    head: int,
    answers: Int[Tensor, "batch 2"],
    replacement: Float[Tensor, "#batch #position d_head"] | float = 0.0,
) -> Float[Tensor, "batch"]:
    """By how much the logit difference falls if a head is ablated at every position, for everybody downstream.

    `replacement` is what its mixed values become: 0, or for example their mean over other prompts.
    """

    def ablate(
        z: Float[Tensor, "batch position head d_head"], hook: Any
    ) -> Float[Tensor, "batch position head d_head"]:
        z = z.clone()
        z[:, :, head] = replacement
        return z

    with torch.no_grad():
        without = model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", ablate)])
        return _logit_difference(model(tokens), answers) - _logit_difference(without, answers)


def _logit_difference(
    logits: Float[Tensor, "batch position vocabulary"], answers: Int[Tensor, "batch 2"]
) -> Float[Tensor, "batch"]:
    right, wrong = logits[:, -1].gather(1, answers).unbind(dim=1)
    return right - wrong


# ---- attention scores are sums too


def attention_score_parts(
    model: Model,
    cache: Cache,
    layer: int,
    head: int,
    parts: dict[str, Float[Tensor, "batch position d_model"]],
) -> Float[Tensor, "batch query key query_part key_part"]:
    """A head's attention scores, taken apart by who wrote what the query and the key read.

    Entry [b, q, k, i, j] is what part i at position q and part j at position k contribute to the score. After the
    parts, in the order of the dict, one more entry stands for what is there whatever the stream holds: the biases of
    LayerNorm, queries and keys. If the parts sum to the stream before the layer, the sum over i and j is the score
    before masking.

    Rotary positions and grouped-query attention are not supported.
    """
    _needs_layer_norm(model)
    block = model.blocks[layer]
    stack = torch.stack(list(parts.values()), dim=2)
    stack = stack - stack.mean(dim=-1, keepdim=True)
    read = stack / cache["scale", layer, "ln1"][:, :, None] * block.ln1.weight

    def project(W: Tensor, b: Tensor) -> Float[Tensor, "batch position part d_head"]:
        constant = block.ln1.bias @ W + b
        return torch.cat([read @ W, constant.expand(*read.shape[:2], 1, -1)], dim=2)

    queries = project(model.W_Q[layer, head], model.b_Q[layer, head])
    keys = project(model.W_K[layer, head], model.b_K[layer, head])
    scores = einsum(queries, keys, "batch q i d_head, batch k j d_head -> batch q k i j")
    return scores / model.cfg.d_head**0.5


def _needs_layer_norm(model: Model) -> None:
    if model.cfg.normalization_type not in ("LN", "LNPre"):
        raise ValueError(f"this needs LayerNorm, and the model has {model.cfg.normalization_type}")
    if model.cfg.positional_embedding_type != "standard":
        raise ValueError(f"this needs absolute positions, and the model's are {model.cfg.positional_embedding_type}")
