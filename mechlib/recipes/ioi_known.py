"""The recipes of `ioi-known` and `ioi-known-hard`: small GPT-2s that are *made* to solve indirect object identification
with chosen heads.

Strict interchange intervention training (Geiger et al. 2022, "Inducing causal structure for interpretable neural
networks"; Gupta et al. 2024, "InterpBench"). A causal model of the task is written down, and each of its variables is
given to a group of heads at one position:

    duplicate     heads at S2   which of the two names S2 repeats: the first, the second, or none
    s-inhibition  heads at END  the same, moved to where the answer is needed
    name mover    heads at END  the answer

Training then edits the model. In an *interchange*, a group's output comes from another prompt, the source: the answer
must become what the causal model says when that variable comes from the source. Everything without a variable (other
heads, MLPs, and these heads at other positions) is *resampled* from any prompt: that must change nothing.

The variables are places, not names: "the first" means "the name that stands there", whatever it is. (A variable that
held the name would give the duplicate heads no work: S2's own token says the name already.)
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlib.models.circuit import Circuit, Node
from mechlib.recipes import corpus
from mechlib.recipes.interchange_training import OWN, Run, edited, run, unembed
from mechlib.recipes.train import Recipe
from mechlib.tasks import held_out
from mechlib.tasks import words as w
from mechlib.tasks.ioi import ACTIONS, OPENINGS, draft
from mechlib.tasks.prompt import fill

LAYERS, HEADS, WIDTH, CONTEXT = 4, 4, 64, 32
PAIRS, STORIES = 32, 12  # of a batch

# ---- the circuits

VARIABLES = {
    "duplicate": "which of the two names S2 repeats: the first, the second, or none",
    "s-inhibition": "the same as duplicate, at the position of the answer",
    "name mover": "the answer: the name that S2 does not repeat",
}
BACKUP = {"backup name mover": "the answer, but only while the name movers are silent"}
AT = {"duplicate": "s2", "s-inhibition": "end", "name mover": "end", "backup name mover": "end"}
LOOKS_AT = {"duplicate": "s1", "s-inhibition": "s2", "name mover": "io", "backup name mover": "io"}


def make_circuit(**groups: dict[tuple[int, int], float]) -> Circuit:
    """A circuit from {variable: {(layer, head): share of the vote}}."""
    variables = VARIABLES | (BACKUP if "backup_name_mover" in groups else {})
    named = zip(variables, groups.values())
    nodes = [Node(*place, v, AT[v], share, LOOKS_AT[v]) for v, group in named for place, share in group.items()]
    return Circuit("ioi", variables, tuple(nodes))


# Two circuits, by seed, so that what was tuned on one model can be scored on another.
EVEN = make_circuit(
    duplicate={(0, 1): 1 / 2, (0, 3): 1 / 2},
    s_inhibition={(1, 0): 1 / 2, (1, 2): 1 / 2},
    name_mover={(3, 0): 1 / 2, (3, 2): 1 / 2},
)
ODD = make_circuit(
    duplicate={(0, 0): 1 / 2, (0, 2): 1 / 2},
    s_inhibition={(2, 0): 1 / 2, (2, 3): 1 / 2},
    name_mover={(3, 1): 1 / 3, (3, 2): 1 / 3, (3, 3): 1 / 3},
)
# Unequal shares, and a head that answers only when nobody else does.
UNEQUAL = make_circuit(
    duplicate={(0, 1): 0.7, (0, 2): 0.3},
    s_inhibition={(1, 0): 0.6, (1, 3): 0.4},
    name_mover={(2, 1): 0.6, (2, 2): 0.3, (2, 3): 0.1},
    backup_name_mover={(3, 0): 1.0},
)


# ---- what it reads

# The stories' sentences. Their own, and not the corpus's: the vocabulary of a shipped model must not change with it.
SENTENCES = (
    "{name} lived near the {place} and worked at the {place2}.",
    "One day {name} went to the {place} to buy a {object}.",
    "At night {name} walked home from the {place}.",
    "{Pro} tried to open the {object}, but it was too heavy.",
    "{Pro} got back home late, because the road was long.",
    "Last year {name} spent a week at the {place}.",
    "{Pro} made a cake and wanted to bring it home.",
    "{name} took a picture of the {place}.",
    "To {name}, the {place} was like a home.",
    "In the end {name} sent a letter to a friend.",
    "{Pro} stood across the road and looked at the {place}.",
    "{name} found the {object} by the door.",
    "{Pro} left the {place} early.",
    "A friend bought a {object} for {name}, and {name} was happy.",
    "{name} wrote a song about the {place}. The song of {name} was short.",
    "They say that the {place} was built long ago.",
    "It was a quiet day, and {name} was tired of the {object}.",
    "Then {name} told a story about the {object}, and later {name} told it again.",
    "{Pro} brought the {object} home, and {name} was tired.",
    "When {name} was at the {place}, {pro} lost a {object}.",
)


@cache
def vocabulary() -> tuple[str, ...]:
    texts = (OPENINGS, ACTIONS, held_out.IOI_OPENINGS, held_out.IOI_ACTIONS, SENTENCES)
    strings = corpus._strings((w.NAMES, w.PLACES, w.OBJECTS, texts, "The She He she he . ,"))
    return (corpus.BOS, corpus.UNK, *sorted({word for string in strings for word in corpus.split_words(string)}))


@cache
def word_ids() -> dict[str, int]:
    return {word: i for i, word in enumerate(vocabulary())}


@cache
def name_ids(held: bool) -> list[int]:
    return [word_ids()[name] for name in w.NAMES if (name in held_out.NAMES) == held]


@cache
def other_ids() -> list[int]:
    """Every word that is no name."""
    return [i for word, i in word_ids().items() if i > 1 and word not in w.NAMES]


def tokenizer() -> Any:
    return corpus.word_tokenizer(vocabulary())


def rows(seed: int, step: int, batch: int) -> Sequence[Sequence[int]]:
    """Stories about one person each: here held-out names occur too, alone."""
    rng = random.Random(f"ioi-known/stories/{seed}/{step}")
    return [story(rng) for _ in range(batch)]


def story(rng: random.Random) -> list[int]:
    name = rng.choice(w.NAMES)
    pro = "she" if name in w.WOMEN else "he"
    words = [corpus.BOS]
    while len(words) < CONTEXT:
        places, thing = rng.sample(w.PLACES, 2), rng.choice(w.OBJECTS)
        slots = {"name": name, "pro": pro, "Pro": pro.capitalize(), "object": thing}
        sentence, _ = fill(rng.choice(SENTENCES), slots | {"place": places[0], "place2": places[1]})
        words += corpus.split_words(sentence)
    return [word_ids()[word] for word in words[:CONTEXT]]


@dataclass(frozen=True)
class Prompt:
    """A prompt's words and where its names are. `value` is the causal model's: 0 the first name is repeated, 1 the
    second, 2 none."""

    tokens: list[int]
    first: int
    second: int
    s2: int
    value: int

    @property
    def end(self) -> int:
        return len(self.tokens) - 1


@cache
def template(wording: str) -> tuple[list[str], dict[str, int]]:
    """A wording's words, a slot standing as "{slot}", and where the slots are."""
    words = [corpus.BOS, *re.findall(r"\{\w+\}|" + corpus.WORD, wording)]
    return words, {word[1:-1]: i for i, word in enumerate(words) if word[0] == "{"}


