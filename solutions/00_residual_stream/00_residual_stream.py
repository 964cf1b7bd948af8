# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00 · The residual stream
#
# [▶ Open this chapter in Colab]({{colab}})
#
# **What is inside a transformer, and who writes what?**
#
# ![A logit difference as the sum of what every component adds](picture.png)
#
# A transformer is built around one plain idea: every part *adds* its output to a shared vector, the **residual stream**,
# and the answer is read off that vector at the end. So the answer is a **sum**, and you can ask every part what it contributed (Elhage et al.
# [2021](https://transformer-circuits.pub/2021/framework/index.html)). You take a language model apart until your pieces add up to its own output, digit for digit, and
# then find out why that is not yet an explanation.
#
# **When you are done** you can read and edit any activation, split the stream and the logits into their parts, tell a part's *direct* effect from its *total* one, and read off a head's weights
# what it looks for and what it moves.
#
# **You need** Python, PyTorch, and a rough idea of attention and MLPs. Nothing about interpretability.
#
# **Time:** three to four hours for you, about a minute for your computer. No GPU, no network.

# %% tags=["setup"]
try:
    import mechlib
except ImportError:  # in Colab, or in a bare folder: install it once; the torch that is already there stays
    # %pip install --quiet "mechlib @ git+{{repository}}"
    import mechlib

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from mechlib import plots
from mechlib.check import borrow, check, hint, progress, reveal
from mechlib.handmade import handmade
from mechlib.models import load, random_twin
from mechlib.tasks import agreement, answer_tokens, to_tokens, token_id
from mechlib.tasks.words import COUNTRIES
from mechlib.weights import effective_dimensions

torch.manual_seed(0)  # the one seed of this notebook
torch.set_grad_enabled(False)  # nothing is trained here
torch.set_num_threads(1)  # these models are so small that more threads only get into each other's way

model = load("pocket")  # a GPT-2 with 4 layers of 4 heads that knows some 700 words
device = model.W_E.device

# %% [markdown]
# **How to work.** Replace every `raise NotImplementedError` by your own lines, run the cell, and run the check under it: it says
# whether you are right and, if not, which mistake it looks like. `hint("residual_stream.head_outputs")` helps a little, and more when called again. `borrow(...)` hands over the solution, for no points; `progress()` shows how far you are.
#
# **The model.** `model` is a TransformerLens `TransformerBridge`. All you need of it here:
#
# | | |
# |---|---|
# | `model.to_tokens(text)` | token numbers, shape (1, position), with `<bos>` in front |
# | `model(tokens)` | logits, shape (batch, position, vocabulary) |
# | `logits, cache = model.run_with_cache(tokens)` | all activations too: `cache["attn_out", 2]`, or by full name `cache["blocks.2.hook_attn_out"]` |
# | `model.run_with_hooks(tokens, fwd_hooks=[(name, function)])` | calls `function(activation, hook)` where `name` is computed; what it returns, if anything, replaces the activation |
# | `model.W_E`, `W_pos`, `W_Q`, `W_K`, `W_V`, `W_O`, `W_U` and `b_...` | weights. `W_O[layer, head]` has shape (d_head, d_model): rows act from the left, `z @ W_O` |
# | `model.cfg` | `n_layers`, `n_heads`, `d_model`, `d_head` |
#
# Your functions are checked on small random models as well: take sizes from `model.cfg`.

# %% [markdown]
# ## 1. Say hello
#
# All that a language model puts out is a score, a **logit**, for every word that could come next. A softmax makes probabilities of them.
#
# ### Exercise 1 · `next_token_table`
# *5 minutes, ★☆☆☆, 1 point*
#
# Which `k` tokens does the model expect after a text?
#
# **In:** `model`, a string `text`, and `k`. **Out:** a list of `k` pairs (token as a string, probability), the likeliest first. A token's string is `model.tokenizer.decode([number])`.
#
# **Example:** `next_token_table(model, "Anna went to the", 2)` has this form: `[('park', 0.21), ('store', 0.13)]` (the numbers are made up).


# %% exercise="residual_stream.next_token_table"
def next_token_table(model, text: str, k: int = 5) -> list[tuple[str, float]]:
    """The k most likely next tokens after a text, with their probabilities."""
    ### BEGIN SOLUTION
    probabilities = model(model.to_tokens(text))[0, -1].softmax(dim=-1)
    best = probabilities.topk(k)
    return [(model.tokenizer.decode([i]), p) for i, p in zip(best.indices.tolist(), best.values.tolist())]
    ### END SOLUTION


# %% check="residual_stream.next_token_table"
check("residual_stream.next_token_table", next_token_table)

# %% [markdown]
# **Predict** before you run it: this model has read only short, simple texts. Does it know the capital of Hungary? Does it make a singular of "the keys near the cabinet"?

# %% tags=["experiment"]
twin = random_twin("pocket")  # the control: the same architecture, never trained
for text in ["The capital city of Hungary is called", "The keys near the cabinet", "Anna and Paul went to the park, and Anna gave a book to"]:  # fmt: skip
    print(text)
    for name, which in {"trained": model, "random": twin}.items():
        print(f"  {name}:", ", ".join(f"{token} {p:.2f}" for token, p in next_token_table(which, text, 4)))

# %% [markdown]
# It knows things that the untrained twin does not. Where are they looked up? You need to see inside.
#
# ### Exercise 2 · `get_activation`
# *10 minutes, ★☆☆☆, 1 point*
#
# Every intermediate result passes a **hook point** with a name (`model.hook_dict` lists them). Run the model with a hook that reads the activation at one of them, and return it. Afterwards no hook may be left on the model.
#
# **In:** `model`; `tokens`, shape (batch, position); `name`. **Out:** the activation, whatever its shape.
#
# **Example:** for three prompts of seven tokens, `get_activation(model, tokens, "blocks.0.hook_resid_pre")` has shape (3, 7, d_model).


# %% exercise="residual_stream.get_activation"
def get_activation(model, tokens: Int[Tensor, "batch position"], name: str) -> Tensor:
    """The activation at a hook point, read with a hook that is gone afterwards."""
    ### BEGIN SOLUTION
    kept = {}

    def keep(activation, hook):
        kept["activation"] = activation

    model.run_with_hooks(tokens, fwd_hooks=[(name, keep)])
    return kept["activation"]
    ### END SOLUTION


# %% check="residual_stream.get_activation"
check("residual_stream.get_activation", get_activation)

# %% tags=["experiment"]
tokens = model.to_tokens("The capital city of Hungary is called")
for name in ["hook_embed", "blocks.0.attn.hook_pattern", "blocks.0.attn.hook_z", "blocks.0.mlp.hook_post", "blocks.3.hook_resid_post"]:  # fmt: skip
    print(f"{name:28} {tuple(get_activation(model, tokens, name).shape)}")

