"""The exercises of chapter 06_sae."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mechlib import sae as reference
from mechlib.checker import Case, Exercise, Mistake, Recipe, recipes
from mechlib.checker import compare as comparing
from mechlib.checker.compare import Difference, close

CHAPTER = "06_sae"

# ------------------------------------------------------------------------------------------------------ inputs to try


def draw(seed: int, *shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random numbers."""
    return (scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def draw_tokens(seed: int, batch: int, length: int, vocabulary: int = 17) -> Tensor:
    """Random tokens after the beginning-of-sequence token."""
    tokens = torch.randint(2, vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))
    tokens[:, 0] = 0
    return tokens


def fact(holds: Callable[[Any], Any], sentence: str) -> Callable[[Any], str | None]:
    """A truth for a case: the sentence, if `holds(outputs)` is false."""
    return lambda outputs: None if bool(holds(outputs)) else sentence


def random_gpt2(seed: int, **sizes: Any) -> Recipe:
    return Recipe("gpt2", {"seed": seed % 5, **sizes})


# ------------------------------------------------------------------------------------------ mean_max_cosine_similarity


def similarity_cases(seed: int) -> Iterable[Case]:
    truth, found = draw(seed, 4, 6), draw(seed + 1, 9, 6)
    copies = torch.cat([draw(seed + 2, 3, 6), 0.3 * truth.flip(0)])
    yield Case({"found": found, "true": truth})
    yield Case({"found": truth, "true": found}, note="more true features than found directions")
    yield Case(
        {"found": draw(seed + 4, 5, 5), "true": draw(seed + 3, 5, 5)}, note="as many as dimensions, on each side"
    )
    yield Case({"found": draw(seed + 6, 4, 3), "true": draw(seed + 5, 1, 3)}, note="a single true feature")
    yield Case({"found": draw(seed + 8, 1, 3), "true": draw(seed + 7, 4, 3)}, note="a single found direction")
    yield Case(
        {"found": copies, "true": truth},
        note="every true feature is there, at another length",
        truth=fact(lambda mmcs: abs(float(mmcs) - 1) < 1e-4, "Where every feature was found, the mean is 1."),
    )
    yield Case({"found": -truth[:2], "true": truth[:2]}, note="a direction that points the other way is another one")
    dead, absent = found.clone(), truth.clone()
    dead[2], absent[1] = 0, 0
    yield Case({"found": dead, "true": truth}, note="found direction 2 is zero")
    yield Case({"found": found, "true": absent}, note="true feature 1 is zero")
    yield Case({"found": torch.cat([truth[:1], 0 * truth[:1]]), "true": -truth[:1]}, note="zero against the opposite")
    yield Case({"found": draw(seed + 1, 6, 4, dtype=torch.float64), "true": draw(seed, 3, 4, dtype=torch.float64)})
    yield Case({"found": found, "true": truth}, drive="other_device", compare=comparing.other_device)


def _unit(vectors: Tensor, dim: int = -1) -> Tensor:
    return vectors / vectors.norm(dim=dim, keepdim=True).clamp(min=1e-12)


def _cosines(found: Tensor, true: Tensor) -> Tensor:
    """One row for each true feature."""
    return _unit(true) @ _unit(found).T


def _loop_similarity(found: Tensor, true: Tensor) -> Tensor:
    best = [
        torch.stack([nn.functional.cosine_similarity(feature, latent, dim=0) for latent in found]).max()
        for feature in true
    ]
    return torch.stack(best).mean()


MEAN_MAX_COSINE_SIMILARITY = Exercise(
    id="sae.mean_max_cosine_similarity",
    chapter=CHAPTER,
    title="Were the true features found?",
    points=1,
    minutes=10,
    difficulty=1,
    reference=reference.mean_max_cosine_similarity,
    cases=similarity_cases,
    mistakes=[
        Mistake(
            "best_feature_of_each_latent",
            lambda found, true: _cosines(found, true).amax(dim=0).mean(),
            "This asks of every found direction whether it is a feature. Ask of every *feature* whether it was found: the maximum runs over `found`.",
        ),
        Mistake(
            "not_normalised",
            lambda found, true: (true @ found.T).amax(dim=1).mean(),
            "These are dot products. A cosine does not depend on lengths: divide both by their norms.",
        ),
        Mistake(
            "only_true_normalised",
            lambda found, true: (_unit(true) @ found.T).amax(dim=1).mean(),
            "The found directions keep their lengths. Divide them by their norms as well.",
        ),
        Mistake(
            "only_found_normalised",
            lambda found, true: (true @ _unit(found).T).amax(dim=1).mean(),
            "The true features keep their lengths. Divide them by their norms as well.",
        ),
        Mistake(
            "other_axis",
            lambda found, true: (_unit(true, 0) @ _unit(found, 0).T).amax(dim=1).mean(),
            "Each column is divided by its length. A direction is a row: divide along the last axis, dim=-1.",
        ),
        Mistake(
            "absolute",
            lambda found, true: _cosines(found, true).abs().amax(dim=1).mean(),
            "A direction that points the other way counts as found here. It is not: leave the sign on.",
        ),
        Mistake(
            "never_negative",
            lambda found, true: _cosines(found, true).amax(dim=1).clamp(min=0).mean(),
            "A feature whose best match has a negative cosine counts as 0 here. Count it as it is: leave the sign on.",
        ),
        Mistake(
            "no_maximum",
            lambda found, true: _cosines(found, true).mean(),
            "This is the mean over all pairs. Take each feature's best match first.",
        ),
        Mistake(
            "no_mean",
            lambda found, true: _cosines(found, true).amax(dim=1),
            "This is one number for each true feature: take their mean.",
        ),
        Mistake(
            "best_of_all",
            lambda found, true: _cosines(found, true).max(),
            "This is the best match of all. Every feature counts: the maximum for each, then the mean.",
        ),
        Mistake(
            "same_place",
            lambda found, true: (
                nn.functional.cosine_similarity(true, found, dim=-1).mean()
                if true.shape == found.shape or 1 in (len(true), len(found))
                else torch.tensor(float("nan"))
            ),
            "This compares feature i with found direction i. Which latent finds which feature is not known: compare all pairs.",
        ),
        Mistake(
            "nan_for_zero",
            lambda found, true: (
                ((true / true.norm(dim=1, keepdim=True)) @ (found / found.norm(dim=1, keepdim=True)).T)
                .amax(dim=1)
                .mean()
            ),
            "A zero vector divided by its norm is NaN. Its cosine with anything counts as 0.",
        ),
    ],
    equivalents=[
        lambda found, true: _cosines(found, true).max(dim=1).values.mean(),
        lambda found, true: nn.functional.cosine_similarity(true[:, None], found[None], dim=-1).amax(-1).mean(),
        _loop_similarity,
    ],
    hints=[
        "Make the matrix of all cosines first: one row for each true feature, one column for each found direction.",
        "nn.functional.normalize(x, dim=-1) gives unit rows (and leaves zero rows at zero). Multiply, take the maximum of each row, then the mean.",
        "(normalize(true, dim=-1) @ normalize(found, dim=-1).T).amax(dim=1).mean()",
    ],
)

# ----------------------------------------------------------------------------------------------------------------- SAE


def _encode(p: Any, x: Tensor) -> Tensor:
    return ((x - p.b_dec) @ p.W_enc + p.b_enc).relu()


def _decode(p: Any, codes: Tensor) -> Tensor:
    return codes @ p.W_dec + p.b_dec


def _start(p: Any, d_in: int, d_sae: int) -> None:
    """The start that the exercise asks for."""
    W_dec = _unit(torch.randn(d_sae, d_in))
    p.W_enc, p.b_enc = nn.Parameter(W_dec.T.contiguous().clone()), nn.Parameter(torch.zeros(d_sae))
    p.W_dec, p.b_dec = nn.Parameter(W_dec), nn.Parameter(torch.zeros(d_in))


def autoencoder(
    encode: Callable[..., Tensor] = _encode,
    decode: Callable[..., Tensor] = _decode,
    start: Callable[..., None] = _start,
    forward: Callable[..., Any] | None = None,
) -> type[nn.Module]:
    """A class from the functions that are its methods."""

    class Autoencoder(nn.Module):
        def __init__(self, d_in: int, d_sae: int):
            super().__init__()
            start(self, d_in, d_sae)

        def encode(self, x: Tensor) -> Tensor:
            return encode(self, x)

        def decode(self, codes: Tensor) -> Tensor:
            return decode(self, codes)

        def forward(self, x: Tensor) -> Any:
            return forward(self, x) if forward else self.decode(self.encode(x))

    return Autoencoder


def _started(change: Callable[[Any], Any]) -> Callable[..., None]:
    """The right start, changed."""

    def start(p: Any, d_in: int, d_sae: int) -> None:
        _start(p, d_in, d_sae)
        with torch.no_grad():
            change(p)

    return start


def _shared(p: Any, d_in: int, d_sae: int) -> None:
    _start(p, d_in, d_sae)
    p.W_enc = nn.Parameter(p.W_dec.detach().T)


def _one_orthant(p: nn.Module, d_in: int, d_sae: int) -> None:
    _start(p, d_in, d_sae)
    p.W_dec = nn.Parameter(_unit(torch.rand(d_sae, d_in)))
    p.W_enc = nn.Parameter(p.W_dec.detach().T.clone())


def sae_cases(seed: int) -> Iterable[Case]:
    for d_in, d_sae in [(5, 8), (6, 3), (4, 4), (12, 200)]:
        yield Case({"d_in": d_in, "d_sae": d_sae}, drive="construct", part="parameters", compare=_same_start)
    for k, (lead, d_in, d_sae, note) in enumerate(
        [
            ((7,), 5, 8, ""),
            ((1,), 4, 6, "a batch of one"),
            ((2, 3), 5, 4, "two axes before the last, and fewer latents than dimensions"),
            ((4,), 4, 4, "as many latents as dimensions, and as examples"),
        ]
    ):
        parameters = {
            name: draw(seed + 10 * k + i, *shape)
            for i, (name, shape) in enumerate(
                {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}.items()
            )
        }
        inputs = {"arguments": {"d_in": d_in, "d_sae": d_sae}, "parameters": parameters}
        x, codes = draw(seed + 7 + k, *lead, d_in), draw(seed + 8 + k, *lead, d_sae).relu()
        for method, value in (("encode", x), ("decode", codes)):
            settings = {"method": method}
            yield Case({**inputs, "x": value}, drive="module", settings=settings, part=method, note=note)
        yield Case({**inputs, "x": x}, drive="module", part="forward", note=note)


def _same_start(expected: Any, got: Any) -> Difference | None:
    """Same parameters by name, shape and dtype, and the start that was asked for."""
    names = sorted(expected)
    if sorted(got) != names:
        sentence = f"The class should have the parameters {names} (nn.Parameter); yours has {sorted(got) or 'none'}."
        return Difference("structure", sentence)
    for name in names:
        if difference := close(torch.zeros_like(expected[name]), torch.zeros_like(got[name]), path=name):
            return difference
    theirs = _start_properties(got)
    sentences = [sentence for sentence, holds in _start_properties(expected).items() if theirs[sentence] != holds]
    return Difference("value", sentences[0]) if sentences else None


def _start_properties(parameters: dict[str, Tensor]) -> dict[str, bool]:
    """What a start should be like -> whether it is."""
    W_enc, W_dec = parameters["W_enc"], parameters["W_dec"]
    lengths = W_dec.norm(dim=1)
    lean = len(W_dec) * W_dec.mean(dim=0).square().sum()  # about 1; the number of rows if all are the same
    return {
        "b_enc should start at zero.": not parameters["b_enc"].any(),
        "b_dec should start at zero.": not parameters["b_dec"].any(),
        "W_dec should start at finite numbers.": bool(W_dec.isfinite().all()),
        "The rows of W_dec should start with length 1: divide each by its norm, along the last axis.": torch.allclose(
            lengths, torch.ones_like(lengths), atol=1e-4
        ),
        "The rows of W_dec should start in random directions; two of yours are the same.": bool(
            (_cosines(W_dec, W_dec) - torch.eye(len(W_dec)) < 0.9999).all()
        ),
        "The rows of W_dec should start in directions all around; yours lean to one side. Draw with torch.randn: torch.rand is never negative.": bool(
            lean < 8
        ),
        "W_enc should start as W_dec turned over: column i of W_enc is row i of W_dec.": torch.allclose(
            W_enc, W_dec.T, atol=1e-4
        ),
    }