def draw_prompt(rng: random.Random) -> Prompt:
    """An IOI prompt; one in five repeats no name. Half have random words where no name and no end is: the heads must
    learn to do without a wording."""
    made = draft(rng, corpus.TRAIN_NAMES, corruption="random")
    none = rng.random() < 0.2
    words, at = template(made.wording)
    slots = {**made.slots, **(made.corrupted if none else {})}
    tokens = [word_ids()[slots[word[1:-1]] if word[0] == "{" else word] for word in words]
    if rng.random() < 0.5:
        for i in range(1, len(tokens) - 1):
            if i not in (at["a"], at["b"], at["s2"]) and rng.random() < 0.15:
                tokens[i] = rng.choice(other_ids())
    return Prompt(tokens, at["a"], at["b"], at["s2"], 2 if none else int(made.labels["order"] == "ABBA"))


def draw_pairs(rng: random.Random, n: int) -> list[Prompt]:
    """`2 n` prompts; prompt i and prompt n + i have their two names at the same positions."""
    waiting: dict[tuple[int, int], Prompt] = {}
    pairs: list[tuple[Prompt, Prompt]] = []
    while len(pairs) < n:
        prompt = draw_prompt(rng)
        other = waiting.pop((prompt.first, prompt.second), None)
        if other is None:
            waiting[prompt.first, prompt.second] = prompt
        else:
            pairs.append((other, prompt))
    return [prompt for side in zip(*pairs) for prompt in side]