# %% [markdown]
# A token and a position come in, and the stream there is a vector of `d_model` = 128 numbers, from the first block to the last. Heads work in 32 dimensions each, an MLP has 512 neurons. What connects them?

# %% [markdown]
# ## 2. The stream is a sum
#
# Here is the whole architecture. Nothing is ever overwritten:
#
# $$\underbrace{x_0}_{\text{embedding + position}} \;\to\; x_0 + \mathrm{attn}_0 \;\to\; x_0 + \mathrm{attn}_0 + \mathrm{mlp}_0 \;\to\; \dots \;\to\; \text{logits}$$
#
# Do not believe it. Collect the parts, and add them up.
#
# ### Exercise 3 · `residual_components`
# *15 minutes, ★★☆☆, 2 points*
#
# Return what every component adds to the residual stream, as a dict in this order: `"embed"`, `"pos_embed"`, then for each layer `"0_attn_out"`, `"0_mlp_out"`, `"1_attn_out"`, ...
#
# **In:** `model`, and the `cache` of a run. **Out:** name → tensor of shape (batch, position, d_model).
#
# **Example:** for a model of two layers the keys are `embed, pos_embed, 0_attn_out, 0_mlp_out, 1_attn_out, 1_mlp_out`, and the sum of the values is `cache["resid_post", 1]`.


# %% exercise="residual_stream.residual_components"
def residual_components(model, cache) -> dict[str, Float[Tensor, "batch position d_model"]]:
    """What every component adds to the residual stream."""
    ### BEGIN SOLUTION
    parts = {"embed": cache["hook_embed"], "pos_embed": cache["hook_pos_embed"]}
    for i in range(model.cfg.n_layers):
        parts[f"{i}_attn_out"] = cache["attn_out", i]
        parts[f"{i}_mlp_out"] = cache["mlp_out", i]
    return parts
    ### END SOLUTION


# %% check="residual_stream.residual_components"
check("residual_stream.residual_components", residual_components)

# %% [markdown]
# From here on we ask for every country that the model knows: *The capital city of ... is called*. The wrong answer to compare with is the capital of the next country in the list.

# %% tags=["experiment"]
texts = [f"The capital city of {country.name} is called" for country in COUNTRIES]
tokens = to_tokens(model.tokenizer, texts).to(device)
capitals = [token_id(model.tokenizer, f" {country.capital}") for country in COUNTRIES]
answers = torch.tensor([capitals, capitals[1:] + capitals[:1]], device=device).T  # (batch, 2): right, wrong

logits, cache = model.run_with_cache(tokens)
parts = residual_components(model, cache)
final = cache["resid_post", model.cfg.n_layers - 1]
size = sum(part.abs() for part in parts.values())
print(f"{len(texts)} prompts of {tokens.shape[1]} tokens; the model names the capital in {(logits[:, -1].argmax(-1) == answers[:, 0]).float().mean():.0%} of them")  # fmt: skip
print("largest error of your sum, relative to the sum of absolute parts:", f"{((sum(parts.values()) - final).abs() / size).max():.0e}")  # fmt: skip
for left_out in parts:
    rest = sum(part for name, part in parts.items() if name != left_out)
    print(f"  without {left_out:10} {((rest - final).abs() / size).max():.2f}")

# %% tags=["experiment", "finding"]
print("Your parts add up to the model's own stream, to float precision:", bool(((sum(parts.values()) - final).abs() <= 1e-6 * size).all()))  # fmt: skip

# %% [markdown]
# That is the model's own activation, rebuilt from your pieces; leave any one of them out, and it is not. Now you can ask who writes much, and where.

# %% tags=["experiment"]
words = [model.tokenizer.decode([token]) for token in tokens[0].tolist()]
words[words.index(COUNTRIES[0].name)] = "(country)"
norms = torch.stack([part.norm(dim=-1).mean(dim=0) for part in parts.values()])
plots.plot_grids(
    {"": norms},
    list(parts),
    words,
    "position",
    "",
    "The MLPs write the longest vectors; embeddings and positions are short",
    "mean length of what is added",
)

# %% [markdown]
# The stream starts out small; most of its length is written by MLPs.
#
# **What would have fooled us:** size. A long vector may be read by nobody. What counts is what it does.

# %% [markdown]
# ## 3. Head by head
#
# A layer's heads work side by side, and each has its own rows of the output matrix. So the sum can be split further.
#
# ### Exercise 4 · `head_outputs`
# *15 minutes, ★★☆☆, 2 points*
#
# What does each head of a layer add to the stream? `cache["z", layer]`, shape (batch, position, head, d_head), holds what every head has collected; `model.W_O[layer, head]` takes it into the stream. One more thing is added that belongs to no head: give it the entry `"bias"`.
#
# **In:** `model`, `cache`, `layer`. **Out:** a dict in this order: `"2.0"`, `"2.1"`, ..., `"2.bias"` for layer 2, each of shape (batch, position, d_model). Their sum is `cache["attn_out", layer]`.
#
# **Example:** a head with `z = [1., 2.]` at a position, and `W_O[layer, head] = [[1., 0., 1.], [0., 3., 0.]]`, adds `[1., 6., 1.]` there.


# %% exercise="residual_stream.head_outputs"
def head_outputs(model, cache, layer: int) -> dict[str, Float[Tensor, "batch position d_model"]]:
    """What each head of a layer adds to the stream, and the bias that belongs to none."""
    ### BEGIN SOLUTION
    written = einsum(cache["z", layer], model.W_O[layer], "batch pos head d_head, head d_head d_model -> head batch pos d_model")  # fmt: skip
    parts = {f"{layer}.{head}": output for head, output in enumerate(written)}
    parts[f"{layer}.bias"] = model.b_O[layer].expand_as(written[0])
    return parts
    ### END SOLUTION


# %% check="residual_stream.head_outputs"
check("residual_stream.head_outputs", head_outputs)

# %% tags=["experiment"]
for layer in range(model.cfg.n_layers):
    heads = head_outputs(model, cache, layer)
    error = (sum(heads.values()) - cache["attn_out", layer]).abs().max()
    print(f"layer {layer}: length at the last position", ", ".join(f"{name} {part[:, -1].norm(dim=-1).mean():.2f}" for name, part in heads.items()), f"(error of the sum {error:.0e})")  # fmt: skip

# %% [markdown]
# The bias is there whatever the prompt says. Forget it, and sooner or later a head gets the credit.

