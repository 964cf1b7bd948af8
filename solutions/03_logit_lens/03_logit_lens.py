# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 · The logit lens
#
# [▶ Open this chapter in Colab]({{colab}})
#
# **What does each layer already know?**
#
# ![A prompt through the lens, and what is on top at every depth](picture.png)
#
# A transformer takes the residual stream after the last layer, normalises it, and multiplies it by the
# unembedding. Nothing stops you from doing the same one layer earlier. Or four. What comes out is a guess for every layer, uncannily like a mind
# at work: *junk, "a", "Poland", "Warsaw"*. nostalgebraist ([2020](https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens)) called it the **logit lens**.
#
# **When you are done** you can decode any layer with the right normalisation, say from where on a model knows its answer, name what a neuron promotes, fit a tuned lens, let the model itself read
# a hidden state, and, most importantly, say **what a lens cannot show**.
#
# **You need** PyTorch, hooks and the residual stream as a sum (chapter 00).
#
# **Time:** three hours for you, about a minute for your computer. No GPU, no network.

# %% tags=["setup"]
try:
    import mechlib
except ImportError:  # in Colab, or in a bare folder: install it once; the torch that is already there stays
    # %pip install --quiet "mechlib @ git+{{repository}}"
    import mechlib

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mechlib import plots, tasks
from mechlib.check import borrow, check, hint, progress, reveal
from mechlib.handmade import handmade
from mechlib.lens import entropy, fit_tuned_lens, mean_interval, read_out, residual_streams, stream_hook, visibility
from mechlib.models import load, random_twin
from mechlib.recipes import corpus
from mechlib.tasks import positions, to_tokens, token_id, words

torch.manual_seed(0)  # the one seed of this notebook
generator = torch.Generator().manual_seed(0)
torch.set_num_threads(1)  # the model is so small that more threads only get into each other's way
torch.set_grad_enabled(False)

model = load("pocket", device="cpu")  # four layers, trained on a small world of its own: see `mechlib models`
twin = random_twin(
    "pocket", device="cpu"
)  # the same shape with random weights: whatever it shows as well is no finding
tokenizer = model.tokenizer


def ids(answers):
    """The token ids of answers such as " Paris"."""
    return torch.tensor([token_id(tokenizer, answer) for answer in answers])


def tokens_of(prompts):
    return to_tokens(tokenizer, [prompt.text for prompt in prompts])


def at(values, where):
    """values[..., prompt, position, :] at one position a prompt."""
    return values[..., torch.arange(len(where)), where, :]


# %% [markdown]
# **How to work.** Replace every `raise NotImplementedError` by your own lines, run the cell, and run the check under it. `hint("logit_lens.answer_rank")` helps a little and, called again, a little
# more; `borrow(...)` hands over the solution (no points); `progress()` shows how far you are.
#
# A **depth** counts the layers that have written: at depth 0 the stream holds only the embeddings, at depth 4 all four layers of `pocket` have
# written. Layer $l$ stands between depth $l$ and depth $l+1$.

# %% [markdown]
# ## 1. Decode early
#
# We ask `pocket` for capitals, in wordings that its training never showed.
#
# ### Exercise 1 · `answer_rank`
# *5 minutes, ★☆☆☆, 1 point*
#
# Where does an answer stand: how many tokens have a **strictly higher** logit? 0 is the top token.
#
# **In:** `logits`, shape (..., vocabulary), with any leading axes; `answers`, token ids (int64) whose shape broadcasts against the leading axes (one answer a prompt serves all depths).
# **Out:** integers (int64), one for each prediction: the leading axes of `logits`.
#
# **Example:** `logits = [[3., 1., 2., 2.], [0., 0., 0., 0.]]` and `answers = [2, 1]` give `[1, 0]`.


# %% exercise="logit_lens.answer_rank"
def answer_rank(logits: Float[Tensor, "*lead vocabulary"], answers: Int[Tensor, "..."]) -> Int[Tensor, "*lead"]:
    """How many tokens have a higher logit than the answer."""
    ### BEGIN SOLUTION
    wanted = answers.expand(logits.shape[:-1]).unsqueeze(-1)
    return (logits > logits.gather(-1, wanted)).sum(dim=-1)
    ### END SOLUTION


# %% check="logit_lens.answer_rank"
check("logit_lens.answer_rank", answer_rank)

# %% tags=["experiment"]
capital_prompts = tasks.facts(tokenizer, n=50, seed=0, split="held-out wordings")
tokens, end = tokens_of(capital_prompts), positions(capital_prompts)
capitals = ids(prompt.answer for prompt in capital_prompts)
countries = ids(" " + prompt.labels["subject"] for prompt in capital_prompts)
ranks = answer_rank(at(model(tokens), end), capitals)
for prompt, rank in list(zip(capital_prompts, ranks.tolist()))[:4]:
    print(f"{prompt.text}{prompt.answer}: rank {rank}")
print(f"the capital is the top token on {(ranks == 0).float().mean():.0%} of {len(ranks)} prompts")

# %% [markdown]
# ### Exercise 2 · `logit_lens`
# *20 minutes, ★★☆☆, 3 points*
#
# The model's own last step is `model.unembed(model.ln_final(stream))`, taken at depth `n_layers`. Take it at **every** depth. `model.run_with_cache(tokens)` returns the logits and a cache;
# `cache["resid_pre", l]` is the stream before layer `l`, `cache["resid_post", l]` the one after it.
#
# **In:** `model` (any number of layers, `model.cfg.n_layers`), and `tokens`, shape (batch, position). **Out:** logits, shape (depth, batch, position, vocabulary), for depths 0 to `n_layers`.
#
# **Example:** for `pocket` and one prompt of 9 tokens the shape is (5, 1, 9, vocabulary), and the last entry equals `model(tokens)`.


# %% exercise="logit_lens.logit_lens"
def logit_lens(model, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "depth batch position vocabulary"]:
    """The logits that the model would give if it stopped at each depth."""
    ### BEGIN SOLUTION
    _, cache = model.run_with_cache(tokens)
    n_layers = model.cfg.n_layers
    streams = [cache["resid_pre", layer] for layer in range(n_layers)] + [cache["resid_post", n_layers - 1]]
    return model.unembed(model.ln_final(torch.stack(streams)))
    ### END SOLUTION


# %% check="logit_lens.logit_lens"
check("logit_lens.logit_lens", logit_lens)

# %% [markdown]
# **Predict.** Large models are said to go from junk over the *country* to the *capital*. Will `pocket`? At which depth will the capital be on top?


# %% tags=["experiment"]
def kinds_on_top(model):
    """At each depth, the share of the prompts whose top token is the capital, another one, the country, or none."""
    top = at(logit_lens(model, tokens), end).argmax(dim=-1)
    right, country = (top == capitals), (top == countries)
    other = torch.isin(top, capitals) & ~right
    rest = ~(right | other | country)
    kinds = {"the right capital": right, "another capital": other, "the country": country, "anything else": rest}
    return {kind: share.float().mean(dim=1).tolist() for kind, share in kinds.items()}


