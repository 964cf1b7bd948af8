"""The exercises of chapter 00_residual_stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from mechlib import decomposition, weights
from mechlib.checker import Case, Exercise, Mistake, Recipe
from mechlib.checker import compare as comparing
from mechlib.checker.recipes import build

CHAPTER = "00_residual_stream"
Parts = dict[str, Tensor]

# -------------------------------------------------------------------------------------------- models and prompts to try


def random_model(seed: int, **settings: Any) -> Recipe:
    """A random GPT-2: every axis has another length, and no bias or LayerNorm weight is trivial."""
    return Recipe("gpt2", {"seed": seed % 1000, **settings})


def random_tokens(seed: int, batch: int, position: int, vocabulary: int = 17) -> Tensor:
    return torch.randint(2, vocabulary, (batch, position), generator=torch.Generator().manual_seed(seed))


def random_answers(seed: int, batch: int, vocabulary: int = 17) -> Tensor:
    """Two different tokens for each prompt."""
    draws = torch.Generator().manual_seed(seed + 1)
    return torch.stack([torch.randperm(vocabulary, generator=draws)[:2] for _ in range(batch)])


def run_of(model: Recipe, tokens: Tensor) -> dict[str, Any]:
    """The inputs `model` and `cache`."""
    return {"model": model, "cache": Recipe("activations", {"model": model, "tokens": tokens})}


POCKET = Recipe("model", {"name": "pocket"})
POCKET_TOKENS = torch.tensor([[0, 312, 398, 565, 169], [0, 40, 41, 42, 43], [0, 7, 600, 3, 9]])


def setups(seed: int, layers: int = 3) -> list[tuple[Recipe, Tensor, str]]:
    """Models with tokens for them: raw, processed and attention-only weights, and a batch of one."""
    return [
        (random_model(seed, layers=layers), random_tokens(seed, 3, 7), "a random GPT-2"),
        (random_model(seed + 1, layers=layers, processed=True), random_tokens(seed + 1, 4, 6), "processed weights"),
        (
            random_model(seed + 2, layers=layers + 1, attention_only=True),
            random_tokens(seed + 2, 2, 8),
            "a model without MLPs",
        ),
        (random_model(seed, layers=layers), random_tokens(seed + 3, 1, 5), "a batch of one"),
    ]


def adds_up(parts: Callable[[Any], Tensor], whole: Callable[[], Tensor], sentence: str) -> Callable[[Any], str | None]:
    """A truth for a case: `parts(outputs)` is the whole, within 1e-4 of its largest entry."""

    def truth(outputs: Any) -> str | None:
        expected = whole()
        return None if (parts(outputs) - expected).abs().max() < 1e-4 * expected.abs().max() + 1e-5 else sentence

    return truth


def _logit_difference(logits: Tensor, answers: Tensor) -> Tensor:
    last = logits[:, -1].gather(1, answers)
    return last[:, 0] - last[:, 1]


# ---------------------------------------------------------------------------------------------------- next_token_table


def _table_cases(seed: int) -> Iterable[Case]:
    words = " ".join(f"w{i}" for i in random_tokens(seed, 1, 6)[0].tolist())
    yield Case({"model": random_model(seed), "text": words, "k": 4})
    yield Case({"model": random_model(seed + 1), "text": "w3 w9 w3", "k": 6}, note="another random model")
    yield Case({"model": random_model(seed + 1), "text": "w5", "k": 1}, note="a text of one word, and k = 1")
    yield Case({"model": random_model(seed, processed=True), "text": words, "k": 17}, note="the whole vocabulary")
    yield Case({"model": POCKET, "text": "The capital city of France is called", "k": 3}, note="pocket")
    yield Case({"model": random_model(seed + 1), "text": "w7 w4"}, note="k is left out: five tokens")


def _table(scores: Callable[[Tensor], Tensor], bos: bool = True, largest: bool = True) -> Callable:
    """A table of the `k` best scores, `scores` being a function of the logits (position vocabulary)."""

    def table(model: Any, text: str, k: int = 5) -> list[tuple[str, float]]:
        values = scores(model(model.to_tokens(text, prepend_bos=bos))[0])
        best = values.topk(k, largest=largest)
        return [(model.tokenizer.decode([i]), v) for i, v in zip(best.indices.tolist(), best.values.tolist())]

    return table


def _loop_table(model: Any, text: str, k: int = 5) -> list[tuple[str, float]]:
    exponentials = model(model.to_tokens(text))[:, -1].squeeze(0).double().exp()
    rows = [(model.to_string(token), float(value / exponentials.sum())) for token, value in enumerate(exponentials)]
    return sorted(rows, key=lambda row: -row[1])[:k]


def _ids_table(model: Any, text: str, k: int = 5) -> list[tuple[int, float]]:
    best = model(model.to_tokens(text))[0, -1].softmax(dim=-1).topk(k)
    return list(zip(best.indices.tolist(), best.values.tolist()))


NEXT_TOKEN_TABLE = Exercise(
    id="residual_stream.next_token_table",
    chapter=CHAPTER,
    title="What does the model expect next?",
    points=1,
    minutes=5,
    difficulty=1,
    reference=decomposition.next_token_table,
    cases=_table_cases,
    mistakes=[
        Mistake(
            "logits",
            _table(lambda logits: logits[-1]),
            "These are logits. A softmax over the vocabulary makes probabilities of them.",
        ),
        Mistake(
            "log_probabilities",
            _table(lambda logits: logits[-1].log_softmax(dim=-1)),
            "These are log-probabilities: use softmax, not log_softmax.",
        ),
        Mistake(
            "softmax_twice",
            _table(lambda logits: logits[-1].softmax(dim=-1).softmax(dim=-1)),
            "The softmax is taken twice, which makes all probabilities nearly equal. Once is enough.",
        ),
        Mistake(
            "first_position",
            _table(lambda logits: logits[0].softmax(dim=-1)),
            "This is what the model expects after the first token, `<bos>`. The logits at the last position say what comes after the text.",
        ),
        Mistake(
            "second_last_position",
            _table(lambda logits: logits[max(len(logits) - 2, 0)].softmax(dim=-1)),
            "This is the position before the last: the logits at a position are already about the *next* token, so take the last one.",
        ),
        Mistake(
            "over_positions",
            _table(lambda logits: logits.softmax(dim=0)[-1]),
            "This softmax runs over the positions. It should run over the vocabulary, the last axis.",
        ),
        Mistake(
            "mean_over_positions",
            _table(lambda logits: logits.softmax(dim=-1).mean(dim=0)),
            "This averages over all positions. Only the last one knows the whole text.",
        ),
        Mistake(
            "no_bos",
            _table(lambda logits: logits[-1].softmax(dim=-1), bos=False),
            "The text went in without `<bos>`, the token that every text of these models begins with: model.to_tokens(text) puts it there.",
        ),
        Mistake(
            "least_likely",
            _table(lambda logits: logits[-1].softmax(dim=-1), largest=False),
            "These are the least likely tokens: sort from the largest down.",
        ),
        Mistake(
            "likeliest_last",
            lambda model, text, k=5: _table(lambda logits: logits[-1].softmax(dim=-1))(model, text, k)[::-1],
            "These are the right tokens, but the likeliest comes last. Put it first.",
        ),
        Mistake(
            "always_five",
            lambda model, text, k=5: _table(lambda logits: logits[-1].softmax(dim=-1))(model, text, 5),
            "These are five tokens, whatever `k` says: topk(k).",
        ),
        Mistake(
            "renormalised",
            lambda model, text, k=5: _renormalised(model, text, k),
            "These probabilities sum to 1 over the k tokens shown. Take the softmax over the whole vocabulary first, and pick then.",
        ),
        Mistake(
            "token_ids",
            _ids_table,
            "The first entry of each pair is the token's number. model.tokenizer.decode([number]) makes a word of it.",
        ),
    ],
    equivalents=[
        _table(lambda logits: logits[-1].softmax(dim=-1)),
        _table(lambda logits: logits[-1].log_softmax(dim=-1).exp()),
        _loop_table,
    ],
    hints=[
        "model(tokens) gives logits of shape (batch, position, vocabulary). Which position has seen the whole text?",
        "Take the logits of the only prompt at the last position, a softmax over the vocabulary, and topk.",
        "best = model(model.to_tokens(text))[0, -1].softmax(dim=-1).topk(k), then a list of (model.tokenizer.decode([i]), p) over best.indices and best.values.",
    ],
)


def _renormalised(model: Any, text: str, k: int) -> list[tuple[str, float]]:
    best = model(model.to_tokens(text))[0, -1].topk(k)
    shares = best.values.softmax(dim=-1)
    return [(model.tokenizer.decode([i]), v) for i, v in zip(best.indices.tolist(), shares.tolist())]


# ------------------------------------------------------------------------------------------------------ get_activation


def _activation_cases(seed: int) -> Iterable[Case]:
    raw, tokens = random_model(seed), random_tokens(seed, 3, 7)
    yield Case({"model": raw, "tokens": tokens, "name": "blocks.1.hook_resid_pre"})
    yield Case({"model": raw, "tokens": tokens, "name": "blocks.2.attn.hook_pattern"}, note="an attention pattern")
    yield Case({"model": raw, "tokens": tokens[:1], "name": "blocks.2.attn.hook_z"}, note="a batch of one")
    yield Case({"model": raw, "tokens": tokens, "name": "ln_final.hook_scale"}, note="the last LayerNorm's scale")
    yield Case({"model": random_model(seed, processed=True), "tokens": tokens, "name": "blocks.1.mlp.hook_post"})
    yield Case({"model": POCKET, "tokens": POCKET_TOKENS, "name": "blocks.3.hook_resid_post"}, note="pocket")


def _reading(change: Callable[[Tensor], Tensor]) -> Callable:
    """Reads what it is asked for, and changes it on the way out."""

    def read(model: Any, tokens: Tensor, name: str) -> Tensor:
        return change(model.run_with_cache(tokens)[1][name])

    return read


def _add_and_remove(model: Any, tokens: Tensor, name: str) -> Tensor:
    seen: dict[str, Any] = {}
    with model.hooks(fwd_hooks=[(name, lambda activation, hook: seen.update(it=activation.detach()))]):
        model(tokens)
    return seen["it"]


def _hook_left(model: Any, tokens: Tensor, name: str) -> Tensor:
    seen: dict[str, Any] = {}
    model.add_hook(name, lambda activation, hook: seen.update(it=activation.detach()))
    model(tokens)
    return seen["it"]


def _notebook_get_activation(model: Any, tokens: Tensor, name: str) -> Tensor:
    kept = {}

    def keep(activation: Tensor, hook: Any) -> None:
        kept["activation"] = activation

    model.run_with_hooks(tokens, fwd_hooks=[(name, keep)])
    return kept["activation"]


GET_ACTIVATION = Exercise(
    id="residual_stream.get_activation",
    chapter=CHAPTER,
    title="Read what is inside",
    points=1,
    minutes=10,
    difficulty=1,
    reference=decomposition.get_activation,
    cases=_activation_cases,
    mistakes=[
        Mistake(
            "logits",
            lambda model, tokens, name: model(tokens),
            "These are the model's logits, which run_with_hooks returns. The activation is what your hook was given: let it put that where you find it afterwards.",
        ),
        Mistake(
            "hook_stays",
            _hook_left,
            "The activation is right, but the hook stays on the model, and every later run would call it. Use model.run_with_hooks(...), which takes its hooks away again.",
        ),
        Mistake(
            "last_position",
            _reading(lambda activation: activation[:, -1]),
            "This keeps only one position. Return the activation whole, as the hook sees it.",
        ),
        Mistake(
            "first_prompt",
            _reading(lambda activation: activation[0]),
            "This is the first prompt alone. Keep the batch axis.",
        ),
        Mistake(
            "mean_over_prompts",
            _reading(lambda activation: activation.mean(dim=0)),
            "This averages over the prompts. Return the activation as it is.",
        ),
        Mistake(
            "first_layer",
            lambda model, tokens, name: model.run_with_cache(tokens)[1][_first_block(name)],
            "This reads the first block whatever `name` says. Hand the name on as it is.",
        ),
        Mistake(
            "without_bos",
            lambda model, tokens, name: model.run_with_cache(tokens[:, 1:])[1][name],
            "This drops the first token before running the model. Hand the tokens on as they are.",
        ),
    ],
    equivalents=[_notebook_get_activation, _add_and_remove, _reading(lambda activation: activation)],
    hints=[
        "A hook is a function of (activation, hook) that the model calls when it comes by. It may keep what it sees.",
        "Define the hook inside your function, let it store the activation in a dict or list that is outside of it, and run the model with it.",
        'kept = {}; def keep(activation, hook): kept["it"] = activation; model.run_with_hooks(tokens, fwd_hooks=[(name, keep)]); return kept["it"]',
    ],
)


def _first_block(name: str) -> str:
    block, number, *rest = name.split(".")
    return ".".join([block, "0", *rest]) if block == "blocks" else name


# ------------------------------------------------------------------------------------------------- residual_components


def _component_cases(seed: int) -> Iterable[Case]:
    for model, tokens, note in [*setups(seed, layers=5), (POCKET, POCKET_TOKENS, "pocket")]:
        yield Case(
            run_of(model, tokens),
            note=note,
            truth=adds_up(
                lambda outputs: sum(outputs.values(), torch.zeros(())),
                lambda model=model, tokens=tokens: _cache(model, tokens)["resid_post", -1],  # type: ignore[misc]
                "The parts should add up to the final residual stream.",
            ),
        )


def _cache(model: Recipe, tokens: Tensor) -> Any:
    return build({"cache": Recipe("activations", {"model": model, "tokens": tokens})})["cache"]


def _components(
    positions: bool = True,
    layers: Callable[[Any], int] = lambda model: model.cfg.n_layers,
    attention: Callable[[Any, Any, int], Tensor] = lambda model, cache, layer: cache["attn_out", layer],
    mlp: Callable[[Any, Any, int], Tensor] = lambda model, cache, layer: cache["mlp_out", layer],
    embed: Callable[[Any, Any], Tensor] = lambda model, cache: cache["hook_embed"],
) -> Callable[[Any, Any], Parts]:
    """The components, with one of them read in another way."""

    def components(model: Any, cache: Any) -> Parts:
        parts = {"embed": embed(model, cache)}
        if positions:
            parts["pos_embed"] = cache["hook_pos_embed"]
        for layer in range(layers(model)):
            parts[f"{layer}_attn_out"] = attention(model, cache, layer)
            parts[f"{layer}_mlp_out"] = mlp(model, cache, layer)
        return parts

    return components


def _zero_positions(model: Any, cache: Any) -> Parts:
    parts = _components()(model, cache)
    return {**parts, "pos_embed": torch.zeros_like(parts["pos_embed"])}


def _swapped_positions(model: Any, cache: Any) -> Parts:
    parts = _components()(model, cache)
    return {**parts, "pos_embed": parts["pos_embed"].flip(dims=[1])}


def _as_differences(model: Any, cache: Any) -> Parts:
    """What each component wrote, as the stream after it less the stream before it."""
    embed = cache["hook_embed"]
    parts = {"embed": embed, "pos_embed": cache["resid_pre", 0] - embed}
    for layer in range(model.cfg.n_layers):
        attention = cache["attn_out", layer]
        parts[f"{layer}_attn_out"] = attention
        parts[f"{layer}_mlp_out"] = cache["resid_post", layer] - cache["resid_pre", layer] - attention
    return parts


def _from_decompose_resid(model: Any, cache: Any) -> Parts:
    stack, labels = cache.decompose_resid(return_labels=True)
    return dict(zip(labels, stack))


RESIDUAL_COMPONENTS = Exercise(
    id="residual_stream.residual_components",
    chapter=CHAPTER,
    title="Who wrote what?",
    points=2,
    minutes=15,
    difficulty=2,
    reference=decomposition.residual_components,
    cases=_component_cases,
    mistakes=[
        Mistake(
            "no_positions",
            _components(positions=False),
            "The positions are missing: besides the token's embedding, the stream starts with the position's, cache[\"hook_pos_embed\"].",
        ),
        Mistake(
            "positions_are_zero",
            _zero_positions,
            "Your positions are all zero. Every position has a vector of its own, added to the token's embedding.",
        ),
        Mistake(
            "positions_reversed",
            _swapped_positions,
            "The position vectors are in the wrong order: position 0 comes first.",
        ),
        Mistake(
            "positions_in_embed_too",
            _components(embed=lambda model, cache: cache["resid_pre", 0]),
            "Your `embed` is the whole stream before the first block, which holds the positions already: they are counted twice.",
        ),
        Mistake(
            "attention_without_bias",
            _components(
                attention=lambda model, cache, layer: torch.einsum("bphd,hdm->bpm", cache["z", layer], model.W_O[layer])
            ),
            "The attention outputs lack their bias b_O: the heads alone are not all that a layer's attention writes.",
        ),
        Mistake(
            "mlp_without_bias",
            _components(mlp=lambda model, cache, layer: cache["post", layer] @ model.W_out[layer]),
            "The MLP outputs lack their bias b_out: the neurons alone are not all that an MLP writes.",
        ),
        Mistake(
            "streams",
            _components(
                attention=lambda model, cache, layer: cache["resid_pre", layer] + cache["attn_out", layer],
                mlp=lambda model, cache, layer: cache["resid_post", layer],
            ),
            "These are the stream after each component: everything so far. Asked for is what each one *adds*.",
        ),
        Mistake(
            "stream_after_the_mlp",
            _components(mlp=lambda model, cache, layer: cache["resid_post", layer]),
            'Your MLP entries are the whole stream after the MLP. What the MLP itself adds is at cache["mlp_out", layer].',
        ),
        Mistake(
            "read_not_written",
            _components(
                attention=lambda model, cache, layer: cache["normalized", layer, "ln1"],
                mlp=lambda model, cache, layer: cache["normalized", layer, "ln2"],
            ),
            'These are what the components read (after LayerNorm). What they write is at "attn_out" and "mlp_out".',
        ),
        Mistake(
            "no_mlps",
            lambda model, cache: {k: v for k, v in _components()(model, cache).items() if "mlp" not in k},
            "The MLPs are missing. Each layer writes twice: its attention, then its MLP.",
        ),
        Mistake(
            "four_layers",
            _components(layers=lambda model: 4),
            "This stops after four layers. How many there are is in model.cfg.n_layers.",
        ),
    ],
    equivalents=[_components(), _as_differences, _from_decompose_resid],
    hints=[
        "Print list(cache.keys()) and look for hooks that end in embed, attn_out, mlp_out.",
        'Start with cache["hook_embed"] and cache["hook_pos_embed"]; then, for each layer, cache["attn_out", layer] and cache["mlp_out", layer].',
        'for layer in range(model.cfg.n_layers): parts[f"{layer}_attn_out"] = cache["attn_out", layer], and so on; return the dict.',
    ],
)

# -------------------------------------------------------------------------------------------------------- head_outputs


def _head_cases(seed: int) -> Iterable[Case]:
    for i, (model, tokens, note) in enumerate(setups(seed)):
        layer = (1, 2, 0, 1)[i]
        yield Case(
            {**run_of(model, tokens), "layer": layer},
            note=note,
            truth=adds_up(
                lambda outputs: sum(outputs.values(), torch.zeros(())),
                lambda model=model, tokens=tokens, layer=layer: _cache(model, tokens)["attn_out", layer],  # type: ignore[misc]
                "The heads and the bias should add up to the attention's output.",
            ),
        )


def _heads(
    one: Callable[[Any, Any, int, int], Tensor], bias: Callable[[Any, Any, int], Tensor | None]
) -> Callable[[Any, Any, int], Parts]:
    """The dict of exercise `head_outputs` from a function for one head and one for the bias."""

    def heads(model: Any, cache: Any, layer: int) -> Parts:
        parts = {f"{layer}.{head}": one(model, cache, layer, head) for head in range(model.cfg.n_heads)}
        constant = bias(model, cache, layer)
        return parts if constant is None else {**parts, f"{layer}.bias": constant}

    return heads


def _head(model: Any, cache: Any, layer: int, head: int) -> Tensor:
    return cache["z", layer][:, :, head] @ model.W_O[layer, head]


def _b_O(model: Any, cache: Any, layer: int) -> Tensor:
    return model.b_O[layer].expand_as(cache["attn_out", layer])


def _rotated_heads(model: Any, cache: Any, layer: int, head: int) -> Tensor:
    return cache["z", layer][:, :, head] @ model.W_O[layer, (head + 1) % model.cfg.n_heads]


def _notebook_head_outputs(model: Any, cache: Any, layer: int) -> Parts:
    written = torch.einsum("bphd,hdm->hbpm", cache["z", layer], model.W_O[layer])
    parts = {f"{layer}.{head}": output for head, output in enumerate(written)}
    parts[f"{layer}.bias"] = model.b_O[layer].expand_as(written[0])
    return parts


def _by_rest(model: Any, cache: Any, layer: int) -> Parts:
    parts = _heads(_head, lambda *_: None)(model, cache, layer)
    return {**parts, f"{layer}.bias": cache["attn_out", layer] - sum(parts.values())}


def _by_source_positions(model: Any, cache: Any, layer: int) -> Parts:
    written = {
        f"{layer}.{head}": cache["pattern", layer][:, head] @ (cache["v", layer][:, :, head] @ model.W_O[layer, head])
        for head in range(model.cfg.n_heads)
    }
    return {**written, f"{layer}.bias": torch.zeros_like(cache["attn_out", layer]) + model.b_O[layer]}


HEAD_OUTPUTS = Exercise(
    id="residual_stream.head_outputs",
    chapter=CHAPTER,
    title="Head by head",
    points=2,
    minutes=15,
    difficulty=2,
    reference=decomposition.head_outputs,
    cases=_head_cases,
    mistakes=[
        Mistake(
            "no_bias",
            _heads(_head, lambda *_: None),
            "b_O is missing. The heads alone do not add up to the attention's output: give the bias an entry of its own.",
        ),
        Mistake(
            "bias_is_zero",
            _heads(_head, lambda model, cache, layer: torch.zeros_like(cache["attn_out", layer])),
            "Your bias is all zeros. The layer's output bias is model.b_O[layer].",
        ),
        Mistake(
            "bias_in_every_head",
            _heads(lambda *a: _head(*a) + a[0].b_O[a[2]], _b_O),
            "Here every head has b_O inside it, so the sum counts it several times. It belongs to no head.",
        ),
        Mistake(
            "bias_shared_out",
            _heads(lambda *a: _head(*a) + a[0].b_O[a[2]] / a[0].cfg.n_heads, lambda *_: None),
            "Here the heads share b_O in equal parts. It belongs to none of them: give it an entry of its own.",
        ),
        Mistake(
            "bias_shared_out_and_zero",
            _heads(
                lambda *a: _head(*a) + a[0].b_O[a[2]] / a[0].cfg.n_heads,
                lambda model, cache, layer: torch.zeros_like(cache["attn_out", layer]),
            ),
            "The heads share b_O here, and nothing is left for the entry of the bias. It belongs there, whole.",
        ),
        Mistake(
            "another_layers_bias",
            _heads(_head, lambda model, cache, layer: model.b_O[layer - 1].expand_as(cache["attn_out", layer])),
            "This is the bias of another layer: take model.b_O[layer].",
        ),
        Mistake(
            "mlp_bias",
            _heads(_head, lambda model, cache, layer: model.b_out[layer].expand_as(cache["attn_out", layer])),
            "b_out is the MLP's bias. The attention's is b_O.",
        ),
        Mistake(
            "another_heads_rows",
            _heads(_rotated_heads, _b_O),
            "The values of one head meet the rows of W_O of another: use the same head in z and in W_O.",
        ),
        Mistake(
            "another_layers_W_O",
            _heads(lambda model, cache, layer, head: cache["z", layer][:, :, head] @ model.W_O[layer - 1, head], _b_O),
            "W_O comes from another layer: take model.W_O[layer, head].",
        ),
        Mistake(
            "W_O_of_layer_0",
            _heads(lambda model, cache, layer, head: cache["z", layer][:, :, head] @ model.W_O[0, head], _b_O),
            "W_O is layer 0's, whatever `layer` says: take model.W_O[layer, head].",
        ),
        Mistake(
            "a_position",
            _heads(lambda model, cache, layer, head: cache["z", layer][:, head] @ model.W_O[layer, head], _b_O),
            'z[:, head] is a position. The axes of cache["z", layer] are batch, position, head, d_head: take z[:, :, head].',
        ),
        Mistake(
            "values_not_mixed",
            _heads(lambda model, cache, layer, head: cache["v", layer][:, :, head] @ model.W_O[layer, head], _b_O),
            'These are the values before attention has mixed them (hook_v). What W_O multiplies is cache["z", layer].',
        ),
        Mistake(
            "before_W_O",
            _heads(lambda model, cache, layer, head: cache["z", layer][:, :, head], _b_O),
            "These are the heads' mixed values, of size d_head. W_O takes them into the residual stream: multiply.",
        ),
    ],
    equivalents=[_notebook_head_outputs, _heads(_head, _b_O), _by_rest, _by_source_positions],
    hints=[
        'cache["z", layer] has shape (batch, position, head, d_head): what each head collected. How does it get into the stream?',
        "model.W_O[layer, head], of shape (d_head, d_model), is the head's own part of the output matrix. model.b_O[layer] is nobody's.",
        'parts[f"{layer}.{head}"] = cache["z", layer][:, :, head] @ model.W_O[layer, head]; and f"{layer}.bias" is model.b_O[layer], expanded to the same shape.',
    ],
)

# --------------------------------------------------------------------------------------------- direct_logit_attribution


def _parts_of(model: Recipe, tokens: Tensor, heads_of: int | None = None) -> Parts:
    """The true parts of a run, as data; one layer's attention split into heads, if asked for."""
    built = build(run_of(model, tokens))
    parts = _components()(built["model"], built["cache"])
    if heads_of is not None:
        del parts[f"{heads_of}_attn_out"]
        parts |= _heads(_head, _b_O)(built["model"], built["cache"], heads_of)
    return {name: part.contiguous() for name, part in parts.items()}


