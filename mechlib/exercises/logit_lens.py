"""The exercises of chapter 03_logit_lens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mechlib import lens as reference
from mechlib.checker import Case, Exercise, Mistake, Recipe, recipes
from mechlib.checker import compare as comparing
from mechlib.checker.compare import Difference, close
from mechlib.lens import read_out, residual_streams, stream_hook

CHAPTER = "03_logit_lens"

# ------------------------------------------------------------------------------------------------------ inputs to try


def draw(seed: int, *shape: int, scale: float = 2.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random numbers, for logits or streams."""
    return (scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def draw_tokens(seed: int, batch: int, length: int, vocabulary: int = 17) -> Tensor:
    """Prompts of random tokens after the beginning-of-sequence token."""
    tokens = torch.randint(2, vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))
    tokens[:, 0] = 0
    return tokens


def random_gpt2(seed: int, **sizes: Any) -> Recipe:
    return Recipe("gpt2", {"seed": seed % 1000, **sizes})


POCKET = Recipe("model", {"name": "pocket"})


def fact(holds: Callable[[Any], Any], sentence: str) -> Callable[[Any], str | None]:
    """A truth for a case: the sentence, if `holds(outputs)` is false."""
    return lambda outputs: None if bool(holds(outputs)) else sentence


def built(model: Recipe) -> Any:
    """The model of a recipe, here on the judging side."""
    return recipes.build({"model": model})["model"]


# --------------------------------------------------------------------------------------------------------- answer_rank


def rank_cases(seed: int) -> Iterable[Case]:
    def tokens(*shape: int, vocabulary: int) -> Tensor:
        return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(seed))

    ties = draw(seed + 3, 4, 3, 6, scale=1.0).round()
    worst = draw(seed + 4, 2, 5)
    yield Case({"logits": draw(seed, 5, 3, 11), "answers": tokens(3, vocabulary=11)})
    yield Case(
        {"logits": draw(seed + 1, 2, 4, 3, 7), "answers": tokens(4, 3, vocabulary=7)}, note="an answer a position"
    )
    yield Case({"logits": draw(seed + 2, 9), "answers": torch.tensor(4)}, note="a single prediction")
    yield Case({"logits": ties, "answers": tokens(3, vocabulary=6)}, note="logits that are equal")
    yield Case(
        {"logits": worst, "answers": worst.argmin(dim=-1)},
        note="the answers are last",
        truth=fact(lambda rank: (rank == 4).all(), "The least likely of 5 tokens should have rank 4."),
    )
    yield Case({"logits": draw(seed + 5, 3, 2, 8, dtype=torch.float64), "answers": tokens(2, vocabulary=8)})
    yield Case(
        {"logits": draw(seed + 6, 4, 4, 8), "answers": tokens(4, vocabulary=8)}, note="as many depths as prompts"
    )
    yield Case(
        {"logits": draw(seed + 7, 3, 4, 6, scale=1e-4), "answers": tokens(4, vocabulary=6)},
        note="logits that are nearly equal",
    )
    yield Case(
        {"logits": draw(seed, 3, 2, 8), "answers": tokens(2, vocabulary=8)},
        drive="other_device",
        compare=comparing.other_device,
    )


def _of_answer(logits: Tensor, answers: Tensor) -> Tensor:
    return logits.gather(-1, answers.expand(logits.shape[:-1]).unsqueeze(-1))


def _loop_rank(logits: Tensor, answers: Tensor) -> Tensor:
    rows = logits.reshape(-1, logits.shape[-1]).tolist()
    wanted = answers.expand(logits.shape[:-1]).reshape(-1).tolist()
    counts = [sum(value > row[answer] for value in row) for row, answer in zip(rows, wanted, strict=True)]
    return torch.tensor(counts).view(logits.shape[:-1])


ANSWER_RANK = Exercise(
    id="logit_lens.answer_rank",
    chapter=CHAPTER,
    title="How high does the answer stand?",
    points=1,
    minutes=5,
    difficulty=1,
    reference=reference.answer_rank,
    cases=rank_cases,
    mistakes=[
        Mistake(
            "counts_itself",
            lambda logits, answers: (logits >= _of_answer(logits, answers)).sum(dim=-1),
            "This counts the answer itself, so the top token gets 1 (and ties count too). Count only logits that are strictly higher.",
        ),
        Mistake(
            "upside_down",
            lambda logits, answers: (logits < _of_answer(logits, answers)).sum(dim=-1),
            "This counts the tokens below the answer. Count those above it.",
        ),
        Mistake(
            "token_at_that_place",
            lambda logits, answers: _of_answer(logits.argsort(dim=-1, descending=True), answers),
            "argsort tells which token stands at each place; read at the answer's id, it is no rank. Count instead the logits above the answer's.",
        ),
        Mistake(
            "token_at_that_place_squeezed",
            lambda logits, answers: _of_answer(logits.argsort(dim=-1, descending=True), answers).squeeze(-1),
            "argsort alone gives, for each place, the token that stands there. You want the place of a token: apply argsort twice, or count the logits above the answer's.",
        ),
        Mistake(
            "ascending",
            lambda logits, answers: _of_answer(logits.argsort(dim=-1).argsort(dim=-1), answers).squeeze(-1),
            "This ranks from the bottom: the least likely token gets 0. Sort in descending order.",
        ),
        Mistake(
            "place_after_sorting",
            lambda logits, answers: (
                (
                    logits.argsort(dim=-1, descending=True, stable=True)
                    == answers.expand(logits.shape[:-1]).unsqueeze(-1)
                )
                .long()
                .argmax(dim=-1)
            ),
            "This is the answer's place after sorting, where equal logits stand one after the other. Count only logits that are strictly higher.",
        ),
        Mistake(
            "from_one",
            lambda logits, answers: 1 + (logits > _of_answer(logits, answers)).sum(dim=-1),
            "This counts from 1. The top token has rank 0.",
        ),
        Mistake(
            "is_top",
            lambda logits, answers: (logits.argmax(dim=-1) == answers).long(),
            "This says whether the answer is the top token. Count how many tokens are above it.",
        ),
    ],
    equivalents=[
        lambda logits, answers: (
            logits > logits.gather(-1, answers.expand(logits.shape[:-1]).unsqueeze(-1))
        ).count_nonzero(dim=-1),
        lambda logits, answers: torch.stack(
            [
                (row > row[answer]).sum()
                for row, answer in zip(
                    logits.flatten(0, -2) if logits.ndim > 1 else logits[None],
                    answers.expand(logits.shape[:-1]).flatten(),
                    strict=True,
                )
            ]
        ).view(logits.shape[:-1]),
        _loop_rank,
    ],
    hints=[
        "The rank is the number of tokens that the model prefers to the answer.",
        "Pick the answer's logit out of the last axis (gather, after expanding answers to the leading axes), compare all logits with it, count.",
        "wanted = answers.expand(logits.shape[:-1])[..., None]; then (logits > logits.gather(-1, wanted)).sum(dim=-1).",
    ],
)

# ---------------------------------------------------------------------------------------------------------- logit_lens


def lens_cases(seed: int) -> Iterable[Case]:
    def case(model: Recipe, tokens: Tensor, note: str = "") -> Case:
        own = built(model)(tokens).detach()
        return Case(
            {"model": model, "tokens": tokens},
            note=note,
            truth=fact(
                lambda lens: torch.allclose(lens[-1], own, rtol=1e-3, atol=1e-3),
                "At the last depth the lens should give the model's own logits.",
            ),
        )

    yield case(random_gpt2(seed), draw_tokens(seed, 2, 5))
    yield case(random_gpt2(seed + 1, layers=6), draw_tokens(seed + 1, 1, 7), "a single prompt, six layers")
    yield case(random_gpt2(seed + 2, processed=True), draw_tokens(seed + 2, 4, 3), "processed weights: b_U is not zero")
    yield case(random_gpt2(seed + 3, layers=1), draw_tokens(seed + 3, 3, 4), "a model of one layer")
    yield case(
        random_gpt2(seed + 4, layers=2, attention_only=True), draw_tokens(seed + 4, 2, 6), "a model without MLPs"
    )
    yield case(POCKET, draw_tokens(seed, 2, 4, vocabulary=100), "pocket")


def _cached(model: Any, tokens: Tensor) -> Any:
    return model.run_with_cache(tokens)[1]


def _stale_scale(model: Any, tokens: Tensor) -> Tensor:
    streams = residual_streams(model, tokens)
    centred = streams - streams.mean(dim=-1, keepdim=True)
    normed = centred / _cached(model, tokens)["ln_final.hook_scale"]
    return model.unembed(normed * model.ln_final.weight + model.ln_final.bias)