# %% [markdown]
# ## 4. From the sum to the answer
#
# The logits are read from the final stream: $\text{logits} = \mathrm{LayerNorm}(x)\, W_U + b_U$. The unembedding is linear, so a sum goes through it part by part. LayerNorm,
#
# $$\mathrm{LayerNorm}(x) = \frac{x - \bar x}{\sigma(x)} \odot w + b,$$
#
# is almost linear: only the **scale** $\sigma(x)$ depends on everything together. But it is one number at each position, and you have it: `cache["ln_final.hook_scale"]`. Hold it fixed, and the logit difference between the right and the wrong answer is a sum over the parts.
#
# ### Exercise 5 · `direct_logit_attribution`
# *25 minutes, ★★★☆, 3 points*
#
# What does each part add to logit(right) − logit(wrong) at the **last** position? The LayerNorm's bias $b$ and $b_U$ belong to no part: they make one more entry, `"bias"`, at the end. If your parts are all of the stream, everything together is exactly the model's logit difference.
#
# **In:** `model`; `cache`; `parts`, a dict name → (batch, position, d_model), which need not be complete; `answers`, integers of shape (batch, 2): right, wrong. You need `model.ln_final.weight`, `model.ln_final.bias`, `model.W_U` (d_model, vocabulary), `model.b_U`.
# **Out:** a dict with the same keys in the same order, then `"bias"`; each of shape (batch,).
#
# **Example:** a part `[4., 0.]`, scale 2, weight `[1., 3.]`, and `W_U[:, right] - W_U[:, wrong] = [1., -1.]`: centred `[2., -2.]`, divided `[1., -1.]`, weighted `[1., -3.]`, so this part adds 4.


# %% exercise="residual_stream.direct_logit_attribution"
def direct_logit_attribution(
    model, cache, parts: dict[str, Float[Tensor, "batch position d_model"]], answers: Int[Tensor, "batch 2"]
) -> dict[str, Float[Tensor, "batch"]]:
    """What each part adds directly to the logit difference at the last position, and the bias."""
    ### BEGIN SOLUTION
    right, wrong = answers[:, 0], answers[:, 1]
    toward = model.W_U.T[right] - model.W_U.T[wrong]
    attribution = {}
    for name, part in parts.items():
        centred = part[:, -1] - part[:, -1].mean(dim=-1, keepdim=True)
        read = centred / cache["ln_final.hook_scale"][:, -1] * model.ln_final.weight
        attribution[name] = (read * toward).sum(dim=-1)
    attribution["bias"] = toward @ model.ln_final.bias + model.b_U[right] - model.b_U[wrong]
    return attribution
    ### END SOLUTION


# %% check="residual_stream.direct_logit_attribution"
check("residual_stream.direct_logit_attribution", direct_logit_attribution)


# %% [markdown]
# **Predict:** the country stands two tokens before the end. Who will write its capital there: the embeddings, the attention, the MLPs? Early or late?


# %% tags=["experiment"]
def logit_difference(logits, answers):
    """logit(right) - logit(wrong) at the last position."""
    last = logits[:, -1].gather(1, answers)
    return last[:, 0] - last[:, 1]


whole = logit_difference(logits, answers).mean().item()
attribution = direct_logit_attribution(model, cache, parts, answers)
plots.plot_sum(
    {name: value.mean().item() for name, value in attribution.items()},
    whole,
    "logit(capital) − logit(another capital)",
    "The answer is a sum, and the MLPs write it: attention adds next to nothing",
)

# %% tags=["experiment"]
processed = load("pocket", processed=True)  # the same function with LayerNorm folded into other weights: b_U is not 0
attn_only = load("attn-only-2l")
some = torch.randint(2, 250, (8, 12), generator=torch.Generator().manual_seed(0)).to(device)
pairs = some[:, :2]
for name, which, its_tokens, its_answers in [
    ("pocket", model, tokens, answers),
    ("pocket, processed weights", processed, tokens, answers),
    ("pocket, never trained", twin, tokens, answers),
    ("attn-only-2l", attn_only, some, pairs),
]:
    its_logits, its_cache = which.run_with_cache(its_tokens)
    pieces = direct_logit_attribution(which, its_cache, residual_components(which, its_cache), its_answers)
    error = (sum(pieces.values()) - logit_difference(its_logits, its_answers)).abs()
    print(f"{name:26} error {(error / sum(p.abs() for p in pieces.values())).max():.0e}, mean difference {logit_difference(its_logits, its_answers).mean():5.2f};", end=" ")  # fmt: skip
    print(f"b_U up to {which.b_U.abs().max():.1f}, LayerNorm's weight {which.ln_final.weight.min():.1f} to {which.ln_final.weight.max():.1f}")  # fmt: skip

# %% [markdown]
# The sum holds for any model of this kind, trained or not: arithmetic, not a finding. In raw GPT-2 weights $b_U$ is zero and the LayerNorm's weight is not 1; in *processed* weights it is the other way round. Whoever forgets a piece that is trivial in one is wrong in the next.
#
# **The control.** An attribution is about *a question*. Ask the same cache another one: that of a country half the list away. (Neighbours in the list are mostly on one continent, and share something.)

