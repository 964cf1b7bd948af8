# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 · Activation patching
#
# [▶ Open this chapter in Colab]({{colab}})
#
# **Which activation causes the answer, and how do I measure it?**
#
# ![Where the landmark's city is, layer by layer](picture.png)
#
# A lens shows what *could* be read from an activation. To know what the model *does* read, change it: take two
# prompts that differ in one fact, copy one vector from one run into the other, and see whether the answer follows. The hard part is choosing: which
# corruption, which direction, which site, which metric. Each choice can fool you, and in this chapter each one will.
#
# **When you are done** you can trace a fact through a model, say what is sufficient and what is necessary, defend your metric, and
# estimate all patches from one backward pass, knowing when the estimate lies.
#
# **You need** PyTorch, and hooks as in chapter 00. **Time:** three hours for you, about a minute for your computer. No GPU, no network.

# %% tags=["setup"]
try:
    import mechlib
except ImportError:  # in Colab, or in a bare folder: install it once; the torch that is already there stays
    # %pip install --quiet "mechlib @ git+{{repository}}"
    import mechlib

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mechlib import metrics, plots, tasks
from mechlib.attribution import attribution_patching
from mechlib.check import borrow, check, hint, progress, reveal
from mechlib.handmade import handmade
from mechlib.models import load
from mechlib.patching import causal_trace, resample_ablation, sweep, zero_ablation

torch.manual_seed(0)  # the one seed of this notebook
torch.set_grad_enabled(False)  # gradients are switched on where they are needed
torch.set_num_threads(1)  # this model is so small that more threads only get into each other's way
model = load("pocket")
device = next(model.parameters()).device


def batch(prompts):
    """Clean tokens, corrupted tokens, answers [batch 2] and the position where each prompt's answer is read."""
    clean, corrupted = (
        tasks.to_tokens(model.tokenizer, [getattr(p, k) for p in prompts]).to(device) for k in ("text", "corrupted")
    )
    return (
        clean,
        corrupted,
        tasks.answer_tokens(model.tokenizer, prompts).to(device),
        tasks.positions(prompts).to(device),
    )


def end(tokens, at):
    """The logits where each prompt's answer is read: [batch vocabulary]."""
    return model(tokens)[torch.arange(len(tokens)), at]


# %% [markdown]
# **How to work.** Replace every `raise NotImplementedError` by your own lines, run the cell, and run the check under it. `hint("patching.logit_diff")` helps a little and, called again, a little
# more; `borrow(...)` hands over the solution (no points); `progress()` shows how far you are. Models and caches that you are given must be left as they were.

# %% [markdown]
# ## 1. A question with two names
#
# The model has learned invented landmarks. Each is two words, and the same two words the other way round are *another* landmark in *another* city:
# neither word alone gives it away. The corrupted twin exchanges the two words. No training text uses this wording.

# %% tags=["experiment"]
landmarks = [
    p
    for p in tasks.facts(model.tokenizer, 100, split="held-out wordings", relation="landmark_city")
    if p.labels["invented"] and p.text.startswith("To see")
    if p.labels["subject"].split() == sorted(p.labels["subject"].split())
]  # each pair of words once: the other order is the twin
clean, corrupted, answers, at = batch(landmarks)
print(f"{len(landmarks)} held-out prompts, such as")
for p in landmarks[:3]:
    print(f"  {p.text!r} ->{p.answer}     twin {p.corrupted!r} ->{p.distractor}")

# %% [markdown]
# ### Exercise 1 · `logit_diff`
# *5 minutes, ★☆☆☆, 1 point*
#
# How strongly does the model prefer the answer to the distractor? Return the answer's logit less the distractor's, for each prompt.
#
# **In:** `logits` where the answer is read, shape (batch, vocabulary); `answers`, shape (batch, 2): the ids of the answer and of the distractor. **Out:** shape (batch,).
#
# **Example:** `logits = [[1., 5., 2.]]`, `answers = [[1, 2]]` gives `[3.]`.


# %% exercise="patching.logit_diff"
def logit_diff(logits: Float[Tensor, "batch vocabulary"], answers: Int[Tensor, "batch 2"]) -> Float[Tensor, "batch"]:
    """The answer's logit less the distractor's."""
    ### BEGIN SOLUTION
    chosen = logits.gather(1, answers)
    return chosen[:, 0] - chosen[:, 1]
    ### END SOLUTION


# %% check="patching.logit_diff"
check("patching.logit_diff", logit_diff)

# %% [markdown]
# ### Exercise 2 · `log_prob`
# *5 minutes, ★☆☆☆, 1 point*
#
# Another candidate: the log-probability (in nats) of the answer among all words.
#
# **In:** as before (column 0 of `answers` is the answer). **Out:** shape (batch,).
#
# **Example:** `logits = [[0., 0.]]`, `answers = [[1, 0]]` gives `[-0.6931]`.


# %% exercise="patching.log_prob"
def log_prob(logits: Float[Tensor, "batch vocabulary"], answers: Int[Tensor, "batch 2"]) -> Float[Tensor, "batch"]:
    """The answer's log-probability, in nats."""
    ### BEGIN SOLUTION
    return logits.log_softmax(dim=-1).gather(1, answers[:, :1])[:, 0]
    ### END SOLUTION


# %% check="patching.log_prob"
check("patching.log_prob", log_prob)

# %% tags=["experiment", "finding"]
clean_diff, corrupted_diff = (logit_diff(end(tokens, at), answers).mean() for tokens in (clean, corrupted))
print(f"mean logit difference: clean {clean_diff:.1f}, corrupted {corrupted_diff:.1f}")

# %% [markdown]
# The corruption turns the preference round. *Which activation* carries the difference?

# %% [markdown]
# ## 2. One vector at a time
#
# ### Exercise 3 · `patch_residual`
# *20 minutes, ★★☆☆, 2 points*
#
# Run `tokens`, but with the residual stream *before* a layer, at one position, taken from another run.
#
# **In:** the model; `tokens`, shape (batch, position); `source`, the other run's cache (`source["blocks.2.hook_resid_pre"]` is the stream before layer 2); `layer`; `position`. **Out:** all logits, shape (batch, position, vocabulary).
#
# **Example:** with the cache of the same tokens, the logits are those of `model(tokens)`.


