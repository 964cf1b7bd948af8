"""Running a model with parts of it taken from another run: the few tools that every file here uses.

    batch = Batch.of(model, prompts)                        # tokens, positions of the roles, answers, activations
    edits = [from_run("resid", 2, twin, batch.at("s2"))]    # the stream before layer 2, at S2, as the twin has it
    batch.score(batch.run(edits))                           # the mean logit difference that is left

Everything is measured at the last token of each prompt. TransformerLens runs the model once, and keeps its activations;
an edited run starts from them at the first edited layer, and follows the last token alone if nothing else is edited. It
gives TransformerLens's logits (tests/test_look_inside.py), in a fifth of its time: the page needs a thousand runs.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlib import tasks
from mechlib.tasks import Prompt

Where = Bool[Tensor, "batch position"]
Logits = Float[Tensor, "batch vocabulary"]

# What can be edited: the stream before a layer, a head before W_O, an MLP; and where TransformerLens keeps it.
SITES = {"resid": "hook_resid_pre", "head": "attn.hook_z", "mlp": "hook_mlp_out"}
KEPT = (*SITES.values(), "hook_k", "hook_v", "hook_pattern", "hook_resid_post", "ln_final.hook_scale")


@dataclass(frozen=True)
class Edit:
    """What an edited run does otherwise. "look" takes keys out of the sight of queries (`where`)."""

    site: str  # one of SITES, or "look"
    layer: int
    where: Where
    value: Float[Tensor, "batch position ..."] | None = None
    heads: tuple[int, ...] | None = None  # of "head" and "look": these only
    keys: Where | None = None


@dataclass(frozen=True)
class Batch:
    """Prompts for one model, as tensors, and what the model does on them."""

    model: Any
    prompts: Sequence[Prompt]
    tokens: Int[Tensor, "batch position"]
    answers: Int[Tensor, "batch 2"]  # right, wrong
    weights: Float[Tensor, "batch vocabulary"] | None = None  # of probabilities, where many answers are right

    @staticmethod
    def of(model: Any, prompts: Sequence[Prompt]) -> "Batch":
        tokens = tasks.to_tokens(model.tokenizer, [prompt.text for prompt in prompts])
        return Batch(model, prompts, tokens, tasks.answer_tokens(model.tokenizer, prompts))

    @staticmethod
    def of_many(model: Any, prompts: Sequence[Prompt]) -> "Batch":
        """For tasks with many right answers: the score is the probability of them all less that of all wrong ones."""
        batch = Batch.of(model, prompts)
        weights = torch.zeros(len(prompts), model.cfg.d_vocab)
        for row, prompt in zip(weights, prompts):
            for sign, answers in ((1, prompt.answers), (-1, prompt.distractors)):
                row[[tasks.token_id(model.tokenizer, answer) for answer in answers]] = sign
        return replace(batch, weights=weights)

    def twin(self) -> "Batch":
        """The corrupted prompts, with the same answers."""
        return self.with_tokens(tasks.to_tokens(self.model.tokenizer, [prompt.corrupted for prompt in self.prompts]))

    def with_tokens(self, tokens: Int[Tensor, "batch position"]) -> "Batch":
        return replace(self, tokens=tokens)

    def with_token(self, where: Where, token: Int[Tensor, "batch"]) -> "Batch":
        """The same prompts with another token at one position of each."""
        return self.with_tokens(torch.where(where, token[:, None], self.tokens))

    def __len__(self) -> int:
        return len(self.tokens)

    # ---- positions

    @cached_property
    def rows(self) -> Int[Tensor, "batch"]:
        return torch.arange(len(self))

    @cached_property
    def end(self) -> Int[Tensor, "batch"]:
        return tasks.positions(self.prompts)

    def at(self, *roles: str) -> Where:
        """Where the tokens with these roles are."""
        marks = torch.zeros_like(self.tokens, dtype=torch.bool)
        for role in roles:
            marks[self.rows, tasks.positions(self.prompts, role)] = True
        return marks

    def span(self, after: str, before: str) -> Where:
        """Every position after one role and before another."""
        first, last = (tasks.positions(self.prompts, role)[:, None] for role in (after, before))
        here = torch.arange(self.tokens.shape[1])
        return (here > first) & (here < last)

    @cached_property
    def everywhere(self) -> Where:
        return torch.ones_like(self.tokens, dtype=torch.bool)

    def elsewhere(self, avoid: Where, n: int = 1) -> Where:
        """A control: `n` positions of each prompt, drawn from those before END that `avoid` and BOS leave."""
        rng, marks = random.Random("elsewhere"), torch.zeros_like(avoid)
        for i, last in enumerate(self.end.tolist()):
            free = [position for position in range(1, last) if not avoid[i, position]]
            marks[i, rng.sample(free, min(n, len(free)))] = True
        return marks

    # ---- the plain run

    @cached_property
    def _plain(self) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            logits, cache = self.model.run_with_cache(self.tokens, names_filter=lambda name: name.endswith(KEPT))
        return logits[self.rows, self.end], dict(cache)

    @property
    def logits(self) -> Logits:
        return self._plain[0]

    @property
    def cache(self) -> Mapping[str, Tensor]:
        return self._plain[1]

    def kept(self, site: str, layer: int) -> Float[Tensor, "batch position ..."]:
        return self.cache[f"blocks.{layer}.{SITES.get(site, site)}"]

    # ---- edited runs

    @torch.no_grad()
    def run(self, edits: Sequence[Edit], watch: tuple[int, int] | None = None) -> Any:
        """The logits at END of a run with these edits; and, if a head is watched, its pattern."""
        if not edits:
            return self.logits
        at_end = self.at("end")
        alone = watch is None and not any((edit.where & ~at_end).any() for edit in edits)
        rows = self.end[:, None] if alone else torch.arange(self.tokens.shape[1]).expand_as(self.tokens)
        first = min(edit.layer for edit in edits)
        stream = _take(self.kept("resid", first), rows)
        seen = watch and self.kept("attn.hook_pattern", watch[0])[:, watch[1]]
        for layer in range(first, self.model.cfg.n_layers):
            todo = [edit for edit in edits if edit.layer == layer]
            stream, pattern = self._block(layer, stream, rows, todo, alone)
            seen = pattern[:, watch[1]] if watch and watch[0] == layer else seen
        last = stream[:, 0] if alone else stream[self.rows, self.end]
        logits = self.model.unembed(self.model.ln_final(last[:, None]))[:, 0]
        return logits if watch is None else (logits, seen)

    def _block(
        self, layer: int, stream: Tensor, rows: Tensor, edits: Sequence[Edit], alone: bool
    ) -> tuple[Tensor, Tensor]:
        """One layer of GPT-2, for the positions `rows` of each prompt; END `alone` looks at the plain run's others."""
        model, block = self.model, self.model.blocks[layer]
        stream = _edited(stream, "resid", edits, rows)
        read = block.ln1(stream)
        query, key, value = (
            einsum(read, W[layer], "b pos d, head d d_head -> b pos head d_head") + bias[layer]
            for W, bias in ((model.W_Q, model.b_Q), (model.W_K, model.b_K), (model.W_V, model.b_V))
        )
        if alone:
            key, value = (
                self.kept(name, layer).scatter(1, rows[..., None, None].expand_as(new), new)
                for name, new in (("attn.hook_k", key), ("attn.hook_v", value))
            )
        scores = einsum(query, key, "b q head d_head, b k head d_head -> b head q k") / model.cfg.d_head**0.5
        hidden = torch.arange(key.shape[1]) > rows[:, None, :, None]
        for edit in edits:
            if edit.site == "look" and edit.keys is not None:
                chosen = torch.tensor([edit.heads is None or h in edit.heads for h in range(model.cfg.n_heads)])
                here = torch.arange(key.shape[1]) == rows[:, None, :, None]  # itself it can always see
                cut = _take(edit.where, rows)[:, None, :, None] & edit.keys[:, None, None, :] & ~here
                hidden = hidden | (cut & chosen[:, None, None])
        pattern = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
        z = _edited(einsum(pattern, value, "b head q k, b k head d_head -> b q head d_head"), "head", edits, rows)
        stream = stream + einsum(z, model.W_O[layer], "b q head d_head, head d_head d -> b q d") + model.b_O[layer]
        return stream + _edited(block.mlp(block.ln2(stream)), "mlp", edits, rows), pattern

    # ---- what comes out

    def score(self, logits: Logits | None = None) -> float:
        """The mean of the right answer's logit less the wrong one's; of probabilities, if there are `weights`."""
        logits = self.logits if logits is None else logits
        if self.weights is not None:
            return (logits.softmax(dim=1) * self.weights).sum(dim=1).mean().item()
        right, wrong = logits.gather(1, self.answers).T
        return (right - wrong).mean().item()

    def says(self, token: Int[Tensor, "batch"], logits: Logits | None = None) -> float:
        """How often this token is the likeliest of all."""
        return ((self.logits if logits is None else logits).argmax(dim=1) == token).float().mean().item()


