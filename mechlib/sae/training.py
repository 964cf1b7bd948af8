"""Train a sparse autoencoder on activations.

What is special about it: the decoder's rows are kept at length 1 (so a code is a length along its feature's
direction), and latents that never fire any more are given a new start where the reconstruction is worst.
"""

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from mechlib.sae.measures import explained_variance, l0
from mechlib.sae.model import SAE, jumprelu_l0_loss, relu_l1_loss, squared_error

# Fills in the gradients of an SAE on a batch, and returns the loss, the reconstruction and the codes.
Gradients = Callable[[SAE, Tensor, float], tuple[Tensor, Tensor, Tensor]]
Record = dict[str, float]


def plain_gradients(sae: SAE, x: Float[Tensor, "batch d_in"], sparsity: float) -> tuple[Tensor, Tensor, Tensor]:
    """Let autograd fill in the gradients of the SAE's own loss; returns loss, reconstruction and codes, detached.

    `sparsity` weighs the L1 penalty of "relu" and the L0 penalty of "jumprelu"; "topk" needs none.
    """
    pre = sae.pre_activations(x)
    codes = sae.activate(pre)
    reconstruction = sae.decode(codes)
    if sae.activation == "relu":
        loss = relu_l1_loss(x, reconstruction, codes, sparsity)
    elif sae.activation == "jumprelu":
        loss = jumprelu_l0_loss(x, reconstruction, pre, sae.threshold, sparsity, sae.bandwidth)
    else:
        loss = squared_error(x, reconstruction)
    sae.zero_grad()
    loss.backward()
    return loss.detach(), reconstruction.detach(), codes.detach()


# ---- the decoder's rows


def remove_parallel_gradient(
    W_dec: Float[Tensor, "latent d_in"], gradient: Float[Tensor, "latent d_in"]
) -> Float[Tensor, "latent d_in"]:
    """The gradient without each row's component along that row of W_dec.

    That component would only change the row's length, which is put back to 1 after every step; in Adam's averages it
    would go on disturbing the others (Bricken 2023). Rows need not have length 1, but may not be 0.
    """
    along = (gradient * W_dec).sum(dim=1, keepdim=True) / W_dec.square().sum(dim=1, keepdim=True)
    return gradient - along * W_dec


@torch.no_grad()
def normalise_decoder(sae: SAE) -> None:
    """Put the decoder's rows back to length 1, in place."""
    sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))


# ---- dead latents


def resample_dead(
    W_enc: Float[Tensor, "d_in latent"],
    b_enc: Float[Tensor, "latent"],
    W_dec: Float[Tensor, "latent d_in"],
    b_dec: Float[Tensor, "d_in"],
    dead: Bool[Tensor, "latent"],
    x: Float[Tensor, "batch d_in"],
    losses: Float[Tensor, "batch"],
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "d_in latent"], Float[Tensor, "latent"], Float[Tensor, "latent d_in"]]:
    """New W_enc, b_enc and W_dec in which every dead latent points at something that is reconstructed badly (Bricken
    2023). The tensors that come in stay as they are.

    Each dead latent draws a row of x with probability in proportion to the square of its loss. Its decoder row becomes
    the direction of that row from b_dec; its encoder column the same direction, 0.2 times as long as the living ones
    are on average (1 if none lives); its encoder bias 0. Some loss has to be positive.
    """
    W_enc, b_enc, W_dec = W_enc.clone(), b_enc.clone(), W_dec.clone()
    n_dead = int(dead.sum())
    if n_dead == 0:
        return W_enc, b_enc, W_dec
    rows = torch.multinomial(losses.square(), n_dead, replacement=True, generator=generator)
    directions = x[rows] - b_dec
    directions /= directions.norm(dim=1, keepdim=True)
    alive = W_enc[:, ~dead].norm(dim=0)
    length = 0.2 * alive.mean() if len(alive) else torch.ones(())
    W_dec[dead] = directions
    W_enc[:, dead] = (length * directions).T
    b_enc[dead] = 0
    return W_enc, b_enc, W_dec


