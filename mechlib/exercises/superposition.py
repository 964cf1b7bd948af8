"""The exercises of chapter 01_superposition."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mechlib import superposition as reference
from mechlib.checker import Case, Exercise, Mistake, Recipe
from mechlib.checker import compare as comparing
from mechlib.checker.compare import Difference, close, moments

CHAPTER = "01_superposition"

# ------------------------------------------------------------------------------------------------------ weights to try


def pentagon() -> Tensor:
    """Five unit directions in the plane, 72 degrees apart: one instance."""
    angles = torch.arange(5, dtype=torch.float64) * 2 * torch.pi / 5
    return torch.stack([angles.cos(), angles.sin()])[None]


def weights(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random weights (instances, hidden, features)."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def weight_cases(
    truth: Callable[[Tensor], Callable[[Tensor], str | None] | None],
) -> Callable[[int], Iterable[Case]]:
    """Cases for functions of the weights alone; `truth(W)` gives the fact that must hold for these weights."""

    def cases(seed: int) -> Iterable[Case]:
        dead, short = weights(seed + 1, 2, 3, 4), weights(seed + 6, 4, 3, 2)
        dead[0, :, 2] = 0
        short[0, :, 1] = torch.tensor([1.0, -1.0, 0.0])
        short[1, :, 0] = torch.tensor([0.012, 0.0, -0.016])
        tries = [
            (weights(seed, 3, 4, 6), ""),
            (weights(seed + 2, 1, 2, 5), "a batch of one instance"),
            (weights(seed + 3, 2, 5, 3), "more hidden dimensions than features"),
            (weights(seed + 4, 4, 3, 1), "a single feature"),
            (weights(seed + 7, 3, 3, 3), "as many instances as hidden dimensions and features"),
            (pentagon(), "a pentagon: five unit vectors, 72 degrees apart"),
            (dead, "feature 2 of instance 0 is not represented: its column of W is zero"),
            (short, "a column whose entries sum to zero, and one of length 0.02"),
            (weights(seed + 5, 5, 3, 7, dtype=torch.bfloat16), "bfloat16 weights"),
        ]
        for W, note in tries:
            yield Case({"W": W}, note=note, truth=truth(W))
        yield Case({"W": weights(seed, 2, 3, 5)}, drive="other_device", compare=comparing.other_device)

    return cases


def fact(holds: Callable[[Any], Any], sentence: str) -> Callable[[Any], str | None]:
    """A truth for a case: the sentence, if `holds(outputs)` is false."""
    return lambda outputs: None if bool(holds(outputs)) else sentence


def _pentagon_is(what: str, value: float) -> Callable[[Tensor], Callable[[Tensor], str | None] | None]:
    def truth(W: Tensor) -> Callable[[Tensor], str | None] | None:
        if not torch.equal(W, pentagon()):
            return None
        return fact(
            lambda out: torch.isclose(out, torch.full_like(out, value)).all(),
            f"A pentagon has {value:g} {what}.",
        )

    return truth


# ------------------------------------------------------------------------------------------------------- feature_norms


def _sum_of_squares_is_frobenius(W: Tensor) -> Callable[[Tensor], str | None]:
    total = W.double().square().sum()
    return fact(
        lambda norms: torch.isclose(norms.double().square().sum(), total, rtol=2e-2),
        "The squared norms should sum to the squared Frobenius norm of W.",
    )


FEATURE_NORMS = Exercise(
    id="superposition.feature_norms",
    chapter=CHAPTER,
    title="How strongly is each feature represented?",
    points=1,
    minutes=5,
    difficulty=1,
    reference=reference.feature_norms,
    cases=weight_cases(_sum_of_squares_is_frobenius),
    mistakes=[
        Mistake(
            "over_features",
            lambda W: W.norm(dim=2),
            "These are the lengths of W's rows (one for each hidden dimension). A feature is a column: sum over the hidden dimension, axis 1.",
        ),
        Mistake("squared", lambda W: W.square().sum(dim=1), "These are the squared lengths: take the square root."),
        Mistake(
            "absolute_values",
            lambda W: W.abs().sum(dim=1),
            "This adds absolute values (the L1 norm). A length is the square root of the sum of squares.",
        ),
        Mistake(
            "root_mean_square",
            lambda W: W.square().mean(dim=1).sqrt(),
            "This averages the squares over the hidden dimension. A length sums them: leave the division out.",
        ),
        Mistake(
            "whole_instance",
            lambda W: W.norm(dim=(1, 2)),
            "This is one length for a whole instance. Each feature has its own: sum over the hidden dimension only.",
        ),
        Mistake(
            "over_instances",
            lambda W: W.norm(dim=0),
            "These lengths run over the instances. A feature is a column: sum over the hidden dimension, axis 1.",
        ),
        Mistake(
            "largest_entry",
            lambda W: W.abs().amax(dim=1),
            "This is each column's largest entry. A length is the square root of the sum of squares.",
        ),
    ],
    equivalents=[
        lambda W: W.square().sum(dim=1).sqrt(),
        lambda W: torch.linalg.vector_norm(W, dim=-2),
        lambda W: torch.stack([torch.stack([column.norm() for column in instance.T]) for instance in W]),
        lambda W: torch.einsum("ihf,ihf->if", W, W) ** 0.5,
    ],
    hints=[
        "A feature's direction is a column of W. Which of the three axes runs along a column?",
        "Square, sum over the hidden dimension, take the root. torch.Tensor.norm does it for an axis that you name.",
        "return W.norm(dim=...), with the axis of the hidden dimension: the result must have shape (instances, features).",
    ],
)

# ------------------------------------------------------------------------------------------------- superposition_index


def _unit(W: Tensor, dim: int = 1) -> Tensor:
    return W / W.norm(dim=dim, keepdim=True).clamp(min=1e-12)


def _overlaps(left: Tensor, right: Tensor) -> Tensor:
    return torch.einsum("ihf,ihg->ifg", left, right)


def _off_diagonal(overlaps: Tensor) -> Tensor:
    return overlaps * (1 - torch.eye(overlaps.shape[-1], dtype=overlaps.dtype, device=overlaps.device))


def _index_of_orthogonal_is_zero(W: Tensor) -> Callable[[Tensor], str | None] | None:
    if W.shape[-1] == 1:
        return fact(
            lambda index: (index.abs() < 1e-3).all(),
            "A feature that is alone is crossed by nobody: its index should be 0.",
        )
    if torch.equal(W, pentagon()):
        return fact(
            lambda index: torch.isclose(index, torch.full_like(index, 1.5)).all(),
            "In a pentagon every feature's index should be 1.5.",
        )
    return None


def _loop_index(W: Tensor) -> Tensor:
    index = torch.zeros(W.shape[0], W.shape[2], dtype=W.dtype, device=W.device)
    for instance in range(W.shape[0]):
        for i in range(W.shape[2]):
            direction = W[instance, :, i]
            if direction.norm() == 0:
                continue
            for j in range(W.shape[2]):
                if j != i:
                    index[instance, i] += (direction / direction.norm() @ W[instance, :, j]) ** 2
    return index


SUPERPOSITION_INDEX = Exercise(
    id="superposition.superposition_index",
    chapter=CHAPTER,
    title="How much is each feature crossed by the others?",
    points=2,
    minutes=15,
    difficulty=2,
    reference=reference.superposition_index,
    cases=weight_cases(_index_of_orthogonal_is_zero),
    mistakes=[
        Mistake(
            "includes_itself",
            lambda W: _overlaps(_unit(W), W).square().sum(dim=2),
            "This counts the feature itself as well: leave j = i out of the sum.",
        ),
        Mistake(
            "not_normalised",
            lambda W: _off_diagonal(_overlaps(W, W).square()).sum(dim=2),
            "Here W_i keeps its length. Divide it by its norm first: only its direction counts.",
        ),
        Mistake(
            "both_normalised",
            lambda W: _off_diagonal(_overlaps(_unit(W), _unit(W)).square()).sum(dim=2),
            "Here both features are normalised (squared cosines). Only W_i is: a weakly represented W_j should disturb little.",
        ),
        Mistake(
            "wrong_one_normalised",
            lambda W: _off_diagonal(_overlaps(W, _unit(W)).square()).sum(dim=2),
            "Here W_j is normalised instead of W_i (or the sum runs over i instead of j).",
        ),
        Mistake(
            "not_squared",
            lambda W: _off_diagonal(_overlaps(_unit(W), W)).sum(dim=2),
            "The overlaps are added without squaring, so positive and negative ones cancel.",
        ),
        Mistake(
            "squared_after_sum",
            lambda W: _off_diagonal(_overlaps(_unit(W), W)).sum(dim=2).square(),
            "The overlaps are summed first and squared then, so that they cancel. Square each one.",
        ),
        Mistake(
            "subtracts_one",
            lambda W: _overlaps(_unit(W), W).square().sum(dim=2) - 1,
            "This takes j = i out by subtracting 1. The overlap of W_i with its own direction is its length, so its square is ||W_i||^2.",
        ),
        Mistake(
            "absolute_values",
            lambda W: _off_diagonal(_overlaps(_unit(W), W)).abs().sum(dim=2),
            "Here the overlaps' absolute values are added. Square them.",
        ),
        Mistake(
            "mean",
            lambda W: _off_diagonal(_overlaps(_unit(W), W).square()).mean(dim=2),
            "This averages over the other features. The index is their sum.",
        ),
        Mistake(
            "nan_for_dead_features",
            lambda W: _off_diagonal_keep_nan(_overlaps(W / W.norm(dim=1, keepdim=True), W).square()),
            "A feature whose column is zero has no direction, and dividing by its norm gives NaN. Its index should be 0.",
        ),
    ],
    equivalents=[
        lambda W: _off_diagonal(_overlaps(nn.functional.normalize(W, dim=1), W).square()).sum(dim=-1),
        _loop_index,
        lambda W: ((_unit(W).mT @ W) ** 2).sum(-1) - W.square().sum(1),
    ],
    hints=[
        "Begin with one matrix an instance: entry (i, j) is the dot product of the direction of feature i with W_j.",
        "Divide each column by its norm (guard against zero), multiply with W over the hidden dimension, square, drop the diagonal, sum over j.",
        'overlap = einsum(unit, W, "inst hidden i, inst hidden j -> inst i j") ** 2, then overlap.sum(-1) minus its diagonal.',
    ],
)


def _off_diagonal_keep_nan(overlaps: Tensor) -> Tensor:
    return overlaps.masked_fill(torch.eye(overlaps.shape[-1], dtype=torch.bool, device=overlaps.device), 0).sum(dim=2)


# -------------------------------------------------------------------------------------------------------- sparse_batch


def _sample_statistics(x: Tensor) -> dict[str, Tensor]:
    """Columns (draws, instances, features) that tell wrong samplers of non-negative sparse features from right ones."""
    active, neighbour = (x > 0).double(), x.roll(-1, dims=2)
    rows = len(x) // 2 * 2
    columns = {
        "the share of features that are not zero": active,
        "the mean": x,
        "the mean of the squares": x**2,
        "the share of values above 3/4": (x > 0.75).double(),
        "the share of negative values": (x < 0).double(),
        "how often features f and f + 1 are active together": active * (neighbour > 0),
        "how often features f and f + 2 are active together": active * active.roll(-2, dims=2),
        "the mean product of features f and f + 1": x * neighbour,
        "the mean product of features f and f + 2": x * x.roll(-2, dims=2),
        "how often a feature is active in two instances at once": active * active.roll(-1, dims=1),
        "the mean product of a feature in two instances": x * x.roll(-1, dims=1),
    }
    # Pairs of rows that do not overlap, so that the draws stay independent.
    columns["the mean product of two rows, one from each half"] = x[: rows // 2] * x[rows // 2 : rows]
    columns["how often a feature is active in two rows at once"] = active[:rows:2] * active[1:rows:2]
    return columns


def sample_cases(sparsities: list[float]) -> Callable[[int], Iterable[Case]]:
    """Cases for samplers of sparse features, at these sparsities (one an instance)."""

    def cases(seed: int) -> Iterable[Case]:
        def inputs(
            batch_size: int, n_features: int, sparsity: list[float], dtype: torch.dtype = torch.float32
        ) -> dict[str, Any]:
            generator = Recipe("generator", {"seed": seed + batch_size})
            return {
                "batch_size": batch_size,
                "n_features": n_features,
                "sparsity": torch.tensor(sparsity, dtype=dtype),
                "generator": generator,
            }

        yield Case(
            inputs(6_000, 4, sparsities),
            drive="draw",
            truth=fact(
                lambda out: _mean_is_right(out["draw"], sparsities),
                "The mean of a feature should be (1 - sparsity) / 2.",
            ),
        )
        yield Case(inputs(3_000, 6, [sparsities[-1]]), drive="draw", note="a single instance")
        yield Case(
            inputs(2_001, 2, [1.0, 0.5], torch.float64),
            drive="draw",
            note="float64, and an instance in which every feature is always 0",
        )
        yield Case({**inputs(3_000, 4, sparsities), "generator": None}, drive="draw", note="no generator is given")
        yield Case(
            {**inputs(8, 4, sparsities), "generator": None},
            drive="other_device",
            compare=comparing.other_device,
        )

    return cases


def _mean_is_right(x: Tensor, sparsities: list[float]) -> bool:
    """Each instance's mean against the closed form; 6 standard errors, so a false alarm has a probability of 2e-9."""
    p = 1 - torch.tensor(sparsities, dtype=torch.float64)
    means = x.double().flatten(2).mean(dim=(0, 2))
    # Features of a pair may be correlated: count a pair as one observation.
    error = ((p / 3 - p**2 / 4) / (len(x) * x.shape[2] / 2)).sqrt()
    return bool(((means - p / 2).abs() <= 6 * error + 1e-9).all())


