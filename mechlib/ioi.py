"""From one behaviour to a circuit with a number on it: the functions that chapter 05_ioi has its readers write.

A *node* is (layer, head, role), or (layer, "mlp", role): one component at the positions of one role. A role is a name
for some positions of every prompt ("s2", "end", "the rest"), and the roles of a task divide its positions between them:

    roles    role -> batch position                          True where a prompt has that role
    means    hook name -> batch position ...                 what components write on reference prompts, on average
    task     {"tokens", "means", "roles", "answers", "end"}   a behaviour: prompts, and how the answer is scored

Wang et al. 2023, "Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 small"
(https://arxiv.org/abs/2211.00593). More general tools: `mechlib.paths`.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Head = tuple[int, int]  # (layer, head)
Receiver = tuple[int, int, str]  # (layer, head, "q", "k" or "v")
Node = tuple[int, int | str, str]  # (layer, head or "mlp", role)
Answers = Int[Tensor, "batch 2"]
Ends = Int[Tensor, "batch"]
Roles = Mapping[str, Bool[Tensor, "batch position"]]
Means = Mapping[str, Tensor]
Task = Mapping[str, Any]
MLPs = Literal["frozen", "recomputed"]


# ---- the behaviour


def mean_logit_diff(
    logits: Float[Tensor, "batch position vocabulary"], answers: Answers, end: Ends
) -> Float[Tensor, ""]:
    """The mean over prompts of logit(answer) - logit(distractor), each read at its prompt's own last token."""
    rows = torch.arange(len(logits), device=logits.device)
    right, wrong = logits[rows, end].gather(1, answers).unbind(dim=1)
    return (right - wrong).mean()


# ---- what a head looks at and what it writes


def attention_between(
    cache: Any, n_layers: int, query: Int[Tensor, "batch"], key: Int[Tensor, "batch"]
) -> Float[Tensor, "layer head"]:
    """Every head's mean attention from one position of each prompt to another one."""
    rows = torch.arange(len(query), device=query.device)
    return torch.stack([cache["pattern", layer][rows, :, query, key].mean(dim=0) for layer in range(n_layers)])


def name_mover_score(
    model: Any, cache: Any, answers: Answers, at: Mapping[str, Int[Tensor, "batch"]]
) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
    """Two means over the prompts for every head: its attention from END to IO, and what it writes at END straight to
    logit(answer) - logit(distractor).

    `at` has the positions of the roles "io" and "end". The final LayerNorm is the linear map that it was on each prompt:
    centre, divide by that prompt's scale, multiply by the weight. A name mover is high in both (Wang et al. 2023, fig. 3).
    """
    rows, end = torch.arange(len(answers), device=answers.device), at["end"]
    readers = (model.W_U[:, answers[:, 0]] - model.W_U[:, answers[:, 1]]).T * model.ln_final.weight
    readers = (readers - readers.mean(dim=-1, keepdim=True)) / cache["ln_final.hook_scale"][rows, end]
    looks, writes = [], []
    for layer in range(model.cfg.n_layers):
        looks.append(cache["pattern", layer][rows, :, end, at["io"]].mean(dim=0))
        said = torch.einsum("bhd,hdm->bhm", cache["z", layer][rows, end], model.W_O[layer])
        writes.append(torch.einsum("bhm,bm->bh", said, readers).mean(dim=0))
    return torch.stack(looks), torch.stack(writes)


def s_inhibition_score(
    cache: Any, n_layers: int, at: Mapping[str, Int[Tensor, "batch"]]
) -> Float[Tensor, "layer head"]:
    """How much more every head looks from END at S2 than at S1, which is the same name: a mean over the prompts.

    A head that looks for the name looks at both. One that carries what was found out *at* S2, that the name is
    a repetition, looks at S2 alone.
    """
    rows, end = torch.arange(len(at["end"]), device=at["end"].device), at["end"]
    scores = []
    for layer in range(n_layers):
        from_end = cache["pattern", layer][rows, :, end]
        scores.append((from_end[rows, :, at["s2"]] - from_end[rows, :, at["s1"]]).mean(dim=0))
    return torch.stack(scores)