def _attribution_cases(seed: int) -> Iterable[Case]:
    for i, (model, tokens, note) in enumerate([*setups(seed), (POCKET, POCKET_TOKENS, "pocket")]):
        answers = random_answers(seed + i, len(tokens))
        yield Case(
            {**run_of(model, tokens), "parts": _parts_of(model, tokens, heads_of=1 if i else None), "answers": answers},
            note=note,
            truth=adds_up(
                lambda outputs: sum(outputs.values(), torch.zeros(())),
                lambda model=model, tokens=tokens, answers=answers: _logit_difference(  # type: ignore[misc]
                    build({"m": model})["m"](tokens), answers
                ),
                "The attributions, the bias among them, should add up to the model's logit difference.",
            ),
        )
    model, tokens = random_model(seed + 9, processed=True), random_tokens(seed, 2, 4)
    few = {"b": _parts_of(model, tokens)["1_mlp_out"], "a": _parts_of(model, tokens)["embed"]}
    yield Case(
        {**run_of(model, tokens), "parts": few, "answers": random_answers(seed, 2)},
        note="only two parts, and processed weights (whose b_U is not zero)",
    )


Vector = Callable[[Any, Any, Tensor], Tensor]


def _attribution(
    normalise: Callable[[Any, Any, Tensor], Tensor] | None = None,
    bias: Callable[[Any, Tensor, Tensor], Tensor | None] | None = None,
    position: int = -1,
    direction: Callable[[Any, Tensor], Tensor] | None = None,
) -> Callable[[Any, Any, Parts, Tensor], Parts]:
    """Direct logit attribution with one of its steps done in another way."""

    def attribute(model: Any, cache: Any, parts: Parts, answers: Tensor) -> Parts:
        toward = direction(model, answers) if direction else _toward(model, answers)
        normal = normalise or _normal
        result = {
            name: (normal(model, cache["ln_final.hook_scale"], part)[:, position] * toward).sum(dim=-1)
            for name, part in parts.items()
        }
        constant = (bias or _constant)(model, answers, toward)
        return result if constant is None else {**result, "bias": constant}

    return attribute