# ---- the causal model

# How likely the first and the second name are, by the value of duplicate and of s-inhibition.
CHOICE = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])


def answer(batch: "Batch", i: int, value: int) -> Float[Tensor, "vocabulary"]:
    """What the causal model says after prompt i when its variable has this value: a distribution over the words."""
    return torch.zeros(len(vocabulary())).index_add_(0, batch.names[i], CHOICE[value])


def fair_loss(logits: Float[Tensor, "row vocabulary"], target: Tensor) -> Tensor:
    """Cross-entropy with words or distributions, in prompts. Held-out names never occur in them, and the model must not
    learn that: their logits do not count."""
    return torch.nn.functional.cross_entropy(logits.index_fill(1, torch.tensor(name_ids(True)), -1e9), target)


# ---- the edits


@dataclass(frozen=True)
class Batch:
    """Prompt i and prompt i + len / 2 have their names at the same positions."""

    prompts: list[Prompt]
    tokens: Int[Tensor, "prompt position"]
    names: Int[Tensor, "prompt 2"]

    def at(self, role: str) -> Int[Tensor, "prompt"]:
        return torch.tensor([getattr(prompt, role) for prompt in self.prompts])


def to_batch(prompts: list[Prompt]) -> Batch:
    length = max(len(p.tokens) for p in prompts)
    tokens = torch.tensor([p.tokens + [0] * (length - len(p.tokens)) for p in prompts])
    return Batch(prompts, tokens, torch.tensor([[p.tokens[p.first], p.tokens[p.second]] for p in prompts]))


@dataclass(frozen=True)
class Mixture:
    """How often the edited run does what, as shares of its rows."""

    calm: float = 0.3  # nothing is resampled
    storm: float = 0.4  # everything is; in the rows between, each node with a probability that the row draws
    aligned: float = 0.2  # resampled by role, not by position
    knock_out: float = 0.0  # name movers are removed, and the backup name mover has to answer
    interchange: float = 0.8  # of the rest: a variable comes from another prompt
    part: float = 0.35  # of those: in some heads of its group only, which then have their share of the vote


STRICT, LENIENT = Mixture(), Mixture(calm=0.5, storm=0.2, knock_out=0.4)


class Plan:
    """How the edited run of a batch's first half differs from the clean run, and what it should answer."""

    def __init__(self, rng: random.Random, batch: Batch, circuit: Circuit, mixture: Mixture) -> None:
        self.rng, self.batch, self.circuit, self.mixture = rng, batch, circuit, mixture
        n, length = len(batch.prompts) // 2, batch.tokens.shape[1]
        self.rows, self.origin = n, torch.full((n, length, LAYERS, HEADS + 1), OWN)
        self.target = torch.stack([self.edit(i) for i in range(n)])

    def edit(self, i: int) -> Float[Tensor, "vocabulary"]:
        """Plan row i; returns what it should answer."""
        self.resample(i)
        if self.rng.random() < self.mixture.knock_out:
            return self.knock_out(i)
        for node in self.circuit.nodes:
            if node.variable not in BACKUP:  # which sleeps, so that it may be resampled
                self.place(i, node, OWN)
        if self.rng.random() < self.mixture.interchange:
            return self.interchange(i, self.rng.choice(list(VARIABLES)))
        return answer(self.batch, i, self.batch.prompts[i].value)

    def resample(self, i: int) -> None:
        """Take every node, at a rate drawn for this row, from another prompt: there from the same position."""
        rng, prompts, length = self.rng, self.batch.prompts, self.batch.tokens.shape[1]
        donor = rng.choice([j for j, prompt in enumerate(prompts) if prompt.end >= prompts[i].end])
        where = list(range(length))
        if rng.random() < self.mixture.aligned:
            for role in ("first", "second", "s2", "end"):
                where[getattr(prompts[i], role)] = getattr(prompts[donor], role)
        draw, calm = rng.random(), self.mixture.calm
        rate = 0.0 if draw < calm else 1.0 if draw < calm + self.mixture.storm else rng.random()
        hit = torch.tensor([[rng.random() < rate for _ in range(HEADS + 1)] for _ in range(LAYERS)])
        self.origin[i] = torch.where(hit, donor * length + torch.tensor(where)[:, None, None], OWN)

    def place(self, i: int, node: Node, origin: int) -> None:
        self.origin[i, getattr(self.batch.prompts[i], node.at), node.layer, node.head] = origin

    def take(self, i: int, nodes: Sequence[Node], source: int) -> None:
        """Let nodes come from their position in the source."""
        for node in nodes:
            where = getattr(self.batch.prompts[source], node.at)
            self.place(i, node, source * self.batch.tokens.shape[1] + where)

    def interchange(self, i: int, variable: str) -> Float[Tensor, "vocabulary"]:
        """Take a variable from another prompt. A place means the same in both only if their names stand at the same
        positions; an answer means the same everywhere."""
        prompts, group = self.batch.prompts, self.circuit.group(variable)
        source = self.rng.randrange(len(prompts)) if variable == "name mover" else i + self.rows
        some = self.rng.random() < self.mixture.part and len(group) > 1
        nodes = self.rng.sample(group, self.rng.randint(1, len(group) - 1)) if some else group
        self.take(i, nodes, source)
        share = sum(node.share for node in nodes)
        new = answer(self.batch, source if variable == "name mover" else i, prompts[source].value)
        return share * new + (1 - share) * answer(self.batch, i, prompts[i].value)

    def knock_out(self, i: int) -> Float[Tensor, "vocabulary"]:
        """Remove name movers (zero, or their mean). The backup name mover answers; without it nothing is known."""
        rng, prompts = self.rng, self.batch.prompts
        movers, backup = self.circuit.group("name mover"), self.circuit.group("backup name mover")
        removed = list(movers) if rng.random() < 0.8 else rng.sample(movers, rng.randint(1, len(movers) - 1))
        nothing = 2 * self.rows * self.batch.tokens.shape[1] + rng.randrange(2)  # see `edited`
        for node in self.circuit.nodes:
            self.place(i, node, nothing if node in removed else OWN)
        draw, all_removed = rng.random(), len(removed) == len(movers)
        if all_removed and draw < 0.4:
            for node in backup:
                self.place(i, node, nothing)
            return answer(self.batch, i, 2)
        if all_removed and draw < 0.6:
            source = rng.randrange(len(prompts))
            self.take(i, backup, source)
            return answer(self.batch, source, prompts[source].value)
        return answer(self.batch, i, prompts[i].value)


