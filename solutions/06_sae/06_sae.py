# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 06 · Sparse autoencoders
#
# [▶ Open this chapter in Colab]({{colab}})
#
# **Can I find the features without being told them?**
#
# ![Twenty concepts, and the best detector of each that four methods offer](picture.png)
#
# Chapter 01 ended with a problem: a model may store more features than it has neurons, so no single neuron has to mean anything. If features are *sparse* directions, though, then activations are sums of a few vectors out of a large dictionary, and
# dictionaries can be learnt. A **sparse autoencoder** learns one: it must rebuild an activation from as few directions as possible. Bricken et al. ([2023](https://transformer-circuits.pub/2023/monosemantic-features)) and Cunningham et al. ([2023](https://arxiv.org/abs/2309.08600)) found features with it that read like words in
# an index.
#
# Do they read like that because they are there, or because we like to read? In this chapter you build the tool on a model whose features you know, take it to one whose corpus you know, and hold everything that it finds against controls that could have looked just as good.
#
# **When you are done** you can train a sparse autoencoder, say how good it is in numbers, test a feature against a concept at every level of activation, steer a model with it, and say when you would not need one.
#
# **You need** PyTorch, hooks (chapter 00), and superposition (chapter 01). **Time:** three to four hours for you, about a minute for your computer. No GPU, no network.

# %% tags=["setup"]
try:
    import mechlib
except ImportError:  # in Colab, or in a bare folder: install it once; the torch that is already there stays
    # %pip install --quiet "mechlib @ git+{{repository}}"
    import mechlib

import sys
from functools import partial

import torch
from IPython.display import HTML, display
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize
from tqdm import tqdm

from mechlib import plots, tasks
from mechlib import sae as library
from mechlib.check import borrow, check, hint, progress, reveal
from mechlib.heads import per_token_loss
from mechlib.models import load, random_twin
from mechlib.recipes import corpus
from mechlib.sae import toy
from mechlib.tasks.concepts import CONCEPTS, concept_labels

torch.manual_seed(0)  # the one seed of this notebook
generator = torch.Generator().manual_seed(0)
torch.set_num_threads(1)  # these models are so small that more threads only get into each other's way

# %% [markdown]
# **How to work.** Replace every `raise NotImplementedError` by your own lines, run the cell, and run the check under it. `hint("sae.steer")` helps a little and, called again, a little
# more. `borrow(...)` hands over the solution so that you can go on (it earns no points), and `progress()` shows how far you are.
#
# Two words: a **latent** is a unit of the autoencoder, and its activations are **codes**. A **feature** is what we hope a latent stands for. Keep them apart; half of this chapter is about the difference.

# %% [markdown]
# ## 1. Know the answer first
#
# Before you let a tool loose on a model that nobody understands, try it where you know the answer. Chapter 01's toy model squeezes 40 sparse features into 20 dimensions, $h = Wx$. We hide $x$ and $W$, keep only the vectors $h$, and ask whether the 40
# directions can be found again.
#
# First the yardstick, before there is anything to measure.
#
# ### Exercise 1 · `mean_max_cosine_similarity`
# *10 minutes, ★☆☆☆, 1 point*
#
# For every **true** direction take the cosine with the `found` direction that is most like it; return the mean of these. Which found direction belongs to which feature is not known, so all pairs have to be tried. The sign counts (a direction that points the other way is another one), lengths do not, and a vector of zeros has
# cosine 0 with anything.
#
# **In:** `found`, shape (latent, d_in), and `true`, shape (feature, d_in). **Out:** a single number (a tensor with shape ()).
#
# **Example:** `true = [[2., 0.], [0., 1.]]`, `found = [[1., 0.], [-1., 0.], [3., 3.]]`: the best cosines are 1 and 0.7071, so the result is 0.8536.


# %% exercise="sae.mean_max_cosine_similarity"
def mean_max_cosine_similarity(
    found: Float[Tensor, "latent d_in"], true: Float[Tensor, "feature d_in"]
) -> Float[Tensor, ""]:
    """The mean, over the true directions, of the cosine with the most similar found one."""
    ### BEGIN SOLUTION
    cosines = normalize(true, dim=-1) @ normalize(found, dim=-1).T
    return cosines.amax(dim=1).mean()
    ### END SOLUTION