def _toward(model: Any, answers: Tensor) -> Tensor:
    return model.W_U[:, answers[:, 0]].T - model.W_U[:, answers[:, 1]].T


def _normal(model: Any, scale: Tensor, part: Tensor) -> Tensor:
    return (part - part.mean(dim=-1, keepdim=True)) / scale * model.ln_final.weight


def _own_scale(model: Any, scale: Tensor, part: Tensor) -> Tensor:
    centred = part - part.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + model.cfg.eps).sqrt() * model.ln_final.weight


def _constant(model: Any, answers: Tensor, toward: Tensor) -> Tensor:
    return toward @ model.ln_final.bias + _b_U(model, answers, toward)


def _b_U(model: Any, answers: Tensor, toward: Tensor) -> Tensor:
    return model.b_U[answers[:, 0]] - model.b_U[answers[:, 1]]


def _first_scale(model: Any, scale: Tensor, part: Tensor) -> Tensor:
    return _normal(model, scale[:, :1], part)


def _per_prompt_attribution(model: Any, cache: Any, parts: Parts, answers: Tensor) -> Parts:
    result: dict[str, list[Tensor]] = {name: [] for name in [*parts, "bias"]}
    for b, (right, wrong) in enumerate(answers.tolist()):
        direction = model.ln_final.weight * (model.W_U[:, right] - model.W_U[:, wrong])
        direction = (direction - direction.mean()) / cache["ln_final.hook_scale"][b, -1]
        for name, part in parts.items():
            result[name].append(part[b, -1] @ direction)
        constant = model.ln_final.bias @ (model.W_U[:, right] - model.W_U[:, wrong])
        result["bias"].append(constant + model.b_U[right] - model.b_U[wrong])
    return {name: torch.stack(values) for name, values in result.items()}


