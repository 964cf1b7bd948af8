"""The exercises of chapter 02_induction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from mechlib import ablation, handmade, heads, paths
from mechlib.checker import Case, Exercise, Mistake, Recipe
from mechlib.checker import compare as comparing
from mechlib.checker.compare import Difference, close
from mechlib.handmade import SHARP, Blueprint, attend

CHAPTER = "02_induction"

# ------------------------------------------------------------------------------------------------------- what to try


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def words(seed: int, *shape: int, vocabulary: int = 17) -> Tensor:
    """Random tokens, so many of few kinds that some recur."""
    return torch.randint(2, vocabulary, shape, generator=generator(seed))


def patterns(seed: int, batch: int, n_heads: int, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random causal attention [batch head query key]; every row sums to 1."""
    scores = 2 * randn(seed, batch, n_heads, n, n)
    future = torch.ones(n, n, dtype=torch.bool).triu(diagonal=1)
    return scores.masked_fill(future, -torch.inf).softmax(dim=-1).to(dtype)


def repeated(seed: int, batch: int, length: int, vocabulary: int = 17) -> Tensor:
    """<bos> and a segment of different words, twice."""
    rows = [2 + torch.randperm(vocabulary - 2, generator=generator(seed + i))[:length] for i in range(batch)]
    return torch.stack([torch.cat([torch.zeros(1, dtype=torch.long), row, row]) for row in rows])


def fact(holds: Callable[[Any], Any], sentence: str) -> Callable[[Any], str | None]:
    """A truth for a case: the sentence, if `holds(outputs)` is false."""
    return lambda outputs: None if bool(holds(outputs)) else sentence


# ------------------------------------------------------------------------------------------------------ per_token_loss


def _loss_cases(seed: int) -> Iterable[Case]:
    sharp = randn(seed + 3, 2, 4, 5)
    sharp[..., 0] = 200.0  # no word is token 0, so every loss is about 200
    even = torch.zeros(2, 5, 8)
    tries = [
        (randn(seed, 3, 6, 11), words(seed, 3, 6, vocabulary=11), ""),
        (randn(seed + 1, 1, 7, 5), words(seed + 1, 1, 7, vocabulary=5), "a batch of one"),
        (randn(seed + 2, 4, 2, 9), words(seed + 2, 4, 2, vocabulary=9), "two positions: one prediction"),
        (randn(seed + 4, 6, 6, 6), words(seed + 4, 6, 6, vocabulary=6), "batch, positions and vocabulary alike"),
        (sharp, words(seed + 3, 2, 4, vocabulary=5), "logits so far apart that a probability is 0 in float32"),
        (randn(seed + 5, 2, 5, 7) + 300, words(seed + 5, 2, 5, vocabulary=7), "logits around 300"),
        (randn(seed + 6, 2, 5, 7, dtype=torch.float64), words(seed + 6, 2, 5, vocabulary=7), "float64 logits"),
    ]
    for logits, tokens, note in tries:
        yield Case({"logits": logits, "tokens": tokens}, note=note)
    uniform = fact(
        lambda loss: torch.isclose(loss, torch.full_like(loss, 8.0).log()).all(),
        "If all 8 tokens are equally likely, every loss is log 8.",
    )
    yield Case({"logits": even, "tokens": words(seed, 2, 5, vocabulary=8)}, note="all logits 0", truth=uniform)
    inputs = {"logits": randn(seed, 2, 4, 5), "tokens": words(seed, 2, 4, vocabulary=5)}
    yield Case(inputs, drive="other_device", compare=comparing.other_device)


def _loop_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    rows = []
    for scores, row in zip(logits, tokens, strict=True):
        rows.append(torch.stack([scores[i].logsumexp(0) - scores[i, row[i + 1]] for i in range(len(row) - 1)]))
    return torch.stack(rows)


def _own_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    log_probs = logits[:, :-1].log_softmax(dim=-1)
    return -log_probs.gather(2, tokens[:, 1:].unsqueeze(-1))[..., 0]


def _gather_loss(log_probs: Tensor, tokens: Tensor) -> Tensor:
    return -log_probs.gather(2, tokens.unsqueeze(-1))[..., 0]


PER_TOKEN_LOSS = Exercise(
    id="induction.per_token_loss",
    chapter=CHAPTER,
    title="How surprised is the model, token by token?",
    points=1,
    minutes=5,
    difficulty=1,
    reference=heads.per_token_loss,
    cases=_loss_cases,
    mistakes=[
        Mistake(
            "not_shifted",
            lambda logits, tokens: _gather_loss(logits[:, :-1].log_softmax(-1), tokens[:, :-1]),
            "This asks each position for its own token. Position i predicts token i + 1: take tokens[:, 1:].",
        ),
        Mistake(
            "not_shifted_nor_cut",
            lambda logits, tokens: _gather_loss(logits.log_softmax(-1), tokens),
            "This asks each position for its own token. Position i predicts token i + 1, so there is one loss fewer than positions.",
        ),
        Mistake(
            "shifted_backwards",
            lambda logits, tokens: _gather_loss(logits[:, 1:].log_softmax(-1), tokens[:, :-1]),
            "This asks position i + 1 for token i: backwards. Drop the last logits and the first token.",
        ),
        Mistake(
            "sign",
            lambda logits, tokens: -_own_loss(logits, tokens),
            "This is the log-probability. The loss is minus that: never negative.",
        ),
        Mistake(
            "probability",
            lambda logits, tokens: (-_own_loss(logits, tokens)).exp(),
            "This is the probability itself. The loss is minus its logarithm.",
        ),
        Mistake(
            "log_of_softmax",
            lambda logits, tokens: -logits[:, :-1].softmax(-1).log().gather(2, tokens[:, 1:].unsqueeze(-1))[..., 0],
            "log(softmax(x)) is infinite where a probability is too small for float32. Use log_softmax, which never leaves the logarithm.",
        ),
        Mistake(
            "no_softmax",
            lambda logits, tokens: _gather_loss(logits[:, :-1], tokens[:, 1:]),
            "These are logits, not log-probabilities: normalise them over the vocabulary first (log_softmax).",
        ),
        Mistake(
            "softmax_over_positions",
            lambda logits, tokens: _gather_loss(logits.log_softmax(1)[:, :-1], tokens[:, 1:]),
            "This normalises over the positions. The tokens that compete are on the last axis.",
        ),
        Mistake(
            "averaged",
            lambda logits, tokens: _own_loss(logits, tokens).mean(),
            "This is one average. Keep every token's own loss: shape (batch, position - 1).",
        ),
        Mistake(
            "averaged_over_the_batch",
            lambda logits, tokens: _own_loss(logits, tokens).mean(dim=0),
            "This averages over the prompts. Keep every token's own loss: shape (batch, position - 1).",
        ),
        Mistake(
            "bits",
            lambda logits, tokens: _own_loss(logits, tokens) / torch.tensor(2.0).log(),
            "This is in bits. The chapter counts in nats: use the natural logarithm.",
        ),
    ],
    equivalents=[
        _own_loss,
        lambda logits, tokens: torch.nn.functional.cross_entropy(
            logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none"
        ),
        _loop_loss,
        lambda logits, tokens: (
            logits[:, :-1].logsumexp(-1) - torch.take_along_dim(logits[:, :-1], tokens[:, 1:, None], dim=2).squeeze(2)
        ),
    ],
    hints=[
        "The logits at position i are about token i + 1. Which logits and which tokens have no partner?",
        "Take log_softmax over the last axis, pick the entry of the next token with gather, and change the sign.",
        "log_probs = logits[:, :-1].log_softmax(dim=-1), then -log_probs.gather(-1, tokens[:, 1:, None]) without its last axis.",
    ],
)

# ------------------------------------------------------------------------------------------------ previous_token_score


def _pattern_cases(seed: int) -> Iterable[tuple[Tensor, str]]:
    yield patterns(seed, 3, 4, 7), ""
    yield patterns(seed + 1, 1, 3, 6), "a batch of one"
    yield patterns(seed + 2, 4, 1, 5), "a single head"
    yield patterns(seed + 3, 5, 5, 5), "as many prompts as heads and positions"
    yield patterns(seed + 4, 2, 3, 2), "two positions"
    yield patterns(seed + 5, 2, 3, 6, dtype=torch.float64), "float64"
    one_back = torch.eye(6).roll(-1, dims=1)
    one_back[0], one_back[0, 0] = 0, 1
    yield (
        torch.stack([torch.eye(6), one_back.roll(1, 0).tril(), torch.ones(6, 6).tril() / 6])[None],
        "heads with simple patterns",
    )


def _previous_cases(seed: int) -> Iterable[Case]:
    for pattern, note in _pattern_cases(seed):
        yield Case({"pattern": pattern}, note=note)
    perfect = torch.diag(torch.ones(7), -1)
    perfect[0, 0] = 1
    yield Case(
        {"pattern": perfect.expand(2, 3, 8, 8).clone()},
        note="heads that always look one back",
        truth=fact(
            lambda score: torch.isclose(score, torch.ones(3)).all(),
            "A head that always looks one back has a score of 1: the first position, which cannot, does not count.",
        ),
    )
    yield Case({"pattern": patterns(seed, 2, 3, 5)}, drive="other_device", compare=comparing.other_device)


def _loop_previous(pattern: Tensor) -> Tensor:
    batch, n_heads, n, _ = pattern.shape
    total = pattern.new_zeros(n_heads)
    for head in range(n_heads):
        for b in range(batch):
            for query in range(1, n):
                total[head] += pattern[b, head, query, query - 1]
    return total / (batch * (n - 1))


def _diagonal(pattern: Tensor, offset: int) -> Tensor:
    return pattern.diagonal(offset=offset, dim1=-2, dim2=-1)


PREVIOUS_TOKEN_SCORE = Exercise(
    id="induction.previous_token_score",
    chapter=CHAPTER,
    title="Which head looks one back?",
    points=1,
    minutes=10,
    difficulty=1,
    reference=heads.previous_token_score,
    cases=_previous_cases,
    mistakes=[
        Mistake(
            "above_the_diagonal",
            lambda pattern: _diagonal(pattern, 1).mean(dim=(0, 2)),
            "This reads the attention to the *next* token, which is always 0. Rows are queries, columns are keys: one back lies below the diagonal.",
        ),
        Mistake(
            "itself",
            lambda pattern: _diagonal(pattern, 0).mean(dim=(0, 2)),
            "This is the attention of a position to itself. One back is the diagonal below.",
        ),
        Mistake(
            "two_back",
            lambda pattern: _diagonal(pattern, -2).sum(dim=(0, 2)) / (len(pattern) * max(pattern.shape[-1] - 2, 1)),
            "This looks two back. The previous token is one below the diagonal.",
        ),
        Mistake(
            "counts_the_first_position",
            lambda pattern: _diagonal(pattern, -1).sum(dim=(0, 2)) / (pattern.shape[0] * pattern.shape[-1]),
            "This divides by all positions. The first one has nothing before it: average over the others.",
        ),
        Mistake(
            "not_averaged_over_the_batch",
            lambda pattern: _diagonal(pattern, -1).mean(dim=-1),
            "This keeps the batch. Average over the prompts too: one number a head.",
        ),
        Mistake(
            "summed",
            lambda pattern: _diagonal(pattern, -1).sum(dim=(0, 2)),
            "This adds up the attention. The score is its mean, so that it lies between 0 and 1.",
        ),
        Mistake(
            "heads_and_batch_exchanged",
            lambda pattern: _diagonal(pattern, -1).mean(dim=(1, 2)),
            "This averages over the heads and keeps the prompts. The axes are batch, head, query, key.",
        ),
        Mistake(
            "first_prompt_only",
            lambda pattern: _diagonal(pattern, -1)[0].mean(dim=-1),
            "This looks at the first prompt only. Average over the batch.",
        ),
        Mistake(
            "largest",
            lambda pattern: _diagonal(pattern, -1).amax(dim=(0, 2)),
            "This is the largest attention to a previous token. The score is the mean.",
        ),
        Mistake(
            "leaves_out_bos",
            lambda pattern: _diagonal(pattern, -1)[..., 1:].mean(dim=(0, 2)),
            "Position 1 is left out here. Position 0 is before it, whatever token stands there: only position 0 has nothing before it.",
        ),
        Mistake(
            "wins",
            lambda pattern: (
                (pattern.argmax(dim=-1)[..., 1:] == torch.arange(pattern.shape[-1] - 1, device=pattern.device))
                .to(pattern.dtype)
                .mean(dim=(0, 2))
            ),
            "This counts how often the previous token gets the most attention. The score is how much it gets.",
        ),
    ],
    equivalents=[
        lambda pattern: pattern.diagonal(offset=-1, dim1=-2, dim2=-1).mean(dim=(0, -1)),
        lambda pattern: pattern[:, :, range(1, pattern.shape[2]), range(pattern.shape[2] - 1)].mean(2).mean(0),
        _loop_previous,
        lambda pattern: (
            torch.einsum("bhqk,qk->h", pattern, torch.ones_like(pattern[0, 0]).tril(-1).triu(-1))
            / (len(pattern) * (pattern.shape[-1] - 1))
        ),
    ],
    hints=[
        "Where in the matrix [query, key] stands the attention from position 5 to position 4?",
        "The entries (i, i - 1) are a diagonal: torch.Tensor.diagonal takes an offset and two axes.",
        "pattern.diagonal(offset=..., dim1=-2, dim2=-1) has shape (batch, head, position - 1): take the mean over two of the axes.",
    ],
)

