"""The exercises of chapter 05_ioi."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mechlib import ioi
from mechlib.checker import Case, Exercise, Mistake, Recipe

CHAPTER = "05_ioi"

# ------------------------------------------------------------------------------------------------------ things to try


def draws(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def ids(seed: int, *shape: int, vocabulary: int = 17) -> Tensor:
    return torch.randint(2, vocabulary, shape, generator=torch.Generator().manual_seed(seed))


def pairs(seed: int, batch: int, vocabulary: int = 17) -> Tensor:
    """The ids of an answer and another token for each prompt."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(vocabulary, generator=generator)[:2] for _ in range(batch)])


def places(seed: int, batch: int, length: int) -> dict[str, Tensor]:
    """Where IO, S1, S2 and END stand: in another place and another order in every prompt, END rarely last."""
    generator = torch.Generator().manual_seed(seed)
    end = torch.randint(4, length, (batch,), generator=generator)
    end[0] = length - 2
    names = torch.stack([torch.randperm(int(e) - 1, generator=generator)[:3] + 1 for e in end])
    later = names[:, 1:].sort(dim=1).values  # S1 stands before S2
    return {"io": names[:, 0], "s1": later[:, 0], "s2": later[:, 1], "end": end}


def random_gpt2(seed: int, **sizes: Any) -> Recipe:
    return Recipe("gpt2", {"seed": seed % 5, **sizes})


def run_of(model: Recipe, tokens: Tensor) -> Recipe:
    return Recipe("activations", {"model": model, "tokens": tokens})


# ----------------------------------------------------------------------------------------------------- mean_logit_diff


def mean_cases(seed: int) -> Iterable[Case]:
    for batch, length, vocabulary, scale, note in [
        (4, 7, 9, 1.0, "prompts of different length"),
        (1, 6, 11, 1.0, "a batch of one"),
        (5, 5, 7, 1.0, "as many prompts as positions"),
        (3, 8, 6, 20.0, "a model that is very sure"),
    ]:
        generator = torch.Generator().manual_seed(seed + batch)
        end = torch.randint(1, length - 1, (batch,), generator=generator)
        logits = scale * draws(seed + batch, batch, length, vocabulary)
        yield Case({"logits": logits, "answers": pairs(seed + batch, batch, vocabulary), "end": end}, note=note)


def _chosen(logits: Tensor, answers: Tensor, end: Tensor) -> Tensor:
    """The two logits of each prompt, [batch 2]."""
    return logits[torch.arange(len(logits)), end].gather(1, answers)


def _difference(chosen: Tensor) -> Tensor:
    return chosen[:, 0] - chosen[:, 1]


MEAN_LOGIT_DIFF = Exercise(
    id="ioi.mean_logit_diff",
    chapter=CHAPTER,
    title="How well does the model know who receives?",
    points=1,
    minutes=5,
    difficulty=1,
    reference=ioi.mean_logit_diff,
    cases=mean_cases,
    mistakes=[
        Mistake(
            "last_column",
            lambda logits, answers, end: _difference(logits[:, -1].gather(1, answers)).mean(),
            "This reads the last position of the batch. Short prompts are padded: each one's last token stands at its own `end`.",
        ),
        Mistake(
            "one_too_early",
            lambda logits, answers, end: _difference(_chosen(logits, answers, end - 1)).mean(),
            "This reads one position too early. The logits at `end` are those of the word after the prompt.",
        ),
        Mistake(
            "swapped",
            lambda logits, answers, end: -_difference(_chosen(logits, answers, end)).mean(),
            "The sign is wrong. The answer (IO) stands in column 0 and counts positive, the distractor (S) in column 1.",
        ),
        Mistake(
            "not_averaged",
            lambda logits, answers, end: _difference(_chosen(logits, answers, end)),
            "This is one number for each prompt. Return their mean.",
        ),
        Mistake(
            "summed",
            lambda logits, answers, end: _difference(_chosen(logits, answers, end)).sum(),
            "This is the sum over the prompts, which grows with their number. Return the mean.",
        ),
        Mistake(
            "probabilities",
            lambda logits, answers, end: _difference(_chosen(logits.softmax(-1), answers, end)).mean(),
            "This is a difference of probabilities. Take the logits as they are.",
        ),
        Mistake(
            "absolute",
            lambda logits, answers, end: _difference(_chosen(logits, answers, end)).abs().mean(),
            "The signs are lost: a prompt that the model gets wrong counts negative.",
        ),
    ],
    equivalents=[
        lambda logits, answers, end: _difference(_chosen(logits, answers, end)).mean(),
        lambda logits, answers, end: (
            sum(logits[i, e, a] - logits[i, e, b] for i, (e, (a, b)) in enumerate(zip(end, answers))) / len(end)
        ),
        lambda logits, answers, end: -_chosen(logits, answers, end).diff(dim=1).mean(),
    ],
    hints=[
        "For each prompt you need one position, and of that position two logits.",
        "logits[torch.arange(len(logits)), end] has shape (batch, vocabulary); gather(1, answers) picks two columns.",
        "last = logits[rows, end].gather(1, answers), then the mean of column 0 less column 1.",
    ],
)

# --------------------------------------------------------------------------------------------------- name_mover_score


def mover_cases(seed: int) -> Iterable[Case]:
    for k, (batch, length, sizes) in enumerate(
        [(5, 9, {}), (1, 7, {}), (4, 10, {"processed": True}), (3, 8, {"attention_only": True, "heads": 3})]
    ):
        model, tokens = random_gpt2(seed + k, **sizes), ids(seed + k, batch, length)
        yield Case(
            {
                "model": model,
                "cache": run_of(model, tokens),
                "answers": pairs(seed + k, batch),
                "at": places(seed + k, batch, length),
            },
            note="a batch of one" if batch == 1 else "",
        )


def _movers(
    look: Callable[[Tensor, dict], Tensor] | None = None,
    end: Callable[[dict], Tensor] = lambda at: at["end"],
    direction: Callable[[Tensor, Tensor], Tensor] = lambda W, answers: (W[:, answers[:, 0]] - W[:, answers[:, 1]]).T,
    weight: bool = True,
    centre: bool = True,
    scale: str = "own",
    average_first: bool = False,
    mean: bool = True,
) -> Callable:
    """name_mover_score with one thing done otherwise."""

    def answer(model: Any, cache: Any, answers: Tensor, at: dict) -> Any:
        rows, last = torch.arange(len(answers)), end(at)
        reader = direction(model.W_U, answers)
        if weight:
            reader = reader * model.ln_final.weight
        if centre:
            reader = reader - reader.mean(-1, keepdim=True)
        scales = cache["ln_final.hook_scale"]
        reader = {
            "own": lambda: reader / scales[rows, last],
            "none": lambda: reader,
            "last": lambda: reader / scales[:, -1],
        }[scale]()
        looks, writes = [], []
        for layer in range(model.cfg.n_layers):
            pattern = cache["pattern", layer]
            seen = look(pattern, at) if look else pattern[rows, :, at["end"], at["io"]]
            said = torch.einsum("bhd,hdm->bhm", cache["z", layer][rows, last], model.W_O[layer])
            if average_first:
                said = said.mean(0, keepdim=True).expand_as(said)
            wrote = torch.einsum("bhm,bm->bh", said, reader)
            looks.append(seen.mean(0) if mean else seen.T)
            writes.append(wrote.mean(0) if mean else wrote.T)
        return torch.stack(looks), torch.stack(writes)

    return answer


def _rows(at: dict) -> Tensor:
    return torch.arange(len(at["end"]))