def _through_all_logits(model: Any, cache: Any, parts: Parts, answers: Tensor) -> Parts:
    """Every part through the whole unembedding, and the two columns picked afterwards."""

    def difference(logits: Tensor) -> Tensor:
        return logits.gather(1, answers) @ torch.tensor([1.0, -1.0])

    scale = cache["ln_final.hook_scale"]
    result = {name: difference(_normal(model, scale, part)[:, -1] @ model.W_U) for name, part in parts.items()}
    return {**result, "bias": difference((model.ln_final.bias @ model.W_U + model.b_U).expand(len(answers), -1))}


DIRECT_LOGIT_ATTRIBUTION = Exercise(
    id="residual_stream.direct_logit_attribution",
    chapter=CHAPTER,
    title="From the sum to the logits",
    points=3,
    minutes=25,
    difficulty=3,
    reference=decomposition.direct_logit_attribution,
    cases=_attribution_cases,
    mistakes=[
        Mistake(
            "no_weight",
            _attribution(lambda model, scale, part: (part - part.mean(dim=-1, keepdim=True)) / scale),
            "The final LayerNorm's weight is missing: after the division it multiplies every dimension by model.ln_final.weight.",
        ),
        Mistake(
            "no_layer_norm_bias",
            _attribution(bias=_b_U),
            "Your bias lacks the final LayerNorm's: model.ln_final.bias goes through the unembedding too.",
        ),
        Mistake(
            "no_b_U",
            _attribution(bias=lambda model, answers, toward: toward @ model.ln_final.bias),
            "Your bias lacks the unembedding's own, model.b_U. In raw GPT-2 weights it is zero; in processed ones it is not.",
        ),
        Mistake(
            "no_bias",
            _attribution(bias=lambda *_: None),
            'The entry "bias" is missing: what the final LayerNorm\'s bias and b_U add belongs to no part, and without it the sum is not the logit difference.',
        ),
        Mistake(
            "bias_is_zero",
            _attribution(bias=lambda model, answers, toward: torch.zeros(len(answers))),
            "Your bias is zero. The final LayerNorm's bias, through the unembedding, and b_U belong there.",
        ),
        Mistake(
            "no_scale",
            _attribution(lambda model, scale, part: _normal(model, torch.ones_like(scale), part)),
            'The final LayerNorm\'s scale is missing: divide by cache["ln_final.hook_scale"].',
        ),
        Mistake(
            "no_layer_norm",
            _attribution(lambda model, scale, part: part),
            "The parts go straight into the unembedding here. The final LayerNorm comes first: centre, divide by its scale, multiply by its weight.",
        ),
        Mistake(
            "own_scale",
            _attribution(_own_scale),
            "Here every part is divided by a scale of its own, so the parts cannot add up. The LayerNorm divides the whole "
            'stream once: use the scale of this run, cache["ln_final.hook_scale"].',
        ),
        Mistake(
            "whole_layer_norm_on_each_part",
            _attribution(lambda model, scale, part: _own_scale(model, scale, part) + model.ln_final.bias),
            "This sends every part through the whole of ln_final, with a scale of its own and the bias each time. Take the LayerNorm apart: "
            "centring and weight for each part, the scale of this run, the bias once.",
        ),
        Mistake(
            "bias_in_every_part",
            _attribution(lambda model, scale, part: _normal(model, scale, part) + model.ln_final.bias),
            "Here every part carries the LayerNorm's bias, so the sum counts it many times. It belongs in the entry of its own.",
        ),
        Mistake(
            "not_centred",
            _attribution(lambda model, scale, part: part / scale * model.ln_final.weight),
            "The centring is missing: LayerNorm takes each vector's mean over d_model away before it divides.",
        ),
        Mistake(
            "swapped",
            _attribution(direction=lambda model, answers: -_toward(model, answers), bias=lambda *a: -_swapped_bias(*a)),
            "The sign is turned: it is the right token (answers[:, 0]) less the wrong one (answers[:, 1]).",
        ),
        Mistake(
            "right_token_alone",
            _attribution(
                direction=lambda model, answers: model.W_U[:, answers[:, 0]].T,
                bias=lambda model, answers, toward: toward @ model.ln_final.bias + model.b_U[answers[:, 0]],
            ),
            "This is the attribution to the right token's logit alone. Subtract the wrong one's.",
        ),
        Mistake(
            "first_position",
            _attribution(position=0),
            "These are the parts at the first position. The next token is predicted at the last one.",
        ),
        Mistake(
            "scale_of_the_first_position",
            _attribution(_first_scale),
            "The scale is the first position's. Each position has its own: take the last one's.",
        ),
        Mistake(
            "scale_averaged",
            _attribution(lambda model, scale, part: _normal(model, scale.mean(dim=0, keepdim=True), part)),
            "The scale is averaged over the prompts. Every prompt has its own.",
        ),
    ],
    equivalents=[_attribution(), _per_prompt_attribution, _through_all_logits],
    hints=[
        "Logits are ln_final(stream) @ W_U + b_U. Everything in LayerNorm but the scale is linear, and you have the scale: it is in the cache.",
        "Each part: centre it, divide by the scale of the last position, multiply by ln_final.weight, and take the dot product with W_U[:, right] - W_U[:, wrong]. What is left over is one constant a prompt.",
        "toward = model.W_U.T[answers[:, 0]] - model.W_U.T[answers[:, 1]]; a part gives ((last - last.mean(-1, keepdim=True)) / scale * model.ln_final.weight * toward).sum(-1); "
        "the bias is toward @ model.ln_final.bias plus the difference of model.b_U.",
    ],
)


def _swapped_bias(model: Any, answers: Tensor, toward: Tensor) -> Tensor:
    """The bias for a direction that points from right to wrong: its negative is what a swapped answer has."""
    return -(toward @ model.ln_final.bias) + _b_U(model, answers, toward)


# -------------------------------------------------------------------------------------- direct_effect, ablation_effect


def _effect_cases(seed: int) -> Iterable[Case]:
    for i, (model, tokens, note) in enumerate(setups(seed)):
        layer, head = (1, 0, 2, 1)[i], (1, 0, 1, 0)[i]
        draws = torch.Generator().manual_seed(seed + i)
        mean = 0.3 * torch.randn(1, tokens.shape[1], 5, generator=draws)
        inputs = {"model": model, "tokens": tokens, "layer": layer, "head": head}
        inputs["answers"] = random_answers(seed + i, len(tokens))
        if i in (1, 3):
            yield Case({**inputs, "replacement": mean}, note=f"{note}, and a replacement that is not zero")
        else:  # 0.0 is the default
            yield Case(inputs if i else {**inputs, "replacement": 0.0}, note=note)
    words = {"model": Recipe("handmade", {"name": "indirect"}), "tokens": torch.tensor([[0, 3, 4]])}
    for head in (0, 1):
        yield Case(
            {**words, "layer": 0, "head": head, "answers": torch.tensor([[6, 5]]), "replacement": 0.0},
            note="a model written by hand, in which one head acts only indirectly and another only seems to act",
        )


Effect = Callable[..., Tensor]


