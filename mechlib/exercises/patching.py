"""The exercises of chapter 04_patching."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from mechlib import attribution, metrics, patching
from mechlib.checker import Case, Exercise, Mistake, Recipe
from mechlib.checker import compare as comparing
from mechlib.checker.compare import moments

CHAPTER = "04_patching"

# ------------------------------------------------------------------------------------------------------ things to try


def draws(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def ids(seed: int, *shape: int, vocabulary: int = 17) -> Tensor:
    return torch.randint(2, vocabulary, shape, generator=torch.Generator().manual_seed(seed))


def twins(seed: int, batch: int, length: int, changed: list[int]) -> tuple[Tensor, Tensor]:
    """Clean and corrupted prompts that differ at some positions."""
    clean = ids(seed, batch, length)
    corrupted = clean.clone()
    corrupted[:, changed] = (clean[:, changed] - 1) % 15 + 2
    return clean, corrupted


def pairs(seed: int, batch: int, vocabulary: int = 17) -> Tensor:
    """The ids of an answer and another token for each prompt."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(vocabulary, generator=generator)[:2] for _ in range(batch)])


def random_gpt2(seed: int, **sizes: Any) -> Recipe:
    return Recipe("gpt2", {"seed": seed % 5, **sizes})


def run_of(model: Recipe, tokens: Tensor) -> Recipe:
    return Recipe("activations", {"model": model, "tokens": tokens})