shares = {"trained model": kinds_on_top(model), "random twin": kinds_on_top(twin)}
chosen = next(i for i, p in enumerate(capital_prompts) if p.text.startswith("In Poland,"))
one = tokens[chosen : chosen + 1, : end[chosen] + 1]
probabilities, top = logit_lens(model, one)[:, 0].softmax(dim=-1).max(dim=-1)
as_words = [tokenizer.convert_ids_to_tokens(row) for row in top.tolist()]
plots.plot_lens_and_shares(
    as_words,
    probabilities,
    tokenizer.convert_ids_to_tokens(one[0].tolist()),
    shares,
    "Depth by depth the capital climbs to the top at the end of the prompt; the country is never on top there",
)

# %% tags=["experiment", "finding"]
trained = shares["trained model"]
print(
    "The capital's share rises from depth to depth, or stays:",
    trained["the right capital"] == sorted(trained["the right capital"]),
)
print("Depths at which the country is the top token on any prompt:", sum(share > 0 for share in trained["the country"]))
print(
    "The random twin names the right capital on any prompt at any depth:",
    max(shares["random twin"]["the right capital"]) > 0,
)

# %% [markdown]
# *Poland, then Warsaw* is **not** what happens here: at the end of the prompt the country is not once on top. A famous picture of one model is no law for another.
#
# At the word *Poland* itself the lens shows what the model expects to *follow*. It answers one question only: **what would be
# predicted here if the rest of the layers were skipped?**
#
# **What would have fooled us.** Before the right capital, the lens often shows a *wrong* one. A control: score each prompt with another prompt's capital.

# %% tags=["experiment"]
lens = at(logit_lens(model, tokens), end)
# Another prompt's capital: shift by one until no prompt keeps its own.
shuffled = next(capitals.roll(k) for k in range(1, len(capitals)) if (capitals.roll(k) != capitals).all())
median = {
    "the right capital": answer_rank(lens, capitals).float().median(dim=1).values + 1,
    "another prompt's capital": answer_rank(lens, shuffled).float().median(dim=1).values + 1,
    "the country": answer_rank(lens, countries).float().median(dim=1).values + 1,
    "right capital, random twin": answer_rank(at(logit_lens(twin, tokens), end), capitals).float().median(dim=1).values
    + 1,
}
plots.plot_depths(
    median,
    "median place (1: top token)",
    "The right capital climbs to the top; other capitals only part of the way, the country not at all",
    log=True,
)

# %% [markdown]
# ## 2. The right normalisation
#
# Two short cuts are common: to leave the final LayerNorm out, and to divide every depth by the scale of the *last* one. How wrong are
# they? We need a distance between what a depth says and what the model says in the end.
#
# ### Exercise 3 · `kl_to_final`
# *10 minutes, ★★☆☆, 2 points*
#
# For every depth, prompt and position: $\mathrm{KL}(p_{\text{final}} \,\|\, p_{\text{depth}}) = \sum_v p_{\text{final}}(v)\,\big(\log p_{\text{final}}(v) - \log p_{\text{depth}}(v)\big)$, in nats. The last depth is the final one.
# Logits may be large (hundreds): nothing may become infinite or NaN.
#
# **In:** `logits`, shape (depth, ..., vocabulary). **Out:** shape (depth, ...).
#
# **Example:** two depths and four tokens, `logits = [[0., 0., 0., 0.], [100., 0., 0., 0.]]` give `[1.3863, 0.]`: log 4, and 0.


# %% exercise="logit_lens.kl_to_final"
def kl_to_final(logits: Float[Tensor, "depth *lead vocabulary"]) -> Float[Tensor, "depth *lead"]:
    """KL(final || depth) in nats."""
    ### BEGIN SOLUTION
    log_probs = logits.log_softmax(dim=-1)
    final = log_probs[-1]
    return (final.exp() * (final - log_probs)).sum(dim=-1)
    ### END SOLUTION


# %% check="logit_lens.kl_to_final"
check("logit_lens.kl_to_final", kl_to_final)

# %% tags=["experiment"]
streams = residual_streams(model, tokens)
last_scale = model.run_with_cache(tokens)[1]["ln_final.hook_scale"]
centred = streams - streams.mean(dim=-1, keepdim=True)
stale = centred / last_scale * model.ln_final.weight + model.ln_final.bias
variants = {
    "right: its own LayerNorm": read_out(model, streams),
    "the last depth's scale": model.unembed(stale),
    "no LayerNorm": model.unembed(streams),
}
own, real = model(tokens)[None], tokens != tokenizer.bos_token_id  # every position but the beginning and the padding
right_top = variants["right: its own LayerNorm"].argmax(dim=-1)
distance, flat = {}, {}
for name, logits in variants.items():
    distance[name] = kl_to_final(torch.cat([logits, own]))[:-1, real].mean(dim=1)
    flat[name] = entropy(logits)[:, real].mean(dim=1)
    same = (logits.argmax(dim=-1) == right_top)[:, real].float().mean(dim=1)
    print(f"{name:25s} KL to the model's output by depth:", [round(v, 2) for v in distance[name].tolist()])
    print(f"{'':25s} same top token as the right lens:  ", [f"{v:.0%}" for v in same.tolist()])
plots.plot_depths(
    distance,
    "KL(model || lens), nats",
    "Without the LayerNorm not even the last depth is the model's own prediction",
)

# %% tags=["experiment", "finding"]
right, stale_one, none = (
    distance["right: its own LayerNorm"],
    distance["the last depth's scale"],
    distance["no LayerNorm"],
)
print(f"KL at the last depth: right {right[-1]:.2f}, stale scale {stale_one[-1]:.2f}, no LayerNorm {none[-1]:.2f}")
print(
    "With the stale scale some earlier depth is off by more than 0.1 nats, up or down:",
    bool((stale_one - right).abs().max() > 0.1),
)
print("At depth 0 its KL is lower than the right lens's:", bool(stale_one[0] < right[0]))
print(
    "... because its prediction is flatter:",
    bool(flat["the last depth's scale"][0] > flat["right: its own LayerNorm"][0]),
)
length = centred[:, real].norm(dim=-1).mean(dim=1)
print("The stream at depth 0 is less than half as long as at the last depth:", bool(length[0] < length[-1] / 2))

# %% [markdown]
# Without the final norm not even the last depth agrees with the model. The stale scale is more treacherous: its last depth is right by construction, and at depth 0 its KL is even *lower*. Is it the better lens? No: early streams are
# short, so the last depth's large scale shrinks all their logits, and a flat wrong guess costs less than a sharp one. **A lower KL alone does not make a lens right.** A
# LayerNorm's statistics belong to the vector that goes in.
#
# Even the right lens measures an early stream with a yardstick made for the last one. Act 7 makes one for every depth.

# %% [markdown]
# ## 3. From when on does it know?
#
# ### Exercise 4 · `emergence_layer`
# *15 minutes, ★★☆☆, 2 points*
#
# From which depth on does the answer's rank **stay** at `at_most` or better, to the end? If it is not good enough even at the last depth, return the number of depths (one
# past the last).
#
# **In:** `ranks`, integers of shape (depth, ...), and `at_most`. **Out:** int64, shape (...).
#
# **Example:** for three answers over four depths, `ranks = [[9, 0, 0], [0, 0, 4], [0, 3, 0], [0, 0, 2]]` with `at_most = 0` gives `[1, 3, 4]`.