def _direct(
    stream: Callable[[Any, Any, int, int, Tensor], Tensor] | None = None,
    effect: Callable[[Tensor, Tensor], Tensor] = lambda before, after: before - after,
    keep_replacement: bool = True,
    measure: Callable[[Tensor, Tensor], Tensor] = _logit_difference,
    frozen: bool = False,
    normalise: bool = True,
    sign: float = 1.0,
) -> Effect:
    """`direct_effect` with one of its steps done in another way; `stream` is (model, cache, layer, head, output)."""

    def answer(model: Any, tokens: Tensor, layer: int, head: int, answers: Tensor, replacement: Any = 0.0) -> Tensor:
        logits, cache = model.run_with_cache(tokens)
        z = cache["z", layer][:, :, head] - (sign * replacement if keep_replacement else 0.0)
        output = z @ model.W_O[layer, head]
        final = cache["resid_post", model.cfg.n_layers - 1]
        changed = stream(model, cache, layer, head, output) if stream else final - output
        if frozen:
            normal = _normal(model, cache["ln_final.hook_scale"], changed) + model.ln_final.bias
        else:
            normal = model.ln_final(changed) if normalise else changed
        return effect(measure(logits, answers), measure(normal @ model.W_U + model.b_U, answers))

    return answer


def _final(cache: Any, model: Any) -> Tensor:
    return cache["resid_post", model.cfg.n_layers - 1]


def _ablation(
    edit: Callable[[Tensor, int, Any], None] | None = None,
    effect: Callable[[Tensor, Tensor], Tensor] = lambda before, after: before - after,
    measure: Callable[[Tensor, Tensor], Tensor] = _logit_difference,
    name: str = "blocks.{}.attn.hook_z",
) -> Effect:
    """`ablation_effect` with one of its steps done in another way; `edit` changes z in place."""

    def answer(model: Any, tokens: Tensor, layer: int, head: int, answers: Tensor, replacement: Any = 0.0) -> Tensor:
        def ablate(z: Tensor, hook: Any) -> Tensor:
            z = z.clone()
            (edit or _replace)(z, head, replacement)
            return z

        without = model.run_with_hooks(tokens, fwd_hooks=[(name.format(layer), ablate)])
        return effect(measure(model(tokens), answers), measure(without, answers))

    return answer


def _replace(z: Tensor, head: int, replacement: Any) -> None:
    z[:, :, head] = replacement


def _zero_head(z: Tensor, head: int, replacement: Any) -> None:
    z[:, :, head] = 0.0


def _replace_last(z: Tensor, head: int, replacement: Any) -> None:
    z[:, -1, head] = replacement[:, -1] if isinstance(replacement, Tensor) else replacement


def _replace_others(z: Tensor, head: int, replacement: Any) -> None:
    mine = z[:, :, head].clone()
    z[:] = replacement[:, :, None] if isinstance(replacement, Tensor) else replacement
    z[:, :, head] = mine


def _replace_all(z: Tensor, head: int, replacement: Any) -> None:
    z[:] = replacement[:, :, None] if isinstance(replacement, Tensor) else replacement


def _add(z: Tensor, head: int, replacement: Any) -> None:
    z[:, :, head] += replacement


def _replace_position(z: Tensor, head: int, replacement: Any) -> None:
    z[:, head] = replacement[:, head, None] if isinstance(replacement, Tensor) else replacement


def _mean_over_prompts(before: Tensor, after: Tensor) -> Tensor:
    return (before - after).mean().expand_as(before)


def _right_logit(logits: Tensor, answers: Tensor) -> Tensor:
    return logits[:, -1].gather(1, answers)[:, 0]


def _first_logit_difference(logits: Tensor, answers: Tensor) -> Tensor:
    first = logits[:, 0].gather(1, answers)
    return first[:, 0] - first[:, 1]


def _log_probabilities(logits: Tensor, answers: Tensor) -> Tensor:
    return logits[:, -1].log_softmax(dim=-1).gather(1, answers)[:, 0]


def _probabilities(logits: Tensor, answers: Tensor) -> Tensor:
    return _logit_difference(logits.softmax(dim=-1), answers)


def _by_final_hook(
    model: Any, tokens: Tensor, layer: int, head: int, answers: Tensor, replacement: Any = 0.0
) -> Tensor:
    """The head's output, taken out by a hook on the last block's output in a run of its own."""
    kept = {}

    def remember(z: Tensor, hook: Any) -> None:
        kept["output"] = (z[:, :, head] - replacement) @ model.W_O[layer, head]

    def remove(stream: Tensor, hook: Any) -> Tensor:
        return stream - kept["output"]

    hooks = [(f"blocks.{layer}.attn.hook_z", remember), (f"blocks.{model.cfg.n_layers - 1}.hook_resid_post", remove)]
    return _logit_difference(model(tokens), answers) - _logit_difference(
        model.run_with_hooks(tokens, fwd_hooks=hooks), answers
    )


def _by_stream_sums(
    model: Any, tokens: Tensor, layer: int, head: int, answers: Tensor, replacement: Any = 0.0
) -> Tensor:
    logits, cache = model.run_with_cache(tokens)
    z = cache["z", layer].clone()
    z[:, :, head] = replacement
    attention = torch.einsum("bphd,hdm->bpm", z, model.W_O[layer]) + model.b_O[layer]
    last = (_final(cache, model) - cache["attn_out", layer] + attention)[:, -1:]
    return _logit_difference(logits, answers) - _logit_difference(model.unembed(model.ln_final(last)), answers)


def _ablation_by_output(
    model: Any, tokens: Tensor, layer: int, head: int, answers: Tensor, replacement: Any = 0.0
) -> Tensor:
    """Ablates by taking the head's output from the attention's output."""
    kept = {}

    def remember(z: Tensor, hook: Any) -> None:
        kept["output"] = (z[:, :, head] - replacement) @ model.W_O[layer, head]

    def remove(attention: Tensor, hook: Any) -> Tensor:
        return attention - kept["output"]

    hooks = [(f"blocks.{layer}.attn.hook_z", remember), (f"blocks.{layer}.hook_attn_out", remove)]
    return _logit_difference(model(tokens), answers) - _logit_difference(
        model.run_with_hooks(tokens, fwd_hooks=hooks), answers
    )


DIRECT_EFFECT = Exercise(
    id="residual_stream.direct_effect",
    chapter=CHAPTER,
    title="Take away the direct path",
    points=2,
    minutes=20,
    difficulty=3,
    reference=decomposition.direct_effect,
    cases=_effect_cases,
    mistakes=[
        Mistake(
            "frozen_scale",
            _direct(frozen=True),
            "This keeps the final LayerNorm's old scale (the attribution of the last exercise). Let model.ln_final run again on the stream that lacks the head.",
        ),
        Mistake(
            "for_everybody",
            _ablation(),
            "This ablates the head for everybody downstream: the total effect. Here later layers still read what the head wrote; only the final stream lacks it.",
        ),
        Mistake(
            "sign",
            _direct(effect=lambda before, after: after - before),
            "The sign is turned: it is the intact logit difference less the one without the head.",
        ),
        Mistake(
            "only_without",
            _direct(effect=lambda before, after: after),
            "This is the logit difference without the head. Asked for is by how much it *fell*: subtract it from the intact one.",
        ),
        Mistake(
            "replacement_ignored",
            _direct(keep_replacement=False),
            "`replacement` is ignored. The head's mixed values become `replacement`: take (z - replacement) @ W_O out of the stream.",
        ),
        Mistake(
            "replacement_added",
            _direct(sign=-1.0),
            "The replacement is taken out of the stream as well. It takes the head's place: (z - replacement) @ W_O is what goes.",
        ),
        Mistake(
            "no_layer_norm",
            _direct(normalise=False),
            "The changed stream goes straight into the unembedding. The final LayerNorm comes first: model.ln_final(stream).",
        ),
        Mistake(
            "added",
            _direct(lambda model, cache, layer, head, output: _final(cache, model) + output),
            "This adds the head's output a second time. Take it out.",
        ),
        Mistake(
            "everything_but_the_head",
            _direct(lambda model, cache, layer, head, output: output),
            "This keeps nothing but the head's output. Take the head out of the stream, and keep the rest.",
        ),
        Mistake(
            "from_its_own_layer",
            _direct(lambda model, cache, layer, head, output: cache["resid_post", layer] - output),
            "This takes the head out of the stream after its own layer, and skips the later ones. The *final* stream is what the unembedding reads.",
        ),
        Mistake(
            "whole_attention",
            _direct(lambda model, cache, layer, head, output: _final(cache, model) - cache["attn_out", layer]),
            "This takes out the whole attention layer. Only one head's output should go: its z times its rows of W_O.",
        ),
        Mistake(
            "with_the_bias",
            _direct(lambda model, cache, layer, head, output: _final(cache, model) - output - model.b_O[layer]),
            "This takes out b_O with the head. The bias belongs to no head.",
        ),
        Mistake(
            "right_token_alone",
            _direct(measure=_right_logit),
            "This follows the right token's logit alone. Take the difference to the wrong one's.",
        ),
        Mistake(
            "first_position",
            _direct(measure=_first_logit_difference),
            "This reads the logits at the first position. Take the last.",
        ),
        Mistake(
            "probabilities",
            _direct(measure=_probabilities),
            "This is a difference of probabilities. Take the logits as they are.",
        ),
        Mistake(
            "mean",
            _direct(effect=_mean_over_prompts),
            "This averages over the prompts. Each prompt has an effect of its own.",
        ),
    ],
    equivalents=[_direct(), _by_final_hook, _by_stream_sums],
    hints=[
        "The logits are read from the final stream, and the head's output is one part of that sum. Nobody else needs to know that it is gone.",
        "Run with a cache. Subtract (z - replacement) @ W_O[layer, head] from the final stream, and send what is left through model.ln_final and the unembedding.",
        'stream = cache["resid_post", model.cfg.n_layers - 1] - (cache["z", layer][:, :, head] - replacement) @ model.W_O[layer, head]; '
        "logits = model.unembed(model.ln_final(stream)).",
    ],
)