SAE = Exercise(
    id="sae.SAE",
    chapter=CHAPTER,
    title="A sparse autoencoder",
    points=4,
    parts={"parameters": 1, "encode": 1, "decode": 1, "forward": 1},
    minutes=20,
    difficulty=2,
    reference=reference.SAE,
    cases=sae_cases,
    mistakes=[
        Mistake(
            "no_relu",
            autoencoder(lambda p, x: (x - p.b_dec) @ p.W_enc + p.b_enc),
            "The ReLU is missing in `encode`: a feature is there or not, never negative.",
        ),
        Mistake(
            "bias_not_subtracted",
            autoencoder(lambda p, x: (x @ p.W_enc + p.b_enc).relu()),
            "`encode` forgets b_dec. Take it away first: features are read off what is left when the usual vector is gone.",
        ),
        Mistake(
            "bias_added",
            autoencoder(lambda p, x: ((x + p.b_dec) @ p.W_enc + p.b_enc).relu()),
            "`encode` adds b_dec. Subtract it; `decode` adds it back.",
        ),
        Mistake(
            "no_encoder_bias",
            autoencoder(lambda p, x: ((x - p.b_dec) @ p.W_enc).relu()),
            "`encode` forgets b_enc: add it before the ReLU.",
        ),
        Mistake(
            "encoder_bias_subtracted",
            autoencoder(lambda p, x: ((x - p.b_dec) @ p.W_enc - p.b_enc).relu()),
            "`encode` subtracts b_enc. Add it; only b_dec is taken away.",
        ),
        Mistake(
            "bias_after_relu",
            autoencoder(lambda p, x: ((x - p.b_dec) @ p.W_enc).relu() + p.b_enc),
            "b_enc is added after the ReLU. Add it before: only then can it keep a latent silent.",
        ),
        Mistake(
            "tied_encoder",
            autoencoder(lambda p, x: ((x - p.b_dec) @ p.W_dec.T + p.b_enc).relu()),
            "`encode` reads with the decoder's directions. They only start equal: read with W_enc.",
        ),
        Mistake(
            "no_decoder_bias",
            autoencoder(decode=lambda p, codes: codes @ p.W_dec),
            "`decode` forgets b_dec: add it back.",
        ),
        Mistake(
            "decoder_bias_subtracted",
            autoencoder(decode=lambda p, codes: codes @ p.W_dec - p.b_dec),
            "`decode` subtracts b_dec. Add it back.",
        ),
        Mistake(
            "tied_decoder",
            autoencoder(decode=lambda p, codes: codes @ p.W_enc.T + p.b_dec),
            "`decode` writes with the encoder's directions. They only start equal: write with W_dec.",
        ),
        Mistake(
            "normalised_in_decode",
            autoencoder(decode=lambda p, codes: codes @ _unit(p.W_dec) + p.b_dec),
            "`decode` divides the rows of W_dec by their lengths. Use W_dec as it is; what keeps its rows at length 1 comes later.",
        ),
        Mistake(
            "relu_in_decode",
            autoencoder(decode=lambda p, codes: (codes @ p.W_dec + p.b_dec).relu()),
            "`decode` ends in a ReLU, but an activation vector may be negative.",
        ),
        Mistake(
            "decoder_start_not_normalised",
            autoencoder(start=_started(lambda p: (p.W_dec.mul_(3), p.W_enc.mul_(3)))),
            "The rows of W_dec should start with length 1: divide each by its norm, along the last axis.",
        ),
        Mistake(
            "encoder_start_of_its_own",
            autoencoder(start=_started(lambda p: p.W_enc.copy_(torch.randn_like(p.W_enc)))),
            "W_enc should start as W_dec turned over: column i of W_enc is row i of W_dec.",
        ),
        Mistake(
            "one_orthant",
            autoencoder(start=_one_orthant),
            "The rows of W_dec should start in directions all around; yours lean to one side. Draw with torch.randn: torch.rand is never negative.",
        ),
        Mistake(
            "shared_memory",
            autoencoder(start=_shared),
            "W_enc and W_dec share their memory here, so whatever one learns overwrites the other. Make W_enc from a copy: W_dec.T.clone().",
        ),
        Mistake(
            "forward_gives_codes",
            autoencoder(forward=lambda p, x: p.encode(x)),
            "`forward` returns the codes. Return the reconstruction, decode(encode(x)).",
        ),
        Mistake(
            "detached",
            autoencoder(decode=lambda p, codes: codes @ p.W_dec.detach() + p.b_dec),
            "The result is right, but no gradient reaches W_dec, so it would never learn: leave .detach() and .data out.",
        ),
    ],
    equivalents=[
        autoencoder(lambda p, x: torch.relu(torch.einsum("...d,dw->...w", x - p.b_dec, p.W_enc) + p.b_enc)),
        autoencoder(
            lambda p, x: nn.functional.linear(x - p.b_dec, p.W_enc.T, p.b_enc).clamp(min=0),
            lambda p, codes: nn.functional.linear(codes, p.W_dec.T, p.b_dec),
        ),
        autoencoder(forward=lambda p, x: _decode(p, _encode(p, x))),
    ],
    hints=[
        "Write the shapes down: x (..., d_in), W_enc (d_in, d_sae), codes (..., d_sae), W_dec (d_sae, d_in). Matrix products with @ keep the leading axes.",
        "Encode: take b_dec away, multiply with W_enc, add b_enc, ReLU. Decode: multiply with W_dec, add b_dec.",
        "self.W_dec = nn.Parameter(normalize(torch.randn(d_sae, d_in), dim=-1)); self.W_enc = nn.Parameter(self.W_dec.detach().T.clone()).",
    ],
)

# -------------------------------------------------------------------------------------------------------- relu_l1_loss


def loss_cases(seed: int) -> Iterable[Case]:
    for k, (batch, d_in, d_sae, l1, dtype, note) in enumerate(
        [
            (7, 5, 8, 0.3, torch.float32, ""),
            (1, 4, 6, 2.0, torch.float32, "a batch of one"),
            (4, 6, 4, 0.5, torch.float64, "float64, as many examples as latents"),
            (5, 3, 9, 0.0, torch.float32, "no penalty"),
        ]
    ):
        x = draw(seed + k, batch, d_in, dtype=dtype)
        codes = draw(seed + 20 + k, batch, d_sae, scale=3.0, dtype=dtype).relu()
        inputs = {"x": x, "reconstruction": draw(seed + 10 + k, batch, d_in, scale=2.0, dtype=dtype)}
        for wrt in ("reconstruction", "codes"):
            if wrt == "codes" and not l1:
                continue  # no gradient to compare
            yield Case({**inputs, "codes": codes + 0.1, "l1": l1}, drive="gradient", settings={"wrt": wrt}, note=note)
        yield Case({**inputs, "codes": codes, "l1": l1}, note=note or "many codes are 0")
    exact = draw(seed, 3, 4)
    yield Case(
        {"x": exact, "reconstruction": exact.clone(), "codes": torch.ones(3, 5), "l1": 0.5},
        note="a perfect reconstruction",
        truth=fact(lambda loss: abs(float(loss) - 2.5) < 1e-5, "Five codes of 1 at a price of 0.5 cost 2.5."),
    )
    yield Case(
        {"x": exact, "reconstruction": draw(seed + 1, 3, 4), "codes": torch.ones(3, 5), "l1": 0.5},
        drive="other_device",
        compare=comparing.other_device,
    )


def _squares(x: Tensor, reconstruction: Tensor) -> Tensor:
    return (x - reconstruction).square().sum(dim=-1)


RELU_L1_LOSS = Exercise(
    id="sae.relu_l1_loss",
    chapter=CHAPTER,
    title="What training minimises",
    points=2,
    minutes=10,
    difficulty=2,
    reference=reference.relu_l1_loss,
    cases=loss_cases,
    mistakes=[
        Mistake(
            "mean_over_dimensions",
            lambda x, reconstruction, codes, l1: (x - reconstruction).square().mean() + l1 * codes.sum(dim=-1).mean(),
            "The squared error is averaged over the dimensions. Sum over them, and average over the examples only.",
        ),
        Mistake(
            "mean_over_latents",
            lambda x, reconstruction, codes, l1: _squares(x, reconstruction).mean() + l1 * codes.mean(),
            "The codes are averaged over the latents, so a wider SAE would pay less for the same codes. Sum over them.",
        ),
        Mistake(
            "both_means",
            lambda x, reconstruction, codes, l1: (x - reconstruction).square().mean() + l1 * codes.mean(),
            "Both parts are averaged over their last axis. Sum over dimensions and latents, and average over the examples only.",
        ),
        Mistake(
            "sum_over_the_batch",
            lambda x, reconstruction, codes, l1: _squares(x, reconstruction).sum() + l1 * codes.sum(),
            "This sums over the examples, so the loss grows with the batch. Take their mean.",
        ),
        Mistake(
            "one_part_not_averaged",
            lambda x, reconstruction, codes, l1: _squares(x, reconstruction).mean() + l1 * codes.sum(),
            "The penalty is summed over the examples, and the error averaged. Average both.",
        ),
        Mistake(
            "other_part_not_averaged",
            lambda x, reconstruction, codes, l1: _squares(x, reconstruction).sum() + l1 * codes.sum(dim=-1).mean(),
            "The error is summed over the examples, and the penalty averaged. Average both.",
        ),
        Mistake(
            "half_the_error",
            lambda x, reconstruction, codes, l1: (
                0.5 * _squares(x, reconstruction).mean() + l1 * codes.sum(dim=-1).mean()
            ),
            "The squared error is halved. Take the whole of it.",
        ),
        Mistake(
            "axes_swapped",
            lambda x, reconstruction, codes, l1: (
                (x - reconstruction).square().sum(dim=0).mean() + l1 * codes.sum(dim=0).mean()
            ),
            "This sums over the examples and averages over the last axis. It is the other way around: sum along the last axis, average over the examples.",
        ),
        Mistake(
            "one_an_example",
            lambda x, reconstruction, codes, l1: _squares(x, reconstruction) + l1 * codes.sum(dim=-1),
            "This is one loss for each example: take their mean.",
        ),
        Mistake(
            "not_squared",
            lambda x, reconstruction, codes, l1: (
                (x - reconstruction).norm(dim=-1).mean() + l1 * codes.sum(dim=-1).mean()
            ),
            "This is the length of the error. Take its square.",
        ),
        Mistake(
            "absolute_error",
            lambda x, reconstruction, codes, l1: (
                (x - reconstruction).abs().sum(dim=-1).mean() + l1 * codes.sum(dim=-1).mean()
            ),
            "The errors are taken as absolute values. Square them.",
        ),
        Mistake(
            "squared_codes",
            lambda x, reconstruction, codes, l1: (
                _squares(x, reconstruction).mean() + l1 * codes.square().sum(dim=-1).mean()
            ),
            "The codes are squared. A squared penalty makes them small, but hardly ever 0: take the values themselves.",
        ),
        Mistake(
            "counted_latents",
            lambda x, reconstruction, codes, l1: (
                _squares(x, reconstruction).mean() + l1 * (codes > 0).sum(dim=-1).to(x.dtype).mean()
            ),
            "This counts the active latents, and a count has no gradient. Add their values.",
        ),
        Mistake(
            "codes_detached",
            lambda x, reconstruction, codes, l1: (_squares(x, reconstruction) + l1 * codes.detach().sum(dim=-1)).mean(),
            "The number is right, but no gradient reaches the codes, so the price would change nothing: leave .detach() and .data out.",
        ),
        Mistake(
            "no_price",
            lambda x, reconstruction, codes, l1: _squares(x, reconstruction).mean() + codes.sum(dim=-1).mean(),
            "l1 is not used: multiply the sum of the codes by it.",
        ),
        Mistake(
            "price_of_everything",
            lambda x, reconstruction, codes, l1: l1 * (_squares(x, reconstruction) + codes.sum(dim=-1)).mean(),
            "l1 multiplies the error as well. It is the price of the codes alone.",
        ),
        Mistake(
            "no_penalty",
            lambda x, reconstruction, codes, l1: _squares(x, reconstruction).mean() + 0.0 * codes.sum(),
            "This is the error alone. Add l1 times the sum of the codes.",
        ),
        Mistake(
            "no_error",
            lambda x, reconstruction, codes, l1: l1 * codes.sum(dim=-1).mean(),
            "The reconstruction's error is missing.",
        ),
    ],
    equivalents=[
        lambda x, reconstruction, codes, l1: (_squares(x, reconstruction) + l1 * codes.abs().sum(-1)).mean(),
        lambda x, reconstruction, codes, l1: (
            ((x - reconstruction).norm(dim=-1) ** 2).mean() + l1 * codes.norm(p=1, dim=-1).mean()
        ),
        lambda x, reconstruction, codes, l1: (
            (nn.functional.mse_loss(reconstruction, x, reduction="sum") + l1 * codes.sum()) / len(x)
        ),
    ],
    hints=[
        "Two numbers for each example: how far the reconstruction is off, squared and summed; and how much is on, summed.",
        "Add the two, the second times l1, and take the mean over the examples. `mse_loss` would average over the dimensions too.",
        "((x - reconstruction) ** 2).sum(dim=-1) + l1 * codes.sum(dim=-1), then .mean().",
    ],
)

