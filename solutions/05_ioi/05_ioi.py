# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 05 · One behaviour, one circuit
#
# [▶ Open this chapter in Colab]({{colab}})
#
# **Can I find a whole circuit, and prove it?**
#
# ![Two circuits for one task, still without names](picture.png)
#
# "When Mary and John went to the store, John gave a drink to" ... Mary. Wang et al. [2023](https://arxiv.org/abs/2211.00593) took this sentence and came back with 26 heads of GPT-2 small, and how much of it they explain.
# You do it twice: on `ioi-known`, whose circuit was put there, so that you can be *marked*; and on `pocket`, which was free to find its own way. Then you lay the published circuit beside both.
#
# **When you are done** you can trace an answer from the logits back to the heads that began it, test a circuit for faithfulness, completeness and minimality, and say which choices flatter its number.
#
# **You need** hooks and direct logit attribution (chapter 00), and patching (chapter 04). **Time:** four hours for you, about a minute for your computer, without GPU or network.

# %% tags=["setup"]
try:
    import mechlib
except ImportError:  # in Colab, or in a bare folder: install it once; the torch that is already there stays
    # %pip install --quiet "mechlib @ git+{{repository}}"
    import mechlib

from collections import Counter
from functools import partial
from types import SimpleNamespace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlib import circuits, ioi, metrics, paths, plots
from mechlib.check import borrow, check, hint, progress, reveal
from mechlib.circuits import where
from mechlib.models import load, truth

torch.manual_seed(0)  # the one seed of this notebook
torch.set_grad_enabled(False)
torch.set_num_threads(1)  # these models are so small that more threads only get into each other's way
MODEL = "pocket"  # the model of part B; try "gpt2" where a download is possible


def study(name):
    """A model with prompts that training never showed (see mechlib.ioi.Batch), and three runs: clean, twin and abc."""
    model = load(name, device="cpu")
    data = ioi.batch(model)
    (logits, cache), (twin_logits, twin_cache), (_, abc_cache) = map(
        model.run_with_cache, (data.tokens, data.twin, data.abc)
    )
    runs = {
        "logits": logits,
        "twin_logits": twin_logits,
        "cache": cache,
        "twin_cache": twin_cache,
        "abc_cache": abc_cache,
    }
    return SimpleNamespace(name=name, model=model, **runs, **vars(data))