# ------------------------------------------------------------------------------- duplicate_token_score, induction_score


def _same(tokens: Tensor) -> Tensor:
    return tokens[:, :, None] == tokens[:, None, :]


def _earlier(tokens: Tensor) -> Tensor:
    return torch.tril(_same(tokens), diagonal=-1)


def _share(pattern: Tensor, wanted: Tensor) -> Tensor:
    """Attention to the wanted keys, a query's keys added up, averaged over the queries that have one."""
    return torch.einsum("bhqk,bqk->h", pattern, wanted.to(pattern.dtype)) / wanted.any(-1).sum().clamp(min=1)


def _recurring_cases(truth: Callable[[Tensor, Tensor], Callable[[Any], str | None] | None]) -> Callable:
    def cases(seed: int) -> Iterable[Case]:
        tries = [
            (patterns(seed, 3, 4, 9), words(seed, 3, 9, vocabulary=6), ""),
            (patterns(seed + 1, 1, 3, 8), words(seed + 1, 1, 8, vocabulary=5), "a batch of one"),
            (patterns(seed + 2, 2, 3, 11), repeated(seed, 2, 5), "a segment, and the same again"),
            (
                patterns(seed + 3, 2, 3, 12),
                repeated(seed + 9, 2, 6)[:, :-1],
                "a segment, and the beginning of it again",
            ),
            (
                patterns(seed + 4, 7, 7, 7),
                words(seed + 4, 7, 7, vocabulary=5),
                "as many prompts as heads and positions",
            ),
            (patterns(seed + 5, 1, 2, 6), torch.tensor([[0, 3, 3, 3, 3, 4]]), "a word four times in a row"),
            (
                patterns(seed + 9, 2, 3, 7),
                torch.tensor([[0, 2, 0, 3, 2, 0, 4], [3, 0, 0, 2, 5, 0, 6]]),
                "token 0 recurs: it is a token like any other",
            ),
            (patterns(seed + 6, 2, 3, 5), torch.tensor([[0, 2, 3, 4, 5], [0, 6, 7, 8, 9]]), "no token occurs twice"),
            (patterns(seed + 7, 3, 2, 8, dtype=torch.float64), words(seed + 7, 3, 8, vocabulary=7), "float64"),
            (
                patterns(seed + 8, 2, 2, 6),
                torch.tensor([[5, 2, 3, 5, 4, 6], [0, 6, 7, 8, 9, 2]]),
                "one recurrence, of the first token",
            ),
        ]
        for pattern, tokens, note in tries:
            yield Case({"pattern": pattern, "tokens": tokens}, note=note, truth=truth(pattern, tokens))
        inputs = {"pattern": patterns(seed, 2, 3, 6), "tokens": words(seed, 2, 6, vocabulary=4)}
        yield Case(inputs, drive="other_device", compare=comparing.other_device)

    return cases


def _none_is_zero(pattern: Tensor, tokens: Tensor) -> Callable[[Any], str | None] | None:
    if _earlier(tokens).any():
        return None
    return fact(lambda score: (score == 0).all(), "Where no token occurs twice, the score is 0, not NaN.")


def _loop_score(pattern: Tensor, tokens: Tensor, step: int) -> Tensor:
    total, asked = pattern.new_zeros(pattern.shape[1]), 0
    for b, row in enumerate(tokens.tolist()):
        for query, token in enumerate(row):
            keys = [key + step for key in range(query) if row[key] == token]
            asked += bool(keys)
            for key in keys:
                total += pattern[b, :, query, key]
    return total / max(asked, 1)


DUPLICATE_TOKEN_SCORE = Exercise(
    id="induction.duplicate_token_score",
    chapter=CHAPTER,
    title="Which head looks for the same token?",
    points=2,
    minutes=15,
    difficulty=2,
    reference=heads.duplicate_token_score,
    cases=_recurring_cases(_none_is_zero),
    mistakes=[
        Mistake(
            "counts_itself",
            lambda pattern, tokens: _share(pattern, _same(tokens)),
            "This counts a token as its own duplicate. Only earlier positions count.",
        ),
        Mistake(
            "counts_itself_when_asked",
            lambda pattern, tokens: (
                torch.einsum("bhqk,bqk->h", pattern, _same(tokens).to(pattern.dtype))
                / _earlier(tokens).any(-1).sum().clamp(min=1)
            ),
            "Attention of a position to itself is added here. Only keys before the query count.",
        ),
        Mistake(
            "counts_itself_where_it_recurs",
            lambda pattern, tokens: (
                torch.einsum("bhqk,bqk->h", pattern, _itself_too(tokens).to(pattern.dtype))
                / _earlier(tokens).any(-1).sum().clamp(min=1)
            ),
            "What a recurring token gives to its own position is counted here as well. It is not earlier: cut with tril(diagonal=-1).",
        ),
        Mistake(
            "averages_over_all_positions",
            lambda pattern, tokens: (
                torch.einsum("bhqk,bqk->h", pattern, _earlier(tokens).to(pattern.dtype)) / tokens.numel()
            ),
            "This averages over all positions. Those whose token is new cannot look at a duplicate: leave them out of the mean.",
        ),
        Mistake(
            "averages_over_pairs",
            lambda pattern, tokens: (
                torch.einsum("bhqk,bqk->h", pattern, _earlier(tokens).to(pattern.dtype))
                / _earlier(tokens).sum().clamp(min=1)
            ),
            "This averages over all pairs of equal tokens. Add up what a position gives to all earlier occurrences, then average over positions.",
        ),
        Mistake(
            "divides_by_all_that_recur",
            lambda pattern, tokens: (
                torch.einsum("bhqk,bqk->h", pattern, _earlier(tokens).to(pattern.dtype))
                / (_same(tokens).sum(-1) > 1).sum().clamp(min=1)
            ),
            "This also counts the first occurrence of a token that comes again, which has nothing to look back at.",
        ),
        Mistake(
            "nan",
            lambda pattern, tokens: (
                torch.einsum("bhqk,bqk->h", pattern, _earlier(tokens).to(pattern.dtype))
                / _earlier(tokens).any(-1).sum()
            ),
            "Where no token occurs twice this divides 0 by 0. The score should be 0 there.",
        ),
        Mistake(
            "last_occurrence_only",
            lambda pattern, tokens: _share(pattern, _last(_earlier(tokens))),
            "Only the latest of the earlier occurrences is counted. Attention to any of them counts.",
        ),
        Mistake(
            "first_occurrence_only",
            lambda pattern, tokens: _share(pattern, _earlier(tokens) & (_earlier(tokens).cumsum(-1) == 1)),
            "Only the first occurrence is counted. Attention to any earlier occurrence counts.",
        ),
        Mistake(
            "successor",
            lambda pattern, tokens: _share(pattern, _earlier(tokens).roll(1, dims=-1)),
            "This is the attention to the token *after* the earlier occurrence: the induction score, which comes next.",
        ),
        Mistake(
            "each_prompt_counts_the_same",
            lambda pattern, tokens: torch.stack(
                [_share(p[None], _earlier(t[None])) for p, t in zip(pattern, tokens, strict=True)]
            ).mean(dim=0),
            "This averages within each prompt first. Average once, over all positions of all prompts that have a duplicate.",
        ),
        Mistake(
            "transposed",
            lambda pattern, tokens: _share(pattern, _earlier(tokens).mT),
            "Here the query comes before the key. The axes are query, then key: the key is the earlier one.",
        ),
        Mistake(
            "token_0_is_padding",
            lambda pattern, tokens: _share(pattern, _earlier(tokens) & (tokens != 0)[:, :, None]),
            "Token 0 is left out here. It is a token like any other: if it comes again, it counts.",
        ),
    ],
    equivalents=[
        lambda pattern, tokens: (
            (pattern * _earlier(tokens)[:, None]).sum(dim=(0, 2, 3)) / _earlier(tokens).any(dim=-1).sum().clamp(min=1)
        ),
        lambda pattern, tokens: _loop_score(pattern, tokens, 0),
        lambda pattern, tokens: _by_selection(pattern, _earlier(tokens)),
    ],
    hints=[
        "Begin with a truth table: for which (query, key) does the key hold the same token, and come earlier?",
        "Compare tokens[:, :, None] with tokens[:, None, :], keep what lies below the diagonal, and multiply the pattern with it.",
        "earlier = (tokens[:, :, None] == tokens[:, None, :]).tril(-1); attention.sum(...) / earlier.any(-1).sum().clamp(min=1)",
    ],
)


def _itself_too(tokens: Tensor) -> Tensor:
    """The earlier occurrences, and the position itself where there are any."""
    return _same(tokens).tril() & _earlier(tokens).any(-1, keepdim=True)


def _last(earlier: Tensor) -> Tensor:
    """Of each row only its last true entry."""
    later = earlier.flip(-1).cumsum(-1).flip(-1)
    return earlier & (later == 1)


def _by_selection(pattern: Tensor, wanted: Tensor) -> Tensor:
    got = torch.where(wanted[:, None], pattern, 0).sum(-1).transpose(0, 1)[:, wanted.any(-1)]
    return got.mean(-1) if got.shape[1] else got.sum(-1)


def _after(tokens: Tensor) -> Tensor:
    """Where the key comes right after an earlier occurrence of the query's token."""
    earlier = _earlier(tokens)
    after = torch.zeros_like(earlier)
    after[:, :, 1:] = earlier[:, :, :-1]
    return after


def _half(pattern: Tensor) -> Tensor:
    length = (pattern.shape[-1] - 1) // 2
    return _diagonal(pattern, 1 - length)[..., -length:].mean(dim=(0, 2))