def _mid_streams(model: Any, tokens: Tensor) -> Tensor:
    cache, layers = _cached(model, tokens), range(model.cfg.n_layers)
    return torch.stack([*(cache["resid_mid", layer] for layer in layers), cache["resid_post", layers[-1]]])


def _plain_norm(streams: Tensor) -> Tensor:
    return nn.functional.layer_norm(streams, streams.shape[-1:])


def _from_the_cache(model: Any, tokens: Tensor) -> Tensor:
    _, cache = model.run_with_cache(tokens)
    n_layers = model.cfg.n_layers
    streams = [cache["resid_pre", layer] for layer in range(n_layers)] + [cache["resid_post", n_layers - 1]]
    return model.unembed(model.ln_final(torch.stack(streams)))


def _by_hooks(model: Any, tokens: Tensor) -> Tensor:
    seen: list[Tensor] = []
    hooks = [
        (stream_hook(model, depth), lambda stream, hook: seen.append(stream.clone()))
        for depth in range(model.cfg.n_layers + 1)
    ]
    model.run_with_hooks(tokens, fwd_hooks=hooks)
    return torch.stack([model.unembed(model.ln_final(stream)) for stream in seen])


def _norm_by_hand(model: Any, tokens: Tensor) -> Tensor:
    streams = residual_streams(model, tokens)
    centred = streams - streams.mean(dim=-1, keepdim=True)
    scale = (centred.pow(2).mean(dim=-1, keepdim=True) + model.cfg.eps).sqrt()
    return (centred / scale * model.ln_final.weight + model.ln_final.bias) @ model.W_U + model.b_U


LOGIT_LENS = Exercise(
    id="logit_lens.logit_lens",
    chapter=CHAPTER,
    title="Decode every layer",
    points=3,
    minutes=20,
    difficulty=2,
    reference=reference.logit_lens,
    cases=lens_cases,
    mistakes=[
        Mistake(
            "no_norm",
            lambda model, tokens: model.unembed(residual_streams(model, tokens)),
            "The final LayerNorm is missing. W_U expects what model.ln_final gives out, so even the last depth is not the model's own output.",
        ),
        Mistake(
            "last_depths_scale",
            _stale_scale,
            "Each vector is divided by the scale that the *last* depth had. The LayerNorm's statistics belong to the vector that it gets: call model.ln_final on each stream.",
        ),
        Mistake(
            "norm_without_its_weights",
            lambda model, tokens: model.unembed(_plain_norm(residual_streams(model, tokens))),
            "This centres and scales, but leaves out the final LayerNorm's weight and bias. model.ln_final(...) does all of it.",
        ),
        Mistake(
            "norm_without_bias",
            lambda model, tokens: model.unembed(_plain_norm(residual_streams(model, tokens)) * model.ln_final.weight),
            "The final LayerNorm's bias is missing. model.ln_final(...) adds it.",
        ),
        Mistake(
            "no_unembedding_bias",
            lambda model, tokens: model.ln_final(residual_streams(model, tokens)) @ model.W_U,
            "The unembedding's bias b_U is missing. It is zero in a raw GPT-2 and not in a processed one: use model.unembed(...), or add model.b_U.",
        ),
        Mistake(
            "normed_twice",
            lambda model, tokens: read_out(model, model.ln_final(residual_streams(model, tokens))),
            "The final LayerNorm is applied twice.",
        ),
        Mistake(
            "probabilities",
            lambda model, tokens: read_out(model, residual_streams(model, tokens)).softmax(dim=-1),
            "These are probabilities. Return the logits, before any softmax.",
        ),
        Mistake(
            "log_probabilities",
            lambda model, tokens: read_out(model, residual_streams(model, tokens)).log_softmax(dim=-1),
            "These are log-probabilities. Return the logits, before any softmax.",
        ),
        Mistake(
            "without_the_end",
            lambda model, tokens: read_out(model, residual_streams(model, tokens)[:-1]),
            "The last depth is missing: after the streams before each layer (resid_pre) comes the one after the last layer (resid_post).",
        ),
        Mistake(
            "without_the_start",
            lambda model, tokens: read_out(model, residual_streams(model, tokens)[1:]),
            "Depth 0 is missing: the stream that goes into layer 0, the embeddings (resid_pre of layer 0).",
        ),
        Mistake(
            "in_the_middle",
            lambda model, tokens: read_out(model, _mid_streams(model, tokens)),
            "These streams are those between attention and MLP (resid_mid). Take resid_pre.",
        ),
        Mistake(
            "last_position_only",
            lambda model, tokens: read_out(model, residual_streams(model, tokens))[:, :, -1],
            "These are the logits of the last position. Keep all positions.",
        ),
        Mistake(
            "batch_first",
            lambda model, tokens: read_out(model, residual_streams(model, tokens)).transpose(0, 1),
            "The depths come second here. Stack them along axis 0.",
        ),
    ],
    equivalents=[
        _from_the_cache,
        lambda model, tokens: _cached(model, tokens).accumulated_resid(layer=-1, apply_ln=True) @ model.W_U + model.b_U,
        _by_hooks,
        _norm_by_hand,
    ],
    hints=[
        'model.run_with_cache(tokens) gives (logits, cache). cache["resid_pre", l] is the stream before layer l, cache["resid_post", l] the one after it.',
        "Stack resid_pre of every layer and resid_post of the last one; give the stack to model.ln_final, and that to model.unembed.",
        'streams = torch.stack([*(cache["resid_pre", l] for l in range(n)), cache["resid_post", n - 1]]); return model.unembed(model.ln_final(streams)).',
    ],
)

# ----------------------------------------------------------------------------------------------------- emergence_layer


def emergence_cases(seed: int) -> Iterable[Case]:
    def ranks(*shape: int, high: int = 3) -> Tensor:
        return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed + len(shape)))

    known = torch.tensor([[9, 0, 0, 5, 0], [0, 0, 4, 1, 0], [0, 3, 0, 0, 0], [0, 0, 0, 2, 0]])
    yield Case(
        {"ranks": known, "at_most": 0},
        truth=fact(lambda out: out.tolist() == [1, 3, 2, 4, 0], "For the ranks of this case it is [1, 3, 2, 4, 0]."),
    )
    yield Case({"ranks": ranks(5, 40), "at_most": 1})
    yield Case({"ranks": ranks(4, 12, 6, high=2), "at_most": 0}, note="two axes after the depths")
    yield Case({"ranks": ranks(3, 2, 4, 5, high=6), "at_most": 4}, note="three axes after the depths")
    yield Case({"ranks": torch.tensor([7, 0, 3, 2, 1]), "at_most": 2}, note="a single answer")
    yield Case({"ranks": torch.full((3, 4), 8), "at_most": 5}, note="the answer never gets there")
    yield Case({"ranks": ranks(1, 6), "at_most": 1}, note="one depth only")
    yield Case({"ranks": ranks(5, 40), "at_most": 1}, drive="other_device", compare=comparing.other_device)


def _emergence(good: Tensor) -> Tensor:
    """The right answer, from where the rank is good enough."""
    return len(good) - good.flip(0).long().cumprod(dim=0).sum(dim=0)


def _loop_emergence(ranks: Tensor, at_most: int) -> Tensor:
    rows = ranks.reshape(len(ranks), -1).T.tolist()
    found = []
    for row in rows:
        depth = len(row)
        while depth > 0 and row[depth - 1] <= at_most:
            depth -= 1
        found.append(depth)
    return torch.tensor(found).view(ranks.shape[1:])


