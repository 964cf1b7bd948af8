"""Lenses: what the residual stream says, in words, before the model has finished.

A *depth* counts the layers that have written: at depth 0 the stream holds the embeddings, at depth n_layers what the
model itself reads out. There are n_layers + 1 depths, and `layer l` stands between depth l and depth l + 1.

The models are GPT-2-shaped TransformerBridges, raw or processed: one final LayerNorm, one unembedding, nothing after
it. Attention-only models have lenses too, but no neurons: `sub_updates` and `value_vector_tokens` refuse them.

After nostalgebraist 2020, "interpreting GPT: the logit lens"; Geva et al. 2022 (https://arxiv.org/abs/2203.14680);
Belrose et al. 2023 (https://arxiv.org/abs/2303.08112); Ghandeharioun et al. 2024 (https://arxiv.org/abs/2401.06102).
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm import tqdm

# ---- decoding early


def stream_hook(model: Any, depth: int) -> str:
    """The name of the hook that holds the residual stream at a depth. Raises ValueError if there is no such depth."""
    n_layers = model.cfg.n_layers
    if not 0 <= depth <= n_layers:
        raise ValueError(f"there is no depth {depth}: this model has depths 0 to {n_layers}")
    return f"blocks.{depth}.hook_resid_pre" if depth < n_layers else f"blocks.{n_layers - 1}.hook_resid_post"


def residual_streams(
    model: Any, tokens: Int[Tensor, "batch position"]
) -> Float[Tensor, "depth batch position d_model"]:
    """The residual stream at every depth, 0 to n_layers."""
    names = [stream_hook(model, depth) for depth in range(model.cfg.n_layers + 1)]
    _, cache = model.run_with_cache(tokens, names_filter=names)
    return torch.stack([cache[name] for name in names])


def read_out(
    model: Any, streams: Float[Tensor, "*lead position d_model"]
) -> Float[Tensor, "*lead position vocabulary"]:
    """The model's own last step, on any streams: its final LayerNorm, anew for each vector, then W_U and b_U."""
    return model.unembed(model.ln_final(streams))


def logit_lens(model: Any, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "depth batch position vocabulary"]:
    """The logits that the model would give if it stopped at each depth (nostalgebraist 2020).

    The last ones are the model's own.
    """
    return read_out(model, residual_streams(model, tokens))


# ---- what a lens says, in numbers


def answer_rank(logits: Float[Tensor, "*lead vocabulary"], answers: Int[Tensor, "..."]) -> Int[Tensor, "*lead"]:
    """How many tokens have a higher logit than the answer: 0 for the top token.

    `answers` holds token ids and broadcasts against the leading axes of `logits`: one a prompt serves all depths.
    """
    wanted = answers.expand(logits.shape[:-1])[..., None]
    return (logits > logits.gather(-1, wanted)).sum(dim=-1)


def emergence_layer(ranks: Int[Tensor, "depth *lead"], at_most: int) -> Int[Tensor, "*lead"]:
    """The first depth from which on the rank is `at_most` or better at every depth to the end.

    Where it is not even so at the last depth, the number of depths: one past the end.
    """
    depths = torch.arange(1, len(ranks) + 1, device=ranks.device).view(-1, *[1] * (ranks.ndim - 1))
    return (depths * (ranks > at_most)).amax(dim=0)  # one after the last depth that is not good enough


def kl_to_final(logits: Float[Tensor, "depth *lead vocabulary"]) -> Float[Tensor, "depth *lead"]:
    """KL(final || depth) in nats: what is lost by stopping at a depth. 0 at the last depth."""
    log_probs = logits.log_softmax(dim=-1)
    final = log_probs[-1]
    return (final.exp() * (final - log_probs)).sum(dim=-1)


def entropy(logits: Float[Tensor, "*lead vocabulary"]) -> Float[Tensor, "*lead"]:
    """How undecided a prediction is, in nats: 0 when it is certain, log(vocabulary) when it knows nothing."""
    log_probs = logits.log_softmax(dim=-1)
    return -(log_probs.exp() * log_probs).sum(dim=-1)


# ---- what an MLP adds to it


