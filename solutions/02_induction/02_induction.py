# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · Induction
#
# [▶ Open this chapter in Colab]({{colab}})
#
# **How does a model copy from its context?**
#
# ![Two heads of a trained model: one looks one back, the other looks at what came after the same word last time](picture.png)
#
# Read "Mr Quibbleworth ... Mr", and you know what comes next, although you have never met a Quibbleworth. So does a transformer, even a small one. It takes *two* heads in two layers: the smallest circuit in a language model that is worth the word
# (Elhage et al. [2021](https://transformer-circuits.pub/2021/framework/index.html), Olsson et al. [2022](https://arxiv.org/abs/2209.11895)). You find it in a trained model, prove it by intervention, and build one by hand.
#
# **When you are done** you can name a head's type from its attention and its weights, say what an ablation does and does not show, and prove by path patching that one head reads another.
#
# **You need** PyTorch, and what queries, keys and values are. Chapter 00 helps but is not needed.
#
# **Time:** three hours for you, about a minute for your computer. No GPU, no network.

# %% tags=["setup"]
try:
    import mechlib
except ImportError:  # in Colab, or in a bare folder: install it once; the torch that is already there stays
    # %pip install --quiet "mechlib @ git+{{repository}}"
    import mechlib

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlib import plots
from mechlib.check import borrow, check, hint, progress, reveal
from mechlib.handmade import SHARP, Blueprint, attend
from mechlib.models import checkpoints, load, random_twin
from mechlib.models.evaluate import repetitions
from mechlib.paths import path_patch
from mechlib.recipes import attn_only_2l

torch.manual_seed(0)  # the one seed of this notebook
generator = torch.Generator().manual_seed(0)
torch.set_num_threads(1)  # the model is so small that more threads only get into each other's way

model = load("attn-only-2l", device="cpu")  # two layers of four heads, no MLPs, 254 words
names = [model.tokenizer.decode(token).strip() for token in range(model.cfg.d_vocab)]
n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads

# %% [markdown]
# **How to work.** Replace every `raise NotImplementedError` by your own lines, run the cell, and run the check under it: it says
# whether you are right and, if not, which mistake it looks like. `hint("induction.per_token_loss")` helps a little, and more when called again. `borrow(...)` hands over the solution, for no points; `progress()` shows how far you are.
#
# Activations: `logits, cache = model.run_with_cache(tokens)`, then `cache["pattern", layer]` (attention, [batch head query key]), `cache["z", layer]` (heads' outputs before $W_O$, [batch position head d_head]),
# `cache["resid_pre", layer]` (the stream before a layer). Weights: `model.W_V[layer, head]` and so on; rows act from the left: $x W_V W_O$.

# %% [markdown]
# ## 1. It copies
#
# Our model, `attn-only-2l`, saw a made-up language, in which now and then a stretch of random words comes twice. The first time nobody can predict random words. The second time, somebody with a memory can.

# %% tags=["experiment"]
length = 20
tokens = repetitions(
    model.tokenizer, n=64, length=length
)  # <bos>, twenty different random words, the same twenty again
print(" ".join(names[token] for token in tokens[0]))

# %% [markdown]
# ### Exercise 1 · `per_token_loss`
# *5 minutes, ★☆☆☆, 1 point*
#
# How surprised is the model by each token? Position $i$ predicts token $i+1$; its loss is $-\log$ (natural) of the probability that it gave to this token. What the last position predicts we do not see, so there is one loss fewer than tokens.
#
# **In:** `logits`, shape (batch, position, vocabulary); `tokens`, integers of shape (batch, position). **Out:** shape (batch, position - 1), the dtype of the logits.
#
# **Example:** with three words in the vocabulary, logits `[[[0., 0., 0.], [5., 1., 1.]]]` and tokens `[[2, 1]]` give `[[1.0986]]`, which is log 3.


# %% exercise="induction.per_token_loss"
def per_token_loss(
    logits: Float[Tensor, "batch position vocabulary"], tokens: Int[Tensor, "batch position"]
) -> Float[Tensor, "batch position-1"]:
    """Entry i is -log of the probability that position i gave to token i + 1."""
    ### BEGIN SOLUTION
    log_probs = logits[:, :-1].log_softmax(dim=-1)
    return -log_probs.gather(dim=-1, index=tokens[:, 1:, None]).squeeze(-1)
    ### END SOLUTION


# %% check="induction.per_token_loss"
check("induction.per_token_loss", per_token_loss)

# %% [markdown]
# **Predict** before you run it: at which position will the loss fall? Two controls could come out otherwise: the same model on forty words
# that do *not* repeat, and a **random twin**, the same architecture before training.

# %% tags=["experiment"]
fresh = torch.cat([tokens[:, : length + 1], repetitions(model.tokenizer, 64, length, seed=1)[:, 1 : length + 1]], dim=1)
twin = random_twin("attn-only-2l", device="cpu")
logits, cache = model.run_with_cache(tokens)
curves = {
    "words that repeat": per_token_loss(logits, tokens).mean(0),
    "other words instead": per_token_loss(model(fresh), fresh).mean(0),
    "random twin": per_token_loss(twin(tokens), tokens).mean(0),
}
plots.plot_by_position(
    curves, "loss (nats)", "On the second copy the model knows what comes next", {length: "the repetition begins"}
)

# %% tags=["experiment", "finding"]
again = slice(length + 1, None)  # predictions from the repetition's first word on: those that copying can get right
for name, curve in curves.items():
    print(f"{name:20} first copy {curve[:length].mean():.1f}, second {curve[again].mean():.1f} nats")

# %% [markdown]
# The first word of the repetition is as surprising as any other: nothing announces it. From the second on the loss is almost gone, and the repetition does it,
# not the position: with other words in their place, nothing falls.
#
# (On random words the loss is above a blind guess's, $\log 254 \approx 5.5$: the model expects its own language.)

# %% [markdown]
# ## 2. Where the heads look
#
# To continue "... B ... B", find the earlier B and see what came after it. Three ways of looking would help; each can be measured on an attention pattern.
#
# ### Exercise 2 · `previous_token_score`
# *10 minutes, ★☆☆☆, 1 point*
#
# How much attention does each head give to the token just before? Average over the prompts and over all positions that have a token before them.
#
# **In:** `pattern`, shape (batch, head, query, key); every row of it sums to 1. **Out:** shape (head,).
#
# **Example:** one prompt, one head, rows `[1, 0, 0]`, `[0.8, 0.2, 0]`, `[0.3, 0.4, 0.3]`: the score is (0.8 + 0.4) / 2 = 0.6.