INDUCTION_SCORE = Exercise(
    id="induction.induction_score",
    chapter=CHAPTER,
    title="Which head looks at what came next last time?",
    points=2,
    minutes=15,
    difficulty=2,
    reference=heads.induction_score,
    cases=_recurring_cases(_none_is_zero),
    mistakes=[
        Mistake(
            "duplicate",
            lambda pattern, tokens: _share(pattern, _earlier(tokens)),
            "This is the duplicate-token score. An induction head looks one position *after* the earlier occurrence.",
        ),
        Mistake(
            "half_of_the_prompt",
            lambda pattern, tokens: _diagonal(pattern, 1 - tokens.shape[1] // 2).mean(dim=(0, 2)),
            "This measures one fixed distance, half of the prompt, at every position. Find the earlier occurrences from the tokens.",
        ),
        Mistake(
            "predecessor",
            lambda pattern, tokens: _share(pattern, _earlier(tokens).roll(-1, dims=-1)),
            "This looks one position *before* the earlier occurrence. Shift the keys the other way.",
        ),
        Mistake(
            "shifts_the_query",
            lambda pattern, tokens: _share(pattern, _earlier(tokens).roll(1, dims=-2)),
            "This shifts the queries instead of the keys: it asks the position after the second occurrence to look at the first one.",
        ),
        Mistake(
            "one_distance",
            lambda pattern, tokens: _half(pattern),
            "This measures one fixed distance, which is right only if the whole prompt is one segment twice. Find the earlier occurrences from the tokens.",
        ),
        Mistake(
            "averages_over_all_positions",
            lambda pattern, tokens: (
                torch.einsum("bhqk,bqk->h", pattern, _after(tokens).to(pattern.dtype)) / tokens.numel()
            ),
            "This averages over all positions. Those whose token is new have nothing to copy: leave them out of the mean.",
        ),
        Mistake(
            "averages_over_pairs",
            lambda pattern, tokens: (
                torch.einsum("bhqk,bqk->h", pattern, _after(tokens).to(pattern.dtype))
                / _after(tokens).sum().clamp(min=1)
            ),
            "This averages over all pairs. Add up what a position gives to all its targets, then average over positions.",
        ),
        Mistake(
            "not_itself",
            lambda pattern, tokens: _share(pattern, _after(tokens).tril(-1)),
            "After a token that follows itself, the token right after the earlier occurrence is the current position. It counts too.",
        ),
        Mistake(
            "not_itself_but_counted",
            lambda pattern, tokens: (
                torch.einsum("bhqk,bqk->h", pattern, _after(tokens).tril(-1).to(pattern.dtype))
                / _after(tokens).any(-1).sum().clamp(min=1)
            ),
            "The attention to the current position is left out, which counts if the token follows itself.",
        ),
        Mistake(
            "nan",
            lambda pattern, tokens: (
                torch.einsum("bhqk,bqk->h", pattern, _after(tokens).to(pattern.dtype)) / _after(tokens).any(-1).sum()
            ),
            "Where no token occurs twice this divides 0 by 0. The score should be 0 there.",
        ),
        Mistake(
            "last_occurrence_only",
            lambda pattern, tokens: _share(pattern, _last(_earlier(tokens)).roll(1, dims=-1)),
            "Only the latest of the earlier occurrences is counted. Attention to the successor of any of them counts.",
        ),
        Mistake(
            "first_occurrence_only",
            lambda pattern, tokens: _share(pattern, _after(tokens) & (_after(tokens).cumsum(-1) == 1)),
            "Only the successor of the first occurrence is counted. Attention to the successor of any of them counts.",
        ),
        Mistake(
            "stripe",
            lambda pattern, tokens: _diagonal(pattern, 1 - (tokens.shape[1] - 1) // 2).mean(dim=(0, 2)),
            "This averages one whole diagonal, the first copy included, wherever the repetition is. Find the earlier occurrences from the tokens.",
        ),
        Mistake(
            "each_prompt_counts_the_same",
            lambda pattern, tokens: torch.stack(
                [_share(p[None], _after(t[None])) for p, t in zip(pattern, tokens, strict=True)]
            ).mean(dim=0),
            "This averages within each prompt first. Average once, over all positions of all prompts that have something to copy.",
        ),
        Mistake(
            "wraps_around",
            lambda pattern, tokens: _share(pattern, _same(tokens).roll(1, dims=-1).tril()),
            "Here roll comes before the cut, so the last column wraps around to key 0. Keep what lies below the diagonal first, then shift.",
        ),
        Mistake(
            "token_0_is_padding",
            lambda pattern, tokens: _share(pattern, _after(tokens) & (tokens != 0)[:, :, None]),
            "Token 0 is left out here. It is a token like any other: if it comes again, what came after it counts.",
        ),
        Mistake(
            "counts_itself",
            lambda pattern, tokens: _share(pattern, _same(tokens).tril().roll(1, dims=-1)),
            "Here a token counts as an earlier occurrence of itself. Keep only what lies below the diagonal, before you shift.",
        ),
    ],
    equivalents=[
        lambda pattern, tokens: (
            (pattern * _after(tokens)[:, None]).sum(dim=(0, 2, 3)) / _after(tokens).any(dim=-1).sum().clamp(min=1)
        ),
        lambda pattern, tokens: _loop_score(pattern, tokens, 1),
        lambda pattern, tokens: _by_selection(pattern, _after(tokens)),
    ],
    hints=[
        "You have the table of earlier occurrences from the last exercise. Where is the key that an induction head wants, relative to them?",
        "Shift the table by one key: what was true for key j becomes true for key j + 1. Everything else stays as it was.",
        "earlier.roll(1, dims=-1): the last column of `earlier` is empty, so nothing false wraps around.",
    ],
)

# --------------------------------------------------------------------------------------------------------- ablate_head


def _ablation_cases(seed: int) -> Iterable[Case]:
    big, small = Recipe("gpt2", {"seed": 5}), Recipe("gpt2", {"seed": 6, "heads": 3, "attention_only": True})
    tokens, reference = words(seed, 3, 7), words(seed + 1, 3, 7)
    tries = [
        (big, tokens, 1, 1, "zero", None, ""),
        (big, tokens, 1, 0, "mean", words(seed + 2, 5, 7), "five reference prompts"),
        (big, tokens, 0, 1, "resample", reference, ""),
        (big, tokens[:1], 2, 0, "mean", reference, "a single prompt"),
        (small, tokens, 0, 2, "zero", None, "attention only, three heads"),
        (small, tokens, 2, 1, "resample", reference, "attention only, three heads"),
        (small, tokens, 1, 1, "mean", reference, "attention only, three heads"),
        (small, tokens, 1, 0, "zero", reference, "zero, although a reference is given"),
    ]
    for model, tried, layer, head, method, other, note in tries:
        inputs = {"model": model, "tokens": tried, "layer": layer, "head": head, "method": method, "reference": other}
        yield Case(inputs, note=note)


def _ablated(
    model: Any,
    tokens: Tensor,
    layer: int,
    head: int,
    method: str,
    reference: Tensor | None,
    mean: Callable = lambda z: z.mean(0),
) -> Tensor:
    name = f"blocks.{layer}.attn.hook_z"
    new: Any = 0.0
    if method != "zero":
        z = model.run_with_cache(reference)[1][name][:, :, head]
        new = mean(z) if method == "mean" else z

    def hook(z: Tensor, hook: Any) -> Tensor:
        z = z.clone()
        z[:, :, head] = new
        return z

    return model.run_with_hooks(tokens, fwd_hooks=[(name, hook)])


def _edited(model: Any, tokens: Tensor, name: str, edit: Callable[[Tensor], None]) -> Tensor:
    def hook(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        edit(value)
        return value

    return model.run_with_hooks(tokens, fwd_hooks=[(name, hook)])


def _ablated_output(model: Any, tokens: Tensor, layer: int, head: int, method: str, reference: Tensor | None) -> Tensor:
    """By what the head adds to the layer's output instead of by its z."""
    mine = model.run_with_cache(tokens)[1]["z", layer][:, :, head]
    new = torch.zeros_like(mine)
    if reference is not None and method != "zero":
        new = model.run_with_cache(reference)[1]["z", layer][:, :, head]
        new = new.mean(0, keepdim=True) if method == "mean" else new
    change = (new - mine) @ model.W_O[layer, head]
    return model.run_with_hooks(
        tokens, fwd_hooks=[(f"blocks.{layer}.hook_attn_out", lambda value, hook: value + change)]
    )


def _whole_layer(model: Any, tokens: Tensor, layer: int, head: int, method: str, reference: Tensor | None) -> Tensor:
    name = f"blocks.{layer}.attn.hook_z"
    new: Any = 0 if method == "zero" else model.run_with_cache(reference)[1][name]
    new = new.mean(0) if method == "mean" else new

    def edit(z: Tensor) -> None:
        z[:] = new

    return _edited(model, tokens, name, edit)


def _position_for_head(
    model: Any, tokens: Tensor, layer: int, head: int, method: str, reference: Tensor | None
) -> Tensor:
    name = f"blocks.{layer}.attn.hook_z"
    new: Any = 0 if method == "zero" else model.run_with_cache(reference)[1][name][:, head]
    new = new.mean(0) if method == "mean" else new

    def edit(z: Tensor) -> None:
        z[:, head] = new

    return _edited(model, tokens, name, edit)


def _own_mean(model: Any, tokens: Tensor, layer: int, head: int, method: str, reference: Tensor | None) -> Tensor:
    return _ablated(model, tokens, layer, head, method, tokens if method == "mean" else reference)


def _own_rolled(model: Any, tokens: Tensor, layer: int, head: int, method: str, reference: Tensor | None) -> Tensor:
    return _ablated(model, tokens, layer, head, method, tokens.roll(1, 0) if method == "resample" else reference)


def _added(model: Any, tokens: Tensor, layer: int, head: int, method: str, reference: Tensor | None) -> Tensor:
    name = f"blocks.{layer}.attn.hook_z"
    new: Any = 0.0
    if method != "zero":
        z = model.run_with_cache(reference)[1][name][:, :, head]
        new = z.mean(0) if method == "mean" else z

    def edit(z: Tensor) -> None:
        z[:, :, head] += new

    return _edited(model, tokens, name, edit)


def _no_attention(model: Any, tokens: Tensor, layer: int, head: int, method: str, reference: Tensor | None) -> Tensor:
    name = f"blocks.{layer}.attn.hook_pattern"
    new: Any = 0 if method == "zero" else model.run_with_cache(reference)[1][name][:, head]
    new = new.mean(0) if method == "mean" else new

    def edit(pattern: Tensor) -> None:
        pattern[:, head] = new

    return _edited(model, tokens, name, edit)


ABLATE_HEAD = Exercise(
    id="induction.ablate_head",
    chapter=CHAPTER,
    title="What is lost without this head?",
    points=3,
    minutes=25,
    difficulty=3,
    reference=ablation.ablate_head,
    cases=_ablation_cases,
    mistakes=[
        Mistake(
            "whole_layer",
            _whole_layer,
            "This replaces the output of every head of the layer. hook_z has the axes batch, position, head, d_head: replace one head's part.",
        ),
        Mistake(
            "a_position",
            _position_for_head,
            "z[:, head] is a *position*. hook_z has the axes batch, position, head, d_head: write z[:, :, head].",
        ),
        Mistake(
            "attention_instead",
            _no_attention,
            "This exchanges where the head looks (its pattern). Exchange what it says: hook_z.",
        ),
        Mistake(
            "mean_over_positions",
            lambda model, tokens, layer, head, method, reference: _ablated(
                model, tokens, layer, head, method, reference, lambda z: z.mean(dim=(0, 1))
            ),
            "The mean here runs over the positions as well. Take it over the reference prompts only, for each position by itself.",
        ),
        Mistake(
            "mean_over_dimensions",
            lambda model, tokens, layer, head, method, reference: _ablated(
                model, tokens, layer, head, method, reference, lambda z: z.mean(0).mean(-1, keepdim=True)
            ),
            "The mean here runs over the dimensions of the head as well. Average over the reference prompts only (axis 0).",
        ),
        Mistake(
            "always_zero",
            lambda model, tokens, layer, head, method, reference: _ablated(model, tokens, layer, head, "zero", None),
            'This puts in 0 for every method. "mean" and "resample" need a run on `reference`.',
        ),
        Mistake(
            "mean_of_itself",
            _own_mean,
            "The mean is taken over `tokens` themselves. Run the model on `reference`: the average must not know these prompts.",
        ),
        Mistake(
            "resamples_itself",
            _own_rolled,
            "For resample ablation this shuffles the prompts themselves. Take the head's output on `reference`, row by row.",
        ),
        Mistake(
            "resample_is_mean",
            lambda model, tokens, layer, head, method, reference: _ablated(
                model, tokens, layer, head, "mean" if method == "resample" else method, reference
            ),
            'For "resample" this averages the reference. Row i of the tokens gets what the head says on row i of the reference.',
        ),
        Mistake(
            "added",
            _added,
            "This adds the replacement to what the head says. Put it in its place.",
        ),
        Mistake(
            "layer_0",
            lambda model, tokens, layer, head, method, reference: _ablated(model, tokens, 0, head, method, reference),
            "This ablates a head of layer 0, whatever `layer` says: the hook's name is blocks.{layer}.attn.hook_z.",
        ),
        Mistake(
            "head_0",
            lambda model, tokens, layer, head, method, reference: _ablated(model, tokens, layer, 0, method, reference),
            "This ablates head 0, whatever `head` says.",
        ),
        Mistake(
            "one_row_for_all",
            lambda model, tokens, layer, head, method, reference: _ablated(
                model, tokens, layer, head, method, reference[:1] if method == "resample" else reference
            ),
            "For resample ablation all prompts get what the head says on the first row of the reference. Row i gets row i's.",
        ),
        Mistake(
            "nothing",
            lambda model, tokens, layer, head, method, reference: model(tokens),
            "The logits are those of the untouched model: does your hook return the edited tensor, and is it on blocks.{layer}.attn.hook_z?",
        ),
    ],
    equivalents=[_ablated, _ablated_output],
    hints=[
        "A head's output, before it is multiplied by W_O, is at the hook blocks.{layer}.attn.hook_z: [batch position head d_head].",
        "First find the replacement (0; or the head's z on the reference, averaged over its rows or not), then run with a hook that puts it in.",
        "z = z.clone(); z[:, :, head] = replacement; return z. And model.run_with_hooks(tokens, fwd_hooks=[(name, hook)]).",
    ],
)

# ------------------------------------------------------------------------------------------------------- copying_score


def _copying_cases(seed: int) -> Iterable[Case]:
    def weights(
        shift: int, vocabulary: int, d_model: int, d_head: int, dtype: torch.dtype = torch.float64
    ) -> dict[str, Tensor]:
        shapes = {
            "W_E": (vocabulary, d_model),
            "W_V": (d_model, d_head),
            "W_O": (d_head, d_model),
            "W_U": (d_model, vocabulary),
        }
        return {
            name: randn(seed + 10 * shift + i, *shape, dtype=dtype) for i, (name, shape) in enumerate(shapes.items())
        }

    copier = weights(7, 9, 12, 5)
    copier["W_U"] = copier["W_E"].mT @ torch.linalg.inv(copier["W_E"] @ copier["W_E"].mT)
    copier["W_V"], copier["W_O"] = torch.eye(12, dtype=torch.float64)[:, :11], torch.eye(12, dtype=torch.float64)[:11]
    copier["W_E"] = torch.cat([copier["W_E"][:, :11], torch.zeros(9, 1, dtype=torch.float64)], dim=1)
    copier["W_U"] = copier["W_E"].mT @ torch.linalg.inv(copier["W_E"] @ copier["W_E"].mT)
    opposite = {**copier, "W_O": -copier["W_O"]}
    half = {**copier, "W_E": copier["W_E"] * torch.tensor([1.0] * 5 + [-1.0] * 4, dtype=torch.float64)[:, None]}
    tied = weights(8, 11, 6, 3)
    tied["W_U"] = tied["W_E"].mT.contiguous() + 0.2 * tied["W_U"]
    tied["W_O"] = tied["W_V"].mT.contiguous() + 0.7 * tied["W_O"]
    for inputs, note in [
        (weights(0, 11, 6, 3), ""),
        (weights(1, 5, 8, 2), "fewer tokens than dimensions"),
        (weights(2, 6, 6, 6), "vocabulary, stream and head of one size"),
        (tied, "a head that copies most tokens"),
        (half, "a head that copies five tokens and suppresses four"),
        ({k: v.float() for k, v in weights(3, 11, 6, 3).items()}, "float32"),
    ]:
        yield Case(inputs, note=note)
    yield Case(
        copier,
        note="a pure copier",
        truth=fact(
            lambda out: out[0] == 1 and abs(out[1] - 1) < 1e-6,
            "A head that hands on exactly what it reads has both scores 1.",
        ),
    )
    yield Case(
        opposite,
        note="a head that suppresses what it sees",
        truth=fact(
            lambda out: out[0] == 0 and abs(out[1] + 1) < 1e-6,
            "A head that takes away exactly what it reads has the scores 0 and -1.",
        ),
    )


def _circuit(W_E: Tensor, W_V: Tensor, W_O: Tensor, W_U: Tensor) -> Tensor:
    return W_E @ W_V @ W_O @ W_U


def _top(circuit: Tensor, dim: int = -1) -> Tensor:
    return (circuit.argmax(dim) == torch.arange(len(circuit))).to(circuit.dtype).mean()


def _eigen(matrix: Tensor) -> Tensor:
    values = torch.linalg.eigvals(matrix)
    return values.sum().real / values.abs().sum()


def _complex_eigen(matrix: Tensor) -> Tensor:
    values = torch.linalg.eigvals(matrix)
    return values.sum() / values.abs().sum()


COPYING_SCORE = Exercise(
    id="induction.copying_score",
    chapter=CHAPTER,
    title="Does the head hand on what it sees?",
    points=2,
    minutes=20,
    difficulty=2,
    reference=heads.copying_score,
    cases=_copying_cases,
    mistakes=[
        Mistake(
            "over_sources",
            lambda W_E, W_V, W_O, W_U: (_top(_circuit(W_E, W_V, W_O, W_U), 0), _eigen(W_O @ W_U @ W_E @ W_V)),
            "This asks for each *predicted* token which attended one raises it most. Rows are attended tokens: take the largest entry of each row.",
        ),
        Mistake(
            "positive_diagonal",
            lambda W_E, W_V, W_O, W_U: (
                (_circuit(W_E, W_V, W_O, W_U).diagonal() > 0).to(W_E.dtype).mean(),
                _eigen(W_O @ W_U @ W_E @ W_V),
            ),
            "This counts tokens whose own logit is raised at all. Count those whose own logit is raised *most*.",
        ),
        Mistake(
            "absolute_argmax",
            lambda W_E, W_V, W_O, W_U: (_top(_circuit(W_E, W_V, W_O, W_U).abs()), _eigen(W_O @ W_U @ W_E @ W_V)),
            "This looks for the largest absolute change, so suppression counts as copying. Keep the sign.",
        ),
        Mistake(
            "embedding_for_unembedding",
            lambda W_E, W_V, W_O, W_U: (_top(_circuit(W_E, W_V, W_O, W_E.T)), _eigen(W_O @ W_E.T @ W_E @ W_V)),
            "This reads the result with W_E. Logits come from W_U, which is another matrix in general.",
        ),
        Mistake(
            "without_the_head",
            lambda W_E, W_V, W_O, W_U: (_top(W_E @ W_U), _eigen(W_E @ W_U)),
            "This is the direct path W_E W_U, without the head. Put W_V W_O in between.",
        ),
        Mistake(
            "sum_of_absolutes",
            lambda W_E, W_V, W_O, W_U: (
                _top(_circuit(W_E, W_V, W_O, W_U)),
                torch.linalg.eigvals(_circuit(W_E, W_V, W_O, W_U)).sum().abs()
                / torch.linalg.eigvals(_circuit(W_E, W_V, W_O, W_U)).abs().sum(),
            ),
            "The eigenvalues' sum loses its sign here (abs). A head that suppresses should come out at -1: take the real part.",
        ),
        Mistake(
            "positive_eigenvalues",
            lambda W_E, W_V, W_O, W_U: (
                _top(_circuit(W_E, W_V, W_O, W_U)),
                (torch.linalg.eigvals(W_O @ W_U @ W_E @ W_V).real > 0).to(W_E.dtype).mean(),
            ),
            "This is the share of positive eigenvalues. Weigh them: their sum over the sum of their absolute values.",
        ),
        Mistake(
            "singular_values",
            lambda W_E, W_V, W_O, W_U: (
                _top(_circuit(W_E, W_V, W_O, W_U)),
                _circuit(W_E, W_V, W_O, W_U).trace() / torch.linalg.svdvals(_circuit(W_E, W_V, W_O, W_U)).sum(),
            ),
            "The denominator adds up singular values. Take the absolute values of the eigenvalues (torch.linalg.eigvals).",
        ),
        Mistake(
            "real_parts_below",
            lambda W_E, W_V, W_O, W_U: (
                _top(_circuit(W_E, W_V, W_O, W_U)),
                torch.linalg.eigvals(W_O @ W_U @ W_E @ W_V).real.sum()
                / torch.linalg.eigvals(W_O @ W_U @ W_E @ W_V).real.abs().sum(),
            ),
            "The denominator drops the imaginary parts. |l| of a complex eigenvalue is its length: .abs() before .real.",
        ),
        Mistake(
            "complex",
            lambda W_E, W_V, W_O, W_U: (_top(_circuit(W_E, W_V, W_O, W_U)), _complex_eigen(W_O @ W_U @ W_E @ W_V)),
            "Your second result is a complex number. The imaginary parts cancel in the sum of the eigenvalues: return its real part (.real).",
        ),
        Mistake(
            "symmetric",
            lambda W_E, W_V, W_O, W_U: (
                _top(_circuit(W_E, W_V, W_O, W_U)),
                torch.linalg.eigvalsh(_circuit(W_E, W_V, W_O, W_U)).sum()
                / torch.linalg.eigvalsh(_circuit(W_E, W_V, W_O, W_U)).abs().sum(),
            ),
            "eigvalsh is for symmetric matrices and reads one half only. This circuit is not symmetric: torch.linalg.eigvals.",
        ),
        Mistake(
            "stream_eigenvalues",
            lambda W_E, W_V, W_O, W_U: (_top(_circuit(W_E, W_V, W_O, W_U)), _eigen(W_V @ W_O)),
            "These are the eigenvalues of W_V W_O alone. The full circuit goes from token to token: W_E and W_U belong to it.",
        ),
        Mistake(
            "exchanged",
            lambda W_E, W_V, W_O, W_U: (_eigen(W_O @ W_U @ W_E @ W_V), _top(_circuit(W_E, W_V, W_O, W_U))),
            "The two results are exchanged: first the share of tokens, then the eigenvalue score.",
        ),
        Mistake(
            "a_count",
            lambda W_E, W_V, W_O, W_U: (_top(_circuit(W_E, W_V, W_O, W_U)) * len(W_E), _eigen(W_O @ W_U @ W_E @ W_V)),
            "The first result is a number of tokens. Divide by the vocabulary: a share.",
        ),
    ],
    equivalents=[
        lambda W_E, W_V, W_O, W_U: (_top(_circuit(W_E, W_V, W_O, W_U)), _eigen(_circuit(W_E, W_V, W_O, W_U))),
        lambda W_E, W_V, W_O, W_U: (
            _top(_circuit(W_E, W_V, W_O, W_U)),
            _circuit(W_E, W_V, W_O, W_U).trace() / torch.linalg.eigvals(W_U @ W_E @ W_V @ W_O).abs().sum(),
        ),
    ],
    hints=[
        "Multiply the four matrices in the order in which a token passes them: row = token attended to, column = token predicted.",
        "The share: circuit.argmax(dim=-1) compared with torch.arange. The eigenvalues are complex: torch.linalg.eigvals.",
        "e = torch.linalg.eigvals(W_E @ W_V @ W_O @ W_U); the second result is e.sum().real / e.abs().sum().",
    ],
)

# -------------------------------------------------------------------------------------------------- positional_attention


def _positional_cases(seed: int) -> Iterable[Case]:
    def inputs(shift: int, n: int, d_model: int, d_head: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        shapes = {
            "x": (n, d_model),
            "W_Q": (d_model, d_head),
            "b_Q": (d_head,),
            "W_K": (d_model, d_head),
            "b_K": (d_head,),
        }
        return {
            name: 0.8 * randn(seed + 10 * shift + i, *shape, dtype=dtype)
            for i, (name, shape) in enumerate(shapes.items())
        }

    yield Case(inputs(0, 7, 6, 4))
    yield Case(inputs(1, 5, 9, 3), note="another size")
    yield Case(inputs(2, 6, 6, 6), note="positions, stream and head of one size")
    yield Case(inputs(3, 4, 5, 2, torch.float64), note="float64")
    yield Case({**inputs(4, 5, 6, 4), "x": 12 * randn(seed, 5, 6)}, note="scores far apart")
    zero = inputs(5, 6, 4, 3)
    zero["W_Q"], zero["b_Q"] = torch.zeros(4, 3), torch.zeros(3)
    even = torch.ones(6, 6).tril() / torch.arange(1, 7)[:, None]
    yield Case(
        zero,
        note="queries of zero",
        truth=fact(
            lambda p: torch.allclose(p, even),
            "If every score is the same, position i spreads its attention evenly over 0 to i.",
        ),
    )
    yield Case(inputs(6, 1, 4, 3), note="a single position")
    yield Case(inputs(0, 5, 6, 4), drive="other_device", compare=comparing.other_device)


def _attention(
    x: Tensor,
    W_Q: Tensor,
    b_Q: Tensor,
    W_K: Tensor,
    b_K: Tensor,
    *,
    scale: float | None = None,
    mask: bool = True,
    dim: int = -1,
) -> Tensor:
    scores = (x @ W_Q + b_Q) @ (x @ W_K + b_K).T
    scores = scores / W_Q.shape[1] ** 0.5 if scale is None else scores * scale
    if mask:
        future = torch.ones_like(scores).triu(1).bool()
        scores = torch.where(future, float("-inf"), scores)
    return scores.softmax(dim)


def _loop_attention(x: Tensor, W_Q: Tensor, b_Q: Tensor, W_K: Tensor, b_K: Tensor) -> Tensor:
    pattern = x.new_zeros(len(x), len(x))
    for i in range(len(x)):
        query = x[i] @ W_Q + b_Q
        scores = torch.stack([query @ (x[j] @ W_K + b_K) for j in range(i + 1)]) / len(b_Q) ** 0.5
        pattern[i, : i + 1] = scores.softmax(0)
    return pattern


POSITIONAL_ATTENTION = Exercise(
    id="induction.positional_attention",
    chapter=CHAPTER,
    title="Where would the head look if all tokens were alike?",
    points=2,
    minutes=15,
    difficulty=2,
    reference=heads.positional_attention,
    cases=_positional_cases,
    mistakes=[
        Mistake(
            "not_scaled",
            lambda x, W_Q, b_Q, W_K, b_K: _attention(x, W_Q, b_Q, W_K, b_K, scale=1.0),
            "The scores are not divided by sqrt(d_head), so the attention comes out too sharp.",
        ),
        Mistake(
            "scaled_by_d_head",
            lambda x, W_Q, b_Q, W_K, b_K: _attention(x, W_Q, b_Q, W_K, b_K, scale=1 / W_Q.shape[1]),
            "The scores are divided by d_head. Divide by its square root.",
        ),
        Mistake(
            "scaled_by_d_model",
            lambda x, W_Q, b_Q, W_K, b_K: _attention(x, W_Q, b_Q, W_K, b_K, scale=W_Q.shape[0] ** -0.5),
            "The scores are divided by sqrt(d_model). The dot product runs over the head's dimensions: sqrt(d_head).",
        ),
        Mistake(
            "not_causal",
            lambda x, W_Q, b_Q, W_K, b_K: _attention(x, W_Q, b_Q, W_K, b_K, mask=False),
            "Positions see the future here. Set the scores of later keys to -inf before the softmax.",
        ),
        Mistake(
            "hides_the_past",
            lambda x, W_Q, b_Q, W_K, b_K: (
                ((x @ W_Q + b_Q) @ (x @ W_K + b_K).T / W_Q.shape[1] ** 0.5)
                .masked_fill(torch.ones(len(x), len(x), dtype=torch.bool).tril(-1), -torch.inf)
                .softmax(-1)
            ),
            "The mask hides the past instead of the future: with queries as rows, later keys lie *above* the diagonal.",
        ),
        Mistake(
            "mask_after_softmax",
            lambda x, W_Q, b_Q, W_K, b_K: _attention(x, W_Q, b_Q, W_K, b_K, mask=False).tril(),
            "Here the mask comes after the softmax, so rows no longer sum to 1. Mask the scores first.",
        ),
        Mistake(
            "zero_for_the_future",
            lambda x, W_Q, b_Q, W_K, b_K: (
                ((x @ W_Q + b_Q) @ (x @ W_K + b_K).T / W_Q.shape[1] ** 0.5).tril().softmax(-1)
            ),
            "A score of 0 is not out of sight: exp(0) is 1. Later keys need -inf.",
        ),
        Mistake(
            "no_biases",
            lambda x, W_Q, b_Q, W_K, b_K: _attention(x, W_Q, 0 * b_Q, W_K, 0 * b_K),
            "The biases b_Q and b_K are missing.",
        ),
        Mistake(
            "queries_and_keys_exchanged",
            lambda x, W_Q, b_Q, W_K, b_K: _attention(x, W_K, b_K, W_Q, b_Q),
            "Queries and keys are exchanged: row i should hold the scores of query i with all keys.",
        ),
        Mistake(
            "softmax_over_queries",
            lambda x, W_Q, b_Q, W_K, b_K: _attention(x, W_Q, b_Q, W_K, b_K, dim=0),
            "The softmax runs over the queries. Each query shares out its attention over the keys: the last axis.",
        ),
        Mistake(
            "no_softmax",
            lambda x, W_Q, b_Q, W_K, b_K: ((x @ W_Q + b_Q) @ (x @ W_K + b_K).T / W_Q.shape[1] ** 0.5).masked_fill(
                torch.ones(len(x), len(x), dtype=torch.bool).triu(1), -torch.inf
            ),
            "These are the scores. A pattern is their softmax: every row sums to 1.",
        ),
        Mistake(
            "not_itself",
            lambda x, W_Q, b_Q, W_K, b_K: torch.nan_to_num(
                ((x @ W_Q + b_Q) @ (x @ W_K + b_K).T / W_Q.shape[1] ** 0.5)
                .masked_fill(torch.ones(len(x), len(x), dtype=torch.bool).triu(0), -torch.inf)
                .softmax(-1)
            ),
            "The mask also hides the position itself. Only *later* keys are hidden.",
        ),
        Mistake(
            "not_itself_nan",
            lambda x, W_Q, b_Q, W_K, b_K: (
                ((x @ W_Q + b_Q) @ (x @ W_K + b_K).T / W_Q.shape[1] ** 0.5)
                .masked_fill(torch.ones(len(x), len(x), dtype=torch.bool).triu(0), -torch.inf)
                .softmax(-1)
            ),
            "The mask hides the position itself too, so nothing is left for position 0 to look at, and its row is NaN. Only later keys are hidden: triu(diagonal=1).",
        ),
    ],
    equivalents=[
        _attention,
        _loop_attention,
        lambda x, W_Q, b_Q, W_K, b_K: torch.nn.functional.scaled_dot_product_attention(
            (x @ W_Q + b_Q)[None],
            (x @ W_K + b_K)[None],
            torch.eye(len(x), dtype=x.dtype, device=x.device)[None],
            is_causal=True,
        )[0],
    ],
    hints=[
        "It is ordinary attention: queries, keys, scaled scores, the causal mask, softmax. Only x is special.",
        "scores[i, j] = query i . key j / sqrt(d_head); keys j > i get -inf; then a softmax over the keys.",
        "scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(diagonal=1), -torch.inf).softmax(dim=-1)",
    ],
)

# --------------------------------------------------------------------------------------------------- composition_score


def _composition_cases(seed: int) -> Iterable[Case]:
    for i, side in enumerate(("Q", "K", "V")):
        low = randn(seed + i, 8, 3) @ randn(seed + 10 + i, 3, 8)
        yield Case({"writer": low, "reader": randn(seed + 20 + i, 8, 2) @ randn(seed + 30 + i, 2, 8), "side": side})
        yield Case(
            {"writer": 7 * randn(seed + 40 + i, 5, 5), "reader": 0.01 * randn(seed + 50 + i, 5, 5), "side": side},
            note="sizes far apart",
        )
    yield Case(
        {
            "writer": randn(seed, 6, 6, dtype=torch.float64),
            "reader": randn(seed + 1, 6, 6, dtype=torch.float64),
            "side": "K",
        },
        note="float64",
    )
    one = torch.zeros(4, 4)
    one[0, 2] = 3.0  # reads dimension 0, writes dimension 2
    match = torch.zeros(4, 4)
    match[1, 2] = 5.0  # a W_Q W_K^T whose query reads dimension 1 and whose key reads dimension 2
    for side, value in (("K", 1.0), ("Q", 0.0)):
        sentence = f"The writer writes exactly the direction that only the reader's keys read, so for {side!r} the score is {value:g}."
        yield Case(
            {"writer": one, "reader": match, "side": side},
            note="a reader whose keys read what is written",
            truth=fact(partial(_near, value), sentence),
        )


def _near(value: float, score: Tensor) -> Tensor:
    return (score - value).abs() < 1e-5


def _frobenius(matrix: Tensor) -> Tensor:
    return matrix.pow(2).sum(dim=(-2, -1)).sqrt()


def _composed(writer: Tensor, reader: Tensor, side: str, norm: Callable[[Tensor], Tensor] = _frobenius) -> Tensor:
    product = writer @ (reader.T if side == "K" else reader)
    return norm(product) / norm(writer) / norm(reader)


COMPOSITION_SCORE = Exercise(
    id="induction.composition_score",
    chapter=CHAPTER,
    title="Does one head read what another wrote?",
    points=2,
    minutes=15,
    difficulty=2,
    reference=heads.composition_score,
    cases=_composition_cases,
    mistakes=[
        Mistake(
            "never_transposed",
            lambda writer, reader, side: _composed(writer, reader, "V"),
            'W_Q W_K^T takes the query on its left and the key on its right. For "K" the writer must meet the right side: transpose the reader.',
        ),
        Mistake(
            "q_transposed",
            lambda writer, reader, side: _composed(writer, reader, "V" if side == "K" else "K" if side == "Q" else "V"),
            'Here the reader is transposed for "Q" instead of "K". The query side of W_Q W_K^T is its left.',
        ),
        Mistake(
            "both_transposed",
            lambda writer, reader, side: _composed(writer, reader, "V" if side == "V" else "K"),
            'Here the reader is transposed for "Q" too. Only the key stands on the right of W_Q W_K^T.',
        ),
        Mistake(
            "always_transposed",
            lambda writer, reader, side: _composed(writer, reader, "K"),
            'Here the reader is transposed for every side. Only "K" needs it.',
        ),
        Mistake(
            "v_transposed",
            lambda writer, reader, side: _composed(writer, reader, "Q" if side == "Q" else "K"),
            'Here the reader is transposed for "V" too. W_V W_O reads on its left already: only "K" needs the transpose.',
        ),
        Mistake(
            "writer_transposed",
            lambda writer, reader, side: _composed(writer.T, reader, side),
            "The writer is transposed: this takes what it reads for what it writes. W_V W_O writes on its right.",
        ),
        Mistake(
            "only_the_writers_norm",
            lambda writer, reader, side: _composed(writer, reader, side) * _frobenius(reader),
            "The reader's norm is missing in the denominator.",
        ),
        Mistake(
            "only_the_readers_norm",
            lambda writer, reader, side: _composed(writer, reader, side) * _frobenius(writer),
            "The writer's norm is missing in the denominator.",
        ),
        Mistake(
            "other_order",
            lambda writer, reader, side: (
                _frobenius((reader.T if side == "K" else reader) @ writer) / _frobenius(writer) / _frobenius(reader)
            ),
            "The order is reversed: this measures how the writer reads what the reader writes. A row vector passes the writer first: writer @ reader.",
        ),
        Mistake(
            "reader_first",
            lambda writer, reader, side: _composed(reader, writer, "Q"),
            'The reader stands before the writer, and nothing is transposed. A row vector passes the writer first, and for "K" it meets the right side of W_Q W_K^T.',
        ),
        Mistake(
            "not_normalised",
            lambda writer, reader, side: _frobenius(writer @ (reader.T if side == "K" else reader)),
            "The norm of the product grows with the heads' own sizes. Divide by both norms.",
        ),
        Mistake(
            "cosine",
            lambda writer, reader, side: (
                (writer * (reader.T if side == "K" else reader)).sum() / (writer.norm() * reader.norm())
            ),
            "This is the cosine between the two matrices. The numerator is the norm of their *product*.",
        ),
        Mistake(
            "spectral_norm",
            lambda writer, reader, side: _composed(writer, reader, side, lambda m: torch.linalg.matrix_norm(m, ord=2)),
            "This uses the largest singular value as a norm. Use the Frobenius norm: the root of the sum of all squared entries.",
        ),
        Mistake(
            "squared",
            lambda writer, reader, side: _composed(writer, reader, side).square(),
            "These are squared norms. Take the roots.",
        ),
        Mistake(
            "entry_by_entry",
            lambda writer, reader, side: (
                _frobenius(writer * (reader.T if side == "K" else reader)) / _frobenius(writer) / _frobenius(reader)
            ),
            "`*` multiplies entry by entry. A vector that passes one map and then the other needs the matrix product, `@`.",
        ),
    ],
    equivalents=[
        _composed,
        lambda writer, reader, side: (
            torch.einsum("ij,kj->ik" if side == "K" else "ij,jk->ik", writer, reader).norm()
            / (writer.norm() * reader.norm())
        ),
        lambda writer, reader, side: torch.linalg.matrix_norm(
            (writer / writer.norm()) @ ((reader.mT if side == "K" else reader) / reader.norm())
        ),
    ],
    hints=[
        "What the writer puts into the stream is x W_V W_O. Which side of the reader's matrix does it meet?",
        "For Q and V it meets the left side: writer @ reader. For K it meets the right side of W_Q W_K^T.",
        'product = writer @ (reader.T if side == "K" else reader); then product.norm() over both norms.',
    ],
)

# ---------------------------------------------------------------------------------------------------------- patch_keys


def _patch_cases(seed: int) -> Iterable[Case]:
    big, small = {"seed": 5}, {"seed": 6, "heads": 3, "attention_only": True}
    tokens, source = words(seed, 3, 7), words(seed + 1, 3, 7)
    tries = [
        (big, tokens, source, (0, 1), (1, 0), ""),
        (big, tokens, source, (0, 0), (2, 1), "a layer between sender and receiver"),
        (small, tokens, source, (0, 2), (1, 0), "attention only, three heads"),
        (small, tokens, source, (1, 0), (2, 2), "attention only, three heads"),
        (small, tokens[:1], source[:1], (0, 1), (2, 0), "a single prompt, and a layer between"),
    ]
    for size, tried, other, sender, receiver, note in tries:
        model = Recipe("gpt2", size)
        inputs = {
            "model": model,
            "tokens": tried,
            "cache": Recipe("activations", {"model": model, "tokens": tried}),
            "source_cache": Recipe("activations", {"model": model, "tokens": other}),
            "sender": sender,
            "receiver": receiver,
        }
        yield Case(inputs, note=note)
    model = Recipe("handmade", {"name": "induction", "n_words": 6, "n_ctx": 8})
    yield Case(
        {
            "model": model,
            "tokens": torch.tensor([[0, 5, 3, 4, 2]]),
            "cache": Recipe("activations", {"model": model, "tokens": torch.tensor([[0, 5, 3, 4, 2]])}),
            "source_cache": Recipe("activations", {"model": model, "tokens": torch.tensor([[0, 2, 3, 4, 2]])}),
            "sender": (0, 1),
            "receiver": (1, 0),
        },
        note="a hand-written induction circuit",
        truth=fact(
            lambda logits: abs(logits[0, -1, 3] - 20) < 1e-2,
            "In the hand-written circuit the patched keys restore the copy: a logit of 20 for the token that follows.",
        ),
    )


def _change(model: Any, cache: Any, source_cache: Any, sender: tuple[int, int]) -> Tensor:
    layer, head = sender
    return (source_cache["z", layer] - cache["z", layer])[:, :, head] @ model.W_O[layer, head]


def _with_part(model: Any, tokens: Tensor, receiver: tuple[int, int], stream: Tensor, part: str = "k") -> Tensor:
    """A run in which the receiver's queries, keys or values are computed from `stream`."""
    layer, head = receiver
    weight, bias = (getattr(model, f"{kind}_{part.upper()}")[layer, head] for kind in ("W", "b"))
    new = model.blocks[layer].ln1(stream) @ weight + bias

    def edit(activation: Tensor) -> None:
        activation[:, :, head] = new

    return _edited(model, tokens, f"blocks.{layer}.attn.hook_{part}", edit)


def _patched(model: Any, tokens: Tensor, cache: Any, source_cache: Any, sender: tuple, receiver: tuple) -> Tensor:
    stream = cache["resid_pre", receiver[0]] + _change(model, cache, source_cache, sender)
    return _with_part(model, tokens, receiver, stream)


def _patched_split(model: Any, tokens: Tensor, cache: Any, source_cache: Any, sender: tuple, receiver: tuple) -> Tensor:
    """By the split inputs of the bridge."""
    change = _change(model, cache, source_cache, sender)
    model.set_use_split_qkv_input(True)

    def edit(k_input: Tensor) -> None:
        k_input[:, :, receiver[1]] += change

    logits = _edited(model, tokens, f"blocks.{receiver[0]}.hook_k_input", edit)
    model.set_use_split_qkv_input(False)
    return logits


def _all_heads_keys(
    model: Any, tokens: Tensor, cache: Any, source_cache: Any, sender: tuple, receiver: tuple
) -> Tensor:
    layer = receiver[0]
    seen = model.blocks[layer].ln1(cache["resid_pre", layer] + _change(model, cache, source_cache, sender))
    keys = torch.einsum("bpm,hmd->bphd", seen, model.W_K[layer]) + model.b_K[layer]
    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_k", lambda value, hook: keys)])


def _without_norm(model: Any, tokens: Tensor, cache: Any, source_cache: Any, sender: tuple, receiver: tuple) -> Tensor:
    layer, head = receiver
    stream = cache["resid_pre", layer] + _change(model, cache, source_cache, sender)

    def edit(keys: Tensor) -> None:
        keys[:, :, head] = stream @ model.W_K[layer, head] + model.b_K[layer, head]

    return _edited(model, tokens, f"blocks.{layer}.attn.hook_k", edit)


def _without_bias(model: Any, tokens: Tensor, cache: Any, source_cache: Any, sender: tuple, receiver: tuple) -> Tensor:
    """b_K adds the same to a query's scores with all keys, which a softmax does not see."""
    layer, head = receiver
    stream = cache["resid_pre", layer] + _change(model, cache, source_cache, sender)

    def edit(keys: Tensor) -> None:
        keys[:, :, head] = model.blocks[layer].ln1(stream) @ model.W_K[layer, head]

    return _edited(model, tokens, f"blocks.{layer}.attn.hook_k", edit)


def _change_only(model: Any, tokens: Tensor, cache: Any, source_cache: Any, sender: tuple, receiver: tuple) -> Tensor:
    layer, head = receiver
    change = _change(model, cache, source_cache, sender)

    def edit(keys: Tensor) -> None:
        keys[:, :, head] += change @ model.W_K[layer, head]

    return _edited(model, tokens, f"blocks.{layer}.attn.hook_k", edit)


def _with_new_keys(
    model: Any,
    tokens: Tensor,
    cache: Any,
    source_cache: Any,
    sender: tuple,
    receiver: tuple,
    *,
    hook: str = "k",
    put: Callable[[Tensor, Tensor], Tensor] = lambda old, new: new,
) -> Tensor:
    """A run with the receiver's new keys, put in elsewhere or in another way."""
    layer, head = receiver
    seen = model.blocks[layer].ln1(cache["resid_pre", layer] + _change(model, cache, source_cache, sender))
    new = seen @ model.W_K[layer, head] + model.b_K[layer, head]

    def edit(activation: Tensor) -> None:
        activation[:, :, head] = put(activation[:, :, head], new)

    return _edited(model, tokens, f"blocks.{layer}.attn.hook_{hook}", edit)


def _only_last(old: Tensor, new: Tensor) -> Tensor:
    return torch.cat([old[:, :-1], new[:, -1:]], dim=1)


def _total_effect(model: Any, tokens: Tensor, cache: Any, source_cache: Any, sender: tuple, receiver: tuple) -> Tensor:
    layer, head = sender

    def edit(z: Tensor) -> None:
        z[:, :, head] = source_cache["z", layer][:, :, head]

    return _edited(model, tokens, f"blocks.{layer}.attn.hook_z", edit)


def _all_of_the_sources_keys(
    model: Any, tokens: Tensor, cache: Any, source_cache: Any, sender: tuple, receiver: tuple
) -> Tensor:
    layer, head = receiver

    def edit(keys: Tensor) -> None:
        keys[:, :, head] = source_cache["k", layer][:, :, head]

    return _edited(model, tokens, f"blocks.{layer}.attn.hook_k", edit)


def _added_output(model: Any, tokens: Tensor, cache: Any, source_cache: Any, sender: tuple, receiver: tuple) -> Tensor:
    said = source_cache["z", sender[0]][:, :, sender[1]] @ model.W_O[sender[0], sender[1]]
    return _with_part(model, tokens, receiver, cache["resid_pre", receiver[0]] + said)


def _everything_between(
    model: Any, tokens: Tensor, cache: Any, source_cache: Any, sender: tuple, receiver: tuple
) -> Tensor:
    """Heads between sender and receiver respond too."""
    seen = {}

    def edit(z: Tensor) -> None:
        z[:, :, sender[1]] = source_cache["z", sender[0]][:, :, sender[1]]

    def hook(z: Tensor, hook: Any) -> Tensor:
        z = z.clone()
        edit(z)
        return z

    def see(stream: Tensor, hook: Any) -> None:
        seen["stream"] = stream.clone()

    model.run_with_hooks(
        tokens,
        fwd_hooks=[(f"blocks.{sender[0]}.attn.hook_z", hook), (f"blocks.{receiver[0]}.hook_resid_pre", see)],
    )
    return _with_part(model, tokens, receiver, seen["stream"])


PATCH_KEYS = Exercise(
    id="induction.patch_keys",
    chapter=CHAPTER,
    title="Who feeds the keys?",
    points=3,
    minutes=30,
    difficulty=3,
    reference=paths.patch_keys,
    cases=_patch_cases,
    mistakes=[
        Mistake(
            "into_the_queries",
            lambda model, tokens, cache, source_cache, sender, receiver: _with_part(
                model,
                tokens,
                receiver,
                cache["resid_pre", receiver[0]] + _change(model, cache, source_cache, sender),
                "q",
            ),
            "This patches the receiver's queries. Patch its keys: W_K, b_K and hook_k.",
        ),
        Mistake(
            "into_the_values",
            lambda model, tokens, cache, source_cache, sender, receiver: _with_part(
                model,
                tokens,
                receiver,
                cache["resid_pre", receiver[0]] + _change(model, cache, source_cache, sender),
                "v",
            ),
            "This patches the receiver's values. Patch its keys: W_K, b_K and hook_k.",
        ),
        Mistake(
            "keys_into_the_queries",
            lambda model, tokens, cache, source_cache, sender, receiver: _with_new_keys(
                model, tokens, cache, source_cache, sender, receiver, hook="q"
            ),
            "The new keys are put in at hook_q, in the place of the queries. Keys belong at hook_k.",
        ),
        Mistake(
            "every_heads_keys",
            _all_heads_keys,
            "The keys of every head of the layer are patched. Only the receiver may notice: keys[:, :, head].",
        ),
        Mistake(
            "the_whole_layer_sends",
            lambda model, tokens, cache, source_cache, sender, receiver: _with_part(
                model,
                tokens,
                receiver,
                cache["resid_pre", receiver[0]] + source_cache["attn_out", sender[0]] - cache["attn_out", sender[0]],
            ),
            "This changes what the sender's whole layer says. Take the one head: its z times its own W_O.",
        ),
        Mistake(
            "everybody_notices",
            _total_effect,
            "This patches the sender's output for everybody who reads it. Only the receiver's keys may notice.",
        ),
        Mistake(
            "heads_between_respond",
            _everything_between,
            "Layers between sender and receiver respond to the change here. Add the change to the receiver's own cached input (resid_pre) instead of running them again.",
        ),
        Mistake(
            "all_of_the_sources_keys",
            _all_of_the_sources_keys,
            "These are the receiver's keys from the other run, so *everything* that feeds them has changed. Change only what the sender says.",
        ),
        Mistake(
            "added_not_exchanged",
            _added_output,
            "This adds what the sender says on the other run, while what it said on this one is still there. Add the difference.",
        ),
        Mistake(
            "wrong_direction",
            lambda model, tokens, cache, source_cache, sender, receiver: _patched(
                model, tokens, _Mixed(cache, source_cache), cache, sender, receiver
            ),
            "The difference has the wrong sign: it should be source minus present.",
        ),
        Mistake(
            "without_layernorm",
            _without_norm,
            "The keys read the stream through ln1: apply model.blocks[layer].ln1 to the changed stream.",
        ),
        Mistake(
            "change_past_the_layernorm",
            _change_only,
            "The change is multiplied by W_K without going through ln1. The LayerNorm rescales: add the change to the stream, then normalise.",
        ),
        Mistake(
            "stream_after_the_sender",
            lambda model, tokens, cache, source_cache, sender, receiver: _with_part(
                model,
                tokens,
                receiver,
                cache["resid_pre", sender[0] + 1] + _change(model, cache, source_cache, sender),
            ),
            "The change is added to the stream right after the sender's layer. The receiver reads resid_pre of its *own* layer.",
        ),
        Mistake(
            "the_other_runs_stream",
            lambda model, tokens, cache, source_cache, sender, receiver: _with_part(
                model,
                tokens,
                receiver,
                source_cache["resid_pre", receiver[0]] + _change(model, cache, source_cache, sender),
            ),
            "The change is added to the stream of the other run, so the keys read everything else from there too. Add it to this run's: cache.",
        ),
        Mistake(
            "last_position_only",
            lambda model, tokens, cache, source_cache, sender, receiver: _with_new_keys(
                model, tokens, cache, source_cache, sender, receiver, put=_only_last
            ),
            "Only the key at the last position is patched. Copying needs the keys of earlier ones: patch all positions.",
        ),
        Mistake(
            "nothing",
            lambda model, tokens, cache, source_cache, sender, receiver: model(tokens),
            "The logits are those of the untouched model: does your hook return the edited keys?",
        ),
    ],
    equivalents=[_patched, _patched_split, _without_bias],
    hints=[
        "Three steps: how does the sender's output change, what would the receiver's keys then be, and a run with these keys put in.",
        "The sender's output is z @ W_O. Add its change to the cached resid_pre of the receiver's layer, apply ln1, then W_K and b_K of the receiver.",
        'seen = model.blocks[later].ln1(cache["resid_pre", later] + change); the hook sets keys[:, :, reader] = seen @ model.W_K[later, reader] + model.b_K[later, reader].',
    ],
)


class _Mixed:
    """The stream of one run with the head outputs of another: what a wrong sign of the difference amounts to."""

    def __init__(self, stream: Any, outputs: Any):
        self.stream, self.outputs = stream, outputs

    def __getitem__(self, key: tuple[str, int]) -> Tensor:
        return (self.outputs if key[0] == "z" else self.stream)[key]


# ------------------------------------------------------------------------------------------------ head_logit_attribution


def _attribution_cases(seed: int) -> Iterable[Case]:
    tries = [
        ({"seed": 5}, words(seed, 3, 7), ""),
        ({"seed": 6, "heads": 3, "attention_only": True}, words(seed + 1, 2, 5), "attention only, three heads"),
        ({"seed": 7, "layers": 2, "heads": 2}, words(seed + 2, 1, 6), "a single prompt"),
        ({"seed": 8, "layers": 4, "heads": 3}, words(seed + 3, 4, 4), "as many prompts as positions"),
        ({"seed": 5, "processed": True}, words(seed + 4, 3, 6), "processed weights"),
    ]
    for size, tokens, note in tries:
        model = Recipe("gpt2", size)
        cache = Recipe("activations", {"model": model, "tokens": tokens})
        yield Case({"model": model, "cache": cache, "targets": words(seed + 9, *tokens.shape)}, note=note)


def _attributed(
    model: Any,
    cache: Any,
    targets: Tensor,
    *,
    weight: bool = True,
    scale: bool = True,
    centre: bool = True,
    centre_logits: bool = True,
    bias: bool = False,
) -> Tensor:
    W_U = model.W_U - model.W_U.mean(-1, keepdim=True) if centre_logits else model.W_U
    rows = []
    for layer in range(model.cfg.n_layers):
        written = torch.einsum("bphd,hdm->hbpm", cache["z", layer], model.W_O[layer])
        if bias:
            written = written + model.b_O[layer] / model.cfg.n_heads
        if centre:
            written = written - written.mean(-1, keepdim=True)
        if scale:
            written = written / cache["ln_final.hook_scale"]
        if weight:
            written = written * model.ln_final.weight
        rows.append((written * W_U.T[targets]).sum(-1))
    return torch.stack(rows)


def _by_logits(model: Any, cache: Any, targets: Tensor) -> Tensor:
    """All logits of every head, then the target's less the mean."""
    out = []
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            said = cache["z", layer][:, :, head] @ model.W_O[layer, head]
            normed = (said - said.mean(-1, keepdim=True)) / cache["ln_final.hook_scale"] * model.ln_final.weight
            logits = normed @ model.W_U
            out.append(logits.gather(-1, targets[..., None])[..., 0] - logits.mean(-1))
    return torch.stack(out).unflatten(0, (model.cfg.n_layers, model.cfg.n_heads))


def _own_norm(model: Any, cache: Any, targets: Tensor) -> Tensor:
    W_U = model.W_U - model.W_U.mean(-1, keepdim=True)
    rows = []
    for layer in range(model.cfg.n_layers):
        written = torch.einsum("bphd,hdm->hbpm", cache["z", layer], model.W_O[layer])
        rows.append((model.ln_final(written) * W_U.T[targets]).sum(-1))
    return torch.stack(rows)


def _log_probabilities(model: Any, cache: Any, targets: Tensor) -> Tensor:
    out = []
    for layer in range(model.cfg.n_layers):
        said = torch.einsum("bphd,hdm->hbpm", cache["z", layer], model.W_O[layer])
        normed = (said - said.mean(-1, keepdim=True)) / cache["ln_final.hook_scale"] * model.ln_final.weight
        log_probs = (normed @ model.W_U).log_softmax(-1)
        out.append(log_probs.gather(-1, targets[None, ..., None].expand(len(said), -1, -1, 1))[..., 0])
    return torch.stack(out)


HEAD_LOGIT_ATTRIBUTION = Exercise(
    id="induction.head_logit_attribution",
    chapter=CHAPTER,
    title="Which head says it out loud?",
    points=3,
    minutes=30,
    difficulty=4,
    optional=True,
    reference=heads.head_logit_attribution,
    cases=_attribution_cases,
    mistakes=[
        Mistake(
            "no_layernorm_weight",
            lambda model, cache, targets: _attributed(model, cache, targets, weight=False),
            "The final LayerNorm's weight is missing: multiply by model.ln_final.weight before W_U.",
        ),
        Mistake(
            "no_scale",
            lambda model, cache, targets: _attributed(model, cache, targets, scale=False),
            'The final LayerNorm divides by a scale: the cached "ln_final.hook_scale" of this run.',
        ),
        Mistake(
            "no_centring",
            lambda model, cache, targets: _attributed(model, cache, targets, centre=False),
            "The final LayerNorm subtracts the mean over d_model. Centre what the head writes before you apply the weight.",
        ),
        Mistake(
            "own_layernorm",
            _own_norm,
            "This normalises every head's output by itself, as if it were alone. Use the scale that the whole stream had in this run, and no bias.",
        ),
        Mistake(
            "plain_projection",
            lambda model, cache, targets: _attributed(model, cache, targets, weight=False, scale=False, centre=False),
            "This projects the head's output as if there were no final LayerNorm: centre, divide by its cached scale, multiply by its weight.",
        ),
        Mistake(
            "not_against_the_average",
            lambda model, cache, targets: _attributed(model, cache, targets, centre_logits=False),
            "This is the target's logit alone. Take away what the head adds to the average logit, which changes no probability.",
        ),
        Mistake(
            "log_probabilities",
            lambda model, cache, targets: _log_probabilities(model, cache, targets),
            "This takes a log-softmax of each head by itself. Logits add up over heads, log-probabilities do not: take the logit less the mean logit.",
        ),
        Mistake(
            "heads_added_up",
            lambda model, cache, targets: _attributed(model, cache, targets).sum(dim=1),
            "This adds up the heads of a layer. Keep them apart: shape (layer, head, batch, position).",
        ),
        Mistake(
            "scale_squared",
            lambda model, cache, targets: _attributed(model, cache, targets) / cache["ln_final.hook_scale"][..., 0],
            'The scale is divided out twice. cache["ln_final.hook_scale"] is a standard deviation already.',
        ),
        Mistake(
            "shifted_targets",
            lambda model, cache, targets: _attributed(model, cache, targets.roll(-1, 1)),
            "The targets are shifted by one here. Entry [b, i] of `targets` is for position i already: the caller has shifted.",
        ),
        Mistake(
            "bias_shared_out",
            lambda model, cache, targets: _attributed(model, cache, targets, bias=True),
            "The heads share b_O here. A bias belongs to no head: leave it out.",
        ),
    ],
    equivalents=[_attributed, _by_logits],
    hints=[
        "A head adds z @ W_O to the final stream. What does the final LayerNorm do to one summand, if its scale is kept?",
        "Subtract the summand's mean over d_model, divide by cache[\"ln_final.hook_scale\"], multiply by ln_final.weight; then the target's column of W_U, less the mean column.",
        "readers = ln_final.weight * (W_U - W_U.mean(-1, keepdim=True)).T[targets] has shape (batch, position, d_model): dot it with the centred, scaled outputs.",
    ],
)

# ---------------------------------------------------------------------------------------------- build_induction_circuit

BOTH = "predictions", "heads"
ROOM = 0.1  # how far above even attention an idle head's score may be


def _vocabulary(seed: int, n: int) -> list[str]:
    """Random words of five letters."""
    letters = torch.randint(0, 26, (n, 5), generator=generator(seed)).tolist()
    return [f"{''.join(chr(97 + letter) for letter in row)}{i}" for i, row in enumerate(letters)]


def _segments(seed: int, n_words: int, length: int, before: int) -> Tensor:
    """Four prompts: <bos>, `before` words, a segment of `length` other words, the segment again."""
    rows = []
    for i in range(4):
        order = 2 + torch.randperm(n_words, generator=generator(seed + i))
        rows.append([0, *order[length : length + before].tolist(), *order[:length].tolist() * 2])
    return torch.tensor(rows)


def _build_cases(seed: int) -> Iterable[Case]:
    sizes = [(8, 5, 1, 14), (12, 9, 3, 22), (6, 6, 0, 13), (15, 4, 8, 30), (10, 2, 5, 10)]
    for i, (n_words, length, before, n_ctx) in enumerate(sizes):
        tokens = _segments(seed + 100 * i, n_words, length, before)
        inputs = {"words": _vocabulary(seed + i, n_words), "n_ctx": n_ctx}
        note = f"a vocabulary of {n_words} words, a segment of {length} after {before} others, n_ctx {n_ctx}"
        for part in BOTH:
            if part == "heads" and length < 4:
                continue  # with so short a segment, one back and the induction target nearly coincide
            compare = _compare_circuits(part, tokens, length)
            yield Case(inputs, drive="blueprint", settings={"tokens": tokens}, part=part, note=note, compare=compare)


def _compare_circuits(part: str, tokens: Tensor, length: int) -> comparing.Compare:
    """Two circuits agree if both do what is asked, or if their logits and attention are the same."""
    judge = _predicts if part == "predictions" else _circuit_found

    def compare(expected: Any, got: Any) -> Difference | None:
        if form := close(
            {name: value.ndim for name, value in expected.items()}, {name: value.ndim for name, value in got.items()}
        ):
            return form
        flaw = judge(got, tokens, length)
        if flaw is None:
            return judge(expected, tokens, length)
        return None if _alike(expected, got) else flaw

    return compare


def _alike(one: Any, other: Any) -> bool:
    """Whether two circuits say the same and look to the same places, idle heads and their order apart."""
    if close(one["logits"], other["logits"]):
        return False
    nobody: list[Tensor] = []
    for first, second in zip_longest(map(_busy, one["patterns"]), map(_busy, other["patterns"]), fillvalue=nobody):
        for mine, theirs in ((first, second), (second, first)):
            if not all(any(torch.allclose(head, twin, atol=1e-3) for twin in theirs) for head in mine):
                return False
    return True


def _busy(layer: Tensor) -> list[Tensor]:
    """Of the attention of a layer, [batch head query key], each head's that is not even."""
    n = layer.shape[-1]
    even = torch.ones(n, n).tril() / torch.arange(1, n + 1)[:, None]
    return [head for head in layer.unbind(dim=1) if not torch.allclose(head, even.expand_as(head), atol=1e-3)]


def _predicts(out: Any, tokens: Tensor, length: int) -> Difference | None:
    guess, answer = out["logits"][:, -length:-1].argmax(-1), tokens[:, 1 - length :]
    right = (guess == answer).float().mean().item()
    if right >= 0.99:
        return None
    return Difference(
        "value",
        "Your circuit does not predict the repetition.",
        "0.99 of its tokens or more",
        f"{right:.2f}",
        "counted from the second token of the repetition on",
    )


def _even(tokens: Tensor, score: Callable[..., Tensor], *arguments: Tensor) -> float:
    """The score of a head that spreads its attention evenly."""
    n = tokens.shape[1]
    pattern = torch.ones(n, n).tril() / torch.arange(1, n + 1)[:, None]
    return score(pattern.expand(len(tokens), 1, n, n), *arguments).item()


def _circuit_found(out: Any, tokens: Tensor, length: int) -> Difference | None:
    if (n_layers := len(out["patterns"])) > 2:
        sentence = (
            f"Your transformer has {n_layers} layers. Two are enough, and asked for: put the heads into layers 0 and 1."
        )
        return Difference("value", sentence, "2 layers", str(n_layers))
    previous = torch.stack([heads.previous_token_score(pattern) for pattern in out["patterns"]])
    induction = torch.stack([heads.induction_score(pattern, tokens) for pattern in out["patterns"]])
    for name, scores, even in (
        ("a previous-token score", previous, _even(tokens, heads.previous_token_score)),
        ("an induction score", induction, _even(tokens, heads.induction_score, tokens)),
    ):
        first, *rest = scores.flatten().sort(descending=True).values.tolist()
        if first < 0.99:
            return Difference(
                "value", f"No head of your circuit has {name} of 0.99.", "0.99 or more", f"{first:.2f} at most"
            )
        if rest and rest[0] > even + ROOM:
            sentence = f"More than one head has {name} above that of even attention. Leave the others idle."
            return Difference("value", sentence, f"{even + ROOM:.2f} at most for the second", f"{rest[0]:.2f}")
    if previous.amax(1).argmax() >= induction.amax(1).argmax():
        return Difference(
            "value", "The induction head must be in a later layer than the previous-token head, to read what it writes."
        )
    return None


def _plan(
    words: Sequence[str],
    n_ctx: int,
    *,
    back: int = 1,
    sharp: float = SHARP,
    reads: str = "token",
    query: str = "token",
    key: str = "previous",
    writes: str = "guess",
    gain: float = 20.0,
    unembedded: str | None = None,
    layer: int = 1,
) -> Blueprint:
    plan = Blueprint(words, n_ctx, n_layers=2, n_heads=2)
    size = len(plan.words)
    spaces = {name: plan.space(name, size) for name in ("token", "previous", "guess")}
    plan.embed(spaces["token"])
    plan.unembed(spaces[unembedded or writes], gain)
    pairs = {i: i - back for i in range(back, n_ctx)}
    plan.head(0, 0).qk(plan.position, plan.position, attend(pairs, n_ctx)).ov(spaces["token"], spaces["previous"])
    plan.head(layer, 1).qk(spaces[query], spaces[key], sharp).ov(spaces[reads], spaces[writes])
    return plan


def _by_loops(words: Sequence[str], n_ctx: int) -> Blueprint:
    """Another layout: other heads, matrices written out, and a negative score away from the start."""
    plan = Blueprint(words, n_ctx, n_heads=3, seed=1)
    here, before, said = (plan.space(name, len(plan.words)) for name in ("here", "before", "said"))
    plan.embed(here, torch.eye(len(plan.words)))
    plan.unembed(said, 15 * torch.eye(len(plan.words)))
    scores = torch.zeros(n_ctx, n_ctx)
    for i in range(1, n_ctx):
        scores[i, i - 1] = 50.0
    plan.head(0, 2).qk(plan.position, plan.position, scores).ov(here, before)
    plan.head(1, 1).qk(here, before, 60 * torch.eye(len(plan.words))).ov(here, said, 2.0)
    plan.head(1, 1).qk(plan.position, plan.position[0], torch.full((n_ctx, 1), -80.0))
    return plan


BUILD_INDUCTION_CIRCUIT = Exercise(
    id="induction.build_induction_circuit",
    chapter=CHAPTER,
    title="Build one yourself",
    points=5,
    minutes=45,
    difficulty=5,
    optional=True,
    parts={"predictions": 3, "heads": 2},
    reference=handmade.build_induction_circuit,
    cases=_build_cases,
    mistakes=[
        Mistake(
            "looks_at_itself",
            lambda words, n_ctx: _plan(words, n_ctx, back=0),
            "Your first head looks at its own position, so `previous` holds the current token. Query position i must find key position i - 1.",
        ),
        Mistake(
            "two_back",
            lambda words, n_ctx: _plan(words, n_ctx, back=2),
            "Your first head looks two back. Query position i must find key position i - 1.",
        ),
        Mistake(
            "copies_the_previous_token",
            lambda words, n_ctx: _plan(words, n_ctx, reads="previous"),
            "Your induction head finds the right place, but reads there which token came *before*: that is the current one again. It should copy the token that stands there.",
        ),
        Mistake(
            "duplicate_token_head",
            lambda words, n_ctx: _plan(words, n_ctx, key="token"),
            "Your second head looks for the current token itself: a duplicate-token head. Its keys must read what the first head wrote.",
        ),
        Mistake(
            "query_and_key_exchanged",
            lambda words, n_ctx: _plan(words, n_ctx, query="previous", key="token"),
            "Query and key are exchanged: this looks for the place where the *previous* token stood. The query is the current token, the key is what came before.",
        ),
        Mistake(
            "too_soft",
            lambda words, n_ctx: _plan(words, n_ctx, sharp=1.0),
            "The scores of your induction head are so small that its attention is spread over many places. Make them as large as SHARP.",
        ),
        Mistake(
            "same_layer",
            lambda words, n_ctx: _plan(words, n_ctx, layer=0),
            "Both heads are in layer 0, where nothing has been written yet: a head can only read what earlier layers wrote.",
        ),
        Mistake(
            "a_layer_too_many",
            lambda words, n_ctx: _plan(words, n_ctx, layer=2),
            "Your induction head is in layer 2, and layer 1 does nothing. What layer 0 wrote can be read in layer 1: two layers are asked for.",
        ),
        Mistake(
            "looks_away",
            lambda words, n_ctx: _plan(words, n_ctx, sharp=-SHARP),
            "The scores of your induction head are negative where the query matches, so it looks everywhere else. The larger a score, the more attention: take SHARP.",
        ),
        Mistake(
            "unembeds_the_token",
            lambda words, n_ctx: _plan(words, n_ctx, unembedded="token"),
            "The unembedding reads the space of the current token, so the model says that again. Let it read what the induction head writes.",
        ),
        Mistake(
            "writes_over_the_token",
            lambda words, n_ctx: _plan(words, n_ctx, writes="token"),
            "The copied token is added to the space that already holds the current one, so both get a logit. Write it into a space of its own.",
        ),
        Mistake(
            "negative",
            lambda words, n_ctx: _plan(words, n_ctx, gain=-20.0),
            "The copied token gets the lowest logit: the sign of the unembedding (or of what the head writes) is wrong.",
        ),
    ],
    equivalents=[lambda words, n_ctx: _plan(words, n_ctx), _by_loops],
    hints=[
        "You need three spaces, each with one direction a word: which token stands here, which stood just before, and which comes next.",
        "Head 0: positions to positions, one back, moving `token` to `previous`. Head 1, a layer later: query `token`, key `previous`, moving `token` to `guess`.",
        "plan.head(1, 0).qk(token, previous, SHARP).ov(token, guess), and plan.unembed(guess, 20.0). attend({i: i - 1 ...}, n_ctx) makes the scores of the first head.",
    ],
)

EXERCISES = [
    PER_TOKEN_LOSS,
    PREVIOUS_TOKEN_SCORE,
    DUPLICATE_TOKEN_SCORE,
    INDUCTION_SCORE,
    ABLATE_HEAD,
    COPYING_SCORE,
    POSITIONAL_ATTENTION,
    COMPOSITION_SCORE,
    PATCH_KEYS,
    HEAD_LOGIT_ATTRIBUTION,
    BUILD_INDUCTION_CIRCUIT,
]