@torch.no_grad()
def _resample(
    sae: SAE, x: Tensor, dead: Tensor, generator: torch.Generator | None, optimizer: torch.optim.Optimizer
) -> None:
    """`resample_dead` in place; the optimizer forgets what it knew of the entries that changed."""
    losses = (x - sae(x)).square().sum(dim=1)
    if not losses.sum() > 0:  # nothing is reconstructed badly
        return
    old = (sae.W_enc, sae.b_enc, sae.W_dec)
    for parameter, value in zip(old, resample_dead(*old, sae.b_dec, dead, x, losses, generator)):
        parameter.copy_(value)
    for parameter, at in ((sae.W_dec, dead), (sae.W_enc, (slice(None), dead)), (sae.b_enc, dead)):
        for average in ("exp_avg", "exp_avg_sq"):
            if parameter in optimizer.state:
                optimizer.state[parameter][average][at] = 0


# ---- the loop


def train(
    sae: SAE,
    activations: Float[Tensor, "row d_in"],
    steps: int = 2000,
    batch_size: int = 4096,
    lr: float = 1e-3,
    sparsity: float = 0.0,
    resample_every: int = 0,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    save_every: int = 200,
    record_every: int = 50,
    on_record: Callable[[list[Record]], Any] | None = None,
    gradients: Gradients = plain_gradients,
    label: str = "training",
    quiet: bool = False,
) -> list[Record]:
    """Train an SAE in place with Adam on rows drawn at random, and return its history.

    The activations are scaled to a mean squared length of d_in for the training, so that `lr` and `sparsity` mean the
    same for any site; afterwards the SAE works on them as they are. The learning rate rises over the first 5% of the
    steps and falls to 0 in a line over the last 20%; `sparsity` rises over the first 5%. Every `resample_every`
    steps of the first half (0: never), latents that have not fired since the last time are resampled.

    A record, every `record_every` steps: "step", "loss", "explained_variance" and "l0" of the current batch, and
    "dead", the share of latents that have not fired since the record before. `on_record(history)` is called after
    each, to draw live curves for example; the progress bar is on stdout.

    With a `checkpoint` file, the state is saved every `save_every` steps, and a run that was killed goes on from there
    when it is called again with the same arguments; it ends as if nothing had happened.

    Raises ValueError for no activations, another width than the SAE's, or a checkpoint of another run;
    FloatingPointError, with the step, when the loss is not finite any more.
    """
    _check(sae, activations)
    scale = (activations.square().sum(dim=1).mean() / sae.d_in).sqrt().item()
    if not 0 < scale < math.inf:
        raise FloatingPointError("the activations are all 0 or not all finite: look at the model that they come from.")
    if sae.b_dec.any():  # it has been trained before: back to training's scale
        sae.for_larger(1 / scale)
    else:
        sae.b_dec.data.copy_(activations.mean(dim=0) / scale)
    normalise_decoder(sae)
    optimizer = torch.optim.Adam(sae.parameters(), lr=lr, fused=True)
    run: dict[str, Any] = {"d_in": sae.d_in, "d_sae": sae.d_sae, "activation": sae.activation, "k": sae.k}
    run |= {"steps": steps, "batch_size": batch_size, "lr": lr, "sparsity": sparsity, "scale": scale, "seed": seed}
    run |= {"rows": len(activations), "resample_every": resample_every}
    file = Path(checkpoint) if checkpoint is not None else None
    first, history, fired = _resume(file, run, sae, optimizer)

    bar = tqdm(range(first, steps), desc=label, initial=first, total=steps, file=sys.stdout, disable=quiet)
    try:
        for step in bar:
            draws = torch.Generator().manual_seed(seed * 1_000_003 + step)  # of the step alone: see `checkpoint`
            x = activations[torch.randint(len(activations), (batch_size,), generator=draws)] / scale
            for group in optimizer.param_groups:
                group["lr"] = lr * _ramp(step, steps) * min(1, 5 * (1 - step / steps))
            loss, reconstruction, codes = gradients(sae, x, sparsity * _ramp(step, steps))
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss.item()} at step {step}: lower the learning rate (it is {lr:g}) and start again."
                )
            _update(sae, optimizer)
            fired |= (codes > 0).any(dim=0)
            done = step + 1
            if resample_every and done % resample_every == 0:
                if done <= steps // 2:
                    _resample(sae, x, ~fired[0], draws, optimizer)
                fired[0] = False
            if done % record_every == 0 or done == steps:
                record = {"step": done, "loss": loss.item(), "l0": l0(codes).item()}
                record["explained_variance"] = explained_variance(x, reconstruction).item()
                record["dead"] = 1 - fired[1].float().mean().item()
                fired[1] = False
                history.append(record)
                bar.set_postfix({name: f"{value:.3g}" for name, value in record.items() if name != "step"})
                if on_record is not None:
                    on_record(history)
            if file is not None and (done % save_every == 0 or done == steps):
                state = {"run": run, "step": done, "history": history, "fired": fired}
                _save(file, state | {"sae": sae.state_dict(), "optimizer": optimizer.state_dict()})
    finally:  # also when somebody stops it by hand
        sae.zero_grad()
        sae.for_larger(scale)
    return history