# %% exercise="induction.previous_token_score"
def previous_token_score(pattern: Float[Tensor, "batch head query key"]) -> Float[Tensor, "head"]:
    """Each head's mean attention to the token just before."""
    ### BEGIN SOLUTION
    return pattern.diagonal(offset=-1, dim1=-2, dim2=-1).mean(dim=(0, 2))
    ### END SOLUTION


# %% check="induction.previous_token_score"
check("induction.previous_token_score", previous_token_score)

# %% [markdown]
# ### Exercise 3 · `duplicate_token_score`
# *15 minutes, ★★☆☆, 2 points*
#
# How much attention goes to **earlier occurrences of the current token**? Add up what several of them get. Average over the positions (of all prompts together) that have an earlier occurrence; the others do not count. If no token
# occurs twice, the score is 0.
#
# **In:** `pattern`, shape (batch, head, query, key), and `tokens`, shape (batch, position). **Out:** shape (head,).
#
# **Example:** tokens `[[7, 8, 7]]` and the last example's pattern: only the last position has an earlier occurrence, at position 0, so the score is 0.3.


# %% exercise="induction.duplicate_token_score"
def duplicate_token_score(
    pattern: Float[Tensor, "batch head query key"], tokens: Int[Tensor, "batch position"]
) -> Float[Tensor, "head"]:
    """Each head's attention to earlier occurrences of the current token, averaged over the positions that have one."""
    ### BEGIN SOLUTION
    earlier = (tokens[:, :, None] == tokens[:, None, :]).tril(diagonal=-1)  # [batch query key]
    attention = (pattern * earlier[:, None]).sum(dim=(0, 2, 3))
    return attention / earlier.any(dim=-1).sum().clamp(min=1)
    ### END SOLUTION


# %% check="induction.duplicate_token_score"
check("induction.duplicate_token_score", duplicate_token_score)

# %% [markdown]
# ### Exercise 4 · `induction_score`
# *15 minutes, ★★☆☆, 2 points*
#
# And how much goes to the tokens **right after** earlier occurrences of the current token? Average as before. (If a token follows itself, the token right after its earlier occurrence is the current position. That counts.)
#
# **In** and **out** as before.
#
# **Example:** the same pattern and tokens: the last position should look at position 1, the token after the first 7, so the score is 0.4.


# %% exercise="induction.induction_score"
def induction_score(
    pattern: Float[Tensor, "batch head query key"], tokens: Int[Tensor, "batch position"]
) -> Float[Tensor, "head"]:
    """Each head's attention to the tokens right after earlier occurrences of the current one, averaged likewise."""
    ### BEGIN SOLUTION
    before = (tokens[:, :, None] == tokens[:, None, :]).tril(diagonal=-1)
    wanted = before.roll(1, dims=-1)  # one key further; the last column was empty, so nothing wraps around
    return (pattern * wanted[:, None]).sum(dim=(0, 2, 3)) / wanted.any(dim=-1).sum().clamp(min=1)
    ### END SOLUTION


# %% check="induction.induction_score"
check("induction.induction_score", induction_score)

# %% [markdown]
# **Predict:** which of the three kinds will you find, and in which layer?


# %% tags=["experiment"]
def head_scores(cache: Any, tokens: Int[Tensor, "batch position"]) -> dict[str, Float[Tensor, "layer head"]]:
    """The three scores of every head."""
    every = [cache["pattern", layer] for layer in range(2)]
    return {
        "previous token": torch.stack([previous_token_score(pattern) for pattern in every]),
        "duplicate token": torch.stack([duplicate_token_score(pattern, tokens) for pattern in every]),
        "induction": torch.stack([induction_score(pattern, tokens) for pattern in every]),
    }


def label(index: Tensor) -> str:
    """`layer.head` of an index into the flattened heads."""
    return f"{index // n_heads}.{index % n_heads}"


scores = head_scores(cache, tokens)
heads = [f"head {head}" for head in range(n_heads)]
plots.plot_tables(
    scores, ["layer 0", "layer 1"], heads, "One head of layer 0 looks one back; all of layer 1 does induction"
)

# %% tags=["experiment", "finding"]
previous_head, induction_head = scores["previous token"].argmax(), scores["induction"].argmax()
_, twin_cache = twin.run_with_cache(tokens)
for kind, score in scores.items():
    control = head_scores(twin_cache, tokens)[kind].max()
    print(f"{kind:16} best head {label(score.argmax())} with {score.max():.2f}; best of the random twin {control:.2f}")

# %% [markdown]
# Here they are, on one short prompt:

# %% tags=["experiment"]
short = repetitions(model.tokenizer, n=1, length=8, seed=3)
_, short_cache = model.run_with_cache(short)