def _take(activation: Tensor, rows: Int[Tensor, "batch rows"]) -> Tensor:
    everything = rows.shape[1] == activation.shape[1]
    return activation if everything else activation[torch.arange(len(rows))[:, None], rows]


def _edited(activation: Tensor, site: str, edits: Sequence[Edit], rows: Tensor) -> Tensor:
    for edit in edits:
        if edit.site == site and edit.value is not None:
            where, value = _take(edit.where, rows), _take(edit.value, rows)
            where = where[..., None]
            if edit.heads is not None:
                where = (where & torch.tensor([h in edit.heads for h in range(activation.shape[2])]))[..., None]
            activation = torch.where(where, value, activation)
    return activation


# ---- edits


def put(site: str, layer: int, value: Tensor, where: Where, head: int | None = None) -> Edit:
    """Put a value ([batch position ...], or what broadcasts to it) at some positions: of the site, or of one head."""
    if value.dim() == 1:
        value = value.expand(*where.shape, -1)
    return Edit(site, layer, where, value, None if head is None else (head,))


def from_run(site: str, layer: int, other: Batch, where: Where, head: int | None = None) -> Edit:
    """Put in what another run had there."""
    return put(site, layer, other.kept(site, layer), where, head)


def blind(layers: Sequence[int], queries: Where, keys: Where, only: Sequence[int] | None = None) -> list[Edit]:
    """Attention knockout: these queries cannot see these keys (themselves they can), in these layers; in all heads, or
    `only` in some."""
    heads = None if only is None else tuple(only)
    return [Edit("look", layer, queries, heads=heads, keys=keys) for layer in layers]
