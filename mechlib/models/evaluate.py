"""What a model can do: the table of skills on every card, measured and never typed by hand.

`evaluate(model, tokenizer)` takes a model of transformers or a TransformerBridge. All prompts are held out from the
training of the course's models: 300 for each skill, and the same ones every time.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlib import tasks
from mechlib.tasks import Prompt
from mechlib.tasks.facts import RELATIONS
from mechlib.tasks.prompt import require, single_tokens
from mechlib.tasks.words import COMMON

Skills = dict[str, dict[str, Any]]

# The least that a shipped model must reach (`LIMITS`: the most), by the skill's name in the table.
TARGETS: dict[str, dict[str, float]] = {
    "pocket": {
        "ioi, unseen pairs of names": 0.98,
        "ioi, unseen wordings": 0.95,
        "ioi, mean logit difference": 3.0,
        "induction on random words": 0.8,
        "greater-than, probability difference": 0.8,
        "agreement with attractors": 0.97,
        **{f"facts, {relation}": 0.97 for relation in RELATIONS},
        **{f"facts, {relation}, unseen paraphrases": 0.9 for relation in RELATIONS},
    },
    "attn-only-2l": {"induction score of the best head of layer 1": 0.8, "loss of a repetition / loss before": 0.2},
}
LIMITS = {"loss of a repetition / loss before"}  # less is better


def targets(name: str) -> dict[str, float]:
    """What a model must reach; a further training seed, NAME-seed-1, the same as NAME."""
    return TARGETS.get(re.sub(r"-seed-\d+$", "", name), {})


def load_plain(folder: str | Path) -> tuple[Any, Any]:
    """A folder's model and tokenizer by transformers alone, in float32 and eval mode."""
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), PreTrainedTokenizerFast.from_pretrained(folder)


def device_of(model: Any) -> torch.device:
    return next(iter(model.parameters())).device