def of_head(activation: str, index: Tensor, cache: Any) -> Tensor:
    """A head's part of a cached activation, of the first prompt."""
    return cache[activation, int(index // n_heads)][0, index % n_heads]


plots.plot_attention(
    {
        f"head {label(previous_head)}: one back": of_head("pattern", previous_head, short_cache),
        f"head {label(induction_head)}: after the same word": of_head("pattern", induction_head, short_cache),
    },
    [names[token] for token in short[0]],
    "A previous-token head, and an induction head: no line in the first copy, a sharp one in the second",
)

# %% [markdown]
# **What would have fooled us.** Here the wanted token is always 19 places back. A head that looks 19 back, whatever stands there, would score the same. So look 19 back where nothing repeats:

# %% tags=["experiment", "finding"]
_, fresh_cache = model.run_with_cache(fresh)
best = int(induction_head // n_heads), int(induction_head % n_heads)
for name, seen in {"words that repeat": cache, "other words instead": fresh_cache}.items():
    diagonal = seen["pattern", best[0]][:, best[1]].diagonal(offset=1 - length, dim1=-2, dim2=-1)[:, 1:]
    print(
        f"head {label(induction_head)}, attention 19 places back in the second half: {name:20} {diagonal[:, -length:].mean():.2f}"
    )

# %% [markdown]
# ## 3. Does it matter?
#
# A pattern shows where a head looks, not whether anybody cares. Take the head out and measure the loss. But what do you put in its place?
#
# ### Exercise 5 · `ablate_head`
# *25 minutes, ★★★☆, 3 points*
#
# Return the logits on `tokens` with the output of one head (`blocks.{layer}.attn.hook_z`, shape (batch, position, head, d_head)) replaced by
# - `"zero"`: 0 (`reference` is not used);
# - `"mean"`: its mean over the prompts of `reference`, for each position by itself;
# - `"resample"`: its output on `reference`: row $i$ of the tokens gets what the head says on row $i$ of the reference.
#
# **In:** the model; `tokens`, shape (batch, position); `layer`, `head`; `method`; `reference`, shape (rows, position), or None. For "resample" it has the shape of `tokens`. **Out:** logits, shape (batch, position, vocabulary). Leave no hook behind.
#
# **Example:** `ablate_head(model, tokens, 0, 3, "zero")` are the logits of a model whose head 0.3 says nothing.


# %% exercise="induction.ablate_head"
def ablate_head(
    model: Any,
    tokens: Int[Tensor, "batch position"],
    layer: int,
    head: int,
    method: Literal["zero", "mean", "resample"],
    reference: Int[Tensor, "rows position"] | None = None,
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits with one head's output replaced: by nothing, by its average, or by that on other prompts."""
    ### BEGIN SOLUTION
    name = f"blocks.{layer}.attn.hook_z"
    replacement = torch.zeros(())
    if method != "zero":
        replacement = model.run_with_cache(reference)[1][name][:, :, head]
    if method == "mean":
        replacement = replacement.mean(dim=0)

    def put_in(z, hook):
        z = z.clone()
        z[:, :, head] = replacement
        return z

    return model.run_with_hooks(tokens, fwd_hooks=[(name, put_in)])
    ### END SOLUTION


# %% check="induction.ablate_head"
check("induction.ablate_head", ablate_head)

# %% [markdown]
# **Predict:** one previous-token head, four induction heads. Whose loss hurts most, and which of the three methods?


# %% tags=["experiment"]
def loss_again(logits: Float[Tensor, "batch position vocabulary"]) -> float:
    """The mean loss on the repetition."""
    return per_token_loss(logits, tokens)[:, again].mean().item()


others = repetitions(model.tokenizer, 64, length, seed=2)  # other repeated words
intact = loss_again(logits)
effects = {
    method: torch.tensor(
        [
            [loss_again(ablate_head(model, tokens, layer, head, method, others)) - intact for head in range(n_heads)]
            for layer in range(n_layers)
        ]
    )
    for method in ("zero", "mean", "resample")
}
plots.plot_head_effects(
    effects, "rise of the loss (nats)", "Copying dies with two heads of layer 0, and with no single head of layer 1"
)

# %% tags=["experiment", "finding"]
for method, effect in effects.items():
    worst = effect.flatten().argsort(descending=True)[:2]
    print(f"{method:8} hurts most for heads", " and ".join(label(index) for index in worst))


def compare(over: str, under: str) -> None:
    """The head for which two methods differ by the largest factor, among those where the first does real harm."""
    factor = (effects[over] / effects[under]).where(effects[over] > 0.5, 0)
    values = ", ".join(f"{method} {effect.flatten()[factor.argmax()]:.1f}" for method, effect in effects.items())
    print(f"{over} against {under} differs most for head {label(factor.argmax())}: {values}")


compare("resample", "zero")
compare("zero", "mean")

# %% [markdown]
# Three surprises.
#
# 1. **No induction head is indispensable.** There are four, and they cover for each other. (All four together: see the caveats.)
# 2. **Another head of layer 0 matters as much as the previous-token head**, although it looks neither one back nor at duplicates. Act 4 finds out why.
# 3. **The three methods disagree**, by a factor of three, in both directions. Mean *silences* a head: its news is gone, what it always says stays. Zero takes that away as well, which no later layer has ever had to do
#    without; so it can hurt more although no more information is lost. Resample makes the head *speak about another prompt*: where silence is hardly missed but a wrong word is believed, it hurts most.

# %% [markdown]
# ### In your own words · 1
# *2 points, graded by a person*
#
# A colleague sets a head to zero, sees no change of the loss, and writes: "This head plays no part in the task." Give two different reasons why it could play one all the same, and for each what you would measure.

# %% [markdown] question="induction.words-ablation" points=2
# *Backup.* Other heads do the same job: ablate all of them together, or measure each one's direct contribution to the logits in the untouched model.
# *What zero means.* Later layers may tolerate silence and still believe the head when it speaks: resample it from another prompt, and see whether the output follows.
# Also good: the average hides that the head helps in some cases and hurts in others (look at them apart); the head matters on other prompts of the task.
#
# *Rubric: 1 point for each reason that comes with a measurement which would have come out differently.*

# %% [markdown]
# ### Exercise 6 · `head_logit_attribution` (optional, hard)
# *30 minutes, ★★★★, 3 points*
#
# Who then says the answer? Return what each head adds **directly** to the logit of `targets`, **less** what it adds to the average logit of the vocabulary (which changes no probability). Take the final LayerNorm as the
# linear map that it was in this run: it subtracts the mean over d_model, divides by the scale in `cache["ln_final.hook_scale"]` (shape (batch, position, 1)) and multiplies by `model.ln_final.weight`. Then comes `model.W_U`, shape (d_model, vocabulary). Biases belong to no head.
#
# **In:** `model`, `cache`, and `targets`, a token for every prompt and position. **Out:** shape (layer, head, batch, position).
#
# **Short of time?** Write `head_logit_attribution = borrow("induction.head_logit_attribution")` in its place: the next cell needs it.


# %% exercise="induction.head_logit_attribution"
def head_logit_attribution(
    model: Any, cache: Any, targets: Int[Tensor, "batch position"]
) -> Float[Tensor, "layer head batch position"]:
    """What each head adds straight to the targets' logits, less what it adds to the average logit."""
    ### BEGIN SOLUTION
    readers = (model.W_U - model.W_U.mean(dim=-1, keepdim=True)).T[targets] * model.ln_final.weight
    parts = []
    for layer in range(model.cfg.n_layers):
        said = torch.einsum("bphd,hdm->hbpm", cache["z", layer], model.W_O[layer])
        said = (said - said.mean(dim=-1, keepdim=True)) / cache["ln_final.hook_scale"]
        parts.append((said * readers).sum(dim=-1))
    return torch.stack(parts)
    ### END SOLUTION


# %% check="induction.head_logit_attribution"
check("induction.head_logit_attribution", head_logit_attribution)

# %% tags=["experiment"]
said = head_logit_attribution(model, cache, tokens.roll(-1, dims=1))[..., :-1].mean(dim=2)
plots.plot_head_effects(
    {"first copy": said[..., :length].mean(-1), "second copy": said[..., again].mean(-1)},
    "added to the next token's logit",
    "All heads of layer 1 say the copied word, and only when there is something to copy",
    log=False,
)

# %% [markdown]
# ## 4. What a head would say
#
# Both halves of a head can be read off its weights. *Where* it looks is decided by $W_Q$ and $W_K$. *What it says* is decided by $W_V W_O$ and, from vocabulary to vocabulary, by the **full OV circuit**
#
# $$W_E\, W_V W_O\, W_U \quad\text{[word looked at, word predicted].}$$
#
# For this we load the model with its LayerNorms folded in (`processed=True`), so that a matrix is all there is.
#
# ### Exercise 7 · `copying_score`
# *20 minutes, ★★☆☆, 2 points*
#
# Does the head raise the logit of the very token that it looks at? Two summaries of its full OV circuit:
# 1. the share of tokens whose **own** logit is raised more than any other token's;
# 2. with its eigenvalues $\lambda$, $\sum \lambda / \sum |\lambda|$: 1 if the head only hands on what it reads, -1 if it only suppresses it, about 0 for random weights. (Eigenvalues are complex; in the first sum the imaginary parts cancel, so return its real part.)
#
# **In:** `W_E` (vocabulary, d_model), `W_V` (d_model, d_head), `W_O` (d_head, d_model), `W_U` (d_model, vocabulary). **Out:** a tuple of two tensors without axes.
#
# **Example:** if the circuit is `[[2., 0.], [3., 1.]]`, the first token is copied and the second is not: 0.5. Its eigenvalues are 2 and 1: 1.0.


# %% exercise="induction.copying_score"
def copying_score(
    W_E: Float[Tensor, "vocabulary d_model"],
    W_V: Float[Tensor, "d_model d_head"],
    W_O: Float[Tensor, "d_head d_model"],
    W_U: Float[Tensor, "d_model vocabulary"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The share of tokens that the head copies, and the sum of its circuit's eigenvalues over that of their sizes."""
    ### BEGIN SOLUTION
    circuit = W_E @ W_V @ W_O @ W_U
    itself = torch.arange(len(circuit), device=circuit.device)
    top_1 = (circuit.argmax(dim=-1) == itself).to(circuit.dtype).mean()
    eigenvalues = torch.linalg.eigvals(circuit)
    return top_1, eigenvalues.sum().real / eigenvalues.abs().sum()
    ### END SOLUTION


# %% check="induction.copying_score"
check("induction.copying_score", copying_score)

# %% [markdown]
# The loss says that layer 1 copies nearly perfectly. **Predict** the copying scores of its heads.

# %% tags=["experiment", "finding"]
folded = load("attn-only-2l", device="cpu", processed=True)
W_E, W_U, W_V, W_O = folded.W_E, folded.W_U, folded.W_V, folded.W_O
for head in range(n_heads):
    top, eigen = copying_score(W_E, W_V[1, head], W_O[1, head], W_U)
    print(f"head 1.{head}: copies {top:4.0%} of the words; eigenvalue score {eigen:.2f}")

# %% [markdown]
# Not what you expected? Together they predict nearly every word right, and by their weights they cannot copy one in ten. The question is wrong: *what does layer 1 really read at a position?* Not $W_E$ alone, but what layer 0 has written there, too.
#
# ### Exercise 8 · `positional_attention`
# *15 minutes, ★★☆☆, 2 points*
#
# So what does layer 0 do? Part of its attention is decided by the positions alone. Compute the pattern of a causal head (keys after the query get nothing) that reads the vector `x[i]` at position $i$: queries $xW_Q + b_Q$, keys $xW_K + b_K$, scores divided by $\sqrt{d_{head}}$, softmax over the keys.
#
# **In:** `x`, shape (position, d_model); `W_Q`, `W_K` (d_model, d_head); `b_Q`, `b_K` (d_head,). **Out:** shape (query, key).
#
# **Example:** with `W_Q` and `b_Q` zero, row 3 is `[0.25, 0.25, 0.25, 0.25, 0, ...]`.


# %% exercise="induction.positional_attention"
def positional_attention(
    x: Float[Tensor, "position d_model"],
    W_Q: Float[Tensor, "d_model d_head"],
    b_Q: Float[Tensor, "d_head"],
    W_K: Float[Tensor, "d_model d_head"],
    b_K: Float[Tensor, "d_head"],
) -> Float[Tensor, "query key"]:
    """The attention pattern of a causal head that reads `x`."""
    ### BEGIN SOLUTION
    scores = (x @ W_Q + b_Q) @ (x @ W_K + b_K).T / W_Q.shape[1] ** 0.5
    future = torch.ones_like(scores, dtype=torch.bool).triu(diagonal=1)
    return scores.masked_fill(future, -torch.inf).softmax(dim=-1)
    ### END SOLUTION


# %% check="induction.positional_attention"
check("induction.positional_attention", positional_attention)

# %% [markdown]
# With the *average* word at every position, only the positions differ:

# %% tags=["experiment"]
average = folded.blocks[0].ln1((folded.W_pos + W_E.mean(dim=0))[None])[0]
by_position = [
    positional_attention(average, folded.W_Q[0, head], folded.b_Q[0, head], folded.W_K[0, head], folded.b_K[0, head])
    for head in range(n_heads)
]
itself = torch.stack([pattern.diagonal()[1:].mean() for pattern in by_position])
one_back = torch.stack([pattern.diagonal(-1).mean() for pattern in by_position])
rewriters = [head for head in range(n_heads) if itself[head] > 0.5]
plots.plot_attention(
    {f"head 0.{head}": pattern[:12, :12] for head, pattern in enumerate(by_position)},
    [str(position) for position in range(12)],
    f"By positions alone head 0.{one_back.argmax()} looks one back; heads {' and '.join(f'0.{head}' for head in rewriters)} mostly at their own position",
)

# %% tags=["experiment", "finding"]
for head in range(n_heads):
    print(f"head 0.{head}: attention to itself {itself[head]:.2f}, one back {one_back[head]:.2f}")
print("Heads that mostly look at their own position:", ", ".join(f"0.{head}" for head in rewriters))

# %% [markdown]
# So that is what they do: they look at their own position and *rewrite the word there*, for layer 1 to read. Ask again, with the **effective embedding**: $W_E$ plus what these heads add to it.


# %% tags=["experiment", "finding"]
def after_layer_0(which: list[int]) -> Float[Tensor, "vocabulary d_model"]:
    """Every word's embedding plus what these heads of layer 0 make of it, at their own position."""
    normed = folded.blocks[0].ln1(W_E[None])[0]
    return W_E + sum(normed @ W_V[0, head] @ W_O[0, head] for head in which)


for head in range(n_heads):
    top, eigen = copying_score(after_layer_0(rewriters), W_V[1, head], W_O[1, head], W_U)
    control, _ = copying_score(after_layer_0([int(previous_head)]), W_V[1, head], W_O[1, head], W_U)
    print(
        f"head 1.{head}: copies {top:4.0%} of the words; eigenvalue score {eigen:.2f}; with head {label(previous_head)} in their place {control:4.0%}"
    )

# %% tags=["experiment"]
some = torch.arange(2, 16)
copier = W_V[best] @ W_O[best] @ W_U
plots.plot_circuits(
    {
        "from the embedding alone": (W_E @ copier)[some][:, some],
        "from what layer 0 makes of it": (after_layer_0(rewriters) @ copier)[some][:, some],
    },
    [names[i] for i in some],
    [names[i] for i in some],
    f"Head {label(induction_head)} copies words (the diagonal), once layer 0 has rewritten them",
)

# %% [markdown]
# **What would have fooled us:** the bare embedding. "Its OV circuit does not copy" would have been a false negative. Read a head's weights in the coordinates that really reach it.
#
# ### What else the weights know: skip-trigrams
#
# We made this language, so we know its two habits: each word has three likely *successors*, and three likely words *two places on*, whatever stands between. The second is a **skip-trigram** "A ? ... B". Who could know it? A head that looks from "?" one back at A, and says B.
# Compare the top three of each word's row in the OV circuit with the true ones. By chance, about one in a hundred is right.

# %% tags=["experiment", "finding"]
_, successors, two_on = attn_only_2l.language()


def hits(circuit: Float[Tensor, "vocabulary vocabulary"], truth: list[list[int]]) -> float:
    """The share of the true words among the top three of every word's row."""
    top = circuit[attn_only_2l.FIRST :].topk(3).indices.tolist()
    return sum(len(set(row) & set(right)) for row, right in zip(top, truth)) / (3 * len(truth))


ways = {f"head 0.{head}": W_E @ W_V[0, head] @ W_O[0, head] @ W_U for head in range(n_heads)}
ways |= {f"head {label(induction_head)}": W_E @ copier, "no head (W_E W_U)": W_E @ W_U}
for way, circuit in ways.items():
    print(
        f"{way:18} true successors {hits(circuit, successors):.2f}, true words two places on {hits(circuit, two_on):.2f}"
    )

# %% tags=["experiment"]
rows = torch.arange(2, 10)
true = [two_on[row - attn_only_2l.FIRST] for row in rows.tolist()]
columns = sorted({word for words in true for word in words})
plots.plot_circuits(
    {way: ways[way][rows][:, columns] for way in (f"head {label(previous_head)}", "no head (W_E W_U)")},
    [names[i] for i in rows],
    [names[i] for i in columns],
    "The previous-token head says what comes two places after a word (rings: the true ones)",
    [(i, columns.index(word)) for i, words in enumerate(true) for word in words],
)

# %% [markdown]
# One head, two jobs: it feeds the induction heads, *and* it says skip-trigrams by itself. "The previous-token head" names one thing that it does.
#
# ### Small subspaces
#
# How much of the stream can a head use? Its map $W_V W_O$ is 128 by 128, but passes through 32 dimensions.

# %% tags=["experiment"]
spectra = {f"head {label(index)}": torch.linalg.svdvals(W_V[index // n_heads, index % n_heads] @ W_O[index // n_heads, index % n_heads])
           for index in (previous_head, induction_head)}  # fmt: skip
full = torch.randn(128, 128, generator=generator) / 128**0.5
spectra["random, full rank"] = torch.linalg.svdvals(full) * spectra[f"head {label(previous_head)}"].norm() / full.norm()
plots.plot_spectra(spectra, "A head moves at most 32 of the stream's 128 dimensions", 128)

# %% [markdown]
# ## 5. Who reads whom?
#
# If a later head reads the subspace where an earlier one wrote, they **compose**: through its queries (Q), keys (K) or values (V).
#
# ### Exercise 9 · `composition_score`
# *15 minutes, ★★☆☆, 2 points*
#
# $$\frac{\|\,W_{OV}\,R\,\|_F}{\|W_{OV}\|_F\,\|R\|_F}$$
#
# `writer` is the earlier head's $W_{OV} = W_V W_O$. `reader` is the later head's $W_Q W_K^\top$ if `side` is "Q" or "K", and its $W_V W_O$ if it is "V". The score $x_q\, W_Q W_K^\top\, x_k^\top$ takes the query's stream on the left and the key's on the right: choose $R$ so that what is
# written meets the side that is asked for.
#
# **In:** `writer` and `reader`, both (d_model, d_model); `side`. **Out:** a tensor without axes, between 0 and 1.
#
# **Example:** if `writer` only writes dimension 2, and the reader's queries read only dimension 1 and its keys only dimension 2, the score is 1 for "K" and 0 for "Q".


# %% exercise="induction.composition_score"
def composition_score(
    writer: Float[Tensor, "d_model d_model"], reader: Float[Tensor, "d_model d_model"], side: Literal["Q", "K", "V"]
) -> Float[Tensor, ""]:
    """How much of what the writer writes is read by the reader's queries, keys or values."""
    ### BEGIN SOLUTION
    read = reader.T if side == "K" else reader
    return (writer @ read).norm() / (writer.norm() * read.norm())
    ### END SOLUTION


# %% check="induction.composition_score"
check("induction.composition_score", composition_score)

# %% [markdown]
# Two random subspaces of 32 among 128 dimensions overlap too. The control: the same two heads after a random *rotation* of what the first one writes. Sizes and ranks stay; the fit is left to chance.

# %% tags=["experiment"]
W_OV, W_QK = W_V @ W_O, folded.W_Q @ folded.W_K.mT
rotations = torch.linalg.qr(torch.randn(20, 128, 128, generator=generator)).Q
excess, spread = {}, {}
for side in ("Q", "K", "V"):
    reader = (W_OV if side == "V" else W_QK)[1]
    found = torch.tensor([[composition_score(w, r, side) for r in reader] for w in W_OV[0]])
    chance = torch.tensor(
        [[[composition_score(w @ turn, r, side) for turn in rotations] for r in reader] for w in W_OV[0]]
    )
    excess[side], spread[side] = found - chance.mean(-1), chance.std(-1).max().item()
plots.plot_tables(
    {f"{side}: read by the {what}" : excess[side] for side, what in zip("QKV", ("queries", "keys", "values"))},
    [f"0.{head}" for head in range(n_heads)],
    [f"1.{head}" for head in range(n_heads)],
    f"Composition beyond chance: the keys of layer 1 read head {label(previous_head)}, queries and values read others",
    signed=True,
    labels=("writes", "reads"),
)  # fmt: skip

# %% tags=["experiment", "finding"]
for side, above in excess.items():
    order = above.mean(dim=1).argsort(descending=True)
    print(
        f"{side}: layer 1 reads head 0.{order[0]} most, {above.mean(dim=1)[order[0]]:+.3f} above chance (spread of chance {spread[side]:.3f})"
    )

# %% [markdown]
# That fits the story. The keys of all induction heads read the previous-token head: a key says "before me stood A", and the query "I am A" finds it. Queries read the rewriters; so do values, less clearly.
#
# But a score says that a head *could* hear another, not that anything depends on it.

# %% [markdown]
# ## 6. Proof
#
# If the story is true, this follows: change what the previous-token head says, let **only the keys** of the induction heads notice, and copying must die. Let only their queries or values notice, and nothing may happen.
#
# That is **path patching** (Wang et al. 2023, Goldowsky-Dill et al. 2023): an intervention on one edge of the graph.
#
# ### Exercise 10 · `patch_keys`
# *30 minutes, ★★★☆, 3 points*
#
# Return the logits on `tokens` if the **keys** of the head `receiver` (and nothing else) read the stream as if the head `sender` had said what it says in another run. In three steps:
# 1. the change of the sender's output, $z W_O$, from this run (`cache`) to the other one (`source_cache`), at every position;
# 2. the keys that the receiver makes of its own input in this run (`resid_pre` of its layer) plus that change; its LayerNorm is the module `model.blocks[layer].ln1`;
# 3. a run on `tokens` in which the receiver has these keys (`blocks.{layer}.attn.hook_k`, shape (batch, position, head, d_head)).
#
# Whatever lies between the two heads keeps what it said. Leave no hook behind.
#
# **In:** `model`; `tokens`, shape (batch, position); `cache` of the run on `tokens`, `source_cache` of a run of the same shape; `sender` and `receiver`, each a pair (layer, head), the receiver in a later layer. **Out:** logits.
#
# **Example:** with `source_cache = cache` nothing changes: the logits are `model(tokens)`.


# %% exercise="induction.patch_keys"
def patch_keys(
    model: Any,
    tokens: Int[Tensor, "batch position"],
    cache: Any,
    source_cache: Any,
    sender: tuple[int, int],
    receiver: tuple[int, int],
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits if only the receiver's keys notice what the sender says in another run."""
    ### BEGIN SOLUTION
    (layer, head), (later, reader) = sender, receiver
    z_change = (source_cache["z", layer] - cache["z", layer])[:, :, head]
    stream = cache["resid_pre", later] + z_change @ model.W_O[layer, head]
    new = model.blocks[later].ln1(stream) @ model.W_K[later, reader] + model.b_K[later, reader]

    def with_new_keys(keys, hook):
        keys = keys.clone()
        keys[:, :, reader] = new
        return keys

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{later}.attn.hook_k", with_new_keys)])
    ### END SOLUTION


# %% check="induction.patch_keys"
check("induction.patch_keys", patch_keys)

# %% tags=["experiment"]
_, others_cache = model.run_with_cache(others)  # the other run: other words, repeated too
edges = torch.tensor(
    [
        [loss_again(patch_keys(model, tokens, cache, others_cache, (0, sender), (1, receiver))) - intact for receiver in range(n_heads)]
        for sender in range(n_heads)
    ]
)  # fmt: skip
plots.plot_tables(
    {"rise of the loss (nats)": edges},
    [f"0.{head}" for head in range(n_heads)],
    [f"1.{head}" for head in range(n_heads)],
    f"One edge at a time: the keys hear head {label(previous_head)} alone",
    labels=("sender", "receiver's keys"),
)

# %% [markdown]
# Every column has one cell that counts, the previous-token head's. It is far below that head's ablation, because three other induction heads are still at work. So patch the keys of *all four*: the library's `path_patch` does what you wrote for several senders and receivers, and for queries and values.
# **Predict** the table: four senders, three inputs.

# %% tags=["experiment"]
table = torch.tensor(
    [
        [
            loss_again(path_patch(model, tokens, cache, others_cache, [(0, sender)], [(1, head, part) for head in range(n_heads)])) - intact
            for part in "qkv"
        ]
        for sender in range(n_heads)
    ]
)  # fmt: skip
plots.plot_tables(
    {"rise of the loss (nats)": table},
    [f"0.{head}" for head in range(n_heads)],
    ["queries", "keys", "values"],
    "Keys hear one head, queries and values others",
    labels=("sender", "of all four heads of layer 1"),
)

# %% tags=["experiment", "finding"]
through = {part: table[previous_head, i].item() for i, part in enumerate(("queries", "keys", "values"))}
print(f"head {label(previous_head)} into the", ", ".join(f"{part} {rise:+.1f}" for part, rise in through.items()))
straight = loss_again(path_patch(model, tokens, cache, others_cache, [(0, int(previous_head))], "logits")) - intact
print(f"head {label(previous_head)} straight to the logits {straight:+.1f}")
print(
    "the weakest of the rewriters into the keys",
    f"{table[rewriters, 1].min():+.1f}, the strongest {table[rewriters, 1].max():+.1f}",
)

# %% [markdown]
# Now it is proved, on these prompts: the edge from the previous-token head to the keys carries the copying. The *same change of the same head*, sent to the queries, to the values or straight to the logits, does next to nothing. Had the patch simply broken the model, those paths would have
# hurt as well.

# %% [markdown]
# ## 7. It appears all at once
#
# We kept checkpoints of the training. **Predict:** does the loss on repetitions fall steadily, and which head comes first?

# %% tags=["experiment"]
steps = checkpoints("attn-only-2l")
history = {name: [] for name in ("first copy", "second copy", "previous token", "duplicate token", "induction")}
for step in steps:
    young = load("attn-only-2l", device="cpu", checkpoint=step)
    young_logits, young_cache = young.run_with_cache(tokens[:32])
    losses = per_token_loss(young_logits, tokens[:32]).mean(0)
    history["first copy"].append(losses[:length].mean().item())
    history["second copy"].append(losses[again].mean().item())
    for kind, score in head_scores(young_cache, tokens[:32]).items():
        history[kind].append(score.max().item())
drop = -torch.tensor(history["second copy"]).diff()
steepest = int((drop / torch.tensor(steps).diff()).argmax())
plots.plot_training(
    steps,
    {
        "loss (nats)": {name: history[name] for name in ("first copy", "second copy")},
        "best head's score": {name: history[name] for name in ("previous token", "induction", "duplicate token")},
    },
    f"Copying appears within {steps[steepest + 1] - steps[steepest]} steps, once the previous-token head is there",
    (steps[steepest], steps[steepest + 1]),
)

# %% tags=["experiment", "finding"]
print(f"The loss on the second copy falls fastest between steps {steps[steepest]} and {steps[steepest + 1]}:",
      f"from {history['second copy'][steepest]:.1f} to {history['second copy'][steepest + 1]:.1f} nats")  # fmt: skip
halfway = {
    kind: next(s for s, v in zip(steps, history[kind]) if v >= max(history[kind]) / 2)
    for kind in ("previous token", "induction")
}
print("First checkpoint with half of the final score:", ", ".join(f"{kind} {step}" for kind, step in halfway.items()))

# %% [markdown]
# For hundreds of steps nothing, then everything at once, as in large models (Olsson et al. 2022). An induction head is of no use without a previous-token head, so it has to wait for one. Why should that one appear, with nobody to listen? Act 4 told: it has
# another job, the skip-trigrams. The order fits the circuit. But checkpoints only *correlate*; what showed that one head needs the other was the patch.

# %% [markdown]
# ## 8. Build one
#
# You have understood it when you can build it. With `Blueprint` you write a transformer by hand: you name some directions of the residual stream (a *space*) and say what each head reads and writes. Here is one that says which word came **two** places before:

# %% tags=["experiment"]
words, n_ctx = ["red", "green", "blue", "pink"], 6
plan = Blueprint(words, n_ctx)
here = plan.space("here", len(plan.words))  # one direction a word; plan.words has <bos> and <unk> too
answer = plan.space("answer", len(plan.words))
plan.embed(here)  # every word writes its own direction of `here`
look = attend({position: position - 2 for position in range(2, n_ctx)}, n_ctx)  # scores: each position looks two back
plan.head(0, 0).qk(plan.position, plan.position, look).ov(here, answer)  # where to look; what to move, and where to
plan.unembed(answer, 20.0)  # every direction of `answer` raises its own word's logit by 20
by_hand = plan.build("cpu")
guesses = by_hand(by_hand.to_tokens("red green blue pink"))[0].argmax(-1)
print("red green blue pink, two places before:", " ".join(plan.words[guess] for guess in guesses[2:]))

# %% [markdown]
# ### Exercise 11 · `build_induction_circuit` (optional, hard)
# *45 minutes, ★★★★★, 5 points (3 for the predictions, 2 for the heads)*
#
# Write an induction circuit in **two layers**. Every prompt starts with `<bos>`, then may come other words, then a segment in which no word occurs twice, then the segment again. From the second word of the repetition on, the most likely token must be the right one, for any such prompt that fits into `n_ctx`.
# For the heads' points, exactly one head has a previous-token score of at least 0.99 and exactly one, in a later layer, an induction score of at least 0.99; every other head is idle (its scores stay within 0.1 of those of even attention). Which heads they are is up to you.
#
# **In:** `words`, a list of strings, and `n_ctx`, an integer. **Out:** a `Blueprint` of these words and this context, not built.
#
# Two more things that `Blueprint` can do: `head.qk(query_space, key_space, number)` gives a score of `number` where both hold the same direction (`SHARP` takes all of the attention); a space that nothing has written to holds zero.


# %% exercise="induction.build_induction_circuit"
def build_induction_circuit(words: list[str], n_ctx: int) -> Blueprint:
    """The plan of a transformer that continues any repeated segment."""
    ### BEGIN SOLUTION
    plan = Blueprint(words, n_ctx, n_heads=2)
    token, previous, guess = (plan.space(name, len(plan.words)) for name in ("token", "previous", "guess"))
    plan.embed(token)
    back = attend({i: i - 1 for i in range(1, n_ctx)}, n_ctx)
    plan.head(0, 1).qk(plan.position, plan.position, back).ov(token, previous)
    plan.head(1, 0).qk(token, previous, SHARP).ov(token, guess)
    plan.unembed(guess, 20.0)
    return plan
    ### END SOLUTION


# %% check="induction.build_induction_circuit"
check("induction.build_induction_circuit", build_induction_circuit)

# %% [markdown]
# Nothing was trained. Turn your own detectors on your own circuit: five vocabularies of random words, segments of any length. (Short of time? `build_induction_circuit = borrow("induction.build_induction_circuit")`.)

# %% tags=["experiment", "finding"]
right, total = 0, 0
for _ in range(5):
    size = int(torch.randint(8, 30, (), generator=generator))
    span = int(torch.randint(4, size, (), generator=generator))
    letters = torch.randint(97, 123, (size, 6), generator=generator).tolist()
    plan = build_induction_circuit(["".join(map(chr, row)) for row in letters], 2 * span + 1)
    hand = plan.build("cpu")
    order = torch.rand(16, size, generator=generator).argsort(dim=1)[:, :span] + 2
    prompt = torch.cat([torch.zeros(16, 1, dtype=torch.long), order, order], dim=1)
    hand_logits, hand_cache = hand.run_with_cache(prompt)
    guesses = hand_logits[:, -span:-1].argmax(dim=-1)
    right, total = right + int((guesses == prompt[:, 1 - span :]).sum()), total + guesses.numel()
print(f"right: {right} of {total}")

# %% tags=["experiment"]
mine = head_scores(hand_cache, prompt)
_, idle_cache = Blueprint(plan.words[2:], plan.n_ctx, n_layers=2, n_heads=2).build("cpu").run_with_cache(prompt)
plots.plot_tables(
    {**mine, "induction, all heads idle": head_scores(idle_cache, prompt)["induction"]},
    ["layer 0", "layer 1"],
    [f"head {head}" for head in range(hand.cfg.n_heads)],
    "Your detectors find the two heads that you built, and no other",
)

# %% tags=["experiment", "finding"]
even = {kind: score.max().item() for kind, score in head_scores(idle_cache, prompt).items()}
for kind in ("previous token", "induction"):
    first, second = mine[kind].flatten().sort(descending=True).values[:2].tolist()
    print(f"{kind:15} best head {first:.2f}, next {second:.2f}; even attention {even[kind]:.2f}")

# %% [markdown]
# ### The ambiguous case
#
# And if a word does occur twice in the segment? In "A B A C ... A ?" both B and C came after A. **Predict:** what does your circuit say, and what does the trained model say?

# %% tags=["experiment", "finding"]
plan = build_induction_circuit(["a", "b", "c", "d", "e"], 16)
hand = plan.build("cpu")
text = "a b a c d e a b a c d e"
probabilities = hand(hand.to_tokens(text))[0].softmax(-1)
for position, right in ((7, "b"), (9, "c")):
    b, c = (probabilities[position, plan.words.index(word)].item() for word in "bc")
    print(f"your circuit, after the a at position {position}, where {right} is right: b {b:.2f}, c {c:.2f}")

segment = repetitions(model.tokenizer, 64, 12)[:, 1:13]
segment[:, 6] = segment[:, 2]  # the third word comes again as the seventh
twice = torch.cat([tokens[:, :1], segment, segment], dim=1)
trained = model(twice).softmax(-1)
for which, at in (("first", 2), ("second", 6)):
    correct = trained[:, 13 + at].gather(1, segment[:, at + 1, None]).mean()
    other = trained[:, 13 + at].gather(1, segment[:, 8 - at + 1, None]).mean()
    print(f"trained model, after the {which} of the two: the right word {correct:.2f}, the other one {other:.2f}")

# %% [markdown]
# Your circuit knows one word of context, so all earlier successors vote. One each, and it hedges; two places later b has been seen twice, and the right c is outvoted. The trained model prefers the
# later of two. Induction, as it stands here, is a rule about *one* word.
#
# ### In your own words · 2
# *2 points, graded by a person*
#
# Could a transformer with **one** layer (any number of heads, no MLP) do induction on random words? Say why or why not, in terms of what a key can contain.

# %% [markdown] question="induction.words-one-layer" points=2
# No. To find the token *after* an earlier A, the key there must say "before me stood A". In one layer a key is made of that position's own token and position; nothing has been moved there yet. The query can find
# the earlier A itself (a duplicate-token head), but what follows it stands at the next position. (Skip-trigrams do not help: they are fixed, and the words are random.) It takes a first layer that moves information, and a second that looks it up.
#
# *Rubric: 1 point for "a key (in layer 0) depends on its own token and position only", 1 point for why the earlier occurrence itself is not enough, or why fixed skip-trigrams do not help with random words.*

# %% [markdown]
# ## Caveats
#
# **One head at a time misses what is there four times.** Resample all heads of layer 1 together, against each alone:

# %% tags=["experiment", "finding"]


def resample_all(layer: int) -> float:
    """The rise of the loss if every head of a layer speaks about the other prompts."""
    site = f"blocks.{layer}.attn.hook_z"
    return loss_again(model.run_with_hooks(tokens, fwd_hooks=[(site, lambda z, hook: others_cache[site])])) - intact


print(
    f"heads of layer 1, one at a time, added up {effects['resample'][1].sum():+.1f}; all together {resample_all(1):+.1f} nats"
)

# %% [markdown]
# **A score is an average over one kind of text.** In the model's own language words recur too, mostly with another word after them. There the same heads look elsewhere:

# %% tags=["experiment", "finding"]
import random

rng = random.Random(0)
ordinary = torch.tensor([[0, *attn_only_2l.background(rng, 40)] for _ in range(64)])
_, ordinary_cache = model.run_with_cache(ordinary)
there = head_scores(ordinary_cache, ordinary)["induction"][best]
print(
    f"induction score of head {label(induction_head)}: {scores['induction'][best]:.2f} on repeated words, {there:.2f} on the model's own language"
)

# %% [markdown]
# - **A patch is as good as its source.** Our other run repeats too. A source that does not would change more than the words.
# - **These are heads of a tiny model.** Real ones do this for several kinds of repetition, with MLPs in between.
#
# ## Going on
#
# 1. **Why does the trained model like the later of two successors?** Is it where the induction heads look, or what they say? *A good answer measures both, and shows by an intervention which one decides.*
# 2. **Extend your circuit** so that two words of context resolve the ambiguity. *A good answer is right on "a b a c" and on all that exercise 11 asks, and says where it still fails.*
# 3. **Where does induction sit in a model with MLPs?** Repeat acts 2 and 6 on `load("pocket")`. *A good answer names the heads, compares `mlps="frozen"` with `mlps="recomputed"`, and says what the difference means.*
#
# With a network, the same notebook on `load("gpt2")`: heads 5.1, 5.5, 6.9 and 7.10 are known induction heads, 4.11 is a previous-token head. (Give `copying_score` a few thousand words of its vocabulary.)
#
# **Papers**
# - [Elhage et al. 2021](https://transformer-circuits.pub/2021/framework/index.html), on two-layer models: QK and OV circuits, composition.
# - [Olsson et al. 2022](https://arxiv.org/abs/2209.11895): the phase change in large models, and six arguments, graded by how causal they are.
# - [Wang et al. 2023](https://arxiv.org/abs/2211.00593), appendix B, and [Goldowsky-Dill et al. 2023](https://arxiv.org/abs/2304.05969): path patching, defined.

# %% tags=["experiment"]
progress()