NAME_MOVER_SCORE = Exercise(
    id="ioi.name_mover_score",
    chapter=CHAPTER,
    title="Who looks at IO, and writes its name?",
    points=3,
    minutes=25,
    difficulty=3,
    reference=ioi.name_mover_score,
    cases=mover_cases,
    mistakes=[
        Mistake(
            "looks_at_s1",
            _movers(look=lambda pattern, at: pattern[_rows(at), :, at["end"], at["s1"]]),
            "Your attention is paid to S1. A name mover looks at IO, the name that is not repeated.",
        ),
        Mistake(
            "turned_round",
            _movers(look=lambda pattern, at: pattern[_rows(at), :, at["io"], at["end"]]),
            "Query and key are exchanged. A pattern is [batch, head, query, key], and the one who looks, END, is the query.",
        ),
        Mistake(
            "last_position",
            _movers(end=lambda at: torch.full_like(at["end"], -1), scale="last"),
            'This takes what is written at the last position of the batch. Prompts are padded: take at["end"].',
        ),
        Mistake(
            "without_the_scale",
            _movers(scale="none"),
            "The final LayerNorm's scale is missing: divide by cache['ln_final.hook_scale'], each prompt by its own.",
        ),
        Mistake(
            "without_the_weight",
            _movers(weight=False),
            "The final LayerNorm's weight is missing: it multiplies what is written before the unembedding reads it.",
        ),
        Mistake(
            "not_centred",
            _movers(centre=False),
            "The final LayerNorm subtracts the mean over d_model from what is written: centre it (or what reads it, after its weight).",
        ),
        Mistake(
            "averaged_before_normalising",
            _movers(average_first=True),
            "This averages what the heads write over the prompts and normalises the average. Every prompt has its own scale and its own names: "
            "project first, average last.",
        ),
        Mistake(
            "answer_only",
            _movers(direction=lambda W, answers: W[:, answers[:, 0]].T),
            "This is what is written along IO's direction alone. Subtract what is written for S.",
        ),
        Mistake(
            "swapped",
            _movers(direction=lambda W, answers: (W[:, answers[:, 1]] - W[:, answers[:, 0]]).T),
            "What is written has the wrong sign: IO (column 0 of the answers) less S.",
        ),
    ],
    equivalents=[
        _movers(),
        lambda model, cache, answers, at: _movers_in_a_loop(model, cache, answers, at),
    ],
    hints=[
        "Two things a head: a number of its pattern, and what it writes at END, seen by the logits of two words.",
        "The reader of the logit difference is W_U[:, io] - W_U[:, s], times the final LayerNorm's weight, centred, divided by that prompt's scale.",
        "said = einsum('bhd,hdm->bhm', cache['z', layer][rows, end], model.W_O[layer]); wrote = einsum('bhm,bm->bh', said, reader).mean(0).",
    ],
)


def _movers_in_a_loop(model: Any, cache: Any, answers: Tensor, at: dict) -> Any:
    layers, heads, batch = model.cfg.n_layers, model.cfg.n_heads, len(answers)
    looks, writes = torch.zeros(2, layers, heads)
    for layer in range(layers):
        for head in range(heads):
            for i in range(batch):
                end = at["end"][i]
                looks[layer, head] += cache["pattern", layer][i, head, end, at["io"][i]] / batch
                said = cache["z", layer][i, end, head] @ model.W_O[layer, head]
                said = (said - said.mean()) / cache["ln_final.hook_scale"][i, end] * model.ln_final.weight
                right, wrong = said @ model.W_U[:, answers[i]]
                writes[layer, head] += (right - wrong) / batch
    return looks, writes


# ------------------------------------------------------------------------------------------------- s_inhibition_score


def inhibition_cases(seed: int) -> Iterable[Case]:
    for k, (batch, length, sizes) in enumerate([(5, 9, {}), (1, 8, {}), (4, 10, {"layers": 2, "heads": 3})]):
        model = random_gpt2(seed + k, **sizes)
        yield Case(
            {
                "cache": run_of(model, ids(seed + k, batch, length)),
                "n_layers": sizes.get("layers", 3),
                "at": places(seed + k, batch, length),
            },
            note="a batch of one" if batch == 1 else "",
        )


def _between(query: str, key: str) -> Callable:
    """Every head's attention, [layer batch head], from one role to another."""
    return lambda cache, n_layers, at: torch.stack(
        [cache["pattern", layer][_rows(at), :, at[query], at[key]] for layer in range(n_layers)]
    )


def _less(one: Callable, other: Callable) -> Callable:
    return lambda cache, n_layers, at: (one(cache, n_layers, at) - other(cache, n_layers, at)).mean(dim=1)


S_INHIBITION_SCORE = Exercise(
    id="ioi.s_inhibition_score",
    chapter=CHAPTER,
    title="Who looks at the second mention?",
    points=1,
    minutes=10,
    difficulty=2,
    reference=ioi.s_inhibition_score,
    cases=inhibition_cases,
    mistakes=[
        Mistake(
            "s1_and_s2_mixed_up",
            _less(_between("end", "s1"), _between("end", "s2")),
            "S1 and S2 are mixed up. S2 is the second mention, the later one: looking there counts positive.",
        ),
        Mistake(
            "turned_round",
            _less(_between("s2", "end"), _between("s1", "end")),
            "Query and key are exchanged. A pattern is [batch, head, query, key], and END is the query.",
        ),
        Mistake(
            "s2_alone",
            lambda cache, n_layers, at: _between("end", "s2")(cache, n_layers, at).mean(dim=1),
            "This is the attention to S2 alone. Subtract the attention to S1, the same name's first mention.",
        ),
        Mistake(
            "less_io",
            _less(_between("end", "s2"), _between("end", "io")),
            "This subtracts the attention to IO. Subtract the attention to S1.",
        ),
        Mistake(
            "from_s2_to_s1",
            lambda cache, n_layers, at: _between("s2", "s1")(cache, n_layers, at).mean(dim=1),
            "This is the attention from S2 to S1, which finds duplicate token heads. Here END looks.",
        ),
        Mistake(
            "last_position",
            lambda cache, n_layers, at: _less(_between("end", "s2"), _between("end", "s1"))(
                cache, n_layers, {**at, "end": torch.full_like(at["end"], -1)}
            ),
            'This looks from the last position of the batch. Prompts are padded: look from at["end"].',
        ),
    ],
    equivalents=[
        _less(_between("end", "s2"), _between("end", "s1")),
        lambda cache, n_layers, at: torch.stack(
            [
                sum(
                    cache[f"blocks.{layer}.attn.hook_pattern"][i, :, e, b]
                    - cache[f"blocks.{layer}.attn.hook_pattern"][i, :, e, a]
                    for i, (e, a, b) in enumerate(zip(at["end"], at["s1"], at["s2"]))
                )
                / len(at["end"])
                for layer in range(n_layers)
            ]
        ),
    ],
    hints=[
        "The pattern of a layer is [batch, head, query, key]. Each prompt has its own query and its own two keys.",
        'cache["pattern", layer][rows, :, at["end"], at["s2"]] has shape (batch, head).',
        "Subtract the same with s1, take the mean over the batch, and stack the layers.",
    ],
)

# ---------------------------------------------------------------------------------------------------------- path_patch