def _update(sae: SAE, optimizer: torch.optim.Optimizer) -> None:
    """A step of the optimizer that turns the decoder's rows and does not stretch them."""
    assert sae.W_dec.grad is not None
    sae.W_dec.grad = remove_parallel_gradient(sae.W_dec.detach(), sae.W_dec.grad)
    optimizer.step()
    normalise_decoder(sae)


def _ramp(step: int, steps: int) -> float:
    """From almost 0 to 1 over the first 5% of the steps."""
    return min(1.0, (step + 1) / max(1, steps // 20))


def _check(sae: SAE, activations: Tensor) -> None:
    if activations.ndim != 2:
        raise ValueError(
            f"the activations have shape {tuple(activations.shape)}: give one row an activation, for example with "
            "activations.flatten(0, -2)."
        )
    if not activations.is_floating_point():
        raise ValueError(f"the activations are of type {activations.dtype}: make them activations.float().")
    if len(activations) == 0:
        raise ValueError("there are no activations to train on: the data set is empty.")
    if activations.shape[1] != sae.d_in:
        raise ValueError(
            f"the activations have width {activations.shape[1]}, and the SAE was made for width {sae.d_in}: "
            f"make it with SAE({activations.shape[1]}, ...)."
        )


def _save(file: Path, state: dict[str, Any]) -> None:
    """A kill while writing leaves the old file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, file.with_suffix(".new"))
    os.replace(file.with_suffix(".new"), file)


def _resume(
    file: Path | None, run: dict[str, Any], sae: SAE, optimizer: torch.optim.Optimizer
) -> tuple[int, list[Record], Bool[Tensor, "2 latent"]]:
    """The step to go on with, the history, and which latents have fired since the last resampling (row 0) and since
    the last record (row 1); from the checkpoint if there is one."""
    if file is None or not file.exists():
        return 0, [], torch.zeros(2, sae.d_sae, dtype=torch.bool)
    try:
        state: dict[str, Any] = torch.load(file, weights_only=True)
        state["run"], state["sae"], state["optimizer"]
    except Exception:  # torch.load raises many classes
        raise ValueError(f"{file} is damaged, or no checkpoint of a training: delete it, and start again.") from None
    if state["run"] != run:
        changed = ", ".join(f"{name} {state['run'].get(name)}" for name in run if state["run"].get(name) != run[name])
        raise ValueError(f"{file} holds another run ({changed}): choose another checkpoint file, or delete this one.")
    sae.load_state_dict(state["sae"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["history"], state["fired"]