EMERGENCE_LAYER = Exercise(
    id="logit_lens.emergence_layer",
    chapter=CHAPTER,
    title="From which depth on is the answer there?",
    points=2,
    minutes=15,
    difficulty=2,
    reference=reference.emergence_layer,
    cases=emergence_cases,
    mistakes=[
        Mistake(
            "first_time",
            lambda ranks, at_most: torch.where(
                (ranks <= at_most).any(dim=0), (ranks <= at_most).long().argmax(dim=0), len(ranks)
            ),
            "This is the first depth where the rank is good enough, even if it gets worse again later. It has to stay so to the end.",
        ),
        Mistake(
            "first_time_or_zero",
            lambda ranks, at_most: (ranks <= at_most).long().argmax(dim=0),
            "argmax finds the first depth where the rank is good enough (0 if there is none), even if it gets worse again later. It has to stay so to the end.",
        ),
        Mistake(
            "strictly_better",
            lambda ranks, at_most: _emergence(ranks < at_most),
            "This asks for a rank below at_most. A rank equal to at_most is good enough.",
        ),
        Mistake(
            "top_only",
            lambda ranks, at_most: _emergence(ranks == 0),
            "This ignores at_most and asks for rank 0.",
        ),
        Mistake(
            "last_failure",
            lambda ranks, at_most: _emergence(ranks <= at_most) - 1,
            "This is the last depth where the rank is not good enough yet, one too early.",
        ),
        Mistake(
            "from_one",
            lambda ranks, at_most: _emergence(ranks <= at_most) + 1,
            "This is one too late: depths count from 0.",
        ),
        Mistake(
            "from_the_end",
            lambda ranks, at_most: len(ranks) - _emergence(ranks <= at_most),
            "This counts for how many depths the rank stays good enough. Count from the start: where does that begin?",
        ),
        Mistake(
            "counts_failures",
            lambda ranks, at_most: (ranks > at_most).sum(dim=0),
            "This counts at how many depths the rank is not good enough. If it was good for a while in between, that is too early.",
        ),
        Mistake(
            "never_is_minus_one",
            lambda ranks, at_most: _emergence(ranks <= at_most).where(ranks[-1] <= at_most, -1),
            "Where the rank is not good enough at the end, the answer is the number of depths, not -1.",
        ),
        Mistake(
            "never_is_the_last",
            lambda ranks, at_most: _emergence(ranks <= at_most).clamp(max=len(ranks) - 1),
            "Where the rank is not good enough even at the end, the answer is the number of depths: one past the last.",
        ),
    ],
    equivalents=[
        lambda ranks, at_most: len(ranks) - ((ranks <= at_most).flip(0).int().cumprod(dim=0)).sum(dim=0),
        lambda ranks, at_most: sum(
            ((ranks[depth:] > at_most).any(dim=0).long() for depth in range(len(ranks))),
            torch.zeros_like(ranks[0]),
        ),
        _loop_emergence,
    ],
    hints=[
        "Walk back from the last depth. Where do you have to stop?",
        "The answer is one after the last depth whose rank is too high, or 0 if there is none. Multiply that mask by 1, 2, 3, ... and take the largest.",
        "depths = torch.arange(1, len(ranks) + 1) in the shape (-1, 1, 1, ...); return (depths * (ranks > at_most)).amax(dim=0).",
    ],
)

# --------------------------------------------------------------------------------------------------------- kl_to_final


def kl_cases(seed: int) -> Iterable[Case]:
    even = torch.zeros(2, 3, 4)
    even[1, :, 0] = 100.0
    yield Case({"logits": draw(seed, 4, 3, 5, 7)})
    yield Case({"logits": draw(seed + 1, 3, 6)}, note="a single position")
    yield Case({"logits": draw(seed + 2, 2, 1, 3, 5, dtype=torch.float64)}, note="float64, a batch of one")
    yield Case({"logits": draw(seed + 3, 5, 2, 9, scale=120.0)}, note="logits as large as 300")
    yield Case({"logits": draw(seed + 4, 3, 2, 4, 5) + 40.0}, note="all logits are high: only differences count")
    yield Case(
        {"logits": even},
        note="nothing is known at depth 0, everything at the end",
        truth=fact(
            lambda kl: torch.allclose(kl[0], torch.full((3,), math.log(4)), atol=1e-3),
            "From certain to uniform over 4 tokens it is log 4.",
        ),
    )
    yield Case({"logits": draw(seed, 3, 2, 6)}, drive="other_device", compare=comparing.other_device)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) from log-probabilities."""
    return (p.exp() * (p - q)).sum(dim=-1)


KL_TO_FINAL = Exercise(
    id="logit_lens.kl_to_final",
    chapter=CHAPTER,
    title="How far is each depth from the end?",
    points=2,
    minutes=10,
    difficulty=2,
    reference=reference.kl_to_final,
    cases=kl_cases,
    mistakes=[
        Mistake(
            "other_way_round",
            lambda logits: _kl(logits.log_softmax(-1), logits[-1:].log_softmax(-1)),
            "This is KL(depth || final). The expectation runs over the final distribution: KL(final || depth).",
        ),
        Mistake(
            "sign",
            lambda logits: -_kl(logits[-1:].log_softmax(-1), logits.log_softmax(-1)),
            "The sign is turned: a KL divergence is never negative.",
        ),
        Mistake(
            "underflow",
            lambda logits: (logits[-1:].softmax(-1) * (logits[-1:].softmax(-1).log() - logits.softmax(-1).log())).sum(
                -1
            ),
            "softmax followed by log gives the log of 0 for unlikely tokens: use log_softmax.",
        ),
        Mistake(
            "infinite",
            lambda logits: _kl(logits[-1:].log_softmax(-1), logits.log_softmax(-1)).masked_fill(
                ((logits.softmax(-1) == 0) & (logits[-1:].softmax(-1) > 0)).any(-1), torch.inf
            ),
            "Where a token's probability underflows to 0 this is infinite (torch.distributions does so): subtract two log_softmax instead.",
        ),
        Mistake(
            "cross_entropy",
            lambda logits: -(logits[-1:].softmax(-1) * logits.log_softmax(-1)).sum(-1),
            "This is the cross-entropy. Take the final distribution's own entropy away from it.",
        ),
        Mistake(
            "bits",
            lambda logits: _kl(logits[-1:].log_softmax(-1), logits.log_softmax(-1)) / math.log(2),
            "This is in bits. Use the natural logarithm.",
        ),
        Mistake(
            "mean_over_tokens",
            lambda logits: _kl(logits[-1:].log_softmax(-1), logits.log_softmax(-1)) / logits.shape[-1],
            "This averages over the vocabulary. The expectation is a sum: the probabilities are its weights.",
        ),
        Mistake(
            "against_the_depth_before",
            lambda logits: torch.cat(
                [_kl(logits[1:].log_softmax(-1), logits[:-1].log_softmax(-1)), torch.zeros_like(logits[:1, ..., 0])]
            ),
            "This compares each depth with the next one. Compare all of them with the last.",
        ),
        Mistake(
            "not_normalised",
            lambda logits: (logits[-1:].softmax(-1) * (logits[-1:] - logits)).sum(-1),
            "The logits are subtracted as they are. Normalise both first: log_softmax.",
        ),
        Mistake(
            "averaged",
            lambda logits: (
                _kl(logits[-1:].log_softmax(-1), logits.log_softmax(-1)).flatten(1).mean(1)
                if logits.ndim > 2
                else _kl(logits[-1:].log_softmax(-1), logits.log_softmax(-1))
            ),
            "This averages over prompts and positions. Keep one number for each.",
        ),
        Mistake(
            "without_the_last",
            lambda logits: _kl(logits[-1:].log_softmax(-1), logits[:-1].log_softmax(-1)),
            "The last depth is missing: its divergence from itself, 0, belongs to the result.",
        ),
    ],
    equivalents=[
        lambda logits: _kl(logits.log_softmax(dim=-1)[-1], logits.log_softmax(dim=-1)),
        lambda logits: nn.functional.kl_div(
            logits.log_softmax(-1), logits[-1:].log_softmax(-1).expand_as(logits), log_target=True, reduction="none"
        ).sum(-1),
        lambda logits: torch.stack(
            [
                (logits[-1].softmax(-1) * (logits[-1].log_softmax(-1) - depth.log_softmax(-1))).sum(-1)
                for depth in logits
            ]
        ),
    ],
    hints=[
        "KL(p || q) is the sum of p (log p - log q). Which of the two is the final distribution?",
        "Turn all logits into log-probabilities (log_softmax), take the last depth's as log p, all as log q, sum over the vocabulary.",
        "log_probs = logits.log_softmax(dim=-1); final = log_probs[-1]; return (final.exp() * (final - log_probs)).sum(dim=-1).",
    ],
)

# --------------------------------------------------------------------------------------------------------- sub_updates


def update_cases(seed: int) -> Iterable[Case]:
    def case(model: Recipe, tokens: Tensor, layer: int, note: str = "") -> Case:
        network = built(model)
        total = (network.run_with_cache(tokens)[1]["mlp_out", layer] - network.b_out[layer]).detach()
        return Case(
            {"model": model, "tokens": tokens, "layer": layer},
            note=note,
            truth=fact(
                lambda parts: torch.allclose(parts.sum(2), total, rtol=1e-3, atol=1e-3),
                "The parts should sum to the MLP's output less its bias.",
            ),
        )

    yield case(random_gpt2(seed), draw_tokens(seed, 2, 5), 1)
    yield case(random_gpt2(seed + 1, d_mlp=7), draw_tokens(seed + 1, 3, 4), 0, "the first layer")
    yield case(random_gpt2(seed + 2, layers=4), draw_tokens(seed + 2, 1, 6), 3, "the last layer, a single prompt")
    yield case(random_gpt2(seed + 3, processed=True), draw_tokens(seed + 3, 4, 3), 2, "processed weights")
    yield case(Recipe("handmade", {"name": "or_gate"}), torch.tensor([[0, 2, 3, 4]]), 1, "an OR gate written by hand")


def _post(model: Any, tokens: Tensor, layer: int, name: str = "hook_post") -> Tensor:
    return _cached(model, tokens)[f"blocks.{layer}.mlp.{name}"]


def _neurons_by_hook(model: Any, tokens: Tensor, layer: int) -> Tensor:
    seen: list[Tensor] = []
    model.run_with_hooks(
        tokens, fwd_hooks=[(f"blocks.{layer}.mlp.hook_post", lambda post, hook: seen.append(post.clone()))]
    )
    return seen[0].unsqueeze(-1) * model.blocks[layer].mlp.W_out


SUB_UPDATES = Exercise(
    id="logit_lens.sub_updates",
    chapter=CHAPTER,
    title="An MLP's output, neuron by neuron",
    points=2,
    minutes=15,
    difficulty=2,
    reference=reference.sub_updates,
    cases=update_cases,
    mistakes=[
        Mistake(
            "before_the_nonlinearity",
            lambda model, tokens, layer: _post(model, tokens, layer, "hook_pre")[..., None] * model.W_out[layer],
            "These activations are those before the nonlinearity (hook_pre). What W_out reads is hook_post.",
        ),
        Mistake(
            "bias_in_every_part",
            lambda model, tokens, layer: (
                _post(model, tokens, layer)[..., None] * model.W_out[layer] + model.b_out[layer]
            ),
            "Every part has the whole bias b_out in it, so that their sum has it many times. Leave it out: it belongs to no neuron.",
        ),
        Mistake(
            "bias_shared_out",
            lambda model, tokens, layer: (
                _post(model, tokens, layer)[..., None] * model.W_out[layer] + model.b_out[layer] / model.cfg.d_mlp
            ),
            "The bias is shared out among the neurons. It belongs to none of them: leave it out.",
        ),
        Mistake(
            "value_vectors_only",
            lambda model, tokens, layer: torch.ones_like(_post(model, tokens, layer))[..., None] * model.W_out[layer],
            "These are the value vectors alone. Multiply each by its neuron's activation.",
        ),
        Mistake(
            "input_weights",
            lambda model, tokens, layer: _post(model, tokens, layer)[..., None] * model.W_in[layer].T,
            "W_in is what a neuron reads. What it writes is its row of W_out.",
        ),
        Mistake(
            "summed",
            lambda model, tokens, layer: _post(model, tokens, layer) @ model.W_out[layer],
            "This is already the sum over the neurons. Keep the neuron axis: multiply, but do not add up.",
        ),
        Mistake(
            "whole_output",
            lambda model, tokens, layer: _cached(model, tokens)["mlp_out", layer],
            "This is the MLP's whole output. Take it apart: one part for each neuron.",
        ),
        Mistake(
            "axes_swapped",
            lambda model, tokens, layer: (_post(model, tokens, layer)[..., None] * model.W_out[layer]).mT,
            "The last two axes are swapped: first the neurons, then d_model.",
        ),
        Mistake(
            "first_layer",
            lambda model, tokens, layer: _post(model, tokens, 0)[..., None] * model.W_out[0],
            "This takes layer 0 apart, whatever `layer` says.",
        ),
    ],
    equivalents=[
        lambda model, tokens, layer: (
            model.run_with_cache(tokens)[1][f"blocks.{layer}.mlp.hook_post"].unsqueeze(-1) * model.W_out[layer]
        ),
        lambda model, tokens, layer: torch.einsum(
            "bpn,nd->bpnd", _cached(model, tokens)["post", layer], model.W_out[layer]
        ),
        _neurons_by_hook,
        lambda model, tokens, layer: _post(model, tokens, layer).diag_embed() @ model.W_out[layer],
    ],
    hints=[
        "A neuron reads the stream, gets an activation, and writes that many times its row of W_out.",
        'cache["post", layer] has the activations (batch, position, neuron); model.W_out[layer] the value vectors (neuron, d_model). Multiply without summing.',
        '_, cache = model.run_with_cache(tokens); return cache["post", layer][..., None] * model.W_out[layer].',
    ],
)

# ------------------------------------------------------------------------------------------------- value_vector_tokens


def value_cases(seed: int) -> Iterable[Case]:
    for model, layer, k, note in [
        (random_gpt2(seed), 1, 4, ""),
        (random_gpt2(seed + 1, d_mlp=7), 0, 1, "only the first token"),
        (random_gpt2(seed + 2, layers=4, vocabulary=23), 3, 6, "the last layer"),
        (random_gpt2(seed, processed=True), 1, 4, "processed weights: the same tokens as with raw ones"),
        (random_gpt2(seed + 3, vocabulary=11), 2, 11, "all tokens in order"),
    ]:
        yield Case({"model": model, "layer": layer, "k": k}, note=note)
    yield Case(
        {"model": Recipe("handmade", {"name": "indirect"}), "layer": 1, "k": 1},
        note="a model written by hand, whose two neurons write yes and no",
        truth=fact(lambda top: top[:2, 0].tolist() == [6, 5], "Its neurons should say yes (token 6) and no (token 5)."),
    )


def _centred(values: Tensor) -> Tensor:
    return values - values.mean(dim=-1, keepdim=True)


def _folded(model: Any) -> Tensor:
    """W_U with the final LayerNorm's weight and centring folded in."""
    effect = model.ln_final.weight[:, None] * model.W_U
    return effect - effect.mean(dim=0)