# %% check="sae.mean_max_cosine_similarity"
check("sae.mean_max_cosine_similarity", mean_max_cosine_similarity)

# %% [markdown]
# What do the obvious candidates score: the hidden layer's own axes, its principal components, or as many random directions as we are going to train latents (80)? **Guess**: in 20 dimensions, how similar is the best of 80 *random* directions to a given one?

# %% tags=["experiment"]
N_FEATURES, N_HIDDEN, D_SAE = 40, 20, 80
toy_model = toy.toy_model(N_FEATURES, N_HIDDEN, sparsity=0.95, seed=0)
true = toy.true_directions(toy_model)
worlds = {S: toy.hidden_activations(toy_model, 40_000, S, seed=0) for S in (0.98, 0.95, 0.8, 0.6)}
hidden, features = worlds[0.95]  # what we are shown, and what is hidden from us
print(f"every feature is stored (its direction has length {true.norm(dim=1).min():.2f} to {true.norm(dim=1).max():.2f});"
      f" {(features > 0).sum(dim=1).float().mean():.1f} of {N_FEATURES} are on at once")  # fmt: skip

components = torch.linalg.svd(hidden - hidden.mean(dim=0), full_matrices=False).Vh
both_signs = lambda directions: torch.cat([directions, -directions])
guesses = {
    "the 20 axes, both signs": both_signs(torch.eye(N_HIDDEN)),
    "the 20 principal components, both signs": both_signs(components),
    "80 random directions": torch.randn(D_SAE, N_HIDDEN, generator=generator),
}
chance = mean_max_cosine_similarity(guesses["80 random directions"], true).item()
for name, directions in guesses.items():
    print(f"{name:42s}{mean_max_cosine_similarity(directions, true):.2f}")

# %% [markdown]
# So one half is *nothing*, and a number without this line would have impressed you. PCA does no better than chance: it may only choose directions at right angles, and 40 features cannot be at right angles in 20 dimensions.
#
# ## 2. A dictionary that learns
#
# ### Exercise 2 · `SAE`
# *20 minutes, ★★☆☆, 4 points (1 each for the parameters, `encode`, `decode` and `forward`)*
#
# Write the class. Four parameters: `W_enc` (d_in, d_sae), `b_enc` (d_sae,), `W_dec` (d_sae, d_in), `b_dec` (d_in,). **Row** $i$ of `W_dec` is the direction that latent $i$ writes; **column** $i$ of `W_enc` is how it is read.
#
# $$\mathrm{encode}(x) = \mathrm{ReLU}\big((x - b_{dec})\,W_{enc} + b_{enc}\big) \qquad \mathrm{decode}(c) = c\,W_{dec} + b_{dec}$$
#
# At the start both biases are 0, the rows of `W_dec` are random directions of length 1, and `W_enc` is a copy of `W_dec` transposed (a copy: each learns by itself from then on). `forward(x)` is the reconstruction.
#
# **In:** `encode`: x, shape (..., d_in); `decode`: codes, shape (..., d_sae). **Out:** `encode`: (..., d_sae); `decode` and `forward`: (..., d_in).
#
# **Example:** with `W_enc = [[1.], [0.]]`, `b_enc = [-1.]`, `W_dec = [[0., 2.]]` and `b_dec = [1., 0.]`, the input `[[5., 7.]]` has the code `[[3.]]` and the reconstruction `[[1., 6.]]`.