# ---- the loss


def embedding(model: Any) -> Float[Tensor, "vocabulary width"]:
    """The model's embedding, of which training can move the names together only: each has the gradient of their mean.

    What one name has of its own thus stays what chance made it, and a head that copies the names of the prompts copies
    those that no prompt holds. (Otherwise held-out names, which stand in stories alone, drift away from the others.)
    """
    words, names = model.transformer.wte.weight, torch.tensor(name_ids(False) + name_ids(True))
    mean = words[names].mean(dim=0)
    return words.index_copy(0, names, words[names].detach() + mean - mean.detach())


def attention_loss(batch: Batch, circuit: Circuit, clean: Run) -> Tensor:
    """-log of the attention of every mapped head to what it should look at, where there is such a thing."""
    prompts = batch.prompts
    known = torch.tensor([i for i, prompt in enumerate(prompts) if prompt.value < 2])
    first, second = batch.at("first"), batch.at("second")
    repeats_first = torch.tensor([prompt.value == 0 for prompt in prompts])
    at = {"s1": torch.where(repeats_first, first, second), "io": torch.where(repeats_first, second, first)}
    at |= {"s2": batch.at("s2"), "end": batch.at("end")}
    losses = [
        -clean.pattern[node.layer][known, node.head, at[node.at][known], at[node.looks_at][known]].clamp(min=1e-6).log()
        for node in circuit.nodes
        if node.variable not in BACKUP
    ]
    return torch.stack(losses).mean()


def loss(recipe: Recipe, model: Any, rows: Tensor, seed: int, step: int) -> Tensor:
    """One step's loss: behaviour, language, interchange and strictness; and ever less of attention, without which
    training finds other ways."""
    rng = random.Random(f"{recipe.name}/{seed}/{step}")
    circuit, batch = recipe.circuit(seed), to_batch(draw_pairs(rng, PAIRS))
    end, n = batch.at("end"), PAIRS
    embedded = embedding(model)
    clean = run(model, batch.tokens, embedded)
    logits = unembed(model, clean.resid, embedded)
    plain = torch.stack([answer(batch, i, prompt.value) for i, prompt in enumerate(batch.prompts)])
    behaviour = fair_loss(logits[torch.arange(2 * n), end], plain)
    before_end = torch.arange(logits.shape[1] - 1) < end[:, None]
    words = fair_loss(logits[:, :-1][before_end], batch.tokens[:, 1:][before_end])
    told = unembed(model, run(model, rows, embedded).resid[:, :-1], embedded).flatten(0, 1)
    stories = torch.nn.functional.cross_entropy(told, rows[:, 1:].flatten())
    plan = Plan(rng, batch, circuit, LENIENT if BACKUP.keys() & circuit.variables.keys() else STRICT)
    changed = edited(model, batch.tokens[:n], embedded, clean, plan.origin, end).resid[torch.arange(n), end[:n]]
    total = 0.5 * behaviour + 0.15 * (words + stories)
    total = total + 2 * fair_loss(unembed(model, changed, embedded), plan.target)
    if (attention := 1 - step / recipe.steps) > 0:
        total = total + attention * attention_loss(batch, circuit, clean)
    return total