VALUE_VECTOR_TOKENS = Exercise(
    id="logit_lens.value_vector_tokens",
    chapter=CHAPTER,
    title="What does a neuron promote?",
    points=2,
    minutes=15,
    difficulty=3,
    reference=reference.value_vector_tokens,
    cases=value_cases,
    mistakes=[
        Mistake(
            "no_norm",
            lambda model, layer, k: (model.W_out[layer] @ model.W_U).topk(k).indices,
            "Between the stream and W_U stands the final LayerNorm: centre the value vectors and multiply them by its weight first.",
        ),
        Mistake(
            "no_centring",
            lambda model, layer, k: (model.W_out[layer] * model.ln_final.weight @ model.W_U).topk(k).indices,
            "The final LayerNorm takes the mean away: centre the value vectors before you multiply by its weight.",
        ),
        Mistake(
            "no_weight",
            lambda model, layer, k: (_centred(model.W_out[layer]) @ model.W_U).topk(k).indices,
            "The value vectors are centred, but not multiplied by the final LayerNorm's weight.",
        ),
        Mistake(
            "centred_afterwards",
            lambda model, layer, k: (_centred(model.W_out[layer] * model.ln_final.weight) @ model.W_U).topk(k).indices,
            "The value vectors are multiplied by the weight first and centred then. The LayerNorm does it the other way round.",
        ),
        Mistake(
            "whole_norm",
            lambda model, layer, k: (model.ln_final(model.W_out[layer][None])[0] @ model.W_U).topk(k).indices,
            "This adds the final LayerNorm's bias, which is there whatever the neuron does. Only the centring and the weight belong to the direction.",
        ),
        Mistake(
            "read_out",
            lambda model, layer, k: model.unembed(model.ln_final(model.W_out[layer][None]))[0].topk(k).indices,
            "This adds biases (the final LayerNorm's, and b_U), which are there whatever the neuron does. Leave them out: read a direction, not a stream.",
        ),
        Mistake(
            "suppressed",
            lambda model, layer, k: (model.W_out[layer] @ _folded(model)).topk(k, largest=False).indices,
            "These are the tokens that the neuron makes *less* likely. Take the largest.",
        ),
        Mistake(
            "absolute",
            lambda model, layer, k: (model.W_out[layer] @ _folded(model)).abs().topk(k).indices,
            "The sign is lost: a token with a large negative value is suppressed, not promoted. Leave abs out.",
        ),
        Mistake(
            "input_weights",
            lambda model, layer, k: (model.W_in[layer].T @ _folded(model)).topk(k).indices,
            "W_in is what a neuron reads. Its value vector, what it writes, is its row of W_out.",
        ),
        Mistake(
            "values_instead",
            lambda model, layer, k: (model.W_out[layer] @ _folded(model)).topk(k).values,
            "These are the logits. Return the tokens' ids: .indices.",
        ),
        Mistake(
            "over_the_neurons",
            lambda model, layer, k: (model.W_out[layer] @ _folded(model)).topk(k, dim=0).indices.T,
            "topk runs over the neurons here. Take it over the vocabulary, the last axis.",
        ),
        Mistake(
            "worst_first",
            lambda model, layer, k: (model.W_out[layer] @ _folded(model)).topk(k).indices.flip(-1),
            "The tokens are right, but the best one comes last.",
        ),
    ],
    equivalents=[
        lambda model, layer, k: (
            ((model.W_out[layer] - model.W_out[layer].mean(dim=-1, keepdim=True)) * model.ln_final.weight @ model.W_U)
            .topk(k, dim=-1)
            .indices
        ),
        lambda model, layer, k: (model.W_out[layer] @ _folded(model)).argsort(dim=-1, descending=True)[:, :k],
        lambda model, layer, k: (_plain_norm(model.W_out[layer]) * model.ln_final.weight @ model.W_U).topk(k).indices,
    ],
    hints=[
        "The value vector of a neuron is its row of W_out[layer]. What does the final LayerNorm do to something that is added to the stream (apart from the scale)?",
        "Subtract each value vector's mean, multiply by model.ln_final.weight, multiply with W_U, take the k largest over the vocabulary.",
        "values = model.W_out[layer]; centred = values - values.mean(dim=-1, keepdim=True); (centred * model.ln_final.weight @ model.W_U).topk(k, dim=-1).indices.",
    ],
)