# %% exercise="patching.patch_residual"
def patch_residual(
    model, tokens: Int[Tensor, "batch position"], source, layer: int, position: int
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits with the residual stream before `layer` at `position` taken from another run."""
    ### BEGIN SOLUTION
    name = f"blocks.{layer}.hook_resid_pre"

    def put(stream, hook):
        stream = stream.clone()
        stream[:, position] = source[name][:, position]
        return stream

    return model.run_with_hooks(tokens, fwd_hooks=[(name, put)])
    ### END SOLUTION


# %% check="patching.patch_residual"
check("patching.patch_residual", patch_residual)

# %% [markdown]
# **Denoising** runs the corrupted prompt and puts *clean* activations in: is this vector *sufficient* to bring the answer back? **Noising** runs the clean prompt and puts *corrupted*
# activations in: is the vector *necessary*? Different questions, so give them different signs.
#
# ### Exercise 4 · `normalised_effect`
# *10 minutes, ★★☆☆, 2 points*
#
# Express a metric's change in units of the whole way from corrupted to clean. Denoising: 0 as corrupted, 1 fully restored. Noising: 0 as clean, **-1** fully destroyed. NaN where clean and corrupted are equal.
#
# **In:** `patched`, `clean`, `corrupted` (they broadcast), `direction` ("denoising" or "noising"). **Out:** a tensor.
#
# **Example:** patched 1, clean 3, corrupted -1: denoising 0.5, noising -0.5.


# %% exercise="patching.normalised_effect"
def normalised_effect(patched: Tensor, clean: Tensor, corrupted: Tensor, direction: str = "denoising") -> Tensor:
    """The change from the run that was patched, over clean - corrupted."""
    ### BEGIN SOLUTION
    start = corrupted if direction == "denoising" else clean
    gap = clean - corrupted
    return (patched - start) / torch.where(gap == 0, torch.nan, gap)
    ### END SOLUTION


# %% check="patching.normalised_effect"
check("patching.normalised_effect", normalised_effect)

# %% [markdown]
# ### Exercise 5 · `residual_sweep`
# *20 minutes, ★★★☆, 3 points*
#
# Now everywhere: patch the residual stream before every layer at every position, one at a time, and return the mean logit difference at the **last** position for each.
#
# **In:** the model, `clean` and `corrupted` tokens, `answers`, `direction`. **Out:** shape (layer, position).
#
# **Example:** for twins that differ at position 2 only, everything left of column 2 equals the unpatched value.


# %% exercise="patching.residual_sweep"
def residual_sweep(
    model,
    clean: Int[Tensor, "batch position"],
    corrupted: Int[Tensor, "batch position"],
    answers: Int[Tensor, "batch 2"],
    direction: str = "denoising",
) -> Float[Tensor, "layer position"]:
    """The mean logit difference at the last position, for a patch at each layer and position."""
    ### BEGIN SOLUTION
    base, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    _, cache = model.run_with_cache(source)
    values = torch.zeros(model.cfg.n_layers, base.shape[1], device=base.device)
    for layer in range(model.cfg.n_layers):
        for position in range(base.shape[1]):
            logits = patch_residual(model, base, cache, layer, position)
            values[layer, position] = logit_diff(logits[:, -1], answers).mean()
    return values
    ### END SOLUTION


# %% check="patching.residual_sweep"
check("patching.residual_sweep", residual_sweep)

# %% [markdown]
# **Predict**: the prompt is `<bos> To see Alder Sable, go to the city of`. In layer 0, which columns can do anything? In the last layer?

# %% tags=["experiment"]
words = ["<bos>", "To", "see", "1st word", "2nd word", ",", "go", "to", "the", "city", "of"]
stream = {
    direction: normalised_effect(
        residual_sweep(model, clean, corrupted, answers, direction), clean_diff, corrupted_diff, direction
    )
    for direction in ("denoising", "noising")
}
plots.plot_sweeps(
    stream,
    words,
    "The two words of the name carry the city together; before the last layer most of it is at the end",
    "patched position",
)

# %% tags=["experiment", "finding"]
top = stream["denoising"].argmax(dim=1).tolist()
print("most sufficient position before each layer:", [words[i] for i in top])
print("columns left of the name do nothing:", bool((stream["denoising"][:, :3].abs() < 1e-4).all()))
print("the largest effect of a single vector is under 0.8:", bool(stream["denoising"].max() < 0.8))

# %% [markdown]
# At layer 0 both words matter, as they must; higher up the information moves to the end. The columns left of
# the name are the control. What would have fooled us: no single cell reaches 1. Two vectors carry the fact *together*, and a patch of one sees a part.
#
# ### What does a sweep cost?
#
# Your loop takes one forward pass for each cell. But nothing before the patched layer changes, nothing left of the patched position, and where both runs agree there is nothing to
# do. `mechlib.patching.sweep` uses that (docs/fast-patching.md). PyTorch counts the arithmetic:

# %% tags=["experiment"]
metric = partial(logit_diff, answers=answers)
with FlopCounterMode(display=False) as one:
    model(clean)
with FlopCounterMode(display=False) as naive:
    mine = residual_sweep(model, clean, corrupted, answers)
with FlopCounterMode(display=False) as fast:
    theirs = sweep(model, clean, corrupted, metric).mean(dim=-1)
passes = {
    name: counted.get_total_flops() / one.get_total_flops() for name, counted in (("naive", naive), ("sweep", fast))
}
print(
    f"your loop: {passes['naive']:.0f} forward passes; the library's sweep: as much arithmetic as {passes['sweep']:.1f}"
)

# %% tags=["experiment", "finding"]
print("the two agree within 1e-5 of the range:", bool((mine - theirs).abs().max() < 1e-5 * (mine.max() - mine.min())))
print("the sweep does less than a quarter of the work:", passes["sweep"] < passes["naive"] / 4)

# %% [markdown]
# ## 3. Which heads? And which direction?
#
# Take indirect objects: *"When Mary and John went to the store, John gave a drink to"* -> Mary. The twin says *Mary gave a drink to*. The model saw these names only alone.
#
# ### Exercise 6 · `patch_head`
# *15 minutes, ★★☆☆, 2 points*
#
# Run `tokens` with one head's output taken from another run, at all positions. A head's output, before W_O mixes the heads, is called z: `blocks.{layer}.attn.hook_z`, shape (batch, position, head, d_head).
#
# **In:** the model, `tokens`, `source` (the other run's cache), `layer`, `head`. **Out:** all logits. (A trap that has caught many: inside this hook, `hook.name` is the model's own `blocks.0.attn.o.hook_in`. Look things up by your own name.)
#
# **Example:** on the gate below, putting the clean head 0.0 into `0 1 =` restores its bit.


# %% exercise="patching.patch_head"
def patch_head(
    model, tokens: Int[Tensor, "batch position"], source, layer: int, head: int
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits with one head's output (z) taken from another run."""
    ### BEGIN SOLUTION
    name = f"blocks.{layer}.attn.hook_z"

    def put(z, hook):
        z = z.clone()
        z[:, :, head] = source[name][:, :, head]
        return z

    return model.run_with_hooks(tokens, fwd_hooks=[(name, put)])
    ### END SOLUTION


# %% check="patching.patch_head"
check("patching.patch_head", patch_head)

# %% [markdown]
# First two machines written by hand: an AND gate and an OR gate. Prompt `x y =`; head 0.0 carries x, head 0.1 carries y, head 0.2
# is idle, and an MLP computes the answer. Clean is `1 1`, corrupted `0 0`.
#
# **Predict** for each gate: which direction finds the two heads?

# %% tags=["experiment"]
gates = {}
for kind in ("AND", "OR"):
    gate = handmade(f"{kind.lower()}_gate", device="cpu")
    one_one, zero_zero = gate.to_tokens("1 1 ="), gate.to_tokens("0 0 =")
    yes_no = torch.tensor([[gate.to_single_token("yes"), gate.to_single_token("no")]])
    caches = {"denoising": gate.run_with_cache(one_one)[1], "noising": gate.run_with_cache(zero_zero)[1]}
    runs = {"denoising": zero_zero, "noising": one_one}
    whole = [logit_diff(gate(tokens)[:, -1], yes_no) for tokens in (one_one, zero_zero)]
    gates[f"{kind} gate"] = {
        direction: [
            normalised_effect(
                logit_diff(patch_head(gate, runs[direction], caches[direction], 0, head)[:, -1], yes_no),
                *whole,
                direction,
            ).item()
            for head in (0, 1, 2)
        ]
        for direction in runs
    }
plots.plot_bars(
    gates,
    ["head 0.0", "head 0.1", "idle 0.2"],
    "Noising finds the parts of an AND and misses those of an OR; denoising the other way round",
    "effect (1 restored, -1 destroyed)",
    "%.0f",
)

# %% tags=["experiment", "finding"]
for name, directions in gates.items():
    print(name, {direction: [round(v) + 0 for v in values] for direction, values in directions.items()})

# %% [markdown]
# In the AND gate each input is necessary and none is sufficient: denoising finds **nothing**. In the OR gate it is the other way round. With one direction you would have reported
# an idle layer, with a picture to prove it. Now the trained model.

# %% tags=["experiment"]
ioi = tasks.ioi(model.tokenizer, 120, split="held-out names")
i_clean, i_corrupted, i_answers, i_at = batch(ioi)
i_metric = partial(logit_diff, answers=i_answers)
i_values = {"clean": i_metric(end(i_clean, i_at)), "corrupted": i_metric(end(i_corrupted, i_at))}
heads = {}
for direction in ("denoising", "noising"):
    values = sweep(model, i_clean, i_corrupted, i_metric, "head", by_position=False, direction=direction, at=i_at)
    heads[direction] = normalised_effect(
        values.mean(dim=-1), i_values["clean"].mean(), i_values["corrupted"].mean(), direction
    )
plots.plot_sweeps(
    heads,
    [f"head {h}" for h in range(model.cfg.n_heads)],
    "Indirect objects: two heads of layer 0 carry most of the effect, in both directions",
)

# %% tags=["experiment", "finding"]
ranked = {d: heads[d].abs().flatten().argsort(descending=True)[:2].tolist() for d in heads}
print(
    "the two heads with the largest effects:",
    {d: [f"{i // model.cfg.n_heads}.{i % model.cfg.n_heads}" for i in found] for d, found in ranked.items()},
)
both = torch.corrcoef(torch.stack([heads["denoising"].flatten(), -heads["noising"].flatten()]))[0, 1]
print(f"denoising against minus noising: correlation {both:.2f}")

# %% [markdown]
# Here the two directions agree: nothing looks like an AND or an OR. You know that only because you ran both. (In layer 0 only S2 differs, so these heads read S2: hardly
# the name movers of GPT-2. Chapter 05 is about that.)
#
# ### In your own words · 1
# *2 points, graded by a person*
#
# A paper reports: "denoising any single head restores less than 2% of the logit difference, so no head matters for this task". What else could be true, and which two experiments would tell?

# %% [markdown] question="patching.words-directions" points=2
# The heads could work like an AND: each is necessary, none is sufficient. (Or many heads share the work.) Noising the same heads, one at a time, would
# find an AND; denoising several at once (pairs, or the whole layer) would restore the answer if they are sufficient together.
#
# *Rubric: 1 point for naming that denoising tests sufficiency and misses jointly sufficient parts; 1 point for noising and for patching several heads together.*

# %% [markdown]
# ## 4. Corrupting without a twin: causal tracing
#
# Without a twin of equal length, Meng et al. make the subject unreadable: noise on its embeddings, three standard deviations strong. Then they restore one clean state at a time.
#
# ### Exercise 7 · `corrupt_by_noise`
# *15 minutes, ★★☆☆, 2 points*
#
# Return a copy of the embeddings with independent Gaussian noise of standard deviation `scale` added at the given positions, in every prompt.
#
# **In:** `embeddings`, shape (batch, position, d_model); `positions`, a list; `scale`; a `torch.Generator` or None. **Out:** the same shape; the input stays as it is.
#
# **Example:** with `scale=0.` the result equals the input.


# %% exercise="patching.corrupt_by_noise"
def corrupt_by_noise(
    embeddings: Float[Tensor, "batch position d_model"],
    positions: list[int],
    scale: float,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch position d_model"]:
    """The embeddings with Gaussian noise at some positions."""
    ### BEGIN SOLUTION
    batch_size, _, d_model = embeddings.shape
    noised = embeddings.clone()
    noised[:, positions] += scale * torch.randn(batch_size, len(positions), d_model, generator=generator)
    return noised
    ### END SOLUTION


# %% check="patching.corrupt_by_noise"
check("patching.corrupt_by_noise", corrupt_by_noise)

# %% [markdown]
# ### Exercise 8 · `trace_effects`
# *10 minutes, ★★☆☆, 2 points*
#
# From a metric on three kinds of runs: the **total effect** (clean less corrupted), each state's **indirect effect** (restored less corrupted), both means over the prompts, and the **fraction restored**: indirect over total.
#
# **In:** `clean` and `corrupted`, shape (batch,); `restored`, shape (layer, position, batch). **Out:** a tuple: a scalar tensor, and two tensors (layer, position).
#
# **Example:** clean `[4., 6.]`, corrupted `[0., 2.]`, restored `[[[1., 3.]]]`: total 4, indirect 1, fraction 0.25.


# %% exercise="patching.trace_effects"
def trace_effects(
    clean: Float[Tensor, "batch"], corrupted: Float[Tensor, "batch"], restored: Float[Tensor, "layer position batch"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "layer position"], Float[Tensor, "layer position"]]:
    """Total effect, indirect effects, fraction restored."""
    ### BEGIN SOLUTION
    total = (clean - corrupted).mean()
    indirect = (restored - corrupted).mean(dim=-1)
    return total, indirect, indirect / total
    ### END SOLUTION


# %% check="patching.trace_effects"
check("patching.trace_effects", trace_effects)

# %% tags=["experiment"]
embeddings = model.W_E[clean]
scale, name = 3 * model.W_E.std().item(), [3, 4]
noisy = corrupt_by_noise(embeddings, name, scale, torch.Generator().manual_seed(0))
longer = (noisy - embeddings)[:, name].norm(dim=-1) / embeddings[:, name].norm(dim=-1)
print(f"the noise is {longer.mean():.1f} times as long as an embedding")
traces, totals = {}, {}
for title, metric, site, window in (
    ("stream after a layer, by log-probability", log_prob, "resid_post", 1),
    ("stream after a layer, by logit difference", logit_diff, "resid_post", 1),
    ("MLP outputs of two layers, by logit difference", logit_diff, "mlp_out", 2),
):
    generator = torch.Generator().manual_seed(0)
    trace = causal_trace(model, clean, name, partial(metric, answers=answers), scale, site, window, generator=generator)
    totals[metric], _, traces[title] = trace_effects(trace.clean, trace.corrupted, trace.restored)
plots.plot_sweeps(
    traces,
    words,
    "Causal tracing: by log-probability the end seems to know the city after layer 0, by logit difference only after layer 2",
    "restored position",
    "fraction restored",
)

# %% [markdown]
# Two metrics, two stories. Does the end know the city after layer 0? A control: restore there the **twin's** state, which belongs to *another* city.


# %% tags=["experiment"]
def end_from(tokens):
    """Noise on the landmark, and the end's state after layer 0 from a clean run on `tokens`."""
    _, there = model.run_with_cache(tokens)

    def restore(state, hook):
        state = state.clone()
        state[:, -1] = there[hook.name][:, -1]
        return state

    hooks = [("hook_embed", lambda embeddings, hook: noisy), ("blocks.0.hook_resid_post", restore)]
    return model.run_with_hooks(clean, fwd_hooks=hooks)[:, -1]


noised = model.run_with_hooks(clean, fwd_hooks=[("hook_embed", lambda embeddings, hook: noisy)])[:, -1]
fraction = {
    metric.__name__: {
        who: ((metric(end_from(tokens), answers) - metric(noised, answers)).mean() / total).item()
        for who, tokens in (("own", clean), ("twin's", corrupted))
    }
    for metric, total in totals.items()
}
generator = torch.Generator().manual_seed(0)
control = causal_trace(model, clean, [1, 2], partial(log_prob, answers=answers), scale, generator=generator)
print(f"noise on the landmark costs {totals[log_prob]:.1f} nats, on 'To see' {control.effects[0]:.1f}")

# %% tags=["experiment", "finding"]
print("noise on the landmark does more harm than on 'To see':", bool(totals[log_prob] > control.effects[0]))
for metric, by_state in fraction.items():
    print(f"{metric:10s}", {f"{who} state restores": round(value, 2) for who, value in by_state.items()})

# %% [markdown]
# By log-probability even the twin's state restores about half; by logit difference it takes away. So *both* cities have gained on all other words, and the end hardly knows *which* it is.
# Noise also harms whatever word it falls on. Prefer twins where you can have them, and look at both answers.

# %% [markdown]
# ## 5. Removing instead of replacing
#
# What if a head said *nothing about this prompt*? The model may never have seen a zero. The mean over other prompts is what the head usually says.
#
# ### Exercise 9 · `mean_ablation`
# *15 minutes, ★★☆☆, 2 points*
#
# Run `tokens` with one head's output (z) set, at each position, to its mean over the reference prompts.
#
# **In:** the model, `tokens`, `reference` (other prompts of equal length), `layer`, `head`. **Out:** all logits.
#
# **Example:** with a single prompt as `tokens` and as `reference`, nothing changes.


# %% exercise="patching.mean_ablation"
def mean_ablation(
    model, tokens: Int[Tensor, "batch position"], reference: Int[Tensor, "prompt position"], layer: int, head: int
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits with a head's output set to its mean over the reference prompts."""
    ### BEGIN SOLUTION
    name = f"blocks.{layer}.attn.hook_z"
    usual = model.run_with_cache(reference)[1][name].mean(dim=0)

    def put(z, hook):
        z = z.clone()
        z[:, :, head] = usual[:, head]
        return z

    return model.run_with_hooks(tokens, fwd_hooks=[(name, put)])
    ### END SOLUTION


# %% check="patching.mean_ablation"
check("patching.mean_ablation", mean_ablation)


# %% tags=["experiment"]
def z_norms(tokens):
    _, cache = model.run_with_cache(tokens)
    return torch.stack(
        [cache[f"blocks.{layer}.attn.hook_z"][:, -1].norm(dim=-1) for layer in range(model.cfg.n_layers)]
    )


lost = {"zero": [], "mean": [], "resample": []}
for cell in range(model.cfg.n_layers * model.cfg.n_heads):
    layer, head = divmod(cell, model.cfg.n_heads)
    for kind, ablated in {
        "zero": zero_ablation(model, clean, layer, head),
        "mean": mean_ablation(model, clean, clean, layer, head),
        "resample": resample_ablation(model, clean, clean, layer, head, torch.Generator().manual_seed(0)),
    }.items():
        lost[kind].append((logit_diff(ablated[:, -1], answers).mean() - clean_diff).item())
lost = {kind: torch.tensor(values).view(model.cfg.n_layers, -1) for kind, values in lost.items()}
layer, head = divmod((lost["zero"] - lost["mean"]).abs().argmax().item(), model.cfg.n_heads)
plots.plot_sweeps(
    lost,
    [f"head {h}" for h in range(model.cfg.n_heads)],
    f"What stands in for a head matters: {layer}.{head} changes the logit difference by {lost['zero'][layer, head]:.1f} "
    f"as zero, by {lost['mean'][layer, head].round(decimals=1) + 0:.1f} as its mean",
    label="change of the logit difference",
)

# %% tags=["experiment"]
print("smallest norm of any head's output on these prompts:", f"{z_norms(clean).amin():.2f} (zero would be 0)")

# %% [markdown]
# On these prompts no head says zero. Zero ablation also removes what a head says *always*, and charges it to the head's account.
#
# ### Where does the pronoun's gender come from?
#
# *"The nurse said that"* -> she, *"The doctor said that"* -> he, more often than not in this model's corpus. Where is the gender, and by which look does it travel?
#
# ### Exercise 10 · `attention_knockout`
# *20 minutes, ★★★☆, 2 points*
#
# Run `tokens` while no head of the given layers may look along the given edges. An edge is (query position, key position). The attention of the other keys must still add up to one.
#
# **In:** the model, `tokens`, `edges` (a list of pairs), `layers` (a list). **Out:** all logits. The scores before the softmax, at `blocks.{layer}.attn.hook_attn_scores`, have shape (batch, head, query, key).
#
# **Example:** no edges, no change.


# %% exercise="patching.attention_knockout"
def attention_knockout(
    model, tokens: Int[Tensor, "batch position"], edges: list, layers: list[int]
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits when these layers' heads may not look along these edges."""

    ### BEGIN SOLUTION
    def cut(scores, hook):
        scores = scores.clone()
        for query, key in edges:
            scores[:, :, query, key] = -torch.inf
        return scores

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_attn_scores", cut) for layer in layers])
    ### END SOLUTION


# %% check="patching.attention_knockout"
check("patching.attention_knockout", attention_knockout)

# %% tags=["experiment"]
said = tasks.pronouns(model.tokenizer, 40, split="held-out wordings")
she = {p.labels["profession"]: p.labels["p_she"] for p in said}
print(f"in the corpus 'she' follows a nurse in {she['nurse']:.0%} of cases, a doctor in {she['doctor']:.0%}")
wordings = {
    wording.format(profession="nurse"): batch([p for p in said if p.labels["wording"] == wording])
    for wording in sorted({p.labels["wording"] for p in said})
}
p_clean, p_corrupted, p_answers, p_at = wordings["The nurse told the friend that"]
p_metric = partial(logit_diff, answers=p_answers)
p_diffs = [p_metric(end(tokens, p_at)).mean() for tokens in (p_clean, p_corrupted)]
print(f"{len(p_clean)} professions: logit difference {p_diffs[0]:.2f} for the usual pronoun, twin {p_diffs[1]:.2f}")
gender = {
    name: normalised_effect(sweep(model, p_clean, p_corrupted, p_metric, site).mean(dim=-1), *p_diffs)
    for name, site in (("residual stream", "resid_pre"), ("attention outputs", "attn_out"), ("MLP outputs", "mlp_out"))
}
plots.plot_sweeps(
    gender,
    ["<bos>", "The", "profession", "told", "the", "friend", "that"],
    "The pronoun's gender stays at the profession until late attention carries it to the end",
    "patched position",
)

# %% tags=["experiment"]
half = model.cfg.n_layers // 2
cuts = {
    "nothing": [],
    "first half": [*range(half)],
    "second half": [*range(half, 2 * half)],
    "all layers": [*range(2 * half)],
}
edges = {"end to profession": 2, 'end to "The"': 1, "end to verb (control)": 3}
knocked = {
    wording: {
        edge: [
            logit_diff(attention_knockout(model, tokens, [(tokens.shape[1] - 1, key)], layers)[:, -1], wanted)
            .mean()
            .item()
            for layers in cuts.values()
        ]
        for edge, key in edges.items()
    }
    for wording, (tokens, _, wanted, _) in wordings.items()
}
plots.plot_bars(
    knocked,
    [f"cut in\n{name}" for name in cuts],
    'The answer needs the end\'s late look at the profession, and an early look at "The"',
    "logit difference",
    "%.1f",
)

# %% tags=["experiment", "finding"]
for wording, values in knocked.items():
    for edge, kept in values.items():
        gone = [name for name, value in zip(cuts, kept) if value < kept[0] / 2]
        print(f"{wording:32s}{edge:24s} more than half of the preference gone if cut in:", gone)

# %% [markdown]
# The gender sits at the profession through most of the network, where the first MLP makes it out of the word, and travels to the end late.
#
# But why *"The"*? It stands *before* the profession, so its vector is the same in prompt and twin and carries no gender. Is it that the other keys now get its attention? A control: set the weight to zero *after* the softmax, so that nobody gets more.


# %% tags=["experiment", "finding"]
def zero_weight(tokens, key, layers):
    """The knockout without the renormalisation."""

    def cut(pattern, hook):
        pattern = pattern.clone()
        pattern[:, :, -1, key] = 0
        return pattern

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_pattern", cut) for layer in layers])


for wording, (tokens, _, wanted, _) in wordings.items():
    zeroed = logit_diff(zero_weight(tokens, 1, cuts["first half"])[:, -1], wanted).mean().item()
    kept = knocked[wording]['end to "The"']
    print(
        f'{wording:32s}"The" cut early, more than half is gone: knocked out {kept[1] < kept[0] / 2}, zeroed {zeroed < kept[0] / 2}'
    )

# %% [markdown]
# No: the early layers miss what *"The"* itself gives. A knockout says that a look is *needed*, not that the answer travels along it. That takes a twin: when patched, nothing at *"The"* had an effect.

# %% [markdown]
# ## 6. Which metric?
#
# Four things are asked of a metric. We *measure* them, on indirect objects.
#
# - **continuous, linear:** add evidence for the answer, and against the distractor, in equal steps. Does the metric move smoothly, and in a straight line?
# - **independent of the names' prior:** exchange the two names in every prompt, so that each is the answer once. Then make one name likelier everywhere and the other one less likely. Does the average stay?
# - **fooled:** break the model, so that it knows *nothing* about the prompt (every prompt gets the mean stream). Does that look like recovery?
#
# **Predict.** `quoted` is the table as it is often taught (a single logit: perhaps fooled). Change what you would bet against.

# %% tags=["experiment"]
quoted = {
    "logit difference": {"continuous": True, "linear": True, "prior_independent": True, "fooled": False},
    "logit": {"continuous": True, "linear": True, "prior_independent": True},
    "log-probability": {"continuous": True, "linear": False, "prior_independent": False, "fooled": True},
    "probability": {"continuous": True, "linear": False, "prior_independent": False, "fooled": True},
    "top answer?": {"continuous": False, "linear": False, "prior_independent": False, "fooled": True},
    "answer > distractor?": {"continuous": False, "linear": False, "prior_independent": False, "fooled": True},
}

# %% tags=["experiment"]
rows = torch.arange(len(i_clean))
last_stream = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"


def broken_by(replace):
    """The logits when the last stream at the end is replaced, so that nothing in it depends on the prompt."""

    def forget(known, hook):
        known = known.clone()
        known[rows, i_at] = replace(known[rows, i_at])
        return known

    return model.run_with_hooks(i_clean, fwd_hooks=[(last_stream, forget)])[rows, i_at]


io, s = i_answers.T
exchanged = i_clean.clone()
exchanged[i_clean == io[:, None]] = s[:, None].expand_as(i_clean)[i_clean == io[:, None]]
exchanged[i_clean == s[:, None]] = io[:, None].expand_as(i_clean)[i_clean == s[:, None]]
push = (model.W_U[:, io] - model.W_U[:, s]).T @ model.W_U
push = push / logit_diff(push, i_answers)[:, None]  # one step changes the logit difference by one
_, new_name, new_answers, new_at = batch(tasks.ioi(model.tokenizer, 120, split="held-out names", corruption="random"))
logits = {
    "clean": end(i_clean, i_at),
    "exchanged": end(exchanged, i_at),
    "twin": end(i_corrupted, i_at),
    "new name": end(new_name, new_at),
    "mean": broken_by(lambda stream: stream.mean(dim=0)),
    "zero": broken_by(torch.zeros_like),
}
prior = torch.zeros_like(logits["clean"])
prior[rows, io], prior[rows, s] = 2.0, -2.0
undecided = logits["clean"] - logit_diff(logits["clean"], i_answers)[:, None] * push
doses = torch.linspace(-6, 6, 121)

candidates = {"logit difference": logit_diff, "logit": metrics.logit, "log-probability": log_prob, "probability": metrics.prob,
              "top answer?": metrics.accuracy, "answer > distractor?": metrics.preference}  # fmt: skip


def measure(metric, corrupted="twin", broken="mean", prompt=0):
    turned = i_answers.flip(1)
    one = slice(prompt, prompt + 1)
    return {
        "curve": metric(undecided[one] + doses[:, None] * push[one], i_answers[one].expand(len(doses), -1)),
        "even": torch.stack([metric(logits["clean"], i_answers), metric(logits["exchanged"], turned)], dim=1),
        "tilted": torch.stack(
            [metric(logits["clean"] + prior, i_answers), metric(logits["exchanged"] + prior, turned)], dim=1
        ),
        "clean": metric(logits["clean"], i_answers),
        "corrupted": metric(logits[corrupted], {"twin": i_answers, "new name": new_answers}[corrupted]),
        "broken": metric(logits[broken], i_answers),
    }


measured = {name: measure(metric) for name, metric in candidates.items()}
plots.plot_responses(
    doses,
    {name: m["curve"] for name, m in measured.items()},
    "evidence for the answer (steps of one logit)",
    "Logits follow the evidence in a straight line; log-probability and probability bend; yes-or-no metrics jump",
)

# %% [markdown]
# ### Exercise 11 · `metric_table` (optional)
# *25 minutes, ★★★☆, 3 points*
#
# Decide the table. `measured[metric]` holds tensors: `curve` (doses), `even` and `tilted` (pairs, 2), and `clean`, `corrupted`, `broken` (prompts). With *range* = largest less smallest value of the curve, a metric is
# - `continuous` if no step of the curve is larger than a tenth of the range;
# - `linear` if the curve stays within 1% of the range from the straight line between its two ends;
# - `prior_independent` if the mean of everything in `tilted` differs from the mean of everything in `even` by at most 1% of the range;
# - `fooled` if (broken - corrupted) / (clean - corrupted), with means over the prompts, is more than 0.1.
#
# **Out:** `{metric: {"continuous": bool, "linear": bool, "prior_independent": bool, "fooled": bool}}`, plain bools, in this order.
#
# **Example:** a curve `[0., 0., 1., 1.]` is neither continuous nor linear.


# %% exercise="patching.metric_table"
def metric_table(measured: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, bool]]:
    """For each metric: is it continuous, linear, independent of the prior, fooled by a broken model?"""
    ### BEGIN SOLUTION
    table = {}
    for name, m in measured.items():
        curve = m["curve"]
        span = curve.max() - curve.min()
        line = curve[0] + (curve[-1] - curve[0]) * torch.linspace(0, 1, len(curve))
        clean, corrupted, broken = (m[key].mean() for key in ("clean", "corrupted", "broken"))
        table[name] = {
            "continuous": bool(curve.diff().abs().max() <= span / 10),
            "linear": bool((curve - line).abs().max() <= span / 100),
            "prior_independent": bool((m["tilted"].mean() - m["even"].mean()).abs() <= span / 100),
            "fooled": bool((broken - corrupted) / (clean - corrupted) > 0.1),
        }
    return table
    ### END SOLUTION


# %% check="patching.metric_table"
check("patching.metric_table", metric_table)


# %% tags=["experiment"]
def table_for(**changes):
    return metric_table({name: measure(metric, **changes) for name, metric in candidates.items()})


tables = {corrupted: table_for(corrupted=corrupted) for corrupted in ("twin", "new name")}


def by_corruption(tables):
    """One column "fooled" for each corruption; the other columns do not depend on it."""
    twin = tables["twin"]
    return {
        name: {
            **{k: v for k, v in twin[name].items() if k != "fooled"},
            **{
                f"fooled, {corrupted}": row[name]["fooled"]
                for corrupted, row in tables.items()
                if "fooled" in row[name]
            },
        }
        for name in twin
    }


table, expected = by_corruption(tables), by_corruption({"twin": quoted, "new name": quoted})
good = {"continuous": True, "linear": True, "prior_independent": True, "fooled, twin": False, "fooled, new name": False}
plots.plot_metric_table(
    table,
    good,
    "Measured: with a twin a broken model fools the logit difference too; with a new name it fools no metric (blue: as one would wish)",
    expected,
)

# %% tags=["experiment", "finding"]
for name, row in table.items():
    print(f"{name:22s}", {k: "yes" if v else "no" for k, v in row.items()})
differ = [f"{name}: {k}" for name, row in table.items() for k, v in row.items() if expected[name].get(k, v) != v]
print(f"{len(differ)} cells differ from the table as quoted")

# %% [markdown]
# Do the answers hang on our choices? Ask again with every prompt's curve, and with another way to break the model (a stream of zeros): how much does it seem to restore?

# %% tags=["experiment", "finding"]
columns = ("continuous", "linear")
same = sum(
    all(other[name][k] == table[name][k] for name in table for k in columns)
    for other in (table_for(prompt=prompt) for prompt in range(len(i_clean)))
)
print(f"the first two columns come out the same with the curve of {same} of {len(i_clean)} prompts")
for name, metric in candidates.items():
    restored = {}
    for corrupted in ("twin", "new name"):
        for broken in ("mean", "zero"):
            m = {k: v.mean() for k, v in measure(metric, corrupted, broken).items()}
            effect = normalised_effect(m["broken"], m["clean"], m["corrupted"]).item()
            restored[f"{corrupted}, {broken}"] = round(effect, 2) + 0  # no "-0.0"
    print(f"{name:22s}", restored)

# %% [markdown]
# "Can it be fooled?" is a property of the metric *and the corruption*. The twin's run is confidently wrong, so whatever destroys confidence brings the logit difference back to zero: half of the way. Where the corruption only removes the information (a new name), a broken model restores nothing:
# "the logit difference is safe" assumes that kind. For a single name's logit or log-probability it depends on *how* the model is broken.
#
# ### In your own words · 2
# *2 points, graded by a person*
#
# With a twin, a patch has a normalised effect of 0.5 in the logit difference. Name two very different things that may have happened, and a measurement that tells them apart.

# %% [markdown] question="patching.words-half" points=2
# The site may carry half of the information about the right answer; or the patch may have destroyed what made the model confident of the wrong one. Look at each name's probability by itself, or at the rank of the
# answer among all words: in the first case the answer gains, in the second only the distractor loses. A corruption that removes the information (a third name) also tells: mere destruction then has an effect of 0.
#
# *Rubric: 1 point for the two cases, 1 point for a measurement that would come out differently.*

# %% [markdown]
# ## 7. All patches from one backward pass
#
# Each patch costs a run, unless you trust the slope: effect ≈ gradient · (clean - corrupted).
#
# ### Exercise 12 · `head_attribution` (optional, hard)
# *30 minutes, ★★★★, 3 points*
#
# Estimate every head's denoising effect (its z, at all positions) on the mean logit difference at the last position, from two forward passes and one backward pass. The model's parameters are frozen, so let the graph begin at the embeddings.
#
# **In:** the model, `clean`, `corrupted`, `answers`. **Out:** the estimated *change* of the mean logit difference, shape (layer, head), without a graph.
#
# **Example:** on the hand-written chain, heads 0.1 and 1.0 get 8 each, which is exact: the chain is linear.


# %% exercise="patching.head_attribution"
def head_attribution(
    model,
    clean: Int[Tensor, "batch position"],
    corrupted: Int[Tensor, "batch position"],
    answers: Int[Tensor, "batch 2"],
) -> Float[Tensor, "layer head"]:
    """Gradient on the corrupted run times the change of each head's output."""
    ### BEGIN SOLUTION
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers)]
    _, there = model.run_with_cache(clean)
    held = []

    def hold(z, hook):
        held.append(z)
        return z

    begin = ("hook_embed", lambda embeddings, hook: embeddings.detach().requires_grad_())
    with torch.enable_grad():
        logits = model.run_with_hooks(corrupted, fwd_hooks=[begin, *((name, hold) for name in names)])
        slopes = torch.autograd.grad(logit_diff(logits[:, -1], answers).mean(), held)
    steps = [there[name] - z.detach() for name, z in zip(names, held)]
    return torch.stack([(slope * step).sum(dim=(0, 1, 3)) for slope, step in zip(slopes, steps)])
    ### END SOLUTION


# %% check="patching.head_attribution"
check("patching.head_attribution", head_attribution)

# %% [markdown]
# Against the truth, over all three kinds of held-out prompts (by the library's version, since their ends differ):

# %% tags=["experiment"]
splits = ("held-out names", "held-out pairs", "held-out wordings")
a_clean, a_corrupted, a_answers, a_at = batch(
    [p for split in splits for p in tasks.ioi(model.tokenizer, 120, split=split)]
)
a_metric = partial(logit_diff, answers=a_answers)
start = a_metric(end(a_corrupted, a_at))
true = (sweep(model, a_clean, a_corrupted, a_metric, "head", by_position=False, at=a_at) - start).flatten(0, 1)
estimate = attribution_patching(model, a_clean, a_corrupted, a_metric, "head", by_position=False, at=a_at).flatten(0, 1)
strongest = true.mean(dim=-1).abs().argsort(descending=True)


def correlation(prompts, heads=strongest):
    """Pearson's, over heads, of the means over prompts; for each row of prompts, if there are several."""
    means = (values[heads][:, prompts].mean(dim=-1) for values in (true, estimate))
    x, y = (values - values.mean(dim=0) for values in means)
    return (x * y).sum(dim=0) / (x.norm(dim=0) * y.norm(dim=0))


everybody = torch.arange(len(a_clean))
draws = torch.randint(len(everybody), (1000, len(everybody)), generator=torch.Generator().manual_seed(0))
chosen = {"all heads": strongest, "without the two strongest": strongest[2:]}
interval = {name: correlation(draws, heads).quantile(torch.tensor([0.025, 0.975])) for name, heads in chosen.items()}
r, x, y = correlation(everybody), true.mean(dim=-1), estimate.mean(dim=-1)
plots.plot_against(
    x,
    y,
    "true effect (patching)",
    "estimate (attribution)",
    f"The estimate ranks the heads (r = {r:.3f}) but shrinks the large effects",
    {int(i): f"{int(i) // model.cfg.n_heads}.{int(i) % model.cfg.n_heads}" for i in strongest[:3]},
)

# %% tags=["experiment"]
print(f"correlation over heads, with a 95% interval over {len(a_clean)} held-out prompts")
for name, heads in chosen.items():
    print(f"  {name:26s}{correlation(everybody, heads):.4f}  [{interval[name][0]:.4f}, {interval[name][1]:.4f}]")
for split, prompts in zip(splits, everybody.chunk(3)):
    print(f"  {split:26s}{correlation(prompts):.4f}")
print(f"the strongest head: true {x[strongest[0]]:.2f}, estimated {y[strongest[0]]:.2f}")

# %% tags=["experiment", "finding"]
print(
    "correlations above 0.95, also at the intervals' lower ends:", all(bool(low > 0.95) for low, _ in interval.values())
)
for name, expected in (("and_gate", "AND"), ("or_gate", "OR")):
    gate = handmade(name, device="cpu")
    one_one, zero_zero = gate.to_tokens("1 1 ="), gate.to_tokens("0 0 =")
    yes_no = torch.tensor([[gate.to_single_token("yes"), gate.to_single_token("no")]])
    guess = attribution_patching(
        gate, one_one, zero_zero, partial(logit_diff, answers=yes_no), "head", by_position=False
    )
    before = logit_diff(gate(zero_zero)[:, -1], yes_no)
    truth = sweep(gate, one_one, zero_zero, partial(logit_diff, answers=yes_no), "head", by_position=False) - before
    truth, guess = round(truth[0, 0].item()), round(guess[0, 0].item()) + 0  # no "-0"
    print(f"{expected} gate, denoising head 0.0: true {truth}, estimated {guess}")

# %% [markdown]
# The slope is local. In the OR gate it promises twice what a patch can give, because after one input the output saturates. Attribution patching is a search, not a measurement: what it finds must be patched, and what it does not find may still be there.

# %% [markdown]
# ## Caveats
#
# - **One at a time**: facts carried by two vectors (act 2) or by an AND (act 3) look weaker than they are, or invisible.
# - **Corruptions differ**: a twin reverses, a new name removes, noise damages. So do ablation values.
# - **A metric can be fooled** (acts 4 and 6): look at both answers before you believe an effect around one half.
# - **Position by position** works only for twins whose tokens line up.
# - **One model is an anecdote.** With `pocket-seed-1`, the same recipe from another seed, the `finding` cells repeated except for: other heads (0.2 and 1.0), the look at the profession early, not late, *"The"* needed in one wording only, no recovery in a single logit, and some numbers.
#
# ## Going on
#
# 1. **Two at a time.** Patch both words of the landmark together. Is the effect 1, and more than the sum of the two? *A good answer states what the sum would mean, and shows a control pair.*
# 2. **Keys, queries or values?** Use `sweep(..., site="q")`, "k", "v" and "pattern" on the strongest heads of act 3. *A good answer says whether the head looks elsewhere or finds something else.*
# 3. **Where attribution breaks.** Find a head, a prompt and a metric for which the estimate has the wrong sign in `pocket`. *A good answer walks the straight line between the two activations and plots the metric.*
#
# On `gpt2`: `load("gpt2")` and `tasks.ioi(model.tokenizer)` run acts 3 and 7; expect heads 9.9, 9.6, 10.0 and the negative 10.7.
#
# **Papers**
# - Meng et al. 2022, [ROME](https://arxiv.org/abs/2202.05262): the causal tracing figure; read section 2.
# - Zhang & Nanda 2024, [Best practices of activation patching](https://arxiv.org/abs/2309.16042): read it beside your metric table.
# - Heimersheim & Nanda 2024, [How to use and interpret activation patching](https://arxiv.org/abs/2404.15255): read it for AND, OR and the directions.
# - Vig et al. 2020, [Causal mediation analysis](https://arxiv.org/abs/2004.12265): where the total, direct and indirect effects come from, on gender bias.
# - Nanda 2023, [Attribution patching](https://www.neelnanda.io/mechanistic-interpretability/attribution-patching): read it for when the estimate fails.

# %% tags=["experiment"]
progress()