def sub_updates(
    model: Any, tokens: Int[Tensor, "batch position"], layer: int
) -> Float[Tensor, "batch position neuron d_model"]:
    """An MLP's output neuron by neuron: each neuron's activation times its value vector, its row of W_out (Geva 2022).

    They sum, with the bias b_out, to the MLP's output. Raises ValueError for a model without MLPs.
    """
    _require_mlp(model)
    name = f"blocks.{layer}.mlp.hook_post"
    _, cache = model.run_with_cache(tokens, names_filter=name)
    return cache[name][..., None] * model.W_out[layer]


def value_vector_tokens(model: Any, layer: int, k: int) -> Int[Tensor, "neuron k"]:
    """The k tokens that each neuron of a layer promotes most, best first, when it writes its value vector.

    The value vector is read as the final LayerNorm would pass it on, up to the scale: centred and times the weight.
    So raw and processed models give the same tokens. Raises ValueError for a model without MLPs.
    """
    _require_mlp(model)
    values = model.W_out[layer]
    centred = values - values.mean(dim=-1, keepdim=True)
    return (centred * model.ln_final.weight @ model.W_U).topk(k, dim=-1).indices


def _require_mlp(model: Any) -> None:
    if not model.W_out.any():  # attention-only models are GPT-2 with one neuron and zero weights
        raise ValueError("this model has attention only: it has no MLP neurons to take apart")


# ---- the tuned lens


class TunedLens(nn.Module):
    """One affine translator a layer, from the stream before it to the stream at the end (Belrose 2023).

    `weight[l]` and `bias[l]` move the stream at depth l: h + h @ weight[l] + bias[l]. They start at zero, where the
    tuned lens is the logit lens. `read_out` turns the translated streams into logits.
    """

    def __init__(self, n_layers: int, d_model: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_layers, d_model, d_model))
        self.bias = nn.Parameter(torch.zeros(n_layers, d_model))

    def forward(
        self, streams: Float[Tensor, "layer batch position d_model"]
    ) -> Float[Tensor, "layer batch position d_model"]:
        """Translates the streams before each layer; the stream at the end needs no translator."""
        moved = einsum(streams, self.weight, "layer batch pos d_in, layer d_in d_out -> layer batch pos d_out")
        return streams + moved + self.bias[:, None, None]


def tuned_lens_loss(
    lens_logits: Float[Tensor, "layer batch position vocabulary"],
    final_logits: Float[Tensor, "batch position vocabulary"],
    keep: Bool[Tensor, "batch position"],
) -> Float[Tensor, "layer"]:
    """KL(model || lens) in nats for each layer, the mean over the positions to keep.

    Only the lens learns: no gradient reaches `final_logits`.
    """
    target = final_logits.detach().log_softmax(dim=-1)
    divergence = (target.exp() * (target - lens_logits.log_softmax(dim=-1))).sum(dim=-1)
    return divergence[:, keep].mean(dim=1)