# --------------------------------------------------------------------------------------------- remove_parallel_gradient


def parallel_cases(seed: int) -> Iterable[Case]:
    def case(W_dec: Tensor, gradient: Tensor, note: str = "") -> Case:
        def orthogonal(result: Tensor) -> bool:
            size = (W_dec.double().norm(dim=1) * gradient.double().norm(dim=1)).clamp(min=1e-9)
            return bool((((result.double() * W_dec.double()).sum(dim=1) / size).abs() < 3e-2).all())

        truth = fact(orthogonal, "What is left should be at right angles to each row of W_dec.")
        return Case({"W_dec": W_dec, "gradient": gradient}, note=note, truth=truth)

    yield case(draw(seed, 6, 4), draw(seed + 1, 6, 4))
    yield case(_unit(draw(seed + 2, 3, 5)), draw(seed + 3, 3, 5), "rows of length 1")
    yield case(draw(seed + 4, 4, 4), draw(seed + 5, 4, 4), "as many latents as dimensions")
    yield case(draw(seed + 6, 1, 3), draw(seed + 7, 1, 3), "a single latent")
    yield case(draw(seed + 8, 5, 3, dtype=torch.float64), draw(seed + 9, 5, 3, dtype=torch.float64), "float64")
    tiny, still = draw(seed + 11, 4, 3), draw(seed + 12, 4, 3)
    still[1] = 0
    tiny[0] *= 1e-4
    yield case(draw(seed + 14, 4, 3), still, "row 1 of the gradient is zero")
    yield case(tiny, draw(seed + 15, 4, 3), "row 0 of W_dec is very short")
    yield case(draw(seed + 16, 2, 6), 3 * draw(seed + 16, 2, 6), "a gradient along the rows: nothing is left")
    yield Case(
        {"W_dec": draw(seed, 6, 4), "gradient": draw(seed + 1, 6, 4)},
        drive="other_device",
        compare=comparing.other_device,
    )


def _dots(a: Tensor, b: Tensor, dim: int = 1) -> Tensor:
    return (a * b).sum(dim=dim, keepdim=True)


def _in_place(W_dec: Tensor, gradient: Tensor) -> Tensor:
    gradient -= _dots(gradient, W_dec) / _dots(W_dec, W_dec) * W_dec
    return gradient


def _loop_parallel(W_dec: Tensor, gradient: Tensor) -> Tensor:
    rows = []
    for row, grad in zip(W_dec, gradient, strict=True):
        rows.append(grad - (grad @ row) / (row @ row) * row)
    return torch.stack(rows)


REMOVE_PARALLEL_GRADIENT = Exercise(
    id="sae.remove_parallel_gradient",
    chapter=CHAPTER,
    title="Turn, but do not grow",
    points=2,
    minutes=15,
    difficulty=2,
    reference=reference.remove_parallel_gradient,
    cases=parallel_cases,
    mistakes=[
        Mistake(
            "columns",
            lambda W_dec, gradient: gradient - _dots(gradient, W_dec, 0) / _dots(W_dec, W_dec, 0) * W_dec,
            "This works on the columns of W_dec. A latent's direction is a row: sum along the last axis.",
        ),
        Mistake(
            "not_normalised",
            lambda W_dec, gradient: gradient - _dots(gradient, W_dec) * W_dec,
            "This is right only where a row has length 1. Divide by the row's squared length.",
        ),
        Mistake(
            "normalised_once",
            lambda W_dec, gradient: gradient - _dots(gradient, W_dec) / _dots(W_dec, W_dec).sqrt() * W_dec,
            "Here the row is divided by its length once. It stands in the projection twice: divide by the squared length.",
        ),
        Mistake(
            "cosine",
            lambda W_dec, gradient: gradient - _dots(_unit(gradient), _unit(W_dec)) * _unit(W_dec),
            "The gradient is divided by its length, so this takes away a cosine and not the part along the row. Only the row becomes a unit vector.",
        ),
        Mistake(
            "parallel_part",
            lambda W_dec, gradient: _dots(gradient, W_dec) / _dots(W_dec, W_dec) * W_dec,
            "This is the part along the row. Return what is left without it.",
        ),
        Mistake(
            "not_summed",
            lambda W_dec, gradient: gradient - gradient * _unit(W_dec) ** 2,
            "The products of gradient and row are not added up. The part along a row is *one* number for the row: sum them, keepdim=True.",
        ),
        Mistake(
            "added",
            lambda W_dec, gradient: gradient + _dots(gradient, W_dec) / _dots(W_dec, W_dec) * W_dec,
            "The part along the row is added. Take it away.",
        ),
        Mistake(
            "roles_swapped",
            lambda W_dec, gradient: W_dec - _dots(gradient, W_dec) / _dots(gradient, gradient) * gradient,
            "This takes the gradient's direction out of W_dec. Take the row's direction out of the gradient.",
        ),
        Mistake(
            "outward_only",
            lambda W_dec, gradient: gradient - _dots(gradient, W_dec).clamp(min=0) / _dots(W_dec, W_dec) * W_dec,
            "Only a part that points the row's own way is taken away. A part that points against it has to go as well.",
        ),
        Mistake(
            "whole_matrix",
            lambda W_dec, gradient: gradient - (gradient * W_dec).sum() / W_dec.square().sum() * W_dec,
            "This projects the whole matrix at once, so one row's gradient moves another row. Treat each row by itself.",
        ),
        Mistake(
            "length_kept",
            lambda W_dec, gradient: (
                _unit(gradient - _dots(gradient, W_dec) / _dots(W_dec, W_dec) * W_dec)
                * gradient.norm(dim=1, keepdim=True)
            ),
            "What is left is stretched to the gradient's old length. Leave it as it is: a gradient along the row should become 0.",
        ),
        Mistake(
            "length_one",
            lambda W_dec, gradient: _unit(gradient - _dots(gradient, W_dec) / _dots(W_dec, W_dec) * W_dec),
            "What is left is divided by its length. It is a gradient: leave it as large as it is.",
        ),
        Mistake(
            "in_place",
            _in_place,
            "The gradient that came in is changed in place. Return a new tensor.",
        ),
    ],
    equivalents=[
        lambda W_dec, gradient: gradient - _dots(gradient, _unit(W_dec)) * _unit(W_dec),
        lambda W_dec, gradient: gradient - torch.einsum("wd,wd,we->we", gradient, _unit(W_dec), _unit(W_dec)),
        _loop_parallel,
    ],
    hints=[
        "Take one row: which part of its gradient makes the row longer or shorter, and nothing else?",
        "The unit row u; the part along it is (gradient . u) u.",
        "unit = nn.functional.normalize(W_dec, dim=-1); gradient - (gradient * unit).sum(dim=-1, keepdim=True) * unit",
    ],
)

# -------------------------------------------------------------------------------------------------------- resample_dead

Weights = tuple[Tensor, Tensor, Tensor]


def dead_cases(seed: int) -> Iterable[Case]:
    def inputs(d_in: int, d_sae: int, batch: int, dead: list[int], k: int = 0) -> dict[str, Any]:
        return {
            "W_enc": draw(seed + k, d_in, d_sae),
            "b_enc": draw(seed + k + 1, d_sae),
            "W_dec": draw(seed + k + 2, d_sae, d_in),
            "b_dec": draw(seed + k + 3, d_in),
            "dead": torch.isin(torch.arange(d_sae), torch.tensor(dead)),
            "x": draw(seed + k + 4, batch, d_in, scale=2.0),
            "losses": draw(seed + k + 5, batch).abs() + 0.1,
            "generator": Recipe("generator", {"seed": seed + k}),
        }

    def one_bad(given: dict[str, Any], row: int) -> dict[str, Any]:
        losses = torch.zeros_like(given["losses"])
        losses[row] = 0.7
        return {**given, "losses": losses}

    yield Case(one_bad(inputs(5, 8, 6, [1, 4, 5]), 2), note="a single example has a loss, so it must be drawn")
    yield Case(one_bad(inputs(4, 4, 4, [0], 30), 3), note="as many latents as dimensions and examples")
    yield Case(one_bad(inputs(6, 3, 2, [0, 2], 60), 0), note="fewer latents than dimensions")
    yield Case(inputs(5, 6, 7, [], 90), note="no latent is dead: nothing changes")
    yield Case(one_bad(inputs(3, 9, 1, [8], 120), 0), note="a batch of one")
    # Which examples are drawn: many dead latents, so that the shares can be counted.
    many = inputs(4, 3002, 3, list(range(2, 3002)), 150)
    many["losses"] = torch.tensor([1.0, 2.0, 3.0])
    yield Case(many, note="examples with losses 1, 2 and 3", compare=_same_shares(many))
    many = inputs(4, 3005, 5, list(range(3000)), 180)
    many["losses"] = torch.tensor([0.0, 0.1, 0.3, 0.2, 0.25])
    yield Case(many, note="losses below 1, one of them 0", compare=_same_shares(many))
    yield Case(inputs(4, 40, 30, list(range(30)), 210), drive="draw", compare=_repeats, note="called twice")


def _same_shares(given: dict[str, Any]) -> comparing.Compare:
    """Compares what was drawn by how often each example was: six standard errors of a share at most."""

    def drawn(result: Any) -> Tensor:
        directions = _unit(given["x"] - given["b_dec"])
        return (_cosines(directions, result[2][given["dead"]]) > 0.999).double()  # one row for each dead latent

    def alive(result: Any) -> list[Tensor]:
        keep = ~given["dead"]
        return [result[0][:, keep], result[1], result[2][keep], result[0].norm(dim=0), result[2].norm(dim=1)]

    def compare(expected: Any, got: Any) -> Difference | None:
        forms = [[torch.zeros_like(t) for t in result] for result in _tensors(expected, got)]
        if form := close(forms[0], forms[1]):
            return form
        if difference := close(alive(expected), alive(got)):
            return difference
        ours, theirs = drawn(expected), drawn(got)
        unknown = bool((theirs.sum(dim=1) != 1).any())
        if unknown != bool((ours.sum(dim=1) != 1).any()):
            return Difference("value", "Some new rows of W_dec point along no example less b_dec.")
        error = (ours.mean(0) * (1 - ours.mean(0)) / len(ours) * 2).sqrt().clamp(min=1e-6)
        if (((ours.mean(0) - theirs.mean(0)).abs() / error) > 6).any():
            shares = [", ".join(f"{share:.2f}" for share in mean.mean(0)) for mean in (ours, theirs)]
            sentence = "The examples are not drawn as often as their squared losses ask for."
            return Difference("statistic", sentence, f"shares {shares[0]}", f"shares {shares[1]}")
        return None

    return compare


def _repeats(expected: Any, got: Any) -> Difference | None:
    if got["repeats"] == expected["repeats"]:
        return None
    return Difference("statistic", "Two calls with generators in the same state should draw the same examples.")