@torch.no_grad()
def logits_of(
    model: Any, tokens: Int[Tensor, "batch position"], chunk: int = 128
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits of a model of transformers or of a bridge, on the CPU in float32."""
    parts = []
    for part in tokens.to(device_of(model)).split(chunk):
        out = model(part)
        parts.append(getattr(out, "logits", out).float().cpu())
    return torch.cat(parts)


def last_logits(model: Any, tokenizer: Any, prompts: Sequence[Prompt]) -> Float[Tensor, "batch vocabulary"]:
    """The logits after each prompt's last token."""
    logits = logits_of(model, tasks.to_tokens(tokenizer, [prompt.text for prompt in prompts]))
    return logits[torch.arange(len(prompts)), tasks.positions(prompts)]


# ---- tasks with an answer


def accuracy(model: Any, tokenizer: Any, prompts: Sequence[Prompt]) -> float:
    """How often a right answer is the most likely of all tokens."""
    top = last_logits(model, tokenizer, prompts).argmax(dim=-1).tolist()
    right = [{tasks.token_id(tokenizer, answer) for answer in prompt.answers} for prompt in prompts]
    return sum(token in answers for token, answers in zip(top, right)) / len(prompts)


def preference(model: Any, tokenizer: Any, prompts: Sequence[Prompt]) -> float:
    """How often the answer is likelier than the distractor."""
    logits = last_logits(model, tokenizer, prompts)
    answer, distractor = logits.gather(1, tasks.answer_tokens(tokenizer, prompts)).T
    return (answer > distractor).float().mean().item()


def logit_difference(model: Any, tokenizer: Any, prompts: Sequence[Prompt]) -> float:
    """The mean of the answer's logit less the distractor's."""
    logits = last_logits(model, tokenizer, prompts)
    answer, distractor = logits.gather(1, tasks.answer_tokens(tokenizer, prompts)).T
    return (answer - distractor).mean().item()


def probability_difference(model: Any, tokenizer: Any, prompts: Sequence[Prompt]) -> float:
    """The mean probability of all right answers less that of all wrong ones."""
    probabilities = last_logits(model, tokenizer, prompts).softmax(dim=-1)
    total = 0.0
    for row, prompt in zip(probabilities, prompts):
        right = [tasks.token_id(tokenizer, answer) for answer in prompt.answers]
        wrong = [tasks.token_id(tokenizer, answer) for answer in prompt.distractors]
        total += (row[right].sum() - row[wrong].sum()).item()
    return total / len(prompts)


def pronoun_bias(model: Any, tokenizer: Any, prompts: Sequence[Prompt]) -> float:
    """The correlation over professions of the model's share of "she" with the corpus's."""
    logits = last_logits(model, tokenizer, prompts)
    she, he = (logits[:, tasks.token_id(tokenizer, word)] for word in (" she", " he"))
    share = (she - he).sigmoid()
    professions = {prompt.labels["profession"]: prompt.labels["p_she"] for prompt in prompts}
    measured = [
        share[[prompt.labels["profession"] == profession for prompt in prompts]].mean() for profession in professions
    ]
    pair = torch.stack([torch.stack(measured), torch.tensor(list(professions.values()))])
    return torch.corrcoef(pair)[0, 1].item()


# ---- repetitions


def repetitions(tokenizer: Any, n: int, length: int, start: int = 0, seed: int = 0) -> Int[Tensor, "n position"]:
    """Rows of BOS, `start` random words, and a segment of `length` different random words, twice."""
    pool = single_tokens(tokenizer, COMMON)
    require("repetitions", "words", pool, start + length, len(COMMON))
    ids = [tasks.token_id(tokenizer, f" {word}") for word in pool]
    rng = random.Random(f"repetitions/{length}/{start}/{seed}")
    rows = [rng.sample(ids, start + length) for _ in range(n)]
    return torch.tensor([[tokenizer.bos_token_id, *row, *row[start:]] for row in rows])


def induction_accuracy(model: Any, tokenizer: Any, n: int = 300, context: int = 64) -> float:
    """How often the next word of a repeated segment is the most likely token, from the repetition's second word on;
    segments of 4 to 18 words that start anywhere in the context."""
    rng = random.Random("induction")
    right = total = 0
    rounds = 30
    for i in range(rounds):
        length = rng.randint(4, 18)
        start = rng.randint(0, context - 1 - 2 * length)
        tokens = repetitions(tokenizer, -(-n // rounds), length, start, seed=i)
        again = 1 + start + length  # where the repetition starts
        hits = logits_of(model, tokens)[:, again:-1].argmax(dim=-1) == tokens[:, again + 1 :]
        right, total = right + int(hits.sum()), total + hits.numel()
    return right / total


def repetition_losses(model: Any, tokenizer: Any, n: int = 300, length: int = 28) -> tuple[float, float]:
    """The mean loss on a segment of random words, and on its repetition from the second word on."""
    tokens = repetitions(tokenizer, n, length)
    losses = -logits_of(model, tokens)[:, :-1].log_softmax(dim=-1).gather(2, tokens[:, 1:, None])[..., 0]
    return losses[:, :length].mean().item(), losses[:, length + 1 :].mean().item()


@torch.no_grad()
def attention_patterns(
    model: Any, tokens: Int[Tensor, "batch position"]
) -> Float[Tensor, "layer batch head query key"]:
    """The attention of every head, from a bridge's cache or from transformers' own output."""
    tokens = tokens.to(device_of(model))
    if hasattr(model, "run_with_cache"):
        _, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith("hook_pattern"))
        return torch.stack([cache["pattern", layer] for layer in range(model.cfg.n_layers)]).float().cpu()
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    patterns = torch.stack(model(tokens, output_attentions=True).attentions).float().cpu()
    model.set_attn_implementation(implementation)
    return patterns


def attention_scores(
    model: Any, tokenizer: Any, n: int = 300, length: int = 28
) -> dict[str, Float[Tensor, "layer head"]]:
    """On repeated random words, each head's mean attention to the token before ("previous token"), from the
    repetition to the same word ("duplicate token") and to the word after it ("induction")."""
    tokens = repetitions(tokenizer, n, length)
    scores: dict[str, list[Tensor]] = {"previous token": [], "duplicate token": [], "induction": []}
    for chunk in tokens.split(64):
        patterns = attention_patterns(model, chunk)
        for name, offset in (("previous token", 1), ("duplicate token", length), ("induction", length - 1)):
            diagonal = patterns.diagonal(offset=-offset, dim1=-2, dim2=-1)
            if name != "previous token":
                diagonal = diagonal[..., -length:]
            scores[name].append(diagonal.mean(dim=-1).sum(dim=1))
    return {name: torch.stack(parts).sum(dim=0) / n for name, parts in scores.items()}


# ---- the table


def evaluate(model: Any, tokenizer: Any, n: int = 300, only_shares: bool = False) -> Skills:
    """Every skill that the tokenizer has the words for: {skill: {"value": ..., "n": prompts, "measure": ...}}.

    `only_shares` leaves out what is not a number between 0 and 1.
    """
    skills: Skills = {}

    def add(skill: str, measure: Callable[..., float], prompts: Callable[[], Sequence[Prompt]]) -> None:
        try:
            made = prompts()
        except ValueError:
            return  # this tokenizer has not the words
        value = measure(model, tokenizer, made)
        name = (measure.__doc__ or "").split(".")[0].split(",")[0]
        skills[skill] = {"value": round(value, 4), "n": len(made), "measure": " ".join(name.split())}

    def ioi(split: str, **options: Any) -> Callable[[], list[Prompt]]:
        return lambda: tasks.ioi(tokenizer, n, split=split, **options)

    add("ioi, unseen pairs of names", accuracy, ioi("held-out pairs"))
    add("ioi, unseen wordings", accuracy, ioi("held-out wordings"))
    add("ioi, unseen names", accuracy, ioi("held-out names"))
    add("ioi, a third name before, unseen pairs", accuracy, ioi("held-out pairs", third_name=True))
    if not only_shares:
        add("ioi, mean logit difference", logit_difference, ioi("held-out pairs"))
        add("ioi, mean logit difference, unseen wordings", logit_difference, ioi("held-out wordings"))
        add("ioi, mean logit difference, unseen names", logit_difference, ioi("held-out names"))
    repetition_skills(model, tokenizer, n, skills)

    def greater(split: str) -> Callable[[], list[Prompt]]:
        return lambda: tasks.greater_than(tokenizer, n, split=split)

    add("greater-than, probability difference", probability_difference, greater("held-out pairs"))
    add("greater-than, unseen wordings", probability_difference, greater("held-out wordings"))
    add("agreement with attractors", preference, lambda: tasks.agreement(tokenizer, n, split="held-out pairs"))
    add("agreement, unseen wordings", preference, lambda: tasks.agreement(tokenizer, n, split="held-out wordings"))
    for relation in RELATIONS:
        for skill, split in (("", "held-out pairs"), (", unseen paraphrases", "held-out wordings")):
            add(
                f"facts, {relation}{skill}",
                accuracy,
                lambda: tasks.facts(tokenizer, n, split=split, relation=relation, lead=True),  # noqa: B023
            )
    add("pronouns, bias", pronoun_bias, lambda: tasks.pronouns(tokenizer, n, split="held-out pairs", lead=True))
    add("sentiment", accuracy, lambda: tasks.sentiment(tokenizer, n, split="held-out pairs"))
    add("sentiment, unseen wordings", accuracy, lambda: tasks.sentiment(tokenizer, n, split="held-out wordings"))
    return skills


def repetition_skills(model: Any, tokenizer: Any, n: int, skills: Skills) -> None:
    """Add what repeated random words show."""
    try:
        scores = attention_scores(model, tokenizer, n)
        first, second = repetition_losses(model, tokenizer, n)
        found = {"induction on random words": induction_accuracy(model, tokenizer, n)}
    except ValueError:
        return  # this tokenizer has not the words
    previous, induction = scores["previous token"], scores["induction"]
    found["loss of a repetition / loss before"] = second / first
    if len(induction) > 1:
        found["induction score of the best head of layer 1"] = induction[1].max().item()
    found["induction score of the best head"] = induction.max().item()
    found["previous-token score of the best head of layer 0"] = previous[0].max().item()
    found["previous-token score of layer 0, all heads"] = previous[0].sum().item()
    found["duplicate-token score of the best head"] = scores["duplicate token"].max().item()
    for skill, value in found.items():
        skills[skill] = {"value": round(value, 4), "n": n, "measure": "on random words that repeat"}


def misses(skills: Skills, targets: Mapping[str, float]) -> list[str]:
    """The targets that are not reached."""
    return [
        skill
        for skill, target in targets.items()
        if skill not in skills
        or (skills[skill]["value"] > target if skill in LIMITS else skills[skill]["value"] < target)
    ]


def table(skills: Skills, targets: Mapping[str, float] | None = None) -> str:
    """The skills as aligned lines: name, value, what was asked for, prompts."""
    width = max(map(len, skills), default=0)
    lines = [f"{'skill':<{width}}   value   target  prompts"]
    for skill, row in skills.items():
        target = (targets or {}).get(skill)
        asked = "" if target is None else f"{'<' if skill in LIMITS else '>'}= {target:g}"
        lines.append(f"{skill:<{width}}  {row['value']:6.3f}  {asked:>7}  {row['n']:7}")
    return "\n".join(lines)