def fit_tuned_lens(
    model: Any,
    tokens: Int[Tensor, "rows position"],
    keep: Bool[Tensor, "rows position"],
    steps: int = 150,
    batch: int = 16,
    lr: float = 1e-2,
    seed: int = 0,
    label: str = "tuned lens",
    lens: Callable[[int, int], nn.Module] = TunedLens,
    loss: Callable[[Tensor, Tensor, Tensor], Tensor] = tuned_lens_loss,
) -> tuple[nn.Module, Float[Tensor, "steps layer"]]:
    """Fits a tuned lens to a model by Adam with a learning rate that falls to zero; also returns the losses.

    The model runs once over `tokens`; every step then draws `batch` of its rows. Progress goes to stdout. `lens` and
    `loss` may be anything of the form of `TunedLens` and `tuned_lens_loss`.
    """
    with torch.no_grad():
        streams = residual_streams(model, tokens)
        final = read_out(model, streams[-1])
    fitted = lens(model.cfg.n_layers, model.cfg.d_model).to(streams.device)
    optimiser = torch.optim.Adam(fitted.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(seed)
    history = torch.zeros(steps, model.cfg.n_layers)
    with torch.enable_grad():
        for step in tqdm(range(steps), desc=label, file=sys.stdout, mininterval=1.0):
            rows = torch.randint(len(tokens), (batch,), generator=generator).to(streams.device)
            losses = loss(read_out(model, fitted(streams[:-1, rows])), final[rows], keep[rows])
            optimiser.zero_grad()
            losses.sum().backward()
            optimiser.step()
            schedule.step()
            history[step] = losses.detach().cpu()
    return fitted.requires_grad_(False), history


def mean_interval(
    values: Float[Tensor, "prompt"], level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """The mean over prompts, and the ends of its bootstrap interval (percentiles of means of redrawn prompts)."""
    generator = torch.Generator().manual_seed(seed)
    values = values.detach().cpu()
    redrawn = values[torch.randint(len(values), (draws, len(values)), generator=generator)].mean(dim=1)
    tail = (1 - level) / 2
    low, high = torch.quantile(redrawn, torch.tensor([tail, 1 - tail], dtype=redrawn.dtype)).tolist()
    return values.mean().item(), low, high


# ---- acting on what a lens shows, and asking the model itself


def erase_direction(
    model: Any,
    tokens: Int[Tensor, "batch position"],
    depth: int,
    positions: Int[Tensor, "batch"],
    directions: Float[Tensor, "batch d_model"],
) -> Float[Tensor, "batch position vocabulary"]:
    """The model's logits when its stream at a depth loses its component along a direction, at one position a prompt.

    Everything else of the stream stays, and the later layers run on. Directions may have any length but 0.
    """
    rows = torch.arange(len(tokens), device=tokens.device)
    unit = directions / directions.norm(dim=-1, keepdim=True)

    def erase(stream: Tensor, hook: Any) -> Tensor:
        edited = stream.clone()
        here = edited[rows, positions]
        edited[rows, positions] = here - (here * unit).sum(dim=-1, keepdim=True) * unit
        return edited

    return model.run_with_hooks(tokens, fwd_hooks=[(stream_hook(model, depth), erase)])


def patchscope(
    model: Any,
    source: Int[Tensor, "batch source_position"],
    source_depth: int,
    source_positions: Int[Tensor, "batch"],
    target: Int[Tensor, "batch target_position"],
    target_depth: int,
    target_positions: Int[Tensor, "batch"],
) -> Float[Tensor, "batch target_position vocabulary"]:
    """The logits on target prompts with one vector of their stream taken from source prompts (Ghandeharioun 2024).

    Prompt i of `target` runs as usual up to `target_depth`, where its position `target_positions[i]` gets what prompt
    i of `source` holds at `source_depth` and `source_positions[i]`.
    """
    rows = torch.arange(len(source), device=source.device)
    name = stream_hook(model, source_depth)
    _, cache = model.run_with_cache(source, names_filter=name)
    hidden = cache[name][rows, source_positions]

    def place(stream: Tensor, hook: Any) -> Tensor:
        edited = stream.clone()
        edited[rows, target_positions] = hidden
        return edited

    return model.run_with_hooks(target, fwd_hooks=[(stream_hook(model, target_depth), place)])


def visibility(
    directions: Float[Tensor, "*lead d_model"],
    weight: Float[Tensor, "d_model"],
    W_U: Float[Tensor, "d_model vocabulary"],
) -> Float[Tensor, "*lead"]:
    """How much the lens sees of a direction: the length of what a step along it does to the logits.

    The step passes the final LayerNorm at a fixed scale (centred, times `weight`), and a change that is the same for
    all tokens does not count: the softmax ignores it.
    """
    centred = directions - directions.mean(dim=-1, keepdim=True)
    change = centred * weight @ W_U
    return (change - change.mean(dim=-1, keepdim=True)).norm(dim=-1)


def blind_direction(
    weight: Float[Tensor, "d_model"], W_U: Float[Tensor, "d_model vocabulary"]
) -> Float[Tensor, "d_model"]:
    """The unit vector of zero mean that the lens sees least (see `visibility`). Its sign is arbitrary."""
    d_model = len(weight)
    mean = torch.ones(d_model, d_model, dtype=W_U.dtype, device=W_U.device) / d_model
    effect = weight[:, None] * (W_U - W_U.mean(dim=1, keepdim=True))
    effect = effect - mean @ effect
    scores = effect @ effect.T  # v @ scores @ v is the squared visibility of v
    # The mean is invisible too, but it is no news: lift it out of the way before looking for the smallest.
    return torch.linalg.eigh(scores + scores.trace() * mean).eigenvectors[:, 0]