# %% exercise="sae.SAE"
class SAE(nn.Module):
    """A sparse autoencoder: a few latents out of many, and the directions that they write."""

    def __init__(self, d_in: int, d_sae: int):
        super().__init__()
        ### BEGIN SOLUTION
        directions = normalize(torch.randn(d_sae, d_in), dim=-1)
        self.W_dec, self.b_dec = nn.Parameter(directions), nn.Parameter(torch.zeros(d_in))
        self.W_enc, self.b_enc = nn.Parameter(directions.T.clone()), nn.Parameter(torch.zeros(d_sae))
        ### END SOLUTION

    def encode(self, x: Float[Tensor, "*lead d_in"]) -> Float[Tensor, "*lead d_sae"]:
        ### BEGIN SOLUTION
        return ((x - self.b_dec) @ self.W_enc + self.b_enc).relu()
        ### END SOLUTION

    def decode(self, codes: Float[Tensor, "*lead d_sae"]) -> Float[Tensor, "*lead d_in"]:
        ### BEGIN SOLUTION
        return codes @ self.W_dec + self.b_dec
        ### END SOLUTION

    def forward(self, x: Float[Tensor, "*lead d_in"]) -> Float[Tensor, "*lead d_in"]:
        ### BEGIN SOLUTION
        return self.decode(self.encode(x))
        ### END SOLUTION


# %% check="sae.SAE"
check("sae.SAE", SAE)

# %% [markdown]
# ### Exercise 3 · `relu_l1_loss`
# *10 minutes, ★★☆☆, 2 points*
#
# With 80 latents for 20 dimensions, rebuilding $x$ is easy; there are endless ways. What makes a dictionary is the price: every code costs `l1` times its value. The loss of one example is its squared error, summed over the dimensions, plus `l1` times the sum of its codes.
#
# **In:** `x` and `reconstruction`, shape (batch, d_in); `codes`, shape (batch, d_sae), none negative; the number `l1`. **Out:** the mean over the batch, shape ().
#
# **Example:** `x = [[1., 2.]]`, `reconstruction = [[1., 0.]]`, `codes = [[3., 0., 1.]]`, `l1 = 0.5`: 4 + 0.5 · 4 = 6.


# %% exercise="sae.relu_l1_loss"
def relu_l1_loss(
    x: Float[Tensor, "batch d_in"],
    reconstruction: Float[Tensor, "batch d_in"],
    codes: Float[Tensor, "batch d_sae"],
    l1: float,
) -> Float[Tensor, ""]:
    """Squared error plus the price of the codes, averaged over the batch."""
    ### BEGIN SOLUTION
    error = (x - reconstruction).pow(2).sum(dim=-1)
    return (error + l1 * codes.sum(dim=-1)).mean()
    ### END SOLUTION


# %% check="sae.relu_l1_loss"
check("sae.relu_l1_loss", relu_l1_loss)

# %% [markdown]
# This price can be cheated. Halve every code and double the decoder's rows: the same reconstruction at half the price, and nothing was learnt. So the rows of `W_dec` are put back to length 1 after every step. That leaves a gradient which pushes along the row, step after step, only to be undone; Adam remembers it, and takes
# it out on the rest.
#
# ### Exercise 4 · `remove_parallel_gradient`
# *15 minutes, ★★☆☆, 2 points*
#
# Return the gradient of `W_dec` without its part along each row: what is left of row $i$'s gradient stands at right angles to row $i$ of `W_dec`.
#
# **In:** `W_dec` and its `gradient`, both of shape (latent, d_in). Rows may have any length but 0. **Out:** a new tensor of that shape.
#
# **Example:** `W_dec = [[2., 0.], [3., 4.]]`, `gradient = [[5., 1.], [1., 0.]]` gives `[[0., 1.], [0.64, -0.48]]`.


# %% exercise="sae.remove_parallel_gradient"
def remove_parallel_gradient(
    W_dec: Float[Tensor, "latent d_in"], gradient: Float[Tensor, "latent d_in"]
) -> Float[Tensor, "latent d_in"]:
    """The gradient without each row's part along that row of W_dec."""
    ### BEGIN SOLUTION
    unit = normalize(W_dec, dim=-1)
    along = (gradient * unit).sum(dim=-1, keepdim=True)
    return gradient - along * unit
    ### END SOLUTION


# %% check="sae.remove_parallel_gradient"
check("sae.remove_parallel_gradient", remove_parallel_gradient)

# %% [markdown]
# Here is the whole training loop, with your three pieces in it. (`after_step` comes later.)