ABLATION_EFFECT = Exercise(
    id="residual_stream.ablation_effect",
    chapter=CHAPTER,
    title="Take the head away from everybody",
    points=2,
    minutes=15,
    difficulty=2,
    reference=decomposition.ablation_effect,
    cases=_effect_cases,
    mistakes=[
        Mistake(
            "only_the_direct_path",
            _direct(),
            "This removes the direct path only. Ablate the head during the run, with a hook, so that every later layer misses it too.",
        ),
        Mistake(
            "sign",
            _ablation(effect=lambda before, after: after - before),
            "The sign is turned: it is the intact logit difference less the ablated one.",
        ),
        Mistake(
            "only_ablated",
            _ablation(effect=lambda before, after: after),
            "This is the ablated logit difference. Asked for is by how much it *fell*: subtract it from the intact one.",
        ),
        Mistake(
            "last_position_only",
            _ablation(_replace_last),
            "The head is ablated at the last position only. It writes at every position, and later layers may read it there.",
        ),
        Mistake(
            "all_heads",
            _ablation(_replace_all),
            "This ablates all heads of the layer. Heads are axis 2 of hook_z: (batch, position, head, d_head).",
        ),
        Mistake(
            "all_others",
            _ablation(_replace_others),
            "This ablates every head of the layer but the one asked for.",
        ),
        Mistake(
            "a_position",
            _ablation(_replace_position),
            "This ablates a position, not a head. The axes of hook_z are (batch, position, head, d_head).",
        ),
        Mistake(
            "replacement_ignored",
            _ablation(_zero_head),
            "`replacement` is ignored: the head's mixed values should become `replacement`, which is not always zero.",
        ),
        Mistake(
            "replacement_added",
            _ablation(_add),
            "This adds the replacement to what the head has. Put it in its place.",
        ),
        Mistake(
            "values_before_mixing",
            _ablation(name="blocks.{}.attn.hook_v"),
            "This replaces the head's values before attention mixes them (hook_v). `replacement` stands for the mixed values, hook_z.",
        ),
        Mistake(
            "right_token_alone",
            _ablation(measure=_right_logit),
            "This follows the right token's logit alone. Take the difference to the wrong one's.",
        ),
        Mistake(
            "log_probability",
            _ablation(measure=_log_probabilities),
            "This follows the right token's log-probability. Take the difference of the two logits.",
        ),
        Mistake(
            "absolute",
            _ablation(effect=lambda before, after: (before - after).abs()),
            "This takes the absolute value. A head may also do harm: then the logit difference rises without it, and the effect is negative.",
        ),
        Mistake(
            "mean",
            _ablation(effect=_mean_over_prompts),
            "This averages over the prompts. Each prompt has an effect of its own.",
        ),
    ],
    equivalents=[_ablation(), _ablation_by_output],
    hints=[
        "A hook that returns a tensor replaces the activation. Which hook point holds what a head collected, before W_O?",
        'At f"blocks.{layer}.attn.hook_z" set z[:, :, head] to the replacement (in a copy), return it, and compare the logits with those of an untouched run.',
        "def ablate(z, hook): z = z.clone(); z[:, :, head] = replacement; return z; then model.run_with_hooks(tokens, fwd_hooks=[(name, ablate)]).",
    ],
)

# ---------------------------------------------------------------------------------------- outputs_by_source (optional)


def _source_cases(seed: int) -> Iterable[Case]:
    for i, (model, tokens, note) in enumerate(setups(seed)):
        layer, head = (1, 0, 2, 1)[i], (1, 0, 1, 0)[i]
        yield Case(
            {**run_of(model, tokens), "layer": layer, "head": head},
            note=note,
            truth=adds_up(
                lambda outputs: outputs.sum(dim=2),
                lambda model=model, tokens=tokens, layer=layer, head=head: _head(  # type: ignore[misc]
                    build({"m": model})["m"], _cache(model, tokens), layer, head
                ),
                "The sum over the sources should be the head's output.",
            ),
        )


def _sources(
    pattern: Callable[[Any, int, int], Tensor] = lambda cache, layer, head: cache["pattern", layer][:, head],
    values: Callable[[Any, int, int], Tensor] = lambda cache, layer, head: cache["v", layer][:, :, head],
    bias: bool = False,
    equation: str = "bqk,bkm->bqkm",
) -> Callable[[Any, Any, int, int], Tensor]:
    """`outputs_by_source` with one of its steps done in another way."""

    def answer(model: Any, cache: Any, layer: int, head: int) -> Tensor:
        written = values(cache, layer, head) @ model.W_O[layer, head] + (model.b_O[layer] if bias else 0.0)
        return torch.einsum(equation, pattern(cache, layer, head), written)

    return answer


def _without_b_V(model: Any, cache: Any, layer: int, head: int) -> Tensor:
    values = cache["v", layer][:, :, head] - model.b_V[layer, head]
    return torch.einsum("bqk,bkm->bqkm", cache["pattern", layer][:, head], values @ model.W_O[layer, head])


def _unnormalised_ov(model: Any, cache: Any, layer: int, head: int) -> Tensor:
    written = cache["resid_pre", layer] @ model.W_V[layer, head] @ model.W_O[layer, head]
    return torch.einsum("bqk,bkm->bqkm", cache["pattern", layer][:, head], written)


def _loop_sources(model: Any, cache: Any, layer: int, head: int) -> Tensor:
    pattern, values = cache["pattern", layer], cache["v", layer]
    batch, positions = pattern.shape[0], pattern.shape[-1]
    result = torch.zeros(batch, positions, positions, model.cfg.d_model)
    for q in range(positions):
        for k in range(q + 1):
            mixed = pattern[:, head, q, k, None] * values[:, k, head]
            result[:, q, k] = mixed @ model.W_O[layer, head]
    return result


OUTPUTS_BY_SOURCE = Exercise(
    id="residual_stream.outputs_by_source",
    chapter=CHAPTER,
    title="Where did the head get it from?",
    points=2,
    minutes=20,
    difficulty=4,
    optional=True,
    reference=decomposition.outputs_by_source,
    cases=_source_cases,
    mistakes=[
        Mistake(
            "axes_swapped",
            _sources(equation="bqk,bkm->bkqm"),
            "The two position axes are swapped: first the position that is written to, then the source.",
        ),
        Mistake(
            "pattern_transposed",
            _sources(equation="bkq,bkm->bqkm"),
            "The attention is read the wrong way round. In the pattern the query's position comes first, the key's second.",
        ),
        Mistake(
            "values_of_the_query",
            _sources(equation="bqk,bqm->bqkm"),
            "These are the values at the position that is written to. A head moves the values of the *source*.",
        ),
        Mistake(
            "scores",
            _sources(lambda cache, layer, head: cache["attn_scores", layer][:, head].clamp(min=-1e4)),
            "These are attention scores. The pattern, after the softmax, is what the values are weighted by.",
        ),
        Mistake(
            "no_pattern",
            _sources(lambda cache, layer, head: torch.ones_like(cache["pattern", layer][:, head])),
            "The attention is missing: weigh what each source offers by the pattern.",
        ),
        Mistake(
            "no_pattern_but_causal",
            _sources(lambda cache, layer, head: torch.ones_like(cache["pattern", layer][:, head]).tril()),
            "Every source that may be seen counts in full here. Weigh each by the attention that it gets: the pattern.",
        ),
        Mistake(
            "mixed_values",
            _sources(values=lambda cache, layer, head: cache["z", layer][:, :, head]),
            "z is already mixed over the sources. Start from the values, hook_v.",
        ),
        Mistake(
            "another_heads_pattern",
            _sources(lambda cache, layer, head: cache["pattern", layer][:, head - 1]),
            "The pattern belongs to another head. Its axes are (batch, head, query, key).",
        ),
        Mistake(
            "with_b_O",
            _sources(bias=True),
            "b_O belongs to no head and to no source: leave it out.",
        ),
        Mistake(
            "no_b_V",
            _without_b_V,
            "The values' bias b_V is missing. It travels with the values: hook_v has it.",
        ),
        Mistake(
            "no_layer_norm",
            _unnormalised_ov,
            "The head reads the stream after ln1, and adds b_V. Its values are in the cache already: hook_v.",
        ),
    ],
    equivalents=[_sources(), _loop_sources],
    hints=[
        "z is a weighted sum over the sources of their values. Do not sum.",
        'written = cache["v", layer][:, :, head] @ model.W_O[layer, head] is what each source offers; cache["pattern", layer][:, head] says how much of it arrives where.',
        'einsum(pattern, written, "batch pos source, batch source d_model -> batch pos source d_model")',
    ],
)

# ------------------------------------------------------------------------------------ attention_score_parts (optional)