def _without_replacement(weights: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """The first example goes to all latents for which none is left."""
    rows = torch.multinomial(weights, min(n, len(weights)), generator=generator)
    return torch.cat([rows, rows.new_zeros(n - len(rows))])


def _tensors(*results: Any) -> list[list[Tensor]]:
    """The results as lists of tensors, or empty ones where they are something else."""
    return [list(r) if isinstance(r, list | tuple) and all(isinstance(t, Tensor) for t in r) else [] for r in results]


def resampler(
    power: float = 2.0,
    bias: bool = True,
    unit: bool = True,
    scale: float = 0.2,
    mean_of: Callable[[Tensor, Tensor], Tensor] = lambda norms, dead: norms[~dead].mean(),
    reset_bias: Callable[[Tensor], Tensor] | None = lambda dead: dead,
    sign: int = 1,
    direction: Callable[[Tensor, Tensor], Tensor] | None = None,
    length: Callable[[Tensor], Tensor] | None = None,
    which: Callable[[Tensor], Tensor] = lambda dead: dead,
    pick: Callable[..., Tensor] = lambda weights, n, generator: torch.multinomial(
        weights, n, True, generator=generator
    ),
    encoder: bool = True,
) -> Callable[..., Weights]:
    """A resampling function with some of its parts done in another way."""

    def resample(W_enc, b_enc, W_dec, b_dec, dead, x, losses, generator=None):
        W_enc, b_enc, W_dec = W_enc.clone(), b_enc.clone(), W_dec.clone()
        chosen = which(dead)
        n = int(chosen.sum())
        if n == 0:
            return W_enc, b_enc, W_dec
        weights = losses**power if power else torch.ones_like(losses)
        rows = pick(weights, n, generator)
        new = sign * (x - b_dec if bias else x)[rows].expand(n, -1)
        new = _unit(new) if unit else new
        new = direction(x, b_dec)[rows] if direction else new
        norm = length(W_enc[:, ~dead]) if length else mean_of(W_enc.norm(dim=0), dead)
        W_dec[chosen] = new
        if encoder:
            W_enc[:, chosen] = (scale * norm * _unit(new)).T
        if reset_bias:
            b_enc[reset_bias(dead)] = 0
        return W_enc, b_enc, W_dec

    return resample


def _loop_resample(W_enc, b_enc, W_dec, b_dec, dead, x, losses, generator=None):
    W_enc, b_enc, W_dec = W_enc.clone(), b_enc.clone(), W_dec.clone()
    norm = W_enc[:, ~dead].norm(dim=0).mean()
    for latent in dead.nonzero()[:, 0].tolist():
        row = torch.multinomial(losses.square() / losses.square().sum(), 1, generator=generator)
        direction = _unit((x - b_dec)[row][0])
        W_dec[latent], W_enc[:, latent], b_enc[latent] = direction, 0.2 * norm * direction, 0.0
    return W_enc, b_enc, W_dec


def _where_resample(W_enc, b_enc, W_dec, b_dec, dead, x, losses, generator=None):
    edges = losses.double().square().cumsum(0)
    points = torch.rand(len(dead), generator=generator, dtype=torch.float64) * edges[-1]
    rows = torch.searchsorted(edges, points, right=True)
    new = _unit(x - b_dec)[rows]
    size = 0.2 * W_enc.norm(dim=0)[~dead].mean()
    return (
        torch.where(dead, size * new.T, W_enc),
        b_enc.masked_fill(dead, 0),
        torch.where(dead[:, None], new, W_dec),
    )


def _resample_in_place(W_enc, b_enc, W_dec, b_dec, dead, x, losses, generator=None):
    new = resampler()(W_enc, b_enc, W_dec, b_dec, dead, x, losses, generator)
    for old, value in zip((W_enc, b_enc, W_dec), new, strict=True):
        old.copy_(value)
    return W_enc, b_enc, W_dec


RESAMPLE_DEAD = Exercise(
    id="sae.resample_dead",
    chapter=CHAPTER,
    title="Wake the dead",
    points=3,
    minutes=30,
    difficulty=4,
    optional=True,
    reference=reference.resample_dead,
    cases=dead_cases,
    mistakes=[
        Mistake(
            "not_squared",
            resampler(power=1.0),
            "Examples are drawn in proportion to their losses. Square the losses: the badly explained examples are the ones that need a latent.",
        ),
        Mistake(
            "uniform",
            resampler(power=0.0),
            "Every example is drawn equally often. Draw in proportion to the squared losses.",
        ),
        Mistake(
            "bias_kept",
            resampler(bias=False),
            "The new direction is the example itself. Take b_dec away first: a latent writes on top of it.",
        ),
        Mistake(
            "turned_around",
            resampler(sign=-1),
            "The new direction leads from the example to b_dec. Turn it around: x - b_dec.",
        ),
        Mistake(
            "not_normalised",
            resampler(unit=False),
            "The new rows of W_dec keep the example's length. Divide by it.",
        ),
        Mistake(
            "normalised_too_early",
            resampler(direction=lambda x, b_dec: _unit(x) - b_dec),
            "The example is divided by its length before b_dec is taken away. Subtract first, then divide.",
        ),
        Mistake(
            "length_of_rows",
            resampler(length=lambda alive: alive.norm(dim=1).mean()),
            "The mean length runs over the rows of W_enc. A latent reads with a column: norm(dim=0).",
        ),
        Mistake(
            "length_of_the_mean",
            resampler(length=lambda alive: alive.mean(dim=1).norm()),
            "This is the length of the mean column. Take the length of each column first, then the mean of the lengths.",
        ),
        Mistake(
            "encoder_too_long",
            resampler(scale=1.0),
            "The new encoder columns are as long as the others are on average. Multiply by 0.2, so that a new latent begins quietly.",
        ),
        Mistake(
            "encoder_length_fixed",
            resampler(mean_of=lambda norms, dead: torch.ones(())),
            "The new encoder columns have length 0.2. The length is 0.2 times the mean length of the columns that are alive.",
        ),
        Mistake(
            "mean_of_all",
            resampler(mean_of=lambda norms, dead: norms.mean()),
            "The mean length runs over the dead columns as well. Only those that are alive say how long a column should be.",
        ),
        Mistake(
            "encoder_left",
            resampler(encoder=False),
            "W_enc is as before, so the latent never fires and stays dead. Give it the new direction too.",
        ),
        Mistake(
            "bias_left",
            resampler(reset_bias=None),
            "b_enc of the dead latents is as before: it may be what keeps them silent. Set it to 0.",
        ),
        Mistake(
            "the_living",
            resampler(which=lambda dead: ~dead, mean_of=lambda norms, dead: norms[~dead].mean()),
            "The living latents are replaced, and the dead ones left: turn the mask around.",
        ),
        Mistake(
            "everybody",
            resampler(which=lambda dead: torch.ones_like(dead)),
            "All latents are replaced. Only the dead ones may change.",
        ),
        Mistake(
            "root_mean_square",
            resampler(mean_of=lambda norms, dead: norms[~dead].square().mean().sqrt()),
            "The encoder's length comes from the root of the mean square. Take the mean of the lengths themselves.",
        ),
        Mistake(
            "one_for_all",
            resampler(pick=lambda weights, n, generator: torch.multinomial(weights, 1, generator=generator)),
            "All dead latents get the same example, and would go on as copies of one another. Draw one for each.",
        ),
        Mistake(
            "without_replacement",
            resampler(pick=_without_replacement),
            "No example is taken twice here. Draw at random and with replacement: torch.multinomial(losses**2, n, replacement=True, ...).",
        ),
        Mistake(
            "all_biases_reset",
            resampler(reset_bias=torch.ones_like),
            "b_enc is set to 0 for all latents. Only that of the dead ones changes.",
        ),
        Mistake(
            "generator_unused",
            resampler(pick=lambda weights, n, generator: torch.multinomial(weights, n, True)),
            "The result is not the same for the same `generator`: hand it on, torch.multinomial(..., generator=generator).",
        ),
        Mistake(
            "in_place",
            _resample_in_place,
            "The weights that came in are changed in place. Work on clones.",
        ),
    ],
    equivalents=[resampler(), _loop_resample, _where_resample],
    hints=[
        "Three steps: draw one example for each dead latent; turn it into a unit direction; write that into clones of W_dec, W_enc and b_enc.",
        "torch.multinomial(losses**2, n, replacement=True, generator=generator) draws the examples. The encoder's length: 0.2 * W_enc[:, ~dead].norm(dim=0).mean().",
        "new = normalize(x[rows] - b_dec, dim=-1); W_dec[dead] = new; W_enc[:, dead] = length * new.T; b_enc[dead] = 0. With no dead latent, return the clones.",
    ],
)

# ----------------------------------------------------------------------------------------------------- topk_activation


def topk_cases(seed: int) -> Iterable[Case]:
    for k, (shape, keep, note) in enumerate(
        [
            ((6, 9), 3, ""),
            ((1, 5), 2, "a batch of one"),
            ((2, 3, 7), 2, "two axes before the last"),
            ((4, 4), 1, "as many examples as latents"),
            ((3, 5), 5, "k is the number of latents"),
        ]
    ):
        inputs = {"pre": draw(seed + k, *shape), "k": keep}
        yield Case(inputs, note=note)
        yield Case(inputs, drive="gradient", settings={"wrt": "pre", "weights": draw(seed + 20 + k, *shape)}, note=note)
    few = -draw(seed + 9, 5, 8).abs()
    few[:, 2], few[1:, 6] = 0.4, 1.3
    yield Case({"pre": few, "k": 4}, note="fewer than k pre-activations are positive")
    yield Case({"pre": draw(seed + 10, 4, 6, dtype=torch.float64) - 5, "k": 2}, note="none is positive; float64")
    yield Case({"pre": draw(seed + 11, 5, 6) + 4, "k": 3}, note="all are positive")
    twice = draw(seed + 12, 5, 4).abs().repeat(1, 2)
    yield Case({"pre": twice, "k": 3}, compare=_same_rows, note="every value occurs twice; of equal ones any may stay")
    yield Case({"pre": draw(seed, 6, 9), "k": 3}, drive="other_device", compare=comparing.other_device)


def _same_rows(expected: Any, got: Any) -> Difference | None:
    """The same numbers in each row, in whatever order."""
    if not isinstance(got, Tensor) or got.shape != expected.shape:
        return close(expected, got)
    return close(expected.sort(dim=-1).values, got.sort(dim=-1).values)


def _kept(pre: Tensor, k: int, order: Tensor | None = None) -> Tensor:
    """1 for the k largest of each row (in another order than their own, if given), else 0."""
    return torch.zeros_like(pre).scatter(-1, (pre if order is None else order).topk(k, dim=-1).indices, 1.0)


def _topk_in_place(pre: Tensor, k: int) -> Tensor:
    kept = _kept(pre.detach(), k)
    with torch.no_grad():
        pre.mul_(kept).relu_()
    return pre * 1.0


def _topk_of_batch(pre: Tensor, k: int) -> Tensor:
    flat = pre.flatten()
    return (flat * _kept(flat, min(len(flat), k * (len(flat) // pre.shape[-1])))).view_as(pre).relu()


def _loop_topk(pre: Tensor, k: int) -> Tensor:
    rows = []
    for row in pre.reshape(-1, pre.shape[-1]):
        kept = torch.zeros_like(row)
        for latent in row.argsort(descending=True)[:k].tolist():
            kept[latent] = row[latent].clamp(min=0)
        rows.append(kept)
    return torch.stack(rows).view(pre.shape)


TOPK_ACTIVATION = Exercise(
    id="sae.topk_activation",
    chapter=CHAPTER,
    title="Sparse by construction",
    points=2,
    minutes=15,
    difficulty=2,
    reference=reference.topk_activation,
    cases=topk_cases,
    mistakes=[
        Mistake(
            "no_relu",
            lambda pre, k: pre * _kept(pre, k),
            "Negative values stay where fewer than k pre-activations are positive. A feature is there or not: ReLU what is kept.",
        ),
        Mistake(
            "largest_size",
            lambda pre, k: (pre * _kept(pre, k, pre.abs())).relu(),
            "This picks the k largest by absolute value, so large negative ones take the places. Pick by the values themselves.",
        ),
        Mistake(
            "over_the_batch",
            lambda pre, k: (pre * _kept(pre.transpose(0, -1), min(k, len(pre))).transpose(0, -1)).relu(),
            "This picks the k largest examples of each latent. Pick the k largest latents of each example: the last axis.",
        ),
        Mistake(
            "whole_batch",
            _topk_of_batch,
            "This picks the largest of the whole batch, so one example may get many and another one none. Pick k in every row.",
        ),
        Mistake(
            "k_in_all",
            lambda pre, k: (pre * _kept(pre.flatten(), k).view_as(pre)).relu(),
            "This keeps k values of the whole batch. Keep k in every row: topk along the last axis.",
        ),
        Mistake(
            "only_the_values",
            lambda pre, k: pre.topk(k, dim=-1).values.relu(),
            "These are the k values alone. Put them back in their places, with 0 everywhere else: the shape is that of `pre`.",
        ),
        Mistake(
            "mask",
            lambda pre, k: _kept(pre, k) * (pre > 0),
            "This says which latents are kept. Return their values.",
        ),
        Mistake(
            "smallest",
            lambda pre, k: (pre * _kept(pre, k, -pre)).relu(),
            "These are the k smallest. Keep the largest.",
        ),
        Mistake(
            "one_too_few",
            lambda pre, k: (pre * (pre > pre.topk(k, dim=-1).values[..., -1:])).relu(),
            "The k-th largest itself is lost: it is not greater than itself. Keep what stands at topk's indices.",
        ),
        Mistake(
            "ties",
            lambda pre, k: (pre * (pre >= pre.topk(k, dim=-1).values[..., -1:])).relu(),
            "More than k stay where the k-th largest value occurs more than once. Keep what stands at topk's indices.",
        ),
        Mistake(
            "one_too_many",
            lambda pre, k: (pre * _kept(pre, min(k + 1, pre.shape[-1]))).relu(),
            "This keeps k + 1 of them.",
        ),
        Mistake(
            "all_positive",
            lambda pre, k: pre.relu(),
            "This keeps every positive value. Only the k largest of each row may stay.",
        ),
        Mistake(
            "detached",
            lambda pre, k: (pre.detach() * _kept(pre, k)).relu(),
            "The result is right, but no gradient reaches `pre`: leave .detach() and .data out.",
        ),
        Mistake(
            "in_place",
            _topk_in_place,
            "`pre` itself is changed. Fill a new tensor, torch.zeros_like(pre).",
        ),
    ],
    equivalents=[
        lambda pre, k: (pre * _kept(pre, k)).relu(),
        lambda pre, k: pre.relu().masked_fill(pre.argsort(dim=-1).argsort(dim=-1) < pre.shape[-1] - k, 0.0),
        _loop_topk,
    ],
    hints=[
        "pre.topk(k, dim=-1) gives values and indices. Where do the values have to go?",
        "torch.zeros_like(pre).scatter(-1, indices, values) puts them back. Negative values among them become 0.",
        "values, indices = pre.topk(k, dim=-1); return torch.zeros_like(pre).scatter(-1, indices, values.relu())",
    ],
)

# ------------------------------------------------------------------------------------------------------------ jumprelu


def jumprelu_cases(seed: int) -> Iterable[Case]:
    for k, (shape, bandwidth, dtype, note) in enumerate(
        [
            ((60, 5), 0.8, torch.float32, ""),
            ((40, 4), 0.3, torch.float64, "float64"),
            ((12, 3, 6), 1.5, torch.float32, "two axes before the last"),
            ((50, 1), 0.5, torch.float32, "a single latent"),
        ]
    ):
        threshold = draw(seed + k, shape[-1], dtype=dtype).abs() + 0.3
        pre = draw(seed + 10 + k, *shape, scale=1.5, dtype=dtype)
        inputs = {"pre": pre, "threshold": threshold, "bandwidth": bandwidth}
        weights = draw(seed + 20 + k, *shape, dtype=dtype)
        for wrt in ("pre", "threshold"):
            yield Case(inputs, drive="gradient", settings={"wrt": wrt, "weights": weights}, note=note)
    far = torch.tensor([[-3.0, 5.0], [4.0, -2.0], [6.0, 7.0]])
    inputs = {"pre": far, "threshold": torch.tensor([1.0, 2.0]), "bandwidth": 0.1}
    yield Case(inputs, drive="gradient", settings={"wrt": "threshold"}, note="nothing comes near its threshold")
    yield Case(
        inputs,
        truth=fact(
            lambda out: out.tolist() == [[0, 5], [4, 0], [6, 7]], "What exceeds its threshold should pass unchanged."
        ),
    )
    equal = {**inputs, "pre": torch.tensor([[1.0, 2.5], [1.5, 2.0]])}
    yield Case(equal, note="two pre-activations are equal to their thresholds")


def jump(
    value: Callable[[Tensor, Tensor], Tensor] = lambda pre, threshold: pre * (pre > threshold),
    to_pre: Callable[..., Tensor] = lambda pre, threshold, bandwidth: (pre > threshold).to(pre),
    to_threshold: Callable[..., Tensor] = lambda pre, threshold, bandwidth: (
        -threshold / bandwidth * ((pre - threshold).abs() < bandwidth / 2)
    ),
    upstream: tuple[bool, bool] = (True, True),
) -> Callable[[Tensor, Tensor, float], Tensor]:
    """A jumping function from its value and the gradients that it claims to have."""

    class Jump(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
            ctx.save_for_backward(pre, threshold)
            ctx.bandwidth = bandwidth
            return value(pre, threshold)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
            pre, threshold = ctx.saved_tensors
            for_pre, for_threshold = (gradients[0] if used else torch.ones_like(pre) for used in upstream)
            first = for_pre * to_pre(pre, threshold, ctx.bandwidth)
            second = for_threshold * to_threshold(pre, threshold, ctx.bandwidth)
            return first, second.reshape(-1, len(threshold)).sum(dim=0), None

    def answer(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        return Jump.apply(pre, threshold, bandwidth)

    return answer


def _near(pre: Tensor, threshold: Tensor, reach: float) -> Tensor:
    return ((pre - threshold).abs() < reach).to(pre)


def _straight_through(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    slope = (-threshold / bandwidth * _near(pre, threshold, bandwidth / 2)).detach()
    return pre * (pre > threshold) + slope * (threshold - threshold.detach())


def _sloped(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    ramp = ((pre.detach() - threshold) / bandwidth + 0.5).clamp(0, 1)  # its slope is the kernel
    return pre * (pre > threshold).to(pre) + threshold.detach() * (ramp - ramp.detach())


JUMPRELU = Exercise(
    id="sae.jumprelu",
    chapter=CHAPTER,
    title="A threshold that can be learnt",
    points=3,
    minutes=35,
    difficulty=4,
    optional=True,
    reference=reference.jumprelu,
    cases=jumprelu_cases,
    mistakes=[
        Mistake(
            "no_threshold_gradient",
            lambda pre, threshold, bandwidth: pre * (pre > threshold),
            "The values are right, but a comparison has no gradient, so the threshold would never move. Give it the one of the exercise.",
        ),
        Mistake(
            "shifted",
            lambda pre, threshold, bandwidth: (pre - threshold).relu(),
            "This takes the threshold away from what passes, so everything shrinks. What exceeds the threshold passes unchanged.",
        ),
        Mistake(
            "shifted_with_the_window",
            jump(value=lambda pre, threshold: (pre - threshold).relu()),
            "The gradients are right, but the values shrink by the threshold. What exceeds it passes unchanged.",
        ),
        Mistake(
            "pre_for_the_threshold",
            jump(
                to_threshold=lambda pre, threshold, bandwidth: -pre / bandwidth * _near(pre, threshold, bandwidth / 2)
            ),
            "The threshold's gradient has the factor `pre`. It is close to `threshold` in the window, but not the same: use the threshold.",
        ),
        Mistake(
            "plain_relu",
            lambda pre, threshold, bandwidth: pre.relu(),
            "This is a ReLU: it lets through what is below the threshold.",
        ),
        Mistake(
            "at_least",
            jump(value=lambda pre, threshold: pre * (pre >= threshold)),
            "This uses >=. What is only equal to its threshold does not pass.",
        ),
        Mistake(
            "gate_only",
            jump(value=lambda pre, threshold: (pre > threshold).to(pre)),
            "This is 1 where the threshold is exceeded. Return the pre-activation there.",
        ),
        Mistake(
            "sign",
            jump(
                to_threshold=lambda pre, threshold, bandwidth: (
                    threshold / bandwidth * _near(pre, threshold, bandwidth / 2)
                )
            ),
            "The threshold's gradient has the wrong sign. A higher threshold lets less through: it is negative.",
        ),
        Mistake(
            "without_the_threshold",
            jump(to_threshold=lambda pre, threshold, bandwidth: -1 / bandwidth * _near(pre, threshold, bandwidth / 2)),
            "The threshold's gradient lacks the factor `threshold`: what is lost when a value is cut off is as large as the threshold.",
        ),
        Mistake(
            "without_the_bandwidth",
            jump(to_threshold=lambda pre, threshold, bandwidth: -threshold * _near(pre, threshold, bandwidth / 2)),
            "The threshold's gradient is not divided by the bandwidth.",
        ),
        Mistake(
            "twice_as_wide",
            jump(
                to_threshold=lambda pre, threshold, bandwidth: -threshold / bandwidth * _near(pre, threshold, bandwidth)
            ),
            "The window reaches a whole bandwidth to each side. It is one bandwidth wide in all: half of it to each side.",
        ),
        Mistake(
            "no_window",
            jump(to_threshold=lambda pre, threshold, bandwidth: (-threshold / bandwidth).expand_as(pre)),
            "Every value gives the threshold a gradient here. Only those closer to it than half a bandwidth do.",
        ),
        Mistake(
            "times_the_bandwidth",
            jump(
                to_threshold=lambda pre, threshold, bandwidth: (
                    -threshold * bandwidth * _near(pre, threshold, bandwidth / 2)
                )
            ),
            "The threshold's gradient is multiplied by the bandwidth. Divide by it.",
        ),
        Mistake(
            "one_sided",
            jump(
                to_threshold=lambda pre, threshold, bandwidth: (
                    -threshold / bandwidth * _near(pre, threshold, bandwidth / 2) * (pre > threshold)
                )
            ),
            "Only values above the threshold count here. The window reaches half a bandwidth to each side.",
        ),
        Mistake(
            "pre_everywhere",
            jump(to_pre=lambda pre, threshold, bandwidth: torch.ones_like(pre)),
            "`pre` gets a gradient even where nothing passes. Only what exceeds its threshold has one.",
        ),
        Mistake(
            "pre_window_too",
            jump(
                to_pre=lambda pre, threshold, bandwidth: (
                    (pre > threshold) + threshold / bandwidth * _near(pre, threshold, bandwidth / 2)
                )
            ),
            "The window's gradient reaches `pre` as well. It belongs to the threshold alone: detach `pre` there.",
        ),
        Mistake(
            "ignores_what_comes_from_above",
            jump(upstream=(False, False)),
            "Both gradients ignore what comes back from the rest of the model: multiply them by the incoming gradient.",
        ),
        Mistake(
            "threshold_ignores_what_comes_from_above",
            jump(upstream=(True, False)),
            "The threshold's gradient ignores what comes back from the rest of the model: multiply it by the incoming gradient.",
        ),
        Mistake(
            "averaged",
            jump(
                to_threshold=lambda pre, threshold, bandwidth: (
                    -threshold / bandwidth * _near(pre, threshold, bandwidth / 2) * len(threshold) / pre.numel()
                )
            ),
            "The threshold's gradient is averaged over the rows. Add it up.",
        ),
        Mistake(
            "sigmoid",
            lambda pre, threshold, bandwidth: pre * torch.sigmoid((pre - threshold) / bandwidth),
            "A sigmoid lets a little of everything through. The values must jump; only the gradient is smoothed.",
        ),
    ],
    equivalents=[jump(), _straight_through, _sloped],
    hints=[
        "The values are pre * (pre > threshold): that also gives `pre` its right gradient. What is missing is a term that is 0 and has a gradient for the threshold.",
        "threshold - threshold.detach() is 0, and its gradient is 1. Multiply it by the slope that you want, detached.",
        "slope = (-threshold / bandwidth * ((pre - threshold).abs() < bandwidth / 2)).detach(); return pre * (pre > threshold) + slope * (threshold - threshold.detach())",
    ],
)

# -------------------------------------------------------------------------------------------------- explained_variance


def variance_cases(seed: int) -> Iterable[Case]:
    def noisy(k: int, *shape: int, noise: float = 0.3, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        scale = torch.arange(1, shape[-1] + 1, dtype=dtype)  # dimensions of different variance
        x = draw(seed + k, *shape, dtype=dtype) * scale + 3 * draw(seed + k + 1, shape[-1], dtype=dtype)
        return {"x": x, "reconstruction": x + noise * draw(seed + k + 2, *shape, dtype=dtype)}

    yield Case(noisy(0, 8, 4))
    yield Case(noisy(10, 5, 5, noise=2.0), note="a bad reconstruction, and as many rows as dimensions")
    yield Case(noisy(20, 6, 3, dtype=torch.float64), note="float64")
    shifted = noisy(30, 9, 4)
    yield Case(
        {**shifted, "reconstruction": shifted["reconstruction"] + 1.5}, note="all of it is off by the same vector"
    )
    small = noisy(50, 7, 4)
    yield Case({**small, "reconstruction": 0.5 * small["reconstruction"]}, note="a reconstruction that is too small")
    yield Case(noisy(60, 6, 4, noise=9.0), note="a reconstruction that is worse than the mean")
    x = draw(seed + 40, 7, 5) + 2
    yield Case(
        {"x": x, "reconstruction": x.mean(dim=0).expand(7, 5).clone()},
        note="the reconstruction is always the mean vector",
        truth=fact(lambda share: abs(float(share)) < 1e-4, "Always answering the mean explains 0."),
    )
    yield Case(
        {"x": x, "reconstruction": x.clone()},
        note="a perfect reconstruction",
        truth=fact(lambda share: abs(float(share) - 1) < 1e-5, "A perfect reconstruction explains 1."),
    )
    yield Case(noisy(0, 8, 4), drive="other_device", compare=comparing.other_device)


def _explained(error: Tensor, total: Tensor) -> Tensor:
    return 1 - error.sum() / total.sum()


EXPLAINED_VARIANCE = Exercise(
    id="sae.explained_variance",
    chapter=CHAPTER,
    title="How much of the activations is there?",
    points=1,
    minutes=10,
    difficulty=1,
    reference=reference.explained_variance,
    cases=variance_cases,
    mistakes=[
        Mistake(
            "not_centred",
            lambda x, reconstruction: _explained((x - reconstruction).square(), x.square()),
            "The error is compared with x's own squares. Compare it with the squares around the mean vector: always answering the mean should explain 0.",
        ),
        Mistake(
            "one_mean_for_all",
            lambda x, reconstruction: _explained((x - reconstruction).square(), (x - x.mean()).square()),
            "x.mean() is one number for all dimensions. The mean is a vector: x.mean(dim=0).",
        ),
        Mistake(
            "mean_of_each_row",
            lambda x, reconstruction: _explained(
                (x - reconstruction).square(), (x - x.mean(dim=1, keepdim=True)).square()
            ),
            "This takes away each row's own mean. The mean vector runs over the rows: dim=0.",
        ),
        Mistake(
            "unexplained",
            lambda x, reconstruction: (x - reconstruction).square().sum() / (x - x.mean(dim=0)).square().sum(),
            "This is the share that is *not* explained: take it from 1.",
        ),
        Mistake(
            "upside_down",
            lambda x, reconstruction: 1 - (x - x.mean(dim=0)).square().sum() / (x - reconstruction).square().sum(),
            "The fraction is upside down: x's own squares around the mean stand below the line.",
        ),
        Mistake(
            "around_the_reconstruction",
            lambda x, reconstruction: _explained(
                (x - reconstruction).square(), (reconstruction - reconstruction.mean(dim=0)).square()
            ),
            "The error is compared with the variance of the reconstruction. Compare it with that of x.",
        ),
        Mistake(
            "mean_over_rows",
            lambda x, reconstruction: (
                1 - (x - reconstruction).square().sum(dim=1) / (x - x.mean(dim=0)).square().sum(dim=1)
            ).mean(),
            "This averages one share for each row, so that a row close to the mean counts as much as any. Sum first, divide then.",
        ),
        Mistake(
            "correlation",
            lambda x, reconstruction: torch.corrcoef(torch.stack([x.flatten(), reconstruction.flatten()]))[0, 1] ** 2,
            "This is a squared correlation, which forgives a reconstruction that is too small or shifted. Use the squared error.",
        ),
        Mistake(
            "clamped",
            lambda x, reconstruction: _explained((x - reconstruction).square(), (x - x.mean(dim=0)).square()).clamp(0),
            "The result is forced to be 0 or more. A reconstruction can be worse than the mean: let the number say so.",
        ),
        Mistake(
            "variance_of_the_error",
            lambda x, reconstruction: _explained((x - reconstruction).var(dim=0), x.var(dim=0)),
            "The error's variance does not see an error that is always the same. Sum the squared error itself.",
        ),
        Mistake(
            "mean_over_dimensions",
            lambda x, reconstruction: (
                1 - (x - reconstruction).square().sum(dim=0) / (x - x.mean(dim=0)).square().sum(dim=0)
            ).mean(),
            "This averages one share for each dimension, so that a dimension in which nothing happens counts as much as any. Sum first, divide then.",
        ),
        Mistake(
            "variance_of_the_reconstruction",
            lambda x, reconstruction: reconstruction.var(dim=0).sum() / x.var(dim=0).sum(),
            "This compares how much the two vary, not whether they agree. Use the squared error.",
        ),
        Mistake(
            "not_squared",
            lambda x, reconstruction: _explained((x - reconstruction).norm(dim=1), (x - x.mean(dim=0)).norm(dim=1)),
            "These are lengths. Variances are squares.",
        ),
        Mistake(
            "bessel",
            lambda x, reconstruction: 1 - (x - reconstruction).square().mean() / x.var(dim=0).mean(),
            "The variance here divides by n - 1 and the error by n. Use sums (or correction=0) in both.",
        ),
    ],
    equivalents=[
        lambda x, reconstruction: 1 - (x - reconstruction).square().mean() / x.var(dim=0, correction=0).mean(),
        lambda x, reconstruction: 1 - (x - reconstruction).norm() ** 2 / (x - x.mean(dim=0, keepdim=True)).pow(2).sum(),
        lambda x, reconstruction: _explained((x - reconstruction).square(), (x - x.mean(dim=0)).square()),
    ],
    hints=[
        "What does the laziest reconstruction, the mean vector for everybody, get wrong? That is the unit.",
        "1 less the sum of the squared errors, divided by the sum of the squares of x around x.mean(dim=0).",
        "1 - (x - reconstruction).pow(2).sum() / (x - x.mean(dim=0)).pow(2).sum()",
    ],
)

# ------------------------------------------------------------------------------------------------------ loss_recovered

SITES = ["blocks.1.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.2.hook_mlp_out", "blocks.1.hook_attn_out"]


def recovered_cases(seed: int) -> Iterable[Case]:
    tries: list[tuple[int, int, str, dict[str, Any], str]] = [
        (3, 7, SITES[0], {}, ""),
        (1, 9, SITES[2], {}, "a batch of one"),
        (4, 4, SITES[1], {"attention_only": True}, "a model without MLPs, as many prompts as positions"),
        (2, 8, SITES[0], {"heads": 3, "layers": 2}, "two layers, three heads"),
    ]
    for k, (batch, length, site, sizes, note) in enumerate(tries):
        # The same few models for all cases, and for both exercises: making one takes longer than all the rest.
        model, d_model = random_gpt2(seed, **sizes), 5 * sizes.get("heads", 2)
        sae = Recipe("sae", {"seed": seed + k, "d_in": d_model, "d_sae": 7 + k})
        tokens = _tokens_that_matter(model, site, seed + k, batch, length)
        yield Case({"model": model, "sae": sae, "site": site, "tokens": tokens}, note=note)


def _tokens_that_matter(model: Recipe, site: str, seed: int, batch: int, length: int) -> Tensor:
    """Tokens on which mean ablation changes the loss by a good deal: the share is measured in units of that."""
    network = recipes.build({"model": model})["model"]
    tries = torch.stack([draw_tokens(seed + 1000 * k, batch, length) for k in range(6)])
    tokens = tries.flatten(0, 1)  # all at once: that is quicker

    def mean_of_each_try(x: Tensor) -> Tensor:
        by_try = x.unflatten(0, (6, batch))
        return by_try.mean(dim=(1, 2), keepdim=True).expand_as(by_try).flatten(0, 1)

    ablated = _with(network, site, tokens, mean_of_each_try).unflatten(0, (6, batch))
    clean = network(tokens).unflatten(0, (6, batch))
    gaps = [abs((_loss(a, t) - _loss(c, t)).item()) for a, c, t in zip(ablated, clean, tries)]
    return next((one for one, gap in zip(tries, gaps) if gap > 0.3), tries[gaps.index(max(gaps))])


def _loss(logits: Tensor, tokens: Tensor, shift: int = 1) -> Tensor:
    predicted = logits[:, : tokens.shape[1] - shift].log_softmax(dim=-1)
    return -predicted.gather(-1, tokens[:, shift:, None]).mean()


def _with(model: Any, site: str, tokens: Tensor, put: Callable[[Tensor], Tensor]) -> Tensor:
    """The logits when the activations at a site are replaced by a function of them."""
    return model.run_with_hooks(tokens, fwd_hooks=[(site, lambda x, hook: put(x))])


def _mean_of_all(x: Tensor) -> Tensor:
    return x.mean(dim=(0, 1)).expand_as(x)


def recovering(
    share: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda clean, spliced, ablated: (
        (ablated - spliced) / (ablated - clean)
    ),
    ablate: Callable[[Tensor], Tensor] = _mean_of_all,
    splice: Callable[[Any, Tensor], Tensor] = lambda sae, x: sae.decode(sae.encode(x)),
    loss: Callable[[Tensor, Tensor], Tensor] = _loss,
) -> Callable[..., float]:
    """The share of the loss that is recovered, with some of its parts done in another way."""

    def answer(model: Any, sae: Any, site: str, tokens: Tensor) -> float:
        clean = loss(model(tokens), tokens)
        spliced = loss(_with(model, site, tokens, lambda x: splice(sae, x)), tokens)
        ablated = loss(_with(model, site, tokens, ablate), tokens)
        return share(clean, spliced, ablated).item()

    return answer


def ablating_with(mean: Callable[[Any, Tensor], Tensor]) -> Callable[..., float]:
    """The share of the loss that is recovered, with another vector in place of the mean."""
    return lambda model, sae, site, tokens: recovering(ablate=lambda x: mean(sae, x).expand_as(x))(
        model, sae, site, tokens
    )


def _recovered_from_cache(model: Any, sae: Any, site: str, tokens: Tensor) -> float:
    x = model.run_with_cache(tokens)[1][site]
    stand_ins = {"clean": x, "spliced": sae(x), "ablated": x.flatten(0, 1).mean(0).repeat(*x.shape[:2], 1)}
    losses = {}
    for name, stand_in in stand_ins.items():
        with model.hooks(fwd_hooks=[(site, lambda value, hook, stand_in=stand_in: stand_in)]):
            logits = model(tokens)
        losses[name] = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    return 1 - ((losses["spliced"] - losses["clean"]) / (losses["ablated"] - losses["clean"])).item()


LOSS_RECOVERED = Exercise(
    id="sae.loss_recovered",
    chapter=CHAPTER,
    title="Does the model notice?",
    points=3,
    minutes=20,
    difficulty=3,
    reference=reference.loss_recovered,
    cases=recovered_cases,
    mistakes=[
        Mistake(
            "zero_ablation",
            recovering(ablate=torch.zeros_like),
            "This ablates with zero, or with one number for all dimensions, which a LayerNorm cannot tell from zero. Use the mean *vector*: activations are never near zero, so against zero every SAE looks good.",
        ),
        Mistake(
            "mean_at_each_position",
            recovering(ablate=lambda x: x.mean(dim=0, keepdim=True).expand_as(x)),
            "Each position has a mean of its own here. Take one mean vector, over prompts and positions.",
        ),
        Mistake(
            "mean_of_each_prompt",
            recovering(ablate=lambda x: x.mean(dim=1, keepdim=True).expand_as(x)),
            "Each prompt has a mean of its own here. Take one mean vector, over prompts and positions.",
        ),
        Mistake(
            "decoder_bias",
            ablating_with(lambda sae, x: sae.b_dec),
            "This ablates with b_dec, which is the mean at most before training. Use the mean of the activations.",
        ),
        Mistake(
            "mean_of_the_reconstruction",
            ablating_with(lambda sae, x: sae(x).mean(dim=(0, 1))),
            "This is the mean of the reconstruction. Use the mean of the activations as they are.",
        ),
        Mistake(
            "mean_reconstructed",
            ablating_with(lambda sae, x: sae(_mean_of_all(x))),
            "The mean vector goes through the SAE here. Put it in as it is.",
        ),
        Mistake(
            "last_position",
            recovering(loss=lambda logits, tokens: _loss(logits[:, -2:], tokens[:, -2:])),
            "The losses are those of the last token alone. Take the mean over all of them.",
        ),
        Mistake(
            "clamped",
            recovering(lambda clean, spliced, ablated: ((ablated - spliced) / (ablated - clean)).clamp(0, 1)),
            "The share is forced to lie between 0 and 1. A reconstruction can do more harm than the mean: let the number say so.",
        ),
        Mistake(
            "lost",
            recovering(lambda clean, spliced, ablated: (spliced - clean) / (ablated - clean)),
            "This is the share that is lost. Take it from 1.",
        ),
        Mistake(
            "sign",
            recovering(lambda clean, spliced, ablated: (spliced - ablated) / (ablated - clean)),
            "The sign is turned. What is recovered is ablated - spliced: the reconstruction's loss is the smaller one.",
        ),
        Mistake(
            "upside_down",
            recovering(lambda clean, spliced, ablated: (ablated - clean) / (ablated - spliced)),
            "The fraction is upside down: the unit, below the line, is the whole way from the mean to the clean loss.",
        ),
        Mistake(
            "ratio",
            recovering(lambda clean, spliced, ablated: clean / spliced),
            "This compares the two losses alone. Count in units of what ablation costs.",
        ),
        Mistake(
            "increase",
            recovering(lambda clean, spliced, ablated: spliced - clean),
            "This is the loss that is added, in nats. Count it in units of what ablation adds.",
        ),
        Mistake(
            "ratio_turned",
            recovering(lambda clean, spliced, ablated: spliced / clean),
            "This is how many times the loss has grown. Count in units of what ablation costs.",
        ),
        Mistake(
            "no_decoder_bias",
            recovering(splice=lambda sae, x: sae.encode(x) @ sae.W_dec),
            "The reconstruction lacks b_dec. Put in sae.decode(sae.encode(x)).",
        ),
        Mistake(
            "error_kept",
            recovering(splice=lambda sae, x: sae(x) + (x - sae(x))),
            "The error term is added back, so nothing changes and the share is always 1. Put in the reconstruction alone.",
        ),
        Mistake(
            "codes_for_activations",
            recovering(splice=lambda sae, x: x - sae(x)),
            "This puts in what the SAE misses. Put in the reconstruction, sae.decode(sae.encode(x)).",
        ),
        Mistake(
            "own_token",
            recovering(loss=lambda logits, tokens: _loss(logits, tokens, shift=0)),
            "The loss asks every position for its own token. The logits at a position predict the *next* one.",
        ),
    ],
    equivalents=[recovering(), recovering(splice=lambda sae, x: sae(x)), _recovered_from_cache],
    hints=[
        "Three runs, three losses: as it is; with sae.decode(sae.encode(x)) in place of x; with the mean vector in place of x.",
        "A hook is a function hook(x, hook) that returns what to go on with: model.run_with_hooks(tokens, fwd_hooks=[(site, hook)]). per_token_loss(logits, tokens).mean() is the loss.",
        "(ablated - spliced) / (ablated - clean), where the ablating hook returns x.mean(dim=(0, 1)).expand_as(x).",
    ],
)

# ----------------------------------------------------------------------------------------------------- top_activations


def top_cases(seed: int) -> Iterable[Case]:
    def sparse(k: int, *shape: int) -> Tensor:
        return draw(seed + k, *shape, scale=2.0).relu()

    yield Case({"codes": sparse(0, 6, 9), "k": 3})
    yield Case({"codes": sparse(1, 5, 5), "k": 4}, note="as many rows as positions")
    yield Case({"codes": sparse(2, 4, 7), "k": 1}, note="only the best")
    yield Case({"codes": draw(seed + 3, 8, 3), "k": 5}, note="a neuron: activations may be negative")
    yield Case({"codes": -draw(seed + 4, 7, 4).abs(), "k": 3}, note="all are negative")
    crowded = 0.1 * sparse(5, 5, 8)
    crowded[3, 1:6] = torch.tensor([3.0, 5.0, 4.0, 6.0, 2.0])
    yield Case({"codes": crowded, "k": 3}, note="one row holds the five largest")
    yield Case({"codes": sparse(6, 12, 4), "k": 12}, note="k is the number of rows")


Top = tuple[Tensor, Tensor, Tensor]


def _of_flat(codes: Tensor, k: int) -> Top:
    values, where = codes.flatten().topk(k)
    return values, where // codes.shape[1], where % codes.shape[1]


def _best_rows(codes: Tensor, k: int, largest: bool = True) -> Top:
    best, at = codes.max(dim=1)
    values, rows = best.topk(k, largest=largest)
    return values, rows, at[rows]


def _loop_top(codes: Tensor, k: int) -> Top:
    found: list[tuple[float, int, int]] = []
    for row, values in enumerate(codes.tolist()):
        position = max(range(len(values)), key=lambda p: values[p])
        found.append((values[position], row, position))
    found.sort(reverse=True)
    values, rows, at = zip(*found[:k], strict=True)
    return torch.tensor(values), torch.tensor(rows), torch.tensor(at)


def _positions_by_order(codes: Tensor, k: int) -> Top:
    values, rows, _ = _best_rows(codes, k)
    return values, rows, codes.argmax(dim=1)[:k]


def _strength(codes: Tensor, k: int) -> Top:
    _, rows, at = _best_rows(codes.abs(), k)
    return codes[rows, at], rows, at


def _by_mean(codes: Tensor, k: int) -> Top:
    rows = codes.mean(dim=1).topk(k).indices
    best, at = codes[rows].max(dim=1)
    return best, rows, at


TOP_ACTIVATIONS = Exercise(
    id="sae.top_activations",
    chapter=CHAPTER,
    title="Where is it largest?",
    points=2,
    minutes=15,
    difficulty=2,
    reference=reference.top_activations,
    cases=top_cases,
    mistakes=[
        Mistake(
            "several_a_row",
            _of_flat,
            "One row may give several examples here, so a single text can fill the whole list. Take the best position of each row first.",
        ),
        Mistake(
            "smallest",
            lambda codes, k: _best_rows(codes, k, largest=False),
            "These are the rows with the smallest maxima. Take the largest.",
        ),
        Mistake(
            "worst_first",
            lambda codes, k: tuple(part.flip(0) for part in _best_rows(codes, k)),
            "These are the right ones, smallest first. The best comes first.",
        ),
        Mistake(
            "in_row_order",
            lambda codes, k: tuple(part[_best_rows(codes, k)[1].argsort()] for part in _best_rows(codes, k)),
            "These are the right ones, in the order of the rows. The best comes first.",
        ),
        Mistake(
            "first_rows",
            lambda codes, k: (codes[:k].amax(dim=1), torch.arange(k), codes[:k].argmax(dim=1)),
            "These are the first k rows. Take the k rows whose maxima are largest.",
        ),
        Mistake(
            "rows_and_positions_swapped",
            lambda codes, k: tuple(_best_rows(codes, k)[i] for i in (0, 2, 1)),
            "Rows and positions are swapped: values, rows, positions.",
        ),
        Mistake(
            "positions_of_other_rows",
            _positions_by_order,
            "The positions are those of the first k rows. Pick them by the rows that were chosen: positions[rows].",
        ),
        Mistake(
            "best_of_each_position",
            lambda codes, k: tuple(_best_rows(codes.T, min(k, codes.shape[1]))[i] for i in (0, 2, 1)),
            "This takes the best row of each position. Take the best position of each row: the maximum runs over axis 1.",
        ),
        Mistake(
            "absolute",
            _strength,
            "This ranks by absolute value. A large negative number is not a strong activation.",
        ),
        Mistake(
            "by_mean",
            _by_mean,
            "The rows are ranked by their mean. One word may fire a feature: rank by each row's maximum.",
        ),
        Mistake(
            "only_where",
            lambda codes, k: _best_rows(codes, k)[1:],
            "The values are missing: return values, rows, positions.",
        ),
    ],
    equivalents=[
        _best_rows,
        _loop_top,
        lambda codes, k: (
            codes.amax(dim=1).sort(descending=True).values[:k],
            codes.amax(dim=1).argsort(descending=True)[:k],
            codes[codes.amax(dim=1).argsort(descending=True)[:k]].argmax(dim=1),
        ),
    ],
    hints=[
        "Two steps: the best position of each row, then the best rows.",
        "codes.max(dim=1) gives each row's maximum and where it is. topk of the maxima gives values and rows.",
        "best, positions = codes.max(dim=1); values, rows = best.topk(k); return values, rows, positions[rows]",
    ],
)

# ------------------------------------------------------------------------------------------ precision_recall_by_level


def level_cases(seed: int) -> Iterable[Case]:
    def labels(k: int, tokens: int, share: float = 0.4) -> Tensor:
        return torch.rand(tokens, generator=torch.Generator().manual_seed(seed + k)) < share

    levels = torch.tensor([0.0, 0.25, 0.5, 0.75])
    for k, (tokens, grid, note) in enumerate(
        [
            (60, levels, ""),
            (50, torch.tensor([0.1]), "a single level"),
            (5, torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8]), "as many tokens as levels"),
            (80, torch.tensor([0.6, 0.0, 0.3]), "levels in any order"),
        ]
    ):
        activation = draw(seed + k, tokens, scale=7.0).relu()
        activation[0] = 9.0
        concept = labels(k, tokens) | (activation > 6)
        concept[1] = True
        yield Case({"activation": activation, "concept": concept, "levels": grid}, note=note)
    known = {
        "activation": torch.tensor([0.0, 1.0, 2.0, 4.0, 0.0, 8.0]),
        "concept": torch.tensor([True, False, True, True, False, True]),
        "levels": torch.tensor([0.0, 0.3, 1.0]),
    }
    yield Case(
        known,
        note="nothing exceeds the maximum itself: level 1 has no precision",
        truth=fact(
            lambda out: torch.allclose(out[0][:2], torch.tensor([0.75, 1.0])) and bool(out[0][2].isnan()),
            "For the activations of this case the precisions are 3/4, 1 and NaN.",
        ),
    )
    never = {**known, "concept": torch.zeros(6, dtype=torch.bool)}
    yield Case(never, note="the concept never occurs")
    small, elsewhere = draw(seed + 8, 40, scale=0.02).relu(), labels(8, 40)
    elsewhere[small.argmax()] = False
    yield Case(
        {"activation": small, "concept": elsewhere, "levels": levels},
        note="activations far below 1, the largest of them not on the concept",
    )
    neuron = draw(seed + 9, 40) - 0.5
    yield Case({"activation": neuron, "concept": labels(9, 40), "levels": levels}, note="a neuron: some are negative")


Rates = tuple[Tensor, Tensor]


def rates(
    fires: Callable[[Tensor, Tensor], Tensor] = lambda activation, levels: (
        activation > levels[:, None] * activation.max()
    ),
    finish: Callable[[Tensor, Tensor, Tensor], Rates] = lambda hits, fired, present: (hits / fired, hits / present),
) -> Callable[[Tensor, Tensor, Tensor], Rates]:
    """Precision and recall from what counts as firing, and from the three counts."""

    def answer(activation: Tensor, concept: Tensor, levels: Tensor) -> Rates:
        firing = fires(activation, levels)
        hits = (firing & concept).sum(dim=1)
        return finish(hits, firing.sum(dim=1), concept.sum())

    return answer


def _between(activation: Tensor, levels: Tensor) -> Tensor:
    ordered = levels.sort().values
    upper = torch.cat([ordered[1:], torch.tensor([1.0])])[(ordered == levels[:, None]).float().argmax(dim=1)]
    top = activation.max()
    return (activation > levels[:, None] * top) & (activation <= upper[:, None] * top)


def _from_the_smallest(activation: Tensor, levels: Tensor) -> Tensor:
    low, high = activation.min(), activation.max()
    return activation > low + levels[:, None] * (high - low)


def _accuracy(activation: Tensor, concept: Tensor, levels: Tensor) -> Rates:
    right = ((activation > levels[:, None] * activation.max()) == concept).float().mean(dim=1)
    return right, right


def _of_all_tokens(activation: Tensor, concept: Tensor, levels: Tensor) -> Rates:
    share = ((activation > levels[:, None] * activation.max()) & concept).float().mean(dim=1)
    return share, share


def _false_positive_rate(activation: Tensor, concept: Tensor, levels: Tensor) -> Rates:
    firing = activation > levels[:, None] * activation.max()
    return (firing & ~concept).sum(dim=1) / (~concept).sum(), (firing & concept).sum(dim=1) / concept.sum()


def _largest_on_concept(activation: Tensor, concept: Tensor, levels: Tensor) -> Rates:
    largest = (activation[concept] if concept.any() else activation).max()
    firing = activation > levels[:, None] * largest
    hits = (firing & concept).sum(dim=1)
    return hits / firing.sum(dim=1), hits / concept.sum()


def _loop_rates(activation: Tensor, concept: Tensor, levels: Tensor) -> Rates:
    precision, recall = [], []
    for level in levels:
        firing = activation > level * activation.max()
        precision.append(concept[firing].float().mean())  # the mean of nothing is NaN
        recall.append(firing[concept].float().mean())
    return torch.stack(precision), torch.stack(recall)


PRECISION_RECALL_BY_LEVEL = Exercise(
    id="sae.precision_recall_by_level",
    chapter=CHAPTER,
    title="Is it clean below its maximum?",
    points=3,
    minutes=20,
    difficulty=2,
    reference=reference.precision_recall_by_level,
    cases=level_cases,
    mistakes=[
        Mistake(
            "swapped",
            rates(finish=lambda hits, fired, present: (hits / present, hits / fired)),
            "Precision and recall are swapped. Precision: of the tokens where it fires, how many show the concept.",
        ),
        Mistake(
            "absolute_levels",
            rates(lambda activation, levels: activation > levels[:, None]),
            "The levels are taken as activations. They are shares of the largest activation.",
        ),
        Mistake(
            "at_or_above",
            rates(lambda activation, levels: activation >= levels[:, None] * activation.max()),
            "This uses >=, so that at level 0 every silent token counts as firing. It fires where the activation is greater.",
        ),
        Mistake(
            "largest_on_concept",
            _largest_on_concept,
            "The levels are shares of the largest activation on the concept. Take the largest of all: the latent does not know the concept.",
        ),
        Mistake(
            "quantiles",
            rates(lambda activation, levels: activation > activation.quantile(levels)[:, None]),
            "The levels are taken as quantiles. They are shares of the largest activation, so few tokens may be above one.",
        ),
        Mistake(
            "from_the_smallest",
            rates(_from_the_smallest),
            "The levels run from the smallest activation to the largest. They are shares of the largest, counted from 0.",
        ),
        Mistake(
            "precision_is_accuracy",
            lambda activation, concept, levels: (
                _accuracy(activation, concept, levels)[0],
                _loop_rates(activation, concept, levels)[1],
            ),
            "The first result is accuracy, which is high for anything rare. Precision divides the hits by how often it fires.",
        ),
        Mistake(
            "only_between",
            rates(_between),
            "Here only what lies between a level and the next one fires. Everything above a level does.",
        ),
        Mistake(
            "zero_for_nan",
            rates(finish=lambda hits, fired, present: (hits / fired.clamp(min=1), hits / present.clamp(min=1))),
            "Where nothing fires (or the concept never occurs) this says 0. There is nothing to judge: leave it at NaN.",
        ),
        Mistake(
            "one_for_nan",
            rates(finish=lambda hits, fired, present: (torch.where(fired > 0, hits / fired, 1.0), hits / present)),
            "Where nothing fires this says that precision is 1. There is nothing to judge: leave it at NaN.",
        ),
        Mistake(
            "f1",
            rates(finish=lambda hits, fired, present: (2 * hits / (fired + present), hits / present)),
            "The first result is F1. Return the precision itself: hits divided by how often it fires.",
        ),
        Mistake(
            "jaccard",
            rates(finish=lambda hits, fired, present: (hits / (fired + present - hits), hits / present)),
            "The first result divides by all tokens where it fires *or* the concept is there (Jaccard). Precision divides by how often it fires.",
        ),
        Mistake(
            "of_all_tokens",
            _of_all_tokens,
            "The hits are divided by the number of all tokens. Precision divides by how often it fires, recall by how often the concept occurs.",
        ),
        Mistake(
            "accuracy",
            _accuracy,
            "This is accuracy, which is high for anything rare. Divide the hits by how often it fires, and by how often the concept occurs.",
        ),
        Mistake(
            "false_positive_rate",
            _false_positive_rate,
            "This divides the false alarms by all tokens without the concept. Precision asks: of the tokens where it fires, how many show the concept?",
        ),
        Mistake(
            "share_of_all",
            rates(finish=lambda hits, fired, present: (hits / len(hits), hits / present)),
            "The hits are divided by the number of levels. Precision divides by how often it fires.",
        ),
        Mistake(
            "below",
            rates(lambda activation, levels: activation <= levels[:, None] * activation.max()),
            "This looks at the tokens below the level. It fires where the activation is greater.",
        ),
        Mistake(
            "counts",
            rates(finish=lambda hits, fired, present: (hits.float(), hits.float())),
            "These are counts of hits. Divide by how often it fires, and by how often the concept occurs.",
        ),
    ],
    equivalents=[
        rates(),
        _loop_rates,
        rates(lambda activation, levels: activation > activation.max() * levels[..., None]),
    ],
    hints=[
        "First a table of truth values: one row for each level, one column for each token: does it fire?",
        "activation > levels[:, None] * activation.max() is that table. Hits are where it fires and the concept is there.",
        "hits = (fires & concept).sum(dim=1); return hits / fires.sum(dim=1), hits / concept.sum()",
    ],
)

# --------------------------------------------------------------------------------------------------------------- steer


def steer_cases(seed: int) -> Iterable[Case]:
    tries: list[tuple[int, int, str, float, dict[str, Any], str]] = [
        (3, 7, SITES[0], 4.0, {}, ""),
        (1, 5, SITES[2], 2.5, {}, "a batch of one"),
        (4, 4, SITES[1], 0.0, {}, "clamped to 0: the feature is removed"),
        (2, 6, SITES[3], -3.0, {"attention_only": True}, "a model without MLPs, clamped to a negative value"),
        (5, 3, SITES[0], 6.0, {"heads": 3, "layers": 2}, "two layers, three heads"),
    ]
    for k, (batch, length, site, value, sizes, note) in enumerate(tries):
        model, d_model = random_gpt2(seed, **sizes), 5 * sizes.get("heads", 2)
        sae = Recipe("sae", {"seed": seed + k, "d_in": d_model, "d_sae": 6 + k})
        inputs = {"model": model, "sae": sae, "site": site, "tokens": draw_tokens(seed + k, batch, length)}
        yield Case({**inputs, "feature": 2 + k % 3, "value": value}, note=note)


def steering(put: Callable[[Any, Tensor, int, float], Tensor]) -> Callable[..., Tensor]:
    """A steering function from one that changes the activations."""

    def answer(model: Any, sae: Any, site: str, tokens: Tensor, feature: int, value: float) -> Tensor:
        return _with(model, site, tokens, lambda x: put(sae, x, feature, value))

    return answer


def _clamped(sae: Any, x: Tensor, feature: int, value: float) -> Tensor:
    codes = sae.encode(x).clone()
    codes[..., feature] = value
    return codes


def _moved(sae: Any, x: Tensor, feature: int, value: float) -> Tensor:
    """The right edit: along the decoder's row, from what the feature is to what it shall be."""
    return x + (value - sae.encode(x)[..., feature : feature + 1]) * sae.W_dec[feature]


def _at_last(sae: Any, x: Tensor, feature: int, value: float) -> Tensor:
    return torch.cat([x[:, :-1], _moved(sae, x, feature, value)[:, -1:]], dim=1)


def _at_first_prompt(sae: Any, x: Tensor, feature: int, value: float) -> Tensor:
    return torch.cat([_moved(sae, x, feature, value)[:1], x[1:]])


def _where_active(sae: Any, x: Tensor, feature: int, value: float) -> Tensor:
    return torch.where(sae.encode(x)[..., feature : feature + 1] > 0, _moved(sae, x, feature, value), x)


def _unclipped(sae: Any, x: Tensor, feature: int, value: float) -> Tensor:
    now = (x - sae.b_dec) @ sae.W_enc[:, feature] + sae.b_enc[feature]
    return x + (value - now)[..., None] * sae.W_dec[feature]


def _steer_with_error(model: Any, sae: Any, site: str, tokens: Tensor, feature: int, value: float) -> Tensor:
    def edit(x: Tensor, hook: Any) -> Tensor:
        error = x - sae.decode(sae.encode(x))
        return sae.decode(_clamped(sae, x, feature, value)) + error

    return model.run_with_hooks(tokens, fwd_hooks=[(site, edit)])


def _steer_from_cache(model: Any, sae: Any, site: str, tokens: Tensor, feature: int, value: float) -> Tensor:
    edited = _moved(sae, model.run_with_cache(tokens)[1][site], feature, value)
    with model.hooks(fwd_hooks=[(site, lambda x, hook: edited)]):
        return model(tokens)


STEER = Exercise(
    id="sae.steer",
    chapter=CHAPTER,
    title="Turn a feature up",
    points=3,
    minutes=25,
    difficulty=3,
    reference=reference.steer,
    cases=steer_cases,
    mistakes=[
        Mistake(
            "error_lost",
            steering(lambda sae, x, feature, value: sae.decode(_clamped(sae, x, feature, value))),
            "What the SAE does not reconstruct is lost here, so the model changes even without an edit. Keep the error term: change x only along the feature.",
        ),
        Mistake(
            "added",
            steering(lambda sae, x, feature, value: x + value * sae.W_dec[feature]),
            "This adds `value` to what the feature is already. Clamp it: the feature *becomes* `value`, so take its present code away.",
        ),
        Mistake(
            "added_code",
            steering(
                lambda sae, x, feature, value: x + (sae.encode(x)[..., feature, None] - value) * sae.W_dec[feature]
            ),
            "The sign is turned: move by (value - code), not by (code - value).",
        ),
        Mistake(
            "multiplied",
            steering(
                lambda sae, x, feature, value: x + (value - 1) * sae.encode(x)[..., feature, None] * sae.W_dec[feature]
            ),
            "This multiplies the feature, so where it is 0 nothing happens. Set it to `value`.",
        ),
        Mistake(
            "where_active",
            steering(_where_active),
            "Only positions where the feature is active are changed. Clamp it everywhere.",
        ),
        Mistake(
            "encoder_direction",
            steering(
                lambda sae, x, feature, value: x + (value - sae.encode(x)[..., feature, None]) * sae.W_enc[:, feature]
            ),
            "This moves along the encoder's column, which *reads* the feature. What it writes is the decoder's row, W_dec[feature].",
        ),
        Mistake(
            "unit_direction",
            steering(
                lambda sae, x, feature, value: (
                    x + (value - sae.encode(x)[..., feature, None]) * _unit(sae.W_dec[feature])
                )
            ),
            "The decoder's row is divided by its length. Its length counts: move by (value - code) * W_dec[feature].",
        ),
        Mistake(
            "bias_added",
            steering(lambda sae, x, feature, value: _moved(sae, x, feature, value) + sae.b_dec),
            "b_dec is added once more: `decode` adds it to whatever it gets. Move x along W_dec[feature] alone.",
        ),
        Mistake(
            "others_silenced",
            steering(lambda sae, x, feature, value: x - sae(x) + value * sae.W_dec[feature] + sae.b_dec),
            "The other features are set to 0. Only this one becomes `value`; the others keep their codes.",
        ),
        Mistake(
            "replaced",
            steering(lambda sae, x, feature, value: (value * sae.W_dec[feature] + sae.b_dec).expand_as(x)),
            "Everything else is gone: only the feature is left. Change x along the feature, and leave the rest.",
        ),
        Mistake(
            "before_the_relu",
            steering(_unclipped),
            "The present code is taken before the ReLU, so it may be negative. What the feature is now is sae.encode(x)[..., feature].",
        ),
        Mistake(
            "last_position",
            steering(_at_last),
            "Only the last position is steered. Clamp the feature at every position.",
        ),
        Mistake(
            "first_prompt",
            steering(_at_first_prompt),
            "Only the first prompt is steered. Clamp the feature in all of them.",
        ),
        Mistake(
            "not_steered",
            steering(lambda sae, x, feature, value: x),
            "These are the logits without an edit. Does your hook return the changed activations?",
        ),
        Mistake(
            "probabilities",
            lambda *inputs: steering(_moved)(*inputs).softmax(dim=-1),
            "These are probabilities. Return the logits.",
        ),
        Mistake(
            "only_removed",
            steering(lambda sae, x, feature, value: _moved(sae, x, feature, 0.0)),
            "The feature is removed, whatever `value` is. Set it to `value`.",
        ),
    ],
    equivalents=[steering(_moved), _steer_with_error, _steer_from_cache],
    hints=[
        "At every position the feature is sae.encode(x)[..., feature] now. How far, and along which direction, must x move so that it counts as `value`?",
        "Move along sae.W_dec[feature] by (value - code). Nothing else changes, not even what the SAE misses.",
        "In the hook: code = sae.encode(x)[..., feature, None]; return x + (value - code) * sae.W_dec[feature]",
    ],
)

EXERCISES = [
    MEAN_MAX_COSINE_SIMILARITY,
    SAE,
    RELU_L1_LOSS,
    REMOVE_PARALLEL_GRADIENT,
    RESAMPLE_DEAD,
    TOPK_ACTIVATION,
    JUMPRELU,
    EXPLAINED_VARIANCE,
    LOSS_RECOVERED,
    TOP_ACTIVATIONS,
    PRECISION_RECALL_BY_LEVEL,
    STEER,
]