# %% tags=["experiment"]
def train_sae(sae, x, loss, steps=1000, lr=3e-3, batch_size=512, seed=0, unit=True, project=True, after_step=None):
    """Adam on random rows of x; the learning rate rises at the start and falls to 0 over the last fifth."""
    draws = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(sae.parameters(), lr=lr)
    ramp = lambda step: min(1.0, (step + 1) / 50, 5 * (1 - step / steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, ramp)
    for step in range(steps):
        batch = x[torch.randint(len(x), (batch_size,), generator=draws)]
        codes = sae.encode(batch)
        reconstruction = sae.decode(codes)
        total = loss(batch, reconstruction, codes)
        optimizer.zero_grad()
        total.backward()
        if project:
            sae.W_dec.grad = remove_parallel_gradient(sae.W_dec.detach(), sae.W_dec.grad)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            if unit:
                sae.W_dec.copy_(normalize(sae.W_dec, dim=-1))
            if after_step:
                after_step(step + 1, sae, batch, reconstruction, codes, optimizer)
    return sae


def fresh(kind, *sizes, seed=0):
    """A new autoencoder whose start the seed decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(*sizes)


def cosines(sae):
    return normalize(true, dim=-1) @ normalize(sae.W_dec.detach(), dim=-1).T


SEEDS = (0, 1, 2)
price = partial(relu_l1_loss, l1=0.2)
ways = {
    "rows of length 1, your gradient": {},
    "rows of length 1, plain gradient": {"project": False},
    "rows of any length": {"project": False, "unit": False},
}
trained = {
    (name, seed): train_sae(fresh(SAE, N_HIDDEN, D_SAE, seed=seed), hidden, price, steps=1200, seed=seed, **options)
    for (name, options), seed in tqdm(
        [(way, seed) for way in ways.items() for seed in SEEDS], desc="nine autoencoders", file=sys.stdout
    )
}
for name in ways:
    found = [mean_max_cosine_similarity(trained[name, seed].W_dec.detach(), true).item() for seed in SEEDS]
    lengths = [trained[name, seed].W_dec.norm(dim=1).mean().item() for seed in SEEDS]
    print(f"{name:34s} MMCS of three seeds: {', '.join(f'{m:.3f}' for m in found)}; mean length of a row {sum(lengths) / 3:.2f}")

# %% tags=["experiment", "finding"]
best_way = [mean_max_cosine_similarity(trained["rows of length 1, your gradient", s].W_dec.detach(), true).item() for s in SEEDS]
plain_way = [mean_max_cosine_similarity(trained["rows of length 1, plain gradient", s].W_dec.detach(), true).item() for s in SEEDS]
free_way = [mean_max_cosine_similarity(trained["rows of any length", s].W_dec.detach(), true).item() for s in SEEDS]
print("The true features are found, MMCS at least 0.95 with every seed:", all(m >= 0.95 for m in best_way))
print("Random directions, the control, reach 0.7:", chance >= 0.7)
print("Your gradient is better than the plain one, on average:", sum(best_way) > sum(plain_way))
print("Rows of any length are worst with every seed:", all(f < min(b, p) for f, b, p in zip(free_way, best_way, plain_way)))

# %% tags=["experiment"]
plots.plot_found(
    {"trained (seed 0)": cosines(trained["rows of length 1, your gradient", 0]),
     "random directions": normalize(true, dim=-1) @ normalize(guesses["80 random directions"], dim=-1).T},
    "Trained, every feature has a latent of its own; among random directions there is none",
)  # fmt: skip

# %% [markdown]
# All forty directions are back, and nobody told the autoencoder what they were, or how many. That is the promise.
#
# ## 3. Found, split, missed
#
# Now break it. A usual measure of an autoencoder, where nobody knows the truth, is how much of the activations it explains.
#
# ### Exercise 5 · `explained_variance`
# *10 minutes, ★☆☆☆, 1 point*
#
# 1 less the sum of the squared errors, as a share of the sum of the squares of `x` around its **mean vector**. Always answering the mean explains 0, a perfect reconstruction 1. All sums run over rows and dimensions together.
#
# **In:** `x` and `reconstruction`, shape (row, d_in). **Out:** shape ().
#
# **Example:** `x = [[0., 0.], [2., 4.]]` has the mean `[1., 2.]` and squares 10 around it; with `reconstruction = [[0., 1.], [2., 4.]]` the result is 0.9.


# %% exercise="sae.explained_variance"
def explained_variance(x: Float[Tensor, "row d_in"], reconstruction: Float[Tensor, "row d_in"]) -> Float[Tensor, ""]:
    """The share of x's variance that the reconstruction explains."""
    ### BEGIN SOLUTION
    error = (x - reconstruction).pow(2).sum()
    return 1 - error / (x - x.mean(dim=0)).pow(2).sum()
    ### END SOLUTION


# %% check="sae.explained_variance"
check("sae.explained_variance", explained_variance)

# %% [markdown]
# And a second kind of autoencoder, so that whatever breaks is not one recipe's fault. The L1 price has a side effect: it is always paying to make codes *smaller*, not only fewer. Gao et al. ([2024](https://arxiv.org/abs/2406.04093)) drop the price and say how many may be on.
#
# ### Exercise 6 · `topk_activation`
# *15 minutes, ★★☆☆, 2 points*
#
# Keep the `k` largest pre-activations of each row (the last axis), 0 everywhere else. What is kept goes through a ReLU: if fewer than `k` are positive, fewer stay.
#
# **In:** `pre`, shape (..., d_sae), and `k`. **Out:** the same shape.
#
# **Example:** `topk_activation(torch.tensor([[3., -1., 2., 5.], [-2., -1., 4., -3.]]), 2)` is `[[3., 0., 0., 5.], [0., 0., 4., 0.]]`.


# %% exercise="sae.topk_activation"
def topk_activation(pre: Float[Tensor, "*lead d_sae"], k: int) -> Float[Tensor, "*lead d_sae"]:
    """The k largest of each row, those that are positive; 0 elsewhere."""
    ### BEGIN SOLUTION
    values, indices = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, indices, values.relu())
    ### END SOLUTION