def _score_cases(seed: int) -> Iterable[Case]:
    for i, (model, tokens, note) in enumerate(setups(seed)):
        layer, head = (1, 0, 2, 1)[i], (1, 0, 1, 0)[i]
        inputs = run_of(model, tokens)
        whole = {name: part for name, part in _parts_of(model, tokens).items() if _written_before(name, layer)}
        yield Case(
            {**inputs, "layer": layer, "head": head, "parts": whole},
            note=note,
            truth=adds_up(
                lambda outputs: outputs.sum(dim=(-1, -2)).tril(),
                lambda model=model, tokens=tokens, layer=layer, head=head: _cache(model, tokens)["attn_scores", layer][  # type: ignore[misc]
                    :, head
                ].masked_fill(torch.ones(tokens.shape[1], tokens.shape[1]).triu(1).bool(), 0),
                "Where the query may look, the parts should add up to the attention score.",
            ),
        )


def _written_before(name: str, layer: int) -> bool:
    return "embed" in name or int(name.split("_")[0]) < layer


def _scores(
    normalise: Callable[[Any, Tensor, Tensor], Tensor] | None = None,
    constants: Callable[[Any, int, int], tuple[Tensor, Tensor] | None] | None = None,
    divide: bool = True,
    equation: str = "bqid,bkjd->bqkij",
    divided_bias: bool = False,
) -> Callable[..., Tensor]:
    """`attention_score_parts` with one of its steps done in another way."""

    def answer(model: Any, cache: Any, layer: int, head: int, parts: Parts) -> Tensor:
        ln1, scale = model.blocks[layer].ln1, cache["scale", layer, "ln1"]
        read = torch.stack([(normalise or _normalise)(ln1, scale, part) for part in parts.values()], dim=2)
        queries, keys = read @ model.W_Q[layer, head], read @ model.W_K[layer, head]
        extra = (constants or _query_and_key_constants)(model, layer, head)
        if extra is not None:
            shape = (*queries.shape[:2], 1, -1)
            by = scale[:, :, None] if divided_bias else 1.0
            queries = torch.cat([queries, extra[0].expand(shape) / by], dim=2)
            keys = torch.cat([keys, extra[1].expand(shape) / by], dim=2)
        scores = torch.einsum(equation, queries, keys)
        return scores / model.cfg.d_head**0.5 if divide else scores

    return answer


def _normalise(ln1: Any, scale: Tensor, part: Tensor) -> Tensor:
    return (part - part.mean(dim=-1, keepdim=True)) / scale * ln1.weight


def _query_and_key_constants(model: Any, layer: int, head: int) -> tuple[Tensor, Tensor]:
    bias = model.blocks[layer].ln1.bias
    return (
        bias @ model.W_Q[layer, head] + model.b_Q[layer, head],
        bias @ model.W_K[layer, head] + model.b_K[layer, head],
    )


def _own_scores_scale(ln1: Any, scale: Tensor, part: Tensor) -> Tensor:
    centred = part - part.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * ln1.weight


def _softmax_scores(model: Any, cache: Any, layer: int, head: int, parts: Parts) -> Tensor:
    return _scores()(model, cache, layer, head, parts).softmax(dim=2)


def _loop_scores(model: Any, cache: Any, layer: int, head: int, parts: Parts) -> Tensor:
    ln1, scale = model.blocks[layer].ln1, cache["scale", layer, "ln1"]
    constants = _query_and_key_constants(model, layer, head)
    shape = (*scale.shape[:2], model.cfg.d_head)
    queries = [_normalise(ln1, scale, part) @ model.W_Q[layer, head] for part in parts.values()]
    keys = [_normalise(ln1, scale, part) @ model.W_K[layer, head] for part in parts.values()]
    queries, keys = [*queries, constants[0].expand(shape)], [*keys, constants[1].expand(shape)]
    rows = [torch.stack([query @ key.mT for key in keys], dim=-1) for query in queries]
    return torch.stack(rows, dim=-2) / model.cfg.d_head**0.5


ATTENTION_SCORE_PARTS = Exercise(
    id="residual_stream.attention_score_parts",
    chapter=CHAPTER,
    title="Attention scores are sums too",
    points=4,
    minutes=40,
    difficulty=4,
    optional=True,
    reference=decomposition.attention_score_parts,
    cases=_score_cases,
    mistakes=[
        Mistake(
            "not_divided",
            _scores(divide=False),
            "The division by sqrt(d_head) is missing.",
        ),
        Mistake(
            "no_weight",
            _scores(lambda ln1, scale, part: (part - part.mean(dim=-1, keepdim=True)) / scale),
            "The weight of the block's LayerNorm is missing: model.blocks[layer].ln1.weight.",
        ),
        Mistake(
            "no_scale",
            _scores(lambda ln1, scale, part: _normalise(ln1, torch.ones_like(scale), part)),
            'The scale of the block\'s LayerNorm is missing: divide by cache["scale", layer, "ln1"].',
        ),
        Mistake(
            "own_scale",
            _scores(_own_scores_scale),
            "Here every part is divided by a scale of its own, so they cannot add up. LayerNorm divides the whole stream once: use this run's scale.",
        ),
        Mistake(
            "not_centred",
            _scores(lambda ln1, scale, part: part / scale * ln1.weight),
            "The centring is missing: LayerNorm takes each vector's mean over d_model away first.",
        ),
        Mistake(
            "no_constant",
            _scores(constants=lambda *_: None),
            "The last entry is missing: the biases of LayerNorm, queries and keys take part in the score as one more writer.",
        ),
        Mistake(
            "no_layer_norm_bias",
            _scores(constants=lambda model, layer, head: (model.b_Q[layer, head], model.b_K[layer, head])),
            "The constant lacks the LayerNorm's bias, which W_Q and W_K read like everything else.",
        ),
        Mistake(
            "no_query_and_key_bias",
            _scores(
                constants=lambda model, layer, head: (
                    model.blocks[layer].ln1.bias @ model.W_Q[layer, head],
                    model.blocks[layer].ln1.bias @ model.W_K[layer, head],
                )
            ),
            "The constant lacks b_Q and b_K.",
        ),
        Mistake(
            "constant_scaled",
            _scores(divided_bias=True),
            "The constant is divided by the LayerNorm's scale as well. The LayerNorm adds its bias after the division.",
        ),
        Mistake(
            "positions_swapped",
            _scores(equation="bqid,bkjd->bkqij"),
            "The two position axes are swapped: the query's position comes first.",
        ),
        Mistake(
            "parts_swapped",
            _scores(equation="bqid,bkjd->bqkji"),
            "The two part axes are swapped: the query's part comes first.",
        ),
        Mistake(
            "softmax",
            _softmax_scores,
            "A softmax is no sum. Stop at the scores.",
        ),
    ],
    equivalents=[_scores(), _loop_scores],
    hints=[
        "A score is query · key / sqrt(d_head), and query and key are each linear in what LayerNorm gives. Take LayerNorm apart as you did for the logits.",
        "Stack the parts: centre, divide by the scale, multiply by ln1.weight, project with W_Q and with W_K. Append one more row for the constant: ln1.bias @ W + b. Then all pairs.",
        'einsum(queries, keys, "batch q i d_head, batch k j d_head -> batch q k i j") / model.cfg.d_head**0.5, queries and keys having shape (batch, position, parts + 1, d_head).',
    ],
)

# ---------------------------------------------------------------------------------------------- ov_circuit, qk_circuit


def _weight_cases(seed: int) -> Iterable[Case]:
    yield Case({"model": random_model(seed), "layer": 1, "head": 0}, note="a random GPT-2")
    yield Case({"model": random_model(seed), "layer": 2, "head": 1}, note="another head")
    three = random_model(seed + 1, layers=3, heads=4, d_head=3)
    yield Case({"model": three, "layer": 2, "head": 3}, note="four heads")
    yield Case({"model": random_model(seed, processed=True), "layer": 0, "head": 1}, note="processed weights")
    yield Case({"model": random_model(seed + 2, attention_only=True), "layer": 1, "head": 1}, note="no MLPs")
    yield Case({"model": POCKET, "layer": 3, "head": 2}, note="pocket")


def _loop_ov(model: Any, layer: int, head: int) -> Tensor:
    """What the head writes for every unit vector that it may read."""
    rows = [unit @ model.W_V[layer, head] for unit in torch.eye(model.cfg.d_model)]
    return torch.stack([row @ model.W_O[layer, head] for row in rows])


OV_CIRCUIT = Exercise(
    id="residual_stream.ov_circuit",
    chapter=CHAPTER,
    title="What does a head move?",
    points=1,
    minutes=10,
    difficulty=2,
    reference=weights.ov_circuit,
    cases=_weight_cases,
    mistakes=[
        Mistake(
            "wrong_order",
            lambda model, layer, head: model.W_O[layer, head] @ model.W_V[layer, head],
            "The order is turned, and the result has the size of the head. The stream is read by W_V first, and written by W_O then.",
        ),
        Mistake(
            "transposed",
            lambda model, layer, head: (model.W_V[layer, head] @ model.W_O[layer, head]).T,
            "This is the transpose. Rows act from the left here: stream @ W_V @ W_O.",
        ),
        Mistake(
            "whole_layer",
            lambda model, layer, head: (model.W_V[layer] @ model.W_O[layer]).sum(dim=0),
            "This sums over all heads of the layer. Take one.",
        ),
        Mistake(
            "first_head",
            lambda model, layer, head: model.W_V[layer, 0] @ model.W_O[layer, 0],
            "This is head 0, whatever `head` says.",
        ),
        Mistake(
            "first_layer",
            lambda model, layer, head: model.W_V[0, head] @ model.W_O[0, head],
            "This is layer 0, whatever `layer` says.",
        ),
        Mistake(
            "keys_for_values",
            lambda model, layer, head: model.W_K[layer, head] @ model.W_O[layer, head],
            "W_K says what to look for. What is moved is read by W_V.",
        ),
        Mistake(
            "scaled",
            lambda model, layer, head: model.W_V[layer, head] @ model.W_O[layer, head] / model.cfg.d_head**0.5,
            "Nothing is divided here: sqrt(d_head) belongs to attention scores.",
        ),
    ],
    equivalents=[
        lambda model, layer, head: torch.einsum("md,dn->mn", model.W_V[layer, head], model.W_O[layer, head]),
        lambda model, layer, head: model.OV[layer, head].AB,
        _loop_ov,
    ],
    hints=[
        "The head reads x as x @ W_V, attention mixes positions, and W_O writes. Leave the mixing out.",
        "Two matrices of one head: (d_model, d_head) and (d_head, d_model). Which product has the shape (d_model, d_model)?",
        "return model.W_V[layer, head] @ ...",
    ],
)