# %% tags=["experiment", "finding"]
other = answers.roll(len(COUNTRIES) // 2, dims=0)
unrelated = direct_logit_attribution(model, cache, parts, other)
late = f"{model.cfg.n_layers - 1}_mlp_out"
mlps = [name for name in parts if "mlp" in name]
heads_and_bias = [name for name in parts if "attn" in name]
share = sum(attribution[name].mean() for name in mlps) / whole
print(f"of the logit difference the MLPs write {share:.0%}, the attention layers {round((sum(attribution[n].mean() for n in heads_and_bias) / whole).item(), 2) + 0:.0%}")  # fmt: skip
print("the last MLP writes more than any other part:", max(attribution, key=lambda name: attribution[name].mean()) == late)  # fmt: skip
print(f"asked another country's question, the same parts write {abs(sum(unrelated[n].mean() for n in mlps)) / sum(attribution[n].mean() for n in mlps):.0%} of that")  # fmt: skip

# %% [markdown]
# So the MLPs write the answer, and attention has nothing to do with it? That cannot be. An MLP sees **one** position, and at the last one stands "called". Somebody must have told it about the country, and only attention moves anything from one position to another.

# %% [markdown]
# ### In your own words · 1
# *2 points, graded by a person*
#
# In a larger model the direct attribution of a head to the right answer is *negative*, −2 on average. A colleague says: "Ablate it, and the model gets better." Name two different reasons why the logit difference may nevertheless fall, and for each
# an experiment that would show it.

# %% [markdown] question="residual_stream.words-negative" points=2
# Direct attribution sees only the path from the head straight to the logits. (1) Later components may make something of it that helps by more than 2: ablate the head for everybody and compare with removing the direct path alone; or see how the attribution of later
# parts changes. (2) The attribution holds the final LayerNorm's scale fixed, although the head helps to set it; without the head all other contributions may shrink: remove it from the final stream and compute the LayerNorm anew. (Also right: zero puts the
# model off its distribution, so what we see is damage: replace by a mean. Or: it is not negative on the prompts in question: look prompt by prompt.)
#
# *Rubric: 1 point for each reason with an experiment that could have come out otherwise.*

# %% [markdown]
# ## 5. Direct and indirect
#
# A part of the stream acts **directly**, because the unembedding reads it, and **indirectly**, because later components read it and write something else for it. Take a head away twice, and compare.
#
# ### Exercise 6 · `direct_effect`
# *20 minutes, ★★★☆, 2 points*
#
# By how much does the logit difference fall if a head is missing **in the final stream alone**? Everybody else still reads what it wrote. This time the final LayerNorm runs again on the changed stream, scale included.
#
# "Missing" means: the head's collected values `z` become `replacement`, which is 0, or another tensor that broadcasts with `z` of one head. So what is taken out of the stream is what the head writes with `z`, less what it would write with `replacement`.
#
# **In:** `model`; `tokens` (batch, position); `layer`, `head`; `answers` (batch, 2): right, wrong; `replacement`. **Out:** intact minus changed logit difference at the last position, shape (batch,). `model.ln_final(stream)` and `model.unembed(normalised)` are there for you.
#
# **Example:** logit difference 5 before, 3 without the head's direct path: the effect is 2.


# %% exercise="residual_stream.direct_effect"
def direct_effect(
    model,
    tokens: Int[Tensor, "batch position"],
    layer: int,
    head: int,
    answers: Int[Tensor, "batch 2"],
    replacement=0.0,
) -> Float[Tensor, "batch"]:
    """By how much the logit difference falls if a head's output is missing in the final stream alone."""
    ### BEGIN SOLUTION
    logits, seen = model.run_with_cache(tokens)
    missing = (seen["z", layer][:, :, head] - replacement) @ model.W_O[layer, head]
    stream = seen["resid_post", model.cfg.n_layers - 1] - missing
    changed = model.unembed(model.ln_final(stream))
    right, wrong = (logits - changed)[:, -1].gather(1, answers).T
    return right - wrong
    ### END SOLUTION


# %% check="residual_stream.direct_effect"
check("residual_stream.direct_effect", direct_effect)

# %% [markdown]
# ### Exercise 7 · `ablation_effect`
# *15 minutes, ★★☆☆, 2 points*
#
# Now take the head away for **everybody**: at every position, during the run, so that all later components miss it as well. This is the **total effect**.
#
# **In, out:** as in exercise 6. The hook point of `z`, shape (batch, position, head, d_head), is `f"blocks.{layer}.attn.hook_z"`; a hook that returns a tensor replaces the activation. Work on a clone.


# %% exercise="residual_stream.ablation_effect"
def ablation_effect(
    model,
    tokens: Int[Tensor, "batch position"],
    layer: int,
    head: int,
    answers: Int[Tensor, "batch 2"],
    replacement=0.0,
) -> Float[Tensor, "batch"]:
    """By how much the logit difference falls if a head is ablated for everybody."""

    ### BEGIN SOLUTION
    def ablate(z, hook):
        z = z.clone()
        z[:, :, head] = replacement
        return z

    ablated = model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", ablate)])
    right, wrong = (model(tokens) - ablated)[:, -1].gather(1, answers).T
    return right - wrong
    ### END SOLUTION


# %% check="residual_stream.ablation_effect"
check("residual_stream.ablation_effect", ablation_effect)

# %% [markdown]
# First a model whose truth is known, because it was written by hand. In `handmade("indirect")` one head (the *planner*) writes a plan that only an MLP can read; another (the *mirage*) writes the answer itself, but an *eraser* takes it away again.

# %% tags=["experiment"]
by_hand = handmade("indirect")
hand_tokens = by_hand.to_tokens("1 =")
hand_answers = torch.tensor([[token_id(by_hand.tokenizer, word) for word in ("yes", "no")]], device=device)
print(f"logit difference {logit_difference(by_hand(hand_tokens), hand_answers).item():.2f}")
for name, (layer, head) in {"planner 0.0": (0, 0), "mirage 0.1": (0, 1), "eraser 1.0": (1, 0)}.items():
    direct = direct_effect(by_hand, hand_tokens, layer, head, hand_answers).item()
    total = ablation_effect(by_hand, hand_tokens, layer, head, hand_answers).item()
    print(f"{name:12} direct {direct + 0:5.2f}, total {total + 0:5.2f}")

# %% [markdown]
# The planner does everything, and its direct effect is 0. The mirage gets all the credit, and does nothing. Now `pocket`, where nobody knows the truth. We set each head to zero, and to its **mean** over all countries, which
# removes only what depends on the country.
#
# **Predict:** which layer's heads will have a total effect far from their direct one?


# %% tags=["experiment"]
def effects(model, tokens, answers, mean=False):
    """Mean direct and total effects, (layer, head) each."""
    _, cache = model.run_with_cache(tokens)
    direct, total = torch.zeros(2, model.cfg.n_layers, model.cfg.n_heads)
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            replacement = cache["z", layer][:, :, head].mean(dim=0, keepdim=True) if mean else 0.0
            direct[layer, head] = direct_effect(model, tokens, layer, head, answers, replacement).mean()
            total[layer, head] = ablation_effect(model, tokens, layer, head, answers, replacement).mean()
    return direct, total


direct, total = effects(model, tokens, answers)
direct_mean, total_mean = effects(model, tokens, answers, mean=True)
carrier = divmod((total_mean - direct_mean).abs().argmax().item(), model.cfg.n_heads)  # found, not asserted
layer_names, head_names = [[str(i) for i in range(n)] for n in (model.cfg.n_layers, model.cfg.n_heads)]
plots.plot_grids(
    {"direct effect (mean)": direct_mean, "total effect (mean)": total_mean, "total effect (zero)": total},
    layer_names,
    head_names,
    "head",
    "layer",
    f"Head {carrier[0]}.{carrier[1]} writes nothing that the logits read; yet without it most of the answer is gone",
    "fall of the logit difference",
    mark=[carrier],
)

# %% tags=["experiment", "finding"]
layer, head = carrier
print(f"head {layer}.{head}: direct effect {direct_mean[carrier]:.1f}, total effect {total_mean[carrier]:.1f}, of a logit difference of {whole:.1f}")  # fmt: skip
print("its total effect is more than ten times its direct one:", bool(total_mean[carrier] > 10 * direct_mean[carrier].abs()))  # fmt: skip

# %% tags=["experiment"]
# Two controls. In the last layer of a model without MLPs nobody comes after: there the two must agree.
last = attn_only.cfg.n_layers - 1
gaps = [(direct_effect(attn_only, some, last, h, pairs) - ablation_effect(attn_only, some, last, h, pairs)).abs().max().item() for h in range(attn_only.cfg.n_heads)]  # fmt: skip
print(f"attn-only-2l, last layer: direct and total effects differ by at most {max(gaps):.0e}")
# A head that matters for every question would not be about countries. Another question for all heads: is or are?
number = [prompt for prompt in agreement(model.tokenizer, 200) if " near the " in prompt.text]
number_tokens = to_tokens(model.tokenizer, [prompt.text for prompt in number]).to(device)
number_answers = answer_tokens(model.tokenizer, number).to(device)
number_direct, number_total = effects(model, number_tokens, number_answers, mean=True)
number_whole = logit_difference(model(number_tokens), number_answers).mean()
strongest = divmod(number_total.argmax().item(), model.cfg.n_heads)
print(f"{len(number)} prompts like {number[0].text!r}: logit difference {number_whole:.1f}")
print(f"  head {layer}.{head}: direct {number_direct[carrier]:.1f}, total {number_total[carrier]:.1f}")
print(f"  the head that matters most, {strongest[0]}.{strongest[1]}: direct {number_direct[strongest]:.1f}, total {number_total[strongest]:.1f}")  # fmt: skip

# %% [markdown]
# One head of the first layer has next to no direct effect, and a total effect of most of the logit difference: attribution alone would have missed it. Not everything hangs on it: for the verbs another head matters most. And where nobody comes after a head, direct and total are the same, as they must be.
#
# How does it act, if not directly? Ablate it, and attribute again: whose contribution goes?

# %% tags=["experiment"]
carried = cache["z", layer][:, :, head].mean(dim=0, keepdim=True)


def without_carrier(z, hook):
    z = z.clone()
    z[:, :, head] = carried
    return z


with model.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_z", without_carrier)]):
    _, ablated_cache = model.run_with_cache(tokens)
ablated = direct_logit_attribution(model, ablated_cache, residual_components(model, ablated_cache), answers)
names = list(parts)
rows = torch.stack([torch.stack([a[name].mean() for name in names]) for a in (attribution, ablated)])
plots.plot_grids(
    {"": rows},
    ["intact", f"without {layer}.{head}"],
    names,
    "part",
    "",
    f"Without head {layer}.{head} the MLPs have little left to write",
    "direct attribution",
)

# %% [markdown]
# So this is a relay: the head says *which country* in a language that the unembedding does not read; the MLPs hear it and write the capital.
#
# ### Exercise 8 · `outputs_by_source` (optional, hard)
# *20 minutes, ★★★★, 2 points*
#
# *Where* does a head get what it writes? Attention is a weighted sum over source positions: do not sum.
#
# **In:** `model`, `cache`, `layer`, `head`. You need `cache["pattern", layer]` (batch, head, query, key) and `cache["v", layer]` (batch, position, head, d_head). **Out:** shape (batch, position, source, d_model); its sum over the sources is the head's output of exercise 4.
#
# **Example:** if position 2 attends half to position 0 and half to position 1, where `v @ W_O` is `[2., 0.]` and `[0., 4.]`, then the entries for position 2 are `[1., 0.]`, `[0., 2.]`, `[0., 0.]`.
#
# **Short of time?** Write `outputs_by_source = borrow("residual_stream.outputs_by_source")` in its place: the next cell needs it.


# %% exercise="residual_stream.outputs_by_source"
def outputs_by_source(model, cache, layer: int, head: int) -> Float[Tensor, "batch position source d_model"]:
    """What a head adds to the stream, split by the position that it comes from."""
    ### BEGIN SOLUTION
    written = cache["v", layer][:, :, head] @ model.W_O[layer, head]
    pattern = cache["pattern", layer][:, head]
    return einsum(pattern, written, "batch pos source, batch source d_model -> batch pos source d_model")
    ### END SOLUTION


# %% check="residual_stream.outputs_by_source"
check("residual_stream.outputs_by_source", outputs_by_source)

# %% tags=["experiment"]
by_source = outputs_by_source(model, cache, *carrier)[:, -1]  # what arrives at the last position: batch source d_model
varies = (by_source - by_source.mean(dim=0)).norm(dim=-1).mean(dim=0)  # the part that depends on the country
for word, attention, amount in zip(words, cache["pattern", layer][:, head, -1].mean(dim=0), varies):
    print(f"{word:10} attention {attention:.2f}, what depends on the country {amount:.2f}")

# %% [markdown]
# The head looks at the country, and nearly all that varies with the country comes from there.
#
# ## 6. Who looks where
#
# Here are all heads: hover over one, click, and hover over a token. (In the solved notebook this figure is left out: it carries a megabyte of JavaScript.)

# %% tags=["experiment"]
import circuitsvis as cv

sentence = to_tokens(model.tokenizer, ["The king of Hungary lives in the capital, Budapest. Anna and Paul went to the park."]).to(device)  # fmt: skip
sentence_words = [model.tokenizer.decode([token]) for token in sentence[0].tolist()]
_, sentence_cache = model.run_with_cache(sentence)
every_head = torch.cat([sentence_cache["pattern", layer][0] for layer in range(model.cfg.n_layers)])
cv.attention.attention_heads(
    every_head.cpu(),
    sentence_words,
    [f"{i // model.cfg.n_heads}.{i % model.cfg.n_heads}" for i in range(len(every_head))],
)

# %% tags=["experiment"]
plots.plot_patterns(
    {f"0.{head}": sentence_cache["pattern", 0][0, head] for head in range(model.cfg.n_heads)},
    sentence_words,
    "Layer 0 on one sentence: some heads follow places, others words",
)

# %% [markdown]
# Some heads seem to look at *words*, others at *places*. A picture suggests; a decomposition can tell. The score of a query and a key is a dot product of two things read from the stream, so it is a sum over **pairs** of writers.
#
# ### Exercise 9 · `attention_score_parts` (optional, hard)
# *40 minutes, ★★★★, 4 points*
#
# Take a head's attention scores apart by who wrote what the query and what the key reads. The head reads the stream through its block's LayerNorm, `model.blocks[layer].ln1` (`.weight`, `.bias`; scale: `cache["scale", layer, "ln1"]`), then $q = xW_Q + b_Q$ and $k = xW_K + b_K$, and the score is $q \cdot k / \sqrt{d_\text{head}}$.
#
# What is there whatever the stream holds (the biases of LayerNorm, queries and keys) counts as one more writer, after the parts.
#
# **In:** `model`, `cache`, `layer`, `head`, and `parts`: name → (batch, position, d_model). **Out:** shape (batch, query, key, n + 1, n + 1) for n parts; entry [b, q, k, i, j] is what part i at position q and part j at position k add to the score. If the parts sum to the stream before the layer, the sum over i and j is the score (before masking).
#
# **Example:** without LayerNorm and biases, for `d_head` = 1 and W_Q = W_K = 1: parts 2 and 3 at the query, 1 and 5 at the key, make the table `[[2., 10., 0.], [3., 15., 0.], [0., 0., 0.]]`.
#
# **Short of time?** Write `attention_score_parts = borrow("residual_stream.attention_score_parts")` in its place: the next cell needs it.


# %% exercise="residual_stream.attention_score_parts"
def attention_score_parts(
    model, cache, layer: int, head: int, parts: dict[str, Float[Tensor, "batch position d_model"]]
) -> Float[Tensor, "batch query key query_part key_part"]:
    """Attention scores, by who wrote what the query and the key read; the last part is the constant."""
    ### BEGIN SOLUTION
    ln1 = model.blocks[layer].ln1
    stack = torch.stack(list(parts.values()), dim=2)
    centred = stack - stack.mean(dim=-1, keepdim=True)
    read = centred / cache["scale", layer, "ln1"][:, :, None] * ln1.weight

    def project(W, b):
        constant = (ln1.bias @ W + b).expand(*read.shape[:2], 1, -1)
        return torch.cat([read @ W, constant], dim=2)

    queries = project(model.W_Q[layer, head], model.b_Q[layer, head])
    keys = project(model.W_K[layer, head], model.b_K[layer, head])
    scores = einsum(queries, keys, "batch q i d_head, batch k j d_head -> batch q k i j")
    return scores / model.cfg.d_head**0.5
    ### END SOLUTION


# %% check="residual_stream.attention_score_parts"
check("residual_stream.attention_score_parts", attention_score_parts)

# %% [markdown]
# The softmax sees only how scores *vary over the keys* of a query. So measure for each pair of writers how much its contribution varies over the keys that a query may look at.


# %% tags=["experiment"]
def spread_over_keys(scores):
    """Standard deviation over the keys that each query may see, averaged over queries from the sixth on."""
    return torch.stack([scores[:, q, : q + 1].std(dim=1).mean(dim=0) for q in range(5, scores.shape[1])]).mean(dim=0)


first_parts = {name: part for name, part in residual_components(model, sentence_cache).items() if "embed" in name}
writers = ["token", "position", "constant"]
score_grids = {}
for h in range(model.cfg.n_heads):
    score_parts = attention_score_parts(model, sentence_cache, 0, h, first_parts)
    score_grids[f"head 0.{h}"] = spread_over_keys(score_parts)
ratio = [(grid[1, 1] / grid[0, 0]).item() for grid in score_grids.values()]
by_place, by_word = ratio.index(max(ratio)), ratio.index(min(ratio))
plots.plot_grids(
    score_grids,
    writers,
    writers,
    "read by the key",
    "read by the query",
    f"Head 0.{by_place} compares positions with positions; head 0.{by_word} cares more for words",
    "spread over the keys",
)

# %% [markdown]
# No head is pure. The middle cell is what a head would do if it knew no words, the top left one what it would do if it knew no places. (The last column is 0 by construction: what a key reads whatever stands there is the same for all keys.)

# %% [markdown]
# ## 7. Two maps a head
#
# What a head looks for and what it moves is written in its weights. A head that reads $x$ at the attended position writes $x W_V W_O$; it attends where $x_q W_Q W_K^\top x_k^\top$ is large. These are two separate maps from the stream to the stream: the **OV circuit** and the **QK circuit**.
#
# ### Exercise 10 · `ov_circuit`
# *10 minutes, ★★☆☆, 1 point*
#
# **In:** `model`, `layer`, `head`. **Out:** the matrix with which a row vector of the stream is multiplied to give what the head writes when it attends there (without biases), shape (d_model, d_model).
#
# **Example:** with `W_V = [[1.], [2.]]` and `W_O = [[3., 4.]]` (d_model 2, d_head 1) it is `[[3., 4.], [6., 8.]]`.


# %% exercise="residual_stream.ov_circuit"
def ov_circuit(model, layer: int, head: int) -> Float[Tensor, "d_model d_model"]:
    """What a head moves: from what it reads at the attended position to what it writes."""
    ### BEGIN SOLUTION
    read, write = model.W_V[layer, head], model.W_O[layer, head]
    return read @ write
    ### END SOLUTION


# %% check="residual_stream.ov_circuit"
check("residual_stream.ov_circuit", ov_circuit)

# %% [markdown]
# ### Exercise 11 · `qk_circuit`
# *10 minutes, ★★☆☆, 1 point*
#
# **In:** `model`, `layer`, `head`. **Out:** the matrix between query and key: `query_stream @ qk @ key_stream` is the attention score, without biases and **before** the division by $\sqrt{d_\text{head}}$. Shape (d_model, d_model).
#
# **Example:** with `W_Q = [[1.], [2.]]` and `W_K = [[3.], [4.]]` it is `[[3., 4.], [6., 8.]]`.


# %% exercise="residual_stream.qk_circuit"
def qk_circuit(model, layer: int, head: int) -> Float[Tensor, "d_model d_model"]:
    """Where a head looks: from the query's stream (left) and the key's (right) to the score."""
    ### BEGIN SOLUTION
    queries, keys = model.W_Q[layer, head], model.W_K[layer, head]
    return queries @ keys.T
    ### END SOLUTION


# %% check="residual_stream.qk_circuit"
check("residual_stream.qk_circuit", qk_circuit)

# %% [markdown]
# ### Skip-trigrams
#
# `attn-only-2l` was trained on an artificial language that we know: every word has a favourite *next* word, and a favourite word *two places on*, whatever stands between. We load **processed** weights (LayerNorms folded in), so that
# a product of matrices means something.
#
# Which heads of layer 0 look at a fixed distance? $W_\text{pos}\, QK\, W_\text{pos}^\top$ is what the positions alone add to the score. Add the mask and the softmax, and compare with what the heads do on texts of that language.

# %% tags=["experiment"]
import random

from mechlib.recipes.attn_only_2l import FIRST, language, row

skipper = load("attn-only-2l", processed=True)
draws = random.Random(0)
language_tokens = torch.tensor([row(draws, 0.0, skipper.cfg.n_ctx) for _ in range(50)], device=device)
_, language_cache = skipper.run_with_cache(language_tokens)


def from_positions(model, layer, head, scale):
    """The attention pattern that the positions alone would give, at a LayerNorm scale for each position."""
    positions = model.W_pos / scale
    scores = positions @ qk_circuit(model, layer, head) @ positions.T / model.cfg.d_head**0.5
    return scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf).softmax(dim=-1)