# %% check="sae.topk_activation"
check("sae.topk_activation", topk_activation)

# %% [markdown]
# **Predict.** The worlds get denser: first 1 in 50 features is on, then 1 in 20, 1 in 5, and 2 in 5. At which density does it go wrong? What will explained variance say there? And in the world that worked, what happens with 20 latents for 40 features, and with 160?


# %% tags=["experiment"]
class TopKSAE(SAE):
    """Your autoencoder with your TopK in place of the ReLU."""

    def __init__(self, d_in, d_sae, k):
        super().__init__(d_in, d_sae)
        self.k = k

    def encode(self, x):
        return topk_activation((x - self.b_dec) @ self.W_enc + self.b_enc, self.k)


def squared_error(x, reconstruction, codes):
    return (x - reconstruction).pow(2).sum(dim=-1).mean()


@torch.no_grad()
def judged(sae, x):
    """How well the features were found, how much is explained, and how many latents each found feature has."""
    codes = sae.encode(x[:10_000])
    alive = (codes > 0).any(dim=0)
    copies = (cosines(sae)[:, alive] > 0.9).sum(dim=1)
    return {
        "MMCS": mean_max_cosine_similarity(sae.W_dec.detach()[alive], true).item(),
        "explained": explained_variance(x[:10_000], sae.decode(codes)).item(),
        "L0": library.l0(codes).item(),
        "split": (copies > 1).float().mean().item(),
    }


jobs = [(S, D_SAE, kind, seed) for S in worlds for kind in ("ReLU + L1", "TopK") for seed in SEEDS]
jobs += [(0.95, d_sae, "ReLU + L1", seed) for d_sae in (20, 160) for seed in SEEDS]
sweep = {}
for S, d_sae, kind, seed in tqdm(jobs, desc="autoencoders", file=sys.stdout):
    if kind == "TopK":  # the most favourable k: as many as are really on
        sae, loss = fresh(TopKSAE, N_HIDDEN, d_sae, max(1, round((1 - S) * N_FEATURES)), seed=seed), squared_error
    else:
        sae, loss = fresh(SAE, N_HIDDEN, d_sae, seed=seed), price
    train_sae(sae, worlds[S][0], loss, steps=1000 if d_sae == D_SAE else 1500, seed=seed)
    sweep[S, d_sae, kind, seed] = judged(sae, worlds[S][0])