def name_copying_score(
    model: Any,
    stream: Float[Tensor, "name d_model"],
    names: Int[Tensor, "name"],
    layer: int,
    head: int,
    k: int = 5,
    sign: float = 1.0,
) -> Float[Tensor, ""]:
    """The share of names that are among the `k` likeliest tokens if a head looks at nothing but that name and the
    logits see nothing but the head.

    `stream` is the residual stream at the names after the first MLP. With `sign=-1`, what the head writes is turned
    round: a head that suppresses what it sees then scores high (Wang et al. 2023, section 3.1 and appendix).
    """
    read = model.blocks[layer].ln1(stream)
    written = (read @ model.W_V[layer, head] + model.b_V[layer, head]) @ model.W_O[layer, head]
    likeliest = model.unembed(model.ln_final(sign * written)).topk(k, dim=-1).indices
    return (likeliest == names[:, None]).any(dim=-1).to(stream.dtype).mean()


# ---- path patching


def patched_streams(
    model: Any, cache: Any, source_cache: Any, senders: Sequence[Head], mlps: MLPs
) -> Float[Tensor, "layer+1 batch position d_model"]:
    """The residual stream before every layer, and after the last, if the senders said what they said in another run.

    All other heads keep what they said in the run of `cache`. So do the MLPs, if they are "frozen"; "recomputed",
    they answer to the stream that they now see.
    """
    change = torch.zeros_like(cache["resid_pre", 0])
    streams = []
    for layer, block in enumerate(model.blocks):
        streams.append(cache["resid_pre", layer] + change)
        for where, head in senders:
            if where == layer:
                z = source_cache["z", layer][:, :, head] - cache["z", layer][:, :, head]
                change = change + z @ model.W_O[layer, head]
        if mlps == "recomputed":
            seen = cache["resid_pre", layer] + cache["attn_out", layer] + change
            change = change + block.mlp(block.ln2(seen)) - cache["mlp_out", layer]
    streams.append(cache["resid_post", model.cfg.n_layers - 1] + change)
    return torch.stack(streams)