def heads_of(model):
    return [(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]


def in_order(node):
    """By layer, then by head; an MLP comes last."""
    return node[0], str(node[1]).rjust(3)


def names_of(nodes):
    return ", ".join(f"{layer}.{head}" for layer, head, *_ in sorted(nodes, key=in_order)) or "none"


def on_pocket(title):
    """A figure's title says what was found on pocket; another model has not earned it."""
    return title if MODEL == "pocket" else ""


# %% [markdown]
# **How to work.** As before: replace every `raise NotImplementedError` by your own lines, run the cell, then the check under it. `hint("ioi.mean_logit_diff")` helps, `borrow(...)` hands over the
# solution (no points), `progress()` shows how far you are. Leave models and caches as you found them.

# %% [markdown]
# # Part A: a circuit that somebody put there
#
# ## 1. The behaviour, as a number
#
# A circuit is a circuit *of something*: prompts, an answer, and a metric. Each prompt has a *twin*, and an `abc` version. **IO** is who receives, **S1** and **S2** are the two mentions of who gives, **END** is the last token.

# %% tags=["experiment"]
known = study("ioi-known")
for what, tokens in (
    ("clean", known.tokens),
    ("twin: the other one gives", known.twin),
    ("abc: three people, nobody twice", known.abc),
):
    print(f"{what:32s}", known.model.tokenizer.decode([t for t in tokens[0].tolist() if t]))

# %% [markdown]
# ### Exercise 1 · `mean_logit_diff`
# *5 minutes, ★☆☆☆, 1 point*
#
# How well does the model know who receives? The mean over the prompts of logit(IO) - logit(S), each read at that prompt's own END.
#
# **In:** `logits`, shape (batch, position, vocabulary); `answers`, shape (batch, 2): the ids of IO and S; `end`, shape (batch,): each prompt's last token (shorter prompts are padded behind it). **Out:** a tensor without axes.
#
# **Example:** with `logits = [[[0., 0., 0.], [1., 5., 2.], [9., 9., 9.]]]`, `answers = [[1, 2]]` and `end = [1]` the result is 3.


# %% exercise="ioi.mean_logit_diff"
def mean_logit_diff(
    logits: Float[Tensor, "batch position vocabulary"], answers: Int[Tensor, "batch 2"], end: Int[Tensor, "batch"]
) -> Float[Tensor, ""]:
    """The mean of logit(IO) - logit(S), each at its prompt's END."""
    ### BEGIN SOLUTION
    chosen = logits[torch.arange(len(logits)), end].gather(1, answers)
    return (chosen[:, 0] - chosen[:, 1]).mean()
    ### END SOLUTION


# %% check="ioi.mean_logit_diff"
check("ioi.mean_logit_diff", mean_logit_diff)


# %% tags=["experiment", "finding"]
def difference(s, logits):
    return mean_logit_diff(logits, s.answers, s.at["end"])


def says(s, logits, token):
    """How often the likeliest of all words is this one."""
    return (logits[torch.arange(len(logits)), s.at["end"]].argmax(dim=-1) == token).float().mean()


for what, tokens in (("clean", known.tokens), ("twin", known.twin), ("abc", known.abc)):
    logits = known.model(tokens)
    print(
        f"{what:5s}  logit difference {difference(known, logits):5.1f}   says IO in {says(known, logits, known.answers[:, 0]):.2f} of the prompts"
    )

# %% [markdown]
# The twin turns the answer round: whatever carries the decision must differ between the two runs. `abc` repeats nobody and names neither: it is what "no news" looks like, for act 4.
#
# ## 2. Who writes the answer?
#
# **Predict:** a head that *moves the name*: where does it look from END, and what does it write?
#
# ### Exercise 2 · `name_mover_score`
# *25 minutes, ★★★☆, 3 points*
#
# For every head and prompt two numbers: its attention from END to IO, and what its output at END adds straight to logit(IO) - logit(S). Treat the final LayerNorm as the linear map that it was in this run: subtract the mean over d_model, divide by `cache["ln_final.hook_scale"]` (batch, position, 1), multiply by `model.ln_final.weight`. Biases belong to no head.
#
# **In:** the model; `cache` (`cache["pattern", layer]` is (batch, head, query, key), `cache["z", layer]` is (batch, position, head, d_head)); `answers` (IO, S); `io` and `end`, positions of shape (batch,). **Out:** two tensors of shape (layer, head, batch): attention, written.
#
# **Example:** a head that pays IO half of its attention and writes something that raises IO's logit by 2 and S's by 0.5 has 0.5 and 1.5.


# %% exercise="ioi.name_mover_score"
def name_mover_score(
    model, cache, answers: Int[Tensor, "batch 2"], io: Int[Tensor, "batch"], end: Int[Tensor, "batch"]
) -> tuple[Float[Tensor, "layer head batch"], Float[Tensor, "layer head batch"]]:
    """Attention from END to IO, and what is written at END along IO less S."""
    ### BEGIN SOLUTION
    rows = torch.arange(len(end))
    reader = (model.W_U[:, answers[:, 0]] - model.W_U[:, answers[:, 1]]).T * model.ln_final.weight
    reader = (reader - reader.mean(dim=-1, keepdim=True)) / cache["ln_final.hook_scale"][rows, end]
    attention, written = [], []
    for layer in range(model.cfg.n_layers):
        attention.append(cache["pattern", layer][rows, :, end, io].T)
        said = torch.einsum("bhd,hdm->bhm", cache["z", layer][rows, end], model.W_O[layer])
        written.append(torch.einsum("bhm,bm->hb", said, reader))
    return torch.stack(attention), torch.stack(written)
    ### END SOLUTION


# %% check="ioi.name_mover_score"
check("ioi.name_mover_score", name_mover_score)


# %% tags=["experiment"]
def movers(s):
    return [x.mean(-1) for x in name_mover_score(s.model, s.cache, s.answers, s.at["io"], s.at["end"])]


plots.plot_movers(
    {known.name: movers(known)},
    "attention from END to IO",
    "written along IO - S (logits)",
    "Some heads look at IO and write it; others look there and write nothing",
)

# %% [markdown]
# Attention alone would have fooled us, and what is written is only bookkeeping. So intervene, on one path: let the logits, and no other head, hear what a head says on the twin.
#
# ### Exercise 3 · `path_patch`
# *35 minutes, ★★★★, 4 points*
#
# The run is that of `cache`. The `senders`' outputs (z, at all positions) come from `source_cache` instead. The change travels along the residual stream to the logits; every other head keeps what it said. MLPs after a sender (also that of its own layer) keep what they said too, if `mlps` is `"frozen"`; if it is `"recomputed"`, each answers to the stream that it sees now.
#
# **In:** the model; `cache`, `source_cache`; `senders`, a list of (layer, head); `mlps`. You may need `cache["resid_pre", layer]`, `cache["attn_out", layer]`, `cache["mlp_out", layer]`, `cache["resid_post", layer]`, `model.blocks[layer].ln2`, `.mlp`, and at the end `model.ln_final`, `model.unembed`. **Out:** all logits, (batch, position, vocabulary).
#
# **Example:** with `source_cache = cache` the logits are those of the model.


# %% exercise="ioi.path_patch"
def path_patch(
    model, cache, source_cache, senders: list[tuple[int, int]], mlps: str
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits if they, and of the heads nobody else, hear the senders as in another run."""
    ### BEGIN SOLUTION
    change = torch.zeros_like(cache["resid_pre", 0])
    for layer, block in enumerate(model.blocks):
        for _, head in [sender for sender in senders if sender[0] == layer]:
            z = source_cache["z", layer][:, :, head] - cache["z", layer][:, :, head]
            change = change + z @ model.W_O[layer, head]
        if mlps == "recomputed":
            seen = cache["resid_pre", layer] + cache["attn_out", layer] + change
            change = change + block.mlp(block.ln2(seen)) - cache["mlp_out", layer]
    last = model.cfg.n_layers - 1
    return model.unembed(model.ln_final(cache["resid_post", last] + change))
    ### END SOLUTION


# %% check="ioi.path_patch"
check("ioi.path_patch", path_patch)


# %% tags=["experiment"]
def effect(s, logits):
    """Noising: 0 as clean, -1 as on the twin."""
    clean, twin = difference(s, s.logits), difference(s, s.twin_logits)
    return (difference(s, logits) - clean) / (clean - twin)


def to_logits(s, mlps):
    effects = [effect(s, path_patch(s.model, s.cache, s.twin_cache, [head], mlps)) for head in heads_of(s.model)]
    return torch.stack(effects).view(s.model.cfg.n_layers, s.model.cfg.n_heads)


def rows_and_columns(model):
    return [str(i) for i in range(model.cfg.n_layers)], [str(i) for i in range(model.cfg.n_heads)]


straight = to_logits(known, "frozen")
plots.plot_grids(
    {"head -> logits": straight}, *rows_and_columns(known.model), "head", "layer",
    "A few heads tell the logits who receives, and share it; the others tell them nothing", "effect (-1: as on the twin)",
)  # fmt: skip

# %% [markdown]
# Which effects count? Heads that share a job have fractions of it (1/2, 1/3, ...); what is left over is far smaller. On a scale of ratios the middle of a gap is the *geometric* one. We fix the threshold in the widest gap, before anybody has seen the truth, and never touch it again.


# %% tags=["experiment", "finding"]
def widest_gap(effects):
    """The geometric middle of the widest gap between sizes; sizes under 0.005 count as 0.005."""
    sizes = effects.abs().flatten().clamp(min=0.005).sort().values
    at = (sizes[1:] / sizes[:-1]).argmax()
    return (sizes[at] * sizes[at + 1]).sqrt().item()


def found(effects, threshold):
    return sorted(map(tuple, (effects.abs() > threshold).nonzero().tolist()))


threshold = widest_gap(straight)
name_movers = found(straight, threshold)
print(f"threshold {threshold:.2f}; heads that write the answer: {names_of(name_movers)}")
sizes = straight.abs()
least, most = sizes[sizes > threshold].min(), sizes[sizes < threshold].max()
print(f"each of them has more than twenty times the effect of any other: {bool(least > 20 * most)}")

# %% [markdown]
# ## 3. Who tells them where to look?
#
# The name movers look at IO and not at S, so somebody tells them. What they look for from END is in their *queries*. Who was at END before them, with news?
#
# ### Exercise 4 · `second_mention_score`
# *10 minutes, ★★☆☆, 1 point*
#
# S1 and S2 are the same name. A head that looks for the name looks at both; a head that carries what was found out *at* S2 looks at S2 alone. Return for every head its attention from END to S2 less that to S1, the mean over the prompts.
#
# **In:** `cache`; `n_layers`; `at`, positions by role: `at["end"]`, `at["s1"]`, `at["s2"]`, each of shape (batch,). **Out:** shape (layer, head).
#
# **Example:** a head that pays S2 0.7 and S1 0.2 of its attention, in every prompt, has 0.5.


# %% exercise="ioi.second_mention_score"
def second_mention_score(cache, n_layers: int, at: dict[str, Int[Tensor, "batch"]]) -> Float[Tensor, "layer head"]:
    """Attention from END to S2 less that to S1."""
    ### BEGIN SOLUTION
    rows = torch.arange(len(at["end"]))
    scores = []
    for layer in range(n_layers):
        from_end = cache["pattern", layer][rows, :, at["end"]]
        scores.append((from_end[rows, :, at["s2"]] - from_end[rows, :, at["s1"]]).mean(dim=0))
    return torch.stack(scores)
    ### END SOLUTION


# %% check="ioi.second_mention_score"
check("ioi.second_mention_score", second_mention_score)

# %% [markdown]
# ### Exercise 5 · `path_patch_to_receivers`
# *35 minutes, ★★★★, 4 points*
#
# The same as before, but the change reaches only the receivers' inputs: compute their queries, keys or values from the changed stream, in which no receiver has answered yet; put these into the run, and let everything after them respond.
#
# **In:** the model, `tokens` (those of `cache`), `cache`, `source_cache`, `senders`, `receivers`: a list of (layer, head, "q" | "k" | "v"), and `mlps`. The inputs are `blocks.{layer}.attn.hook_q` (or k, v), (batch, position, head, d_head); weights `model.W_Q[layer, head]`, `model.b_Q[layer, head]`; the LayerNorm in front is `model.blocks[layer].ln1`. A receiver that is not in a later layer than a sender does not hear it. **Out:** all logits.
#
# **Example:** with `source_cache = cache`, or with a sender above all receivers, the logits are those of the model.


# %% exercise="ioi.path_patch_to_receivers"
def path_patch_to_receivers(
    model, tokens, cache, source_cache, senders: list[tuple[int, int]], receivers: list[tuple[int, int, str]], mlps: str
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits if the receivers' queries, keys or values hear the senders as in another run."""
    ### BEGIN SOLUTION
    change, streams = torch.zeros_like(cache["resid_pre", 0]), []
    for layer, block in enumerate(model.blocks):
        streams.append(cache["resid_pre", layer] + change)
        for _, head in [sender for sender in senders if sender[0] == layer]:
            z = source_cache["z", layer][:, :, head] - cache["z", layer][:, :, head]
            change = change + z @ model.W_O[layer, head]
        if mlps == "recomputed":
            seen = cache["resid_pre", layer] + cache["attn_out", layer] + change
            change = change + block.mlp(block.ln2(seen)) - cache["mlp_out", layer]

    def put(value, hook, head, mine):
        value = value.clone()
        value[:, :, head] = mine
        return value

    hooks = []
    for layer, head, part in receivers:
        W, b = (getattr(model, f"{kind}_{part.upper()}")[layer, head] for kind in "Wb")
        mine = model.blocks[layer].ln1(streams[layer]) @ W + b
        hooks.append((f"blocks.{layer}.attn.hook_{part}", partial(put, head=head, mine=mine)))
    return model.run_with_hooks(tokens, fwd_hooks=hooks)
    ### END SOLUTION


# %% check="ioi.path_patch_to_receivers"
check("ioi.path_patch_to_receivers", path_patch_to_receivers)


# %% tags=["experiment"]
def to_receivers(s, receivers, mlps="frozen"):
    """Every head's effect by way of these inputs alone."""
    effects = torch.zeros(s.model.cfg.n_layers, s.model.cfg.n_heads)
    for layer, head in heads_of(s.model):
        if any(layer < later for later, _, _ in receivers):
            effects[layer, head] = effect(
                s, path_patch_to_receivers(s.model, s.tokens, s.cache, s.twin_cache, [(layer, head)], receivers, mlps)
            )
    return effects


def inputs(heads, part):
    return [(layer, head, part) for layer, head in heads]


queries, values_of_movers = (to_receivers(known, inputs(name_movers, part)) for part in "qv")
inhibitors = found(queries, threshold)
plots.plot_grids(
    {"-> queries of the movers": queries, "-> values of the movers": values_of_movers,
     "attention END: S2 less S1": second_mention_score(known.cache, known.model.cfg.n_layers, known.at)},
    *rows_and_columns(known.model), "head", "layer", f"Heads {names_of(inhibitors)} steer the name movers' queries, and look at S2 and not at S1", "effect (left, middle), attention (right)",
)  # fmt: skip

# %% [markdown]
# By way of the values nothing changes: that is the control. These heads fetch something from S2. **Predict:** through which input do *they* learn it, and from heads at which position?

# %% tags=["experiment"]
values_of_inhibitors, keys_of_inhibitors = (to_receivers(known, inputs(inhibitors, part)) for part in "vk")
duplicates = found(values_of_inhibitors, threshold)
plots.plot_grids(
    {"-> values of the S2 readers": values_of_inhibitors, "-> keys of the S2 readers": keys_of_inhibitors},
    *rows_and_columns(known.model), "head", "layer", f"Heads {names_of(duplicates)} write what the S2 readers fetch", "effect (-1: as on the twin)",
)  # fmt: skip


# %% tags=["experiment", "finding"]
def attention(s, query, key):
    """Every head's mean attention from one role to another, [layer head]."""
    rows = torch.arange(len(s.tokens))
    return torch.stack(
        [s.cache["pattern", layer][rows, :, s.at[query], s.at[key]].mean(0) for layer in range(s.model.cfg.n_layers)]
    )


print("read S2 for the movers:", names_of(inhibitors), "| write at S2 for those:", names_of(duplicates))
to_s1 = attention(known, "s2", "s1")
print("their attention from S2 to S1:", [round(to_s1[head].item(), 1) for head in duplicates])

# %% [markdown]
# Heads at S2 see that the name stood there before; heads at END fetch that; name movers turn away from S. Wang et al. call them duplicate token, S-inhibition and name mover heads.
#
# ### Exercise 6 · `precision_recall`
# *5 minutes, ★☆☆☆, 1 point*
#
# Time to be marked. Of what you found, which share is true? Of what is true, which share did you find?
#
# **In:** `found` and `true`, lists of (layer, head); something may stand in a list twice and counts once. **Out:** (precision, recall), two floats; precision 0 if nothing was found.
#
# **Example:** found `[(0, 1), (2, 2)]`, true `[(0, 1), (0, 3), (1, 0)]`: `(0.5, 0.3333)`.


# %% exercise="ioi.precision_recall"
def precision_recall(found: list, true: list) -> tuple[float, float]:
    """(share of what was found that is true, share of what is true that was found)"""
    ### BEGIN SOLUTION
    hits = len(set(found) & set(true))
    return hits / len(set(found)) if found else 0.0, hits / len(set(true))
    ### END SOLUTION


# %% check="ioi.precision_recall"
check("ioi.precision_recall", precision_recall)


# %% tags=["experiment", "finding"]
def find_circuit(s, threshold, mlps="frozen"):
    """The three steps of acts 2 and 3, with the threshold that is already fixed."""
    movers = found(to_logits(s, mlps), threshold)
    readers = found(to_receivers(s, inputs(movers, "q"), mlps), threshold) if movers else []
    writers = found(to_receivers(s, inputs(readers, "v"), mlps), threshold) if readers else []
    return [(*h, "end") for h in movers] + [(*h, "end") for h in readers] + [(*h, "s2") for h in writers]


other = study("ioi-known-seed-1")
mine = {s.name: find_circuit(s, threshold) for s in (known, other)}
for name, nodes in mine.items():
    secret = truth(name)
    scores = precision_recall(nodes, [(node.layer, node.head, node.at) for node in secret.nodes])
    print(f"{name:17s} found {names_of(nodes):38s} precision {scores[0]:.2f}, recall {scores[1]:.2f}")
    print(
        "   the truth:", {variable: names_of(n.place for n in secret.group(variable)) for variable in secret.variables}
    )

# %% [markdown]
# The second model was scored once, with the first one's threshold. It has another circuit, with *three* name movers. The ordinary middle of the gap, half of the strongest head, would have lost one:

# %% tags=["experiment"]
middle = (straight.abs().max() / 2).item()
scores = precision_recall(find_circuit(other, middle), [(n.layer, n.head, n.at) for n in truth(other.name).nodes])
print(
    f"with a threshold of {middle:.2f}, half of the strongest head: precision {scores[0]:.2f}, recall {scores[1]:.2f}"
)

# %% [markdown]
# ## 4. Is that all of it?
#
# You found six heads by looking for them. A test that could refute you: keep *only* these. All others are *silent*: they say what they say on average when there is no news, on `abc` prompts (the **reference distribution**), at the same word of the same sentence.
#
# ### Exercise 7 · `role_means`
# *15 minutes, ★★☆☆, 2 points*
#
# Every position gets the mean of the activation over all positions, of all prompts, that have the same role.
#
# **In:** `activation`, (batch, position, ...), of a head or an MLP; `roles`, a list for each prompt with a name for each position. `where(roles, role)` is the mask (batch, position) of a role. **Out:** a tensor of the same shape.
#
# **Example:** `[[1., 2.], [5., 6.]]` with roles `[["a", "b"], ["b", "b"]]` gives `[[1., 4.3333], [4.3333, 4.3333]]`.


# %% exercise="ioi.role_means"
def role_means(
    activation: Float[Tensor, "batch position ..."], roles: list[list[str]]
) -> Float[Tensor, "batch position ..."]:
    """Every position gets the mean over all positions with its role."""
    ### BEGIN SOLUTION
    means = torch.empty_like(activation)
    for role in {role for row in roles for role in row}:
        here = where(roles, role)
        means[here] = activation[here].mean(dim=0)
    return means
    ### END SOLUTION


# %% check="ioi.role_means"
check("ioi.role_means", role_means)

# %% [markdown]
# ### Exercise 8 · `knock_out`
# *35 minutes, ★★★★, 4 points*
#
# Run the model with a circuit alone. A node is (layer, head, role), or (layer, "mlp", role): a component at the positions of a role. Nodes in `keep` work: they compute from whatever stream they now see. All others say what `values` has for them. `keep=None` keeps everything. Nodes in `drop` are knocked out in any case.
#
# **In:** the model, `tokens`; `values`, by hook name: `"blocks.0.attn.hook_z"` (batch, position, head, d_head) and `"blocks.0.hook_mlp_out"` (batch, position, d_model), for every layer; `keep` (a list, or None), `drop` (a list), `roles` (as in exercise 7). **Out:** all logits. (A trap: inside a hook, `hook.name` may be another name than yours, here `blocks.0.attn.o.hook_in`. Take your own name along.)
#
# **Example:** with `keep=None` and `drop=[]` the logits are those of the model.


# %% exercise="ioi.knock_out"
def knock_out(model, tokens, values: dict, keep, drop, roles) -> Float[Tensor, "batch position vocabulary"]:
    """The logits if what is not kept, or is dropped, says what `values` has for it."""

    ### BEGIN SOLUTION
    def put(activation, hook, silent, value):
        return torch.where(silent[..., None], value, activation)

    hooks = []
    for name, value in values.items():
        silent = torch.full(value.shape[:-1], keep is not None)
        for nodes, off in ((keep or [], False), (drop, True)):
            for layer, part, role in nodes:
                if name == f"blocks.{layer}.{'hook_mlp_out' if part == 'mlp' else 'attn.hook_z'}":
                    mask = silent if part == "mlp" else silent[..., part]
                    mask[where(roles, role)] = off
        hooks.append((name, partial(put, silent=silent, value=value)))
    return model.run_with_hooks(tokens, fwd_hooks=hooks)
    ### END SOLUTION


# %% check="ioi.knock_out"
check("ioi.knock_out", knock_out)

# %% [markdown]
# ### Exercise 9 · `faithfulness`
# *10 minutes, ★★☆☆, 1 point*
#
# From the metric on each prompt with the circuit alone, with the whole model and with everything knocked out (`empty`): the difference, mean(model) - mean(circuit), and the ratio, how far the circuit gets on the way from `empty` (0) to the model (1), in means over the prompts.
#
# **In:** three tensors of shape (batch,). **Out:** two floats: difference, ratio.
#
# **Example:** circuit `[4., 2.]`, model `[5., 3.]`, empty `[1., 1.]`: `(1.0, 0.6667)`.


# %% exercise="ioi.faithfulness"
def faithfulness(
    circuit: Float[Tensor, "batch"], model: Float[Tensor, "batch"], empty: Float[Tensor, "batch"]
) -> tuple[float, float]:
    """Difference and ratio."""
    ### BEGIN SOLUTION
    whole, kept, none = (x.mean().item() for x in (model, circuit, empty))
    return whole - kept, (kept - none) / (whole - none)
    ### END SOLUTION


# %% check="ioi.faithfulness"
check("ioi.faithfulness", faithfulness)


# %% tags=["experiment"]
def hooks_of(model):
    return [f"blocks.{layer}.{hook}" for layer in range(model.cfg.n_layers) for hook in ("attn.hook_z", "hook_mlp_out")]


def scorer(s, values=None):
    """`score(keep, without)`: the logit difference of every prompt. What was asked before is remembered."""
    values = values or {name: role_means(s.abc_cache[name], s.templates) for name in hooks_of(s.model)}
    rows, seen = torch.arange(len(s.tokens)), {}

    def score(keep=None, without=(), metric=metrics.logit_diff):
        key = None if keep is None else frozenset(keep), frozenset(without), metric
        if key not in seen:
            logits = knock_out(s.model, s.tokens, values, keep, list(without), s.regions)
            seen[key] = metric(logits[rows, s.at["end"]], s.answers)
        return seen[key]

    return score


scores = {s.name: scorer(s) for s in (known, other)}
for name, score in scores.items():
    gap, ratio = faithfulness(score(mine[name]), score(), score([]))
    print(
        f"{name:17s} {len(mine[name])} of {len(heads_of(known.model))} heads and no MLP: difference {gap:5.2f} logits, ratio {ratio:.3f}"
    )

# %% tags=["experiment", "finding"]
random_ratios = {}
for s in (known, other):
    score = scores[s.name]
    drawn = [[tuple(node) for node in c] for c in circuits.random_circuits(s.model, mine[s.name], 100)]
    random_ratios[s.name] = [faithfulness(score(c), score(), score([]))[1] for c in drawn]
    ratio = faithfulness(score(mine[s.name]), score(), score([]))[1]
    high = torch.tensor(random_ratios[s.name]).quantile(0.95)
    print(
        f"{s.name:17s} faithful within a tenth: {0.9 < ratio < 1.1}; 95 of 100 random sets of its size stay under half of it: {bool(high < ratio / 2)}"
    )

# %% [markdown]
# ## 5. Complete? Minimal? And who stands in?
#
# A faithful circuit can still lack what the model keeps in reserve. Take some nodes K out of both: a complete circuit breaks as the model breaks.
#
# ### Exercise 10 · `completeness_gap`
# *15 minutes, ★★★☆, 2 points*
#
# F(nodes) is the mean over the prompts of `score`. Return |F(circuit without K) - F(model without K)|.
#
# **In:** `score(keep, without)`, which gives a number for every prompt: `score(circuit, K)` is the circuit without K, `score(None, K)` the whole model without K; `circuit` and `K`, lists of nodes. **Out:** a float.
#
# **Example:** if the circuit without K scores `[1., 3.]` and the model without K `[4., 4.]`, the gap is 2.0.


# %% exercise="ioi.completeness_gap"
def completeness_gap(score, circuit: list, K: list) -> float:
    """|F(C without K) - F(M without K)|"""
    ### BEGIN SOLUTION
    return (score(circuit, K).mean() - score(None, K).mean()).abs().item()
    ### END SOLUTION


# %% check="ioi.completeness_gap"
check("ioi.completeness_gap", completeness_gap)

# %% [markdown]
# A third model, `ioi-known-hard`, was made with a trap: its name movers have unequal shares, and one head stands by in case they fall silent. Suppose that somebody missed that head. Try random K, and a greedy K that always adds the node which widens the gap most.


# %% tags=["experiment"]
def greedy(score, circuit, size):
    K = []
    for _ in range(size):
        K.append(max((n for n in circuit if n not in K), key=lambda n: completeness_gap(score, circuit, [*K, n])))
    return K


hard = study("ioi-known-hard")
scores[hard.name] = scorer(hard)
stand_in = truth(hard.name).heads("backup name mover")
whole_circuit = [(n.layer, n.head, n.at) for n in truth(hard.name).nodes]
mine[hard.name] = [node for node in whole_circuit if node[:2] not in stand_in]
lacks = {}
for s in (known, hard):
    score, circuit = scores[s.name], mine[s.name]
    drawn = [[tuple(n) for n in K] for K in circuits.random_subsets(circuit, 20)]
    worst = greedy(score, circuit, 3)
    whole = score().mean().item()
    lacks[s.name] = {
        "faithfulness": faithfulness(score(circuit), score(), score([]))[1],
        "gap, mean of 20 random K": sum(completeness_gap(score, circuit, K) for K in drawn) / 20 / whole,
        "gap, greedy K of three nodes": completeness_gap(score, circuit, worst) / whole,
    }
    print(f"{s.name:15s} greedy K: {names_of(worst)}")
plots.plot_horizontal_bars(
    lacks, "ratio; gaps in units of the model's logit difference", "Both are faithful. One of them lacks something"
)

# %% [markdown]
# ### Exercise 11 · `minimality_score` (optional, hard)
# *25 minutes, ★★★★, 3 points*
#
# Is every node of a circuit needed? Remove a node from the circuit, and again from the circuit without each of some subsets. Return the largest change of F (a mean over prompts, without its sign), the empty subset included; and the naive change, with the empty subset alone.
#
# **In:** `score` as before; `circuit`; `node`, one of it; `subsets`, a list of lists of other nodes. **Out:** two floats: largest, naive.
#
# **Example:** two nodes back each other up and are worth 4. Removing one alone changes nothing, removing it when the other has gone changes 4: `(4.0, 0.0)`.


# %% exercise="ioi.minimality_score"
def minimality_score(score, circuit: list, node, subsets: list[list]) -> tuple[float, float]:
    """(largest change when the node goes too, change when it alone goes)"""
    ### BEGIN SOLUTION
    changes = [(score(circuit, K) - score(circuit, [*K, node])).mean().abs().item() for K in [[], *subsets]]
    return max(changes), changes[0]
    ### END SOLUTION


# %% check="ioi.minimality_score"
check("ioi.minimality_score", minimality_score)

# %% tags=["experiment"]
score, needed = scores[hard.name], {}
for node in whole_circuit:
    rest = [n for n in whole_circuit if n != node]
    subsets = [[tuple(n) for n in K] for K in circuits.random_subsets(rest, 12)]
    movers_and_backup = [n for n in rest if n[:2] in truth(hard.name).heads("name mover") + stand_in]
    largest, naive = minimality_score(score, whole_circuit, node, [*subsets, movers_and_backup])
    whole = score().mean().item()
    needed[f"{node[0]}.{node[1]} at {node[2]}"] = {"removed alone": naive / whole, "largest change": largest / whole}
plots.plot_horizontal_bars(
    needed, "change, in units of the model's logit difference", "Removed alone, some heads look useless; they are not"
)

# %% [markdown]
# Suppose that nobody had told you of a stand-in. *Look* for self-repair: take the name movers out, and ask which heads matter more than before.


# %% tags=["experiment", "finding"]
def takes_over(s, score, gone, candidates):
    """How much more each candidate is worth when these are gone, in units of the model's logit difference."""
    more = {}
    for node in candidates:
        now, before = (score(None, K) - score(None, [*K, node]) for K in (gone, []))
        more[node] = ((now - before).mean() / score().mean()).item()
    return more


for s in (known, other, hard):
    movers_of = [(*place, "end") for place in truth(s.name).heads("name mover")]
    rest = [(*head, "end") for head in heads_of(s.model) if (*head, "end") not in movers_of]
    more = takes_over(s, scores[s.name], movers_of, rest)
    left = (scores[s.name](None, movers_of).mean() / scores[s.name]().mean()).item()
    heirs = names_of(node for node in more if more[node] > threshold)
    trained_to = names_of(truth(s.name).heads("backup name mover")) if s is hard else "none"
    print(
        f"{s.name:17s} without {names_of(movers_of)} {left:.1f} of the difference is left; who takes over: {heirs}; trained to: {trained_to}"
    )

# %% [markdown]
# Self-repair is not a law: where nothing stands by, nothing takes over. In `ioi-known-hard` two heads do: 3.0, which was trained to, and 2.0, which its truth file does not list. Not listed is not the same as absent.
#
# Removed one at a time, this model's three name movers hardly seem to matter.

# %% [markdown]
# # Part B: a circuit that nobody put there
#
# `pocket` learned the task by predicting text. Same tools, same threshold.
#
# ## 6. Two conventions, two stories
#
# **Predict:** does it have name movers in its last layer, too?

# %% tags=["experiment"]
pocket = study(MODEL)
another = study("pocket-seed-1")
both = [pocket, another] if MODEL == "pocket" else [pocket]
for s in both:
    print(
        f"{s.name:14s} logit difference {difference(s, s.logits):.1f}, says IO in {says(s, s.logits, s.answers[:, 0]):.2f} of the prompts"
    )
plots.plot_movers(
    {s.name: movers(s) for s in both}, "attention from END to IO", "written along IO - S (logits)",
    on_pocket("Heads look at IO, but what they write is little of a logit difference of 10 and more"),
)  # fmt: skip

# %% tags=["experiment"]
told = {s.name: {mlps: to_logits(s, mlps) for mlps in ("frozen", "recomputed")} for s in both}
plots.plot_grids(
    {f"{name}, MLPs {mlps}": effects for name, ways in told.items() for mlps, effects in ways.items()},
    *rows_and_columns(pocket.model), "head", "layer",
    on_pocket("No head tells the logits anything itself; by way of MLPs that respond, a few decide"), "effect (-1: as on the twin)",
)  # fmt: skip

# %% tags=["experiment", "finding"]
givers = {}
for s in both:
    frozen, recomputed = (found(told[s.name][mlps], threshold) for mlps in ("frozen", "recomputed"))
    looks = second_mention_score(s.cache, s.model.cfg.n_layers, s.at)
    givers[s.name] = [head for head in recomputed if looks[head] > 0.5]
    most = ", ".join(f"{layer}.{head} ({looks[layer, head]:.1f})" for layer, head in givers[s.name])
    print(f"{s.name:14s} frozen: {names_of(frozen)} | recomputed, and look at S2 (less S1): {most or 'none'}")
apart = (to_logits(known, "recomputed") - straight).abs().max()
print(f"{known.name:14s} the two conventions differ by less than a tenth, for every head: {bool(apart < 0.1)}")

# %% [markdown]
# Neither convention is wrong. Frozen MLPs ask for the *edge* from a head to the logits: there is none. MLPs that respond ask for all paths through MLPs: there goes the whole decision. In `ioi-known`, whose MLPs do next to nothing (act 4), both tell one story.
#
# These heads read S2 in the *first* layer, where nobody can have noted a repetition: they carry to END who gives. They look like S-inhibition heads, and are none if no head looks from S2 to S1 and no later head hears them:

# %% tags=["experiment", "finding"]
for s in both:
    later = [head for head in heads_of(s.model) if head[0] > 0]
    by_heads = effect(
        s, path_patch_to_receivers(s.model, s.tokens, s.cache, s.twin_cache, givers[s.name], inputs(later, "q") + inputs(later, "k") + inputs(later, "v"), "frozen")
    )  # fmt: skip
    repeats = attention(s, "s2", "s1").max()
    print(
        f"{s.name:14s} effect by way of all later heads: {by_heads.abs():.1f}; most attention from S2 to S1 of any head: {repeats:.1f}"
    )

# %% [markdown]
# ## 7. A perfect number for half an explanation
#
# A hypothesis: at END, the heads that read S2, and the MLPs. Keep those alone.

# %% tags=["experiment", "finding"]
MLPS = [(layer, "mlp", "end") for layer in range(pocket.model.cfg.n_layers)]
hypothesis = {s.name: [(*head, "end") for head in givers[s.name]] + MLPS for s in both}
scores |= {s.name: scorer(s) for s in both}


def quality(s, circuit):
    """Faithfulness as a ratio, and how often the circuit alone says IO."""
    score = scores[s.name]
    ratio = faithfulness(score(circuit), score(), score([]))[1]
    return {"faithfulness": ratio, "says IO": score(circuit, metric=metrics.accuracy).mean().item()}


for s in both:
    result = quality(s, hypothesis[s.name])
    print(
        f"{s.name:14s} {len(hypothesis[s.name])} nodes: faithfulness {result['faithfulness']:.1f}, and says IO in {result['says IO']:.1f} of the prompts"
    )
    for which, column in (("IO", 0), ("S", 1)):
        own = partial(lambda logits, answers, column: logits.gather(1, answers)[:, column], column=column)
        nothing, kept, whole = (scores[s.name](nodes, metric=own).mean() for nodes in ([], hypothesis[s.name], None))
        print(
            f"    logit of {which:2s}: {nothing:2.0f} with nothing, {kept:2.0f} with these, {whole:2.0f} in the whole model"
        )

# %% [markdown]
# A faithfulness near one, from a circuit that hardly ever says the name! The metric asks for IO *against S*, where it is enough to push S down, and that is what these do. Whoever reports the ratio alone has explained half and cannot know it. Who else was there? Add places: the *names* (IO and S1), and the words *between* them and S2:

# %% tags=["experiment"]
parts = [*range(pocket.model.cfg.n_heads), "mlp"]


def everything_at(s, *regions):
    return [(layer, part, region) for layer in range(s.model.cfg.n_layers) for part in parts for region in regions]


lines = {}
for s in both:
    for what, circuit in {
        "who gives (the hypothesis)": hypothesis[s.name],
        "everything at END": everything_at(s, "end"),
        "everything at END and at the names": everything_at(s, "end", "names"),
        "everything at END and between": everything_at(s, "end", "between"),
        "everything at END, names and between": everything_at(s, "end", "names", "between"),
    }.items():
        lines[f"{s.name}: {what}"] = quality(s, circuit)
plots.plot_horizontal_bars(
    lines,
    "ratio / share of the prompts",
    on_pocket("All are faithful; to say IO, one model needs the words between, the other the names"),
    band=(0.8, 1.2),
)

# %% [markdown]
# ### In your own words · 1
# *2 points, graded by a person*
#
# In `pocket` the circuit of six nodes keeps the logit difference and hardly ever says IO. How can both be true? Name a metric with which the same circuit would have looked bad.

# %% [markdown] question="ioi.words-half" points=2
# The logit difference compares IO with S and with nobody else. The six nodes know who gives, and push S's logit down; IO then beats S by as much as in the whole model, but so does every other name, for the names that are in the prompt come by other nodes. A metric that asks among all words shows it: the probability of IO, its rank, or how often it is the likeliest word. So does a logit difference between IO and a name that is not in the prompt.
#
# *Rubric: 1 point for "IO against S only: the circuit lowers S and does not know IO", 1 point for a metric (or a pair of names) that would have come out differently.*

# %% [markdown]
# Two models that differ by their seed alone bring the names to END by two roads: in one the words between collect them, in the other END looks at the names. Now prune, with *both* numbers as the condition: drop whatever can go.


# %% tags=["experiment"]
def good(s, circuit):
    result = quality(s, circuit)
    model_says = says(s, s.logits, s.answers[:, 0])
    return result["says IO"] >= 0.9 * model_says and 0.8 < result["faithfulness"] < 1.2


def prune(s, regions):
    """Drop components, then places, while the circuit stays good: first what matters least by itself."""
    score = scores[s.name]
    starts = everything_at(s, *regions), everything_at(s, *ioi.REGIONS)
    circuit = next(circuit for circuit in starts if good(s, circuit))

    def worth(part_of):
        without = [node for node in circuit if not part_of(node)]
        return score(without, metric=metrics.log_prob).mean().item()

    components = {node[:2] for node in circuit}
    for component in sorted(components, key=lambda c: -worth(lambda node: node[:2] == c)):
        without = [node for node in circuit if node[:2] != component]
        circuit = without if good(s, without) else circuit
    for node in sorted(circuit, key=lambda n: -worth(lambda node: node == n)):
        without = [other for other in circuit if other != node]
        circuit = without if good(s, without) else circuit
    return circuit


pruned = {s.name: prune(s, ("end", "names", "between")) for s in both}
for s in both:
    for region in ("names", "between", "end"):
        print(
            f"{s.name:14s} {region:8s} {', '.join(f'{l}.{p}' for l, p, r in sorted(pruned[s.name], key=str) if r == region)}"
        )


# %% tags=["experiment", "finding"]
def draw(s, circuit, n, kind, seed=0):
    """`n` random sets that have as many nodes of each kind as the circuit."""
    everything = everything_at(s, *ioi.REGIONS)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        left, chosen = Counter(map(kind, circuit)), []
        for i in torch.randperm(len(everything), generator=generator):
            if left[kind(everything[i])]:
                left[kind(everything[i])] -= 1
                chosen.append(everything[i])
        yield chosen


CONTROLS = {
    "any component at any place": lambda node: "",
    "as many heads and MLPs at each place": lambda node: (node[1] == "mlp", node[2]),
}
for s in both:
    circuit, score = pruned[s.name], scores[s.name]
    result, n = quality(s, circuit), len({node[:2] for node in circuit})
    print(f"{s.name:14s} at most half of the components: {n <= len(parts) * s.model.cfg.n_layers / 2}; faithful within a fifth: {0.8 < result['faithfulness'] < 1.2};",
          f"says IO in at least 0.9: {result['says IO'] >= 0.9}")  # fmt: skip
    for what, kind in CONTROLS.items():
        drawn = list(draw(s, circuit, 100, kind))
        random_ratios[s.name] = [faithfulness(score(c), score(), score([]))[1] for c in drawn]
        high = torch.tensor(random_ratios[s.name]).quantile(0.95).item()
        as_good = sum(0.8 < ratio < 1.2 and good(s, c) for ratio, c in zip(random_ratios[s.name], drawn))
        print(
            f"    100 random sets, {what}: 95 of them under half of its faithfulness: {high < result['faithfulness'] / 2}; as good in both numbers: {as_good}"
        )

# %% tags=["experiment"]
for s in both:
    n = len({node[:2] for node in pruned[s.name]})
    print(f"{s.name:14s} {n} of {len(parts) * s.model.cfg.n_layers} components, at {len(pruned[s.name])} places")
chosen = {s.name: mine[s.name] for s in (known, other)} | pruned
bars = {}
for name, circuit in chosen.items():
    score = scores[name]
    bars[name] = {"faithfulness": faithfulness(score(circuit), score(), score([]))[1]}
plots.plot_horizontal_bars(
    bars,
    "faithfulness (ratio)",
    on_pocket(
        "Chance (dots: 100 random sets like the circuit) misses the known circuits by far; in pocket it sometimes comes near"
    ),
    (0.8, 1.2),
    random_ratios,
)

# %% [markdown]
# The dots are the fairer sets, with as many heads and MLPs at each place as the circuit. In `pocket` some of these are nearly as faithful by luck, but none is good in both numbers.
#
# And how much does the ratio depend on what silence is?


# %% tags=["experiment"]
def silences_of(s):
    pooled = [["end" if r == "end" else "any" for r in row] for row in s.regions]
    return {
        "mean on abc, same word of the same sentence": None,
        "mean on abc, one for all words but END": {n: role_means(s.abc_cache[n], pooled) for n in hooks_of(s.model)},
        "mean on the task's own prompts": {n: role_means(s.cache[n], s.templates) for n in hooks_of(s.model)},
        "what is said on this prompt's abc version": {n: s.abc_cache[n] for n in hooks_of(s.model)},
        "what is said on this prompt's twin": {n: s.twin_cache[n] for n in hooks_of(s.model)},
        "zero": {n: torch.zeros_like(s.cache[n]) for n in hooks_of(s.model)},
    }


numbers = {name: {} for name in silences_of(known)}
for s, circuit in [(known, mine[known.name]), *((s, pruned[s.name]) for s in both)]:
    for name, values in silences_of(s).items():
        score = scorer(s, values)
        numbers[name][s.name] = faithfulness(score(circuit), score(), score([]))[1]
plots.plot_horizontal_bars(
    numbers,
    "faithfulness (ratio)",
    on_pocket(
        "Six ideas of silence hardly matter to ioi-known; in pocket and its other seed the ratio lies between 0.7 and 1.5"
    ),
    band=(0.8, 1.2),
)

# %% tags=["experiment", "finding"]
for name in next(iter(numbers.values())):
    values = [row[name] for row in numbers.values()]
    print(f"{name:14s} faithfulness between {min(values):.1f} and {max(values):.1f}")

# %% [markdown]
# ## 8. Prove it
#
# What you understand you can *use*. If those heads say at END who gives, a lie from them must turn the answer round. If the names come by one road, a stranger on that road, and only there, must become the answer.


# %% tags=["experiment", "finding"]
def lie(s, nodes):
    """How often the answer becomes S when these nodes say what they say on the twin, where the other one gives."""
    values = {name: s.twin_cache[name] for name in hooks_of(s.model)}
    return says(s, knock_out(s.model, s.tokens, values, None, nodes, s.regions), s.answers[:, 1]).item()


flips = {}
for s in both:
    heads = givers[s.name]
    others = [head for head in heads_of(s.model) if head not in heads]
    flips[s.name] = {
        "the heads that read S2, at END": lie(s, [(*head, "end") for head in heads]),
        "the same heads, everywhere else": lie(s, [(*head, r) for head in heads for r in ioi.REGIONS if r != "end"]),
        "all other heads, at END": lie(s, [(*head, "end") for head in others]),
    }
    print(f"{s.name:14s} the answer turns round:", {what: round(share, 1) for what, share in flips[s.name].items()})


# %% tags=["experiment", "finding"]
def with_stranger(s):
    """The prompts with somebody new in IO's place: tokens, and who it is."""
    stranger = s.answers[:, 0].roll(1)
    for shift in range(2, len(stranger)):
        clash = (stranger[:, None] == s.answers).any(dim=1)
        stranger = torch.where(clash, s.answers[:, 0].roll(shift), stranger)
    tokens = s.tokens.clone()
    tokens[torch.arange(len(tokens)), s.at["io"]] = stranger
    return tokens, stranger


def by_way_of(region, s):
    """How often the model names the stranger if the stream before layer 1, in this region alone, has heard of them."""
    tokens, stranger = with_stranger(s)
    source = s.model.run_with_cache(tokens)[1]["resid_pre", 1]
    put = partial(
        lambda stream, hook, here: torch.where(here[..., None], source, stream), here=where(s.regions, region)
    )
    return says(s, s.model.run_with_hooks(s.tokens, fwd_hooks=[("blocks.1.hook_resid_pre", put)]), stranger).item()


strangers = {s.name: {region: by_way_of(region, s) for region in ("names", "between", "rest")} for s in both}
for name, shares in strangers.items():
    road = max(shares, key=shares.get)
    print(f"{name:14s} named in most prompts, if the stranger comes by way of: {road} ({shares[road] > 0.7});",
          f"hardly ever, from the rest: {shares['rest'] < 0.1}")  # fmt: skip

# %% tags=["experiment"]
bars = {f"{name}: {what}": {"share": share} for name, row in flips.items() for what, share in row.items()}
bars |= {
    f"{name}: a stranger in the stream, {region}": {"share": share}
    for name, row in strangers.items()
    for region, share in row.items()
}
plots.plot_horizontal_bars(
    bars,
    "share of the prompts in which the answer becomes S, or the stranger",
    on_pocket("A lie about who gives turns the answer round, and a stranger on the right road is named"),
)

# %% [markdown]
# The controls stay at zero, all but one: in `pocket` some strangers come by the names, too.
#
# ## 9. Does it repair itself?
#
# Take out what matters most at END above the first layer. Who is worth more than before?

# %% tags=["experiment"]
for s in both:
    score = scores[s.name]
    late = [node for node in everything_at(s, "end") if node[0] > 0]
    loss = {node: ((score() - score(None, [node])).mean() / score().mean()).item() for node in late}
    gone = max(loss, key=loss.get)
    more = takes_over(s, score, [gone], [node for node in late if node != gone])
    heirs = names_of(node for node in more if more[node] > threshold)
    print(
        f"{s.name:14s} without {names_of([gone])} {1 - loss[gone]:.1f} of the difference is left; who takes over: {heirs}"
    )

# %% [markdown]
# One seed shifts some work to other heads, the other does not. Look, do not assume.

# %% [markdown]
# # Part C: and GPT-2?
#
# ## 10. Class by class
#
# Wang et al. sort their 26 heads into seven classes. For each we ask: does a head of ours *look* where that class looks, and *act* as that class acts? **Same**: both. **Different**: it only looks. **Missing**: nobody looks; or nobody acts so, for the negative and backup name movers, who look where name movers look.
#
# One more tool first, for a name mover should also *copy*:
#
# ### Exercise 12 · `name_copying_score` (optional)
# *20 minutes, ★★★☆, 3 points*
#
# If a head looked at a name and nowhere else, and the logits saw nothing but this head: would the name be among the `k` likeliest tokens? Return the share of names for which it would, for every head.
#
# **In:** the model; `stream`, (name, d_model): the residual stream at the names after the first MLP; `names`, their ids; `k`; `sign`: with -1, what the head writes is turned round. Through `ln1` of the head's layer, `W_V`, `b_V`, `W_O`, then the sign, `model.ln_final` and `model.unembed`. **Out:** shape (layer, head).
#
# **Example:** for a head that writes exactly what it reads, and names that are their own likeliest tokens, the score is 1.


# %% exercise="ioi.name_copying_score"
def name_copying_score(
    model, stream: Float[Tensor, "name d_model"], names: Int[Tensor, "name"], k: int = 5, sign: int = 1
) -> Float[Tensor, "layer head"]:
    """The share of names among the k likeliest tokens, for every head."""
    ### BEGIN SOLUTION
    scores = torch.zeros(model.cfg.n_layers, model.cfg.n_heads)
    for layer, block in enumerate(model.blocks):
        for head in range(model.cfg.n_heads):
            value = block.ln1(stream) @ model.W_V[layer, head] + model.b_V[layer, head]
            logits = model.unembed(model.ln_final(sign * value @ model.W_O[layer, head]))
            scores[layer, head] = (logits.topk(k, dim=-1).indices == names[:, None]).any(dim=-1).float().mean()
    return scores
    ### END SOLUTION


# %% check="ioi.name_copying_score"
check("ioi.name_copying_score", name_copying_score)


# %% tags=["experiment"]
def copying(s, sign=1):
    rows = torch.arange(len(s.tokens))
    return name_copying_score(s.model, s.cache["resid_post", 0][rows, s.at["io"]], s.answers[:, 0], 5, sign)


plots.plot_grids(
    {s.name: copying(s) for s in ((known, *both) if MODEL == "pocket" else both)}, *rows_and_columns(pocket.model), "head", "layer",
    on_pocket("The name movers of ioi-known copy names. So do many heads of pocket, and none of these is a name mover"), "share of names copied",
)  # fmt: skip


# %% tags=["experiment"]
LOOKS = {  # class -> (who looks, where); for all the effect is measured on the clean prompts
    "previous token": ("s1+1", "s1"),
    "duplicate token": ("s2", "s1"),
    "induction": ("s2", "s1+1"),
    "s-inhibition": ("end", "s2"),
    "name mover": ("end", "io"),
    "negative name mover": ("end", "io"),
    "backup name mover": ("end", "io"),
}


def acts(s, kind, head, movers_found):
    """Whether a head acts as its class does, by more than the threshold of Part A."""
    layer, n = head
    score = scores[s.name]
    if kind in ("name mover", "negative name mover"):
        told_logits = -effect(s, path_patch(s.model, s.cache, s.twin_cache, [head], "frozen")).item()
        return told_logits > threshold if kind == "name mover" else told_logits < -threshold
    if kind == "backup name mover":
        gone = [(*mover, "end") for mover in movers_found if mover != head]
        return (
            bool(gone)
            and head not in movers_found
            and takes_over(s, score, gone, [(*head, "end")])[(*head, "end")] > threshold
        )
    if kind == "s-inhibition":  # by way of later heads' queries
        later = inputs([other for other in heads_of(s.model) if other[0] > layer], "q")
        return (
            effect(s, path_patch_to_receivers(s.model, s.tokens, s.cache, s.twin_cache, [head], later, "frozen")).abs()
            > threshold
        )
    role = LOOKS[kind][0]  # the others: the answer suffers without what they say there
    tagged = [[role if p == at else "" for p in range(s.tokens.shape[1])] for at in s.at[role].tolist()]
    values = {name: role_means(s.abc_cache[name], s.templates) for name in hooks_of(s.model)}
    without = knock_out(s.model, s.tokens, values, None, [(*head, role)], tagged)
    return (1 - difference(s, without) / difference(s, s.logits)).abs() > threshold


def classify(s):
    """class -> (verdict, heads)"""
    table, movers_found = {}, []
    for kind, (query, key) in LOOKS.items():
        looking = found(attention(s, query, key), 0.3)
        acting = [head for head in looking if acts(s, kind, head, movers_found)]
        movers_found = acting if kind == "name mover" else movers_found
        by_looks = kind not in ("negative name mover", "backup name mover")  # these look where name movers look
        verdict = "same" if acting else "different" if looking and by_looks else "missing"
        table[kind] = verdict, names_of(acting or looking) if verdict != "missing" else ""
    return table


published = circuits.published("gpt2-ioi").classes()
measured = {s.name: classify(s) for s in (known, *both)}
table = {
    kind: {"GPT-2 small, published": ("", names_of(published[kind]))}
    | {name: row[kind] for name, row in measured.items()}
    for kind in LOOKS
}
plots.plot_classes(table, on_pocket("The known circuit has three of GPT-2's seven classes; pocket has none of them"))

# %% tags=["experiment", "finding"]
print(f"published: {sum(map(len, published.values()))} heads in {len(published)} classes")
for kind, row in table.items():
    print(f"{kind:20s}", " | ".join(f"{name}: {verdict or heads}" for name, (verdict, heads) in row.items() if verdict))
if MODEL == "gpt2":
    for kind, heads in published.items():
        verdict, names = measured[MODEL][kind]
        scored = precision_recall(names.split(", ") if verdict == "same" else [], names_of(heads).split(", "))
        print(kind, "precision and recall:", scored)

# %% [markdown]
# Is the circuit universal? The task is, the solution is not. Both seeds of `pocket` read who gives at S2 in the first layer, by one or two heads, and decide in MLPs at END. The road of the names is not shared.
#
# ### In your own words · 2
# *2 points, graded by a person*
#
# A friend looks at `pocket`'s attention, finds that 0.1 looks from END to S2, and writes: "pocket has an S-inhibition head, as GPT-2 has." Which two measurements would you make before you believe it, and what came out here?

# %% [markdown] question="ioi.words-class" points=2
# Does it carry something that was found out *at* S2 (that the name is a repetition)? Then heads at S2 have to write into its values; in the first layer no head comes before it, and no head looks from S2 to S1. And does it act by way of name movers' queries? Path patching it into the queries, keys and values of all later heads changes nothing; its effect goes through MLPs. So it looks alike and works otherwise: it reads who gives.
#
# *Rubric: 1 point for each measurement with its result (its input: nothing is written at S2 that it could read; its receivers: MLPs and not the queries of heads). Attention alone earns nothing.*

# %% [markdown]
# ## 11. Draw what you found


# %% tags=["experiment"]
def known_edges(s, nodes, threshold):
    """The edges of acts 2 and 3, each measured by itself."""
    movers, readers, writers = mine_by_step(s)
    edges = [
        circuits.Edge(
            (*h, "end"), "logits", -effect(s, path_patch(s.model, s.cache, s.twin_cache, [h], "frozen")).item()
        )
        for h in movers
    ]
    for senders, role, receivers, part in ((readers, "end", movers, "q"), (writers, "s2", readers, "v")):
        for sender in senders:
            for receiver in receivers:
                logits = path_patch_to_receivers(
                    s.model, s.tokens, s.cache, s.twin_cache, [sender], [(*receiver, part)], "frozen"
                )
                edges.append(circuits.Edge((*sender, role), (*receiver, "end"), -effect(s, logits).item(), part))
    return edges


def mine_by_step(s):
    movers = found(to_logits(s, "frozen"), threshold)
    readers = found(to_receivers(s, inputs(movers, "q")), threshold)
    return movers, readers, found(to_receivers(s, inputs(readers, "v")), threshold)


def pocket_edges(s):
    """From the heads that read S2 to each MLP at END, from MLP to MLP, and from each of these to the logits."""
    nodes = [(*head, "end") for head in givers[s.name]] + [n for n in pruned[s.name] if n[1] == "mlp" and n[2] == "end"]
    at_end = where(s.regions, "end")
    edges = []
    for sender in nodes:
        for receiver in [n for n in nodes if n[1] == "mlp" and n[0] >= sender[0] and n != sender] + ["logits"]:
            to = "logits" if receiver == "logits" else [receiver[:2]]
            logits = paths.path_patch(s.model, s.tokens, s.cache, s.twin_cache, [sender[:2]], to, where=at_end)
            edges.append(circuits.Edge(sender, receiver, -effect(s, logits).item()))
    return nodes, edges


kinds = dict(zip(("name mover", "s-inhibition", "duplicate token"), mine_by_step(known)))
classes = {
    circuits.Node(*h, "s2" if kind == "duplicate token" else "end"): kind for kind, hs in kinds.items() for h in hs
}
edges = known_edges(known, mine[known.name], threshold)
plots.plot_circuit(
    circuits.Circuit(tuple(classes), tuple(edges), classes),
    "ioi-known: a note is written at S2, fetched by END, and turns the name movers' eyes",
    0.05,
    "share of the decision",
)

# %% tags=["experiment"]
nodes, edges = pocket_edges(pocket)
classes = {circuits.Node(*n): "MLP" if n[1] == "mlp" else "reads S2" for n in nodes}
plots.plot_circuit(
    circuits.Circuit(tuple(classes), tuple(edges), classes),
    on_pocket("pocket: heads of the first layer tell the MLPs at END who gives; nothing goes by way of later heads"), 0.05, "share of the decision",
)  # fmt: skip

# %% [markdown]
# ## Caveats
#
# - **A metric sees what it compares.** IO against S does not see how IO got there (act 7). Use a second one.
# - **Faithfulness is a number about an ablation** as much as about a circuit (act 7, six silences). State the reference distribution.
# - **Path patching answers the question that you freeze** (act 6). Say what you froze.
# - **Removing one node at a time** hides heads that are backed up (act 5), and a threshold fixed on halves can miss thirds (act 3).
# - **Random sets are as weak as you make them.** Drawn from anywhere they never come near, drawn like the circuit some do (act 7). Keep its MLPs and exchange heads alone: try it.
# - **A pruned circuit is one of many**: the order in `prune` matters. It shows that so few *suffice*.
# - **`ioi-known` was made**, and is cleaner than anything that grew. To find its circuit is necessary, not sufficient.
#
# ## Going on
#
# 1. **A third person.** With a third name in the prompt (`tasks.ioi(..., third_name=True)`), whom does `pocket` choose, and does the lie of act 8 work? *A good answer predicts it first.*
# 2. **Which neurons subtract?** Path patch the heads that read S2 into single neurons of the MLPs at END. *A good answer has a random set of neurons beside its own.*
# 3. **A harder mark.** Find the circuit of `ioi-known-hard` with the threshold of act 2. *A good answer explains each miss.*
#
# On `gpt2`: `MODEL = "gpt2"` in the set-up cell runs parts B and C on it (a download of 500 MB, and hours of CPU, mostly in `prune`), with precision and recall against the published classes. We ran it on a small GPT-2 with random weights, which proves only that the code runs.
#
# **Papers**
# - Wang et al. 2023, [Interpretability in the Wild](https://arxiv.org/abs/2211.00593): all of it; section 4 for the three criteria.
# - Goldowsky-Dill et al. 2023, [Path patching](https://arxiv.org/abs/2304.05969): what exactly is frozen.
# - Gupta et al. 2024, [InterpBench](https://arxiv.org/abs/2407.14494): how a known circuit is put into a model.
# - Makelov et al. 2023, [Is this the subspace you are looking for?](https://arxiv.org/abs/2311.17030): how an intervention succeeds for the wrong reason.
# - Miller et al. 2024, [Transformer circuit faithfulness metrics are not robust](https://arxiv.org/abs/2407.08734): act 7, at length.

# %% tags=["experiment"]
progress()
