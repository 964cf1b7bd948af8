"""Transformers whose weights are written by hand, so that the answer of every experiment is known beforehand.

A `Blueprint` names some directions of the residual stream (`Space`), says what each head and neuron reads and
writes, and builds a GPT-2 of it, as a TransformerBridge like every other model of the course:

    plan = Blueprint(["0", "1", "=", "no", "yes"], n_ctx=3)
    bit, answer = plan.space("bit"), plan.space("answer")
    plan.embed(bit, {"0": -1.0, "1": 1.0})
    plan.head(0, 0).qk(plan.position, plan.position, attend({2: 1}, n_ctx=3)).ov(bit, answer)
    plan.unembed(answer, {"no": -2.0, "yes": 2.0})
    model = plan.build()
    model(model.to_tokens("1 ="))  # at "=": logit(yes) - logit(no) is 4

`handmade(name, seed)` builds the models that the chapters and tests share; each one's docstring says what every
patch gives, and tests/test_handmade.py reads its tables. In them, *denoising* runs the corrupted prompt with the
site's clean activation put in, *noising* the clean prompt with the corrupted one, and *direct* is denoising of
the path from the site straight to the logits alone. A site is a head's output (`head 0.1`), its queries, keys,
values or attention (`q 0.1`, `k 0.1`, `v 0.1`, `pattern 0.1`), an MLP's output (`mlp 1`), or the residual stream
before a layer at a position (`resid 1 @ 2`; position 0 is `<bos>`). Where heads look depends on the positions
alone, in all models but `induction`: there is nothing to gain from patching their queries, keys or attention.

How exact: the directions are orthonormal and have zero mean, and the LayerNorms divide by sqrt(variance + 1e8)
and multiply by 1e4, so they do nothing (centring included). Attention scores differ by `SHARP`, so a softmax is
0 or 1 to float32's last digit. What remains is rounding: stated numbers hold to 1e-4, mostly to 1e-5 (to 1e-3
where attention is split between several positions, whose scores are rounded too).

After Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"
(https://transformer-circuits.pub/2021/framework/index.html), whose two-layer induction circuit is the first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechlib import models

# A score this much above the others takes all of the attention: exp(-40) is 4e-18.
SHARP = 40.0
BOS, UNK = "<bos>", "<unk>"

# A matrix, or a number that stands for that multiple of the identity.
Matrix = Tensor | Sequence[Sequence[float]] | float
# A number (or a list, one for each direction of the space) for each word.
Table = Mapping[str, float | Sequence[float]]


@dataclass(frozen=True)
class Space:
    """Some directions of the residual stream under one name. `space[2]` is one of them, `space[1:3]` a few."""

    name: str
    index: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, which: int | slice) -> "Space":
        picked = self.index[which]
        return Space(self.name, picked if isinstance(picked, tuple) else (picked,))


@dataclass
class Head:
    """An attention head, which does nothing until it is told what to look for and what to move."""

    looks: list[tuple[Space, Space, Tensor]] = field(default_factory=list)
    moves: list[tuple[Space, Space, Tensor]] = field(default_factory=list)

    def qk(self, query: Space, key: Space, scores: Matrix) -> "Head":
        """Where to look: adds query @ scores @ key to the attention score.

        `query` and `key` are what the two positions hold in these spaces, `scores` is [query key]. The
        division by sqrt(d_head) is taken care of: the numbers are those that the softmax sees.
        """
        self.looks.append((query, key, _matrix(scores, len(query), len(key), "scores")))
        return self

    def ov(self, read: Space, write: Space, matrix: Matrix = 1.0) -> "Head":
        """What to move: adds read @ matrix to `write`, where `read` is what the attended position holds there."""
        self.moves.append((read, write, _matrix(matrix, len(read), len(write), "matrix")))
        return self


@dataclass
class MLP:
    """A layer of ReLU neurons, none to begin with."""

    neurons: list[tuple[Mapping[Space, float], float, Mapping[Space, float]]] = field(default_factory=list)
    constants: list[Mapping[Space, float]] = field(default_factory=list)

    def neuron(self, read: Mapping[Space, float], bias: float, write: Mapping[Space, float]) -> "MLP":
        """One neuron: ReLU(the weighted sum of the spaces read + bias), written with the weights of `write`.

        A space of several directions counts as their sum.
        """
        self.neurons.append((read, bias, write))
        return self

    def constant(self, write: Mapping[Space, float]) -> "MLP":
        """What the MLP writes at every position whatever it reads (its output bias)."""
        self.constants.append(write)
        return self


class Blueprint:
    """The plan of a small GPT-2: spaces of the residual stream, and who reads and writes them.

    The vocabulary is `<bos>` (token 0), `<unk>` (token 1) and `words`; a prompt has at most `n_ctx` tokens. Every
    position has a direction of its own in the space `position`. Layers and heads are added as they are named;
    `n_layers` and `n_heads` are the least to have, and those never named do nothing. The seed draws the
    directions: no neuron of the residual stream means anything by itself.
    """

    def __init__(self, words: Sequence[str], n_ctx: int, n_layers: int = 1, n_heads: int = 1, seed: int = 0):
        self.words = [BOS, UNK, *words]
        if len(set(self.words)) < len(self.words):
            raise ValueError("the words must differ from each other and from <bos> and <unk>")
        self.n_ctx, self.n_layers, self.n_heads, self.seed = n_ctx, n_layers, n_heads, seed
        self.spaces: dict[str, Space] = {}
        self.heads: dict[tuple[int, int], Head] = {}
        self.mlps: dict[int, MLP] = {}
        self._written: dict[str, list[tuple[Space, Tensor]]] = {"embed": [], "position": [], "unembed": []}
        self.position = self.space("position", n_ctx)
        self._written["position"].append((self.position, torch.eye(n_ctx)))

    # ---- drawing the plan

    def space(self, name: str, size: int = 1) -> Space:
        """Reserve `size` directions of the residual stream."""
        if name in self.spaces:
            raise ValueError(f"there is a space {name!r} already")
        start = sum(map(len, self.spaces.values()))
        self.spaces[name] = Space(name, tuple(range(start, start + size)))
        return self.spaces[name]

    def embed(self, space: Space, table: Table | Matrix = 1.0) -> None:
        """What each word writes into `space`: a table by word (others write 0) or a matrix [word space]."""
        self._written["embed"].append((space, self._by_word(space, table)))

    def unembed(self, space: Space, table: Table | Matrix = 1.0) -> None:
        """What `space` adds to each word's logit: a table by word (others get 0) or a matrix [word space]."""
        self._written["unembed"].append((space, self._by_word(space, table)))

    def head(self, layer: int, head: int) -> Head:
        """The head `layer.head`, to be told what it does."""
        self.n_layers, self.n_heads = max(self.n_layers, layer + 1), max(self.n_heads, head + 1)
        return self.heads.setdefault((layer, head), Head())

    def mlp(self, layer: int) -> MLP:
        """The MLP of `layer`, to be given neurons."""
        self.n_layers = max(self.n_layers, layer + 1)
        return self.mlps.setdefault(layer, MLP())

    # ---- reading the model

    @property
    def d_head(self) -> int:
        """As many dimensions as the busiest head needs, and enough for the heads to make up the stream."""
        stream = sum(map(len, self.spaces.values())) + 1  # the mean is one more direction
        looks = [sum(len(key) for _, key, _ in head.looks) for head in self.heads.values()]
        moves = [sum(len(read) for read, _, _ in head.moves) for head in self.heads.values()]
        return max([-(-stream // self.n_heads), *looks, *moves])

    def directions(self, space: Space) -> Float[Tensor, "space d_model"]:
        """The unit vectors of a space: orthogonal to each other, to every other space's, and to the mean.

        Raises ValueError if the space was reserved in another plan.
        """
        if space.name not in self.spaces or not set(space.index) <= set(self.spaces[space.name].index):
            raise ValueError(f"the space {space.name!r} belongs to another plan")
        return _basis(self.n_heads * self.d_head, self.seed)[list(space.index)]

    def read(self, stream: Float[Tensor, "... d_model"], space: Space) -> Float[Tensor, "... space"]:
        """What a residual stream, or anything written to it, holds in `space`."""
        return stream @ self.directions(space).to(stream).T

    # ---- building

    def build(self, device: str | torch.device | None = None) -> Any:
        """The model as a TransformerBridge: eval mode, no gradients for parameters, a word-level tokenizer."""
        return models.bridge(self.network(), word_tokenizer(self.words), device=device)

    def network(self) -> Any:
        """The model as transformers' own GPT-2."""
        from transformers import GPT2Config, GPT2LMHeadModel

        d_head, d_mlp = self.d_head, max([1, *(len(mlp.neurons) for mlp in self.mlps.values())])
        config = GPT2Config(
            vocab_size=len(self.words),
            n_positions=self.n_ctx,
            n_embd=self.n_heads * d_head,
            n_layer=self.n_layers,
            n_head=self.n_heads,
            n_inner=d_mlp,
            activation_function="relu",
            layer_norm_epsilon=1e8,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
        with torch.random.fork_rng(devices=[]):  # the random weights that are overwritten below
            network = GPT2LMHeadModel(config)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.fill_(1e4 if ".ln_" in name and name.endswith("weight") else 0.0)
            self._write(network.transformer.wte.weight, "embed")
            self._write(network.transformer.wpe.weight, "position")
            self._write(network.lm_head.weight, "unembed")
            for (layer, index), head in self.heads.items():
                self._write_head(network.transformer.h[layer].attn, index, head)
            for layer, mlp in self.mlps.items():
                self._write_mlp(network.transformer.h[layer].mlp, mlp)
        return network

    def _write(self, weight: Float[Tensor, "rows d_model"], part: str) -> None:
        for space, table in self._written[part]:
            weight += table @ self.directions(space)

    def _write_head(self, attention: Any, index: int, head: Head) -> None:
        """Each term of `qk` and `ov` gets dimensions of the head of its own."""
        d_model, d_head = self.n_heads * self.d_head, self.d_head
        W_Q, W_K, W_V = (torch.zeros(d_model, d_head) for _ in range(3))
        W_O = torch.zeros(d_head, d_model)
        start = 0
        for query, key, scores in head.looks:
            mine = slice(start, start := start + len(key))
            W_Q[:, mine] = self.directions(query).T @ scores * d_head**0.5
            W_K[:, mine] = self.directions(key).T
        start = 0
        for read, write, matrix in head.moves:
            mine = slice(start, start := start + len(read))
            W_V[:, mine] = self.directions(read).T
            W_O[mine] = matrix @ self.directions(write)
        columns = slice(index * d_head, (index + 1) * d_head)
        # GPT-2 keeps queries, keys and values side by side, and in each the heads side by side.
        for part, weight in zip(attention.c_attn.weight.split(d_model, dim=1), (W_Q, W_K, W_V)):
            part[:, columns] = weight
        attention.c_proj.weight[columns] = W_O

    def _write_mlp(self, module: Any, mlp: MLP) -> None:
        for neuron, (read, bias, write) in enumerate(mlp.neurons):
            for space, weight in read.items():
                module.c_fc.weight[:, neuron] += weight * self.directions(space).sum(dim=0)
            module.c_fc.bias[neuron] = bias
            for space, weight in write.items():
                module.c_proj.weight[neuron] += weight * self.directions(space).sum(dim=0)
        for write in mlp.constants:
            for space, weight in write.items():
                module.c_proj.bias += weight * self.directions(space).sum(dim=0)

    def _by_word(self, space: Space, table: Table | Matrix) -> Float[Tensor, "word space"]:
        if not isinstance(table, Mapping):
            return _matrix(table, len(self.words), len(space), "table")
        if unknown := set(table) - set(self.words):
            raise ValueError(f"not among the words: {', '.join(sorted(unknown))}")
        rows = torch.zeros(len(self.words), len(space))
        for word, row in table.items():
            rows[self.words.index(word)] = torch.as_tensor(row, dtype=torch.float32)
        return rows


@lru_cache(maxsize=8)
def _basis(d_model: int, seed: int) -> Float[Tensor, "direction d_model"]:
    """Random orthonormal directions, all those that have zero mean: d_model - 1 of them."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(d_model, d_model, generator=generator, dtype=torch.float64)
    draw[:, 0] = 1.0  # the mean comes first, so that all the others are orthogonal to it
    return torch.linalg.qr(draw).Q.T[1:].float()


def word_tokenizer(words: Sequence[str]) -> Any:
    """A tokenizer that splits at spaces and puts BOS before every text; any word but these is `<unk>`."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNK))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    special = {"bos_token": BOS, "eos_token": BOS, "pad_token": BOS, "unk_token": UNK}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, add_bos_token=True, **special)


def _matrix(value: Matrix, rows: int, columns: int, name: str) -> Float[Tensor, "rows columns"]:
    """`value` as a matrix; raises ValueError if its shape does not fit the spaces."""
    if isinstance(value, int | float):
        if rows != columns:
            raise ValueError(f"{name} must be a {rows} x {columns} matrix, since the two spaces differ in size")
        return value * torch.eye(rows)
    matrix = torch.as_tensor(value, dtype=torch.float32)
    if matrix.shape != (rows, columns):
        raise ValueError(f"{name} must be [{rows}, {columns}], not {list(matrix.shape)}")
    return matrix


def attend(pairs: Mapping[int, int], n_ctx: int) -> Float[Tensor, "n_ctx n_ctx"]:
    """Scores with which position q looks at position `pairs[q]` alone, and every other one at the first."""
    scores = torch.zeros(n_ctx, n_ctx)
    for query in range(n_ctx):
        scores[query, pairs.get(query, 0)] = SHARP
    return scores


# ---- the models


def induction(n_words: int = 20, n_ctx: int = 64, seed: int = 0) -> Blueprint:
    """The induction circuit: A B ... A is followed by B. Two layers, two heads each, attention only.

    - Head 0.1 is the previous-token head: it gives position i > 0 attention 1 on position i - 1, and copies that
      token into the space `previous`. (Position 0 can only look at itself.)
    - Head 1.0 is the induction head: its query is the current token, its key is `previous`. So it looks at the
      positions right after the current token's earlier occurrences, evenly if there are several, and copies the
      tokens that it finds there into `guess`, which the unembedding reads. It never looks at position 0 (unless
      it is there itself), whose `previous` is wrong.
    - Heads 0.0 and 1.1 and the MLPs do nothing.

    If the current token occurred before, once, its successor gets all of the attention and logit 20, all other
    words 0. After k occurrences with different successors: logit 20 / k for each. If it never occurred: attention
    spread evenly over positions 1 to the present one, and logits in proportion to how often each token stands
    there. So on a segment without recurring tokens that is repeated, all tokens but the first of the repeat are
    predicted, with a probability above 0.999999. Prompts are any words, with "<bos>" or without it.

    The numbers below are logit(w2) - logit(w3) at the last of the prompts `<bos> w1 w2 w3 w1`. Corrupting the
    first w1 breaks the match in the induction head's *keys*, and these are all that head 0.1 is there for:

        clean w1 w2 w3 w1  corrupted w4 w2 w3 w1
        patched               denoising  noising  direct
        head 0.1                  20        0        0
        head 1.0                  20        0       20
        head 0.0                   0       20        0
        resid 0 @ 1               20        0        0
        resid 1 @ 1                0       20        0
        resid 1 @ 2               20        0        0
        resid 1 @ 4                0       20        0
        mlp 0                      0       20        0

        clean w1 w2 w3 w1  corrupted w4 w2 w3 w1
        patched               denoising  noising
        q 1.0                      0       20
        k 1.0                     20        0
        v 1.0                      0       20
        pattern 1.0               20        0

        clean w1 w2 w3 w1  corrupted w4 w2 w3 w1
        edge                  denoising
        0.1 -> 1.0 k              20
        0.1 -> 1.0 q               0
        0.1 -> 1.0 v               0
        0.1 -> logits              0
        1.0 -> logits             20

    Corrupting the last w1 breaks the match in its *query*:

        clean w1 w2 w3 w1  corrupted w1 w2 w3 w4
        patched               denoising  noising
        head 0.1                   0       20
        head 1.0                  20        0
        q 1.0                     20        0
        k 1.0                      0       20
        v 1.0                      0       20
        pattern 1.0               20        0

    Corrupting w2 leaves the match alone and changes what is copied, the *value*:

        clean w1 w2 w3 w1  corrupted w1 w5 w3 w1
        patched               denoising  noising
        head 0.1                   0       20
        head 1.0                  20        0
        q 1.0                      0       20
        k 1.0                      0       20
        v 1.0                     20        0
        pattern 1.0                0       20
    """
    plan = build_induction_circuit([f"w{i}" for i in range(n_words)], n_ctx)
    plan.seed = seed
    not_the_first = torch.full((n_ctx, 1), -2 * SHARP)
    plan.head(1, 0).qk(plan.position, plan.position[0], not_the_first)
    return plan


def build_induction_circuit(words: Sequence[str], n_ctx: int) -> Blueprint:
    """An induction circuit for any words: a previous-token head (0.1), and an induction head (1.0) that reads it.

    It is meant for prompts that begin with `<bos>`. (Position 0 has no token before it, and writes its own into
    `previous`. That is harmless if this token, as `<bos>`, never comes again; `induction` does without the condition.)
    """
    plan = Blueprint(words, n_ctx)
    n_vocab = len(plan.words)
    token = plan.space("token", n_vocab)  # which word stands here
    previous = plan.space("previous", n_vocab)  # which word stands just before
    guess = plan.space("guess", n_vocab)  # which word comes next
    plan.embed(token)
    plan.unembed(guess, 20.0)

    one_back = attend({i: i - 1 for i in range(1, n_ctx)}, n_ctx)
    plan.head(0, 1).qk(plan.position, plan.position, one_back).ov(token, previous)
    plan.head(1, 0).qk(token, previous, SHARP).ov(token, guess)
    return plan


def and_gate(seed: int = 0) -> Blueprint:
    """AND of two bits. Prompt `<bos> x y =`, x and y each `0` or `1`; at `=` the answer is `yes` or `no`.

    Head 0.0 carries x (as 1 or -1) to `=`, head 0.1 carries y, and MLP 1 computes 2 ReLU(x + y - 1) - 1, which is
    1 if both are set and -1 if not. The logit difference, logit(yes) - logit(no) at `=`, is 4 times that: 4 for
    `1 1`, -4 for `0 0`, `0 1`, `1 0`. Head 0.2, the heads of layer 1 and MLP 0 do nothing.

    Every input is *necessary*: noising finds each by itself. None is *sufficient*: denoising one of them does
    nothing until the other is restored too. From clean `1 1` to corrupted `0 0`:

        clean 1 1 =  corrupted 0 0 =
        patched               denoising  noising  direct
        head 0.0                  -4       -4       -4
        head 0.1                  -4       -4       -4
        head 0.0, head 0.1         4       -4       -4
        head 0.2                  -4        4       -4
        resid 0 @ 1               -4       -4       -4
        resid 0 @ 2               -4       -4       -4
        resid 0 @ 1, resid 0 @ 2   4       -4       -4
        resid 1 @ 1               -4        4       -4
        resid 1 @ 3                4       -4       -4
        mlp 1                      4       -4        4

    If the corruption changes one bit only, that bit's path is everything, either way:

        clean 1 1 =  corrupted 1 0 =
        patched               denoising  noising  direct
        head 0.0                  -4        4       -4
        head 0.1                   4       -4       -4
        mlp 1                      4       -4        4

    A head set to zero counts as half-way between the bits: here as a bit that is not set.

    The neuron is flat where it is off, and attribution patching (gradient times difference) sees only the slope:
    from clean `1 1` and corrupted `0 0`, it puts each of heads 0.0 and 0.1 at 0 when denoising (true: 0, but 8
    for both together) and at -16 when noising (true: -8).
    """
    return _gate(sign=1.0, seed=seed)


def or_gate(seed: int = 0) -> Blueprint:
    """OR of two bits. Prompt `<bos> x y =`, x and y each `0` or `1`; at `=` the answer is `yes` or `no`.

    Head 0.0 carries x (as 1 or -1) to `=`, head 0.1 carries y, and MLP 1 computes 1 - 2 ReLU(-x - y - 1), which is
    -1 if neither is set and 1 otherwise. The logit difference, logit(yes) - logit(no) at `=`, is 4 times that: -4
    for `0 0`, 4 for `0 1`, `1 0`, `1 1`. Head 0.2, the heads of layer 1 and MLP 0 do nothing.

    Every input is *sufficient*: denoising finds each by itself. None is *necessary*: noising one of them does
    nothing as long as the other stands. From clean `1 1` to corrupted `0 0`:

        clean 1 1 =  corrupted 0 0 =
        patched               denoising  noising  direct
        head 0.0                   4        4       -4
        head 0.1                   4        4       -4
        head 0.0, head 0.1         4       -4       -4
        head 0.2                  -4        4       -4
        resid 0 @ 1                4        4       -4
        resid 0 @ 2                4        4       -4
        resid 0 @ 1, resid 0 @ 2   4       -4       -4
        resid 1 @ 1               -4        4       -4
        resid 1 @ 3                4       -4       -4
        mlp 1                      4       -4        4

    If only one bit was set, its path is everything, either way:

        clean 1 0 =  corrupted 0 0 =
        patched               denoising  noising  direct
        head 0.0                   4       -4       -4
        head 0.1                  -4        4       -4
        mlp 1                      4       -4        4

    A head set to zero counts as half-way between the bits: here as a bit that is set, even on `0 0`.

    The neuron is flat where it is off, and attribution patching (gradient times difference) sees only the slope:
    from clean `1 1` and corrupted `0 0`, it puts each of heads 0.0 and 0.1 at 16 when denoising (true: 8) and at 0
    when noising (true: 0, but -8 for both together).
    """
    return _gate(sign=-1.0, seed=seed)


def _gate(sign: float, seed: int) -> Blueprint:
    """AND for sign 1. OR is the same with every sign turned: x or y = not (not x and not y)."""
    plan = Blueprint(["0", "1", "=", "no", "yes"], n_ctx=4, n_heads=3, seed=seed)
    bit, x, y, answer = (plan.space(name) for name in ("bit", "x", "y", "answer"))
    plan.embed(bit, {"0": -1.0, "1": 1.0})
    plan.unembed(answer, {"no": -2.0, "yes": 2.0})
    plan.head(0, 0).qk(plan.position, plan.position, attend({3: 1}, n_ctx=4)).ov(bit, x)
    plan.head(0, 1).qk(plan.position, plan.position, attend({3: 2}, n_ctx=4)).ov(bit, y)
    plan.mlp(1).neuron(read={x: sign, y: sign}, bias=-1.0, write={answer: 2 * sign}).constant({answer: -sign})
    return plan


def chain(seed: int = 0) -> Blueprint:
    """A chain A -> B -> logits. Prompt `<bos> x . =`, x being `0` or `1`; at `=` the answer is `yes` or `no`.

    Head 0.1 (A) carries x from position 1 to the `.`, into the space `a`, which the unembedding does not read.
    Head 1.0 (B) carries `a` from the `.` to `=` and writes the answer. The logit difference, logit(yes) -
    logit(no) at `=`, is 4 for `1` and -4 for `0`. Heads 0.0 and 1.1 and the MLPs do nothing.

    A's total effect is everything and its direct effect is nothing; B's are both everything:

        clean 1 . =  corrupted 0 . =
        patched               denoising  noising  direct
        head 0.0                  -4        4       -4
        head 0.1                   4       -4       -4
        head 1.0                   4       -4        4
        head 1.1                  -4        4       -4
        resid 0 @ 1                4       -4       -4
        resid 1 @ 1               -4        4       -4
        resid 1 @ 2                4       -4       -4
        resid 1 @ 3               -4        4       -4
        mlp 0                     -4        4       -4

        clean 1 . =  corrupted 0 . =
        patched               denoising  noising
        v 0.1                      4       -4
        v 1.0                      4       -4
        k 1.0                     -4        4
        q 1.0                     -4        4
        pattern 1.0               -4        4

    Edge by edge (the difference that the sender makes, added to the receiver's input alone):

        clean 1 . =  corrupted 0 . =
        edge                  denoising
        0.1 -> 1.0 v               4
        0.1 -> 1.0 k              -4
        0.1 -> 1.0 q              -4
        0.1 -> 1.1 v              -4
        0.1 -> logits             -4
        1.0 -> logits              4

    The effect is linear: any head on the chain scaled by s gives s times the difference, and zero gives 0. So
    attribution patching is exact: 8 for A and for B when denoising, -8 when noising, 0 for the idle heads.
    """
    plan = Blueprint(["0", "1", ".", "=", "no", "yes"], n_ctx=4, n_heads=2, seed=seed)
    bit, a, answer = (plan.space(name) for name in ("bit", "a", "answer"))
    plan.embed(bit, {"0": -1.0, "1": 1.0})
    plan.unembed(answer, {"no": -2.0, "yes": 2.0})
    plan.head(0, 1).qk(plan.position, plan.position, attend({2: 1}, n_ctx=4)).ov(bit, a)
    plan.head(1, 0).qk(plan.position, plan.position, attend({3: 2}, n_ctx=4)).ov(a, answer)
    return plan


def diamond(seed: int = 0) -> Blueprint:
    """A diamond with one dead branch: A -> B -> D -> logits, while A -> C leads nowhere.

    Prompt `<bos> x . =`, x being `0` or `1`; at `=` the answer is `yes` or `no`. Head 0.1 (A) carries x from
    position 1 to the `.`. Heads 1.0 (B) and 1.2 (C) both carry that on to `=`, B into the space `b`, C into the
    space `c`. Head 2.1 (D), at `=`, reads `b` and writes the answer; nothing reads `c`. B and C have the same
    attention, and their outputs differ equally between the two prompts: only an intervention tells them apart.
    The logit difference, logit(yes) - logit(no) at `=`, is 4 for `1` and -4 for `0`. The other heads and the
    MLPs do nothing.

        clean 1 . =  corrupted 0 . =
        patched               denoising  noising  direct
        head 0.1                   4       -4       -4
        head 1.0                   4       -4       -4
        head 1.2                  -4        4       -4
        head 1.0, head 1.2         4       -4       -4
        head 2.1                   4       -4        4
        head 0.0                  -4        4       -4
        head 1.1                  -4        4       -4
        head 2.0                  -4        4       -4
        resid 0 @ 1                4       -4       -4
        resid 1 @ 1               -4        4       -4
        resid 1 @ 2                4       -4       -4
        resid 2 @ 2               -4        4       -4
        resid 2 @ 3                4       -4       -4
        mlp 1                     -4        4       -4

    Edge by edge (the difference that the sender makes, added to the receiver's input alone):

        clean 1 . =  corrupted 0 . =
        edge                  denoising
        0.1 -> 1.0 v               4
        0.1 -> 1.2 v              -4
        0.1 -> 2.1 v              -4
        1.0 -> 2.1 v               4
        1.2 -> 2.1 v              -4
        1.0 -> 2.1 k              -4
        1.0 -> 2.1 q              -4
        0.1 -> logits             -4
        1.0 -> logits             -4
        1.2 -> logits             -4
        2.1 -> logits              4
    """
    plan = Blueprint(["0", "1", ".", "=", "no", "yes"], n_ctx=4, n_heads=3, seed=seed)
    bit, a, b, c, answer = (plan.space(name) for name in ("bit", "a", "b", "c", "answer"))
    plan.embed(bit, {"0": -1.0, "1": 1.0})
    plan.unembed(answer, {"no": -2.0, "yes": 2.0})
    plan.head(0, 1).qk(plan.position, plan.position, attend({2: 1}, n_ctx=4)).ov(bit, a)
    plan.head(1, 0).qk(plan.position, plan.position, attend({3: 2}, n_ctx=4)).ov(a, b)
    plan.head(1, 2).qk(plan.position, plan.position, attend({3: 2}, n_ctx=4)).ov(a, c)
    plan.head(2, 1).qk(plan.position, plan.position, attend({3: 3}, n_ctx=4)).ov(b, answer)
    return plan


def indirect(seed: int = 0) -> Blueprint:
    """A head with a total effect and no direct one, beside a head with a direct effect and no total one.

    Prompt `<bos> x =`, x being `0` or `1`; at `=` the answer is `yes` or `no`. Both heads of layer 0 carry x to
    `=`. Head 0.0 (the planner) writes it into the space `plan`, which the unembedding does not read; MLP 1 turns
    the plan into the answer. Head 0.1 (the mirage) writes the answer itself, and head 1.0 (the eraser) reads
    that at `=` and takes it away again. The logit difference, logit(yes) - logit(no) at `=`, is 4 for `1` and -4
    for `0`. The other heads and MLP 0 do nothing.

        clean 1 =  corrupted 0 =
        patched               denoising  noising  direct
        head 0.0                   4       -4       -4
        head 0.1                  -4        4        4
        head 1.0                 -12       12      -12
        mlp 1                      4       -4        4
        head 0.1, head 1.0        -4        4       -4
        head 0.2                  -4        4       -4
        resid 0 @ 1                4       -4       -4
        resid 1 @ 2                4       -4        4
        resid 1 @ 1               -4        4       -4

    Setting a head to zero on `1` gives 0 for the planner (all of it is lost), 4 for the mirage (nothing is), 8
    for the eraser. Removing only the direct path to the logits: 4, 0, 8.
    """
    plan = Blueprint(["0", "1", "=", "no", "yes"], n_ctx=3, n_heads=3, seed=seed)
    bit, idea, answer = (plan.space(name) for name in ("bit", "plan", "answer"))
    plan.embed(bit, {"0": -1.0, "1": 1.0})
    plan.unembed(answer, {"no": -2.0, "yes": 2.0})
    plan.head(0, 0).qk(plan.position, plan.position, attend({2: 1}, n_ctx=3)).ov(bit, idea)
    plan.head(0, 1).qk(plan.position, plan.position, attend({2: 1}, n_ctx=3)).ov(bit, answer)
    plan.head(1, 0).qk(plan.position, plan.position, attend({2: 2}, n_ctx=3)).ov(answer, answer, -1.0)
    plan.mlp(1).neuron(read={idea: 1.0}, bias=0.0, write={answer: 1.0})
    plan.mlp(1).neuron(read={idea: -1.0}, bias=0.0, write={answer: -1.0})
    return plan


BLUEPRINTS: dict[str, Callable[..., Blueprint]] = {
    builder.__name__: builder for builder in (induction, and_gate, or_gate, chain, diamond, indirect)
}


def handmade(name: str, seed: int = 0, device: str | torch.device | None = None, **sizes: int) -> Any:
    """The hand-written model of that name as a TransformerBridge; `BLUEPRINTS` lists them.

    The seed draws the directions of the residual stream and changes no answer. `induction` takes `n_words` and
    `n_ctx`. Raises ValueError for an unknown name.
    """
    if name not in BLUEPRINTS:
        raise ValueError(f"there is no hand-written model {name!r}{models.did_you_mean(name, list(BLUEPRINTS))}")
    return BLUEPRINTS[name](seed=seed, **sizes).build(device)