def hooked(model: Any, tokens: Tensor, name: str, edit: Callable[[Tensor], Any]) -> Tensor:
    """The logits after an edit in place of a copy of one activation."""

    def hook(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        edit(value)
        return value

    return model.run_with_hooks(tokens, fwd_hooks=[(name, hook)])


def setting(index: Any, source: Tensor) -> Callable[[Tensor], None]:
    """An edit that takes a part of the activation from another run."""

    def edit(value: Tensor) -> None:
        value[index] = source[index]

    return edit


def _patch_layers(model: Any, tokens: Tensor, source: Any, names: list[str], index: Any) -> Tensor:
    """The logits with the same part of several layers' activations taken from another run."""

    def put(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        value[index] = source[hook.name][index]
        return value

    return model.run_with_hooks(tokens, fwd_hooks=[(name, put) for name in names])


ALL = slice(None)

# ------------------------------------------------------------------------------------------------- logit_diff, log_prob


def metric_cases(seed: int) -> Iterable[Case]:
    for batch, vocabulary, scale, dtype, note in [
        (4, 9, 1.0, torch.float32, ""),
        (1, 6, 1.0, torch.float32, "a batch of one"),
        (6, 6, 1.0, torch.float32, "as many prompts as words"),
        (3, 11, 30.0, torch.float32, "a model that is very sure"),
        (4, 10, 300.0, torch.float32, "logits of several hundred"),
        (5, 8, 1.0, torch.float64, "float64 logits"),
    ]:
        logits = scale * draws(seed + batch, batch, vocabulary, dtype=dtype) + 3
        yield Case({"logits": logits, "answers": pairs(seed + batch, batch, vocabulary)}, note=note)
    logits, answers = draws(seed, 4, 9), pairs(seed, 4, 9)
    yield Case({"logits": logits, "answers": answers}, drive="other_device", compare=comparing.other_device)


def _pick(scores: Tensor, answers: Tensor, column: int) -> Tensor:
    return scores[torch.arange(len(scores), device=scores.device), answers[:, column]]


LOGIT_DIFF = Exercise(
    id="patching.logit_diff",
    chapter=CHAPTER,
    title="How much does the model prefer the answer?",
    points=1,
    minutes=5,
    difficulty=1,
    reference=metrics.logit_diff,
    cases=metric_cases,
    mistakes=[
        Mistake(
            "swapped",
            lambda logits, answers: _pick(logits, answers, 1) - _pick(logits, answers, 0),
            "This subtracts the answer's logit from the distractor's: swap them.",
        ),
        Mistake(
            "mean",
            lambda logits, answers: (_pick(logits, answers, 0) - _pick(logits, answers, 1)).mean(),
            "This is the mean over the prompts. Return one number for each prompt; the mean comes later.",
        ),
        Mistake(
            "every_pair",
            lambda logits, answers: logits[:, answers[:, 0]] - logits[:, answers[:, 1]],
            "This looks up every prompt's words for every prompt. Pair row i of the logits with row i of the answers: gather does.",
        ),
        Mistake(
            "probabilities",
            lambda logits, answers: _pick(logits.softmax(-1), answers, 0) - _pick(logits.softmax(-1), answers, 1),
            "This is a difference of probabilities. Take the logits as they are.",
        ),
        Mistake(
            "answer_only",
            lambda logits, answers: _pick(logits, answers, 0),
            "This is the answer's logit alone. Subtract the distractor's.",
        ),
        Mistake(
            "absolute",
            lambda logits, answers: (_pick(logits, answers, 0) - _pick(logits, answers, 1)).abs(),
            "The sign is lost. Where the model prefers the distractor, the difference is negative.",
        ),
    ],
    equivalents=[
        lambda logits, answers: _pick(logits, answers, 0) - _pick(logits, answers, 1),
        lambda logits, answers: -logits.gather(1, answers).diff(dim=1)[:, 0],
        lambda logits, answers: _pick(logits.log_softmax(-1), answers, 0) - _pick(logits.log_softmax(-1), answers, 1),
    ],
    hints=[
        "For each prompt you need two of its logits: those whose numbers stand in its row of `answers`.",
        "logits.gather(1, answers) has shape (batch, 2): the answer's logit and the distractor's.",
        "chosen = logits.gather(1, answers), then one column less the other.",
    ],
)

LOG_PROB = Exercise(
    id="patching.log_prob",
    chapter=CHAPTER,
    title="How likely is the answer, on a log scale?",
    points=1,
    minutes=5,
    difficulty=1,
    reference=metrics.log_prob,
    cases=metric_cases,
    mistakes=[
        Mistake(
            "logit",
            lambda logits, answers: _pick(logits, answers, 0),
            "This is the answer's logit. Normalise over the vocabulary first, with log_softmax.",
        ),
        Mistake(
            "prob",
            lambda logits, answers: _pick(logits.softmax(-1), answers, 0),
            "This is the probability: take its logarithm.",
        ),
        Mistake(
            "underflow",
            lambda logits, answers: _pick(logits.softmax(-1).log(), answers, 0),
            "softmax followed by log gives the log of 0 for unlikely words: use log_softmax.",
        ),
        Mistake(
            "largest_subtracted",
            lambda logits, answers: _pick(logits - logits.amax(dim=-1, keepdim=True), answers, 0),
            "This subtracts the largest logit. To normalise, subtract the logarithm of the sum of all exponentials: log_softmax.",
        ),
        Mistake(
            "bits",
            lambda logits, answers: _pick(logits.log_softmax(-1), answers, 0) / math.log(2),
            "This is in bits (logarithm to base 2). Nats use the natural logarithm.",
        ),
        Mistake(
            "over_the_batch",
            lambda logits, answers: _pick(logits.log_softmax(0), answers, 0),
            "This normalises over the prompts. Probabilities add up to one over the vocabulary, the last axis.",
        ),
        Mistake(
            "distractor",
            lambda logits, answers: _pick(logits.log_softmax(-1), answers, 1),
            "This is the distractor's log-probability. The answer stands in column 0.",
        ),
        Mistake(
            "between_two",
            lambda logits, answers: logits.gather(1, answers).log_softmax(-1)[:, 0],
            "This normalises over the two names alone. All words of the vocabulary share the probability.",
        ),
        Mistake(
            "loss",
            lambda logits, answers: -_pick(logits.log_softmax(-1), answers, 0),
            "This is the loss, the negative log-probability: change the sign.",
        ),
    ],
    equivalents=[
        lambda logits, answers: logits.log_softmax(dim=-1).gather(1, answers[:, :1])[:, 0],
        lambda logits, answers: _pick(logits, answers, 0) - logits.logsumexp(dim=-1),
        lambda logits, answers: -torch.nn.functional.cross_entropy(logits, answers[:, 0], reduction="none"),
    ],
    hints=[
        "log_softmax turns logits into log-probabilities. Over which axis?",
        "Take the log_softmax over the last axis, then pick each prompt's answer, column 0 of `answers`.",
        "logits.log_softmax(dim=-1).gather(1, answers[:, :1]), without its last axis.",
    ],
)

# ------------------------------------------------------------------------------------------------- normalised_effect


def effect_cases(seed: int) -> Iterable[Case]:
    for direction in ("denoising", "noising"):
        for shape, note in [((3, 5), ""), ((2, 4, 3), ""), ((1,), "a single cell")]:
            clean, corrupted = draws(seed, 2)
            inputs = {"patched": draws(seed + len(shape), *shape), "clean": clean + 2, "corrupted": corrupted - 2}
            yield Case({**inputs, "direction": direction}, note=note or direction)
        many = {"patched": draws(seed + 7, 4, 3), "clean": draws(seed, 3) + 3, "corrupted": draws(seed + 1, 3) - 3}
        yield Case({**many, "direction": direction}, note="values for each of three prompts")
        upside_down = {**many, "clean": many["corrupted"], "corrupted": many["clean"]}
        yield Case({**upside_down, "direction": direction}, note="prompts whose corrupted value is the higher one")
        near = {**many, "corrupted": many["clean"] - 0.004}
        yield Case({**near, "direction": direction}, note="clean and corrupted values that are nearly equal")
        many = {**many, "corrupted": many["corrupted"].clone()}
        many["corrupted"][1] = many["clean"][1]
        yield Case({**many, "direction": direction}, note="a prompt whose clean and corrupted values are equal")


def _ratio(top: Tensor, gap: Tensor) -> Tensor:
    return top / torch.where(gap == 0, torch.nan, gap)


NORMALISED_EFFECT = Exercise(
    id="patching.normalised_effect",
    chapter=CHAPTER,
    title="How much of the whole effect is it?",
    points=2,
    minutes=10,
    difficulty=2,
    reference=metrics.normalised_effect,
    cases=effect_cases,
    mistakes=[
        Mistake(
            "one_direction",
            lambda patched, clean, corrupted, direction: _ratio(patched - corrupted, clean - corrupted),
            "This is right for denoising. Noising starts from the clean run: nothing lost is 0 there.",
        ),
        Mistake(
            "noising_positive",
            lambda patched, clean, corrupted, direction: _ratio(
                patched - corrupted if direction == "denoising" else clean - patched, clean - corrupted
            ),
            "Your noising effects have the other sign. A broken answer is -1: the metric went down.",
        ),
        Mistake(
            "swapped_directions",
            lambda patched, clean, corrupted, direction: _ratio(
                patched - (clean if direction == "denoising" else corrupted), clean - corrupted
            ),
            "The two directions are swapped. Denoising begins at the corrupted run, noising at the clean one.",
        ),
        Mistake(
            "over_clean",
            lambda patched, clean, corrupted, direction: _ratio(
                patched - (corrupted if direction == "denoising" else clean), clean
            ),
            "This divides by the clean value. The unit is the whole way from corrupted to clean.",
        ),
        Mistake(
            "not_divided",
            lambda patched, clean, corrupted, direction: patched - (corrupted if direction == "denoising" else clean),
            "This is the change itself. Divide by the difference between the clean and the corrupted value.",
        ),
        Mistake(
            "infinite",
            lambda patched, clean, corrupted, direction: (
                (patched - (corrupted if direction == "denoising" else clean)) / (clean - corrupted)
            ),
            "Where clean and corrupted are equal this divides by zero and gives infinity. Nothing can be restored there: give NaN.",
        ),
        Mistake(
            "zero_where_equal",
            lambda patched, clean, corrupted, direction: _ratio(
                patched - (corrupted if direction == "denoising" else clean), clean - corrupted
            ).nan_to_num(0.0),
            "Where clean and corrupted are equal this gives 0, as if a patch had done nothing. Nothing can be said there: give NaN.",
        ),
    ],
    equivalents=[
        lambda patched, clean, corrupted, direction: _ratio(
            patched - (corrupted if direction == "denoising" else clean), clean - corrupted
        ),
        lambda patched, clean, corrupted, direction: (
            _ratio(patched - corrupted, clean - corrupted) - float(direction == "noising")
        ),
    ],
    hints=[
        "From which value does the run start before anything is patched: clean or corrupted?",
        "Subtract that value, and divide by clean - corrupted, in both directions.",
        "(patched - start) / gap, with gap = clean - corrupted, and NaN where gap is 0 (torch.where).",
    ],
)

# -------------------------------------------------------------------------------------------------- patch_residual


def patch_residual_cases(seed: int) -> Iterable[Case]:
    for k, (batch, length, layer, position, changed) in enumerate(
        [(3, 7, 1, 4, [1, 4]), (2, 5, 0, 2, [2]), (1, 6, 2, 5, [0, 3]), (4, 4, 2, 1, [0, 1, 2, 3])]
    ):
        model = random_gpt2(seed + k)
        clean, corrupted = twins(seed + k, batch, length, changed)
        yield Case(
            {"model": model, "tokens": corrupted, "source": run_of(model, clean), "layer": layer, "position": position},
            note="a batch of one" if batch == 1 else "",
        )


def _resid(layer: int, name: str = "hook_resid_pre") -> str:
    return f"blocks.{layer}.{name}"


PATCH_RESIDUAL = Exercise(
    id="patching.patch_residual",
    chapter=CHAPTER,
    title="Put one vector of another run in",
    points=2,
    minutes=20,
    difficulty=2,
    reference=patching.patch_residual,
    cases=patch_residual_cases,
    mistakes=[
        Mistake(
            "all_positions",
            lambda model, tokens, source, layer, position: hooked(
                model, tokens, _resid(layer), setting(ALL, source[_resid(layer)])
            ),
            "This replaces the stream at every position. Only one position takes the other run's vector.",
        ),
        Mistake(
            "after_the_layer",
            lambda model, tokens, source, layer, position: hooked(
                model,
                tokens,
                _resid(layer, "hook_resid_post"),
                setting((ALL, position), source[_resid(layer, "hook_resid_post")]),
            ),
            "This patches the stream after the layer. Before it is hook_resid_pre.",
        ),
        Mistake(
            "first_prompt",
            lambda model, tokens, source, layer, position: hooked(
                model, tokens, _resid(layer), setting((0, position), source[_resid(layer)])
            ),
            "Only the first prompt of the batch is patched. The first axis of an activation is the batch.",
        ),
        Mistake(
            "added",
            lambda model, tokens, source, layer, position: hooked(
                model, tokens, _resid(layer), lambda x: x[:, position].add_(source[_resid(layer)][:, position])
            ),
            "This adds the other run's vector to what is there. Put it in the place of it.",
        ),
        Mistake(
            "not_patched",
            lambda model, tokens, source, layer, position: model(tokens),
            "These are the logits without a patch. Does your hook return the changed stream, or does it change a copy and drop it?",
        ),
        Mistake(
            "one_to_the_left",
            lambda model, tokens, source, layer, position: hooked(
                model, tokens, _resid(layer), setting((ALL, position - 1), source[_resid(layer)])
            ),
            "This patches the position one to the left. Position 0 is the first token, <bos>, and counts.",
        ),
        Mistake(
            "from_there_on",
            lambda model, tokens, source, layer, position: hooked(
                model, tokens, _resid(layer), setting((ALL, slice(position, None)), source[_resid(layer)])
            ),
            "This patches the position and everything behind it. Only the one position takes the other run's vector.",
        ),
        Mistake(
            "later_layers_too",
            lambda model, tokens, source, layer, position: _patch_layers(
                model, tokens, source, [_resid(n) for n in range(layer, model.cfg.n_layers)], (ALL, position)
            ),
            "This patches every later layer as well. One layer takes the other run's vector; the rest runs on from there.",
        ),
    ],
    equivalents=[
        lambda model, tokens, source, layer, position: hooked(
            model, tokens, _resid(layer), setting((ALL, position), source[_resid(layer)])
        ),
        lambda model, tokens, source, layer, position: hooked(
            model, tokens, _resid(layer), setting((ALL, position), source["resid_pre", layer])
        ),
        lambda model, tokens, source, layer, position: model.run_with_hooks(
            tokens,
            fwd_hooks=[
                (
                    _resid(layer),
                    lambda x, hook: torch.cat(
                        [x[:, :position], source[hook.name][:, position : position + 1], x[:, position + 1 :]], dim=1
                    ),
                )
            ],
        ),
    ],
    hints=[
        "A hook is a function hook(stream, hook) that returns the stream to go on with: [batch position d_model].",
        "model.run_with_hooks(tokens, fwd_hooks=[(name, function)]), and source[name] is the other run's stream there.",
        "stream[:, position] = source[name][:, position] on a clone; the name is f'blocks.{layer}.hook_resid_pre'.",
    ],
)

# ------------------------------------------------------------------------------------------------------ patch_head


def patch_head_cases(seed: int) -> Iterable[Case]:
    for k, (batch, length, layer, head, changed, sizes) in enumerate(
        [
            (3, 7, 1, 1, [1, 4], {}),
            (2, 5, 0, 2, [2], {"heads": 3}),
            (1, 6, 2, 0, [0, 3], {}),
            (3, 3, 1, 2, [0, 1], {"heads": 3}),
        ]
    ):
        model = random_gpt2(seed + k, **sizes)
        clean, corrupted = twins(seed + k, batch, length, changed)
        yield Case(
            {"model": model, "tokens": corrupted, "source": run_of(model, clean), "layer": layer, "head": head},
            note="a batch of one" if batch == 1 else "",
        )


def _z(layer: int, name: str = "hook_z") -> str:
    return f"blocks.{layer}.attn.{name}"


def _patch_z(index: Callable[[int], Any], name: str = "hook_z") -> Callable:
    return lambda model, tokens, source, layer, head: hooked(
        model, tokens, _z(layer, name), setting(index(head), source[_z(layer, name)])
    )


PATCH_HEAD = Exercise(
    id="patching.patch_head",
    chapter=CHAPTER,
    title="Put one head's output in",
    points=2,
    minutes=15,
    difficulty=2,
    reference=patching.patch_head,
    cases=patch_head_cases,
    mistakes=[
        Mistake(
            "all_heads",
            _patch_z(lambda head: ALL),
            "This patches every head of the layer. Choose one on the third axis of z.",
        ),
        Mistake(
            "head_as_position",
            _patch_z(lambda head: (ALL, head)),
            "This uses the head's number as a position. z is [batch position head d_head].",
        ),
        Mistake(
            "last_position",
            _patch_z(lambda head: (ALL, -1, head)),
            "This patches the head at the last position only. Patch it at all positions.",
        ),
        Mistake(
            "pattern",
            _patch_z(lambda head: (ALL, head), "hook_pattern"),
            "This patches where the head looks (its pattern). Its output is z: what it found there, weighted.",
        ),
        Mistake(
            "values",
            _patch_z(lambda head: (ALL, ALL, head), "hook_v"),
            "This patches the head's values. Its output, z, also holds where it looked.",
        ),
        Mistake(
            "in_every_layer",
            lambda model, tokens, source, layer, head: _patch_layers(
                model, tokens, source, [_z(n) for n in range(model.cfg.n_layers)], (ALL, ALL, head)
            ),
            "This patches the head of that number in every layer. Only the given layer takes the other run's output.",
        ),
        Mistake(
            "first_prompt",
            _patch_z(lambda head: (0, ALL, head)),
            "Only the first prompt of the batch is patched. The first axis of an activation is the batch.",
        ),
    ],
    equivalents=[
        _patch_z(lambda head: (ALL, ALL, head)),
        lambda model, tokens, source, layer, head: hooked(
            model, tokens, _z(layer), setting((ALL, ALL, head), source["z", layer])
        ),
    ],
    hints=[
        "A head's output before W_O is called z. Its hook is blocks.{layer}.attn.hook_z. (Inside the hook, hook.name is another name: use your own variable.)",
        "z has the axes batch, position, head, d_head. Which of them do you choose from, and which stay whole?",
        "z[:, :, head] = source[name][:, :, head], on a clone.",
    ],
)

# -------------------------------------------------------------------------------------------------- residual_sweep


def sweep_cases(seed: int) -> Iterable[Case]:
    for k, (batch, length, changed, direction, layers) in enumerate(
        [
            (3, 4, [1, 2], "denoising", 3),
            (2, 3, [1], "noising", 2),
            (1, 3, [1], "denoising", 2),
            (4, 3, [1], "noising", 3),
        ]
    ):
        clean, corrupted = twins(seed + k, batch, length, changed)
        yield Case(
            {
                "model": random_gpt2(seed + k, layers=layers),
                "clean": clean,
                "corrupted": corrupted,
                "answers": pairs(seed + k, batch),
                "direction": direction,
            },
            note=direction,
        )


def _sweep(
    flip: bool = False,
    one_way: bool = False,
    mean: bool = True,
    at: int = -1,
    sign: int = 1,
    hook: str = "hook_resid_pre",
    at_the_patch: bool = False,
) -> Callable:
    def answer(model: Any, clean: Tensor, corrupted: Tensor, answers: Tensor, direction: str) -> Tensor:
        noising = direction == "noising" and not one_way
        base, source = (clean, corrupted) if noising != flip else (corrupted, clean)
        _, cache = model.run_with_cache(source)
        rows = []
        for layer in range(model.cfg.n_layers):
            for position in range(base.shape[1]):
                name = _resid(layer, hook)
                logits = hooked(model, base, name, setting((ALL, position), cache[name]))
                logits = logits[:, position if at_the_patch else at]
                difference = sign * (_pick(logits, answers, 0) - _pick(logits, answers, 1))
                rows.append(difference.mean() if mean else difference.sum())
        return torch.stack(rows).view(model.cfg.n_layers, base.shape[1])

    return answer


RESIDUAL_SWEEP = Exercise(
    id="patching.residual_sweep",
    chapter=CHAPTER,
    title="Every layer, every position",
    points=3,
    minutes=20,
    difficulty=3,
    reference=patching.residual_sweep,
    cases=sweep_cases,
    mistakes=[
        Mistake(
            "directions_swapped",
            _sweep(flip=True),
            "The directions are swapped. Denoising runs the corrupted prompts and puts clean activations in.",
        ),
        Mistake(
            "always_denoising",
            _sweep(one_way=True),
            "This always denoises. For noising, run the clean prompts and put corrupted activations in.",
        ),
        Mistake("sum", _sweep(mean=False), "This is the sum over the prompts. Take their mean."),
        Mistake(
            "transposed",
            lambda *inputs: _sweep()(*inputs).T,
            "Rows and columns are swapped: layers are the rows, positions the columns.",
        ),
        Mistake("wrong_sign", _sweep(sign=-1), "The sign is off: the answer's logit less the distractor's."),
        Mistake(
            "after_the_layer",
            _sweep(hook="hook_resid_post"),
            "This patches the stream after each layer. Patch it before: hook_resid_pre.",
        ),
        Mistake(
            "read_where_patched",
            _sweep(at_the_patch=True),
            "This reads the logits at the patched position. The answer is read at the last position, wherever the patch is.",
        ),
    ],
    equivalents=[
        _sweep(),
        lambda model, clean, corrupted, answers, direction: patching.sweep(
            model,
            clean,
            corrupted,
            lambda logits: _pick(logits, answers, 0) - _pick(logits, answers, 1),
            direction=direction,
        ).mean(dim=-1),
    ],
    hints=[
        "Run the source prompts once with run_with_cache, then loop: for every layer, for every position.",
        "patch_residual(model, base, cache, layer, position) gives logits; read them at the last position, and take the mean logit_diff.",
        "values[layer, position] = logit_diff(patch_residual(...)[:, -1], answers).mean(), with base and source chosen by the direction.",
    ],
)

# ------------------------------------------------------------------------------------------------ corrupt_by_noise


def noise_cases(seed: int) -> Iterable[Case]:
    for batch, length, d, positions, scale, given in [
        (1500, 4, 3, [1, 2], 0.7, True),
        (2000, 3, 2, [0], 2.0, True),
        (1500, 5, 2, [4, 1], 0.3, False),
    ]:
        embeddings = 3 * draws(seed, batch, length, d)  # not of size one, so that noise in units of theirs is noticed
        inputs = {"embeddings": embeddings, "positions": positions, "scale": scale}
        generator = Recipe("generator", {"seed": seed + d}) if given else None
        # What is compared is a sample: the noise itself, a row a prompt.
        yield Case({**inputs, "generator": generator}, drive="draw", compare=_noise(embeddings, scale))


def _noise(embeddings: Tensor, scale: float) -> comparing.Compare:
    def columns(noised: Tensor) -> dict[str, Tensor]:
        noise = noised - embeddings.double()
        quiet = noise.abs() < 1e-6
        half = len(noise) // 2
        return {
            "the share of numbers that did not change": quiet.double(),
            "the mean of the noise": noise,
            "the mean square of the noise": noise**2,
            "the share of noise below zero": (noise < -1e-6).double(),
            "the mean product of the noise in two dimensions": noise * noise.roll(-1, dims=2),
            "the mean product of the noise at two positions": noise * noise.roll(-1, dims=1),
            "the mean product of the noise in two prompts": noise[:half] * noise[half : 2 * half],
            "the mean fourth power of the noise": noise**4,
            # Half of all Gaussian noise; heavy tails drown every mean, but no share.
            "the share of noise below 0.6745 times the scale": (noise.abs() < 0.6745 * scale).double(),
            # One number in 28: what a clipped Gaussian lacks.
            "the share of noise beyond 2.1 times the scale": (noise.abs() > 2.1 * scale).double(),
        }

    return moments(columns, axes="[position, dimension]")


def _add_noise(
    kind: Callable = torch.randn,
    power: float = 1.0,
    everywhere: bool = False,
    shared: str = "",
    replace: bool = False,
    relative: bool = False,
    in_place: bool = False,
) -> Callable:
    def answer(embeddings: Tensor, positions: list[int], scale: float, generator: torch.Generator | None) -> Tensor:
        batch, _, d = embeddings.shape
        where = list(range(embeddings.shape[1])) if everywhere else positions
        shape = (1 if shared == "prompts" else batch, 1 if shared == "positions" else len(where), d)
        noise = scale**power * kind(shape, generator=generator) * (embeddings.std() if relative else 1)
        noised = embeddings if in_place else embeddings.clone()
        noised[:, where] = noise.expand(batch, len(where), d) + (0 if replace else noised[:, where])
        return noised

    return answer


CORRUPT_BY_NOISE = Exercise(
    id="patching.corrupt_by_noise",
    chapter=CHAPTER,
    title="Make a word unreadable",
    points=2,
    minutes=15,
    difficulty=2,
    reference=patching.corrupt_by_noise,
    cases=noise_cases,
    mistakes=[
        Mistake(
            "in_place",
            _add_noise(in_place=True),
            "This adds the noise to the embeddings that it was given, so that the next call finds them noisy. Work on a clone.",
        ),
        Mistake(
            "uniform",
            _add_noise(torch.rand),
            "This noise is uniform between 0 and 1. Take Gaussian noise: torch.randn.",
        ),
        Mistake(
            "everywhere", _add_noise(everywhere=True), "Every position gets noise. Only the given positions should."
        ),
        Mistake(
            "replaced",
            _add_noise(replace=True),
            "This replaces the embeddings by noise. Add the noise to what is there.",
        ),
        Mistake(
            "variance",
            _add_noise(power=0.5),
            "Here `scale` is the variance. It should be the standard deviation: multiply the noise by it.",
        ),
        Mistake(
            "relative",
            _add_noise(relative=True),
            "This noise is `scale` times as wide as the embeddings are. `scale` itself is the standard deviation.",
        ),
        Mistake(
            "same_for_all_prompts",
            _add_noise(shared="prompts"),
            "All prompts get the same noise. Draw it for every prompt by itself.",
        ),
        Mistake(
            "same_for_all_positions",
            _add_noise(shared="positions"),
            "All positions of a prompt get the same noise. Draw it for every position by itself.",
        ),
    ],
    equivalents=[
        _add_noise(),
        lambda embeddings, positions, scale, generator: embeddings.index_add(
            1,
            torch.tensor(positions),
            scale * torch.randn(len(embeddings), len(positions), embeddings.shape[2], generator=generator),
        ),
    ],
    hints=[
        "Copy the embeddings, then add something at the positions in the list, and nowhere else.",
        "The noise has shape (batch, number of positions, d_model). torch.randn takes generator=generator.",
        "noised[:, positions] += scale * torch.randn(..., generator=generator), on a clone.",
    ],
)

# --------------------------------------------------------------------------------------------------- trace_effects


def trace_cases(seed: int) -> Iterable[Case]:
    for layers, positions, batch, note in [
        (3, 4, 5, ""),
        (2, 6, 1, "a single prompt"),
        (1, 3, 4, "a single layer"),
        (3, 3, 3, ""),
    ]:
        clean, corrupted = draws(seed, batch) + 4, draws(seed + 1, batch) - 4
        restored = draws(seed + 2, layers, positions, batch)
        yield Case(
            {"clean": clean, "corrupted": corrupted, "restored": restored},
            note=note,
            truth=_total_is((clean - corrupted).mean()),
        )
    clean, corrupted, restored = draws(seed, 6) - 4, draws(seed + 1, 6) + 4, 12 * draws(seed + 2, 4, 3, 6)
    yield Case(
        {"clean": clean, "corrupted": corrupted, "restored": restored},
        note="a corruption that raises the metric, and states that restore more than all or less than nothing",
        truth=_total_is((clean - corrupted).mean()),
    )


def _total_is(total: Tensor) -> Callable[[Any], str | None]:
    sentence = "The total effect is the mean of clean less corrupted."
    return lambda out: None if torch.isclose(out[0], total, rtol=1e-3) else sentence


TRACE_EFFECTS = Exercise(
    id="patching.trace_effects",
    chapter=CHAPTER,
    title="Total effect, indirect effect, fraction",
    points=2,
    minutes=10,
    difficulty=2,
    reference=patching.trace_effects,
    cases=trace_cases,
    mistakes=[
        Mistake(
            "mean_of_fractions",
            lambda clean, corrupted, restored: (
                (clean - corrupted).mean(),
                (restored - corrupted).mean(-1),
                ((restored - corrupted) / (clean - corrupted)).mean(-1),
            ),
            "Your fraction is a mean of ratios, which a single prompt with a small total effect can upset. Divide the means.",
        ),
        Mistake(
            "from_clean",
            lambda clean, corrupted, restored: (
                (clean - corrupted).mean(),
                (clean - restored).mean(-1),
                (clean - restored).mean(-1) / (clean - corrupted).mean(),
            ),
            "Your indirect effect is what is still missing. It should be what the restored state gave back: restored less corrupted.",
        ),
        Mistake(
            "not_averaged",
            lambda clean, corrupted, restored: (
                clean - corrupted,
                restored - corrupted,
                (restored - corrupted) / (clean - corrupted),
            ),
            "These are effects for each prompt. Return means over the prompts.",
        ),
        Mistake(
            "sums",
            lambda clean, corrupted, restored: (
                (clean - corrupted).sum(),
                (restored - corrupted).sum(-1),
                (restored - corrupted).sum(-1) / (clean - corrupted).sum(),
            ),
            "Both effects are sums over the prompts. Take means.",
        ),
        Mistake(
            "sign",
            lambda clean, corrupted, restored: (
                (corrupted - clean).mean(),
                (corrupted - restored).mean(-1),
                (corrupted - restored).mean(-1) / (corrupted - clean).mean(),
            ),
            "Both effects have the wrong sign: clean less corrupted, and restored less corrupted.",
        ),
        Mistake(
            "total_turned",
            lambda clean, corrupted, restored: (
                (corrupted - clean).mean(),
                (restored - corrupted).mean(-1),
                (restored - corrupted).mean(-1) / (corrupted - clean).mean(),
            ),
            "The total effect has the wrong sign: clean less corrupted.",
        ),
        Mistake(
            "over_clean",
            lambda clean, corrupted, restored: (
                (clean - corrupted).mean(),
                (restored - corrupted).mean(-1),
                (restored - corrupted).mean(-1) / clean.mean(),
            ),
            "Your fraction is of the clean value. It should be of the total effect.",
        ),
    ],
    equivalents=[
        lambda clean, corrupted, restored: (
            (clean - corrupted).mean(),
            (restored - corrupted).mean(dim=-1),
            (restored - corrupted).mean(dim=-1) / (clean - corrupted).mean(),
        ),
        lambda clean, corrupted, restored: (
            clean.mean() - corrupted.mean(),
            restored.mean(-1) - corrupted.mean(),
            (restored.mean(-1) - corrupted.mean()) / (clean.mean() - corrupted.mean()),
        ),
    ],
    hints=[
        "Three runs: clean, corrupted, and corrupted with one state restored. Which two make which effect?",
        "total = mean of clean - corrupted; indirect = mean of restored - corrupted over the last axis.",
        "return total, indirect, indirect / total",
    ],
)

# --------------------------------------------------------------------------------------------------- mean_ablation


def ablation_cases(seed: int) -> Iterable[Case]:
    for k, (batch, many, length, layer, head) in enumerate(
        [(3, 4, 6, 1, 1), (1, 5, 4, 0, 0), (2, 1, 5, 2, 1), (4, 4, 4, 1, 0)]
    ):
        yield Case(
            {
                "model": random_gpt2(seed + k),
                "tokens": ids(seed + k, batch, length),
                "reference": ids(seed + k + 50, many, length),
                "layer": layer,
                "head": head,
            },
            note="a single reference prompt" if many == 1 else "",
        )


def _ablate(value: Callable[[Tensor, Tensor, int], Tensor], heads: bool = False, own: bool = False) -> Callable:
    def answer(model: Any, tokens: Tensor, reference: Tensor, layer: int, head: int) -> Tensor:
        other = model.run_with_cache(tokens if own else reference)[1][_z(layer)]

        def edit(z: Tensor) -> None:
            where = (ALL, ALL) if heads else (ALL, ALL, head)
            z[where] = value(other, z, head) if heads else value(other[:, :, head], z[:, :, head], head)

        return hooked(model, tokens, _z(layer), edit)

    return answer


MEAN_ABLATION = Exercise(
    id="patching.mean_ablation",
    chapter=CHAPTER,
    title="A head that says the usual thing",
    points=2,
    minutes=15,
    difficulty=2,
    reference=patching.mean_ablation,
    cases=ablation_cases,
    mistakes=[
        Mistake(
            "zero",
            _ablate(lambda other, z, head: torch.zeros_like(z)),
            "This sets the head's output to zero, which the model may never have seen. Put the mean in.",
        ),
        Mistake(
            "over_positions",
            _ablate(lambda other, z, head: other.mean(dim=(0, 1)).expand_as(z)),
            "This averages over positions too. Each position keeps a mean of its own.",
        ),
        Mistake(
            "own_mean",
            _ablate(lambda other, z, head: other.mean(dim=0).expand_as(z), own=True),
            "This is the mean over the prompts themselves. Take the reference prompts.",
        ),
        Mistake(
            "all_heads",
            _ablate(lambda other, z, head: other.mean(dim=0).expand_as(z), heads=True),
            "This ablates every head of the layer. Only one keeps quiet.",
        ),
        Mistake(
            "scalar",
            _ablate(lambda other, z, head: other.mean().expand_as(z)),
            "This is one number for the whole head. The mean runs over the prompts alone; positions and dimensions stay.",
        ),
        Mistake(
            "subtracted",
            _ablate(lambda other, z, head: z - other.mean(dim=0)),
            "This takes the mean away from what the head says, and leaves the news. Put the mean in its place.",
        ),
    ],
    equivalents=[
        _ablate(lambda other, z, head: other.mean(dim=0).expand_as(z)),
        _ablate(lambda other, z, head: (other.sum(dim=0, keepdim=True) / len(other)).repeat(len(z), 1, 1)),
    ],
    hints=[
        "First a run on the reference prompts, to know what the head usually says. Then a run on the prompts with a hook.",
        "run_with_cache(reference) gives z: [prompt position head d_head]. Average over the prompts, for one head.",
        "z[:, :, head] = mean[:, head], where mean = cache[name].mean(dim=0).",
    ],
)

# ---------------------------------------------------------------------------------------------- attention_knockout


def knockout_cases(seed: int) -> Iterable[Case]:
    for k, (batch, length, edges, layers) in enumerate(
        [
            (2, 6, [(5, 2)], [0, 1, 2]),
            (1, 5, [(4, 1), (3, 1)], [1]),
            (3, 7, [(6, 6), (6, 3), (4, 2)], [0, 2]),
            (2, 4, [(2, 0)], [2]),
        ]
    ):
        yield Case(
            {
                "model": random_gpt2(seed + k, heads=3 if k % 2 else 2),
                "tokens": ids(seed + k, batch, length),
                "edges": [list(edge) for edge in edges],
                "layers": layers,
            },
            note="several edges" if len(edges) > 1 else "",
        )


def _knock(
    hook: str = "hook_attn_scores",
    value: float = -torch.inf,
    turn: bool = False,
    heads: Any = ALL,
    first_only: bool = False,
    last_only: bool = False,
) -> Callable:
    def answer(model: Any, tokens: Tensor, edges: list, layers: list[int]) -> Tensor:
        def cut(scores: Tensor, hook: Any) -> Tensor:
            scores = scores.clone()
            for query, key in edges[:1] if first_only else edges[-1:] if last_only else edges:
                scores[(ALL, heads, key, query) if turn else (ALL, heads, query, key)] = value
            return scores

        return model.run_with_hooks(tokens, fwd_hooks=[(_z(layer, hook), cut) for layer in layers])

    return answer


def _all_layers(answer: Callable) -> Callable:
    return lambda model, tokens, edges, layers: answer(model, tokens, edges, range(model.cfg.n_layers))


ATTENTION_KNOCKOUT = Exercise(
    id="patching.attention_knockout",
    chapter=CHAPTER,
    title="Forbid a look",
    points=2,
    minutes=20,
    difficulty=3,
    reference=patching.attention_knockout,
    cases=knockout_cases,
    mistakes=[
        Mistake(
            "pattern_zero",
            _knock("hook_pattern", 0.0),
            "This sets the attention to zero after the softmax, so the rest no longer adds up to one. Cut the scores before it.",
        ),
        Mistake(
            "score_zero",
            _knock(value=0.0),
            "A score of zero is no ban: the softmax still gives it weight. Minus infinity gets none.",
        ),
        Mistake(
            "reversed",
            _knock(turn=True),
            "Query and key are swapped: scores are [batch head query key], and an edge is (query, key).",
        ),
        Mistake("one_head", _knock(heads=0), "Only head 0 is cut. The knockout is for all heads of the layer."),
        Mistake(
            "all_layers",
            _all_layers(_knock()),
            "This cuts the edges in every layer. Only the given ones lose them.",
        ),
        Mistake(
            "first_edge_only",
            _knock(first_only=True),
            "Only the first edge is cut. Does your hook return inside the loop?",
        ),
        Mistake(
            "last_edge_only",
            _knock(last_only=True),
            "Only the last edge is cut. Does every turn of your loop begin with the scores as they were?",
        ),
        Mistake(
            "first_layer_only",
            lambda model, tokens, edges, layers: _knock()(model, tokens, edges, layers[:1]),
            "Only the first of the layers is cut. Hang a hook into each of them.",
        ),
    ],
    equivalents=[
        _knock(),
        _knock(value=-1e9),
        lambda model, tokens, edges, layers: model.run_with_hooks(
            tokens,
            fwd_hooks=[
                (
                    _z(layer, "hook_attn_scores"),
                    lambda s, hook: s.masked_fill(
                        torch.zeros(s.shape[-2:], dtype=torch.bool).index_put(
                            tuple(torch.tensor(edges).T), torch.tensor(True)
                        ),
                        -torch.inf,
                    ),
                )
                for layer in layers
            ],
        ),
    ],
    hints=[
        "The scores before the softmax are at blocks.{layer}.attn.hook_attn_scores: [batch head query key].",
        "A score of minus infinity becomes an attention of exactly zero, and the others share what is left.",
        "scores[:, :, query, key] = -torch.inf for every edge, with one hook for each of the layers.",
    ],
)

# ------------------------------------------------------------------------------------------------ head_attribution


def attribution_cases(seed: int) -> Iterable[Case]:
    for k, (batch, length, changed, sizes) in enumerate(
        [(3, 6, [1, 3], {}), (1, 4, [2], {"heads": 3, "layers": 2}), (2, 5, [0, 1, 2, 3, 4], {"layers": 4})]
    ):
        clean, corrupted = twins(seed + k, batch, length, changed)
        inputs = {"model": random_gpt2(seed + k, **sizes), "clean": clean, "corrupted": corrupted}
        yield Case({**inputs, "answers": pairs(seed + k, batch)}, note="a batch of one" if batch == 1 else "")
    chain = {"model": Recipe("handmade", {"name": "chain"}), "clean": torch.tensor([[0, 3, 4, 5]])}
    yield Case(
        {**chain, "corrupted": torch.tensor([[0, 2, 4, 5]]), "answers": torch.tensor([[7, 6]])},
        note="the chain, where the estimate is exact",
        truth=lambda out: (
            None
            if torch.allclose(out, torch.tensor([[0.0, 8.0], [8.0, 0.0]]), atol=1e-2)
            else "In the chain each of the two heads restores 8, and the others nothing."
        ),
    )


def _attribute(
    flip: bool = False,
    at_source: bool = False,
    mean: bool = True,
    activation: bool = False,
    last: bool = False,
    sizes: bool = False,
    over_positions: bool = False,
) -> Callable:
    def answer(model: Any, clean: Tensor, corrupted: Tensor, answers: Tensor) -> Tensor:
        names = [_z(layer) for layer in range(model.cfg.n_layers)]
        caches = [model.run_with_cache(tokens)[1] for tokens in (clean, corrupted)]
        held: dict[str, Tensor] = {}

        def hold(value: Tensor, hook: Any) -> Tensor:
            held[f"blocks.{len(held)}.attn.hook_z"] = value = (
                value.detach().clone().requires_grad_() if not held else value
            )
            value.retain_grad()
            return value

        with torch.enable_grad():
            base = clean if at_source else corrupted
            logits = model.run_with_hooks(base, fwd_hooks=[(name, hold) for name in names])[:, -1]
            difference = _pick(logits, answers, 0) - _pick(logits, answers, 1)
            (difference.mean() if mean else difference.sum()).backward()
        rows = []
        for name in names:
            step = caches[0][name] - caches[1][name]
            step = caches[0][name] if activation else -step if flip else step
            product = held[name].grad * step
            product = product.abs() if sizes else product / product.shape[1] if over_positions else product
            rows.append((product[:, -1:] if last else product).sum(dim=(0, 1, 3)))
        return torch.stack(rows).detach()

    return answer


HEAD_ATTRIBUTION = Exercise(
    id="patching.head_attribution",
    chapter=CHAPTER,
    title="All heads from one backward pass",
    points=3,
    minutes=30,
    difficulty=4,
    optional=True,
    reference=attribution.head_attribution,
    cases=attribution_cases,
    mistakes=[
        Mistake(
            "swapped",
            _attribute(flip=True),
            "The difference has the wrong sign: the activation moves from corrupted to clean, so clean less corrupted.",
        ),
        Mistake(
            "clean_gradient",
            _attribute(at_source=True),
            "This is the gradient on the clean run. Denoising starts from the corrupted run, so the slope is needed there.",
        ),
        Mistake("summed", _attribute(mean=False), "This adds up the prompts. Take their mean."),
        Mistake(
            "gradient_times_activation",
            _attribute(activation=True),
            "This multiplies the gradient with the clean activation. Multiply it with the difference between the two runs.",
        ),
        Mistake(
            "last_position",
            _attribute(last=True),
            "This counts the last position only. The head is patched at all positions: sum over them.",
        ),
        Mistake(
            "mean_over_positions",
            _attribute(over_positions=True),
            "This is the mean over positions. The head is patched at all of them at once: sum.",
        ),
        Mistake(
            "sizes",
            _attribute(sizes=True),
            "This adds up sizes. What pushes up and what pulls down cancels: sum with the sign.",
        ),
    ],
    equivalents=[
        _attribute(),
        lambda model, clean, corrupted, answers: attribution.attribute(
            model,
            clean,
            corrupted,
            lambda logits: _pick(logits, answers, 0) - _pick(logits, answers, 1),
            ["head"],
            by_position=False,
        )["head"].mean(dim=-1),
    ],
    hints=[
        "You need z of all layers on both runs, and on the corrupted run the gradient of the mean logit difference with respect to it.",
        "The parameters are frozen, so let the graph begin at the embeddings: a hook that returns embeddings.detach().requires_grad_(). Keep each z in a list as the hooks see it, return it, and call torch.autograd.grad.",
        "(gradient * (clean z - corrupted z)).sum(dim=(0, 1, 3)) for each layer, stacked.",
    ],
)

# ---------------------------------------------------------------------------------------------------- metric_table


def table_cases(seed: int) -> Iterable[Case]:
    generator = torch.Generator().manual_seed(seed)
    dose = torch.linspace(-3, 3, 61)

    def metric(curve: Tensor, tilt: float, broken: float) -> dict[str, Tensor]:
        span = float(curve.max() - curve.min())
        even = torch.rand(6, 2, generator=generator) * span
        shift = torch.rand(6, 1, generator=generator) * span * torch.tensor(
            [1.0, -1.0]
        ) + 2 * tilt * span * torch.tensor([1.0, 0.0])
        clean, corrupted = curve[-1] + draws(seed, 8) * 0.1, curve[0] + draws(seed + 1, 8) * 0.1
        return {
            "curve": curve,
            "even": even,
            "tilted": even + shift,
            "clean": clean,
            "corrupted": corrupted,
            "broken": corrupted.mean()
            + broken * (clean.mean() - corrupted.mean())
            + 0.3 * (draws(seed + 2, 8) - draws(seed + 2, 8).mean()),
        }

    line, bent, jump = 2 * dose + 1, dose.sigmoid(), (dose > 0.3).float()
    yield Case({"measured": {"a": metric(line, 0.0, 0.0), "b": metric(jump, 0.2, 0.5)}})
    yield Case({"measured": {"a": metric(bent, 0.0, 0.3), "b": metric(-line, -0.2, -0.6), "c": metric(jump, 0, 0.05)}})
    yield Case(
        {"measured": {"a": metric(10 * line, 0.03, 0.13), "b": metric(line + 0.15 * dose.cos(), 0.004, 0.07)}},
        note="close to the thresholds",
    )
    hump = -(dose - 1).square()
    falling = {"a": metric(hump, 0.0, 0.9), "b": metric(-jump, 0.0, 0.0)}
    yield Case({"measured": falling}, note="a metric that goes up and down again, and one that falls")
    sagging = {"a": metric((dose / 2).exp(), 0.0, 0.0), "b": metric(-(dose - 0.1).square(), 0.0, 0.0)}
    yield Case({"measured": sagging}, note="a metric that sags, and one that ends about where it began")
    uneven = {"clean": torch.tensor([20.0, 1, 1, 2]), "broken": torch.tensor([0.2, 0.5, 0.5, 0.5])}
    uneven = {**metric(line, 0.0, 0.0), **uneven, "corrupted": torch.zeros(4)}
    yield Case({"measured": {"a": uneven}}, note="prompts whose effects differ in size")
    for share, note in ((0.995, "a hair within the bounds"), (1.005, "a hair beyond the bounds")):
        yield Case({"measured": _near_the_bounds(seed, share)}, note=note)


def _near_the_bounds(seed: int, share: float) -> dict[str, dict[str, Tensor]]:
    """One metric with a step, and one with a bend, that are this share of what is allowed; so is the rest of both."""
    even, noise = draws(seed, 5, 2), draws(seed + 1, 6)
    rest = {"even": even, "tilted": even + 10 * share, "clean": noise + 10, "corrupted": noise, "broken": noise + share}
    step = torch.cat([torch.zeros(1), torch.linspace(100 * share, 1000, 21)])
    bend = torch.tensor([0.0, 250.0, 500 + 10 * share, 750.0, 1000.0])
    return {"step": {"curve": step, **rest}, "bend": {"curve": bend, **rest}}


def _table(
    step: float = 0.1,
    ends: bool = False,
    tilt_size: bool = False,
    signless: bool = False,
    spread: bool = False,
    span_of_ends: bool = False,
    upwards: bool = False,
    ratios: bool = False,
    turned: bool = False,
    sags: bool = False,
) -> Callable:
    def answer(measured: dict) -> dict:
        table = {}
        for name, m in measured.items():
            curve = m["curve"]
            span = curve.max() - curve.min()
            if span_of_ends:
                span = curve[-1] - curve[0]
            line = curve[0] + (curve[-1] - curve[0]) * torch.linspace(0, 1, len(curve))
            change = m["tilted"] - m["even"]
            tilt = change.abs().mean() if tilt_size else change.mean().abs()
            clean, corrupted, broken = (m[key].mean() for key in ("clean", "corrupted", "broken"))
            effect = (broken - corrupted) / (clean - corrupted)
            if ends:
                effect = (broken - clean) / (clean - corrupted)
            effect = effect.abs() if signless else effect
            if ratios:
                effect = ((m["broken"] - m["corrupted"]) / (m["clean"] - m["corrupted"])).mean()
            steps = curve.diff() if upwards else curve.diff().abs()
            straight = (curve - line).abs().mean() if spread else (curve - line).abs().max()
            straight = (curve - line).max() if sags else straight
            table[name] = {
                "continuous": bool(steps.max() <= step * span),
                "linear": bool(straight <= span / 100),
                "prior_independent": bool(tilt <= span / 100),
                "fooled": bool(effect > 0.1) != turned,
            }
        return table

    return answer


METRIC_TABLE = Exercise(
    id="patching.metric_table",
    chapter=CHAPTER,
    title="The table of metrics, measured",
    points=3,
    minutes=25,
    difficulty=3,
    optional=True,
    reference=metrics.metric_table,
    cases=table_cases,
    mistakes=[
        Mistake(
            "tilt_by_size",
            _table(tilt_size=True),
            "This averages the sizes of the changes. What one name gains the other one loses: average with the sign, then compare.",
        ),
        Mistake(
            "from_clean",
            _table(ends=True),
            "The broken model's effect is measured from the clean run. Denoising begins at the corrupted one.",
        ),
        Mistake(
            "fooled_either_way",
            _table(signless=True),
            "Here a broken model that looks worse than the corrupted one counts as fooling too. Only a seeming recovery does.",
        ),
        Mistake(
            "span_of_ends",
            _table(span_of_ends=True),
            "Your range is the last value less the first. A falling or humped curve needs the largest less the smallest.",
        ),
        Mistake(
            "jump_of_one_percent",
            _table(step=0.01),
            "Your continuity allows steps of 1% of the range. The table allows a tenth.",
        ),
        Mistake(
            "steps_upwards",
            _table(upwards=True),
            "Only steps upwards are looked at. A metric that jumps down is no more continuous: take sizes.",
        ),
        Mistake(
            "above_the_line_only",
            _table(sags=True),
            "Only what lies above the straight line is looked at. A curve that sags below it is no straighter: take sizes.",
        ),
        Mistake(
            "mean_of_ratios",
            _table(ratios=True),
            "Your recovery is a mean of ratios, which a single prompt with a small effect can upset. Divide the means.",
        ),
        Mistake(
            "fooled_turned_round",
            _table(turned=True),
            "`fooled` is turned round: it is True where a broken model looks like a recovery.",
        ),
    ],
    equivalents=[
        _table(),
        lambda measured: {
            name: {
                "continuous": bool(
                    (m["curve"][1:] - m["curve"][:-1]).abs().max() / (m["curve"].max() - m["curve"].min()) <= 0.1
                ),
                "linear": bool(
                    (m["curve"] - torch.linspace(float(m["curve"][0]), float(m["curve"][-1]), len(m["curve"])))
                    .abs()
                    .max()
                    / (m["curve"].max() - m["curve"].min())
                    <= 0.01
                ),
                "prior_independent": bool(
                    abs(m["tilted"].mean() - m["even"].mean()) / (m["curve"].max() - m["curve"].min()) <= 0.01
                ),
                "fooled": bool((m["broken"] - m["corrupted"]).mean() / (m["clean"] - m["corrupted"]).mean() > 0.1),
            }
            for name, m in measured.items()
        },
    ],
    hints=[
        "For each metric, four questions with yes or no. Begin with the range of its curve: three of the thresholds are parts of it.",
        "curve.diff() gives the steps; torch.linspace between the first and the last value is the straight line; means over everything in tilted and even.",
        "(broken.mean() - corrupted.mean()) / (clean.mean() - corrupted.mean()) > 0.1 is `fooled`. Make each a plain bool.",
    ],
)

EXERCISES = [
    LOGIT_DIFF,
    LOG_PROB,
    NORMALISED_EFFECT,
    PATCH_RESIDUAL,
    RESIDUAL_SWEEP,
    PATCH_HEAD,
    CORRUPT_BY_NOISE,
    TRACE_EFFECTS,
    MEAN_ABLATION,
    ATTENTION_KNOCKOUT,
    HEAD_ATTRIBUTION,
    METRIC_TABLE,
]