QK_CIRCUIT = Exercise(
    id="residual_stream.qk_circuit",
    chapter=CHAPTER,
    title="Where does a head look?",
    points=1,
    minutes=10,
    difficulty=2,
    reference=weights.qk_circuit,
    cases=_weight_cases,
    mistakes=[
        Mistake(
            "transposed",
            lambda model, layer, head: model.W_K[layer, head] @ model.W_Q[layer, head].T,
            "This has the keys on the left. Put the queries there: query @ qk @ key.",
        ),
        Mistake(
            "size_of_the_head",
            lambda model, layer, head: model.W_Q[layer, head].T @ model.W_K[layer, head],
            "This has the size of the head. Transpose the other one: the map goes from stream to stream, (d_model, d_model).",
        ),
        Mistake(
            "divided",
            lambda model, layer, head: model.W_Q[layer, head] @ model.W_K[layer, head].T / model.cfg.d_head**0.5,
            "Here sqrt(d_head) is divided out already. The map is W_Q W_K^T alone.",
        ),
        Mistake(
            "queries_twice",
            lambda model, layer, head: model.W_Q[layer, head] @ model.W_Q[layer, head].T,
            "Queries meet queries here. The other side is W_K.",
        ),
        Mistake(
            "values_for_keys",
            lambda model, layer, head: model.W_Q[layer, head] @ model.W_V[layer, head].T,
            "Queries meet values here. They meet the keys, W_K.",
        ),
        Mistake(
            "whole_layer",
            lambda model, layer, head: (model.W_Q[layer] @ model.W_K[layer].mT).sum(dim=0),
            "This sums over all heads of the layer. Take one.",
        ),
        Mistake(
            "first_head",
            lambda model, layer, head: model.W_Q[layer, 0] @ model.W_K[layer, 0].T,
            "This is head 0, whatever `head` says.",
        ),
        Mistake(
            "first_layer",
            lambda model, layer, head: model.W_Q[0, head] @ model.W_K[0, head].T,
            "This is layer 0, whatever `layer` says.",
        ),
    ],
    equivalents=[
        lambda model, layer, head: torch.einsum("md,nd->mn", model.W_Q[layer, head], model.W_K[layer, head]),
        lambda model, layer, head: model.QK[layer, head].AB,
        lambda model, layer, head: (model.W_K[layer, head] @ model.W_Q[layer, head].mT).mT,
    ],
    hints=[
        "A score is the dot product of a query (stream @ W_Q) with a key (stream @ W_K). Write it as query stream @ something @ key stream.",
        "One of the two has to be transposed, so that the result maps d_model to d_model.",
        "return model.W_Q[layer, head] @ model.W_K[layer, head].T would score queries on the left: is that what is asked?",
    ],
)

# ----------------------------------------------------------------------------------------------------- virtual_weights


def _pair(
    seed: int, write: tuple[int, ...], read: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return {
        "write": (2.0 * torch.randn(write, generator=draws, dtype=torch.float64)).to(dtype),
        "read": (0.5 * torch.randn(read, generator=draws, dtype=torch.float64)).to(dtype),
    }


def _virtual_cases(seed: int) -> Iterable[Case]:
    yield Case(_pair(seed, (5, 10), (10, 7)))
    yield Case(_pair(seed + 1, (1, 6), (6, 9)), note="a writer of one direction")
    yield Case(_pair(seed + 2, (4, 8), (8, 1)), note="a reader of one direction")
    yield Case(_pair(seed + 3, (6, 6), (6, 6)), note="square matrices")
    yield Case(_pair(seed + 4, (3, 4, 12), (3, 12, 5)), note="three pairs at once")
    yield Case(_pair(seed + 5, (2, 1, 4, 12), (3, 12, 5)), note="two writers and three readers, all pairs")
    yield Case(_pair(seed + 6, (5, 10), (10, 7), torch.float64), note="float64")
    line = torch.tensor([[3.0, 4.0, 0.0]])
    for read, value in ((2 * line.T, 1.0), (torch.tensor([[0.0], [0.0], [5.0]]), 0.0)):
        yield Case(
            {"write": line, "read": read},
            note="a writer and a reader of one direction, the same or orthogonal ones",
            truth=lambda out, value=value: (  # type: ignore[misc]
                None if abs(out.item() - value) < 1e-5 else f"These two directions should give {value:g}."
            ),
        )
    yield Case(_pair(seed, (5, 10), (10, 7)), drive="other_device", compare=comparing.other_device)


def _norm(matrix: Tensor) -> Tensor:
    return matrix.square().sum(dim=(-2, -1)).sqrt()


VIRTUAL_WEIGHTS = Exercise(
    id="residual_stream.virtual_weights",
    chapter=CHAPTER,
    title="Who reads what somebody else wrote?",
    points=2,
    minutes=15,
    difficulty=2,
    reference=weights.virtual_weights,
    cases=_virtual_cases,
    mistakes=[
        Mistake(
            "not_normalised",
            lambda write, read: _norm(write @ read),
            "Large matrices give large products. Divide by the norms of both.",
        ),
        Mistake(
            "only_write_normalised",
            lambda write, read: _norm(write @ read) / _norm(write),
            "The norm of `read` is missing in the denominator.",
        ),
        Mistake(
            "only_read_normalised",
            lambda write, read: _norm(write @ read) / _norm(read),
            "The norm of `write` is missing in the denominator.",
        ),
        Mistake(
            "squared",
            lambda write, read: (_norm(write @ read) / (_norm(write) * _norm(read))) ** 2,
            "This is the square of the ratio: take the root.",
        ),
        Mistake(
            "spectral",
            lambda write, read: (
                torch.linalg.matrix_norm(write @ read, 2)
                / (torch.linalg.matrix_norm(write, 2) * torch.linalg.matrix_norm(read, 2))
            ),
            "These are spectral norms (the largest singular value). Take Frobenius norms: the root of the sum of all squares.",
        ),
        Mistake(
            "mean",
            lambda write, read: (write @ read).abs().mean(dim=(-2, -1)) / (_norm(write) * _norm(read)),
            "This averages the product's absolute entries. Its Frobenius norm is the root of the sum of squares.",
        ),
        Mistake(
            "cosine_of_all_pairs",
            lambda write, read: (
                (torch.nn.functional.normalize(write, dim=-1) @ torch.nn.functional.normalize(read, dim=-2))
                .square()
                .mean(dim=(-2, -1))
                .sqrt()
            ),
            "Here every direction is normalised by itself, so that weak ones count as much as strong ones. Divide by the norms of the whole matrices.",
        ),
        Mistake(
            "one_number",
            lambda write, read: (write @ read).norm() / (write.norm() * read.norm()),
            "This takes one norm over all pairs. Leading axes are pairs, and each has a strength of its own: norm(dim=(-2, -1)).",
        ),
        Mistake(
            "norms_added",
            lambda write, read: _norm(write @ read) / (_norm(write) + _norm(read)),
            "The two norms are multiplied, not added.",
        ),
        Mistake(
            "root_d_model",
            lambda write, read: _norm(write @ read) / (_norm(write) * _norm(read)) * write.shape[-1] ** 0.5,
            "This is already divided by the chance level 1 / sqrt(d_model). Leave it out here.",
        ),
    ],
    equivalents=[
        lambda write, read: _norm(write @ read) / _norm(write) / _norm(read),
        lambda write, read: _norm(write / _norm(write)[..., None, None] @ (read / _norm(read)[..., None, None])),
        lambda write, read: (
            torch.linalg.matrix_norm(write @ read) / (torch.linalg.matrix_norm(write) * torch.linalg.matrix_norm(read))
        ),
    ],
    hints=[
        "write @ read is the matrix of virtual weights. How large is it, for matrices of that size?",
        "The Frobenius norm of the product, over the product of the Frobenius norms. Only the last two axes are summed.",
        "(write @ read).norm(dim=(-2, -1)) / (write.norm(dim=(-2, -1)) * ...)",
    ],
)

EXERCISES = [
    NEXT_TOKEN_TABLE,
    GET_ACTIVATION,
    RESIDUAL_COMPONENTS,
    HEAD_OUTPUTS,
    DIRECT_LOGIT_ATTRIBUTION,
    DIRECT_EFFECT,
    ABLATION_EFFECT,
    OUTPUTS_BY_SOURCE,
    ATTENTION_SCORE_PARTS,
    OV_CIRCUIT,
    QK_CIRCUIT,
    VIRTUAL_WEIGHTS,
]