def twins(seed: int, batch: int, length: int, changed: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Prompts that differ at some positions."""
    one = ids(seed, batch, length)
    other = one.clone()
    other[:, list(changed)] = (one[:, list(changed)] - 1) % 15 + 2
    return one, other


def path_cases(seed: int) -> Iterable[Case]:
    for k, (batch, length, senders, mlps, sizes) in enumerate(
        [
            (3, 7, [(0, 1)], "frozen", {}),
            (3, 6, [(0, 1)], "recomputed", {}),
            (1, 5, [(1, 0)], "recomputed", {}),
            (2, 6, [(0, 0), (1, 1), (0, 1)], "recomputed", {}),
            (2, 5, [(2, 1), (0, 0)], "frozen", {}),
            (2, 5, [(3, 0)], "recomputed", {"layers": 4}),
            (2, 5, [(1, 1)], "frozen", {"processed": True}),
            (2, 6, [(0, 2)], "recomputed", {"attention_only": True, "heads": 3}),
        ]
    ):
        model = random_gpt2(seed + k, **sizes)
        here, there = twins(seed + k, batch, length, [1, 3])
        yield Case(
            {
                "model": model,
                "cache": run_of(model, here),
                "source_cache": run_of(model, there),
                "senders": senders,
                "mlps": mlps,
            },
            note=f"MLPs {mlps}" + (", a batch of one" if batch == 1 else ""),
        )
    for head, mlps, expected in [(0, "frozen", -4), (0, "recomputed", 4), (1, "frozen", 4), (1, "recomputed", 4)]:
        yield _by_hand(head, mlps, expected)


def _by_hand(head: int, mlps: str, expected: float) -> Case:
    """The hand-written model `indirect` (words <bos>, <unk>, 0, 1, =, no, yes): the corrupted run `0 =`, the sender's
    output from `1 =`. Head 0.0 reaches the logits through MLP 1 alone, head 0.1 directly."""
    model = Recipe("handmade", {"name": "indirect"})
    return Case(
        {
            "model": model,
            "cache": run_of(model, torch.tensor([[0, 2, 4]])),
            "source_cache": run_of(model, torch.tensor([[0, 3, 4]])),
            "senders": [(0, head)],
            "mlps": mlps,
        },
        note=f"a model written by hand, MLPs {mlps}",
        truth=lambda out: (
            None
            if abs(float(out[0, -1, 6] - out[0, -1, 5]) - expected) < 0.05
            else f"With MLPs {mlps}, head 0.{head} of the hand-written model should give a logit difference of {expected}."
        ),
    )


def _streams(
    model: Any,
    cache: Any,
    source: Any,
    senders: Sequence[tuple[int, int]],
    mlps: str,
    own_mlp: bool = True,
    attention_too: bool = False,
    whole_layer: bool = False,
    only: slice = slice(None),
    mlps_from_source: bool = False,
) -> list[Tensor]:
    """The patched stream before every layer and after the last, with one thing done otherwise."""
    change = torch.zeros_like(cache["resid_pre", 0])
    streams = []
    first = min(layer for layer, _ in senders)
    for layer, block in enumerate(model.blocks):
        streams.append(cache["resid_pre", layer] + change)
        if attention_too and layer > first:
            change = change + _attention(model, layer, streams[-1]) - cache["attn_out", layer]
        for at, head in senders[only]:
            if at == layer:
                z = source["z", layer] - cache["z", layer]
                heads = range(model.cfg.n_heads) if whole_layer else [head]
                for h in heads:
                    change = change + z[:, :, h] @ model.W_O[layer, h]
        if mlps == "recomputed" and (own_mlp or layer not in [at for at, _ in senders]):
            if mlps_from_source:
                change = change + source["mlp_out", layer] - cache["mlp_out", layer]
            else:
                middle = cache["resid_pre", layer] + cache["attn_out", layer] + change
                change = change + block.mlp(block.ln2(middle)) - cache["mlp_out", layer]
    return [*streams, cache["resid_post", model.cfg.n_layers - 1] + change]


def _attention(model: Any, layer: int, stream: Tensor) -> Tensor:
    """What a layer's attention writes if it reads this stream."""
    x = model.blocks[layer].ln1(stream)
    q, k, v = (
        torch.einsum("bpm,hmd->bphd", x, getattr(model, f"W_{part}")[layer]) + getattr(model, f"b_{part}")[layer]
        for part in "QKV"
    )
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / model.cfg.d_head**0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    pattern = scores.masked_fill(future, -torch.inf).softmax(-1)
    z = torch.einsum("bhqk,bkhd->bqhd", pattern, v)
    return torch.einsum("bqhd,hdm->bqm", z, model.W_O[layer]) + model.b_O[layer]


def _path(**otherwise: Any) -> Callable:
    def answer(model: Any, cache: Any, source_cache: Any, senders: Any, mlps: str) -> Tensor:
        return model.unembed(model.ln_final(_streams(model, cache, source_cache, senders, mlps, **otherwise)[-1]))

    return answer


def _other(mlps: str) -> str:
    return "frozen" if mlps == "recomputed" else "recomputed"


def _path_with_the_old_scale(model: Any, cache: Any, source_cache: Any, senders: Any, mlps: str) -> Tensor:
    stream = _streams(model, cache, source_cache, senders, mlps)[-1]
    normed = (stream - stream.mean(-1, keepdim=True)) / cache["ln_final.hook_scale"]
    return model.unembed(normed * model.ln_final.weight + model.ln_final.bias)


DIRECTION = (
    "This goes in the wrong direction: the run that is changed is that of `cache`, and the senders' outputs come from `source_cache`."
)
OTHER_MLPS = 'The two conventions are exchanged: with "frozen" every MLP keeps what it said in `cache`, with "recomputed" they respond.'

PATH_PATCH = Exercise(
    id="ioi.path_patch",
    chapter=CHAPTER,
    title="What does a head tell the logits?",
    points=4,
    minutes=35,
    difficulty=4,
    reference=ioi.path_patch,
    cases=path_cases,
    mistakes=[
        Mistake(
            "wrong_direction",
            lambda model, cache, source_cache, senders, mlps: _path()(model, source_cache, cache, senders, mlps),
            DIRECTION,
        ),
        Mistake(
            "mlps_exchanged",
            lambda model, cache, source_cache, senders, mlps: _path()(
                model, cache, source_cache, senders, _other(mlps)
            ),
            OTHER_MLPS,
        ),
        Mistake(
            "always_frozen",
            lambda model, cache, source_cache, senders, mlps: _path()(model, cache, source_cache, senders, "frozen"),
            'Your MLPs never respond. With "recomputed", each one from the sender\'s layer on answers to the stream that it now sees.',
        ),
        Mistake(
            "own_mlp_forgotten",
            _path(own_mlp=False),
            "The MLP of the sender's own layer comes after its heads, so it hears them too: recompute it as well.",
        ),
        Mistake(
            "heads_respond",
            _path(attention_too=True),
            "The wrong nodes respond: here the heads after the sender answer to the change. Every head but the senders keeps its output.",
        ),
        Mistake(
            "whole_layer",
            _path(whole_layer=True),
            "This takes the whole attention layer from the other run. Only the senders' own outputs change.",
        ),
        Mistake(
            "one_sender",
            _path(only=slice(1)),
            "Only the first sender is patched. All of them change together.",
        ),
        Mistake(
            "mlps_from_the_source",
            _path(mlps_from_source=True),
            "Your MLPs say what they said in the other run. They should answer to the stream that they see now.",
        ),
        Mistake(
            "no_final_norm",
            lambda model, cache, source_cache, senders, mlps: model.unembed(
                _streams(model, cache, source_cache, senders, mlps)[-1]
            ),
            "The final LayerNorm is missing between the stream and the unembedding: model.ln_final.",
        ),
        Mistake(
            "old_scale",
            _path_with_the_old_scale,
            "This divides by the scale of the unpatched run. Let model.ln_final compute it from the patched stream.",
        ),
    ],
    equivalents=[
        _path(),
        lambda model, cache, source_cache, senders, mlps: _path_from_below(model, cache, source_cache, senders, mlps),
    ],
    hints=[
        "Keep one number going up through the layers: by how much the stream has changed. It starts at 0, and the senders and the MLPs add to it.",
        "A sender adds (source z - z) @ W_O. A recomputed MLP adds block.mlp(block.ln2(resid_pre + attn_out + change)) less what it said: cache['mlp_out', layer].",
        "return model.unembed(model.ln_final(cache['resid_post', last] + change)), after a loop over model.blocks.",
    ],
)


def _path_from_below(model: Any, cache: Any, source_cache: Any, senders: Any, mlps: str) -> Tensor:
    """The same, adding up the stream from the embeddings."""
    stream = cache["resid_pre", 0]
    for layer, block in enumerate(model.blocks):
        z = cache["z", layer].clone()
        for head in [head for at, head in senders if at == layer]:
            z[:, :, head] = source_cache["z", layer][:, :, head]
        stream = stream + torch.einsum("bphd,hdm->bpm", z, model.W_O[layer]) + model.b_O[layer]
        stream = stream + (cache["mlp_out", layer] if mlps == "frozen" else block.mlp(block.ln2(stream)))
    return model.unembed(model.ln_final(stream))


# --------------------------------------------------------------------------------------------- path_patch_to_receivers


def receiver_cases(seed: int) -> Iterable[Case]:
    for k, (batch, length, senders, receivers, mlps, sizes) in enumerate(
        [
            (3, 7, [(0, 1)], [(1, 0, "q")], "frozen", {}),
            (3, 6, [(0, 0)], [(1, 1, "k")], "recomputed", {}),
            (2, 6, [(0, 1)], [(2, 0, "v")], "recomputed", {}),
            (1, 6, [(0, 0), (1, 1)], [(2, 1, "v"), (2, 0, "q")], "frozen", {}),
            (2, 7, [(0, 1)], [(1, 0, "v"), (2, 1, "k"), (2, 1, "v")], "recomputed", {}),
            (2, 6, [(1, 0)], [(1, 1, "v")], "recomputed", {}),
            (2, 6, [(0, 2)], [(1, 0, "v")], "frozen", {"attention_only": True, "heads": 3}),
        ]
    ):
        model = random_gpt2(seed + k, **sizes)
        here, there = twins(seed + k, batch, length, [1, 2, 4])
        yield Case(
            {
                "model": model,
                "tokens": here,
                "cache": run_of(model, here),
                "source_cache": run_of(model, there),
                "senders": senders,
                "receivers": receivers,
                "mlps": mlps,
            },
            note={5: "a receiver in the sender's own layer, which cannot hear it"}.get(k, f"MLPs {mlps}"),
        )
    for sender, receiver, expected in [
        ((0, 1), (1, 0, "v"), 4),
        ((0, 1), (1, 2, "v"), -4),
        ((1, 0), (2, 1, "v"), 4),
        ((1, 0), (2, 1, "k"), -4),
        ((0, 1), (2, 1, "v"), -4),
    ]:
        yield _diamond(sender, receiver, expected)


def _diamond(sender: tuple[int, int], receiver: tuple[int, int, str], expected: float) -> Case:
    """The hand-written diamond, denoising `0 . =` (words <bos>, <unk>, 0, 1, ., =, no, yes) from `1 . =`."""
    model = Recipe("handmade", {"name": "diamond"})
    corrupted = torch.tensor([[0, 2, 4, 5]])
    edge = f"{sender[0]}.{sender[1]} -> {receiver[0]}.{receiver[1]} {receiver[2]}"
    return Case(
        {
            "model": model,
            "tokens": corrupted,
            "cache": run_of(model, corrupted),
            "source_cache": run_of(model, torch.tensor([[0, 3, 4, 5]])),
            "senders": [sender],
            "receivers": [receiver],
            "mlps": "frozen",
        },
        note=f"the hand-written diamond, {edge}",
        truth=lambda out: (
            None
            if abs(float(out[0, -1, 7] - out[0, -1, 6]) - expected) < 0.05
            else f"The edge {edge} of the hand-written diamond should give a logit difference of {expected}."
        ),
    )


def _to_receivers(
    seen: Callable[[Any, list[Tensor], int], Tensor] = lambda model, streams, layer: model.blocks[layer].ln1(streams[layer]),
    part_of: Callable[[str], str] = lambda part: part,
    bias: bool = True,
    all_heads: bool = False,
    only: slice = slice(None),
    **otherwise: Any,
) -> Callable:
    """path_patch_to_receivers with one thing done otherwise."""

    def answer(
        model: Any, tokens: Tensor, cache: Any, source_cache: Any, senders: Any, receivers: Any, mlps: str
    ) -> Tensor:
        streams = _streams(model, cache, source_cache, senders, mlps, **otherwise)
        hooks = []
        for layer, head, part in receivers[only]:
            part = part_of(part)
            heads = range(model.cfg.n_heads) if all_heads else [head]
            x = seen(model, streams, layer)

            def put(value: Tensor, hook: Any, layer: int = layer, heads: Any = heads, part: str = part, x: Tensor = x):
                value = value.clone()
                for h in heads:
                    value[:, :, h] = x @ getattr(model, f"W_{part.upper()}")[layer, h]
                    if bias:
                        value[:, :, h] += getattr(model, f"b_{part.upper()}")[layer, h]
                return value

            hooks.append((f"blocks.{layer}.attn.hook_{part}", put))
        return model.run_with_hooks(tokens, fwd_hooks=hooks)

    return answer


def _receivers_from_the_source(
    model: Any, tokens: Tensor, cache: Any, source_cache: Any, senders: Any, receivers: Any, mlps: str
) -> Tensor:
    hooks = []
    for layer, head, part in receivers:

        def put(value: Tensor, hook: Any, layer: int = layer, head: int = head, part: str = part) -> Tensor:
            value = value.clone()
            value[:, :, head] = source_cache[part, layer][:, :, head]
            return value

        hooks.append((f"blocks.{layer}.attn.hook_{part}", put))
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


def _the_whole_stream(
    model: Any, tokens: Tensor, cache: Any, source_cache: Any, senders: Any, receivers: Any, mlps: str
) -> Tensor:
    streams = _streams(model, cache, source_cache, senders, mlps)
    hooks = [
        (f"blocks.{layer}.hook_resid_pre", lambda value, hook, layer=layer: streams[layer])
        for layer in {layer for layer, _, _ in receivers}
    ]
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


def _without_norm(
    model: Any, tokens: Tensor, cache: Any, source_cache: Any, senders: Any, receivers: Any, mlps: str
) -> Tensor:
    streams = _streams(model, cache, source_cache, senders, mlps)
    hooks = []
    for layer, head, part in receivers:

        def put(value: Tensor, hook: Any, layer: int = layer, head: int = head, part: str = part) -> Tensor:
            value = value.clone()
            change = streams[layer] - cache["resid_pre", layer]
            value[:, :, head] += change @ getattr(model, f"W_{part.upper()}")[layer, head]
            return value

        hooks.append((f"blocks.{layer}.attn.hook_{part}", put))
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


PATH_PATCH_TO_RECEIVERS = Exercise(
    id="ioi.path_patch_to_receivers",
    chapter=CHAPTER,
    title="What does a head tell another head?",
    points=4,
    minutes=35,
    difficulty=4,
    reference=ioi.path_patch_to_receivers,
    cases=receiver_cases,
    mistakes=[
        Mistake(
            "wrong_direction",
            lambda model, tokens, cache, source_cache, senders, receivers, mlps: _to_receivers()(
                model, tokens, source_cache, cache, senders, receivers, mlps
            ),
            DIRECTION,
        ),
        Mistake(
            "receiver_from_the_source",
            _receivers_from_the_source,
            "The receiver is not recomputed: this copies its queries, keys or values from the other run, where it heard everything. Compute them from "
            "the stream in which the senders alone have changed.",
        ),
        Mistake(
            "whole_stream",
            _the_whole_stream,
            "This puts the changed stream in for everybody, so all heads of that layer and all that follows hear it. Only the receivers' inputs change.",
        ),
        Mistake(
            "no_norm",
            _without_norm,
            "This adds the change to the receiver's input without the LayerNorm in front of it: block.ln1(changed stream), then the weights.",
        ),
        Mistake(
            "all_heads",
            _to_receivers(all_heads=True),
            "All heads of the receiver's layer hear the change. Only the receiver should: the hook holds [batch, position, head, d_head].",
        ),
        Mistake(
            "no_bias",
            _to_receivers(bias=False),
            "The bias of the queries, keys or values is missing: model.b_Q, b_K, b_V.",
        ),
        Mistake(
            "always_queries",
            _to_receivers(part_of=lambda part: "q"),
            "This always patches the queries. The third entry of a receiver says which input: q, k or v.",
        ),
        Mistake(
            "keys_and_values_exchanged",
            _to_receivers(part_of=lambda part: {"k": "v", "v": "k"}.get(part, part)),
            "Keys and values are exchanged.",
        ),
        Mistake(
            "after_the_layer",
            _to_receivers(seen=lambda model, streams, layer: model.blocks[layer].ln1(streams[layer + 1])),
            "The receiver reads the stream before its layer. This is the stream after it.",
        ),
        Mistake(
            "one_receiver",
            _to_receivers(only=slice(1)),
            "Only the first receiver is patched. All of them change together.",
        ),
        Mistake(
            "mlps_exchanged",
            lambda model, tokens, cache, source_cache, senders, receivers, mlps: _to_receivers()(
                model, tokens, cache, source_cache, senders, receivers, _other(mlps)
            ),
            OTHER_MLPS,
        ),
        Mistake(
            "heads_respond",
            _to_receivers(attention_too=True),
            "The wrong nodes respond: heads between sender and receiver answer to the change. They keep what they said.",
        ),
    ],
    equivalents=[
        _to_receivers(),
        lambda model, tokens, cache, source_cache, senders, receivers, mlps: _receivers_one_by_one(
            model, tokens, cache, source_cache, senders, receivers, mlps
        ),
    ],
    hints=[
        "First the stream that each receiver would see: the same loop as in path_patch, stopped before the receiver's layer.",
        "mine = model.blocks[layer].ln1(stream) @ model.W_Q[layer, head] + model.b_Q[layer, head], or K, or V; a hook on blocks.{layer}.attn.hook_q puts it in.",
        "Collect one hook a receiver, with head and value bound (a default argument or partial), and return model.run_with_hooks(tokens, fwd_hooks=hooks).",
    ],
)


def _receivers_one_by_one(
    model: Any, tokens: Tensor, cache: Any, source_cache: Any, senders: Any, receivers: Any, mlps: str
) -> Tensor:
    """The same by adding up the stream, with the hooks kept by name."""
    by_hook: dict[str, list[tuple[int, Tensor]]] = {}
    for layer, head, part in receivers:
        stream = cache["resid_pre", 0]
        for below, block in enumerate(model.blocks[:layer] if layer else []):
            z = cache["z", below].clone()
            for sender in [h for at, h in senders if at == below]:
                z[:, :, sender] = source_cache["z", below][:, :, sender]
            stream = stream + torch.einsum("bphd,hdm->bpm", z, model.W_O[below]) + model.b_O[below]
            stream = stream + (cache["mlp_out", below] if mlps == "frozen" else block.mlp(block.ln2(stream)))
        weight, bias = getattr(model, f"W_{part.upper()}"), getattr(model, f"b_{part.upper()}")
        new = model.blocks[layer].ln1(stream) @ weight[layer, head] + bias[layer, head]
        by_hook.setdefault(f"blocks.{layer}.attn.hook_{part}", []).append((head, new))

    def put(value: Tensor, hook: Any, changes: Any) -> Tensor:
        value = value.clone()
        for head, new in changes:
            value[:, :, head] = new
        return value

    return model.run_with_hooks(tokens, fwd_hooks=[(name, partial(put, changes=c)) for name, c in by_hook.items()])

# ---------------------------------------------------------------------------------------------------- precision_recall


def sets_cases(seed: int) -> Iterable[Case]:
    truth = [(0, 1), (0, 3), (1, 0), (1, 2), (3, 0)]
    for found, true, note in [
        ([(0, 1), (1, 0), (2, 2)], truth, ""),
        ([(0, 1), (0, 3), (1, 0), (1, 2), (3, 0), (2, 1), (2, 2)], truth, "everything found, and more"),
        (truth, truth, "all right"),
        ([(2, 2)], truth, "nothing right"),
        ([(0, 1), (0, 1), (3, 0), (2, 2), (2, 2), (2, 2)], truth, "heads named more than once"),
        ([(1, 0)], [(1, 0), (1, 0), (0, 1)], "a truth that names a head twice"),
        ([], truth, "nothing found"),
        ([(3, 0), (1, 0)], [(0, 3), (1, 0), (0, 1)], "layer and head in another order"),
    ]:
        yield Case({"found": found, "truth": true}, note=note)


def _scores(found: Any, truth: Any) -> tuple[float, float]:
    found, truth = set(found), set(truth)
    hits = len(found & truth)
    return (hits / len(found) if found else 1.0), hits / len(truth)


def _counted(found: Any, truth: Any) -> tuple[float, float]:
    hits = sum(node in truth for node in found)
    return (hits / len(found) if found else 1.0), hits / len(truth)


def _any_order(found: Any, truth: Any) -> tuple[float, float]:
    return _scores([tuple(sorted(node)) for node in found], [tuple(sorted(node)) for node in truth])


PRECISION_RECALL = Exercise(
    id="ioi.precision_recall",
    chapter=CHAPTER,
    title="How much of it is right, and how much was missed?",
    points=1,
    minutes=5,
    difficulty=1,
    reference=ioi.precision_recall,
    cases=sets_cases,
    mistakes=[
        Mistake(
            "exchanged",
            lambda found, truth: _scores(found, truth)[::-1],
            "Precision and recall are exchanged. Precision is the share of what you found that is true.",
        ),
        Mistake(
            "counted_twice",
            _counted,
            "What is named twice counts twice here. Make sets first.",
        ),
        Mistake(
            "nothing_is_zero",
            lambda found, truth: (0.0, 0.0) if not found else _scores(found, truth),
            "If nothing was found, nothing of it is wrong: the exercise asks for precision 1 then.",
        ),
        Mistake(
            "over_the_union",
            lambda found, truth: (
                len(set(found) & set(truth)) / len(set(found) | set(truth)),
                len(set(found) & set(truth)) / len(set(truth)),
            ),
            "Your precision divides by the union of both sets. Divide by the number of things found.",
        ),
        Mistake(
            "percent",
            lambda found, truth: tuple(100 * score for score in _scores(found, truth)),
            "These are percentages. Return shares between 0 and 1.",
        ),
        Mistake(
            "any_order",
            _any_order,
            "Head 0.3 is taken for head 3.0 here: the order of (layer, head) matters.",
        ),
        Mistake(
            "recall_over_the_union",
            lambda found, truth: (
                len(set(found) & set(truth)) / max(len(set(found)), 1),
                len(set(found) & set(truth)) / len(set(found) | set(truth)),
            ),
            "Your recall divides by the union of both sets. Divide by the number of things that are true.",
        ),
    ],
    equivalents=[
        _scores,
        lambda found, truth: (
            sum(node in truth for node in set(found)) / len(set(found)) if found else 1.0,
            sum(node in found for node in set(truth)) / len(set(truth)),
        ),
    ],
    hints=[
        "Both count the same hits, and divide by something else.",
        "hits = len(set(found) & set(truth)).",
        "hits / len(set(found)) if found else 1.0, and hits / len(set(truth)).",
    ],
)

# --------------------------------------------------------------------------------------------------- reference_means


def references_cases(seed: int) -> Iterable[Case]:
    for k, (samples, batch, length, sizes) in enumerate(
        [(4, 3, 6, {}), (1, 2, 5, {}), (3, 1, 7, {}), (2, 4, 5, {"heads": 3, "attention_only": True})]
    ):
        yield Case(
            {"model": random_gpt2(seed + k, **sizes), "references": ids(seed + k, samples, batch, length)},
            note={1: "one sample", 2: "a batch of one"}.get(k, ""),
        )


def _mean_of(
    references: Tensor, model: Any, over: Callable[[Tensor], Tensor], hooks: Sequence[str] = ("attn.hook_z", "hook_mlp_out")
) -> dict[str, Tensor]:
    samples, batch, length = references.shape
    names = [f"blocks.{layer}.{hook}" for layer in range(model.cfg.n_layers) for hook in hooks]
    _, cache = model.run_with_cache(references.flatten(0, 1), names_filter=names)
    return {name: over(cache[name].unflatten(0, (samples, batch))) for name in names}


def _means(over: Callable[[Tensor], Tensor], **otherwise: Any) -> Callable:
    return lambda model, references: _mean_of(references, model, over, **otherwise)


REFERENCE_MEANS = Exercise(
    id="ioi.reference_means",
    chapter=CHAPTER,
    title="What does every component say on average?",
    points=2,
    minutes=15,
    difficulty=2,
    reference=ioi.reference_means,
    cases=references_cases,
    mistakes=[
        Mistake(
            "over_the_prompts_too",
            _means(lambda x: x.mean(dim=(0, 1))),
            "This averages over the prompts too. Their words stand at other positions: only the samples of the same prompt line up.",
        ),
        Mistake(
            "over_the_prompts",
            _means(lambda x: x.mean(dim=1)),
            "This averages over the prompts and keeps the samples. The samples are the first axis: average over them.",
        ),
        Mistake(
            "over_the_positions_too",
            _means(lambda x: x.mean(dim=(0, 2), keepdim=True)[0].expand_as(x[0])),
            "This averages over the positions too, so that every word says the same. Each position keeps its own mean.",
        ),
        Mistake("summed", _means(lambda x: x.sum(dim=0)), "This is the sum over the samples. Divide by their number."),
        Mistake(
            "one_sample",
            _means(lambda x: x[0]),
            "This is the first sample alone: that would be a resample ablation. Average over all samples.",
        ),
        Mistake(
            "no_mlps",
            _means(lambda x: x.mean(dim=0), hooks=("attn.hook_z",)),
            'The MLPs are missing: f"blocks.{layer}.hook_mlp_out" for every layer.',
        ),
        Mistake(
            "whole_attention",
            _means(lambda x: x.mean(dim=0), hooks=("hook_attn_out", "hook_mlp_out")),
            'This takes the whole attention\'s output. Heads are told apart before W_O: f"blocks.{layer}.attn.hook_z".',
        ),
    ],
    equivalents=[
        _means(lambda x: x.mean(dim=0)),
        lambda model, references: _running_means(model, references),
    ],
    hints=[
        "Run the model once for each sample, and keep two hooks of every layer.",
        "The hooks are f'blocks.{layer}.attn.hook_z' and f'blocks.{layer}.hook_mlp_out'; run_with_cache takes names_filter=names.",
        "{name: torch.stack([cache[name] for cache in caches]).mean(dim=0) for name in names}.",
    ],
)


def _running_means(model: Any, references: Tensor) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for tokens in references:
        _, cache = model.run_with_cache(tokens)
        for layer in range(model.cfg.n_layers):
            for name in (f"blocks.{layer}.attn.hook_z", f"blocks.{layer}.hook_mlp_out"):
                total[name] = total.get(name, 0) + cache[name] / len(references)
    return total


# ----------------------------------------------------------------------------------------------------------- knock_out


def task(seed: int, batch: int, length: int, layers: int = 3, heads: int = 2, d_head: int = 5) -> dict[str, Any]:
    """A task of random prompts, with means and roles that divide the positions."""
    at = places(seed, batch, length)
    where = torch.arange(length)
    roles = {role: where == at[role][:, None] for role in ("s2", "end")}
    roles["rest"] = ~(roles["s2"] | roles["end"])
    means = {}
    for layer in range(layers):
        means[f"blocks.{layer}.attn.hook_z"] = draws(seed + layer, batch, length, heads, d_head)
        means[f"blocks.{layer}.hook_mlp_out"] = draws(seed + layer + 50, batch, length, heads * d_head)
    return {
        "tokens": ids(seed, batch, length),
        "means": means,
        "roles": roles,
        "answers": pairs(seed, batch),
        "end": at["end"],
    }


NODES: list[Any] = [
    (layer, part, role) for layer in range(3) for part in (0, 1, "mlp") for role in ("s2", "end", "rest")
]


def some_nodes(seed: int, n: int) -> list[Any]:
    order = torch.randperm(len(NODES), generator=torch.Generator().manual_seed(seed))
    return [NODES[i] for i in order[:n].tolist()]


def knock_out_cases(seed: int) -> Iterable[Case]:
    for k, (batch, length, keep, note) in enumerate(
        [
            (3, 8, some_nodes(seed, 12), ""),
            (1, 7, some_nodes(seed + 1, 8), "a batch of one"),
            (2, 7, [], "nothing is kept"),
            (2, 8, list(NODES), "everything is kept"),
            (4, 9, [(0, 1, "s2"), (0, 1, "end"), (2, 0, "rest"), (1, "mlp", "end"), (1, 0, "s2")], ""),
            (2, 7, [(layer, head, "rest") for layer in range(3) for head in range(2)], "heads only"),
            (2, 7, [(layer, "mlp", role) for layer in range(3) for role in ("s2", "rest", "end")], "MLPs only"),
        ]
    ):
        given = task(seed + k, batch, length)
        yield Case(
            {
                "model": random_gpt2(seed + k),
                "tokens": given["tokens"],
                "means": given["means"],
                "keep": keep,
                "roles": given["roles"],
            },
            note=note,
        )


def _knock(
    kept: Callable[[dict, Any, Any], bool] = lambda roles, node, keep: node in keep,
    invert: bool = False,
    mlps: bool = True,
    value: Callable[[Tensor], Tensor] = lambda mean: mean,
    every_role: bool = False,
    last_role: bool = False,
) -> Callable:
    """knock_out with one thing done otherwise."""

    def answer(model: Any, tokens: Tensor, means: dict, keep: Any, roles: dict) -> Tensor:
        def mask(layer: int, part: Any) -> Tensor:
            own = torch.zeros_like(tokens, dtype=torch.bool)
            for role, where in roles.items():
                if (layer, part, role) in keep or (
                    every_role and any((layer, part, other) in keep for other in roles)
                ):
                    own = where if last_role else own | where
            return ~own if invert else own

        hooks = []
        for layer in range(model.cfg.n_layers):
            heads = torch.stack([mask(layer, head) for head in range(model.cfg.n_heads)], -1)[..., None]
            z, out = f"blocks.{layer}.attn.hook_z", f"blocks.{layer}.hook_mlp_out"
            hooks.append((z, lambda x, hook, heads=heads, z=z: torch.where(heads, x, value(means[z]))))
            own = mask(layer, "mlp")[..., None]
            if mlps:
                hooks.append((out, lambda x, hook, own=own, out=out: torch.where(own, x, value(means[out]))))
        return model.run_with_hooks(tokens, fwd_hooks=hooks)

    return answer


def _from_a_clean_run(model: Any, tokens: Tensor, means: dict, keep: Any, roles: dict) -> Tensor:
    """What is kept says what it said in the run where nothing was knocked out."""
    _, cache = model.run_with_cache(tokens)
    hooks = []
    for name, mean in means.items():
        layer, is_mlp = int(name.split(".")[1]), name.endswith("mlp_out")
        value = mean.clone()
        for where, part, role in keep:
            if where == layer and (part == "mlp") == is_mlp:
                at = roles[role]
                if is_mlp:
                    value[at] = cache[name][at]
                else:
                    value[:, :, part][at] = cache[name][:, :, part][at]
        hooks.append((name, lambda x, hook, value=value: value))
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


KNOCK_OUT = Exercise(
    id="ioi.knock_out",
    chapter=CHAPTER,
    title="Keep the circuit, silence the rest",
    points=4,
    minutes=35,
    difficulty=4,
    reference=ioi.knock_out,
    cases=knock_out_cases,
    mistakes=[
        Mistake(
            "kept_is_knocked_out",
            _knock(invert=True),
            "This knocks out what should be kept, and keeps the rest.",
        ),
        Mistake(
            "zeros",
            _knock(value=torch.zeros_like),
            "This puts zeros in. What is knocked out writes its mean on the reference prompts.",
        ),
        Mistake(
            "mlps_all_work",
            _knock(mlps=False),
            "Every MLP still works. They are components like the heads: those that are not kept write their mean.",
        ),
        Mistake(
            "at_every_position",
            _knock(every_role=True),
            "A component that is kept at one role works at every position here. It should work at the positions of its role alone.",
        ),
        Mistake(
            "last_role_only",
            _knock(last_role=True),
            "A component that is kept at two roles works at one of them only. Its roles add up (|).",
        ),
        Mistake(
            "one_mean_for_all_positions",
            _knock(value=lambda mean: mean.mean(dim=1, keepdim=True).expand_as(mean)),
            "This puts one mean in for all positions. The means are given for each position by itself.",
        ),
        Mistake(
            "one_mean_for_all_prompts",
            _knock(value=lambda mean: mean.mean(dim=0, keepdim=True).expand_as(mean)),
            "This averages the means over the prompts. Each prompt has its own, because its words stand elsewhere.",
        ),
        Mistake(
            "kept_is_frozen",
            _from_a_clean_run,
            "What is kept repeats what it said in the whole model. It must work on what is left: let it compute, and replace only the others.",
        ),
    ],
    equivalents=[
        _knock(),
        lambda model, tokens, means, keep, roles: _knock_by_component(model, tokens, means, keep, roles),
    ],
    hints=[
        "For every component of every layer you need a mask [batch, position]: True at the roles where it is kept.",
        "torch.where(mask[..., None], activation, means[name]) on both hooks of a layer; stack the heads' masks along the head axis.",
        "own[part] = own[part] | roles[role] for the nodes of this layer; then one hook for z, one for mlp_out, each with its mask bound (partial).",
    ],
)


def _knock_by_component(model: Any, tokens: Tensor, means: dict, keep: Any, roles: dict) -> Tensor:
    """The same with one hook a component."""
    hooks = []
    for layer in range(model.cfg.n_layers):
        for part in [*range(model.cfg.n_heads), "mlp"]:
            out = torch.ones_like(tokens, dtype=torch.bool)
            for where in [where for role, where in roles.items() if (layer, part, role) in keep]:
                out = out & ~where
            name = f"blocks.{layer}.{'hook_mlp_out' if part == 'mlp' else 'attn.hook_z'}"

            def put(x: Tensor, hook: Any, name: str = name, part: Any = part, out: Tensor = out) -> Tensor:
                x = x.clone()
                if part == "mlp":
                    x[out] = means[name][out]
                else:
                    x[:, :, part][out] = means[name][:, :, part][out]
                return x

            hooks.append((name, put))
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


# -------------------------------------------------------------------------------------------------------- faithfulness


def faith_cases(seed: int) -> Iterable[Case]:
    for batch, dtype, note in [
        (6, torch.float32, ""),
        (1, torch.float32, "a single prompt"),
        (4, torch.float64, "float64"),
        (9, torch.float32, "prompts on which nothing and the model agree"),
    ]:
        model = draws(seed, batch, dtype=dtype) + 4
        nothing = draws(seed + 1, batch, dtype=dtype) * 0.5 + 0.7
        if batch == 9:
            nothing[2] = model[2]
        yield Case({"circuit": draws(seed + 2, batch, dtype=dtype) + 3, "model": model, "nothing": nothing}, note=note)


FAITHFULNESS = Exercise(
    id="ioi.faithfulness",
    chapter=CHAPTER,
    title="Does the circuit do what the model does?",
    points=1,
    minutes=10,
    difficulty=2,
    reference=ioi.faithfulness,
    cases=faith_cases,
    mistakes=[
        Mistake(
            "mean_of_ratios",
            lambda circuit, model, nothing: (
                (model - circuit).mean(),
                ((circuit - nothing) / (model - nothing)).mean(),
            ),
            "This divides prompt by prompt and averages the ratios, which one prompt with a small difference can upset. Average first, then divide.",
        ),
        Mistake(
            "without_nothing",
            lambda circuit, model, nothing: ((model - circuit).mean(), circuit.mean() / model.mean()),
            "Your ratio begins at 0. It should begin at what is left when everything is knocked out: subtract `nothing` above and below.",
        ),
        Mistake(
            "sign",
            lambda circuit, model, nothing: (
                (circuit - model).mean(),
                (circuit.mean() - nothing.mean()) / (model.mean() - nothing.mean()),
            ),
            "The difference has the wrong sign: model less circuit.",
        ),
        Mistake(
            "absolute",
            lambda circuit, model, nothing: (
                (model - circuit).abs().mean(),
                (circuit.mean() - nothing.mean()) / (model.mean() - nothing.mean()),
            ),
            "The difference is one of means. This averages the distance on each prompt, which cannot come out below zero.",
        ),
        Mistake(
            "upside_down",
            lambda circuit, model, nothing: (
                (model - circuit).mean(),
                (model.mean() - nothing.mean()) / (circuit.mean() - nothing.mean()),
            ),
            "The ratio stands upside down: the circuit above, the model below.",
        ),
        Mistake(
            "what_is_missing",
            lambda circuit, model, nothing: (
                (model - circuit).mean(),
                (model.mean() - circuit.mean()) / (model.mean() - nothing.mean()),
            ),
            "This is the share that is missing. Return the share that the circuit keeps: 1 is a perfect circuit.",
        ),
    ],
    equivalents=[
        lambda circuit, model, nothing: (
            (model - circuit).mean(),
            (circuit - nothing).mean() / (model - nothing).mean(),
        ),
        lambda circuit, model, nothing: (
            model.mean() - circuit.mean(),
            1 - (model - circuit).sum() / (model - nothing).sum(),
        ),
    ],
    hints=[
        "Three means over the prompts, and nothing else.",
        "The ratio is how far the circuit gets on the way from `nothing` to `model`.",
        "(circuit.mean() - nothing.mean()) / (model.mean() - nothing.mean()).",
    ],
)

# ---------------------------------------------------------------------------------------------------- completeness_gap


def completeness_cases(seed: int) -> Iterable[Case]:
    for k, (batch, size, removed, note) in enumerate(
        [
            (3, 12, 3, ""),
            (1, 10, 2, "a batch of one"),
            (2, 9, 0, "nothing is removed"),
            (2, 8, 8, "the whole circuit is removed"),
        ]
    ):
        circuit = some_nodes(seed + k, size)
        yield Case(
            {
                "model": random_gpt2(seed + k),
                "task": task(seed + k, batch, 8),
                "circuit": circuit,
                "removed": circuit[1 : removed + 1] if removed < size else circuit,
            },
            note=note,
        )


def _score(model: Any, task: dict, keep: Any) -> Tensor:
    logits = _knock()(model, task["tokens"], task["means"], keep, task["roles"])
    return _difference(_chosen(logits, task["answers"], task["end"])).mean()


def _everything(model: Any, task: dict) -> list[Any]:
    parts = [*range(model.cfg.n_heads), "mlp"]
    return [(layer, part, role) for layer in range(model.cfg.n_layers) for part in parts for role in task["roles"]]


def _without(nodes: Any, removed: Any) -> list[Any]:
    return [node for node in nodes if node not in removed]


COMPLETENESS_GAP = Exercise(
    id="ioi.completeness_gap",
    chapter=CHAPTER,
    title="Does the circuit break as the model breaks?",
    points=2,
    minutes=15,
    difficulty=3,
    reference=ioi.completeness_gap,
    cases=completeness_cases,
    mistakes=[
        Mistake(
            "signed",
            lambda model, task, circuit, removed: (
                _score(model, task, _without(circuit, removed))
                - _score(model, task, _without(_everything(model, task), removed))
            ),
            "This has a sign. The gap is an absolute value.",
        ),
        Mistake(
            "whole_model",
            lambda model, task, circuit, removed: (
                _score(model, task, _without(circuit, removed)) - _score(model, task, _everything(model, task))
            ).abs(),
            "This compares with the whole model. Take the removed nodes out of the model as well.",
        ),
        Mistake(
            "whole_circuit",
            lambda model, task, circuit, removed: (
                _score(model, task, circuit) - _score(model, task, _without(_everything(model, task), removed))
            ).abs(),
            "The removed nodes are still in the circuit. Take them out of both.",
        ),
        Mistake(
            "change_of_the_circuit",
            lambda model, task, circuit, removed: (
                _score(model, task, _without(circuit, removed)) - _score(model, task, circuit)
            ).abs(),
            "This compares the circuit with itself. Compare the circuit without the nodes with the model without the nodes.",
        ),
        Mistake(
            "model_without_the_circuit",
            lambda model, task, circuit, removed: (
                _score(model, task, _without(circuit, removed))
                - _score(model, task, _without(_everything(model, task), circuit))
            ).abs(),
            "This takes the whole circuit out of the model. Only the removed nodes go.",
        ),
        Mistake(
            "removed_is_kept",
            lambda model, task, circuit, removed: (
                _score(model, task, removed) - _score(model, task, _without(_everything(model, task), removed))
            ).abs(),
            "The first of your two runs keeps the removed nodes and nothing else. It should keep the circuit without them.",
        ),
    ],
    equivalents=[
        lambda model, task, circuit, removed: (
            _score(model, task, _without(circuit, removed))
            - _score(model, task, _without(_everything(model, task), removed))
        ).abs(),
        lambda model, task, circuit, removed: abs(
            _score(model, task, set(_everything(model, task)) - set(removed))
            - _score(model, task, set(circuit) - set(removed))
        ),
    ],
    hints=[
        "Two runs: in both, the removed nodes are knocked out.",
        'The whole model is every (layer, part, role): all layers, all heads and "mlp", all of task["roles"]. `all_nodes` gives them.',
        "(circuit_score(model, task, kept) - circuit_score(model, task, rest)).abs(), with `removed` left out of both lists.",
    ],
)

# ---------------------------------------------------------------------------------------------------- minimality_score


def minimality_cases(seed: int) -> Iterable[Case]:
    for k, (batch, size, sizes, note) in enumerate(
        [
            (2, 10, [0, 3, 5], ""),
            (1, 8, [4, 2], "a batch of one"),
            (2, 7, [0], "the empty subset alone: the naive removal"),
            (2, 9, [2, 3, 0, 6], "the largest change is not the first one"),
        ]
    ):
        circuit = some_nodes(seed + k, size)
        subsets = [circuit[-n:] if n else [] for n in sizes]
        yield Case(
            {
                "model": random_gpt2(seed + k),
                "task": task(seed + k, batch, 8),
                "circuit": circuit,
                "node": circuit[0],
                "subsets": subsets,
            },
            note=note,
        )


def _changes(model: Any, task: dict, circuit: Any, node: Any, subsets: Any) -> Tensor:
    changes = []
    for subset in subsets:
        left = _without(circuit, subset)
        changes.append(_score(model, task, left) - _score(model, task, _without(left, [node])))
    return torch.stack(changes)


MINIMALITY_SCORE = Exercise(
    id="ioi.minimality_score",
    chapter=CHAPTER,
    title="Is every node needed?",
    points=3,
    minutes=25,
    difficulty=4,
    reference=ioi.minimality_score,
    cases=minimality_cases,
    optional=True,
    mistakes=[
        Mistake(
            "naive",
            lambda model, task, circuit, node, subsets: _changes(model, task, circuit, node, [[]])[0].abs(),
            "This removes the node from the whole circuit only. A node that others back up then looks useless: remove it from the circuit without each subset, too.",
        ),
        Mistake(
            "signed",
            lambda *inputs: _changes(*inputs).max(),
            "A node that works against the circuit changes the score as well. Take the absolute change before the largest.",
        ),
        Mistake(
            "mean",
            lambda *inputs: _changes(*inputs).abs().mean(),
            "This is the mean over the subsets. Minimality asks for the largest change: it is enough that the node matters once.",
        ),
        Mistake(
            "smallest",
            lambda *inputs: _changes(*inputs).abs().min(),
            "This is the smallest change. Take the largest.",
        ),
        Mistake(
            "from_the_whole_circuit",
            lambda model, task, circuit, node, subsets: torch.stack(
                [
                    (_score(model, task, circuit) - _score(model, task, _without(circuit, [node, *subset]))).abs()
                    for subset in subsets
                ]
            ).max(),
            "This counts what the subset does as well. Compare the circuit without the subset with the circuit without the subset and the node.",
        ),
        Mistake(
            "all_changes",
            lambda *inputs: _changes(*inputs).abs(),
            "This is the change for every subset. Return the largest.",
        ),
        Mistake(
            "keeps_the_subset",
            lambda model, task, circuit, node, subsets: torch.stack(
                [(_score(model, task, subset) - _score(model, task, [*subset, node])).abs() for subset in subsets]
            ).max(),
            "This keeps the subset alone. The subset is what is taken out of the circuit.",
        ),
    ],
    equivalents=[
        lambda *inputs: _changes(*inputs).abs().max(),
        lambda model, task, circuit, node, subsets: max(
            abs(
                _score(model, task, set(circuit) - set(subset) - {node}) - _score(model, task, set(circuit) - set(subset))
            )
            for subset in subsets
        ),
    ],
    hints=[
        "For each subset two runs, which differ by the node alone.",
        "left = the circuit without the subset; compare its score with the score of left without the node.",
        "torch.stack(changes).max(), each change an absolute value.",
    ],
)

# -------------------------------------------------------------------------------------------------- name_copying_score


def copying_cases(seed: int) -> Iterable[Case]:
    for k, (names, layer, head, sizes, most, sign, note) in enumerate(
        [
            (40, 1, 0, {"vocabulary": 23}, 5, 1, ""),
            (40, 2, 1, {"vocabulary": 29}, 5, -1, "turned round"),
            (40, 1, 1, {"vocabulary": 31, "processed": True}, 3, 1, "the top three"),
            (30, 2, 2, {"vocabulary": 26, "heads": 3}, 8, 1, "the top eight"),
            (1, 1, 1, {"vocabulary": 20}, 19, 1, "a single name"),
        ]
    ):
        vocabulary = sizes["vocabulary"]
        generator = torch.Generator().manual_seed(seed + k)
        model = random_gpt2(seed + k, **sizes)
        d_model = 5 * sizes.get("heads", 2)
        yield Case(
            {
                "model": model,
                "stream": draws(seed + k, names, d_model) + 0.4,
                "names": torch.randint(0, vocabulary, (names,), generator=generator),
                "layer": layer,
                "head": head,
                "k": most,
                "sign": sign,
            },
            note=note,
        )
    model = Recipe("model", {"name": "ioi-known"})
    for layer, head, note in [(3, 0, "a name mover of ioi-known"), (1, 0, "an s-inhibition head of ioi-known")]:
        names = torch.arange(10, 60)
        yield Case(
            {
                "model": model,
                "stream": draws(seed, 50, 64),
                "names": names,
                "layer": layer,
                "head": head,
                "k": 5,
                "sign": 1,
            },
            note=note,
        )


def _copying(
    norm: bool = True,
    bias: bool = True,
    final: bool = True,
    turned: bool = True,
    top: Callable[[int], int] = lambda k: k,
    wrong_head: bool = False,
    which: str = "VO",
    count: bool = False,
    sign_late: bool = False,
) -> Callable:
    """name_copying_score with one thing done otherwise."""

    def answer(model: Any, stream: Tensor, names: Tensor, layer: int, head: int, k: int, sign: float) -> Tensor:
        read = model.blocks[layer].ln1(stream) if norm else stream
        head = 0 if wrong_head else head
        value = read @ model.W_V[layer, head] + (model.b_V[layer, head] if bias else 0)
        written = value @ model.W_O[layer, head]
        if which == "stream":
            written = written + stream
        written = sign * written if turned and not sign_late else written
        logits = model.unembed(model.ln_final(written) if final else written)
        logits = sign * logits if sign_late else logits
        hits = (logits.topk(top(k), dim=-1).indices == names[:, None]).any(-1).float()
        return hits.sum() if count else hits.mean()

    return answer


NAME_COPYING_SCORE = Exercise(
    id="ioi.name_copying_score",
    chapter=CHAPTER,
    title="If it looks at a name, does it say that name?",
    points=3,
    minutes=20,
    difficulty=3,
    reference=ioi.name_copying_score,
    cases=copying_cases,
    optional=True,
    mistakes=[
        Mistake(
            "no_norm",
            _copying(norm=False),
            "The head reads the stream through its layer's LayerNorm: model.blocks[layer].ln1.",
        ),
        Mistake(
            "no_bias",
            _copying(bias=False),
            "The bias of the values is missing: model.b_V[layer, head].",
        ),
        Mistake(
            "no_final_norm",
            _copying(final=False),
            "The final LayerNorm is missing between what is written and the unembedding: model.ln_final.",
        ),
        Mistake(
            "sign_forgotten",
            _copying(turned=False),
            "The sign is not used. With -1, what the head writes is turned round before the final LayerNorm.",
        ),
        Mistake(
            "top_one",
            _copying(top=lambda k: 1),
            "This asks whether the name is the likeliest token. It is enough that it is among the first k.",
        ),
        Mistake(
            "first_head",
            _copying(wrong_head=True),
            "This is head 0 of the layer, whichever head was asked for.",
        ),
        Mistake(
            "stream_left_in",
            _copying(which="stream"),
            "This adds what the head writes to the stream, which knows the name already. Decode what the head writes by itself.",
        ),
        Mistake(
            "counted",
            _copying(count=True),
            "This is the number of names. Return their share.",
        ),
    ],
    equivalents=[
        _copying(),
        lambda model, stream, names, layer, head, k, sign: _copying_by_rank(
            model, stream, names, layer, head, k, sign
        ),
    ],
    hints=[
        "If a head looks at one position alone, what it writes is that position's value through W_O.",
        "read = model.blocks[layer].ln1(stream); written = (read @ W_V + b_V) @ W_O; logits = model.unembed(model.ln_final(sign * written)).",
        "(logits.topk(k, dim=-1).indices == names[:, None]).any(dim=-1), and its mean.",
    ],
)


def _copying_by_rank(model: Any, stream: Tensor, names: Tensor, layer: int, head: int, k: int, sign: float) -> Tensor:
    value = torch.einsum("nd,dh->nh", model.blocks[layer].ln1(stream), model.W_V[layer, head]) + model.b_V[layer, head]
    logits = model.unembed(model.ln_final(value @ model.W_O[layer, head] * sign))
    rank = (logits > logits.gather(1, names[:, None])).sum(dim=1)
    return (rank < k).float().mean()


EXERCISES = [
    MEAN_LOGIT_DIFF,
    NAME_MOVER_SCORE,
    PATH_PATCH,
    S_INHIBITION_SCORE,
    PATH_PATCH_TO_RECEIVERS,
    PRECISION_RECALL,
    REFERENCE_MEANS,
    KNOCK_OUT,
    FAITHFULNESS,
    COMPLETENESS_GAP,
    MINIMALITY_SCORE,
    NAME_COPYING_SCORE,
]