def path_patch(
    model: Any, cache: Any, source_cache: Any, senders: Sequence[Head], mlps: MLPs
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits if they, and on the way no other head, read the senders' outputs from another run."""
    return model.unembed(model.ln_final(patched_streams(model, cache, source_cache, senders, mlps)[-1]))


def path_patch_to_receivers(
    model: Any,
    tokens: Int[Tensor, "batch position"],
    cache: Any,
    source_cache: Any,
    senders: Sequence[Head],
    receivers: Sequence[Receiver],
    mlps: MLPs,
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits if the receivers' queries, keys or values, and nothing else, read the senders from another run.

    A receiver is (layer, head, "q" | "k" | "v"). Everything after the receivers responds.
    """
    streams = patched_streams(model, cache, source_cache, senders, mlps)
    hooks = []
    for layer, head, part in receivers:
        W, b = (getattr(model, f"{kind}_{part.upper()}")[layer, head] for kind in ("W", "b"))
        mine = model.blocks[layer].ln1(streams[layer]) @ W + b

        def put(activation: Tensor, hook: Any, head: int = head, mine: Tensor = mine) -> Tensor:
            activation = activation.clone()
            activation[:, :, head] = mine
            return activation

        hooks.append((f"blocks.{layer}.attn.hook_{part}", put))
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


# ---- keep a circuit, knock everything else out


def reference_means(model: Any, references: Int[Tensor, "sample batch position"]) -> dict[str, Tensor]:
    """What every head (z) and every MLP writes on reference prompts, averaged over the samples: hook -> batch position ...

    Row i of every sample is prompt i with other names, so position by position the words have the same role.
    """
    names = [f"blocks.{layer}.{hook}" for layer in range(model.cfg.n_layers) for hook in ("attn.hook_z", "hook_mlp_out")]
    caches = [model.run_with_cache(tokens, names_filter=names)[1] for tokens in references]
    return {name: torch.stack([cache[name] for cache in caches]).mean(dim=0) for name in names}


def knock_out(
    model: Any, tokens: Int[Tensor, "batch position"], means: Means, keep: Collection[Node], roles: Roles
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits if only the nodes in `keep` work: every other head and MLP writes its mean, position by position."""
    hooks = []
    for layer in range(model.cfg.n_layers):
        own = {part: torch.zeros_like(tokens, dtype=torch.bool) for part in (*range(model.cfg.n_heads), "mlp")}
        for _, part, role in (node for node in keep if node[0] == layer):
            own[part] = own[part] | roles[role]
        heads = torch.stack([own[head] for head in range(model.cfg.n_heads)], dim=-1)
        for hook, kept in (("attn.hook_z", heads), ("hook_mlp_out", own["mlp"])):
            name = f"blocks.{layer}.{hook}"
            hooks.append((name, partial(_choose, kept=kept[..., None], mean=means[name])))
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


def _choose(activation: Tensor, hook: Any, kept: Tensor, mean: Tensor) -> Tensor:
    return torch.where(kept, activation, mean)


def circuit_score(model: Any, task: Task, keep: Collection[Node]) -> Float[Tensor, ""]:
    """The mean logit difference on a task if only some nodes work."""
    logits = knock_out(model, task["tokens"], task["means"], keep, task["roles"])
    return mean_logit_diff(logits, task["answers"], task["end"])


def all_nodes(model: Any, roles: Roles) -> list[Node]:
    """Every component at every role."""
    parts = [*range(model.cfg.n_heads), "mlp"]
    return [(layer, part, role) for layer in range(model.cfg.n_layers) for part in parts for role in roles]


# ---- is it a good circuit?


def faithfulness(
    circuit: Float[Tensor, "batch"], model: Float[Tensor, "batch"], nothing: Float[Tensor, "batch"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """How well a circuit does what the model does: as a difference and as a ratio, from a metric on three runs.

    The difference is model - circuit (0 is best), the ratio (circuit - nothing) / (model - nothing) (1 is best); both
    are of means over the prompts. `nothing` is the run with everything knocked out.
    """
    whole, kept, none = model.mean(), circuit.mean(), nothing.mean()
    return whole - kept, (kept - none) / (whole - none)


def completeness_gap(
    model: Any, task: Task, circuit: Collection[Node], removed: Collection[Node]
) -> Float[Tensor, ""]:
    """|score of the circuit without `removed` - score of the whole model without `removed`|.

    A complete circuit breaks as the model breaks. A large gap says that the model has something which the circuit
    lacks: it makes up for what was removed.
    """
    kept, rest = ([node for node in nodes if node not in removed] for nodes in (circuit, all_nodes(model, task["roles"])))
    return (circuit_score(model, task, kept) - circuit_score(model, task, rest)).abs()


def minimality_score(
    model: Any, task: Task, circuit: Collection[Node], node: Node, subsets: Sequence[Collection[Node]]
) -> Float[Tensor, ""]:
    """How much a node does for the circuit: the largest change of the score when it goes, over circuits that lack some
    of the other nodes already.

    Each subset is taken out of the circuit first; then the node goes too. With the empty subset alone this is the naive
    removal, which finds a node useless that others back up.
    """
    changes = []
    for subset in subsets:
        left = [other for other in circuit if other not in subset]
        without = [other for other in left if other != node]
        changes.append((circuit_score(model, task, left) - circuit_score(model, task, without)).abs())
    return torch.stack(changes).max()


def precision_recall(found: Collection[Any], truth: Collection[Any]) -> tuple[float, float]:
    """(share of what was found that is true, share of the truth that was found). Something named twice counts once.

    If nothing was found, nothing of it is wrong: precision 1, and recall 0.
    """
    hits = len(set(found) & set(truth))
    return hits / len(set(found)) if found else 1.0, hits / len(set(truth))