# %% exercise="logit_lens.emergence_layer"
def emergence_layer(ranks: Int[Tensor, "depth *lead"], at_most: int) -> Int[Tensor, "*lead"]:
    """The first depth from which on the rank stays at_most or better."""
    ### BEGIN SOLUTION
    good = (ranks <= at_most).long().flip(0)
    return len(ranks) - good.cumprod(dim=0).sum(dim=0)
    ### END SOLUTION


# %% check="logit_lens.emergence_layer"
check("logit_lens.emergence_layer", emergence_layer)

# %% [markdown]
# **Predict**: a fact, a repeated name (*"... John gave a book to"*), the verb after a noun in between (*"The keys near the cabinet"*), a random word that repeats: which does the model know earliest, which last?

# %% tags=["experiment"]
questions = {
    "capital of a country": capital_prompts,
    "indirect object": tasks.ioi(tokenizer, 100, seed=0, split="held-out pairs"),
    "is / are": tasks.agreement(tokenizer, 100, seed=0, split="held-out wordings"),
    "repeated random words": tasks.repeated_tokens(tokenizer, 100, seed=0),
}


def best_rank(lens, prompts):
    """The rank of each prompt's best right answer (after a singular noun is, was and has are all right): (depth, prompt)."""
    rows = [
        answer_rank(logits[:, None].expand(-1, len(prompt.answers), -1), ids(prompt.answers)).amin(dim=1)
        for logits, prompt in zip(lens.unbind(dim=1), prompts)
    ]
    return torch.stack(rows, dim=1)


print(
    f"{'depths 0 to 4; 5 means never':30s}{'median depth':>14s}{'right at the end':>18s}{'shuffled answers':>18s}{'random twin':>13s}"
)
undecided = {}
for name, prompts in questions.items():
    inputs, ends = tokens_of(prompts), positions(prompts)
    lens = at(logit_lens(model, inputs), ends)
    found = emergence_layer(best_rank(lens, prompts), 0)
    wrong = emergence_layer(best_rank(lens, prompts[1:] + prompts[:1]), 0)
    random = emergence_layer(best_rank(at(logit_lens(twin, inputs), ends), prompts), 0)
    undecided[name] = entropy(lens).mean(dim=1)
    medians = [int(x.median()) for x in (found, wrong, random)]
    print(f"{name:30s}{medians[0]:14d}{(found < 5).float().mean():18.0%}{medians[1]:18d}{medians[2]:13d}")

# %% tags=["experiment"]
plots.plot_depths(
    undecided,
    "entropy of the lens (nats)",
    "The lens is sure of itself at depth 0, and wrong: there it repeats its input; then it becomes undecided, then sure",
    reference=torch.tensor(float(model.cfg.d_vocab)).log().item(),
    reference_label="knows nothing",
)

# %% [markdown]
# (Shuffled answers to *is / are* are right half of the time, so they emerge as well.) Mind the left end: `pocket` ties its embedding to its unembedding, so at depth 0 the lens mostly says the word that it was just given. **Confidence must be read beside correctness.**
#
# ### In your own words · 1
# *2 points, graded by a person*
#
# A colleague looks at the grid of act 1: at depth 3 the right capital is on top, and at depth 4 it still is. "So the last layer does nothing for capitals, and we can remove it." What would you answer, and what would you measure?

# %% [markdown] question="logit_lens.words-last-layer" points=2
# That the top token stays the same says little. The probability may still change a lot (in the grid it does), and other prompts may get their capital only there (the shares rise at the last depth).
# To claim that the layer is not needed one has to intervene: ablate it, and measure accuracy and log-probability of the capital over many prompts,
# beside ablating another layer as a control.
#
# *Rubric: 1 point for "same top token does not mean nothing changed" (probability, other prompts), 1 point for an intervention, with a measure over many prompts, in place of reading the lens.*

# %% [markdown]
# ## 4. Who writes it?
#
# An MLP's output is a sum: each neuron contributes its activation times its **value vector**, its row of $W_{out}$ ([Geva et al. 2022](https://arxiv.org/abs/2203.14680) call this a *sub-update*).
#
# ### Exercise 5 · `sub_updates`
# *15 minutes, ★★☆☆, 2 points*
#
# Take one layer's MLP output apart into its neurons' contributions. Summed over the neurons they give the MLP's output less its bias `b_out`, which belongs to no neuron.
#
# **In:** `model`, `tokens` (batch, position), `layer`. The activations that $W_{out}$ reads are `cache["post", layer]`, shape (batch, position, neuron); the value vectors are `model.W_out[layer]`, shape (neuron, d_model). **Out:** shape (batch, position, neuron, d_model).
#
# **Example:** if a prompt's activations of two neurons are `[2., -1.]` and the value vectors `[[1., 0., 3.], [0., 5., 1.]]`, the parts are `[[2., 0., 6.], [0., -5., -1.]]`.


# %% exercise="logit_lens.sub_updates"
def sub_updates(
    model, tokens: Int[Tensor, "batch position"], layer: int
) -> Float[Tensor, "batch position neuron d_model"]:
    """An MLP's output, neuron by neuron."""
    ### BEGIN SOLUTION
    _, cache = model.run_with_cache(tokens)
    return cache["post", layer].unsqueeze(-1) * model.W_out[layer]
    ### END SOLUTION


# %% check="logit_lens.sub_updates"
check("logit_lens.sub_updates", sub_updates)

# %% [markdown]
# ### Exercise 6 · `value_vector_tokens`
# *15 minutes, ★★★☆, 2 points*
#
# The lens can read a value vector: which tokens does the neuron promote? What is *added* to a stream goes through the final LayerNorm in two steps that we know without the rest of the stream:
# its mean is taken away, and it is multiplied by `model.ln_final.weight`. (The scale is the same for all tokens, and biases do not depend on the neuron: leave both out.)
#
# **In:** `model`, `layer`, `k`. **Out:** the ids of the `k` tokens with the largest values for each neuron, best first: int64, shape (neuron, k).
#
# **Example:** value vector `[1., 3., 2.]`, weight `[1., 1., 2.]`: centred `[-1., 1., 0.]`, times the weight `[-1., 1., 0.]`; a token whose column of $W_U$ is `[0., 2., 5.]` gets 2.


# %% exercise="logit_lens.value_vector_tokens"
def value_vector_tokens(model, layer: int, k: int) -> Int[Tensor, "neuron k"]:
    """The k tokens that each neuron of a layer promotes most."""
    ### BEGIN SOLUTION
    values = model.W_out[layer]
    centred = values - values.mean(dim=-1, keepdim=True)
    return (centred * model.ln_final.weight @ model.W_U).topk(k, dim=-1).indices
    ### END SOLUTION


# %% check="logit_lens.value_vector_tokens"
check("logit_lens.value_vector_tokens", value_vector_tokens)

# %% [markdown]
# Which neurons push the capital up? Take each sub-update's direct contribution to the capital's logit, against the mean of all tokens.