scale = language_cache["scale", 0, "ln1"].mean(dim=0)
shown = {}
for h in range(skipper.cfg.n_heads):
    measured, alone = language_cache["pattern", 0][:, h].mean(dim=0), from_positions(skipper, 0, h, scale)
    at = [measured.diagonal(-d)[8:].mean().item() for d in range(4)]
    of = [alone.diagonal(-d)[8:].mean().item() for d in range(4)]
    print(f"head 0.{h}: attention 0, 1, 2, 3 tokens back", " ".join(f"{a:.2f}" for a in at), " from positions alone", " ".join(f"{a:.2f}" for a in of))  # fmt: skip
    shown[h] = at
previous = max(shown, key=lambda h: shown[h][1])  # the head that looks one token back
itself = max(shown, key=lambda h: shown[h][0])  # the head that looks at its own token
measured = language_cache["pattern", 0][:, previous].mean(dim=0)
plots.plot_patterns(
    {
        "measured, mean over 50 texts": measured[:24, :24],
        "from positions alone": from_positions(skipper, 0, previous, scale)[:24, :24],
    },
    [str(i) for i in range(24)],
    f"Head 0.{previous} looks one token back, and the weights of its positions alone say so",
)

# %% [markdown]
# One head looks one token back, whatever stands there, just when the model has to say what comes two places after that token. What will it write? $W_E\, OV\, W_U$ says, for every word that the head may see, what it adds to every word's logit.