# ----------------------------------------------------------------------------------------------------- erase_direction


def erase_cases(seed: int) -> Iterable[Case]:
    def case(model: Recipe, tokens: Tensor, depth: int, positions: list[int], width: int = 10, note: str = "") -> Case:
        inputs = {"model": model, "tokens": tokens, "depth": depth, "positions": torch.tensor(positions)}
        return Case({**inputs, "directions": draw(seed + depth, len(tokens), width)}, note=note)

    yield case(random_gpt2(seed), draw_tokens(seed, 3, 6), 1, [2, 5, 3])
    yield case(random_gpt2(seed + 1), draw_tokens(seed + 1, 2, 5), 0, [4, 1], note="at depth 0: the embeddings")
    yield case(random_gpt2(seed + 2), draw_tokens(seed + 2, 2, 4), 3, [1, 3], note="at the last depth")
    yield case(
        random_gpt2(seed + 3, layers=4, processed=True), draw_tokens(seed + 3, 1, 5), 2, [3], note="a single prompt"
    )
    yield case(random_gpt2(seed + 4, attention_only=True), draw_tokens(seed + 4, 4, 5), 2, [1, 1, 2, 0])


def _run_edited(model: Any, tokens: Tensor, name: str, edit: Callable[[Tensor], Tensor]) -> Tensor:
    return model.run_with_hooks(tokens, fwd_hooks=[(name, lambda stream, hook: edit(stream.clone()))])


def eraser(
    change: Callable[[Tensor, Tensor], Tensor],
    everywhere: bool = False,
    late: int = 0,
    last: bool = False,
    first: bool = False,
) -> Callable:
    """An answer from what it does to the vectors h (batch, d_model), given the directions."""

    def answer(model: Any, tokens: Tensor, depth: int, positions: Tensor, directions: Tensor) -> Tensor:
        def edit(stream: Tensor) -> Tensor:
            if everywhere:
                return torch.stack([change(stream[:, i], directions) for i in range(stream.shape[1])], dim=1)
            rows = torch.arange(len(stream))
            at = torch.full_like(positions, stream.shape[1] - 1) if last else positions
            at = positions[:1].expand_as(positions) if first else at
            stream[rows, at] = change(stream[rows, at], directions)
            return stream

        return _run_edited(model, tokens, stream_hook(model, min(depth + late, model.cfg.n_layers)), edit)

    return answer


def _along(h: Tensor, directions: Tensor) -> Tensor:
    """The component of h along the directions."""
    unit = directions / directions.norm(dim=-1, keepdim=True)
    return (h * unit).sum(dim=-1, keepdim=True) * unit


ERASE_DIRECTION = Exercise(
    id="logit_lens.erase_direction",
    chapter=CHAPTER,
    title="Take away what the lens shows",
    points=3,
    minutes=20,
    difficulty=3,
    reference=reference.erase_direction,
    cases=erase_cases,
    mistakes=[
        Mistake(
            "not_unit",
            eraser(lambda h, d: h - (h * d).sum(dim=-1, keepdim=True) * d),
            "The direction keeps its length, so too much is taken away. Divide it by its norm first.",
        ),
        Mistake(
            "first_prompts_position",
            eraser(lambda h, d: h - _along(h, d), first=True),
            "The first prompt's position is used for every prompt. Each has its own: stream[torch.arange(batch), positions].",
        ),
        Mistake(
            "divided_by_the_norm_once",
            eraser(lambda h, d: h - (h * d).sum(dim=-1, keepdim=True) * d / d.norm(dim=-1, keepdim=True)),
            "The direction's length is divided out only once. It occurs twice: in the dot product and in what is subtracted.",
        ),
        Mistake(
            "subtracts_the_direction",
            eraser(lambda h, d: h - d),
            "This subtracts the direction itself. Subtract as much of it as the stream has: (h . u) u.",
        ),
        Mistake(
            "subtracts_the_unit_vector",
            eraser(lambda h, d: h - d / d.norm(dim=-1, keepdim=True)),
            "This subtracts the unit vector. Subtract as much of it as the stream has: (h . u) u.",
        ),
        Mistake(
            "adds",
            eraser(lambda h, d: h + _along(h, d)),
            "The component is added once more instead of being taken away.",
        ),
        Mistake(
            "reflects",
            eraser(lambda h, d: h - 2 * _along(h, d)),
            "The component is taken away twice, which turns its sign.",
        ),
        Mistake(
            "keeps_only_the_component",
            eraser(_along),
            "This keeps the component and throws the rest of the stream away. It is the other way round.",
        ),
        Mistake(
            "erases_everything",
            eraser(lambda h, d: torch.zeros_like(h)),
            "This sets the whole vector to zero. Only its component along the direction goes.",
        ),
        Mistake(
            "at_all_positions",
            eraser(lambda h, d: h - _along(h, d), everywhere=True),
            "The direction is erased at every position. Only positions[i] of prompt i changes.",
        ),
        Mistake(
            "at_the_last_position",
            eraser(lambda h, d: h - _along(h, d), last=True),
            "This edits the last position, whatever `positions` says.",
        ),
        Mistake(
            "one_layer_late",
            eraser(lambda h, d: h - _along(h, d), late=1),
            "This edits the stream one layer too late (resid_post in place of resid_pre). stream_hook(model, depth) names the right hook.",
        ),
        Mistake(
            "does_nothing",
            eraser(lambda h, d: h),
            "These are the logits of a run in which nothing was changed. Does your hook return the edited stream?",
        ),
    ],
    equivalents=[
        eraser(lambda h, d: h - (h * d).sum(-1, keepdim=True) / (d * d).sum(-1, keepdim=True) * d),
        eraser(
            lambda h, d: torch.stack(
                [(torch.eye(len(v)) - torch.outer(v, v) / v.dot(v)) @ row for row, v in zip(h, d, strict=True)]
            )
        ),
        eraser(lambda h, d: h - torch.einsum("bd,bd,be->be", h, *[nn.functional.normalize(d, dim=-1)] * 2)),
    ],
    hints=[
        "With u the unit vector, the component of h along u is (h . u) u. A hook gets the stream (batch, position, d_model) and returns the edited one.",
        "unit = directions / norm; in the hook: clone the stream, take h = stream[rows, positions] with rows = torch.arange(batch), subtract (h * unit).sum(-1, keepdim=True) * unit, return.",
        "return model.run_with_hooks(tokens, fwd_hooks=[(stream_hook(model, depth), hook_function)]), where hook_function(stream, hook) returns the edited clone.",
    ],
)

# ----------------------------------------------------------------------------------------------------------- TunedLens


def tuned_lens_cases(seed: int) -> Iterable[Case]:
    for n_layers, d_model in ((3, 5), (1, 4)):
        arguments = {"n_layers": n_layers, "d_model": d_model}
        yield Case(arguments, drive="construct", part="start", compare=_same_parameters)

    def case(n_layers: int, batch: int, length: int, d_model: int, note: str = "") -> Case:
        weight, bias = draw(seed, n_layers, d_model, d_model), draw(seed + 1, n_layers, d_model)
        return Case(
            {
                "arguments": {"n_layers": n_layers, "d_model": d_model},
                "parameters": {"weight": weight, "bias": bias},
                "x": draw(seed + 2, n_layers, batch, length, d_model),
            },
            drive="module",
            part="forward",
            note=note,
        )

    yield case(3, 2, 4, 5)
    yield case(4, 1, 3, 6, "a single prompt")
    yield case(2, 3, 2, 2, "as many layers, positions and dimensions")
    yield case(1, 5, 2, 3, "a single layer")
    yield case(3, 3, 3, 3, "every axis has length 3")


def _same_parameters(expected: Any, got: Any) -> Difference | None:
    """Parameters by name, in whatever order they were made."""
    return close(dict(sorted(expected.items())), dict(sorted(got.items())))