# %% tags=["experiment"]
def lens_direction(answers):
    """The direction in the stream that raises each answer's logit against all others, as the final LayerNorm sees it."""
    effect = (model.W_U - model.W_U.mean(dim=1, keepdim=True))[:, answers].T * model.ln_final.weight
    return effect - effect.mean(dim=-1, keepdim=True)


direction = lens_direction(capitals)
print(f"The neurons that push{capital_prompts[chosen].answer} up most after {capital_prompts[chosen].text!r}")
for layer in range(model.cfg.n_layers):
    parts = sub_updates(model, tokens, layer)[torch.arange(len(end)), end]
    pushes = einsum(parts, direction, "prompt neuron d_model, prompt d_model -> prompt neuron")
    best = pushes[chosen].argmax().item()
    promoted = tokenizer.convert_ids_to_tokens(value_vector_tokens(model, layer, 6)[best].tolist())
    strongest = pushes.clamp(min=0).sort(dim=-1, descending=True).values
    needed = (strongest.cumsum(-1) < strongest.sum(-1, keepdim=True) / 2).sum(-1).float().mean() + 1
    print(
        f"  layer {layer}, neuron {best:3d} promotes {', '.join(promoted):60s} half of all upward push comes from {needed:.0f} neurons"
    )

# %% [markdown]
# Are there "capital neurons", or do ten tokens always look like *something*? Count the neurons with at least six of their top ten tokens in one class (names, capitals, years...). Two controls: the random twin, and the classes **shuffled** (as many tokens in each, drawn at random).

# %% tags=["experiment"]
classes = {
    "names": words.NAMES, "capitals": [c.capital for c in words.COUNTRIES], "countries": [c.name for c in words.COUNTRIES],
    "places": words.PLACES, "objects": words.OBJECTS, "adjectives": words.ADJECTIVES, "years": words.YEARS,
    "professions": list(words.PROFESSIONS), "languages": [c.language for c in words.COUNTRIES], "praise": words.GOOD, "blame": words.BAD,
    "singular nouns": words.SINGULAR, "plural nouns": words.PLURAL, "events": words.EVENTS,
}  # fmt: skip
members = torch.zeros(len(classes), model.cfg.d_vocab)
for row, members_ in zip(members, classes.values()):
    row[[i for i in tokenizer.convert_tokens_to_ids(list(members_)) if i != tokenizer.unk_token_id]] = 1
shuffled_members = members[:, torch.randperm(model.cfg.d_vocab, generator=generator)]


def share_with_a_class(network, members):
    in_class = [
        members[:, value_vector_tokens(network, layer, 10)].sum(dim=-1) for layer in range(network.cfg.n_layers)
    ]
    return torch.stack([(counts.amax(dim=0) >= 6).float().mean() for counts in in_class])


coherent = {
    "trained model": share_with_a_class(model, members),
    "trained model, classes shuffled": share_with_a_class(model, shuffled_members),
    "random twin": share_with_a_class(twin, members),
}
plots.plot_lines(
    list(range(model.cfg.n_layers)),
    coherent,
    "layer",
    "share of neurons",
    "Some neurons promote tokens of one class, more of them in later layers; most do not",
)

# %% tags=["experiment", "finding"]
print(
    "More neurons with a class than in either control, in every layer:",
    bool(
        (
            coherent["trained model"]
            > torch.maximum(coherent["random twin"], coherent["trained model, classes shuffled"])
        ).all()
    ),
)
print("But fewer than half of them, in every layer:", bool((coherent["trained model"] < 0.5).all()))

# %% [markdown]
# So the vocabulary does read *some* neurons. Most it does not: they may write for later layers, or mean something only together. And the neuron that pushes hardest need not have a pretty list.

# %% [markdown]
# ## 5. What the lens does not see
#
# Here is a model written by hand: prompt `x . =`; one head carries the bit `x` to the dot, another carries it on to `=`, where the answer appears. At the dot, after layer 0, the bit **is** in the stream. What does the lens say there?

# %% tags=["experiment", "finding"]
chain = handmade("chain", device="cpu")
one_bit, zero_bit = chain.to_tokens("1 . ="), chain.to_tokens("0 . =")
difference = (logit_lens(chain, one_bit) - logit_lens(chain, zero_bit))[1, 0, 2].abs().max()
in_stream = (residual_streams(chain, one_bit) - residual_streams(chain, zero_bit))[1, 0, 2].norm()
print(f"at the dot, depth 1: the streams for 1 and 0 differ by {in_stream:.2f}, the lens by {difference:.2f}")

# %% [markdown]
# Nothing: the bit lies in a direction that the unembedding does not read. The next head does. To find out what a vector means **to the model**, put it into another prompt, and see what comes out: a **patchscope** ([Ghandeharioun et al. 2024](https://arxiv.org/abs/2401.06102)).
#
# ### Exercise 7 · `patchscope` (optional, hard)
# *25 minutes, ★★★★, 3 points*
#
# Read one vector a prompt from the stream of the source prompts, and put it into the stream of the target prompts. `stream_hook(model, depth)` is the name of the hook that holds the stream at a depth (0 to `n_layers`).
#
# **In:** `model`; `source` (batch, source position), `source_depth`, `source_positions` (batch,); `target` (batch, target position), `target_depth`, `target_positions` (batch,). Vector $i$ comes from prompt $i$ of the source and goes into prompt $i$ of the target,
# in place of what stands there. The two lengths may differ. **Out:** the logits on the target prompts, shape (batch, target position, vocabulary). The model is left without hooks.
#
# **Example:** with the same prompts, depths and positions on both sides the result is `model(target)`.
#
# **Short of time?** Write `patchscope = borrow("logit_lens.patchscope")` in its place: the next cells need it.


# %% exercise="logit_lens.patchscope"
def patchscope(
    model,
    source: Int[Tensor, "batch source_position"],
    source_depth: int,
    source_positions: Int[Tensor, "batch"],
    target: Int[Tensor, "batch target_position"],
    target_depth: int,
    target_positions: Int[Tensor, "batch"],
) -> Float[Tensor, "batch target_position vocabulary"]:
    """The logits on the target prompts, one vector a prompt replaced by one of the source prompts'."""
    ### BEGIN SOLUTION
    rows = torch.arange(len(source))
    _, cache = model.run_with_cache(source)
    hidden = cache[stream_hook(model, source_depth)][rows, source_positions]

    def place(stream, hook):
        edited = stream.clone()
        edited[rows, target_positions] = hidden
        return edited

    return model.run_with_hooks(target, fwd_hooks=[(stream_hook(model, target_depth), place)])
    ### END SOLUTION


# %% check="logit_lens.patchscope"
check("logit_lens.patchscope", patchscope)

# %% tags=["experiment", "finding"]
dot = torch.tensor([2])
yes, no = chain.tokenizer.convert_tokens_to_ids(["yes", "no"])
for name, source in (("0", zero_bit), ("1", one_bit)):
    logits = patchscope(chain, source, 1, dot, zero_bit, 1, dot)[0, -1]
    print(
        f"prompt '0 . =' with the dot's vector from '{name} . =': logit(yes) - logit(no) = {logits[yes] - logits[no]:.1f}"
    )

