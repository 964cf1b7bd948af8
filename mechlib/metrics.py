"""What to measure when a model is changed: pure functions of the logits at the position where the answer is read.

    end = logits[torch.arange(len(logits)), at]        # [batch vocabulary]; `tasks.positions(prompts)` gives `at`
    logit_diff(end, answers)                           # [batch]: one number a prompt, never their mean

`answers` holds the ids of each prompt's answer and distractor, [batch 2], as `tasks.answer_tokens` gives them. All of
the functions can stand for each other: those that need no distractor look at the first column only.

What tells a good metric from a bad one: Zhang & Nanda 2024, "Towards Best Practices of Activation Patching"
(https://arxiv.org/abs/2309.16042); Heimersheim & Nanda 2024 (https://arxiv.org/abs/2404.15255).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

Logits = Float[Tensor, "batch vocabulary"]
Answers = Int[Tensor, "batch 2"]
Values = Float[Tensor, "batch"]

DIRECTIONS = ("denoising", "noising")


def logit(logits: Logits, answers: Answers) -> Values:
    """The answer's logit."""
    return _of(logits, answers[:, 0])


def logit_diff(logits: Logits, answers: Answers) -> Values:
    """The answer's logit less the distractor's: the log of how many times likelier the answer is."""
    return _of(logits, answers[:, 0]) - _of(logits, answers[:, 1])


def log_prob(logits: Logits, answers: Answers) -> Values:
    """The answer's log-probability, in nats."""
    return _of(logits.log_softmax(dim=-1), answers[:, 0])


def prob(logits: Logits, answers: Answers) -> Values:
    """The answer's probability."""
    return _of(logits.softmax(dim=-1), answers[:, 0])


def accuracy(logits: Logits, answers: Answers) -> Values:
    """1 where the answer is the most likely of all tokens, else 0."""
    return (logits.argmax(dim=-1) == answers[:, 0]).to(logits.dtype)


def preference(logits: Logits, answers: Answers) -> Values:
    """1 where the answer is likelier than the distractor, else 0."""
    return (logit_diff(logits, answers) > 0).to(logits.dtype)


def rank(logits: Logits, answers: Answers) -> Values:
    """How many tokens are likelier than the answer: 0 is the first place."""
    return (logits > logit(logits, answers)[:, None]).sum(dim=-1).to(logits.dtype)


def kl(logits: Logits, reference: Logits) -> Values:
    """KL(reference || logits) in nats: how surprised the model is now by what it said on the reference run."""
    p, q = reference.log_softmax(dim=-1), logits.log_softmax(dim=-1)
    return (p.exp() * (p - q)).sum(dim=-1)


def normalised_effect(patched: Tensor, clean: Tensor, corrupted: Tensor, direction: str = "denoising") -> Tensor:
    """A metric's change, in units of the whole change between the clean and the corrupted run.

    denoising  (patched - corrupted) / (clean - corrupted): 0 as corrupted, 1 the clean answer is restored
    noising    (patched - clean) / (clean - corrupted): 0 as clean, -1 the clean answer is destroyed

    The three broadcast against each other. Give means over prompts where single prompts may have clean and
    corrupted values close to each other. NaN where they are equal: then there is nothing to restore. Raises
    ValueError for another direction.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction is one of {DIRECTIONS}, not {direction!r}")
    gap = clean - corrupted
    start = corrupted if direction == "denoising" else clean
    return (patched - start) / torch.where(gap == 0, torch.nan, gap)


def _of(scores: Logits, token: Int[Tensor, "batch"]) -> Values:
    return scores.gather(-1, token[:, None].to(scores.device))[:, 0]


def metric_table(measured: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, bool]]:
    """Which properties each metric has, decided by experiments.

    `measured[metric]` holds what the metric said:
      curve    [doses] while evidence for the answer grows in equal steps
      even     [pairs 2] on prompts and on the same prompts with the two names exchanged
      tilted   [pairs 2] on these, after one name was made likelier everywhere and the other one less likely
      clean, corrupted, broken   [prompts] on three kinds of runs; the broken model knows nothing about the prompt

    A metric is
      continuous          if no step of its curve is larger than a tenth of the curve's range;
      linear              if its curve stays within 1% of its range from the straight line between its ends;
      prior_independent   if the mean over `tilted` differs from the mean over `even` by at most 1% of the
                          curve's range: what one name gains, the other one loses;
      fooled              if the broken model seems to restore more than a tenth of the clean answer (denoising,
                          means over prompts).

    After Zhang & Nanda 2024. The range is the largest value less the smallest.
    """
    table = {}
    for name, m in measured.items():
        curve = m["curve"]
        span = curve.max() - curve.min()
        line = torch.lerp(curve[0], curve[-1], torch.linspace(0, 1, len(curve), dtype=curve.dtype))
        effect = (m["broken"].mean() - m["corrupted"].mean()) / (m["clean"].mean() - m["corrupted"].mean())
        table[name] = {
            "continuous": bool(curve.diff().abs().max() <= span / 10),
            "linear": bool((curve - line).abs().max() <= span / 100),
            "prior_independent": bool((m["tilted"].mean() - m["even"].mean()).abs() <= span / 100),
            "fooled": bool(effect > 0.1),
        }
    return table