def _rand(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype)


Sampler = Callable[[int, int, Tensor, torch.Generator | None], Tensor]


def sampler(active: Callable[..., Tensor], magnitude: Callable[..., Tensor] | None = None) -> Sampler:
    """A sampler from two functions of (uniform draws by shape, batch_size, n_features, sparsity as a column)."""

    def sample(batch_size: int, n_features: int, sparsity: Tensor, generator: torch.Generator | None = None) -> Tensor:
        def u(*shape: int) -> Tensor:
            return _rand(shape, sparsity, generator)

        B, I, F = batch_size, len(sparsity), n_features
        mask = active(u, B, I, F, sparsity[:, None])
        return (magnitude(u, B, I, F) if magnitude else u(B, I, F)) * mask

    return sample


def _reused_draw(
    batch_size: int, n_features: int, sparsity: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    u = _rand((batch_size, len(sparsity), n_features), sparsity, generator)
    return u * (u >= sparsity[:, None])


def _own_generator(pairs: bool) -> Sampler:
    def sample(batch_size: int, n_features: int, sparsity: Tensor, generator: torch.Generator | None = None) -> Tensor:
        width = n_features // 2 if pairs else n_features
        mask = torch.rand(batch_size, len(sparsity), width, dtype=sparsity.dtype) >= sparsity[:, None]
        mask = mask.repeat_interleave(2, dim=2) if pairs else mask
        return torch.rand(mask.shape, dtype=sparsity.dtype) * mask

    return sample


def _dropout(batch_size: int, n_features: int, sparsity: Tensor, generator: torch.Generator | None = None) -> Tensor:
    values = _rand((batch_size, len(sparsity), n_features), sparsity, generator)
    return torch.stack([nn.functional.dropout(values[:, i], float(s)) for i, s in enumerate(sparsity)], dim=1)


def _loop_sampler(
    batch_size: int, n_features: int, sparsity: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    x = torch.zeros(batch_size, len(sparsity), n_features, dtype=sparsity.dtype, device=sparsity.device)
    for instance, s in enumerate(sparsity):
        values = _rand((batch_size, n_features), sparsity, generator)
        x[:, instance] = torch.where(_rand((batch_size, n_features), sparsity, generator) < s, 0.0, values)
    return x


IGNORES_GENERATOR = "The sample is right, but not all of it comes from the generator: pass `generator=generator` to every random function, or nobody can repeat your experiment."

SPARSE_BATCH = Exercise(
    id="superposition.sparse_batch",
    chapter=CHAPTER,
    title="Draw sparse features",
    points=2,
    minutes=15,
    difficulty=2,
    reference=reference.sparse_batch,
    cases=sample_cases([0.0, 0.3, 0.7]),
    compare=moments(_sample_statistics, axes="[instance, feature]"),
    mistakes=[
        Mistake(
            "one_draw_for_both",
            _reused_draw,
            "The same random number decides whether a feature is active and how large it is, so at high sparsity every active feature is large. Draw twice.",
        ),
        Mistake(
            "inverted",
            sampler(lambda u, B, I, F, s: u(B, I, F) < s),
            "Features are active with probability `sparsity` here. Sparsity is the probability of being zero.",
        ),
        Mistake(
            "all_features_together",
            sampler(lambda u, B, I, F, s: u(B, I, 1) >= s),
            "All features of an example are switched on or off together. Each needs its own draw.",
        ),
        Mistake(
            "same_for_whole_batch",
            sampler(lambda u, B, I, F, s: u(1, I, F) >= s),
            "The same features are active in every example of the batch. Draw for each example anew.",
        ),
        Mistake(
            "first_sparsity_only",
            sampler(lambda u, B, I, F, s: u(B, I, F) >= s[0]),
            "Every instance gets the first instance's sparsity. Line up `sparsity` with axis 1: sparsity[:, None].",
        ),
        Mistake(
            "mean_sparsity",
            sampler(lambda u, B, I, F, s: u(B, I, F) >= s.mean()),
            "Every instance gets the average sparsity. Line up `sparsity` with axis 1: sparsity[:, None].",
        ),
        Mistake(
            "magnitude_always_one",
            sampler(lambda u, B, I, F, s: (u(B, I, F) >= s).to(s.dtype), lambda u, B, I, F: torch.ones(())),
            "Active features are always 1 here. They should be uniform in [0, 1].",
        ),
        Mistake(
            "scaled_instead_of_masked",
            sampler(lambda u, B, I, F, s: 1 - s),
            "Features are made small here, not sparse: no entry is exactly zero. Multiply by a 0/1 mask.",
        ),
        Mistake(
            "instances_share_draws",
            sampler(lambda u, B, I, F, s: u(B, 1, F) >= s, lambda u, B, I, F: u(B, 1, F)),
            "All instances see the same random numbers. Draw for each instance separately.",
        ),
        Mistake(
            "dropout",
            _dropout,
            "Dropout divides what it keeps by 1 - sparsity, so values exceed 1 (and it takes no generator). Multiply by a 0/1 mask of your own.",
        ),
        Mistake("ignores_generator", _own_generator(pairs=False), IGNORES_GENERATOR),
    ],
    equivalents=[
        sampler(lambda u, B, I, F, s: u(B, I, F) < 1 - s),
        _loop_sampler,
        lambda batch_size, n_features, sparsity, generator=None: (
            torch.bernoulli((1 - sparsity)[None, :, None].expand(batch_size, -1, n_features), generator=generator)
            * torch.rand(
                batch_size,
                len(sparsity),
                n_features,
                generator=generator,
                dtype=sparsity.dtype,
                device=sparsity.device,
            )
        ),
    ],
    hints=[
        "Two independent questions for every entry: is the feature active, and how large is it?",
        "Draw uniform numbers of shape (batch, instances, features) twice: once to compare with the sparsity, once for the magnitude.",
        "active = torch.rand(shape, generator=generator, device=...) >= sparsity[:, None]; multiply a second torch.rand(shape, ...) by it.",
    ],
)

# ---------------------------------------------------------------------------------------------------- correlated_batch

CORRELATED_BATCH = Exercise(
    id="superposition.correlated_batch",
    chapter=CHAPTER,
    title="Draw features that come in pairs",
    points=2,
    minutes=10,
    difficulty=2,
    reference=reference.correlated_batch,
    cases=sample_cases([0.0, 0.3, 0.7]),
    compare=moments(_sample_statistics, axes="[instance, feature]"),
    mistakes=[
        Mistake(
            "independent",
            sampler(lambda u, B, I, F, s: u(B, I, F) >= s),
            "Features are active independently here. Features 2k and 2k+1 should share one decision.",
        ),
        Mistake(
            "same_magnitude",
            sampler(
                lambda u, B, I, F, s: (u(B, I, F // 2) >= s).repeat_interleave(2, dim=2),
                lambda u, B, I, F: u(B, I, F // 2).repeat_interleave(2, dim=2),
            ),
            "The two features of a pair have the same size as well. Only the decision is shared: draw a magnitude for each feature.",
        ),
        Mistake(
            "wrong_partners",
            sampler(lambda u, B, I, F, s: (u(B, I, F // 2) >= s).repeat(1, 1, 2)),
            "Feature k is paired with feature k + n/2 here (`repeat`). Neighbours 2k and 2k+1 should be partners (`repeat_interleave`).",
        ),
        Mistake(
            "both_must_agree",
            sampler(
                lambda u, B, I, F, s: ((u(B, I, F // 2) >= s) & (u(B, I, F // 2) >= s)).repeat_interleave(2, dim=2)
            ),
            "Pairs are active with probability (1 - sparsity) squared here: two draws must agree. Draw once for each pair.",
        ),
        Mistake(
            "inverted",
            sampler(lambda u, B, I, F, s: (u(B, I, F // 2) < s).repeat_interleave(2, dim=2)),
            "Pairs are active with probability `sparsity` here. Sparsity is the probability of being zero.",
        ),
        Mistake(
            "all_pairs_together",
            sampler(lambda u, B, I, F, s: u(B, I, 1) >= s),
            "All features are switched on or off together. Each pair needs its own draw.",
        ),
        Mistake(
            "exclusive",
            sampler(lambda u, B, I, F, s: torch.stack([(d := u(B, I, F // 2)) < 1 - s, d >= s], dim=3).flatten(2)),
            "At high sparsity the two features of a pair exclude each other here. They should be active together.",
        ),
        Mistake("ignores_generator", _own_generator(pairs=True), IGNORES_GENERATOR),
    ],
    equivalents=[
        sampler(lambda u, B, I, F, s: (u(B, I, F // 2) < 1 - s)[..., None].expand(B, I, F // 2, 2).flatten(2)),
        sampler(lambda u, B, I, F, s: (u(B, I, F // 2) >= s)[:, :, torch.arange(F) // 2]),
    ],
    hints=[
        "How many decisions does an example need now, if two features share each?",
        "Draw one decision a pair, shape (batch, instances, features // 2), and give it to both partners. Magnitudes stay separate.",
        "active = (torch.rand(pair_shape, generator=generator) >= sparsity[:, None]).repeat_interleave(2, dim=-1)",
    ],
)

# ------------------------------------------------------------------------------------------------------------ ToyModel


def toy_model(
    forward: Callable[..., Tensor],
    W_init: Callable[..., Tensor] = torch.randn,
    b_init: Callable[..., Tensor] = torch.zeros,
) -> type[nn.Module]:
    """A toy model class from its forward function (W, b, x) and the way in which W and b start."""

    class Model(nn.Module):
        def __init__(self, n_instances: int, n_features: int, n_hidden: int):
            super().__init__()
            self.W = nn.Parameter(W_init(n_instances, n_hidden, n_features) * 0.5)
            self.b = nn.Parameter(b_init(n_instances, n_features))

        def forward(self, x: Tensor) -> Tensor:
            return forward(self.W, self.b, x)

    return Model


def _hidden(W: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("ihf,bif->bih", W, x)


def _read(W: Tensor, hidden: Tensor) -> Tensor:
    return torch.einsum("ihf,bih->bif", W, hidden)


def _right(W: Tensor, b: Tensor, x: Tensor) -> Tensor:
    return (_read(W, _hidden(W, x)) + b).relu()


def toy_model_cases(seed: int) -> Iterable[Case]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    for instances, features, hidden in [(3, 5, 2), (1, 4, 3)]:
        arguments = {"n_instances": instances, "n_features": features, "n_hidden": hidden}
        yield Case(arguments, drive="construct", part="parameters", compare=_same_start)
    for batch, instances, features, hidden, note in [
        (7, 3, 5, 2, ""),
        (1, 2, 4, 3, "a batch of one example"),
        (4, 1, 3, 2, "a single instance"),
        (6, 5, 2, 4, "more hidden dimensions than features"),
    ]:
        yield Case(
            {
                "arguments": {"n_instances": instances, "n_features": features, "n_hidden": hidden},
                "parameters": {"W": draw(instances, hidden, features), "b": draw(instances, features)},
                "x": draw(batch, instances, features),
            },
            drive="module",
            part="forward",
            note=note,
        )


def _same_start(expected: Any, got: Any) -> Difference | None:
    """Same parameters by name, shape and dtype, and a start from which training can go anywhere."""
    names = sorted(expected)
    if sorted(got) != names:
        sentence = f"The model should have the parameters {names} (nn.Parameter); yours has {sorted(got) or 'none'}."
        return Difference("structure", sentence)
    for name in names:
        if difference := close(_blank(expected[name]), _blank(got[name]), path=name):
            return difference
    theirs = _start_properties(got)
    sentences = [sentence for sentence, holds in _start_properties(expected).items() if theirs[sentence] != holds]
    return Difference("value", sentences[0]) if sentences else None


def _start_properties(parameters: dict[str, Tensor]) -> dict[str, bool]:
    """What a start should be like -> whether it is."""
    W, size = parameters["W"], parameters["W"].double().square().mean().sqrt()
    return {
        "b should start at zero.": not parameters["b"].any(),
        "W should not start at zero.": bool(W.any()),
        "W should start at numbers of a size around 0.1 to 1.": bool(0.01 < size < 3),
        "W should start at other random numbers in each instance.": len(W) == 1 or not torch.equal(W[0], W[1]),
        "W should start at random numbers: all features have the same.": not torch.equal(W[..., 0], W[..., 1]),
        "W should start at random numbers: all hidden dimensions have the same.": W.shape[1] == 1
        or not torch.equal(W[:, 0], W[:, 1]),
    }


TOY_MODEL = Exercise(
    id="superposition.ToyModel",
    chapter=CHAPTER,
    title="The toy model",
    points=3,
    parts={"parameters": 1, "forward": 2},
    minutes=20,
    difficulty=2,
    reference=reference.ToyModel,
    cases=toy_model_cases,
    mistakes=[
        Mistake(
            "no_relu",
            toy_model(lambda W, b, x: _read(W, _hidden(W, x)) + b),
            "The final ReLU is missing. Without it the model is linear, and superposition cannot pay.",
        ),
        Mistake(
            "no_bias",
            toy_model(lambda W, b, x: _read(W, _hidden(W, x)).relu()),
            "The bias b is not used: add it before the ReLU.",
        ),
        Mistake(
            "bias_after_relu",
            toy_model(lambda W, b, x: _read(W, _hidden(W, x)).relu() + b),
            "The bias is added after the ReLU. Add it before: only then can it filter small interference.",
        ),
        Mistake(
            "bias_subtracted",
            toy_model(lambda W, b, x: (_read(W, _hidden(W, x)) - b).relu()),
            "The bias is subtracted. Add it.",
        ),
        Mistake(
            "relu_on_hidden",
            toy_model(lambda W, b, x: (_read(W, _hidden(W, x).relu()) + b).relu()),
            "The hidden layer goes through a ReLU as well. In this model it is linear (a hidden ReLU comes later in the chapter).",
        ),
        Mistake(
            "instances_mixed",
            toy_model(lambda W, b, x: (torch.einsum("ihf,bjh->bif", W, torch.einsum("ihf,bif->bih", W, x)) + b).relu()),
            "The instances get mixed: keep the instance axis in both products, so that each model sees only its own data.",
        ),
        Mistake(
            "detached",
            toy_model(lambda W, b, x: (_read(W.detach(), _hidden(W.detach(), x)) + b).relu()),
            "The result is right, but no gradient reaches W, so it would never learn: leave .detach() and .data out.",
        ),
        Mistake(
            "starts_at_zero",
            toy_model(_right, W_init=torch.zeros),
            "W starts at zero, and there its gradient is zero too: the model would never leave. Start at random.",
        ),
        Mistake(
            "instances_start_alike",
            toy_model(_right, W_init=lambda i, h, f: torch.randn(1, h, f).repeat(i, 1, 1)),
            "All instances start from the same W, so they are no independent tries. Draw each one's weights.",
        ),
        Mistake(
            "bias_at_random",
            toy_model(_right, b_init=torch.randn),
            "b starts at random numbers. Start it at zero.",
        ),
    ],
    equivalents=[
        toy_model(_right, W_init=lambda i, h, f: nn.init.xavier_normal_(torch.empty(i, h, f))),
        toy_model(lambda W, b, x: torch.relu(torch.einsum("ihf,ihg,big->bif", W, W, x) + b)),
        toy_model(lambda W, b, x: nn.functional.relu(((W.mT @ W) @ x[..., None])[..., 0] + b), W_init=torch.rand),
    ],
    hints=[
        "Write down the shape of everything: W (instances, hidden, features), x (batch, instances, features). Which axes does each product sum over, and which must stay?",
        'Two einsums: first features -> hidden, then hidden -> features, both keeping "batch" and "instances". Then + b, then ReLU.',
        'hidden = einsum(self.W, x, "inst hidden feat, batch inst feat -> batch inst hidden"); read it back with the same W, add self.b, .relu(). W and b are nn.Parameter.',
    ],
)

# -------------------------------------------------------------------------------------------- importance_weighted_loss


def loss_cases(seed: int) -> Iterable[Case]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64).to(dtype)

    for batch, instances, features, dtype, note in [
        (7, 3, 5, torch.float32, ""),
        (1, 2, 4, torch.float32, "a batch of one example"),
        (6, 1, 3, torch.float64, "a single instance, float64"),
        (5, 4, 4, torch.float32, "as many instances as features"),
        (3, 4, 2, torch.bfloat16, "bfloat16"),
    ]:
        prediction = 4 * draw(batch, instances, features, dtype=dtype)  # some errors are larger than 1
        target = draw(batch, instances, features, dtype=dtype)
        inputs = {"prediction": prediction, "target": target, "importance": draw(features, dtype=dtype)}
        yield Case(inputs, drive="gradient", settings={"wrt": "prediction"}, note=note)
    inputs = {"prediction": draw(6, 3, 4), "target": draw(6, 3, 4), "importance": draw(3, 4)}
    yield Case(
        inputs,
        drive="gradient",
        settings={"wrt": "prediction"},
        note="every instance has its own importances",
    )
    perfect = draw(5, 2, 3)
    zero = fact(lambda out: not out["value"].any(), "A perfect prediction should have loss 0.")
    yield Case(
        {"prediction": perfect, "target": perfect.clone(), "importance": draw(3)},
        drive="gradient",
        settings={"wrt": "prediction"},
        note="a perfect prediction",
        truth=zero,
    )
    yield Case(inputs, drive="other_device", compare=comparing.other_device)


LOSS = Exercise(
    id="superposition.importance_weighted_loss",
    chapter=CHAPTER,
    title="A loss that knows which features matter",
    points=1,
    minutes=10,
    difficulty=1,
    reference=reference.importance_weighted_loss,
    cases=loss_cases,
    mistakes=[
        Mistake(
            "mean_over_features",
            lambda p, t, i: (i * (p - t) ** 2).mean(dim=(0, 2)),
            "This averages over the features. The loss sums over them, and averages over the batch only.",
        ),
        Mistake(
            "sum_over_batch",
            lambda p, t, i: (i * (p - t) ** 2).sum(dim=(0, 2)),
            "This sums over the batch, so that the loss grows with the batch size. Average over it.",
        ),
        Mistake(
            "one_number",
            lambda p, t, i: (i * (p - t) ** 2).sum(dim=2).mean(),
            "This is one number for all instances together. Each instance has a loss of its own: keep axis 1.",
        ),
        Mistake(
            "importance_squared",
            lambda p, t, i: (i * (p - t)).square().sum(dim=2).mean(dim=0),
            "The importance is inside the square, so it counts squared. Multiply the squared error by it.",
        ),
        Mistake(
            "no_importance",
            lambda p, t, i: ((p - t) ** 2).sum(dim=2).mean(dim=0) + 0 * i.sum(),
            "The importance is not used.",
        ),
        Mistake(
            "absolute_error",
            lambda p, t, i: (i * (p - t).abs()).sum(dim=2).mean(dim=0),
            "This is the absolute error. Square the difference.",
        ),
        Mistake(
            "not_squared",
            lambda p, t, i: (i * (p - t)).sum(dim=2).mean(dim=0),
            "The difference is not squared, so errors of opposite sign cancel.",
        ),
        Mistake(
            "batch_and_instances_swapped",
            lambda p, t, i: (i * (p - t) ** 2).sum(dim=2).mean(dim=1),
            "This averages over the instances and keeps the batch. Average over axis 0, the batch.",
        ),
        Mistake(
            "detached",
            lambda p, t, i: (i * (p.detach() - t) ** 2).sum(dim=2).mean(dim=0),
            "The number is right, but no gradient reaches the prediction: leave .detach(), .data and .item() out.",
        ),
    ],
    equivalents=[
        lambda p, t, i: (i * (p - t).square()).mean(dim=0).sum(dim=-1),
        lambda p, t, i: torch.einsum("bif,if->i", (p - t) ** 2, i.expand(p.shape[1:])) / len(p),
        lambda p, t, i: (nn.functional.mse_loss(p, t, reduction="none") * i).sum(-1).mean(0),
    ],
    hints=[
        "Three axes come in: batch, instances, features. One comes out. What happens to each of the other two?",
        "Squared error times importance, summed over features, averaged over the batch.",
        "(importance * (prediction - target) ** 2), then .sum over the last axis and .mean over the first.",
    ],
)

# ---------------------------------------------------------------------------------------------- dimensions_per_feature


DIMENSIONS_PER_FEATURE = Exercise(
    id="superposition.dimensions_per_feature",
    chapter=CHAPTER,
    title="How many dimensions does a feature cost?",
    points=1,
    minutes=5,
    difficulty=1,
    reference=reference.dimensions_per_feature,
    cases=weight_cases(_pentagon_is("dimensions a feature", 2 / 5)),
    mistakes=[
        Mistake(
            "upside_down",
            lambda W: W.square().sum(dim=(1, 2)) / W.shape[1],
            "This is features a dimension. Turn the fraction over.",
        ),
        Mistake(
            "not_squared",
            lambda W: W.shape[1] / W.norm(dim=(1, 2)),
            "This divides by the Frobenius norm. Square it: a sum of squares counts features.",
        ),
        Mistake(
            "features_over_norm",
            lambda W: W.shape[2] / W.square().sum(dim=(1, 2)),
            "The numerator is the number of features here. It should be the number of hidden dimensions, m.",
        ),
        Mistake(
            "sum_of_norms",
            lambda W: W.shape[1] / W.norm(dim=1).sum(dim=1),
            "This divides by the sum of the norms. Use the sum of their squares.",
        ),
        Mistake(
            "all_instances_together",
            lambda W: W.shape[1] / W.square().sum(),
            "This is one number for all instances together: keep axis 0.",
        ),
        Mistake(
            "mean_of_squares",
            lambda W: W.shape[1] / W.square().mean(dim=(1, 2)),
            "This averages the squares. Sum them.",
        ),
        Mistake(
            "instances_over_norm",
            lambda W: W.shape[0] / W.square().sum(dim=(1, 2)),
            "The numerator is the number of instances here. The hidden dimension is axis 1.",
        ),
    ],
    equivalents=[
        lambda W: W.shape[1] / torch.linalg.matrix_norm(W) ** 2,
        lambda W: W.shape[1] / torch.einsum("ihf,ihf->i", W, W),
        lambda W: W.shape[1] / W.norm(dim=1).square().sum(dim=1),
    ],
    hints=[
        "Summing the squared norms of all features counts, roughly, how many are represented.",
        "m is W.shape[1]. The squared Frobenius norm is the sum of all squared entries of an instance.",
        "W.shape[1] / W.pow(2).sum(dim=(...)), over the two axes that are not the instances.",
    ],
)

# ---------------------------------------------------------------------------------------------- feature_dimensionality


def _loop_dimensionality(W: Tensor) -> Tensor:
    D = torch.zeros(W.shape[0], W.shape[2], dtype=W.dtype, device=W.device)
    for instance in range(W.shape[0]):
        for i in range(W.shape[2]):
            direction = W[instance, :, i]
            if (norm := direction.norm()) > 0:
                D[instance, i] = norm**2 / ((direction / norm) @ W[instance]).square().sum()
    return D


def _dimensionality(W: Tensor, shared: Tensor, power: int = 2) -> Tensor:
    """||W_i||^power / shared, 0 where a feature is not represented."""
    return W.norm(dim=1) ** power / shared.clamp(min=1e-12)


FEATURE_DIMENSIONALITY = Exercise(
    id="superposition.feature_dimensionality",
    chapter=CHAPTER,
    title="What fraction of a dimension does a feature get?",
    points=2,
    minutes=15,
    difficulty=2,
    reference=reference.feature_dimensionality,
    cases=weight_cases(_pentagon_is("of a dimension for every feature", 2 / 5)),
    mistakes=[
        Mistake(
            "without_itself",
            lambda W: _dimensionality(W, _off_diagonal(_overlaps(_unit(W), W).square()).sum(dim=2)),
            "The denominator leaves out the feature itself. Here j = i counts, so that a feature on its own gets exactly 1.",
        ),
        Mistake(
            "norm_not_squared",
            lambda W: _dimensionality(W, _overlaps(_unit(W), W).square().sum(dim=2), power=1),
            "The numerator is the norm. It should be the squared norm.",
        ),
        Mistake(
            "not_normalised",
            lambda W: _dimensionality(W, _overlaps(W, W).square().sum(dim=2)),
            "In the denominator W_i keeps its length: divide it by its norm. (Or the numerator ||W_i||^2 is missing, which gives the same.)",
        ),
        Mistake(
            "both_normalised",
            lambda W: _dimensionality(W, _overlaps(_unit(W), _unit(W)).square().sum(dim=2)),
            "The denominator uses cosines. Only W_i is normalised; W_j keeps its length.",
        ),
        Mistake(
            "wrong_one_normalised",
            lambda W: _dimensionality(W, _overlaps(W, _unit(W)).square().sum(dim=2)),
            "In the denominator W_j is normalised instead of W_i (or the sum runs over i instead of j).",
        ),
        Mistake(
            "squared_after_sum",
            lambda W: _dimensionality(W, _overlaps(_unit(W), W).sum(dim=2).square()),
            "The overlaps are summed first and squared then, so that they cancel. Square each one.",
        ),
        Mistake(
            "upside_down",
            lambda W: _overlaps(_unit(W), W).square().sum(dim=2) / W.square().sum(dim=1),
            "The fraction stands on its head: how many share the dimension, instead of what share the feature gets.",
        ),
        Mistake(
            "absolute_values",
            lambda W: _dimensionality(W, _overlaps(_unit(W), W).abs().sum(dim=2)),
            "The overlaps' absolute values are added. Square them.",
        ),
        Mistake(
            "nan_for_dead_features",
            lambda W: W.norm(dim=1) ** 2 / _overlaps(W / W.norm(dim=1, keepdim=True), W).square().sum(dim=2),
            "A feature whose column is zero has no direction, and dividing by its norm gives NaN. It gets 0 of a dimension.",
        ),
    ],
    equivalents=[
        lambda W: (
            W.norm(dim=1).square() / (nn.functional.normalize(W, dim=1).mT @ W).square().sum(dim=2).clamp(min=1e-20)
        ),
        _loop_dimensionality,
        lambda W: torch.nan_to_num(W.square().sum(dim=1) ** 2 / (W.mT @ W).square().sum(dim=2)),
    ],
    hints=[
        "The denominator is nearly the superposition index. What is different?",
        "||W_i||^2 over the sum of all squared overlaps of W_i's direction with every W_j, itself included. Guard against a zero column.",
        "D = W.norm(dim=1)**2 / overlap.sum(-1), where overlap[i, j] = (unit_i . W_j)^2; use .clamp(min=tiny) or torch.nan_to_num for columns of zeros.",
    ],
)

# ------------------------------------------------------------------------------------------------------ polysemanticity


def polysemanticity_cases(seed: int) -> Iterable[Case]:
    exact = torch.tensor([[[1.0, 0.5, 0.25, -1.0], [-2.0, -1.0, -0.5, -0.1], [0.0, 0.0, 0.0, 0.0]]])
    yield Case({"W": weights(seed, 3, 5, 7), "threshold": 0.5})
    yield Case({"W": weights(seed + 1, 1, 6, 4), "threshold": 0.2}, note="a low threshold")
    yield Case(
        {"W": weights(seed + 2, 2, 3, 9) * 0.01, "threshold": 1.0},
        note="small weights and a threshold of 1: only the largest response counts",
    )
    counts = fact(lambda out: out.tolist() == [[2, 0, 0]], "Here the counts should be 2, 0 and 0.")
    yield Case(
        {"W": exact, "threshold": 0.5},
        note="a response of exactly half of the largest, a neuron with negative weights only, and one with none",
        truth=counts,
    )
    scales = torch.tensor([0.1, 1.0, 10.0])[None, :, None]
    yield Case({"W": weights(seed + 3, 2, 3, 8) * scales, "threshold": 0.5}, note="neurons of very different sizes")
    yield Case({"W": weights(seed + 4, 2, 3, 5, dtype=torch.bfloat16), "threshold": 0.5}, note="bfloat16 weights")
    yield Case(
        {"W": weights(seed + 6, 3, 4, 6), "threshold": 0.0}, note="a threshold of 0: every positive response counts"
    )
    yield Case({"W": weights(seed + 5, 2, 4, 8)}, note="the threshold left at its default, 0.5")
    yield Case({"W": weights(seed, 3, 5, 7), "threshold": 0.5}, drive="other_device", compare=comparing.other_device)


def _answers(response: Tensor, largest: Tensor | float, threshold: float) -> Tensor:
    return (response > 0) & (response >= threshold * largest)


POLYSEMANTICITY = Exercise(
    id="superposition.polysemanticity",
    chapter=CHAPTER,
    title="How many features does a neuron answer to?",
    points=2,
    minutes=15,
    difficulty=2,
    reference=reference.polysemanticity,
    cases=polysemanticity_cases,
    mistakes=[
        Mistake(
            "negative_weights_count",
            lambda W, t=0.5: _answers(W.abs(), W.abs().amax(dim=2, keepdim=True), t).sum(dim=2),
            "Negative weights count here. A ReLU neuron stays silent on them: apply the ReLU first.",
        ),
        Mistake(
            "absolute_threshold",
            lambda W, t=0.5: _answers(W.relu(), 1.0, t).sum(dim=2),
            "The threshold is taken as it is. It is a fraction of the neuron's own largest response.",
        ),
        Mistake(
            "largest_of_instance",
            lambda W, t=0.5: _answers(W.relu(), W.relu().amax(dim=(1, 2), keepdim=True), t).sum(dim=2),
            "Responses are compared with the largest of the whole instance. Compare each neuron with its own largest.",
        ),
        Mistake(
            "largest_of_feature",
            lambda W, t=0.5: _answers(W.relu(), W.relu().amax(dim=1, keepdim=True), t).sum(dim=2),
            "Responses are compared with the feature's largest over the neurons. Take the neuron's largest over the features.",
        ),
        Mistake(
            "dead_neurons_answer_to_all",
            lambda W, t=0.5: (W.relu() >= t * W.relu().amax(dim=2, keepdim=True)).sum(dim=2),
            "A neuron that nothing drives counts every feature here, because 0 >= 0. It should count none.",
        ),
        Mistake(
            "strictly_greater",
            lambda W, t=0.5: (W.relu() > t * W.relu().amax(dim=2, keepdim=True)).sum(dim=2),
            "A response of exactly the threshold should count: use >=.",
        ),
        Mistake(
            "counts_neurons",
            lambda W, t=0.5: _answers(W.relu(), W.relu().amax(dim=2, keepdim=True), t).sum(dim=1),
            "This counts neurons for each feature. Count features for each neuron: sum over the last axis.",
        ),
        Mistake(
            "any_positive",
            lambda W, t=0.5: (W > 0).sum(dim=2),
            "This counts every positive weight, however small. Use the threshold.",
        ),
    ],
    equivalents=[
        lambda W, t=0.5: ((t * W.amax(dim=2, keepdim=True) <= W) & (W > 0)).sum(dim=2),
        lambda W, t=0.5: torch.stack(
            [torch.stack([((row >= t * row.max()) & (row > 0)).sum() for row in instance]) for instance in W]
        ),
        lambda W, t=0.5: torch.einsum(
            "ihf->ih", _answers(W.relu(), W.relu().max(dim=-1, keepdim=True).values, t).long()
        ),
    ],
    hints=[
        "Give the model one feature at 1 and the rest at 0. What does neuron j show, if it has a ReLU?",
        "The response of neuron j to feature i is ReLU(W[j, i]). Compare it with the largest response in its own row.",
        "response = W.relu(); count (response > 0) & (response >= threshold * response.amax(dim=-1, keepdim=True)) over the last axis.",
    ],
)

# ------------------------------------------------------------------------------------------------------ strategy_losses


def strategy_cases(seed: int) -> Iterable[Case]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=dtype)

    for sparsity, importance, note in [
        (draw(5), draw(5) * 3, ""),
        (draw(4, 1), draw(1, 3) * 3, "a grid: the two arguments broadcast"),
        (
            torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64),
            torch.tensor([1.0, 1.0, 0.1], dtype=torch.float64),
            "the borders: never zero, and always zero",
        ),
        (draw(6, dtype=torch.float32), draw(6, dtype=torch.float32), "float32"),
    ]:
        yield Case(
            {"sparsity": sparsity, "importance": importance},
            note=note,
            truth=_agrees_with_quadrature(sparsity, importance),
        )
    yield Case({"sparsity": draw(4), "importance": draw(4)}, drive="other_device", compare=comparing.other_device)


def _agrees_with_quadrature(sparsity: Tensor, importance: Tensor) -> Callable[[Tensor], str | None]:
    """The three expectations by brute force, on a fine grid of both features' magnitudes."""
    p, r = torch.broadcast_tensors(1 - sparsity.double(), importance.double())
    x = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    first, second = torch.meshgrid(x, x, indexing="ij")
    both = ((first - (first - second).relu()) ** 2).mean(), ((second - (second - first).relu()) ** 2).mean()
    guess = p[..., None] / 2
    variance = p * ((x - guess) ** 2).mean(-1) + (1 - p) * guess[..., 0] ** 2
    expected = torch.stack([r * variance, variance, p**2 * (both[0] + r * both[1])])
    sentence = "Averaging the squared errors on a fine grid of both features gives other losses."
    return fact(lambda out: torch.allclose(out.double(), expected, rtol=1e-3, atol=1e-5), sentence)


def _strategies(
    keep: Callable[[Tensor], Tensor], pair: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor, Tensor], Tensor]:
    def losses(sparsity: Tensor, importance: Tensor) -> Tensor:
        p, r = torch.broadcast_tensors(1 - sparsity, importance)
        return torch.stack([r * keep(p), keep(p), pair(p, r)])

    return losses


def _variance(p: Tensor) -> Tensor:
    return p / 3 - p**2 / 4


STRATEGY_LOSSES = Exercise(
    id="superposition.strategy_losses",
    chapter=CHAPTER,
    title="When does superposition pay? The theory",
    points=3,
    minutes=30,
    difficulty=4,
    optional=True,
    reference=reference.strategy_losses,
    cases=strategy_cases,
    mistakes=[
        Mistake(
            "dropped_feature_predicted_as_zero",
            _strategies(lambda p: p / 3, lambda p, r: (1 + r) * p**2 / 6),
            "A feature that is dropped is answered with 0 here. The bias can do better: answer its mean, and the loss is its variance.",
        ),
        Mistake(
            "variance_of_active_only",
            _strategies(lambda p: p / 12, lambda p, r: (1 + r) * p**2 / 6),
            "This is the variance of a feature that is active, times p. The feature's being zero or not varies too: E[x^2] - E[x]^2 over all cases.",
        ),
        Mistake(
            "strategies_swapped",
            lambda s, i: torch.stack(
                torch.broadcast_tensors(_variance(1 - s), i * _variance(1 - s), (1 + i) * (1 - s) ** 2 / 6)
            ),
            "The first two strategies are swapped. Strategy 0 keeps the first feature, so it pays for the second, whose importance is `importance`.",
        ),
        Mistake(
            "sparsity_for_density",
            lambda s, i: _strategies(_variance, lambda p, r: (1 + r) * p**2 / 6)(1 - s, i),
            "Sparsity is used as the probability of being active. That is p = 1 - sparsity.",
        ),
        Mistake(
            "pair_loses_everything",
            _strategies(_variance, lambda p, r: (1 + r) * p**2 / 3),
            "Where both features are active the pair does not lose them altogether: the larger one still comes through in part. Each output is off by the smaller of the two.",
        ),
        Mistake(
            "pair_hurts_once",
            _strategies(_variance, lambda p, r: p**2 / 6),
            "The antipodal pair errs in both outputs. Add the second one, times its importance.",
        ),
        Mistake(
            "pair_always_interferes",
            _strategies(_variance, lambda p, r: (1 + r) * p / 6),
            "The pair errs only where both features are active, which has probability p squared.",
        ),
        Mistake(
            "product_not_minimum",
            _strategies(_variance, lambda p, r: (1 + r) * p**2 / 9),
            "Each output is off by the smaller of the two features: you need E[min(x1, x2)^2] = 1/6, not E[x1^2] E[x2^2].",
        ),
    ],
    equivalents=[
        _strategies(lambda p: p * (1 / 3 - p / 4), lambda p, r: p.square() * (r + 1) / 6),
        _strategies(lambda p: p / 12 + p * (1 - p) / 4, lambda p, r: p**2 * (1 / 6 + r / 6)),
    ],
    hints=[
        "A feature is 0 with probability 1 - p, else uniform. What are E[x], E[x^2] and its variance?",
        "Dropping a feature costs its variance (times its importance). In the antipodal pair nothing goes wrong unless both are active; then ReLU(x1 - x2) misses x1 by min(x1, x2).",
        "Variance p/3 - p^2/4. For two uniform numbers E[min^2] = 1/6, so the pair costs (1 + importance) * p^2 / 6. Stack the three with torch.stack(torch.broadcast_tensors(...)).",
    ],
)

# ----------------------------------------------------------------------------------------------- absolute_value_weights


def absolute_value_cases(seed: int) -> Iterable[Case]:
    for n_features, n_hidden, part, note in [
        (3, 6, "enough neurons", ""),
        (1, 2, "enough neurons", "a single feature"),
        (4, 11, "enough neurons", "more neurons than are needed"),
        (5, 6, "too few neurons", "neurons for the first three features only"),
        (4, 5, "too few neurons", "an odd number of neurons"),
        (3, 1, "too few neurons", "not enough neurons for any feature"),
    ]:
        yield Case(
            {"n_features": n_features, "n_hidden": n_hidden},
            part=part,
            note=note,
            compare=_same_function(seed),
        )


def _same_function(seed: int) -> comparing.Compare:
    """Weights are judged by what they compute: neurons may come in any order and at any scale."""

    def compare(expected: Any, got: Any) -> Difference | None:
        if form := close(_blank(expected), _blank(got)):
            return form
        x = 2 * torch.rand(256, len(expected[2]), generator=torch.Generator().manual_seed(seed)) - 1
        difference = close(_compute(expected, x), _compute(got, x), path="the model's output")
        if difference is None:
            return None
        row = int((_compute(expected, x) - _compute(got, x)).abs().amax(dim=1).argmax())
        shown = [
            ", ".join(f"{v:.2f}" for v in values)
            for values in (x[row], _compute(expected, x)[row], _compute(got, x)[row])
        ]
        sentence = "With your weights the model computes something else than it should."
        return Difference("value", sentence, f"({shown[1]}) for x = ({shown[0]})", f"({shown[2]})")

    return compare


def _blank(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.zeros_like(value)
    return type(value)(_blank(child) for child in value) if isinstance(value, list | tuple) else value


def _compute(parameters: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
    W_in, W_out, b = parameters
    return ((x @ W_in.T).relu() @ W_out.T + b).relu()


def hand_written(fill: Callable[[Tensor, Tensor, Tensor, int], None], neurons_each: int = 2) -> Callable:
    """A hand-writing function from one that fills in W_in, W_out and b for one feature."""

    def build(n_features: int, n_hidden: int) -> tuple[Tensor, Tensor, Tensor]:
        W_in, W_out, b = (
            torch.zeros(n_hidden, n_features),
            torch.zeros(n_features, n_hidden),
            torch.zeros(n_features),
        )
        for i in range(min(n_hidden // neurons_each, n_features)):
            fill(W_in, W_out, b, i)
        return W_in, W_out, b

    return build


def _fill(out: tuple[float, float] = (1, 1), into: tuple[float, float] = (1, -1), bias: float = 0.0) -> Callable:
    def fill(W_in: Tensor, W_out: Tensor, b: Tensor, i: int) -> None:
        W_in[2 * i : 2 * i + 2, i] = torch.tensor(into, dtype=torch.float32)
        W_out[i, 2 * i : 2 * i + 2] = torch.tensor(out, dtype=torch.float32)
        b[i] = bias

    return fill


def _fill_one(W_in: Tensor, W_out: Tensor, b: Tensor, i: int) -> None:
    W_in[i, i] = W_out[i, i] = 1


def _blocks(n_features: int, n_hidden: int) -> tuple[Tensor, Tensor, Tensor]:
    k = min(n_hidden // 2, n_features)
    W_in, W_out = torch.zeros(n_hidden, n_features), torch.zeros(n_features, n_hidden)
    W_in[:k, :k], W_in[k : 2 * k, :k] = torch.eye(k) * 2, -torch.eye(k)
    W_out[:k, :k], W_out[:k, k : 2 * k] = torch.eye(k) / 2, torch.eye(k)
    return W_in, W_out, torch.zeros(n_features)


ABSOLUTE_VALUE = Exercise(
    id="superposition.absolute_value_weights",
    chapter=CHAPTER,
    title="Compute |x| with weights written by hand",
    points=3,
    parts={"enough neurons": 2, "too few neurons": 1},
    minutes=25,
    difficulty=4,
    optional=True,
    reference=reference.absolute_value_weights,
    cases=absolute_value_cases,
    mistakes=[
        Mistake(
            "positive_part_only",
            hand_written(_fill_one, neurons_each=1),
            "Your model computes ReLU(x): the negative half is lost. |x| = ReLU(x) + ReLU(-x) needs two neurons a feature.",
        ),
        Mistake(
            "negative_part_subtracted",
            hand_written(_fill(out=(1, -1))),
            "Your model computes ReLU(x): the neuron of the negative half is read with a minus sign. Both are added.",
        ),
        Mistake(
            "both_neurons_positive",
            hand_written(_fill(into=(1, 1))),
            "Both neurons of a feature see x with the same sign, so that negative x gives 0. The second one needs -1.",
        ),
        Mistake(
            "halved",
            hand_written(_fill(out=(0.5, 0.5))),
            "Your model computes |x| / 2. For any x only one of the two neurons is active: read both with weight 1.",
        ),
        Mistake("bias_one", hand_written(_fill(bias=1.0)), "Your model computes |x| + 1: the bias should be 0."),
        Mistake(
            "negative_part_only",
            hand_written(_fill(into=(-1, -1), out=(1, 0))),
            "Your model computes ReLU(-x): the positive half is lost.",
        ),
    ],
    equivalents=[
        _blocks,
        hand_written(_fill(into=(-3, 0.5), out=(1 / 3, 2))),
    ],
    hints=[
        "A ReLU neuron passes only one sign. How do you write |x| with two ReLUs?",
        "Neurons 2i and 2i+1 belong to feature i: one sees +x_i, the other -x_i, and output i adds them. Loop over the features that still get two neurons.",
        "W_in[2*i, i] = 1, W_in[2*i + 1, i] = -1, W_out[i, 2*i] = W_out[i, 2*i + 1] = 1, for i in range(min(n_hidden // 2, n_features)); b stays 0.",
    ],
)

EXERCISES = [
    FEATURE_NORMS,
    SUPERPOSITION_INDEX,
    SPARSE_BATCH,
    TOY_MODEL,
    LOSS,
    DIMENSIONS_PER_FEATURE,
    FEATURE_DIMENSIONALITY,
    STRATEGY_LOSSES,
    CORRELATED_BATCH,
    POLYSEMANTICITY,
    ABSOLUTE_VALUE,
]