# %% [markdown]
# ### In a trained model
#
# Take *"The keys near the cabinet"*: the verb must agree with *keys*, words back. **Predict**: at the noun, will the lens lean to *are* after a plural, and to *is* after a singular?
#
# To ask fairly, compare each prompt with its **twin**, in which only the noun has the other number. At the output, the logit of the right verb against the other one shifts between the two. At every depth:
#
# - How much of that shift does the **lens** show at the noun? (0: none, 1: all of it.)
# - How much of it moves if only the noun's vector is taken from the twin, a **patch**? (The later layers run on.)
# - Can a **probe**, a linear regression, tell singular from plural from that vector, for *nouns that it has not seen*? Its control: **shuffled labels**.


# %% tags=["experiment"]
def twins_of(prompts):
    return to_tokens(tokenizer, [prompt.corrupted for prompt in prompts])


def gap(prompts, logits):
    """The answer's logit less the twin's answer's, the mean over the prompts of `logits` (..., prompt, vocabulary)."""
    rows, answers, others = (
        torch.arange(len(prompts)),
        ids(p.answer for p in prompts),
        ids(p.corrupted_answer for p in prompts),
    )
    return (logits[..., rows, answers] - logits[..., rows, others]).mean(dim=-1)


def shown(prompts, role, read=logit_lens):
    """At each depth, the share of the answer's shift between prompts and twins that the lens shows at a role."""
    where = positions(prompts, role)
    here = gap(prompts, at(read(model, tokens_of(prompts)), where)) - gap(
        prompts, at(read(model, twins_of(prompts)), where)
    )
    return here / output_shift(prompts)


def moved(prompts, role):
    """At each depth, the share of that shift that moves when the vector at a role is the twin's."""
    where, ends, clean, twins = positions(prompts, role), positions(prompts), tokens_of(prompts), twins_of(prompts)
    patched = [at(patchscope(model, twins, d, where, clean, d, where), ends) for d in range(model.cfg.n_layers + 1)]
    return (gap(prompts, at(model(clean), ends)) - gap(prompts, torch.stack(patched))) / output_shift(prompts)


def output_shift(prompts):
    ends = positions(prompts)
    return gap(prompts, at(model(tokens_of(prompts)), ends)) - gap(prompts, at(model(twins_of(prompts)), ends))


agreement = tasks.agreement(tokenizer, 200, seed=0, split="held-out wordings")
learn = tasks.agreement(tokenizer, 300, seed=1)
unseen = torch.tensor(tokenizer.convert_tokens_to_ids([*words.SINGULAR[::3], *words.PLURAL[::3]]))


def nouns(prompts, new):
    """The streams at the noun, and whether it is plural; only nouns that the probe is to learn from, or only new ones."""
    where = positions(prompts, "subject")
    which = torch.isin(tokens_of(prompts)[torch.arange(len(prompts)), where], unseen) == new
    plural = torch.tensor([p.labels["number"] == "plural" for p in prompts])
    return at(residual_streams(model, tokens_of(prompts)), where)[:, which], plural[which]


def probe_accuracy(shuffle, ridge=10.0):
    """At each depth, how often a ridge regression (1 for plural, -1 for singular) has the right sign on new nouns."""
    (vectors, labels), (new, truth) = nouns(learn, False), nouns(agreement, True)
    labels = labels[torch.randperm(len(labels), generator=generator)] if shuffle else labels
    centre = vectors.mean(dim=1, keepdim=True)
    x, y = vectors - centre, 2.0 * labels - 1
    weights = torch.linalg.solve(x.mT @ x + ridge * torch.eye(x.shape[-1]), x.mT @ (y - y.mean()))
    says_plural = einsum(new - centre, weights, "depth prompt d_model, depth d_model -> depth prompt") + y.mean() > 0
    return (says_plural == truth).float().mean(dim=1)


at_noun = {
    "patch: share of the answer that moves": moved(agreement, "subject"),
    "lens: share of the answer that it shows": shown(agreement, "subject"),
    "probe: singular or plural, new nouns": probe_accuracy(shuffle=False),
    "probe, labels shuffled (mean of 5)": torch.stack([probe_accuracy(shuffle=True) for _ in range(5)]).mean(dim=0),
}
plots.plot_depths(
    at_noun,
    "at the noun",
    "At the noun the number is there, and used, while the lens shows nothing of it",
    reference=0.5,
    reference_label="chance (probe)",
)

# %% tags=["experiment", "finding"]
patch, lens_shows, probe = list(at_noun.values())[:3]
blind_spots = [d for d in range(1, 5) if lens_shows[d] < 0.1 and patch[d] > 0.9]
print(
    "A depth after the embeddings where a patch moves over 90% of the answer, and the lens shows under 10% of it, or the wrong way:",
    len(blind_spots) > 0,
)
print("There the probe is right on over 90% of the new nouns:", all(probe[d] > 0.9 for d in blind_spots))

# %% [markdown]
# **A negative lens result is uninformative.** The lens asks what would be *predicted here*, and at the noun nobody predicts a verb. The lens is silent (or leans a little the *wrong* way), the probe finds the number, and the patch shows that the model uses it.
#
# The reverse happens too. Go through the labelled places of several tasks, depth by depth. Places where prompt and twin have the same stream are left out: there is nothing to show or to move.

# %% tags=["experiment"]
site_prompts = {
    "indirect object": questions["indirect object"][:40],
    "capital": capital_prompts[:40],
    "is / are": agreement[:40],
    "he / she": tasks.pronouns(tokenizer, 40, seed=0),
    "repeated words": questions["repeated random words"][:40],
}
sites = {}
for name, prompts in site_prompts.items():
    changed = (residual_streams(model, tokens_of(prompts)) - residual_streams(model, twins_of(prompts))).norm(
        dim=-1
    ) > 1e-3
    points = []
    for role in [role for role in prompts[0].positions if all(role in p.positions for p in prompts)]:
        differs = changed[:, torch.arange(len(prompts)), positions(prompts, role)].float().mean(dim=1) > 0.5
        if differs[1:].any():
            points += [
                (x, y) for x, y, d in zip(shown(prompts, role).tolist(), moved(prompts, role).tolist(), differs) if d
            ][1:]
    sites[name] = tuple(zip(*points))
plots.plot_sites(
    sites,
    "the lens shows this much of the answer here",
    "a patch here moves this much of it",
    "What the lens shows at a place is not what the model uses there",
    corners={(-0.45, 1.12): "nothing to see, or the wrong way, and used", (0.22, 0.06): "to be seen, and not used"},
    chance=0,
)

# %% tags=["experiment", "finding"]
points = [point for xs, ys in sites.values() for point in zip(xs, ys)]
print(
    "Places where the lens shows under 15% of the answer and a patch moves over 75%:",
    any(abs(x) < 0.15 and y > 0.75 for x, y in points),
)
print(
    "Places where the lens leans the wrong way by over 25% of it and a patch moves over 75%:",
    any(x < -0.25 and y > 0.75 for x, y in points),
)
print(
    "Places where the lens shows over 15% of the answer and a patch moves under 5%:",
    any(x > 0.15 and abs(y) < 0.05 for x, y in points),
)

# %% [markdown]
# At a profession, the lens even leans to the *wrong* pronoun while the vector settles the right one.