def of(measure, S=0.95, d_sae=D_SAE, kind="ReLU + L1"):
    return [sweep[S, d_sae, kind, seed][measure] for seed in SEEDS]


densities = [round((1 - S) * N_FEATURES, 1) for S in worlds]
plots.plot_panels(
    densities,
    {"features found (MMCS)": {kind: [of("MMCS", S, kind=kind) for S in worlds] for kind in ("ReLU + L1", "TopK")},
     "variance explained": {kind: [of("explained", S, kind=kind) for S in worlds] for kind in ("ReLU + L1", "TopK")}},
    "features on at once, of 40 (80 latents)",
    "Where features are dense none is found, while the variance stays explained",
    reference={"features found (MMCS)": (chance, "random directions")},
)  # fmt: skip

# %% tags=["experiment"]
widths = [20, 80, 160]
plots.plot_panels(
    widths,
    {"features found (MMCS)": {"ReLU + L1": [of("MMCS", d_sae=d) for d in widths]},
     "share of features with several latents": {"ReLU + L1": [of("split", d_sae=d) for d in widths]}},
    "latents, for 40 features",
    "Too few latents miss features; too many split them",
)  # fmt: skip

# %% tags=["experiment", "finding"]
print("Two features on at once: MMCS at least 0.95 with every seed, both kinds:",
      min(of("MMCS") + of("MMCS", kind="TopK")) >= 0.95)  # fmt: skip
print("Sixteen on at once: MMCS within 0.07 of random directions, with every seed, both kinds:",
      max(of("MMCS", 0.6) + of("MMCS", 0.6, kind="TopK")) < chance + 0.07)  # fmt: skip
print("... while both explain more than 90% of the variance:", min(of("explained", 0.6) + of("explained", 0.6, kind="TopK")) > 0.9)
print("Fewer latents than features: many are missed, with every seed (MMCS below 0.7):", max(of("MMCS", d_sae=20)) < 0.7)
print("Four times as many latents: some features are split, with every seed:", min(of("split", d_sae=160)) > 0)

# %% [markdown]
# Three ways to fail, and only one of them shows in the usual measure:
#
# - **Missed** because there are too few latents: each one goes for one feature, or for a compromise between several.
# - **Split** because there are too many: a feature gets two or three latents which share its activations, and no single one of them has its full recall.
# - **Missed because the world is dense.** With sixteen features on at once in twenty dimensions, "a few directions out of many" is not true any more, and cheaper descriptions exist than the true one. More training or another recipe would not help: the assumption is broken, not the optimiser. **And the variance is explained best exactly there.**
#
# What would have fooled us: reading the explained variance. On a real model it is the number that one has.
#
# ### In your own words · 1
# *2 points, graded by a person*
#
# A colleague trains an autoencoder on a large model. It explains 97% of the variance with 40 latents active at once, and he concludes that it "found the model's features". Which two things does his number not tell him? Name one measurement, possible without knowing the truth, that would raise or lower your trust.

# %% [markdown] question="sae.words-variance" points=2
# It does not tell him that the latents are the model's own features: in the dense toy world the variance is explained best where no feature is found, since any rich dictionary with enough active latents can rebuild vectors in few dimensions. Nor does it tell him whether the 3% that is missing matters to the model, or whether one feature is one latent (splitting).
# Measurements without the truth: train with another seed and see whether the same directions come back (in the dense world they would not); the same measure on a model with random weights, or shuffled activations, as a control; the loss that the model recovers with the reconstruction in place; whether clamping a latent does what its top examples suggest, on new prompts; precision *and* recall against a concept at all
# levels of activation.
#
# *Rubric: 1 point for "explained variance does not show that the directions are the true ones" (with a reason or the toy as evidence) and a second gap, such as what the rest carries, or splitting; 1 point for a measurement that could have come out against him, with its control.*