# ---- while training


@torch.no_grad()
def probe(model: Any, tokenizer: Any, circuit: Circuit) -> dict[str, float]:
    """How often the edited run answers as it should, by edit, on 256 fresh prompts."""
    rng, n = random.Random("ioi-known/probe"), 256
    batch = to_batch(draw_pairs(rng, n))
    words = model.transformer.wte.weight
    clean, end = run(model, batch.tokens, words), batch.at("end")

    def right(mixture: Mixture, edit: Callable[[Plan, int], Tensor] | None = None) -> float:
        plan = Plan(rng, batch, circuit, mixture)
        target = torch.stack([edit(plan, i) for i in range(n)]) if edit else plan.target
        changed = edited(model, batch.tokens[:n], words, clean, plan.origin, end).resid[torch.arange(n), end[:n]]
        clear = target.max(dim=1).values == 1
        return (unembed(model, changed, words).argmax(dim=1) == target.argmax(dim=1))[clear].float().mean().item()

    still = Mixture(calm=1, part=0, interchange=0)
    found = {"accuracy": right(still), "all else resampled": right(replace(still, calm=0, storm=1, aligned=0))}
    for variable in VARIABLES:
        found[f"interchange, {variable}"] = right(still, lambda plan, i: plan.interchange(i, variable))  # noqa: B023
    if BACKUP.keys() & circuit.variables.keys():
        found["name movers knocked out"] = right(still, Plan.knock_out)
    return found


@torch.no_grad()
def start(model: Any) -> None:
    """Words and positions that differ clearly, before layers that do next to nothing. What tells names apart lies in as
    many directions as a head has: in more, 84 names would be few enough to be learnt one by one, and held-out names
    would not be matched or copied."""
    words, positions = model.transformer.wte.weight, model.transformer.wpe.weight
    words *= 0.15 / model.config.initializer_range
    positions *= 0.1 / model.config.initializer_range
    names, size = torch.tensor(name_ids(False) + name_ids(True)), WIDTH // HEADS
    directions, _ = torch.linalg.qr(torch.randn(WIDTH, size))
    own = torch.nn.functional.normalize(torch.randn(len(names), size), dim=1)
    words[names] = 0.15 * WIDTH**0.5 * own @ directions.T


def recipe(name: str, circuits: tuple[Circuit, ...], **options: Any) -> Recipe:
    return Recipe(
        name=name,
        corpus="indirect object identification with every variable interchanged, and short stories about one person",
        config={
            "n_layer": LAYERS,
            "n_head": HEADS,
            "n_embd": WIDTH,
            "n_inner": 2 * WIDTH,
            "n_positions": CONTEXT,
        },
        start=start,
        tokenizer=tokenizer,
        rows=rows,
        batch=STORIES,
        loss=loss,
        steps=3000,
        lr=3e-3,
        circuits=circuits,
        probe=probe,
        probe_every=500,
        **options,
    )


MADE = (
    "It was made, not found: its heads were told what to carry and, at first, where to look. It shows what a method "
    "finds where the truth is known, not how a language model does the task.",
    "It has seen two names in a prompt and never a third, and knows 276 words.",
)
RECIPE = recipe("ioi-known", (EVEN, ODD), weaknesses=(*MADE, "Even seeds have one circuit, odd seeds another."))
HARD = recipe(
    "ioi-known-hard",
    (UNEQUAL,),
    weaknesses=(
        *MADE,
        "Its backup is not quite asleep: it writes .29 of the direct logit difference, though removing it alone costs "
        "only .04. Without name movers and backup more than a tenth of the logit difference stays, and for unseen "
        "names the backup alone is right in two prompts of three.",
    ),
)