# %% [markdown]
# Now let the patchscope *decode*: put the vector at the noun of one sentence into the noun's place in **another**. If the model then conjugates like the source, it can read the number there.

# %% tags=["experiment"]
targets = tasks.agreement(tokenizer, 200, seed=2)
source, target = tokens_of(agreement), tokens_of(targets)
from_, to, ends = positions(agreement, "subject"), positions(targets, "subject"), positions(targets)
verbs = ids([" is", " are"])
plural = torch.tensor([p.labels["number"] == "plural" for p in agreement])
decoded = torch.zeros(5, 4)
depths = range(model.cfg.n_layers + 1)
for source_depth in depths:
    for target_depth in range(4):
        logits = at(patchscope(model, source, source_depth, from_, target, target_depth, to), ends)[:, verbs]
        decoded[source_depth, target_depth] = (logits.argmax(dim=-1) == plural).float().mean()
plots.plot_depth_matrix(
    decoded,
    "put in at depth",
    "read at depth",
    "Put into another sentence, the noun's vector decides the verb; read at the last depth it does not",
    "the verb has the source's number",
)

# %% tags=["experiment", "finding"]
own_number = (torch.tensor([p.labels["number"] == "plural" for p in targets]) == plural).float().mean()
print(
    "Some vector read after layer 0 carries its number into more than 95% of the other sentences:",
    bool(decoded[1:].max() > 0.95),
)
print(
    "A vector read at the last depth does so in fewer than 75%, wherever it is put in:", bool(decoded[-1].max() < 0.75)
)
print("... although the probe still finds the number there in over 90%:", bool(probe[-1] > 0.9))
print(f"(without a patch the two sentences agree in {own_number:.0%})")

# %% [markdown]
# A patchscope can be silent, too: at the last depth the probe still finds the number, but the layers do not read it from there.
#
# ### In your own words · 2
# *2 points, graded by a person*
#
# "The logit lens shows neither *is* nor *are* above the other at the noun, in any layer. Hence the model does not represent the noun's number there; it must look at the noun again at the end." Which step of this argument fails? Name two measurements
# that could have shown it wrong, and for each what result would have.

# %% [markdown] question="logit_lens.words-negative" points=2
# "Not visible to the lens, hence not represented" fails: the lens only sees what already lies in the directions that the unembedding reads. Two measurements: (1) patch the noun's vector at a middle depth from the twin, or put it into another sentence; if the verb follows, the number is there and is
# used. (2) Train a probe for the number and test it on unseen nouns, with shuffled labels as a control; if it is right far above the control, the information is there (a probe alone does not show that it is used).
#
# *Rubric: 1 point for naming the fallacy and why (what the lens can see), 1 point for two measurements with the results that would have refuted the claim; half of it if the control or the difference between "there" and "used" is missing.*

# %% [markdown]
# ## 6. Does acting on what the lens shows change the output?
#
# A positive lens result is only an observation as well. If we take *Warsaw* out of the stream where the lens says it, does the model still say it?
#
# ### Exercise 8 · `erase_direction`
# *20 minutes, ★★★☆, 3 points*
#
# At one position of each prompt, take away the stream's component along a direction: $h \leftarrow h - (h \cdot u)\,u$ with $u$ the direction's unit vector. Everything else stays, and the later layers run on.
#
# **In:** `model`; `tokens` (batch, position); `depth` (0 to `n_layers`); `positions` (batch,), one a prompt; `directions` (batch, d_model), one a prompt, of any length but 0. **Out:** logits, shape (batch, position, vocabulary). The model is left without hooks.
#
# **Example:** where the stream holds `[3., 4.]` and the direction is `[2., 0.]`, it holds `[0., 4.]` afterwards.


# %% exercise="logit_lens.erase_direction"
def erase_direction(
    model,
    tokens: Int[Tensor, "batch position"],
    depth: int,
    positions: Int[Tensor, "batch"],
    directions: Float[Tensor, "batch d_model"],
) -> Float[Tensor, "batch position vocabulary"]:
    """The model's logits without the stream's component along a direction."""
    ### BEGIN SOLUTION
    rows = torch.arange(len(tokens))
    unit = directions / directions.norm(dim=-1, keepdim=True)

    def erase(stream, hook):
        edited = stream.clone()
        here = edited[rows, positions]
        edited[rows, positions] = here - (here * unit).sum(dim=-1, keepdim=True) * unit
        return edited

    return model.run_with_hooks(tokens, fwd_hooks=[(stream_hook(model, depth), erase)])
    ### END SOLUTION


# %% check="logit_lens.erase_direction"
check("logit_lens.erase_direction", erase_direction)

# %% tags=["experiment"]
erased = {
    "nothing": None,
    "the capital": lens_direction(capitals),
    "another prompt's capital": lens_direction(shuffled),
}
erased["a random direction"] = torch.randn(direction.shape, generator=generator)
after = {}
for name, directions in erased.items():
    runs = [
        model(tokens) if directions is None else erase_direction(model, tokens, depth, end, directions)
        for depth in depths
    ]
    after[name] = torch.stack([(at(logits, end).argmax(dim=-1) == capitals).float().mean() for logits in runs])
plots.plot_depths(
    after,
    "the model answers with the capital",
    "Erase the capital that the lens reads and the answer goes, the later the surer; the controls change nothing",
)

# %% tags=["experiment", "finding"]
capital_gone, controls = (
    after["the capital"],
    torch.stack([after["another prompt's capital"], after["a random direction"]]),
)
print(
    "Erasing the capital at depth 2 or later leaves it on top on fewer than a third of the prompts:",
    bool((capital_gone[2:] < 1 / 3).all()),
)
print(
    "The earlier it is erased, the more often the later layers bring it back:",
    capital_gone.tolist() == sorted(capital_gone.tolist(), reverse=True),
)
print(
    "Erasing another capital, or a random direction, leaves it on more than nine tenths, at every depth:",
    bool(controls.min() > 0.9),
)
seen_at_1 = answer_rank(at(logit_lens(model, tokens), end), capitals)[1] == 0
survives = at(erase_direction(model, tokens, 1, end, lens_direction(capitals)), end).argmax(dim=-1) == capitals
print(
    f"Erased at depth 1, the capital comes back on {survives[seen_at_1].float().mean():.0%} of the {seen_at_1.sum()} prompts where the lens had it on top,"
)
print(f"and on {survives[~seen_at_1].float().mean():.0%} of the {(~seen_at_1).sum()} where it had not.")

# %% [markdown]
# Here the lens and the model agree, the later the more. At depth 1, where the lens had the capital on top, erasing it mostly sticks. Where it had not, later layers often write the capital all the same; but on a good part of these prompts
# the answer is gone too: a direction matters before it wins. In act 5 there were places where the lens spoke and the model did not listen. So the rule is: **act, then believe**.

