"""The exercises of chapter 05_ioi."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mechlib import circuits, heads, ioi
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


def _every_answer(logits: Tensor, answers: Tensor, end: Tensor) -> Tensor:
    last = logits[torch.arange(len(logits)), end]
    return (last[:, answers[:, 0]] - last[:, answers[:, 1]]).mean()


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
        Mistake(
            "answer_alone",
            lambda logits, answers, end: _chosen(logits, answers, end)[:, 0].mean(),
            "This is IO's logit alone. Subtract S's: a model that raises both knows nothing.",
        ),
        Mistake(
            "every_answer_for_every_prompt",
            lambda logits, answers, end: _every_answer(logits, answers, end),
            "This pairs every prompt with every prompt's answers. Index row by row: logits[rows, end].gather(1, answers).",
        ),
        Mistake(
            "every_end_for_every_prompt",
            lambda logits, answers, end: _difference(logits[:, end].mean(dim=1).gather(1, answers)).mean(),
            "logits[:, end] reads every prompt at every prompt's END. Index both axes together: logits[torch.arange(len(logits)), end].",
        ),
        Mistake(
            "everything_for_every_prompt",
            lambda logits, answers, end: (
                logits[:, end][..., answers[:, 0]] - logits[:, end][..., answers[:, 1]]
            ).mean(),
            "This reads every prompt at every prompt's END, for everybody's answers. Each has its own: logits[rows, end].gather(1, answers).",
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
    sizes_of: list[dict[str, Any]] = [{}, {}, {"processed": True}, {"attention_only": True, "heads": 3}]
    for k, ((batch, length), sizes) in enumerate(zip([(5, 9), (1, 7), (4, 10), (6, 8)], sizes_of, strict=True)):
        model, tokens, at = (
            random_gpt2(seed + k, **sizes),
            ids(seed + k, batch, length),
            places(seed + k, batch, length),
        )
        yield Case(
            {
                "model": model,
                "cache": run_of(model, tokens),
                "answers": pairs(seed + k, batch),
                "io": at["io"],
                "end": at["end"],
            },
            note="a batch of one" if batch == 1 else "",
        )


def _movers(
    look: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    last: Callable[[Tensor], Tensor] = lambda end: end,
    direction: Callable[[Tensor, Tensor], Tensor] = lambda W, answers: (W[:, answers[:, 0]] - W[:, answers[:, 1]]).T,
    weight: bool = True,
    centre: bool = True,
    scale: bool = True,
    average_first: bool = False,
    mean: bool = False,
    axes: str = "head batch",
    weight_last: bool = False,
    scale_at: Callable[[Tensor], Tensor] | None = None,
    bias: bool = False,
    at_io: bool = False,
    own_norm: bool = False,
    norm_bias: bool = False,
) -> Callable:
    """name_mover_score with one thing done otherwise."""

    def answer(model: Any, cache: Any, answers: Tensor, io: Tensor, end: Tensor) -> Any:
        rows, at = torch.arange(len(answers)), last(end)
        reader = direction(model.W_U, answers)
        if weight and not weight_last:
            reader = reader * model.ln_final.weight
        if centre:
            reader = reader - reader.mean(-1, keepdim=True)
        if weight_last:
            reader = reader * model.ln_final.weight
        if scale:
            reader = reader / cache["ln_final.hook_scale"][rows, scale_at(end) if scale_at else at]
        looks, writes = [], []
        for layer in range(model.cfg.n_layers):
            pattern = cache["pattern", layer]
            seen = look(pattern, end, io) if look else pattern[rows, :, end, io]
            said = torch.einsum("bhd,hdm->bhm", cache["z", layer][rows, io if at_io else at], model.W_O[layer])
            said = said + model.b_O[layer] if bias else said
            said = model.ln_final(said) if own_norm else said
            if average_first:
                said = said.mean(0, keepdim=True).expand_as(said)
            wrote = torch.einsum("bhm,bm->bh", said, reader)
            if norm_bias:
                wrote = wrote + (direction(model.W_U, answers) @ model.ln_final.bias)[:, None]
            looks.append(seen.T if axes == "head batch" else seen)
            writes.append(wrote.T if axes == "head batch" else wrote)
        both = torch.stack(looks), torch.stack(writes)
        return tuple(x.mean(-1) for x in both) if mean else both

    return answer


NAME_MOVER_SCORE = Exercise(
    id="ioi.name_mover_score",
    chapter=CHAPTER,
    title="Who looks at IO, and writes its name?",
    points=3,
    minutes=25,
    difficulty=3,
    reference=heads.name_mover_score,
    cases=mover_cases,
    mistakes=[
        Mistake(
            "turned_round",
            _movers(look=lambda pattern, end, io: pattern[torch.arange(len(end)), :, io, end]),
            "Query and key are exchanged. A pattern is [batch, head, query, key], and the one who looks, END, is the query.",
        ),
        Mistake(
            "last_position",
            _movers(last=lambda end: torch.full_like(end, -1)),
            "This takes what is written at the last position of the batch. Prompts are padded: each one's last token stands at its own `end`.",
        ),
        Mistake(
            "without_the_final_norm",
            _movers(weight=False, centre=False, scale=False),
            "The final LayerNorm is missing altogether: centre what is written, divide by cache['ln_final.hook_scale'], multiply by its weight.",
        ),
        Mistake(
            "without_the_scale",
            _movers(scale=False),
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
            "This averages what a head writes over the prompts and normalises the average. Every prompt has its own scale and its own names: "
            "normalise and project prompt by prompt.",
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
        Mistake(
            "averaged",
            _movers(mean=True),
            "These are means over the prompts. Return both numbers for every prompt: the scatter needs them.",
        ),
        Mistake(
            "centred_before_the_weight",
            _movers(weight_last=True),
            "The mean is subtracted in the wrong place. Centre what is written before the weight; or what reads it, after the weight.",
        ),
        Mistake(
            "scale_of_the_last_position",
            _movers(scale_at=lambda end: torch.full_like(end, -1)),
            "This divides by the scale of the last position of the batch. Take each prompt's own, at its `end`.",
        ),
        Mistake(
            "output_bias",
            _movers(bias=True),
            "This adds the bias b_O to every head. It belongs to the layer and to no head: leave it out.",
        ),
        Mistake(
            "normed_by_itself",
            _movers(own_norm=True, weight=False, centre=False, scale=False),
            "This normalises what the head writes by its own size. Divide by the scale of the whole stream in this run: cache['ln_final.hook_scale'].",
        ),
        Mistake(
            "norm_bias",
            _movers(norm_bias=True),
            "This adds the final LayerNorm's bias to every head. It belongs to no head: leave it out.",
        ),
        Mistake(
            "written_at_io",
            _movers(at_io=True),
            "This takes what the head writes at IO. It looks there, and writes at END.",
        ),
        Mistake(
            "attention_mixes_prompts",
            _movers(look=lambda pattern, end, io: pattern[:, :, end, io].mean(0).T),
            "pattern[:, :, end, io] takes every prompt at every prompt's positions. Index the batch as well: pattern[rows, :, end, io].",
        ),
        Mistake(
            "exchanged",
            lambda model, cache, answers, io, end: _movers()(model, cache, answers, io, end)[::-1],
            "The two results are exchanged: attention first, then what is written.",
        ),
    ],
    equivalents=[
        _movers(),
        lambda model, cache, answers, io, end: _movers_in_a_loop(model, cache, answers, io, end),
    ],
    hints=[
        "Two things a head and prompt: a number of its pattern, and what it writes at END, as the logits of two words see it.",
        "What reads the logit difference is W_U[:, io] - W_U[:, s], times the final LayerNorm's weight, centred, divided by that prompt's scale.",
        "said = einsum('bhd,hdm->bhm', cache['z', layer][rows, end], model.W_O[layer]); wrote = einsum('bhm,bm->hb', said, reader).",
    ],
)


def _movers_in_a_loop(model: Any, cache: Any, answers: Tensor, io: Tensor, end: Tensor) -> Any:
    layers, n_heads, batch = model.cfg.n_layers, model.cfg.n_heads, len(answers)
    looks, writes = torch.zeros(2, layers, n_heads, batch)
    for layer in range(layers):
        for head in range(n_heads):
            for i in range(batch):
                looks[layer, head, i] = cache["pattern", layer][i, head, end[i], io[i]]
                said = cache["z", layer][i, end[i], head] @ model.W_O[layer, head]
                said = (said - said.mean()) / cache["ln_final.hook_scale"][i, end[i]] * model.ln_final.weight
                right, wrong = said @ model.W_U[:, answers[i]]
                writes[layer, head, i] = right - wrong
    return looks, writes


# ------------------------------------------------------------------------------------------------- second_mention_score


def _rows(at: dict) -> Tensor:
    return torch.arange(len(at["end"]))


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


SECOND_MENTION_SCORE = Exercise(
    id="ioi.second_mention_score",
    chapter=CHAPTER,
    title="Who looks at the second mention?",
    points=1,
    minutes=10,
    difficulty=2,
    reference=ioi.second_mention_score,
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
        Mistake(
            "absolute",
            lambda cache, n_layers, at: (
                (_between("end", "s2")(cache, n_layers, at) - _between("end", "s1")(cache, n_layers, at))
                .abs()
                .mean(dim=1)
            ),
            "The signs are lost. A head that prefers S1 has a negative score.",
        ),
        Mistake(
            "absolute_mean",
            lambda cache, n_layers, at: _less(_between("end", "s2"), _between("end", "s1"))(cache, n_layers, at).abs(),
            "The sign is lost. A head that prefers S1 has a negative score.",
        ),
        Mistake(
            "mixes_prompts",
            lambda cache, n_layers, at: torch.stack(
                [
                    (p[:, :, at["end"], at["s2"]] - p[:, :, at["end"], at["s1"]]).mean(dim=(0, 2))
                    for p in (cache["pattern", layer] for layer in range(n_layers))
                ]
            ),
            "This reads every prompt at every prompt's positions. Index the batch as well: pattern[rows, :, at['end'], at['s2']].",
        ),
        Mistake(
            "places_of_the_first_prompt",
            lambda cache, n_layers, at: _less(_between("end", "s2"), _between("end", "s1"))(
                cache, n_layers, {role: places[:1].expand_as(places) for role, places in at.items()}
            ),
            "This takes the first prompt's positions for all prompts. Each has its own.",
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
            (1, 5, [(1, 0)], "recomputed", {}),
            (2, 6, [(0, 0), (1, 1), (0, 1)], "recomputed", {}),
            (2, 5, [(3, 0)], "recomputed", {"layers": 4}),
            (2, 6, [(1, 0), (0, 1), (1, 1)], "frozen", {}),
        ]
    ):
        model = random_gpt2(seed, **sizes)
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
    for head, mlps, expected in [(0, "recomputed", 4), (1, "frozen", 4)]:
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
    own_layer_hears: bool = False,
    less: bool = True,
    sign: int = 1,
    norm: bool = True,
    attention_seen: bool = True,
    mlps_less: bool = True,
    mlps_hear_mlps: bool = True,
    last_position: bool = False,
) -> list[Tensor]:
    """The patched stream before every layer and after the last, with one thing done otherwise."""
    change = by_senders = torch.zeros_like(cache["resid_pre", 0])
    streams = []
    first = min(layer for layer, _ in senders)
    for layer, block in enumerate(model.blocks):
        streams.append(cache["resid_pre", layer] + change)
        if attention_too and layer > first:
            change = change + _attention(model, layer, streams[-1]) - cache["attn_out", layer]
        for at, head in senders[only]:
            if at == layer:
                z = sign * (source["z", layer] - cache["z", layer] if less else source["z", layer])
                if last_position:
                    z = torch.cat([torch.zeros_like(z[:, :-1]), z[:, -1:]], dim=1)
                heads = range(model.cfg.n_heads) if whole_layer else [head]
                for h in heads:
                    change = change + z[:, :, h] @ model.W_O[layer, h]
                    by_senders = by_senders + z[:, :, h] @ model.W_O[layer, h]
        if own_layer_hears:
            streams[-1] = cache["resid_pre", layer] + change
        if mlps == "recomputed" and (own_mlp or layer not in [at for at, _ in senders]):
            if mlps_from_source:
                change = change + source["mlp_out", layer] - cache["mlp_out", layer]
            else:
                middle = cache["resid_pre", layer] + (change if mlps_hear_mlps else by_senders)
                middle = middle + cache["attn_out", layer] if attention_seen else middle
                change = change + block.mlp(block.ln2(middle) if norm else middle)
                change = change - cache["mlp_out", layer] if mlps_less else change
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


def _one_by_one(model: Any, cache: Any, source_cache: Any, senders: Any, mlps: str) -> Tensor:
    clean = model.unembed(model.ln_final(cache["resid_post", model.cfg.n_layers - 1]))
    return clean + sum(_path()(model, cache, source_cache, [sender], mlps) - clean for sender in senders)


DIRECTION = "This goes in the wrong direction: the run that is changed is that of `cache`, and the senders' outputs come from `source_cache`."
ADDED = "This adds what the senders say in the other run on top of what they say in this one. It comes instead: add the difference, source z less z."
TURNED = "The change has the wrong sign: the senders' outputs in the other run less those in this one."
MLPS_WITHOUT_NORM = "Your MLPs read the stream as it is. Put model.blocks[layer].ln2 in front of them."
MLPS_BEFORE_ATTENTION = (
    "Your MLPs read the stream in front of the attention. An MLP comes after it: add cache['attn_out', layer]."
)
MLPS_TWICE = "Your MLPs speak twice: what they say now is added, and what they said is still in the stream. Subtract cache['mlp_out', layer]."
MLPS_DEAF = (
    "Your MLPs hear the senders alone. An MLP also hears how the MLPs before it have changed: keep one change for both."
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
        Mistake(
            "added_on_top",
            _path(less=False),
            ADDED,
        ),
        Mistake("turned_round", _path(sign=-1), TURNED),
        Mistake("mlps_without_norm", _path(norm=False), MLPS_WITHOUT_NORM),
        Mistake("mlps_before_attention", _path(attention_seen=False), MLPS_BEFORE_ATTENTION),
        Mistake("mlps_said_twice", _path(mlps_less=False), MLPS_TWICE),
        Mistake("mlps_hear_senders_alone", _path(mlps_hear_mlps=False), MLPS_DEAF),
        Mistake(
            "last_position_alone",
            _path(last_position=True),
            "This changes what the senders say at the last position alone. They are patched at all positions.",
        ),
        Mistake(
            "one_by_one",
            _one_by_one,
            "This patches the senders one at a time and adds up what happens to the logits. LayerNorm and MLPs are not linear: add all changes to one stream, and read the logits once.",
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
    for k, (batch, length, senders, receivers, mlps) in enumerate(
        [
            (3, 7, [(0, 1)], [(1, 0, "q")], "frozen"),
            (2, 6, [(0, 1)], [(2, 0, "v")], "recomputed"),
            (1, 6, [(0, 0), (1, 1)], [(2, 1, "v"), (2, 0, "v"), (2, 0, "q")], "frozen"),
            (2, 7, [(0, 1)], [(1, 0, "v"), (2, 1, "k"), (2, 1, "v")], "recomputed"),
            (2, 6, [(1, 0)], [(1, 1, "v")], "recomputed"),
        ]
    ):
        model = random_gpt2(seed)
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
            note={4: "a receiver in the sender's own layer, which cannot hear it"}.get(k, f"MLPs {mlps}"),
        )
    for sender, receiver, expected in [
        ((0, 1), (1, 0, "v"), 4),
        ((1, 0), (2, 1, "k"), -4),
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
    seen: Callable[[Any, list[Tensor], int], Tensor] = lambda model, streams, layer: model.blocks[layer].ln1(
        streams[layer]
    ),
    part_of: Callable[[str], str] = lambda part: part,
    bias: bool = True,
    all_heads: bool = False,
    only: slice = slice(None),
    weights_of: Callable[[str], str] = lambda part: part,
    added: bool = False,
    bound_late: bool = False,
    one_a_hook: bool = False,
    **otherwise: Any,
) -> Callable:
    """path_patch_to_receivers with one thing done otherwise."""

    def answer(
        model: Any, tokens: Tensor, cache: Any, source_cache: Any, senders: Any, receivers: Any, mlps: str
    ) -> Tensor:
        streams = _streams(model, cache, source_cache, senders, mlps, **otherwise)
        hooks = []
        for layer, head, part in receivers[only]:
            name = f"blocks.{layer}.attn.hook_{part_of(part)}"
            if bound_late:
                layer, head, part = receivers[-1]
            part = weights_of(part_of(part)).upper()
            heads = range(model.cfg.n_heads) if all_heads else [head]
            x = seen(model, streams, layer)

            def put(value: Tensor, hook: Any, layer: int = layer, heads: Any = heads, part: str = part, x: Tensor = x):
                old, value = value, value.clone()
                for h in heads:
                    new = x @ getattr(model, f"W_{part}")[layer, h]
                    new = new + getattr(model, f"b_{part}")[layer, h] if bias else new
                    value[:, :, h] = new + old[:, :, h] if added else new
                return value

            hooks.append((name, put))
        return model.run_with_hooks(tokens, fwd_hooks=list(dict(hooks).items()) if one_a_hook else hooks)

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


def _receivers_hear_receivers(
    model: Any, tokens: Tensor, cache: Any, source_cache: Any, senders: Any, receivers: Any, mlps: str
) -> Tensor:
    """A receiver's hook adds the senders' change to whatever stream runs by, and computes from that."""
    streams = _streams(model, cache, source_cache, senders, mlps)
    live: dict[int, Tensor] = {}
    hooks: list[Any] = []
    for layer, head, part in receivers:

        def listen(stream: Tensor, hook: Any, layer: int = layer) -> None:
            live[layer] = stream + streams[layer] - cache["resid_pre", layer]

        def put(value: Tensor, hook: Any, layer: int = layer, head: int = head, part: str = part.upper()) -> Tensor:
            value = value.clone()
            value[:, :, head] = model.blocks[layer].ln1(live[layer]) @ getattr(model, f"W_{part}")[layer, head]
            value[:, :, head] += getattr(model, f"b_{part}")[layer, head]
            return value

        hooks += [(f"blocks.{layer}.hook_resid_pre", listen), (f"blocks.{layer}.attn.hook_{part}", put)]
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


def _everybody_hears(model: Any, tokens: Tensor, source_cache: Any, senders: Any) -> Tensor:
    hooks = []
    for layer, head in senders:

        def put(z: Tensor, hook: Any, layer: int = layer, head: int = head) -> Tensor:
            z = z.clone()
            z[:, :, head] = source_cache["z", layer][:, :, head]
            return z

        hooks.append((f"blocks.{layer}.attn.hook_z", put))
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
            "stream_without_norm",
            _to_receivers(seen=lambda model, streams, layer: streams[layer]),
            "The receiver reads the changed stream as it is. Put model.blocks[layer].ln1 in front of the weights.",
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
        Mistake(
            "always_frozen",
            lambda model, tokens, cache, source_cache, senders, receivers, mlps: _to_receivers()(
                model, tokens, cache, source_cache, senders, receivers, "frozen"
            ),
            'Your MLPs never respond. With "recomputed", those between sender and receiver answer to the stream that they now see.',
        ),
        Mistake(
            "queries_and_keys_exchanged",
            _to_receivers(part_of=lambda part: {"q": "k", "k": "q"}.get(part, part)),
            "Queries and keys are exchanged.",
        ),
        Mistake(
            "own_layer_hears",
            _to_receivers(own_layer_hears=True),
            "A receiver hears a sender of its own layer here. Heads of one layer read the stream together, before any of them has written.",
        ),
        Mistake(
            "own_mlp_forgotten",
            _to_receivers(own_mlp=False),
            "The MLP of the sender's own layer comes after its heads, so it hears them: recompute it as well.",
        ),
        Mistake(
            "everybody_hears",
            lambda model, tokens, cache, source_cache, senders, receivers, mlps: _everybody_hears(
                model, tokens, source_cache, senders
            ),
            "This patches the senders for everybody who comes later: their total effect. Only the receivers' inputs hear them.",
        ),
        Mistake(
            "added_on_top",
            _to_receivers(less=False),
            ADDED,
        ),
        Mistake("change_turned_round", _to_receivers(sign=-1), TURNED),
        Mistake("mlps_without_norm", _to_receivers(norm=False), MLPS_WITHOUT_NORM),
        Mistake("mlps_before_attention", _to_receivers(attention_seen=False), MLPS_BEFORE_ATTENTION),
        Mistake("mlps_said_twice", _to_receivers(mlps_less=False), MLPS_TWICE),
        Mistake("mlps_hear_senders_alone", _to_receivers(mlps_hear_mlps=False), MLPS_DEAF),
        Mistake(
            "last_position_alone",
            _to_receivers(last_position=True),
            "The change is heard at the last position alone. Patch senders and receivers at all positions.",
        ),
        Mistake(
            "added_to_the_old",
            _to_receivers(added=True),
            "This adds the receivers' new queries, keys or values to the old ones. They come instead.",
        ),
        Mistake(
            "weights_of_the_queries",
            _to_receivers(weights_of=lambda part: "q"),
            "The right hook gets queries, whatever the receiver asks for: keys need W_K and b_K, values W_V and b_V.",
        ),
        Mistake(
            "one_receiver_a_hook",
            _to_receivers(one_a_hook=True),
            "Of the receivers that share a layer and an input only the last one is patched. Patch all of them: each has its own head in that hook.",
        ),
        Mistake(
            "bound_late",
            _to_receivers(bound_late=True),
            "Every hook puts in the last receiver's head and value, for Python looks names up when a hook runs. Bind them: default arguments, or partial.",
        ),
        Mistake(
            "receivers_hear_receivers",
            _receivers_hear_receivers,
            "A later receiver hears here what an earlier one answers. Compute all of them from the stream of `cache` plus the senders' change, before the run.",
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
        yield Case({"found": found, "true": true}, note=note)


def _scores(found: Any, true: Any) -> tuple[float, float]:
    found, true = set(found), set(true)
    hits = len(found & true)
    return (hits / len(found) if found else 0.0), hits / len(true)


def _counted(found: Any, true: Any) -> tuple[float, float]:
    hits = sum(node in true for node in found)
    return (hits / len(found) if found else 0.0), hits / len(true)


def _any_order(found: Any, true: Any) -> tuple[float, float]:
    return _scores([tuple(sorted(node)) for node in found], [tuple(sorted(node)) for node in true])


PRECISION_RECALL = Exercise(
    id="ioi.precision_recall",
    chapter=CHAPTER,
    title="How much of it is right, and how much was missed?",
    points=1,
    minutes=5,
    difficulty=1,
    reference=circuits.precision_recall,
    cases=sets_cases,
    mistakes=[
        Mistake(
            "exchanged",
            lambda found, true: _scores(found, true)[::-1],
            "Precision and recall are exchanged. Precision is the share of what you found that is true.",
        ),
        Mistake(
            "counted_twice",
            _counted,
            "What is named twice counts twice here. Make sets first.",
        ),
        Mistake(
            "nothing_is_perfect",
            lambda found, true: (1.0, 0.0) if not found else _scores(found, true),
            "If nothing was found, the exercise asks for precision 0.",
        ),
        Mistake(
            "over_the_union",
            lambda found, true: (
                len(set(found) & set(true)) / len(set(found) | set(true)),
                len(set(found) & set(true)) / len(set(true)),
            ),
            "Your precision divides by the union of both sets. Divide by the number of things found.",
        ),
        Mistake(
            "percent",
            lambda found, true: tuple(100 * score for score in _scores(found, true)),
            "These are percentages. Return shares between 0 and 1.",
        ),
        Mistake(
            "any_order",
            _any_order,
            "Head 0.3 is taken for head 3.0 here: the order of (layer, head) matters.",
        ),
        Mistake(
            "recall_over_the_union",
            lambda found, true: (
                len(set(found) & set(true)) / max(len(set(found)), 1),
                len(set(found) & set(true)) / len(set(found) | set(true)),
            ),
            "Your recall divides by the union of both sets. Divide by the number of things that are true.",
        ),
        Mistake(
            "union_twice",
            lambda found, true: (len(set(found) & set(true)) / len(set(found) | set(true)),) * 2,
            "Both of your numbers divide by the union of both sets. Precision divides by what was found, recall by what is true.",
        ),
        Mistake(
            "found_below_both",
            lambda found, true: (_scores(found, true)[0],) * 2,
            "Both of your numbers divide by what was found. Recall divides by what is true.",
        ),
        Mistake(
            "missed",
            lambda found, true: (_scores(found, true)[0], 1 - _scores(found, true)[1]),
            "Your second number is the share that was missed. Recall is the share that was found.",
        ),
        Mistake(
            "wrong_share",
            lambda found, true: (1 - _scores(found, true)[0], _scores(found, true)[1]),
            "Your first number is the share of what you found that is wrong. Precision is the share that is right.",
        ),
        Mistake(
            "list_below",
            lambda found, true: (
                len(set(found) & set(true)) / max(len(found), 1),
                len(set(found) & set(true)) / len(true),
            ),
            "Above the line things are counted once, below it as often as they are named. Make sets of both lists first.",
        ),
    ],
    equivalents=[
        _scores,
        lambda found, true: (
            sum(node in true for node in set(found)) / len(set(found)) if found else 0.0,
            sum(node in found for node in set(true)) / len(set(true)),
        ),
    ],
    hints=[
        "Both count the same hits, and divide by something else.",
        "hits = len(set(found) & set(true)).",
        "hits / len(set(found)) if found else 0.0, and hits / len(set(true)).",
    ],
)

# ---------------------------------------------------------------------------------------------------------- role_means


def some_roles(seed: int, batch: int, length: int) -> list[list[str]]:
    """A role for every position: s2 and end once in a prompt, the others here and there."""
    at = places(seed, batch, length)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, 2, (batch, length), generator=generator).tolist()
    named = [{int(at[role][i]): role for role in ("s2", "end")} for i in range(batch)]
    return [[named[i].get(p, ("names", "rest")[drawn[i][p]]) for p in range(length)] for i in range(batch)]


def mean_by_role_cases(seed: int) -> Iterable[Case]:
    for k, (batch, length, width, note) in enumerate(
        [
            (4, 7, (2, 3), "heads"),
            (3, 8, (5,), "an MLP"),
            (1, 6, (3,), "a batch of one"),
            (6, 6, (6,), "as many prompts as positions"),
        ]
    ):
        activation = draws(seed + k, batch, length, *width) + torch.arange(length).view(-1, *[1] * len(width))
        yield Case({"activation": activation, "roles": some_roles(seed + k, batch, length)}, note=note)
    unnamed = [["" if role == "rest" else role for role in row] for row in some_roles(seed, 3, 7)]
    yield Case({"activation": draws(seed, 3, 7, 4), "roles": unnamed}, note="a role whose name is empty")


def _is(role: str, roles: Any) -> Tensor:
    return torch.tensor([[name == role for name in row] for row in roles])


def _by_role(mean: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    """Each role's positions get what `mean` makes of the activation and the role's mask."""

    def answer(activation: Tensor, roles: Any) -> Tensor:
        result = torch.zeros_like(activation)
        for role in {name for row in roles for name in row}:
            here = _is(role, roles)
            result[here] = mean(activation, here)
        return result

    return answer


def _mean_of_prompt_means(activation: Tensor, here: Tensor) -> Tensor:
    return torch.stack([row[mask].mean(dim=0) for row, mask in zip(activation, here) if mask.any()]).mean(dim=0)


def _within_each_prompt(activation: Tensor, roles: Any) -> Tensor:
    return torch.cat(
        [_by_role(lambda x, here: x[here].mean(dim=0))(x[None], [row]) for x, row in zip(activation, roles)]
    )


def _by_role_and_position(activation: Tensor, roles: Any) -> Tensor:
    result = torch.zeros_like(activation)
    for role in {name for row in roles for name in row}:
        for position, here in enumerate(_is(role, roles).T):
            if here.any():
                result[here, position] = activation[here, position].mean(dim=0)
    return result


ROLE_MEANS = Exercise(
    id="ioi.role_means",
    chapter=CHAPTER,
    title="What does a component say on average?",
    points=2,
    minutes=15,
    difficulty=2,
    reference=ioi.role_means,
    cases=mean_by_role_cases,
    mistakes=[
        Mistake(
            "by_position",
            lambda activation, roles: activation.mean(dim=0, keepdim=True).expand_as(activation).clone(),
            "This averages position by position. The same position has other roles in other prompts: average over the positions with the same role.",
        ),
        Mistake(
            "one_mean",
            lambda activation, roles: activation.mean(dim=(0, 1)).expand_as(activation).clone(),
            "Every position gets the same mean here. Each role has its own.",
        ),
        Mistake(
            "within_each_prompt",
            _within_each_prompt,
            "This averages within each prompt, so that it still knows about its own prompt. Average over all prompts.",
        ),
        Mistake(
            "mean_of_means",
            _by_role(_mean_of_prompt_means),
            "This averages within prompts first and then over them. Prompts that have a role more often should count more: take one mean over all of its positions.",
        ),
        Mistake(
            "over_the_features_too",
            _by_role(lambda x, here: x[here].mean()),
            "This averages over the features as well, which leaves one number for a whole vector.",
        ),
        Mistake(
            "summed",
            _by_role(lambda x, here: x[here].sum(dim=0)),
            "This is the sum over a role's positions. Divide by their number.",
        ),
        Mistake(
            "first_one",
            _by_role(lambda x, here: x[here][0]),
            "This takes the first position with the role: that would be a resample ablation. Take the mean.",
        ),
        Mistake(
            "by_role_and_position",
            lambda activation, roles: _by_role_and_position(activation, roles),
            "This averages position by position among those with the same role. One mean for a role, wherever it stands.",
        ),
        Mistake(
            "over_all_positions",
            _by_role(lambda x, here: x[here].sum(dim=0) / here.numel()),
            "This divides by the number of all positions. Divide by the number of those that have the role.",
        ),
        Mistake(
            "per_prompt_number",
            _by_role(lambda x, here: x[here].sum(dim=0) / len(x)),
            "This divides by the number of prompts. A prompt may have a role more than once: divide by the number of positions that have it.",
        ),
        Mistake(
            "roles_of_the_first_prompt",
            lambda activation, roles: _by_role(lambda x, here: x[here].mean(dim=0))(
                activation, [roles[0]] * len(roles)
            ),
            "This takes the first prompt's roles for all prompts. Each has its own.",
        ),
    ],
    equivalents=[
        _by_role(lambda x, here: x[here].mean(dim=0)),
        lambda activation, roles: torch.stack(
            [torch.stack([activation[_is(role, roles)].mean(dim=0) for role in row]) for row in roles]
        ),
    ],
    hints=[
        "Go through the roles. Each has a mask [batch, position] of the positions that have it.",
        "where(roles, role) is that mask; activation[mask] has shape (n, ...), one row for every such position.",
        "means[here] = activation[here].mean(dim=0), on a tensor made by torch.empty_like.",
    ],
)

# ----------------------------------------------------------------------------------------------------------- knock_out


def values_of(
    seed: int, batch: int, length: int, layers: int = 3, n_heads: int = 2, d_head: int = 5
) -> dict[str, Tensor]:
    """What every component is to say instead, by hook."""
    values = {}
    for layer in range(layers):
        values[f"blocks.{layer}.attn.hook_z"] = draws(seed + layer, batch, length, n_heads, d_head)
        values[f"blocks.{layer}.hook_mlp_out"] = draws(seed + layer + 50, batch, length, n_heads * d_head)
    return values


NODES: list[Any] = [
    (layer, part, role) for layer in range(3) for part in (0, 1, "mlp") for role in ("s2", "end", "names", "rest")
]


def some_nodes(seed: int, n: int) -> list[Any]:
    order = torch.randperm(len(NODES), generator=torch.Generator().manual_seed(seed))
    return [NODES[i] for i in order[:n].tolist()]


def knock_out_cases(seed: int) -> Iterable[Case]:
    kept = some_nodes(seed, 16)
    for k, (batch, length, keep, drop, note) in enumerate(
        [
            (3, 8, kept, [], ""),
            (1, 7, some_nodes(seed + 1, 11), [], "a batch of one"),
            (2, 7, [], [], "nothing is kept"),
            (2, 8, None, some_nodes(seed + 2, 6), "all is kept but what is dropped"),
            (2, 7, kept, kept[3:8], "what is kept and dropped is dropped"),
            (4, 9, [(0, 1, "s2"), (0, 1, "end"), (2, 0, "rest"), (1, "mlp", "end"), (1, 0, "s2")], [], ""),
            (2, 7, [n for n in NODES if n[1] == "mlp"], [], "all MLPs"),
            (2, 6, None, [(1, 0, "s2")], "one role, and positions without any"),
        ]
    ):
        roles = all_four(seed + k, batch, length)
        if note.startswith("one role"):
            roles = [[role if role == "s2" else "" for role in row] for row in roles]
        yield Case(
            {
                "model": random_gpt2(seed + k),
                "tokens": ids(seed + k, batch, length),
                "values": values_of(seed + k, batch, length),
                "keep": keep,
                "drop": drop,
                "roles": roles,
            },
            note=note,
        )


def all_four(seed: int, batch: int, length: int) -> list[list[str]]:
    """Roles, of which each occurs at least once."""
    roles = some_roles(seed, batch, length)
    free = [p for p in range(length) if roles[0][p] not in ("s2", "end")]
    roles[0][free[0]], roles[0][free[1]] = "names", "rest"
    return roles


def _knock(
    invert: bool = False,
    dropped: bool = True,
    only: str = "",
    value: Callable[[Tensor], Tensor] = lambda mean: mean,
    every_role: bool = False,
    last_role: bool = False,
    empty_is_none: bool = False,
    drop_everywhere: bool = False,
    first_prompts: bool = False,
    bound_late: bool = False,
) -> Callable:
    """knock_out with one thing done otherwise."""

    def answer(model: Any, tokens: Tensor, values: dict, keep: Any, drop: Any, roles: Any) -> Tensor:
        roles = [roles[0]] * len(roles) if first_prompts else roles
        keep = None if empty_is_none and not keep else keep

        def works(layer: int, part: Any) -> Tensor:
            own = torch.full_like(tokens, keep is None, dtype=torch.bool)
            for where, which, role in keep or []:
                if (where, which) == (layer, part):
                    here = torch.ones_like(own) if every_role else _is(role, roles)
                    own = here if last_role else own | here
            for where, which, role in drop if dropped else []:
                if (where, which) == (layer, part):
                    own = own & (False if drop_everywhere else ~_is(role, roles))
            return ~own if invert else own

        hooks = []
        for layer in range(model.cfg.n_layers):
            z, out = f"blocks.{layer}.attn.hook_z", f"blocks.{layer}.hook_mlp_out"
            masked = model.cfg.n_layers - 1 if bound_late else layer
            on = torch.stack([works(masked, head) for head in range(model.cfg.n_heads)], -1)[..., None]
            own = works(masked, "mlp")[..., None]
            if only != "mlps":
                hooks.append((z, lambda x, hook, on=on, z=z: torch.where(on, x, value(values[z]))))
            if only != "heads":
                hooks.append((out, lambda x, hook, on=own, out=out: torch.where(on, x, value(values[out]))))
        return model.run_with_hooks(tokens, fwd_hooks=hooks)

    return answer


def _from_a_clean_run(model: Any, tokens: Tensor, values: dict, keep: Any, drop: Any, roles: Any) -> Tensor:
    """What works says what it said in the run where nothing was knocked out."""
    _, cache = model.run_with_cache(tokens)
    hooks = []
    for name, given in values.items():
        layer, is_mlp = int(name.split(".")[1]), name.endswith("mlp_out")
        value = (cache[name] if keep is None else given).clone()
        for nodes, source in ((keep or [], cache[name]), (drop, given)):
            for where, part, role in nodes:
                if where == layer and (part == "mlp") == is_mlp:
                    at = _is(role, roles)
                    if is_mlp:
                        value[at] = source[at]
                    else:
                        value[:, :, part][at] = source[:, :, part][at]
        hooks.append((name, lambda x, hook, value=value: value))
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


KNOCK_OUT = Exercise(
    id="ioi.knock_out",
    chapter=CHAPTER,
    title="Keep the circuit, silence the rest",
    points=4,
    minutes=35,
    difficulty=4,
    reference=circuits.knock_out,
    cases=knock_out_cases,
    mistakes=[
        Mistake("kept_is_knocked_out", _knock(invert=True), "This knocks out what should be kept, and keeps the rest."),
        Mistake(
            "nothing_is_dropped",
            _knock(dropped=False),
            "The nodes in `drop` still work. They are knocked out whether they are kept or not.",
        ),
        Mistake(
            "zeros",
            _knock(value=torch.zeros_like),
            "This puts zeros in. What is knocked out says what `values` has for it.",
        ),
        Mistake(
            "mlps_all_work",
            _knock(only="heads"),
            'Every MLP still works. They are components like the heads: (layer, "mlp", role).',
        ),
        Mistake(
            "heads_all_work", _knock(only="mlps"), "Every head still works. Those that are not kept are knocked out."
        ),
        Mistake(
            "at_every_position",
            _knock(every_role=True),
            "A component that is kept at one role works at every position here. It should work at the positions of its role alone.",
        ),
        Mistake(
            "last_role_only",
            _knock(last_role=True),
            "A component that is kept at two roles works at one of them only. Its roles add up.",
        ),
        Mistake(
            "one_value_for_all_positions",
            _knock(value=lambda mean: mean.mean(dim=1, keepdim=True).expand_as(mean)),
            "This puts one value in for all positions. The values are given for each position by itself.",
        ),
        Mistake(
            "what_works_is_frozen",
            _from_a_clean_run,
            "What works repeats what it said in the whole model. It must answer to what is left: let it compute, and replace only the others.",
        ),
        Mistake(
            "empty_keep_is_everything",
            _knock(empty_is_none=True),
            "An empty `keep` keeps everything here, and should keep nothing. Only None keeps everything: ask `keep is None`.",
        ),
        Mistake(
            "dropped_at_every_position",
            _knock(drop_everywhere=True),
            "A component that is dropped at one role is silent at every position here. It should be silent at the positions of its role alone.",
        ),
        Mistake(
            "roles_of_the_first_prompt",
            _knock(first_prompts=True),
            "This takes the first prompt's roles for all prompts. Each has its own.",
        ),
        Mistake(
            "bound_late",
            _knock(bound_late=True),
            "Every layer is masked like the last one, for Python looks names up when a hook runs. Bind the mask: a default argument, or partial.",
        ),
    ],
    equivalents=[
        _knock(),
        lambda model, tokens, values, keep, drop, roles: _knock_by_component(model, tokens, values, keep, drop, roles),
    ],
    hints=[
        "For every hook in `values` you need a mask of what is silent: [batch, position], for heads [batch, position, head].",
        "Begin with all silent (or nothing, if keep is None); then each node of keep clears where(roles, role) of its part, each node of drop sets it.",
        "One hook a name: torch.where(silent[..., None], value, activation), with mask and value bound (partial, or default arguments): inside a hook on z, hook.name is not the name that you hung it by.",
    ],
)


def _knock_by_component(model: Any, tokens: Tensor, values: dict, keep: Any, drop: Any, roles: Any) -> Tensor:
    """The same with one hook a component."""
    everything = [
        (layer, part, role)
        for layer in range(model.cfg.n_layers)
        for part in [*range(model.cfg.n_heads), "mlp"]
        for role in {name for row in roles for name in row}
    ]
    hooks = []
    for node in everything:
        if node not in drop and (keep is None or node in keep):
            continue
        layer, part, role = node
        name = f"blocks.{layer}.{'hook_mlp_out' if part == 'mlp' else 'attn.hook_z'}"

        here = _is(role, roles)

        def put(x: Tensor, hook: Any, name: str = name, part: Any = part, at: Tensor = here) -> Tensor:
            x = x.clone()
            if part == "mlp":
                x[at] = values[name][at]
            else:
                x[:, :, part][at] = values[name][:, :, part][at]
            return x

        hooks.append((name, put))
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


# -------------------------------------------------------------------------------------------------------- faithfulness


def faith_cases(seed: int) -> Iterable[Case]:
    for batch, model_at, circuit_at, note in [
        (6, 4, 3.8, "a circuit that does more than the model on some prompts"),
        (1, 4, 3, "a single prompt"),
        (9, 4, 3.8, "a prompt on which nothing and the model agree"),
        (5, 4, 9, "a circuit that does more than the model"),
        (4, -6, -5, "a metric that the model lowers"),
        (3, 4, -2, "a circuit that is worse than nothing"),
    ]:
        model = draws(seed, batch, dtype=torch.float64) * 0.5 + model_at
        empty = draws(seed + 1, batch, dtype=torch.float64) * 0.5 + 0.7
        if batch == 9:
            empty[2] = model[2]
        circuit = draws(seed + 2, batch, dtype=torch.float64) * 0.5 + circuit_at
        yield Case({"circuit": circuit, "model": model, "empty": empty}, note=note)


def _both(difference: Tensor, ratio: Tensor) -> tuple[float, float]:
    return difference.item(), ratio.item()


def _ratio(circuit: Tensor, model: Tensor, empty: Tensor) -> Tensor:
    return (circuit.mean() - empty.mean()) / (model.mean() - empty.mean())


FAITHFULNESS = Exercise(
    id="ioi.faithfulness",
    chapter=CHAPTER,
    title="Does the circuit do what the model does?",
    points=1,
    minutes=10,
    difficulty=2,
    reference=circuits.faithfulness,
    cases=faith_cases,
    mistakes=[
        Mistake(
            "mean_of_ratios",
            lambda circuit, model, empty: _both((model - circuit).mean(), ((circuit - empty) / (model - empty)).mean()),
            "This divides prompt by prompt and averages the ratios, which one prompt with a small difference can upset. Average first, then divide.",
        ),
        Mistake(
            "without_empty",
            lambda circuit, model, empty: _both((model - circuit).mean(), circuit.mean() / model.mean()),
            "Your ratio begins at 0. It should begin at what is left when everything is knocked out: subtract `empty` above and below.",
        ),
        Mistake(
            "sign",
            lambda circuit, model, empty: _both((circuit - model).mean(), _ratio(circuit, model, empty)),
            "The difference has the wrong sign: model less circuit.",
        ),
        Mistake(
            "absolute",
            lambda circuit, model, empty: _both((model - circuit).abs().mean(), _ratio(circuit, model, empty)),
            "The difference is one of means. This averages the distance on each prompt, which cannot come out below zero.",
        ),
        Mistake(
            "upside_down",
            lambda circuit, model, empty: _both((model - circuit).mean(), 1 / _ratio(circuit, model, empty)),
            "The ratio stands upside down: the circuit above, the model below.",
        ),
        Mistake(
            "what_is_missing",
            lambda circuit, model, empty: _both((model - circuit).mean(), 1 - _ratio(circuit, model, empty)),
            "This is the share that is missing. Return the share that the circuit keeps: 1 is a perfect circuit.",
        ),
        Mistake(
            "exchanged",
            lambda circuit, model, empty: _both((model - circuit).mean(), _ratio(circuit, model, empty))[::-1],
            "The two results are exchanged: the difference first, then the ratio.",
        ),
        Mistake(
            "empty_above_only",
            lambda circuit, model, empty: _both(
                (model - circuit).mean(), (circuit.mean() - empty.mean()) / model.mean()
            ),
            "`empty` is subtracted above the line only. The whole way goes from `empty` to the model: subtract it below, too.",
        ),
        Mistake(
            "between_zero_and_one",
            lambda circuit, model, empty: _both(
                (model - circuit).mean(), _ratio(circuit, model, empty).clamp(min=0, max=1)
            ),
            "This keeps the ratio between 0 and 1. A circuit may do more than the model, or worse than nothing: let the ratio say so.",
        ),
        Mistake(
            "ratio_without_sign",
            lambda circuit, model, empty: _both((model - circuit).mean(), _ratio(circuit, model, empty).abs()),
            "The ratio has lost its sign. A circuit that is worse than nothing has a negative one.",
        ),
        Mistake(
            "size_of_the_difference",
            lambda circuit, model, empty: _both((model.mean() - circuit.mean()).abs(), _ratio(circuit, model, empty)),
            "The difference has lost its sign. It is negative where the circuit does more than the model.",
        ),
    ],
    equivalents=[
        lambda circuit, model, empty: _both((model - circuit).mean(), _ratio(circuit, model, empty)),
        lambda circuit, model, empty: (
            float(model.mean()) - float(circuit.mean()),
            1 - float((model - circuit).sum() / (model - empty).sum()),
        ),
    ],
    hints=[
        "Three means over the prompts, and nothing else.",
        "The ratio is how far the circuit gets on the way from `empty` to `model`.",
        "(circuit.mean() - empty.mean()) / (model.mean() - empty.mean()), both results with .item().",
    ],
)

# ---------------------------------------------------------------------------------------------------- completeness_gap


def game(seed: int, batch: int, nodes: int, pairs: Sequence[tuple[int, int]] = (), low: float = -1.0) -> Recipe:
    """A score of the first nodes of `PARTS`: each has a value, and pairs back each other up."""
    values = draws(seed, batch, nodes, dtype=torch.float64) * 0.7
    worth = draws(seed + 1, batch, len(pairs), dtype=torch.float64) + 2
    return Recipe("score", {"nodes": PARTS[:nodes], "values": values, "pairs": list(pairs), "worth": worth})


PARTS: list[Any] = [(0, 1, "s2"), (0, 3, "s2"), (1, 0, "end"), (1, 2, "end"), (3, 0, "end"), (3, 2, "end"), (2, "mlp", "end"), (3, 1, "end"), (0, "mlp", "s2")]  # fmt: skip


def completeness_cases(seed: int) -> Iterable[Case]:
    inside, across = [(0, 1), (4, 5)], [(4, 7), (2, 3)]  # backups within the circuit, and one that it lacks
    for k, (batch, pairs, circuit, removed, note) in enumerate(
        [
            (4, across, PARTS[:6], [PARTS[4]], "what is removed has a backup outside of the circuit"),
            (3, inside, PARTS[:6], PARTS[3:6], ""),
            (1, across, PARTS[:5], PARTS[2:4], "a batch of one"),
            (5, across, PARTS[:6], [], "nothing is removed"),
            (4, inside, PARTS[2:8], PARTS[2:8], "the whole circuit is removed"),
        ]
    ):
        yield Case({"score": game(seed + k, batch, 9, pairs), "circuit": circuit, "K": removed}, note=note)
    yield Case(
        {"score": game(seed, 4, 6, inside), "circuit": PARTS[:6], "K": PARTS[1:4]},
        note="a circuit that is the whole model",
        truth=lambda gap: None if abs(gap) < 1e-6 else "A circuit that is the whole model has no gap at all.",
    )


def _without(nodes: Any, removed: Any) -> list[Any]:
    return [node for node in nodes if node not in removed]


COMPLETENESS_GAP = Exercise(
    id="ioi.completeness_gap",
    chapter=CHAPTER,
    title="Does the circuit break as the model breaks?",
    points=2,
    minutes=15,
    difficulty=3,
    reference=circuits.completeness_gap,
    cases=completeness_cases,
    mistakes=[
        Mistake(
            "signed",
            lambda score, circuit, K: (score(circuit, K).mean() - score(None, K).mean()).item(),
            "This has a sign. The gap is an absolute value.",
        ),
        Mistake(
            "absolute_first",
            lambda score, circuit, K: (score(circuit, K) - score(None, K)).abs().mean().item(),
            "This takes the absolute value prompt by prompt and averages that. F is a mean over the prompts: subtract means, then drop the sign.",
        ),
        Mistake(
            "whole_model",
            lambda score, circuit, K: (score(circuit, K).mean() - score(None).mean()).abs().item(),
            "This compares with the whole model. Take K out of the model as well.",
        ),
        Mistake(
            "whole_circuit",
            lambda score, circuit, K: (score(circuit).mean() - score(None, K).mean()).abs().item(),
            "K is still in the circuit. Take it out of both.",
        ),
        Mistake(
            "change_of_the_circuit",
            lambda score, circuit, K: (score(circuit, K).mean() - score(circuit).mean()).abs().item(),
            "This compares the circuit with itself. Compare the circuit without K with the model without K.",
        ),
        Mistake(
            "model_without_the_circuit",
            lambda score, circuit, K: (score(circuit, K).mean() - score(None, circuit).mean()).abs().item(),
            "This takes the whole circuit out of the model. Only K goes.",
        ),
        Mistake(
            "K_alone",
            lambda score, circuit, K: (score(K).mean() - score(None, K).mean()).abs().item(),
            "The first of your two runs keeps K and nothing else. It should keep the circuit without K.",
        ),
        Mistake(
            "nothing_for_the_model",
            lambda score, circuit, K: (score(circuit, K).mean() - score([], K).mean()).abs().item(),
            "score([], K) keeps nothing. The whole model without K is score(None, K).",
        ),
        Mistake(
            "nothing_removed",
            lambda score, circuit, K: (score(circuit).mean() - score(None).mean()).abs().item(),
            "K is in both of your runs. Take it out of the circuit and of the model.",
        ),
        Mistake(
            "summed",
            lambda score, circuit, K: (score(circuit, K) - score(None, K)).sum().abs().item(),
            "This is a sum over the prompts. F is a mean.",
        ),
        Mistake(
            "relative",
            lambda score, circuit, K: (1 - score(circuit, K).mean() / score(None, K).mean()).abs().item(),
            "This divides by the model's score. The gap is a plain difference.",
        ),
        Mistake(
            "what_K_costs",
            lambda score, circuit, K: (
                ((score(circuit) - score(circuit, K)).mean() - (score(None) - score(None, K)).mean()).abs().item()
            ),
            "This compares what K costs the circuit with what it costs the model. Compare what is left of each.",
        ),
        Mistake(
            "against_K_alone",
            lambda score, circuit, K: (score(circuit, K).mean() - score(K).mean()).abs().item(),
            "score(K) keeps K and nothing else. The whole model without K is score(None, K).",
        ),
    ],
    equivalents=[
        lambda score, circuit, K: (score(circuit, K).mean() - score(None, K).mean()).abs().item(),
        lambda score, circuit, K: abs(float((score(_without(circuit, K)) - score(None, without=K)).mean())),
    ],
    hints=[
        "Two scores: in both, K is knocked out.",
        "score(circuit, K) is the circuit without K, score(None, K) the whole model without K; both are one number a prompt.",
        "(score(circuit, K).mean() - score(None, K).mean()).abs().item().",
    ],
)

# ---------------------------------------------------------------------------------------------------- minimality_score


def minimality_cases(seed: int) -> Iterable[Case]:
    for k, (batch, pairs, node, subsets, note) in enumerate(
        [
            (4, [(0, 1), (4, 5), (4, 7)], 4, [[0], [1, 2], [5], [3, 5]], "backups inside and outside of the circuit"),
            (1, [(4, 5)], 5, [[1], [4, 2]], "a batch of one"),
            (3, [(0, 1)], 2, [], "no subset but the empty one: the naive removal"),
            (5, [(0, 1), (2, 3)], 1, [[0, 2], [3, 4]], "the largest change is not the last one"),
            (4, [(0, 5), (1, 5)], 5, [[0], [1], [0, 1]], "a node that two others back up"),
            (3, [(4, 7), (2, 3)], 4, [[0], [2]], "a node with a backup outside of the circuit"),
        ]
    ):
        yield Case(
            {
                "score": game(seed + k, batch, 9, pairs),
                "circuit": PARTS[:6],
                "node": PARTS[node],
                "subsets": [[PARTS[i] for i in subset] for subset in subsets],
            },
            note=note,
        )
    for value, worth, expected, note in [
        (0.0, 4.0, [4.0, 0.0], "a node that its backup replaces completely"),
        (1.0, -4.0, [3.0, 1.0], "a node that helps, but does harm when another has gone"),
        (3.0, -1.0, [3.0, 3.0], "a node that matters most when nothing else has gone"),
    ]:
        values = torch.tensor([[value, 0.0, 0.0]] * 2)
        spread = torch.tensor([[worth - 1], [worth + 1]])
        pair = {"nodes": PARTS[:3], "values": values, "pairs": [(0, 1)], "worth": spread}
        yield Case(
            {
                "score": Recipe("score", pair),
                "circuit": PARTS[:3],
                "node": PARTS[0],
                "subsets": [[PARTS[1], PARTS[2]], [PARTS[1]]],
            },
            note=note,
            truth=partial(_is_known, expected),
        )

    opposed = {"nodes": PARTS[:3], "values": torch.zeros(2, 3), "pairs": [(0, 1), (0, 2)]}
    yield Case(
        {
            "score": Recipe("score", opposed | {"worth": torch.tensor([[4.0, -3.0]] * 2)}),
            "circuit": PARTS[:3],
            "node": PARTS[0],
            "subsets": [[PARTS[1]], [PARTS[2]]],
        },
        note="subsets that cancel out if they go together",
        truth=partial(_is_known, [4.0, 0.0]),
    )


def _is_known(expected: list[float], out: Any) -> str | None:
    return (
        None if list(out) == expected else f"Here the largest change is {expected[0]}, and the naive one {expected[1]}."
    )


def _changes(score: Any, circuit: Any, node: Any, subsets: Any) -> Tensor:
    """What goes with the node, [subset batch], the empty subset first."""
    return torch.stack([score(circuit, subset) - score(circuit, [*subset, node]) for subset in [[], *subsets]])


def _largest(
    choose: Callable[[Tensor], Tensor], prepare: Callable[[Tensor], Tensor] = lambda x: x.mean(1).abs()
) -> Callable:
    def answer(score: Any, circuit: Any, node: Any, subsets: Any) -> tuple[float, float]:
        changes = prepare(_changes(score, circuit, node, subsets))
        return choose(changes).item(), changes[0].item()

    return answer


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
            _largest(lambda changes: changes[0]),
            "Both of your numbers are the naive one. A node that others back up then looks useless: remove it from the circuit without each subset, too.",
        ),
        Mistake(
            "signed",
            _largest(lambda changes: changes.max(), prepare=lambda x: x.mean(1)),
            "A node that works against the circuit changes the score as well. Drop the sign before you take the largest.",
        ),
        Mistake(
            "absolute_first",
            _largest(lambda changes: changes.max(), prepare=lambda x: x.abs().mean(1)),
            "This takes the absolute value prompt by prompt and averages that. F is a mean over the prompts: average first, then drop the sign.",
        ),
        Mistake(
            "mean_over_subsets",
            _largest(lambda changes: changes.mean()),
            "This is the mean over the subsets. It is enough that the node matters once: take the largest change.",
        ),
        Mistake("smallest", _largest(lambda changes: changes.min()), "This is the smallest change. Take the largest."),
        Mistake(
            "from_the_whole_circuit",
            lambda score, circuit, node, subsets: (
                max((score(circuit) - score(circuit, [*K, node])).mean().abs().item() for K in [[], *subsets]),
                (score(circuit) - score(circuit, [node])).mean().abs().item(),
            ),
            "This counts what the subset does as well. Compare the circuit without the subset with the circuit without the subset and the node.",
        ),
        Mistake(
            "without_the_empty_subset",
            lambda score, circuit, node, subsets: (
                max([_changes(score, circuit, node, [K])[1].mean().abs().item() for K in subsets], default=0.0),
                _changes(score, circuit, node, [])[0].mean().abs().item(),
            ),
            "The empty subset counts too: the largest change is never smaller than the naive one.",
        ),
        Mistake(
            "keeps_the_subset",
            lambda score, circuit, node, subsets: (
                max((score(K) - score([*K, node])).mean().abs().item() for K in [circuit, *subsets]),
                (score(circuit) - score(circuit, [node])).mean().abs().item(),
            ),
            "This keeps the subset alone. The subset is what is taken out of the circuit.",
        ),
        Mistake(
            "from_the_model",
            lambda score, circuit, node, subsets: _largest(lambda changes: changes.max())(score, None, node, subsets),
            "This takes the node out of the whole model, where more can stand in for it. Take it out of the circuit.",
        ),
        Mistake(
            "exchanged",
            lambda score, circuit, node, subsets: _largest(lambda changes: changes.max())(
                score, circuit, node, subsets
            )[::-1],
            "The two results are exchanged: the largest change first, then the naive one.",
        ),
        Mistake(
            "last_subset_only",
            _largest(lambda changes: changes[-1]),
            "This is the change for the last subset. Keep the largest of all.",
        ),
        Mistake(
            "all_subsets_together",
            lambda score, circuit, node, subsets: _largest(lambda changes: changes.max())(
                score, circuit, node, [[other for subset in subsets for other in subset]]
            ),
            "This takes all subsets out together. Take them out one at a time, and keep the largest change.",
        ),
        Mistake(
            "subset_against_node",
            lambda score, circuit, node, subsets: (
                max((score(circuit, K) - score(circuit, [node])).mean().abs().item() for K in [[], *subsets]),
                (score(circuit) - score(circuit, [node])).mean().abs().item(),
            ),
            "This compares the circuit without the subset with the circuit without the node. The second run lacks both: [*K, node].",
        ),
    ],
    equivalents=[
        _largest(lambda changes: changes.max()),
        lambda score, circuit, node, subsets: (
            max(
                abs(float(score(_without(circuit, K)).mean() - score(_without(circuit, [*K, node])).mean()))
                for K in [[], *subsets]
            ),
            abs(float(score(circuit).mean() - score(_without(circuit, [node])).mean())),
        ),
    ],
    hints=[
        "For each subset two scores, which differ by the node alone. The empty subset is one of them.",
        "score(circuit, K) and score(circuit, [*K, node]) are the circuit without K, and without K and the node.",
        "changes = [(score(circuit, K) - score(circuit, [*K, node])).mean().abs().item() for K in [[], *subsets]].",
    ],
)

# -------------------------------------------------------------------------------------------------- name_copying_score


def copying_cases(seed: int) -> Iterable[Case]:
    for k, (names, sizes, most, sign, note) in enumerate(
        [
            (40, {"vocabulary": 23}, 5, 1, ""),
            (40, {"vocabulary": 29}, 5, -1, "turned round"),
            (40, {"vocabulary": 31, "processed": True, "heads": 3}, 3, 1, "the top three"),
            (30, {"vocabulary": 26, "heads": 3, "layers": 2}, 8, 1, "the top eight"),
            (1, {"vocabulary": 20}, 10, 1, "a single name"),
            (60, {"vocabulary": 27}, None, None, "without k and sign: 5 and 1"),
        ]
    ):
        generator = torch.Generator().manual_seed(seed + k)
        inputs = {
            "model": random_gpt2(seed + k, **sizes),
            "stream": draws(seed + k, names, 5 * sizes.get("heads", 2)) + 0.4,
            "names": torch.randint(0, sizes["vocabulary"], (names,), generator=generator),
        }
        yield Case(inputs | ({} if most is None else {"k": most, "sign": sign}), note=note)


def _copying(
    norm: bool = True,
    bias: bool = True,
    final: bool = True,
    turned: bool = True,
    top: Callable[[int], int] = lambda k: k,
    stream_left_in: bool = False,
    count: bool = False,
    bottom: bool = False,
    first_norm: bool = False,
    output_bias: bool = False,
    any_name: bool = False,
    among_names: bool = False,
) -> Callable:
    """name_copying_score with one thing done otherwise."""

    def answer(model: Any, stream: Tensor, names: Tensor, k: int = 5, sign: int = 1) -> Tensor:
        scores = torch.zeros(model.cfg.n_layers, model.cfg.n_heads)
        for layer, block in enumerate(model.blocks):
            read = (model.blocks[0] if first_norm else block).ln1(stream) if norm else stream
            for head in range(model.cfg.n_heads):
                value = read @ model.W_V[layer, head] + (model.b_V[layer, head] if bias else 0)
                written = value @ model.W_O[layer, head] + (stream if stream_left_in else 0)
                written = written + model.b_O[layer] if output_bias else written
                written = sign * written if turned else written
                logits = model.unembed(model.ln_final(written) if final else written)
                logits = -logits if bottom and sign < 0 else logits
                ranked = logits[:, names] if among_names else logits
                first = ranked.topk(min(top(k), ranked.shape[-1]), dim=-1).indices
                first = names[first] if among_names else first
                hits = (torch.isin(first, names) if any_name else first == names[:, None]).any(-1).float()
                scores[layer, head] = hits.sum() if count else hits.mean()
        return scores

    return answer


NAME_COPYING_SCORE = Exercise(
    id="ioi.name_copying_score",
    chapter=CHAPTER,
    title="If it looks at a name, does it say that name?",
    points=3,
    minutes=20,
    difficulty=3,
    reference=heads.name_copying_score,
    cases=copying_cases,
    optional=True,
    mistakes=[
        Mistake(
            "no_norm",
            _copying(norm=False),
            "A head reads the stream through its layer's LayerNorm: model.blocks[layer].ln1.",
        ),
        Mistake("no_bias", _copying(bias=False), "The bias of the values is missing: model.b_V[layer, head]."),
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
            "always_five",
            _copying(top=lambda k: 5),
            "This always takes the first five. Take the first k.",
        ),
        Mistake(
            "stream_left_in",
            _copying(stream_left_in=True),
            "This adds what the head writes to the stream, which knows the name already. Decode what the head writes by itself.",
        ),
        Mistake("counted", _copying(count=True), "This is the number of names. Return their share."),
        Mistake(
            "first_layers_norm",
            _copying(first_norm=True),
            "Every head reads through the first layer's LayerNorm here. Each reads through its own layer's: model.blocks[layer].ln1.",
        ),
        Mistake(
            "output_bias",
            _copying(output_bias=True),
            "This adds the bias b_O. It belongs to the layer and to no head: leave it out.",
        ),
        Mistake(
            "one_too_many",
            _copying(top=lambda k: k + 1),
            "This takes the first k + 1. With `rank` counting the tokens above, it is rank < k.",
        ),
        Mistake(
            "any_name",
            _copying(any_name=True),
            "Any of the names counts here. It has to be the name that the head looked at.",
        ),
        Mistake(
            "logits_turned_round",
            _copying(turned=False, bottom=True),
            "This turns the logits round. Turn round what the head writes, before the final LayerNorm: its bias keeps its sign.",
        ),
        Mistake(
            "among_names",
            _copying(among_names=True),
            "This ranks the names among themselves. The name has to be among the k likeliest of all tokens.",
        ),
    ],
    equivalents=[
        _copying(),
        lambda model, stream, names, k=5, sign=1: torch.stack(
            [
                torch.stack(
                    [_copying_by_rank(model, stream, names, layer, head, k, sign) for head in range(model.cfg.n_heads)]
                )
                for layer in range(model.cfg.n_layers)
            ]
        ),
    ],
    hints=[
        "If a head looks at one position alone, what it writes is that position's value through W_O.",
        "read = model.blocks[layer].ln1(stream); written = (read @ W_V + b_V) @ W_O; logits = model.unembed(model.ln_final(sign * written)).",
        "(logits.topk(k, dim=-1).indices == names[:, None]).any(dim=-1), and its mean, for every head of every layer.",
    ],
)


def _copying_by_rank(model: Any, stream: Tensor, names: Tensor, layer: int, head: int, k: int, sign: int) -> Tensor:
    value = torch.einsum("nd,dh->nh", model.blocks[layer].ln1(stream), model.W_V[layer, head]) + model.b_V[layer, head]
    logits = model.unembed(model.ln_final(value @ model.W_O[layer, head] * sign))
    rank = (logits > logits.gather(1, names[:, None])).sum(dim=1)
    return (rank < k).float().mean()


EXERCISES = [
    MEAN_LOGIT_DIFF,
    NAME_MOVER_SCORE,
    PATH_PATCH,
    SECOND_MENTION_SCORE,
    PATH_PATCH_TO_RECEIVERS,
    PRECISION_RECALL,
    ROLE_MEANS,
    KNOCK_OUT,
    FAITHFULNESS,
    COMPLETENESS_GAP,
    MINIMALITY_SCORE,
    NAME_COPYING_SCORE,
]