# %% tags=["experiment"]
_, next_words, second_words = (
    language()
)  # the three likely next words of each word, and the three likely ones two places on


def hits(model, head, favourites):
    """For which share of words the word that the OV circuit promotes most is the language's favourite."""
    promoted = (model.W_E @ ov_circuit(model, 0, head) @ model.W_U)[FIRST:].argmax(dim=-1).cpu()
    return (promoted == torch.tensor([likely[0] for likely in favourites])).float().mean().item()


full = skipper.W_E @ ov_circuit(skipper, 0, previous) @ skipper.W_U
to_word = skipper.tokenizer.convert_ids_to_tokens
for source in range(FIRST + 20, FIRST + 25):
    top = full[source].topk(3).indices.tolist()
    print(f"{to_word(source):>10} ... → {', '.join(to_word(top)):34} (the language: {', '.join(to_word(second_words[source - FIRST]))})")  # fmt: skip
language_twin = random_twin("attn-only-2l", processed=True)
shuffled = second_words[1:] + second_words[:1]
table = {}
for h in range(skipper.cfg.n_heads):
    table[f"head 0.{h}"] = {"two places on": hits(skipper, h, second_words), "next word": hits(skipper, h, next_words)}
table["never trained"] = {"two places on": hits(language_twin, previous, second_words), "next word": hits(language_twin, previous, next_words)}  # fmt: skip
table["shuffled truth"] = {"two places on": hits(skipper, previous, shuffled), "next word": hits(skipper, itself, next_words[1:] + next_words[:1])}  # fmt: skip
plots.plot_shares(
    table,
    "share of words",
    f"Head 0.{previous} holds the words two places on in its weights, head 0.{itself} the next words",
)