def tuned_lens(
    forward: Callable[[Tensor, Tensor, Tensor], Tensor],
    weight: Callable[..., Tensor] = torch.zeros,
    bias: Callable[..., Tensor] = torch.zeros,
) -> type[nn.Module]:
    """A tuned lens from its forward(streams, weight, bias) and how the parameters start."""

    class Lens(nn.Module):
        def __init__(self, n_layers: int, d_model: int):
            super().__init__()
            self.weight = nn.Parameter(weight(n_layers, d_model, d_model))
            self.bias = nn.Parameter(bias(n_layers, d_model))

        def forward(self, streams: Tensor) -> Tensor:
            return forward(streams, self.weight, self.bias)

    return Lens


def _moved(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.einsum("lbpd,lde->lbpe", h, weight) + bias[:, None, None]


def _right_lens(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return h + _moved(h, weight, bias)


TUNED_LENS = Exercise(
    id="logit_lens.TunedLens",
    chapter=CHAPTER,
    title="A translator for every layer",
    points=3,
    parts={"start": 1, "forward": 2},
    minutes=20,
    difficulty=3,
    reference=reference.TunedLens,
    cases=tuned_lens_cases,
    mistakes=[
        Mistake(
            "no_skip",
            tuned_lens(_moved),
            "The stream itself is missing: h + h @ weight + bias. Without it the lens does not start as the logit lens.",
        ),
        Mistake(
            "no_bias",
            tuned_lens(lambda h, weight, bias: _right_lens(h, weight, 0 * bias)),
            "The bias is not added.",
        ),
        Mistake(
            "bias_subtracted",
            tuned_lens(lambda h, weight, bias: _right_lens(h, weight, -bias)),
            "The bias is subtracted. Add it.",
        ),
        Mistake(
            "transposed",
            tuned_lens(lambda h, weight, bias: _right_lens(h, weight.mT, bias)),
            "The weights are transposed: it is h @ weight[l], with h as a row.",
        ),
        Mistake(
            "one_translator_for_all",
            tuned_lens(lambda h, weight, bias: h + h @ weight[0] + bias[0]),
            "All layers use the translator of layer 0. Each has its own.",
        ),
        Mistake(
            "translators_summed",
            tuned_lens(lambda h, weight, bias: h + torch.einsum("lbpd,mde->lbpe", h, weight) + bias[:, None, None]),
            "Every layer goes through the sum of all translators: keep the layer axis together in the product.",
        ),
        Mistake(
            "multiplied_elementwise",
            tuned_lens(
                lambda h, weight, bias: h + h * weight.diagonal(dim1=1, dim2=2)[:, None, None] + bias[:, None, None]
            ),
            "This uses only the weights' diagonal. Multiply by the whole matrix.",
        ),
        Mistake(
            "detached",
            tuned_lens(lambda h, weight, bias: _right_lens(h, weight.detach(), bias)),
            "The result is right, but no gradient reaches `weight`, so it would never learn: leave .detach() and .data out.",
        ),
        Mistake(
            "starts_at_the_identity",
            tuned_lens(_right_lens, weight=lambda n, d, _: torch.eye(d).repeat(n, 1, 1)),
            "weight starts at the identity, and h is added besides, so that the lens starts at 2 h. Start at zero.",
        ),
        Mistake(
            "starts_at_random",
            tuned_lens(_right_lens, weight=lambda *shape: 0.1 * torch.randn(*shape)),
            "weight starts at random numbers. Start at zero: there the tuned lens is the logit lens.",
        ),
        Mistake(
            "bias_at_random",
            tuned_lens(_right_lens, bias=torch.randn),
            "bias starts at random numbers. Start at zero: there the tuned lens is the logit lens.",
        ),
    ],
    equivalents=[
        tuned_lens(lambda h, weight, bias: h + h @ weight[:, None] + bias[:, None, None]),
        tuned_lens(
            lambda h, weight, bias: torch.stack(
                [stream + stream @ w + b for stream, w, b in zip(h, weight, bias, strict=True)]
            )
        ),
        tuned_lens(
            lambda h, weight, bias: (
                torch.einsum("lbpd,lde->lbpe", h, weight + torch.eye(weight.shape[-1])) + bias[:, None, None, :]
            )
        ),
    ],
    hints=[
        "Two parameters, both zeros: weight (n_layers, d_model, d_model) and bias (n_layers, d_model). forward adds to each stream what its own translator gives.",
        "Make the axes of weight and bias meet those of the streams (layer, batch, position, d_model): weight[:, None] and bias[:, None, None], or an einsum that keeps the layer.",
        "return streams + streams @ self.weight[:, None] + self.bias[:, None, None].",
    ],
)

# ----------------------------------------------------------------------------------------------------- tuned_lens_loss


def loss_cases(seed: int) -> Iterable[Case]:
    def inputs(layers: int, batch: int, length: int, vocabulary: int, scale: float = 2.0) -> dict[str, Any]:
        keep = torch.rand(batch, length, generator=torch.Generator().manual_seed(seed)) < 0.6
        keep[:, 0], keep[0, 1:] = True, False  # prompts of different lengths, one of them short
        shape = (batch, length, vocabulary)
        logits = draw(seed, layers, *shape, scale=scale)
        return {"lens_logits": logits, "final_logits": draw(seed + 1, *shape, scale=scale), "keep": keep}

    yield Case(inputs(3, 2, 5, 7))
    yield Case(inputs(1, 4, 3, 6), note="a single layer")
    yield Case({**inputs(2, 1, 6, 5), "keep": torch.ones(1, 6, dtype=torch.bool)}, note="a single prompt, all of it")
    yield Case(inputs(4, 3, 4, 9, scale=120.0), note="logits as large as 300")
    yield Case(inputs(2, 2, 2, 2), note="every axis has length 2")
    yield Case(inputs(3, 3, 4, 6), drive="gradient", settings={"wrt": "lens_logits"}, note="the lens must learn")
    yield Case(
        inputs(3, 3, 4, 6),
        drive="gradient",
        settings={"wrt": "final_logits"},
        note="the model must not learn",
        compare=_model_untouched,
    )


def _model_untouched(expected: Any, got: Any) -> Difference | None:
    """The same loss, and the same answer to whether a gradient reaches the model."""
    reached = [outcome["gradient"] is not None for outcome in (expected, got)]
    if reached[0] != reached[1]:
        return Difference("gradient", "A gradient reaches final_logits: the model would learn as well.")
    return close(expected["value"], got["value"])


def lens_loss(reduce: Callable[[Tensor, Tensor], Tensor], reverse: bool = False, detach: bool = True) -> Callable:
    """A loss from how it gathers the divergences (layer, batch, position), given the positions to keep."""

    def loss(lens_logits: Tensor, final_logits: Tensor, keep: Tensor) -> Tensor:
        final = (final_logits.detach() if detach else final_logits).log_softmax(-1)
        mine = lens_logits.log_softmax(-1)
        return reduce(_kl(mine, final) if reverse else _kl(final, mine), keep)

    return loss


def _kept_mean(divergence: Tensor, keep: Tensor) -> Tensor:
    return (divergence * keep).sum(dim=(1, 2)) / keep.sum()


TUNED_LENS_LOSS = Exercise(
    id="logit_lens.tuned_lens_loss",
    chapter=CHAPTER,
    title="What the translators learn from",
    points=2,
    minutes=15,
    difficulty=3,
    reference=reference.tuned_lens_loss,
    cases=loss_cases,
    mistakes=[
        Mistake(
            "other_way_round",
            lens_loss(_kept_mean, reverse=True),
            "This is KL(lens || model). The expectation runs over the model's distribution: KL(model || lens).",
        ),
        Mistake(
            "all_positions",
            lens_loss(lambda divergence, keep: divergence.mean(dim=(1, 2))),
            "This averages over all positions, padding included. Only those in `keep` count.",
        ),
        Mistake(
            "zeros_counted",
            lens_loss(lambda divergence, keep: (divergence * keep).mean(dim=(1, 2))),
            "The other positions are set to zero, but still counted in the mean. Divide by the number of positions that are kept.",
        ),
        Mistake(
            "mean_of_prompt_means",
            lens_loss(lambda divergence, keep: ((divergence * keep).sum(2) / keep.sum(1)).mean(1)),
            "This averages each prompt first and then over the prompts, so that a short prompt's positions count more. Take one mean over all positions that are kept.",
        ),
        Mistake(
            "summed",
            lens_loss(lambda divergence, keep: (divergence * keep).sum(dim=(1, 2))),
            "This is the sum over the positions. Take the mean.",
        ),
        Mistake(
            "one_number",
            lens_loss(lambda divergence, keep: _kept_mean(divergence, keep).mean()),
            "This averages over the layers too. Return one loss for each.",
        ),
        Mistake(
            "one_sum",
            lens_loss(lambda divergence, keep: _kept_mean(divergence, keep).sum()),
            "This adds up the layers. Return one loss for each.",
        ),
        Mistake(
            "model_learns",
            lens_loss(_kept_mean, detach=False),
            "The number is right, but a gradient reaches final_logits: the model would learn to please the lens. Use final_logits.detach().",
        ),
        Mistake(
            "keep_turned",
            lens_loss(lambda divergence, keep: (divergence * ~keep).sum(dim=(1, 2)) / (~keep).sum()),
            "This averages over the positions that are *not* to be kept.",
        ),
        Mistake(
            "cross_entropy",
            lambda lens_logits, final_logits, keep: _kept_mean(
                -(final_logits.detach().softmax(-1) * lens_logits.log_softmax(-1)).sum(-1), keep
            ),
            "This is the cross-entropy. It has the right gradient, but is not 0 where lens and model agree: take the model's entropy away.",
        ),
        Mistake(
            "top_token",
            lambda lens_logits, final_logits, keep: _kept_mean(
                -lens_logits.log_softmax(-1).gather(
                    -1, final_logits.argmax(-1).expand(lens_logits.shape[:-1])[..., None]
                )[..., 0],
                keep,
            ),
            "This asks only for the model's top token. The lens should learn the whole distribution: KL(model || lens).",
        ),
    ],
    equivalents=[
        lambda lens_logits, final_logits, keep: _kl(
            final_logits.detach().log_softmax(dim=-1), lens_logits.log_softmax(dim=-1)
        )[:, keep].mean(dim=1),
        lens_loss(_kept_mean),
        lambda lens_logits, final_logits, keep: torch.stack(
            [
                nn.functional.kl_div(
                    logits[keep].log_softmax(-1),
                    final_logits[keep].detach().log_softmax(-1),
                    log_target=True,
                    reduction="batchmean",
                )
                for logits in lens_logits
            ]
        ),
        lambda lens_logits, final_logits, keep: reference.kl_to_final(
            torch.cat([lens_logits, final_logits.detach()[None]])
        )[:-1, keep].mean(dim=1),
    ],
    hints=[
        "It is your kl_to_final once more, with the model's own logits as the final ones, then a mean over some of the positions.",
        "Turn both into log-probabilities (the model's detached), take KL(model || lens) at every position, pick those in `keep` by indexing with the mask, average for each layer.",
        "divergence = kl of shape (layer, batch, position); return divergence[:, keep].mean(dim=1).",
    ],
)

# ---------------------------------------------------------------------------------------------------------- patchscope


def patchscope_cases(seed: int) -> Iterable[Case]:
    def case(model: Recipe, source: Any, target: Any, note: str = "", same: bool = False) -> Case:
        names = ("source", "source_depth", "source_positions", "target", "target_depth", "target_positions")
        inputs = dict(zip(names, (*source, *target), strict=True))
        own = built(model)(inputs["target"]).detach()
        truth = fact(
            lambda out: torch.allclose(out, own, rtol=1e-3, atol=1e-3),
            "A vector put back where it came from should give the model's own logits.",
        )
        return Case({"model": model, **inputs}, note=note, truth=truth if same else None)

    at = torch.tensor
    three, five = draw_tokens(seed, 3, 6), draw_tokens(seed + 1, 3, 5)
    yield case(random_gpt2(seed), (three, 1, at([2, 5, 3])), (five, 2, at([1, 3, 2])))
    yield case(random_gpt2(seed + 1), (five, 3, at([4, 1, 2])), (three, 1, at([3, 2, 4])), "from the last depth")
    yield case(random_gpt2(seed + 2), (three, 0, at([1, 4, 5])), (five, 3, at([2, 4, 1])), "to the last depth")
    yield case(random_gpt2(seed), (three, 2, at([2, 5, 3])), (three, 2, at([2, 5, 3])), "back to where it was", True)
    one = draw_tokens(seed + 2, 1, 7)
    yield case(
        random_gpt2(seed + 3, processed=True, layers=4), (one, 3, at([6])), (one[:, :4], 0, at([1])), "a single prompt"
    )


def scope(
    depths: Callable[[Any, int, int], tuple[int, int]] = lambda model, source, target: (source, target),
    positions: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = lambda source, target: (source, target),
    combine: Callable[[Tensor, Tensor], Tensor] = lambda old, new: new,
    everywhere: bool = False,
    in_every_row: bool = False,
) -> Callable:
    """A patchscope from the depths and positions that it uses, and from how it puts the new vector in."""

    def answer(
        model: Any,
        source: Tensor,
        source_depth: int,
        source_positions: Tensor,
        target: Tensor,
        target_depth: int,
        target_positions: Tensor,
    ) -> Tensor:
        read, write = (min(d, model.cfg.n_layers) for d in depths(model, source_depth, target_depth))
        taken_at, put_at = positions(source_positions, target_positions)
        rows = torch.arange(len(source))
        hidden = residual_streams(model, source)[read][rows, taken_at]

        def edit(stream: Tensor) -> Tensor:
            if everywhere:
                return hidden[:, None].expand_as(stream).clone()
            if in_every_row:
                stream[:, put_at] = hidden
                return stream
            stream[rows, put_at] = combine(stream[rows, put_at], hidden)
            return stream

        return _run_edited(model, target, stream_hook(model, write), edit)

    return answer


def _one_by_one(
    model: Any,
    source: Tensor,
    source_depth: int,
    source_positions: Tensor,
    target: Tensor,
    target_depth: int,
    target_positions: Tensor,
) -> Tensor:
    logits = []
    for i in range(len(source)):
        hidden = residual_streams(model, source[i : i + 1])[source_depth, 0, source_positions[i]]

        def edit(stream: Tensor, i: int = i, hidden: Tensor = hidden) -> Tensor:
            stream[0, target_positions[i]] = hidden
            return stream

        logits.append(_run_edited(model, target[i : i + 1], stream_hook(model, target_depth), edit)[0])
    return torch.stack(logits)


PATCHSCOPE = Exercise(
    id="logit_lens.patchscope",
    chapter=CHAPTER,
    title="Ask the model what a vector means",
    points=3,
    minutes=25,
    difficulty=4,
    optional=True,
    reference=reference.patchscope,
    cases=patchscope_cases,
    mistakes=[
        Mistake(
            "depths_swapped",
            scope(depths=lambda model, source, target: (target, source)),
            "The depths are swapped: read at source_depth, write at target_depth.",
        ),
        Mistake(
            "written_where_it_was_read",
            scope(depths=lambda model, source, target: (source, source)),
            "The vector is put in at source_depth. It goes in at target_depth.",
        ),
        Mistake(
            "read_at_the_target_depth",
            scope(depths=lambda model, source, target: (target, target)),
            "The vector is read at target_depth. Read it at source_depth.",
        ),
        Mistake(
            "read_one_layer_late",
            scope(depths=lambda model, source, target: (source + 1, target)),
            "The vector is read one layer too late (resid_post in place of resid_pre). stream_hook(model, source_depth) names the right hook.",
        ),
        Mistake(
            "written_one_layer_late",
            scope(depths=lambda model, source, target: (source, target + 1)),
            "The vector is put in one layer too late (resid_post in place of resid_pre). stream_hook(model, target_depth) names the right hook.",
        ),
        Mistake(
            "both_one_layer_late",
            scope(depths=lambda model, source, target: (source + 1, target + 1)),
            "The vector is read and put in one layer too late (resid_post in place of resid_pre). stream_hook names the right hooks.",
        ),
        Mistake(
            "same_position",
            scope(positions=lambda source, target: (target, target)),
            "The vector is read at target_positions. Read it at source_positions.",
        ),
        Mistake(
            "first_prompts_position",
            scope(positions=lambda source, target: (source, target[:1].expand_as(target))),
            "The vector goes in at the first prompt's position in every prompt. Each has its own: stream[torch.arange(batch), target_positions].",
        ),
        Mistake(
            "in_every_row",
            scope(in_every_row=True),
            "stream[:, target_positions] takes every prompt's position in every prompt. Pair them: stream[torch.arange(batch), target_positions].",
        ),
        Mistake(
            "added",
            scope(combine=lambda old, new: old + new),
            "The vector is added to what stands there. Put it in its place.",
        ),
        Mistake(
            "at_all_positions",
            scope(everywhere=True),
            "The vector is put in at every position of the target. Only target_positions[i] of prompt i changes.",
        ),
        Mistake(
            "nothing_put_in",
            scope(combine=lambda old, new: old),
            "These are the logits of the target prompts as they are. Does your hook return the edited stream?",
        ),
    ],
    equivalents=[
        scope(),
        scope(combine=lambda old, new: old + (new - old)),
        _one_by_one,
    ],
    hints=[
        "Two runs: one on the source prompts, from which you keep a vector a prompt; one on the target prompts, with a hook that puts these vectors in.",
        "hidden = cache[stream_hook(model, source_depth)][rows, source_positions]; the hook at stream_hook(model, target_depth) clones the stream and sets [rows, target_positions] to hidden.",
        "model.run_with_hooks(target, fwd_hooks=[(stream_hook(model, target_depth), place)]), where place(stream, hook) returns the edited clone; rows = torch.arange(len(source)).",
    ],
)

# ----------------------------------------------------------------------------------------------------- blind_direction


def blind_cases(seed: int) -> Iterable[Case]:
    def case(
        d_model: int, vocabulary: int, note: str = "", dtype: torch.dtype = torch.float32, lift: float = 0
    ) -> Case:
        weight = draw(seed + d_model, d_model, scale=0.4, dtype=dtype) + 1
        W_U = draw(seed + vocabulary, d_model, vocabulary, dtype=dtype) + lift * draw(seed + 2, d_model, 1, dtype=dtype)
        return Case(
            {"weight": weight, "W_U": W_U},
            note=note,
            compare=_same_line,
            truth=fact(
                lambda v: _seen(v, weight, W_U) <= 1.02 * _least(weight, W_U) + 1e-4 and v.mean().abs() < 1e-3,
                "The lens can see less of another direction of unit length and zero mean.",
            ),
        )

    yield case(5, 9)
    yield case(8, 31, "a larger vocabulary")
    yield case(3, 7, dtype=torch.float64)
    yield case(6, 13, "a large part of W_U is the same for all tokens: the softmax ignores it", lift=5.0)
    weight, W_U = draw(seed, 6, scale=0.3) + 1, draw(seed + 1, 6, 10)
    hidden = torch.tensor([1.0, -1.0, 0.5, 0.0, -0.5, 0.0])
    # Make W_U blind to a direction on purpose: what the LayerNorm makes of it is orthogonal to all columns.
    seen = weight * hidden
    W_U = W_U - torch.outer(seen, seen @ W_U) / seen.dot(seen)
    unit = hidden / hidden.norm()
    yield Case(
        {"weight": weight, "W_U": W_U},
        note="one direction is quite invisible",
        compare=_same_line,
        truth=fact(lambda v: (v @ unit).abs() > 0.999, "It is (1, -1, 1/2, 0, -1/2, 0), up to its length and sign."),
    )


def _same_line(expected: Any, got: Any) -> Difference | None:
    """Two vectors of the same length along the same line; which way they point does not matter."""
    if form := close(torch.zeros_like(expected), torch.zeros_like(got) if isinstance(got, Tensor) else got):
        return form
    if not torch.isfinite(got).all():
        return Difference("nan", "The result contains NaN or infinite values.")
    turned = got if expected @ got >= 0 else -got
    if (turned - expected).norm() <= 1e-2 * expected.norm():
        return None
    cosine = (turned @ expected / (turned.norm() * expected.norm()).clamp(min=1e-12)).item()
    sentence = "The result is another direction, or has another length."
    return Difference(
        "value",
        sentence,
        f"a vector of length {expected.norm():.3f}",
        f"a vector of length {got.norm():.3f}, at a cosine of {cosine:.3f} to it",
    )


def _effect(weight: Tensor, W_U: Tensor, mean: bool = True, tokens: bool = True, scale: bool = True) -> Tensor:
    """The matrix that takes a direction to its effect on the logits, with or without each of its three steps."""
    effect = W_U - W_U.mean(dim=1, keepdim=True) if tokens else W_U
    effect = weight[:, None] * effect if scale else effect
    return effect - effect.mean(dim=0) if mean else effect


def _seen(v: Tensor, weight: Tensor, W_U: Tensor) -> float:
    return (v @ _effect(weight, W_U)).norm().item()


def _least(weight: Tensor, W_U: Tensor) -> float:
    return torch.linalg.svdvals(_effect(weight.double(), W_U.double()))[-2].item()


def _singular(effect: Tensor, which: int) -> Tensor:
    return torch.linalg.svd(effect).U[:, which]


def _lifted(effect: Tensor) -> Tensor:
    """The same effect, but with the mean made the most visible direction of all."""
    return torch.cat([effect, effect.norm() * torch.ones_like(effect[:, :1])], dim=1)


def _in_a_basis(weight: Tensor, W_U: Tensor) -> Tensor:
    """Works in an orthonormal basis of the vectors of zero mean."""
    d_model = len(weight)
    basis = torch.linalg.qr(torch.cat([torch.ones(d_model, 1), torch.eye(d_model)[:, 1:]], dim=1).to(W_U)).Q[:, 1:]
    return basis @ torch.linalg.svd(basis.T @ (weight[:, None] * (W_U - W_U.mean(1, keepdim=True)))).U[:, -1]


BLIND_DIRECTION = Exercise(
    id="logit_lens.blind_direction",
    chapter=CHAPTER,
    title="Where is the lens blind?",
    points=3,
    minutes=25,
    difficulty=4,
    optional=True,
    reference=reference.blind_direction,
    cases=blind_cases,
    mistakes=[
        Mistake(
            "the_mean",
            lambda weight, W_U: _singular(_effect(weight, W_U), -1),
            "This is (1, 1, ..., 1), up to its length: of course invisible, since the LayerNorm takes the mean away. Look among the directions of zero mean.",
        ),
        Mistake(
            "most_visible",
            lambda weight, W_U: _singular(_effect(weight, W_U), 0),
            "This is the direction that the lens sees *most*. Take the other end.",
        ),
        Mistake(
            "no_centring_of_the_vector",
            lambda weight, W_U: _singular(_effect(weight, W_U, mean=False), -1),
            "The final LayerNorm's centring is missing, so that the result's mean is not zero.",
        ),
        Mistake(
            "no_centring_of_the_logits",
            lambda weight, W_U: _singular(_lifted(_effect(weight, W_U, tokens=False)), -1),
            "A step that moves all logits alike counts here, though the softmax ignores it. Take each row's mean over the vocabulary from W_U.",
        ),
        Mistake(
            "no_weight",
            lambda weight, W_U: _singular(_lifted(_effect(weight, W_U, scale=False)), -1),
            "The final LayerNorm's weight is missing.",
        ),
        Mistake(
            "plain_unembedding",
            lambda weight, W_U: _singular(W_U, -1),
            "This is what W_U alone sees least. The final LayerNorm (centring, weight) stands before it, and the softmax (which ignores what is the same for all tokens) after it.",
        ),
        Mistake(
            "second_least",
            lambda weight, W_U: _singular(_lifted(_effect(weight, W_U)), -2),
            "This is the direction that the lens sees second least.",
        ),
        Mistake(
            "next_to_the_mean",
            lambda weight, W_U: _singular(_effect(weight, W_U), -2),
            "Stepping over the smallest singular value works until a second direction is quite invisible: then it mixes with (1, ..., 1). Keep the mean out before you look for the smallest.",
        ),
        Mistake(
            "not_unit",
            lambda weight, W_U: 2 * _singular(_lifted(_effect(weight, W_U)), -1),
            "The direction is right, but its length is not 1.",
        ),
    ],
    equivalents=[
        lambda weight, W_U: -_singular(_lifted(_effect(weight, W_U)), -1),
        _in_a_basis,
        lambda weight, W_U: torch.linalg.eigh(
            _lifted(_effect(weight, W_U)) @ _lifted(_effect(weight, W_U)).T
        ).eigenvectors[:, 0],
    ],
    hints=[
        "Write the lens's answer to a small step v as v @ M, with one matrix M for the three stages: centring of v, the weight, W_U with each row's mean over the vocabulary taken away. Which unit v makes v @ M shortest?",
        "The left singular vector of M with the smallest singular value. (1, ..., 1) has singular value 0: put a large column of ones beside M, and it is out of the way.",
        "M = weight[:, None] * (W_U - W_U.mean(1, keepdim=True)); M = M - M.mean(0); ones = torch.ones_like(M[:, :1]); return torch.linalg.svd(torch.cat([M, M.norm() * ones], 1)).U[:, -1].",
    ],
)

EXERCISES = [
    ANSWER_RANK,
    LOGIT_LENS,
    EMERGENCE_LAYER,
    KL_TO_FINAL,
    SUB_UPDATES,
    VALUE_VECTOR_TOKENS,
    ERASE_DIRECTION,
    TUNED_LENS,
    TUNED_LENS_LOSS,
    PATCHSCOPE,
    BLIND_DIRECTION,
]