# %% [markdown]
# ## 7. A lens for every depth
#
# The **tuned lens** ([Belrose et al. 2023](https://arxiv.org/abs/2303.08112)) gives every depth an affine translator into the
# last depth's language, trained so that the translated stream predicts what the *model* will say.
#
# ### Exercise 9 · `TunedLens`
# *20 minutes, ★★★☆, 3 points (1 for how it starts, 2 for `forward`)*
#
# `TunedLens(n_layers, d_model)` has two parameters (`nn.Parameter`): `weight`, shape (n_layers, d_model, d_model), and `bias`, shape (n_layers, d_model). `forward(streams)` moves the stream before each layer $l$ (a row vector $h$) to $h + h\,\mathrm{weight}_l + \mathrm{bias}_l$.
# Both start at zero, so that the tuned lens starts as the logit lens.
#
# **In:** `streams`, shape (n_layers, batch, position, d_model). **Out:** the same shape.
#
# **Example:** one layer, `weight = [[[0., 1.], [0., 0.]]]`, `bias = [[0., 0.5]]`: the stream `[2., 3.]` becomes `[2., 5.5]`.


# %% exercise="logit_lens.TunedLens"
class TunedLens(nn.Module):
    """An affine translator for the stream before each layer."""

    def __init__(self, n_layers: int, d_model: int):
        super().__init__()
        ### BEGIN SOLUTION
        self.weight = nn.Parameter(torch.zeros(n_layers, d_model, d_model))
        self.bias = nn.Parameter(torch.zeros(n_layers, d_model))
        ### END SOLUTION

    def forward(
        self, streams: Float[Tensor, "layer batch position d_model"]
    ) -> Float[Tensor, "layer batch position d_model"]:
        ### BEGIN SOLUTION
        return streams + streams @ self.weight[:, None] + self.bias[:, None, None]
        ### END SOLUTION


# %% check="logit_lens.TunedLens"
check("logit_lens.TunedLens", TunedLens)

# %% [markdown]
# ### Exercise 10 · `tuned_lens_loss`
# *15 minutes, ★★★☆, 2 points*
#
# The loss of each layer: $\mathrm{KL}(\text{model} \,\|\, \text{lens})$ in nats, as in exercise 3, averaged over all positions to `keep`, whatever prompt they belong to. Only the lens learns: no gradient may reach `final_logits`.
#
# **In:** `lens_logits` (layer, batch, position, vocabulary); `final_logits` (batch, position, vocabulary); `keep`, booleans (batch, position). **Out:** shape (layer,).
#
# **Example:** where the lens is uniform over four tokens, and the model certain, the loss is log 4 = 1.3863, however many positions are kept.


# %% exercise="logit_lens.tuned_lens_loss"
def tuned_lens_loss(
    lens_logits: Float[Tensor, "layer batch position vocabulary"],
    final_logits: Float[Tensor, "batch position vocabulary"],
    keep: Bool[Tensor, "batch position"],
) -> Float[Tensor, "layer"]:
    """KL(model || lens) for each layer, averaged over the kept positions."""
    ### BEGIN SOLUTION
    everything = torch.cat([lens_logits, final_logits.detach().unsqueeze(0)])
    return kl_to_final(everything)[:-1, keep].mean(dim=1)
    ### END SOLUTION


# %% check="logit_lens.tuned_lens_loss"
check("logit_lens.tuned_lens_loss", tuned_lens_loss)

# %% [markdown]
# Fit your lens on pages of `pocket`'s corpus (of another seed), and test it on prompts whose wordings no page ever shows. **Predict**: at which depth will tuning help most?

# %% tags=["experiment"]
pages = torch.tensor(corpus.rows(seed=1000, step=0, batch=128))
tuned, history = fit_tuned_lens(
    model, pages, pages != tokenizer.bos_token_id, lens=TunedLens, loss=tuned_lens_loss, steps=120, lr=1e-2
)

held_out = [
    prompt
    for task in (tasks.ioi, tasks.facts, tasks.greater_than, tasks.agreement, tasks.sentiment, tasks.pronouns)
    for prompt in task(tokenizer, n=30, seed=3, split="held-out wordings")
]
inputs = tokens_of(held_out)
keep = inputs != tokenizer.bos_token_id


def kl_by_prompt(network, translate=lambda streams: streams):
    """KL(model || lens), the mean over each prompt's own positions: (layer, prompt)."""
    streams = residual_streams(network, inputs)
    logits = read_out(network, torch.cat([translate(streams[:-1]), streams[-1:]]))
    return (kl_to_final(logits)[:-1] * keep).sum(dim=-1) / keep.sum(dim=-1)


plain, better = kl_by_prompt(model), kl_by_prompt(model, tuned)
print(f"KL(model || lens) on {len(held_out)} held-out prompts, mean and 95% interval over prompts")
for layer in range(model.cfg.n_layers):
    rows = [mean_interval(values[layer]) for values in (plain, better, plain - better)]
    said = [f"{mean:6.2f} [{low:.2f}, {high:.2f}]" for mean, low, high in rows]
    print(f"  depth {layer}: logit lens {said[0]}   tuned lens {said[1]}   difference {said[2]}")

# %% tags=["experiment"]
intervals = {
    name: tuple(torch.tensor([mean_interval(row) for row in values]).T)
    for name, values in (("logit lens", plain), ("tuned lens", better))
}
plots.plot_depths(
    intervals,
    "KL(model || lens), nats",
    "On held-out prompts the tuned lens is nearer to the model at every depth (bands: 95%)",
    log=True,
)

# %% tags=["experiment", "finding"]
print(
    "The tuned lens is nearer to the model at every depth before the last, intervals apart:",
    all(mean_interval(b)[2] < mean_interval(p)[1] for p, b in zip(plain, better)),
)

# %% [markdown]
# Ask the better lens our two questions: the capital at the end, and the verb at the noun. And fit one to the **random twin**, which knows nothing: how low does its KL get?


# %% tags=["experiment"]
def tuned_logits(network, tokens):
    streams = residual_streams(network, tokens)
    return read_out(network, torch.cat([tuned(streams[:-1]), streams[-1:]]))


of_twin, _ = fit_tuned_lens(
    twin,
    pages[:32],
    pages[:32] != tokenizer.bos_token_id,
    lens=TunedLens,
    loss=tuned_lens_loss,
    steps=30,
    lr=1e-2,
    label="random twin",
)
twin_kl = kl_by_prompt(twin, of_twin).mean(dim=1)
plots.plot_depths(
    {
        "capital, tuned lens": (at(tuned_logits(model, tokens), end).argmax(-1) == capitals).float().mean(1),
        "capital, logit lens": (at(logit_lens(model, tokens), end).argmax(-1) == capitals).float().mean(1),
        "verb at the noun, tuned lens": shown(agreement, "subject", read=tuned_logits),
        "verb at the noun, logit lens": shown(agreement, "subject"),
    },
    "capital: share on top; verb: share shown",
    "A better lens sees the capital earlier, and is blind to the same things",
)

# %% tags=["experiment", "finding"]
print(
    "Where the logit lens was blind to the noun's number, the tuned lens shows under 15% of it too:",
    all(abs(shown(agreement, "subject", read=tuned_logits)[d]) < 0.15 for d in blind_spots),
)
print(
    "The random twin's tuned lens is nearer to its model than pocket's is to pocket, at every depth:",
    bool((twin_kl < better.mean(1)).all()),
)