# %% tags=["experiment", "finding"]
print("The head that looks one token back has the language's skip-bigrams in its weights (most words):", table[f"head 0.{previous}"]["two places on"] > 0.5)  # fmt: skip
print("The head that looks at its own token has the bigrams (most words):", table[f"head 0.{itself}"]["next word"] > 0.5)  # fmt: skip
print("Never-trained weights and shuffled truth have neither (under 5%):", max(v for k in ("never trained", "shuffled truth") for v in table[k].values()) < 0.05)  # fmt: skip

# %% [markdown]
# A piece of the training data, read off a matrix without a single forward pass: one head looks one token back (QK) and adds what likes to follow *that* token two places on (OV). Elhage et al. call a rule "A ... B → C" a **skip-trigram**; ours are skip-bigrams: no rule of the language depends on the word between.
#
# **What would have fooled us:** a plausible list. Any row of any matrix has a top three, and with English words one sees sense in it. Here there is a truth to compare with, a twin that was never trained, and a shuffled truth.
#
# ### In your own words · 2
# *2 points, graded by a person*
#
# An attention picture shows a head looking from "called" straight at "Hungary". Somebody concludes: "This head knows capitals." What does the picture show, what not, and which *two* measurements of this chapter would you make before you believe anything?

# %% [markdown] question="residual_stream.words-attention" points=2
# The picture shows where the head reads from (QK). It does not show what it moves (OV), nor whether anybody uses that: a head may write next to nothing, or what no later part reads. So measure what it adds, by its OV circuit or its output's attribution; and whether it matters, by
# ablating it (total effect, against the mean over other prompts, with other heads and another question as controls). Knowing the capital and *carrying the country to where it is looked up* are two things: a head with a large total effect and next to no direct one carries, and the MLPs look up.
#
# *Rubric: 1 point for "where it reads from is neither what it writes nor whether that is used"; 1 point for two measurements that could have come out otherwise.*

# %% [markdown]
# ## 8. Who can talk to whom
#
# Everybody writes into the same 128 dimensions. Whether a component can hear another depends on whether it reads the directions that the other writes. That, too, is in the weights.
#
# ### Exercise 12 · `virtual_weights`
# *15 minutes, ★★☆☆, 2 points*
#
# How strongly does one component read what another wrote? Multiply what it writes with what is read, as if nothing lay between (the **virtual weights**), and say how large the product is for matrices of that size:
#
# $$\frac{\|\,\text{write}\;\text{read}\,\|_F}{\|\text{write}\|_F\;\|\text{read}\|_F}$$
#
# **In:** `write`, shape (..., write, d_model): directions that are written; `read`, shape (..., d_model, read): directions that are read. Leading axes, if any, are pairs, and broadcast. **Out:** the strength for each pair, shape (...).
#
# **Example:** `write = [[3., 4.]]` and `read = [[1.], [0.]]` give 0.6; `read = [[-4.], [3.]]` gives 0.


# %% exercise="residual_stream.virtual_weights"
def virtual_weights(
    write: Float[Tensor, "*pairs write d_model"], read: Float[Tensor, "*pairs d_model read"]
) -> Float[Tensor, "*pairs"]:
    """How strongly one component reads what another wrote."""
    ### BEGIN SOLUTION
    product = (write @ read).norm(dim=(-2, -1))
    return product / (write.norm(dim=(-2, -1)) * read.norm(dim=(-2, -1)))
    ### END SOLUTION


# %% check="residual_stream.virtual_weights"
check("residual_stream.virtual_weights", virtual_weights)

# %% [markdown]
# Matrices that have nothing to do with each other give about $1/\sqrt{d_\text{model}}$, so we count in multiples of that: 1 is chance. **Predict:** which pairs will be far above it?