# %% [markdown]
# ### Small codes
#
# TopK has no price on size. Does it matter? Look at how large the features come back, and meet the third kind: Rajamanoharan et al. ([2024](https://arxiv.org/abs/2407.14435)) let each latent learn a **threshold**; what exceeds it passes unchanged.
#
# ### Exercise 7 · `jumprelu` (optional, hard)
# *35 minutes, ★★★★, 3 points*
#
# Return `pre` where it is greater than its latent's threshold, else 0. The gradient for `pre` is the natural one. A comparison has no gradient for the threshold, so it gets a stand-in: with an incoming gradient $g$ for an output, its latent's threshold $\theta$ receives
#
# $$-\frac{\theta}{\varepsilon}\, g \quad\text{where } |\mathrm{pre} - \theta| < \varepsilon/2 \text{, else } 0,$$
#
# added up over all rows, with $\varepsilon$ the `bandwidth`: only values that are just about to change sides have a say.
#
# **In:** `pre`, shape (..., d_sae); `threshold`, shape (d_sae,), positive; `bandwidth`. **Out:** shape (..., d_sae).
#
# **Example:** `pre = [[1.2, 0.4], [0.9, 3.]]`, `threshold = [1., 2.]`, `bandwidth = 0.5` give `[[1.2, 0.], [0., 3.]]`; after `.sum().backward()` the gradient of `threshold` is `[-4., 0.]`.
#
# **Short of time?** Write `jumprelu = borrow("sae.jumprelu")` in its place: the next cell needs it.


# %% exercise="sae.jumprelu"
def jumprelu(
    pre: Float[Tensor, "*lead d_sae"], threshold: Float[Tensor, "d_sae"], bandwidth: float
) -> Float[Tensor, "*lead d_sae"]:
    """`pre` where it exceeds its threshold, else 0, with a straight-through gradient for the threshold."""
    ### BEGIN SOLUTION
    near = (pre - threshold).abs() < bandwidth / 2
    slope = (-threshold / bandwidth * near).detach()
    return pre * (pre > threshold) + slope * (threshold - threshold.detach())
    ### END SOLUTION


# %% check="sae.jumprelu"
check("sae.jumprelu", jumprelu)


# %% tags=["experiment"]
class JumpReLUSAE(SAE):
    """Your autoencoder with your JumpReLU; the price is on the *number* of active latents."""

    def __init__(self, d_in, d_sae, threshold=0.2, bandwidth=0.2):
        super().__init__(d_in, d_sae)
        self.log_threshold = nn.Parameter(torch.full((d_sae,), threshold).log())
        self.bandwidth = bandwidth

    def encode(self, x):
        self.pre = (x - self.b_dec) @ self.W_enc + self.b_enc
        return jumprelu(self.pre, self.log_threshold.exp(), self.bandwidth)

    def loss(self, x, reconstruction, codes):
        active = library.heaviside(self.pre, self.log_threshold.exp(), self.bandwidth)
        return squared_error(x, reconstruction, codes) + 0.02 * active.sum(dim=-1).mean()


jumping = fresh(JumpReLUSAE, N_HIDDEN, D_SAE)
kinds = {
    "ReLU + L1": trained["rows of length 1, your gradient", 0],
    "TopK (k = 2)": train_sae(fresh(TopKSAE, N_HIDDEN, D_SAE, 2), hidden, squared_error, steps=1200),
    "JumpReLU": train_sae(jumping, hidden, jumping.loss, steps=1200),
}
sizes = {}
for name, sae in kinds.items():
    with torch.no_grad():
        mine = sae.encode(hidden)[:, cosines(sae).argmax(dim=1)]  # for each feature, the latent most like it
    right = features * true.norm(dim=1)
    sizes[name] = ((mine * right).sum() / right.square().sum()).item()
    numbers = judged(sae, hidden)
    print(f"{name:14s} MMCS {numbers['MMCS']:.3f}   explained {numbers['explained']:.3f}   L0 {numbers['L0']:.1f} (true: 2.0)"
          f"   a feature comes back at {sizes[name]:.2f} of its size")  # fmt: skip

# %% tags=["experiment", "finding"]
print("With the L1 price features come back at less than 0.8 of their size:", sizes["ReLU + L1"] < 0.8)
print("With JumpReLU at more than 0.88:", sizes["JumpReLU"] > 0.88)