# %% [markdown]
# First, tuning repairs the *language*, not the *question*: the number of a noun still does not show where nobody predicts a verb. Second, **a low KL is no sign of understanding**: a lens follows the random twin more easily. And a tuned lens is a trained probe: what it
# finds at an early depth, an affine map *could* make of the stream; the model need not.

# %% [markdown]
# ## 8. Where is the lens blind?
#
# In act 5 the lens missed a bit that lay in no direction that the unembedding reads. How blind is it to `pocket`'s stream?
#
# ### Exercise 11 · `blind_direction` (optional, hard)
# *25 minutes, ★★★★, 3 points*
#
# Take a small step $v$ in the stream, at a fixed LayerNorm scale. On its way to the prediction it is **centred** (its mean is taken away), multiplied by `weight`, and by $W_U$; and a change that is the same for all tokens does not count, since the softmax ignores it. How much the lens sees of $v$ is the length of what is left.
# Find the unit vector **of zero mean** that the lens sees least. Its sign does not matter. There may be more than one direction that is quite invisible, or none.
#
# **In:** `weight` (d_model,), `W_U` (d_model, vocabulary). **Out:** shape (d_model,).
#
# **Example:** with `weight = [1., 1., 1.]` and two tokens, `W_U = [[1., 0.], [0., 1.], [0., 0.]]`, only the difference of the first two entries counts, so it is `[1., 1., -2.] / sqrt(6)`.


# %% exercise="logit_lens.blind_direction"
def blind_direction(
    weight: Float[Tensor, "d_model"], W_U: Float[Tensor, "d_model vocabulary"]
) -> Float[Tensor, "d_model"]:
    """The unit vector of zero mean that the lens sees least."""
    ### BEGIN SOLUTION
    effect = weight[:, None] * (W_U - W_U.mean(dim=1, keepdim=True))
    effect = effect - effect.mean(dim=0)
    # A large column of ones makes the mean the most visible direction of all, and so takes it out of the way.
    lifted = torch.cat([effect, effect.norm() * torch.ones_like(effect[:, :1])], dim=1)
    return torch.linalg.svd(lifted).U[:, -1]
    ### END SOLUTION


# %% check="logit_lens.blind_direction"
check("logit_lens.blind_direction", blind_direction)

# %% [markdown]
# Push the stream at the end of each prompt along this direction, by half of its own length, and along random directions for comparison. What changes in the lens at that depth, and what in the model's output?


# %% tags=["experiment"]
def push(depth, directions, strength=0.5):
    """The logits of the lens at a depth, and of the model, when the stream is pushed there along directions."""
    where = torch.arange(len(tokens)), end
    stream = residual_streams(model, tokens)[depth]
    stream[where] += strength * stream[where].norm(dim=-1, keepdim=True) * directions
    edit = (stream_hook(model, depth), lambda old, hook: stream)
    return at(read_out(model, stream), end), at(model.run_with_hooks(tokens, fwd_hooks=[edit]), end)


def kl(p, q):
    return kl_to_final(torch.stack([q, p]))[0].mean()


blind = blind_direction(model.ln_final.weight, model.W_U)
random = torch.randn(direction.shape, generator=generator)
random = random - random.mean(dim=-1, keepdim=True)
random = random / random.norm(dim=-1, keepdim=True)
base_lens, base = at(logit_lens(model, tokens), end), at(model(tokens), end)
effect = {}
for name, directions in (("least visible direction", blind), ("random direction", random)):
    pushed = [push(depth, directions) for depth in range(model.cfg.n_layers)]
    effect[f"lens, {name}"] = torch.stack([kl(base_lens[d], seen) for d, (seen, _) in enumerate(pushed)])
    effect[f"model, {name}"] = torch.stack([kl(base, out) for _, out in pushed])
ratio = (
    visibility(blind, model.ln_final.weight, model.W_U) / visibility(random, model.ln_final.weight, model.W_U).mean()
)
print(f"a step along the least visible direction moves the logits {ratio:.0%} as far as a random one")
plots.plot_depths(
    effect,
    "KL that the push makes (nats)",
    "Along its blind direction the lens changes a tenth as much as along a random one, the output about as much",
    log=True,
)

# %% tags=["experiment", "finding"]
lens_ratio = effect["lens, least visible direction"] / effect["lens, random direction"]
model_ratio = effect["model, least visible direction"] / effect["model, random direction"]
print(
    "From depth 1 on the lens sees under a third of what it sees of a random push:",
    bool((lens_ratio[1:] < 1 / 3).all()),
)
print(
    "Measured the same way, the model's output moves over three times as much as the lens lets one expect:",
    bool((model_ratio[1:] > 3 * lens_ratio[1:]).all()),
)

# %% [markdown]
# So the layers that follow read where the lens is blind. (At depth 0 the lens is so sure of its input that no push of this size shows.)

# %% [markdown]
# ## Caveats
#
# - **A lens reads one position, and one question**: what would be predicted *here*. What is stored for later need not show (act 5).
# - **An empty lens is not evidence.** Neither is an empty tuned lens, or a patchscope that says nothing.
# - **A full lens is not a cause.** Act on it (act 6).
# - **The normalisation is a choice**, and the tuned lens is a trained one (acts 2 and 7).
# - **One model is an anecdote.** Put `pocket-seed-1`, the same recipe from another seed, into the set-up cell. When we did, what the `finding` cells print repeated, with three exceptions: there no place leaned so far the wrong way, a vector from the last depth did speak in another sentence (both act 5), and the factor of three of act 8 was not reached.
#
# ## Going on
#
# 1. **Between attention and MLP.** Read the stream in the middle of each layer as well. Which of the two raises the capital, and which *lowers* it? *A good answer counts over prompts, and removes the part that it blames.*
# 2. **The order of landmarks.** `tasks.facts(..., relation="landmark_city")` has invented landmarks whose two words come in both orders, with different cities. Where does the lens tell the orders apart, and where does a patch? *A good answer shows a site where both do, one where only the patch does, and says why.*
# 3. **A lens that cheats.** Replace the translator of depth 1 by a small MLP. If its KL falls below the affine one's, did the lens get better, or does it compute what the model has not computed yet? *A good answer proposes a control that tells the two apart, and runs it.*
#
# **The same on `gpt2`**: with a network, `load("gpt2")` in the set-up cell, and `invented=False` in `tasks.facts`. (For the tuned lens take a text of your own.) Look for the country on the way to the capital.
#
# **Papers**
# - nostalgebraist 2020, [interpreting GPT: the logit lens](https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens): the first grids; look at what depth 0 says there.
# - Geva et al. 2021, [Transformer Feed-Forward Layers Are Key-Value Memories](https://arxiv.org/abs/2012.14913), and 2022, [... Build Predictions by Promoting Concepts](https://arxiv.org/abs/2203.14680): where value vectors come from; compare their share of readable neurons with yours.
# - Belrose et al. 2023, [Eliciting Latent Predictions with the Tuned Lens](https://arxiv.org/abs/2303.08112): read the part on causal fidelity beside act 6.
# - Ghandeharioun et al. 2024, [Patchscopes](https://arxiv.org/abs/2401.06102): many lenses as one idea.

# %% tags=["experiment"]
progress()