# %% tags=["experiment"]
def connections(model):
    """Strength in multiples of chance, by kind of pair: kind -> name of pair -> strength."""
    chance = model.cfg.d_model**-0.5
    layers, heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
    found = {kind: {} for kind in ("positions → Q, K of layer 0", "tokens → V of layer 0", "MLP → unembedding", "head → unembedding", "head → later Q, K, V", "head → later MLP", "MLP → later MLP")}  # fmt: skip

    def add(kind, name, write, read):
        found[kind][name] = (virtual_weights(write, read) / chance).item()

    for h in heads:
        add("tokens → V of layer 0", f"V 0.{h}", model.W_E, model.W_V[0, h])
        add("positions → Q, K of layer 0", f"Q 0.{h}", model.W_pos, model.W_Q[0, h])
        add("positions → Q, K of layer 0", f"K 0.{h}", model.W_pos, model.W_K[0, h])
    for layer in layers:
        add("MLP → unembedding", f"MLP {layer}", model.W_out[layer], model.W_U)
        for later in layers[layer + 1 :]:
            add("MLP → later MLP", f"{layer} → {later}", model.W_out[layer], model.W_in[later])
        for h in heads:
            add("head → unembedding", f"{layer}.{h}", model.W_O[layer, h], model.W_U)
            for later in layers[layer:]:
                add("head → later MLP", f"{layer}.{h} → MLP {later}", model.W_O[layer, h], model.W_in[later])
            for later in layers[layer + 1 :]:
                for other in heads:
                    for letter in "QKV":
                        read = getattr(model, f"W_{letter}")[later, other]
                        add(
                            "head → later Q, K, V", f"{layer}.{h} → {letter} {later}.{other}", model.W_O[layer, h], read
                        )
    return found


processed_twin = random_twin("pocket", processed=True)
trained_pairs, random_pairs = connections(processed), connections(processed_twin)
plots.plot_against_random(
    {kind: (trained_pairs[kind], list(random_pairs[kind].values())) for kind in trained_pairs},
    "strength, in multiples of chance",
    "Trained parts are wired to each other; in the random twin every pair is at chance",
    reference=1.0,
    reference_label="chance",
)

# %% tags=["experiment", "finding"]
everything = [value for pairs_of_kind in random_pairs.values() for value in pairs_of_kind.values()]
low, high = min(everything), max(everything)
print(f"the random twin's pairs all lie between {low:.1f} and {high:.1f} times chance")
for kind, values in trained_pairs.items():
    outside = sum(not low <= value <= high for value in values.values())
    print(f"  {kind:28} {outside:3d} of {len(values):3d} trained pairs lie outside of that; median {sorted(values.values())[len(values) // 2]:.1f}")  # fmt: skip

# %% [markdown]
# In the twin every pair lies close to chance. The trained queries and keys of layer 0 are turned towards the positions; later heads hear some parts well above chance and others below it. Most pairs of heads are only a little off 1: in so wide a stream most parts can ignore each other.
#
# **How much room does a head have?** It reads at most `d_head` = 32 of the 128 dimensions, and writes as many. How many does it use? If the singular values $s$ of its OV circuit were $r$ equal ones, $(\sum s^2)^2 / \sum s^4$ would be $r$: an effective number of dimensions.


# %% tags=["experiment"]
def room(model):
    """Effective dimensions of every head's OV circuit, by layer: layer -> head -> dimensions."""
    return {f"layer {layer}": {f"{layer}.{h}": effective_dimensions(ov_circuit(model, layer, h)).item() for h in range(model.cfg.n_heads)} for layer in range(model.cfg.n_layers)}  # fmt: skip


used, random_used = room(processed), room(processed_twin)
plots.plot_against_random(
    {name: (used[name], list(random_used[name].values())) for name in used},
    f"effective dimensions of the OV circuit (d_head = {model.cfg.d_head}, d_model = {model.cfg.d_model})",
    "Trained heads use about half of their 32 dimensions or less, random ones two thirds",
    named=4,
)

# %% tags=["experiment"]
largest = max(value for heads in used.values() for value in heads.values())
smallest_random = min(value for heads in random_used.values() for value in heads.values())
mean_used = sum(sum(heads.values()) for heads in used.values()) / model.cfg.n_layers
print(f"trained heads use {min(min(h.values()) for h in used.values()):.0f} to {largest:.0f} effective dimensions; random ones at least {smallest_random:.0f}")  # fmt: skip
print(f"a layer's heads together: {mean_used:.0f} of {model.cfg.d_model} on average")

# %% [markdown]
# A trained head is a narrow channel: it moves a few directions well instead of 32 a little. So heads can share a stream of 128 dimensions. The next chapter asks: what if there are still more things to say?

# %% [markdown]
# ## Caveats
#
# - **Zero is a strange thing to write.** It removes what a head *always* writes, too, which later parts have learned to count on. How many heads look important only then?

# %% tags=["experiment"]
for threshold in (0.5, 1.0):
    by_zero, by_mean = (total.abs() > threshold), (total_mean.abs() > threshold)
    print(f"heads with a total effect above {threshold}: {int(by_zero.sum())} when set to zero, {int(by_mean.sum())} when set to their mean over countries")  # fmt: skip

# %% [markdown]
# - **The frozen scale.** Attribution (exercise 5) keeps the LayerNorm's scale; the direct effect (exercise 6) lets it move. Nothing makes them agree. For which part do they differ most here?

# %% tags=["experiment"]
fall = {}
for name in parts:
    remaining = model.unembed(model.ln_final(final - parts[name]))
    fall[name] = (logit_difference(logits, answers) - logit_difference(remaining, answers)).mean()
worst = max(parts, key=lambda name: (fall[name] - attribution[name].mean()).abs())
print(f"{worst}: attribution {attribution[worst].mean():.2f}; fall when it is removed and the scale may move {fall[worst]:.2f}")  # fmt: skip

# %% [markdown]
# - **The question decides.** Against another wrong answer, other parts stand out. And logit differences add up; probabilities do not.
# - **Weights are not use.** Virtual weights say who *can* hear whom. Whether it happens depends on what is written on real prompts, and on attention.
#
# ## Going on
#
# 1. **Another question.** Take `mechlib.tasks.agreement` ("The keys near the cabinet" → are) through acts 4 and 5. Which head carries the number, and does it act directly? *A good answer has both effects, the mean ablation, and the capital prompts as a control.*
# 2. **The whole path.** Extend `direct_effect` to "from head A through MLP 3 alone". How much of the carrier's total effect runs through which MLP? *A good answer says why the paths need not add up.*
# 3. **A linear model of the answer.** Freeze all attention patterns and LayerNorm scales. How much of the logit difference is then linear in the embeddings? *A good answer names what breaks linearity, and by how much.*
#
# **The same on `gpt2`**, with a network: `model = load("gpt2")` at the top, and texts such as "The Eiffel Tower is in the city of", all of one length. Everything but act 7's language works.
#
# **Papers**
# - [Elhage et al. 2021](https://transformer-circuits.pub/2021/framework/index.html): the source of acts 2, 7 and 8.
# - [nostalgebraist 2020](https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens), the logit lens: reading the stream before it is finished, as in chapter 03.
# - [McGrath et al. 2023](https://arxiv.org/abs/2307.15771), the Hydra effect: direct and total effects in large models, and later layers that repair what an ablation broke.
# - [Geva et al. 2023](https://arxiv.org/abs/2304.14767): how larger models look up facts, for comparison with act 5.

# %% tags=["experiment"]
progress()
