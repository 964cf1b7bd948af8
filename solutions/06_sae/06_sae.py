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
# ![Twenty concepts, and how well the best unit of each kind finds them](picture.png)
#
# Chapter 01 ended with a problem: a model may store more features than it has neurons, so no neuron has to mean anything. But if features are *sparse* directions, activations are sums of a few vectors out of a large dictionary,
# and a **sparse autoencoder** learns it: it must rebuild each activation from few directions. Bricken et al. ([2023](https://transformer-circuits.pub/2023/monosemantic-features)) and Cunningham et al. ([2023](https://arxiv.org/abs/2309.08600)) found features that read like words in an index.
#
# Are they in the model, or do we see them because we like to read? You try the tool where the features are known, then where the corpus is, and hold all that it finds against controls that could have looked as good.
#
# **When you are done** you can train a sparse autoencoder, say how good it is in numbers, test a feature against a concept at every level of activation, steer a model with it, and say when you would not need one.
#
# **You need** PyTorch, hooks (chapter 00), and superposition (chapter 01). **Time:** three to four hours for you, a minute or two for your computer. No GPU, no network.

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
from mechlib.feature_page import feature_page
from mechlib.heads import per_token_loss
from mechlib.models import load, random_twin
from mechlib.recipes import corpus
from mechlib.sae import toy
from mechlib.tasks.concepts import CITIES, CONCEPTS, NAMES, concept_labels

torch.manual_seed(0)  # the one seed of this notebook
generator = torch.Generator().manual_seed(0)
torch.set_num_threads(1)  # these models are so small that more threads only get into each other's way

# %% [markdown]
# **How to work.** Replace every `raise NotImplementedError` by your own lines, run the cell, and run the check under it. `hint("sae.steer")` helps a little and, called again, a little
# more. `borrow(...)` hands over the solution so that you can go on (it earns no points), and `progress()` shows how far you are.
#
# Two words: a **latent** is a unit of the autoencoder, and its activations are **codes**. A **feature** is what we hope a latent stands for. Half of this chapter is about the difference.

# %% [markdown]
# ## 1. Know the answer first
#
# Chapter 01's toy model squeezes 40 sparse features into 20 dimensions, $h = Wx$. We hide $x$ and $W$, keep only the vectors $h$, and ask for the 40 directions.
#
# First the yardstick.
#
# ### Exercise 1 · `mean_max_cosine_similarity`
# *10 minutes, ★☆☆☆, 1 point*
#
# For every **true** direction take the cosine with the `found` direction that is most like it; return the mean of these (MMCS for short). Which found direction belongs to which feature is not known, so all pairs have to be tried. The sign counts (a direction that points the other way is another one), lengths do not, and a vector of zeros has
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
# What do the obvious candidates score: the hidden layer's axes, its principal components, and as many random directions as we shall train latents? **Guess** the last: in 20 dimensions, how similar is the best of 80 *random* directions to a given one?

# %% tags=["experiment"]
N_FEATURES, N_HIDDEN, D_SAE = 40, 20, 80
toy_model = toy.toy_model(N_FEATURES, N_HIDDEN, sparsity=0.95, seed=0)
true = toy.true_directions(toy_model)
worlds = {S: toy.hidden_activations(toy_model, 40_000, S, seed=0) for S in (0.95, 0.8, 0.6)}
hidden, features = worlds[0.95]  # what we are shown, and what is hidden from us
print(f"every feature is stored (its direction has length {true.norm(dim=1).min():.2f} to {true.norm(dim=1).max():.2f});"
      f" {(features > 0).sum(dim=1).float().mean():.1f} of {N_FEATURES} are on at once")  # fmt: skip

components = torch.linalg.svd(hidden - hidden.mean(dim=0), full_matrices=False).Vh
guesses = {
    "the 20 axes, both signs": torch.cat([torch.eye(N_HIDDEN), -torch.eye(N_HIDDEN)]),
    "the 20 principal components, both signs": torch.cat([components, -components]),
    "80 random directions": torch.randn(D_SAE, N_HIDDEN, generator=generator),
}
chance = mean_max_cosine_similarity(guesses["80 random directions"], true).item()
for name, directions in guesses.items():
    print(f"{name:42s}{mean_max_cosine_similarity(directions, true):.2f}")

# %% [markdown]
# So one half is *nothing*. PCA does hardly better than chance: its directions are at right angles, and 40 features cannot be at right angles in 20 dimensions.
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
# With 80 latents for 20 dimensions, rebuilding $x$ is easy; there are endless ways. A price makes one of them a dictionary: every code costs `l1` times its value. The loss of one example is its squared error, summed over the dimensions, plus `l1` times the sum of its codes.
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
# This price can be cheated: halve every code, double the decoder's rows, and the same reconstruction costs half. So the rows of `W_dec` are put back to length 1 after every step. What the gradient does along a row is then undone each time; but Adam still sizes its steps by it.
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
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 50, 5 * (1 - step / steps))
    )
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
    print(
        f"{name:34s} MMCS of three seeds: {', '.join(f'{m:.3f}' for m in found)}; mean length of a row {sum(lengths) / 3:.2f}"
    )

# %% tags=["experiment", "finding"]
best_way = [
    mean_max_cosine_similarity(trained["rows of length 1, your gradient", s].W_dec.detach(), true).item() for s in SEEDS
]
plain_way = [
    mean_max_cosine_similarity(trained["rows of length 1, plain gradient", s].W_dec.detach(), true).item()
    for s in SEEDS
]
free_way = [mean_max_cosine_similarity(trained["rows of any length", s].W_dec.detach(), true).item() for s in SEEDS]
print("The true features are found, MMCS at least 0.95 with every seed:", all(m >= 0.95 for m in best_way))
print("Random directions, the control, reach 0.7:", chance >= 0.7)
print("Your gradient is better than the plain one, on average:", sum(best_way) > sum(plain_way))
print(
    "Rows of any length are worst with every seed:",
    all(f < min(b, p) for f, b, p in zip(free_way, best_way, plain_way)),
)

# %% tags=["experiment"]
plots.plot_found(
    {"trained (seed 0)": cosines(trained["rows of length 1, your gradient", 0]),
     "random directions": normalize(true, dim=-1) @ normalize(guesses["80 random directions"], dim=-1).T},
    "Trained, every feature has a latent of its own; among random directions there is none",
)  # fmt: skip

# %% [markdown]
# All forty directions are back, and nobody told the autoencoder how many there were.
#
# ## 3. Found, split, missed
#
# Now break it. Where nobody knows the truth, the usual measure is how much of the activations is explained.
#
# ### Exercise 5 · `explained_variance`
# *10 minutes, ★☆☆☆, 1 point*
#
# 1 minus a fraction: the sum of the squared errors over the sum of the squares of `x` around its **mean vector**. Always answering the mean explains 0, a perfect reconstruction 1. All sums run over rows and dimensions together.
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
# And a second kind of autoencoder, lest it be one recipe's fault. The L1 price makes codes *smaller*, not only fewer, so Gao et al. ([2024](https://arxiv.org/abs/2406.04093)) drop it and say how many may be on.
#
# ### Exercise 6 · `topk_activation`
# *15 minutes, ★★☆☆, 2 points*
#
# Keep the `k` largest pre-activations of each row (the last axis), 0 everywhere else. What is kept goes through a ReLU: if fewer than `k` are positive, fewer stay. Of equal values any may be kept, but never more than `k` in all.
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
# **Predict.** The worlds get denser: 1 in 20 features is on, 1 in 5, and 2 in 5. Where does it go wrong, and what will explained variance say there? And in the world that worked, what happens with 20 latents for 40 features, and with 160?


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
    """How well the features were found, how much is explained, how many are split, and how many latents are dead."""
    codes = sae.encode(x[:10_000])
    alive = (codes > 0).any(dim=0)
    copies = (cosines(sae)[:, alive] > 0.9).sum(dim=1)
    return {
        "MMCS": mean_max_cosine_similarity(sae.W_dec.detach()[alive], true).item(),
        "explained": explained_variance(x[:10_000], sae.decode(codes)).item(),
        "L0": library.l0(codes).item(),
        "split": (copies > 1).float().mean().item(),
        "dead": 1 - alive.float().mean().item(),
    }


sweep = {
    (0.95, D_SAE, "ReLU + L1", seed): judged(trained["rows of length 1, your gradient", seed], hidden) for seed in SEEDS
}  # we have those
jobs = [(S, D_SAE, kind, seed) for S in worlds for kind in ("ReLU + L1", "TopK") for seed in SEEDS]
jobs += [(0.95, d_sae, "ReLU + L1", seed) for d_sae in (20, 160) for seed in SEEDS]
jobs = [job for job in jobs if job not in sweep]
for S, d_sae, kind, seed in tqdm(jobs, desc="autoencoders", file=sys.stdout):
    if kind == "TopK":  # the most favourable k: as many as are really on
        sae, loss = fresh(TopKSAE, N_HIDDEN, d_sae, max(1, round((1 - S) * N_FEATURES)), seed=seed), squared_error
    else:
        sae, loss = fresh(SAE, N_HIDDEN, d_sae, seed=seed), price
    steps = 1500 if d_sae > D_SAE else 1000 if S < 0.95 else 700  # until little changes any more
    train_sae(sae, worlds[S][0], loss, steps=steps, seed=seed)
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
     "share of features split": {"ReLU + L1": [of("split", d_sae=d) for d in widths]},
     "variance explained": {"ReLU + L1": [of("explained", d_sae=d) for d in widths]}},
    "latents, for 40 features",
    "Too few latents miss features; too many split them",
)  # fmt: skip

# %% tags=["experiment", "finding"]
print("Two features on at once: MMCS at least 0.95 with every seed, both kinds:",
      min(of("MMCS") + of("MMCS", kind="TopK")) >= 0.95)  # fmt: skip
print("Sixteen on at once: MMCS within 0.07 of random directions, with every seed, both kinds:",
      max(of("MMCS", 0.6) + of("MMCS", 0.6, kind="TopK")) < chance + 0.07)  # fmt: skip
print(
    "... while both explain more than 90% of the variance:",
    min(of("explained", 0.6) + of("explained", 0.6, kind="TopK")) > 0.9,
)
print(
    "Fewer latents than features: many are missed, with every seed (MMCS below 0.7):", max(of("MMCS", d_sae=20)) < 0.7
)
print("Four times as many latents: some features are split, with every seed:", min(of("split", d_sae=160)) > 0)

# %% [markdown]
# Three ways to fail, and only the first shows in the usual measure:
#
# - **Missed**, with too few latents.
# - **Split**, with too many: a feature gets several latents that point nearly its way.
# - **Missed because the world is dense.** With sixteen features on at once in twenty dimensions, "a few directions out of many" is no longer true. Both recipes fail (with eight on, TopK, told how many, still holds): the assumption is broken, not the optimiser. **And the variance stays explained.**
#
# Explained variance is the number that one has on a real model.
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
# How much does the price shrink what it finds? And meet the third kind: Rajamanoharan et al. ([2024](https://arxiv.org/abs/2407.14435)) let each latent learn a **threshold**; what exceeds it passes unchanged.
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
    print(f"{name:14s} MMCS {numbers['MMCS']:.3f}   explained {numbers['explained']:.3f}   on at once {numbers['L0']:.1f} (true: 2.0)"
          f"   a feature comes back at {sizes[name]:.2f} of its size")  # fmt: skip

# %% tags=["experiment", "finding"]
print("With the L1 price features come back at less than 0.8 of their size:", sizes["ReLU + L1"] < 0.8)
print("With JumpReLU at more than 0.88:", sizes["JumpReLU"] > 0.88)

# %% [markdown]
# The L1 price takes almost a third off; JumpReLU takes little, and comes near the true number without being told. (TopK *must* use two, also where one or three are on.)
#
# ### Dead latents
#
# A latent that never fires gets no gradient, so it stays silent. In wide autoencoders of large models most can end like that. Bricken et al. point a dead latent at an example that is explained badly.
#
# ### Exercise 8 · `resample_dead` (optional, hard)
# *30 minutes, ★★★★, 3 points*
#
# For each dead latent, draw an example from the batch with a probability in proportion to the **square** of its loss (with replacement; `torch.multinomial(..., generator=generator)`). The latent's row of `W_dec` becomes the direction from `b_dec` to that example, with length 1; its column of `W_enc` the same direction, with length 0.2 times
# the mean length of the columns of the latents that are alive; its `b_enc` becomes 0. Everything else stays. With no dead latent nothing changes.
#
# **In:** `W_enc` (d_in, latent), `b_enc` (latent,), `W_dec` (latent, d_in), `b_dec` (d_in,), `dead` (latent,) truth values, `x` (batch, d_in), `losses` (batch,), and a `torch.Generator` or None. **Out:** new `W_enc`, `b_enc`, `W_dec`, as a tuple; those that came in stay as they were.
#
# **Example:** one dead latent, `b_dec = [0., 0.]`, `x = [[3., 4.], [1., 0.]]`, `losses = [2., 0.]`: the first example must be drawn, and the latent's new row of `W_dec` is `[0.6, 0.8]`. If the other columns of `W_enc` have length 1, its new column is `[0.12, 0.16]`.
#
# **Short of time?** Write `resample_dead = borrow("sae.resample_dead")` in its place: the next cells need it.


# %% exercise="sae.resample_dead"
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
    """New weights in which every dead latent points at something that is explained badly."""
    ### BEGIN SOLUTION
    W_enc, b_enc, W_dec = W_enc.clone(), b_enc.clone(), W_dec.clone()
    if dead.any():
        rows = torch.multinomial(losses**2, int(dead.sum()), replacement=True, generator=generator)
        directions = normalize(x[rows] - b_dec, dim=-1)
        length = 0.2 * W_enc[:, ~dead].norm(dim=0).mean()
        W_dec[dead], W_enc[:, dead], b_enc[dead] = directions, length * directions.T, 0.0
    return W_enc, b_enc, W_dec
    ### END SOLUTION


# %% check="sae.resample_dead"
check("sae.resample_dead", resample_dead)

# %% [markdown]
# In act 3 many of TopK's latents died, and it did not miss them. So we take only 40 latents for the 40 features, and start 20 of them with a bias of -10.


# %% tags=["experiment"]
class Waker:
    """An `after_step` that resamples, every so many steps, the latents that have not fired since the last time."""

    def __init__(self, d_sae, every=100, until=600, seed=0):
        self.fired, self.every, self.until = torch.zeros(d_sae, dtype=torch.bool), every, until
        self.draws = torch.Generator().manual_seed(seed)

    def __call__(self, step, sae, x, reconstruction, codes, optimizer):
        self.fired |= (codes > 0).any(dim=0)
        if step % self.every == 0 and step <= self.until:
            losses, old = (x - reconstruction).pow(2).sum(dim=-1), (sae.W_enc, sae.b_enc, sae.W_dec)
            new = resample_dead(*[p.detach() for p in old], sae.b_dec.detach(), ~self.fired, x, losses, self.draws)
            for parameter, value in zip(old, new):
                parameter.copy_(value)
            self.fired.zero_()


for kind in ("ReLU + L1", "TopK"):
    print(f"in act 3, {kind}: up to {max(of('dead', kind=kind)):.2f} of the 80 latents dead, and MMCS at least {min(of('MMCS', kind=kind)):.2f}")  # fmt: skip
woken = {}
for name, kill, wake in (
    ("as it is", False, False),
    ("half killed", True, False),
    ("half killed, resampled", True, True),
):
    woken[name] = []
    for seed in SEEDS:
        sae = fresh(SAE, N_HIDDEN, 40, seed=seed)
        with torch.no_grad():
            sae.b_enc[20:] = -10.0 if kill else 0.0
        train_sae(sae, hidden, price, steps=1000, seed=seed, after_step=Waker(40, seed=seed) if wake else None)
        woken[name].append(judged(sae, hidden)["MMCS"])
    print(f"{name:24s}MMCS {', '.join(f'{m:.2f}' for m in woken[name])}")

# %% tags=["experiment", "finding"]
print("Resampling brings back at least 90% of what killing cost, on average:",
      sum(woken["half killed, resampled"]) - sum(woken["half killed"]) > 0.9 * (sum(woken["as it is"]) - sum(woken["half killed"])))  # fmt: skip

# %% [markdown]
# ## 4. A model with a language
#
# `pocket` is a four-layer transformer, trained on a small world: countries and landmarks, people who give each other things, wars that last from one year to another. Nobody knows its features, but we wrote its corpus: for any concept we can say, word by word, where it holds.
#
# Train your own autoencoder on it. Activations are divided by one number, so that the learning rate means what it meant before, and `b_dec` starts at their mean.

# %% tags=["experiment"]
model, twin = load("pocket", device="cpu"), random_twin("pocket", device="cpu")
tokenizer = model.tokenizer
shipped, twin_sae = library.load("pocket"), library.load("pocket-random")  # trained for longer; see their cards
SITE = shipped.card["site"]  # where in the model we look: the same place for everything in this chapter
LAYER = int(SITE.split(".")[1])
torch.set_grad_enabled(False)  # from here on gradients are switched on where they are needed


def texts(seed, n):
    """Pages of the corpus that no other seed shows: tokens, and at each of them the truth of twenty concepts."""
    tokens = torch.tensor(corpus.rows(seed, 0, n))
    return tokens, concept_labels(tokenizer, tokens)


tokens_train = torch.tensor(corpus.rows(201, 0, 500))
tokens_choose, labels_choose = texts(101, 300)  # whatever is chosen is chosen here ...
tokens_report, labels_report = texts(102, 300)  # ... and every number that we report comes from here
x_train = library.read_site(model, SITE, tokens_train).flatten(0, 1)
print(f"the site is {SITE}: {tuple(x_train.shape)} activations to train on")
print("a page begins:", " ".join(tokenizer.convert_ids_to_tokens(tokens_train[1, :24].tolist())))

# %% tags=["experiment"]
STEPS, K, WIDTH = 500, 16, 512
scale = (x_train.square().sum(dim=-1).mean() / model.cfg.d_model).sqrt()
mine = fresh(TopKSAE, model.cfg.d_model, WIDTH, K)
mine.b_dec.copy_(x_train.mean(dim=0) / scale)
history, waker = [], Waker(WIDTH, until=300)
curves = display(HTML("<em>the first point comes soon</em>"), display_id=True)
bar = tqdm(total=STEPS, desc="your autoencoder", file=sys.stdout)


def watch(step, sae, x, reconstruction, codes, optimizer):
    silent = 1 - (waker.fired | (codes > 0).any(dim=0)).float().mean().item()
    waker(step, sae, x, reconstruction, codes, optimizer)
    bar.update(1)
    if step % 50 == 0:
        history.append({"step": step, "squared error": (x - reconstruction).pow(2).sum(dim=-1).mean().item(),
                        "variance explained": explained_variance(x, reconstruction).item(),
                        "silent for 100 steps": silent})  # fmt: skip
        curves.update(plots.plot_history(history, "Your autoencoder learns"))


with torch.enable_grad():
    train_sae(mine, x_train / scale, squared_error, steps=STEPS, lr=2e-3, batch_size=1024, after_step=watch)
mine.b_enc.mul_(scale), mine.b_dec.mul_(scale)  # now it reads the activations as they are
mine.requires_grad_(False)
bar.close()

# %% [markdown]
# How good is it? Explained variance has disappointed us; ask the model.
#
# ### Exercise 9 · `loss_recovered`
# *20 minutes, ★★★☆, 3 points*
#
# Three losses: the model as it is (*clean*); with `sae.decode(sae.encode(x))` in place of the activations x at a hook point (*spliced*); and with their mean vector there, the mean over all prompts and positions (*ablated*). Return
# $(\text{ablated} - \text{spliced}) / (\text{ablated} - \text{clean})$: 1 if the model does not notice, 0 if the mean would have done as well.
#
# A loss is the mean of `per_token_loss(logits, tokens)` (chapter 02's: entry $i$ is the loss of predicting token $i + 1$).
#
# **In:** `model`; `sae`, with `encode` and `decode`; `site`, the hook point's name, as in `model.run_with_hooks(tokens, fwd_hooks=[(site, hook)])`; `tokens`, shape (batch, position). **Out:** a Python float.
#
# **Example:** clean 1.5, spliced 2.0, ablated 6.5 give 0.9.


# %% exercise="sae.loss_recovered"
def loss_recovered(model, sae, site: str, tokens: Int[Tensor, "batch position"]) -> float:
    """How much of what mean ablation destroys the reconstruction keeps."""

    ### BEGIN SOLUTION
    def loss_with(replace):
        logits = model.run_with_hooks(tokens, fwd_hooks=[(site, lambda x, hook: replace(x))])
        return per_token_loss(logits, tokens).mean()

    clean = loss_with(lambda x: x)
    spliced = loss_with(lambda x: sae.decode(sae.encode(x)))
    ablated = loss_with(lambda x: x.mean(dim=(0, 1)).expand_as(x))
    return ((ablated - spliced) / (ablated - clean)).item()
    ### END SOLUTION


# %% check="sae.loss_recovered"
check("sae.loss_recovered", loss_recovered)


# %% tags=["experiment"]
class PCA:
    """A control with the same interface: the first k principal components in place of k latents."""

    def __init__(self, x, k):
        self.mean = x.mean(dim=0)
        self.directions = torch.linalg.eigh(torch.cov(x.T)).eigenvectors.T.flip(0)[:k]  # largest variance first

    def encode(self, x):
        return (x - self.mean) @ self.directions.T

    def decode(self, codes):
        return codes @ self.directions + self.mean


x_report = library.read_site(model, SITE, tokens_report).flatten(0, 1)
some = tokens_report[:100]
quality = {}
for name, sae in {
    "yours": mine,
    "shipped": shipped,
    f"PCA, {K} components": PCA(x_train, K),
    "PCA, 64 components": PCA(x_train, 64),
}.items():
    codes = sae.encode(x_report)
    quality[name] = explained_variance(x_report, sae.decode(codes)).item(), loss_recovered(model, sae, SITE, some)
    dead = f"{library.dead_fraction(library.density(codes)):.1%}" if "PCA" not in name else "-"
    print(f"{name:20s} numbers at a time {library.l0(codes):5.1f} of {codes.shape[1]:4d}   explained {quality[name][0]:.3f}"
          f"   loss recovered {quality[name][1]:.3f}   never active {dead}")  # fmt: skip

# %% tags=["experiment", "finding"]
print("The shipped autoencoder recovers at least 95% of the loss:", quality["shipped"][1] >= 0.95)
print("So do as many principal components:", quality[f"PCA, {K} components"][1] >= 0.95)

# %% [markdown]
# Sixty-four components, all always on, rebuild better than either autoencoder. What it offers is not compression but sparsity: 16 of 512 at a time.
#
# ### What is lost is not noise
#
# If what is missing were noise, *any* error of that size would do as much harm. Add to each activation a random vector as long as what the shipped autoencoder misses there:


# %% tags=["experiment"]
def loss_after(change):
    logits = model.run_with_hooks(some, fwd_hooks=[(SITE, lambda x, hook: change(x))])
    return per_token_loss(logits, some).mean().item()


def random_error(x):
    error = (x - shipped(x)).norm(dim=-1, keepdim=True)
    return x + error * normalize(torch.randn(x.shape, generator=generator), dim=-1)


clean_loss, sae_loss = loss_after(lambda x: x), loss_after(shipped)
noise_loss = sum(loss_after(random_error) for _ in range(3)) / 3
print(
    f"loss: {clean_loss:.3f} as it is, {sae_loss:.3f} with the reconstruction, {noise_loss:.3f} with random errors of the same lengths"
)

# %% tags=["experiment", "finding"]
print("The reconstruction's error does more harm than a random one of the same size:", sae_loss > noise_loss)

# %% [markdown]
# The autoencoder's error is *worse* than noise of the same size: it leaves out things that the model uses. So exercise 12 will leave the error term in place.
#
# ## 5. What is a feature?
#
# ### Exercise 10 · `top_activations`
# *15 minutes, ★★☆☆, 2 points*
#
# Where is one latent largest? Return its `k` largest maxima, best first, **at most one from each row**, so that one text cannot fill the list.
#
# **In:** `codes` of one latent, shape (row, position), and `k`, at most the number of rows. **Out:** the tuple (values, rows, positions), each of shape (k,).
#
# **Example:** `codes = [[0., 3., 2.], [1., 0., 0.], [0., 0., 7.]]` and `k = 2` give `[7., 3.]`, `[2, 0]`, `[2, 1]`.


# %% exercise="sae.top_activations"
def top_activations(
    codes: Float[Tensor, "row position"], k: int
) -> tuple[Float[Tensor, "k"], Int[Tensor, "k"], Int[Tensor, "k"]]:
    """The values, rows and positions of the k largest maxima, at most one a row."""
    ### BEGIN SOLUTION
    best, positions = codes.max(dim=1)
    values, rows = best.topk(k)
    return values, rows, positions[rows]
    ### END SOLUTION


# %% check="sae.top_activations"
check("sae.top_activations", top_activations)

# %% [markdown]
# ### Exercise 11 · `precision_recall_by_level`
# *20 minutes, ★★☆☆, 3 points*
#
# Hold a latent against a concept. At level $l$ it *fires* on a token if its activation is **greater than** $l$ times its largest activation. **Precision**: of the tokens where it fires, how many show the concept? **Recall**: of the tokens that show the concept, on how many does it fire?
#
# Level 0 counts every activation above 0. Where nothing fires, precision is NaN; if the concept never occurs, recall is.
#
# **In:** `activation`, shape (token,); `concept`, truth values, shape (token,); `levels`, shape (level,). **Out:** the tuple (precision, recall), each of shape (level,).
#
# **Example:** `activation = [0., 1., 2., 4.]`, `concept = [True, False, True, True]`, `levels = [0., 0.3]`: precision `[0.6667, 1.]`, recall `[0.6667, 0.6667]`.


# %% exercise="sae.precision_recall_by_level"
def precision_recall_by_level(
    activation: Float[Tensor, "token"], concept: Bool[Tensor, "token"], levels: Float[Tensor, "level"]
) -> tuple[Float[Tensor, "level"], Float[Tensor, "level"]]:
    """Precision and recall of "it exceeds this share of its maximum", at each level."""
    ### BEGIN SOLUTION
    fires = activation > levels[:, None] * activation.max()
    hits = (fires & concept).sum(dim=1)
    return hits / fires.sum(dim=1), hits / concept.sum()
    ### END SOLUTION


# %% check="sae.precision_recall_by_level"
check("sae.precision_recall_by_level", precision_recall_by_level)

# %% [markdown]
# Which latent to look at? The eye would choose what reads well, so let a rule choose, on a split of its own: of the latents that are at least 95% precise for some concept **at the top** (above 70% of their maximum, on at least 20 tokens), the one that is least precise over its whole range.

# %% tags=["experiment"]
LEVELS = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
x_choose = library.read_site(model, SITE, tokens_choose).flatten(0, 1)
codes_choose, codes_report = shipped.encode(x_choose), shipped.encode(x_report)
truth_choose, truth_report = labels_choose.flatten(0, 1), labels_report.flatten(0, 1)


def clean_at(level):
    """For each latent the concept that it fits best above this level, and the precision; 0 where it fires on fewer than 20 tokens."""
    fires = codes_choose > level * codes_choose.amax(dim=0)
    precision = (fires.float().T @ truth_choose.float()) / fires.sum(dim=0).clamp(min=1)[:, None]
    best, concept = precision.max(dim=1)
    return best.where(fires.sum(dim=0) >= 20, torch.zeros(())), concept, precision


top_precision, top_concept, _ = clean_at(0.7)
overall = clean_at(0.0)[2].gather(1, top_concept[:, None])[:, 0]
clean = top_precision >= 0.95
FEATURE = overall.where(clean, torch.ones(())).argmin().item()
print(f"{int(clean.sum())} of {len(clean)} latents are at least 95% precise above 70% of their maximum;"
      f" over their whole range {int((clean & (overall >= 0.95)).sum())} of them still are")  # fmt: skip
print(f"\nLatent {FEATURE}, its top examples:")
values, rows, positions = top_activations(codes_choose[:, FEATURE].view(len(tokens_choose), -1), 8)
for value, row, position in zip(values, rows, positions):
    words = tokenizer.convert_ids_to_tokens(tokens_choose[row, max(0, position - 9) : position + 4].tolist())
    words[min(9, position)] = f"[{words[min(9, position)]}]"
    print(f"  {value:5.1f}  {' '.join(words)}")

# %% [markdown]
# **Before you run the next cell**, write down in one sentence what this latent means. Then look below its top.

# %% tags=["experiment"]
chosen = {f"latent {FEATURE}: {CONCEPTS[top_concept[FEATURE]].name}": (FEATURE, top_concept[FEATURE].item())}
best_of_all = library.best_detectors(codes_choose, truth_choose, (1,))
by_f1 = sorted(range(len(CONCEPTS)), key=lambda c: -best_of_all[c].f1)
chosen |= {
    f"latent {best_of_all[c].unit}: {CONCEPTS[c].name}": (best_of_all[c].unit, c)
    for c in (by_f1[0], by_f1[len(by_f1) // 2])
}
for name, (_, c) in chosen.items():
    print(f"{name}, that is: {CONCEPTS[c].means}")
rates = {
    name: precision_recall_by_level(codes_report[:, latent], truth_report[:, c], LEVELS)
    for name, (latent, c) in chosen.items()
}
plots.plot_levels(
    {name: (codes_report[:, latent], truth_report[:, c]) for name, (latent, c) in chosen.items()},
    LEVELS,
    rates,
    "The latent on the left is clean near its maximum, and not below",
)

# %% tags=["experiment", "finding"]
precision, recall = next(iter(rates.values()))
print(f"Latent {FEATURE} above 70% of its maximum: precision at least 0.9:", bool(precision[-1] >= 0.9))
print("Over its whole range: precision below 0.5:", bool(precision[0] < 0.5))
words = tokenizer.convert_ids_to_tokens(tokens_report.flatten().tolist())
after_for = torch.tensor([word in NAMES and before == "for" for before, word in zip(["", *words], words)])
precision, _ = precision_recall_by_level(codes_report[:, FEATURE], after_for, LEVELS)
print('The same two for a better concept, "a name after for":', bool(precision[-1] >= 0.9), bool(precision[0] < 0.5))
print(
    "Most latents that are clean at the top are not clean over their whole range:",
    bool((clean & (overall >= 0.95)).sum() < clean.sum() / 2),
)

# %% [markdown]
# Top examples are chosen to agree. ("A name after *for*", if you wrote that, fares no better.) Here is the whole of another feature on one page, with examples from *every* interval of its activation. (`print(page)` gives it as text; `page.save("feature.html")` keeps it.)

# %% tags=["experiment"]
concept_names = {concept.name: labels_report[..., i] for i, concept in enumerate(CONCEPTS)}
page = feature_page(model, shipped, SITE, tokens_report, best_of_all[by_f1[0]].unit, concept_names)
page

# %% [markdown]
# ## 6. Twenty concepts
#
# Twenty concepts were **written down before anybody looked** at a latent (`mechlib.tasks.concepts`; the cell lists what each means). The first eight are decided by the current word. The other twelve are not.
#
# For each concept we take the latent and the threshold with the highest F1 (the harmonic mean of precision and recall) on one split, and judge them on the other. A choice among hundreds always finds *something*, so everything else gets the same choice:
#
# - the best **neuron** of all layers up to this one (either sign),
# - the best **principal component** (either sign),
# - the best latent of an autoencoder trained in the same way on the **random twin**: pocket's architecture with weights that never saw a text,
# - a **list of words**: how often each shows the concept on the choosing split,
# - and, as a ceiling for one direction at this place, a **linear probe**, fitted on the answers of the choosing split.
#
# **Predict**: for how many of the twenty will the SAE's latent have precision and recall of 0.9? For how many will the random twin's be as good?


# %% tags=["experiment"]
def neurons(tokens):
    return torch.cat(
        [library.read_site(model, f"blocks.{l}.mlp.hook_post", tokens).flatten(0, 1) for l in range(LAYER + 1)], dim=1
    )


def twin_codes(tokens):
    return twin_sae.encode(library.read_site(twin, SITE, tokens).flatten(0, 1))


print(*(f"{concept.name}: {concept.means}" for concept in CONCEPTS), "", sep="\n")
all_components = PCA(x_train, model.cfg.d_model)
centred = x_choose - x_choose.mean(dim=0)
gram = centred.T @ centred + 1e-3 * centred.square().sum() * torch.eye(model.cfg.d_model) / model.cfg.d_model
probes = torch.linalg.solve(gram, centred.T @ (truth_choose.float() - truth_choose.float().mean(dim=0)))
often = torch.zeros(model.cfg.d_vocab, len(CONCEPTS)).index_add_(0, tokens_choose.flatten(), truth_choose.float())
often /= tokens_choose.flatten().bincount(minlength=model.cfg.d_vocab).clamp(min=1)[:, None]
kinds_of_unit = {
    "SAE latent": (codes_choose, codes_report, (1,)),
    "neuron": (neurons(tokens_choose), neurons(tokens_report), (1, -1)),
    "principal component": (all_components.encode(x_choose), all_components.encode(x_report), (1, -1)),
    "latent, random twin": (twin_codes(tokens_choose), twin_codes(tokens_report), (1,)),
    "list of words": (often[tokens_choose.flatten()], often[tokens_report.flatten()], (1,)),
}
found, scores = {}, {}
for kind, (on_choose, on_report, signs) in kinds_of_unit.items():
    found[kind] = library.best_detectors(on_choose, truth_choose, signs)
    scores[kind] = [unit.score(on_report, truth_report[:, c]) for c, unit in enumerate(found[kind])]
scores["(linear probe)"] = [
    library.best_detectors((x_choose @ w)[:, None], truth_choose[:, [c]], (1,))[0].score(
        (x_report @ w)[:, None], truth_report[:, c]
    )
    for c, w in enumerate(probes.T)
]
print("precision / recall" + " " * 6 + "".join(f"{kind:>22s}" for kind in scores))
for c, concept in enumerate(CONCEPTS):
    print(f"{concept.name:24s}" + "".join(f"{scores[kind][c][0]:15.2f} / {scores[kind][c][1]:.2f}" for kind in scores))
f1 = {kind: [score[2] for score in rows] for kind, rows in scores.items()}
print(f"{'mean F1':24s}" + "".join(f"{sum(f1[kind]) / 20:22.2f}" for kind in scores))
print(
    "concepts on which the SAE's latent has the higher F1:",
    {k: sum(a > b for a, b in zip(f1["SAE latent"], f1[k])) for k in f1 if k != "SAE latent"},
)

# %% tags=["experiment"]
plots.plot_concepts(
    f1,
    [concept.name for concept in CONCEPTS],
    "F1 on the reporting split",
    "The best latent is a little ahead of the best neuron, far ahead of the random twin's, and behind a probe",
    split=sum(concept.current_word for concept in CONCEPTS),
)

# %% tags=["experiment", "finding"]
for kind in scores:
    good = sum(p >= 0.9 and r >= 0.9 for p, r, _ in scores[kind])
    print(f"{kind:22s}precision and recall of 0.9 or more: {good} of 20 concepts")
print("For most concepts even the probe's F1 is below 0.8:", sum(value < 0.8 for value in f1["(linear probe)"]) > 10)
mean_f1 = {kind: sum(values) / 20 for kind, values in f1.items()}
print(
    "On average the best latent is ahead of the best neuron, by less than 0.1:",
    0 < mean_f1["SAE latent"] - mean_f1["neuron"] < 0.1,
)
print("It is ahead of principal components and of the random twin's latents by more than 0.15:",
      mean_f1["SAE latent"] - max(mean_f1["principal component"], mean_f1["latent, random twin"]) > 0.15)  # fmt: skip

# %% [markdown]
# - **The ceiling.** For most concepts even the probe stays below 0.8. *Negated* and *first year late* are hardly there as one direction, and what is not there no autoencoder can find. (Our probe is quick. A better one finds more, but not those two: `docs/models/sae.md`.)
# - **The find.** *Landmark ends* is a beauty: precise and complete. Shown this latent alone, you would have believed anything.
# - **The count.** We had hoped for ten concepts with precision and recall of 0.9. It is one.
# - **The controls.** Principal components and the random twin are far behind, so the latents are about what `pocket` *learnt*, and not only about its texts. Where the word decides, a list of words wins, of course; on the other twelve the latents beat it nine times. But the best **neuron** is nearly as good, and for several concepts better. Here "more interpretable than neurons" is true by a little.
#
# Latents fail in different ways: *country* is hardly ever wrong and finds half, *profession* finds most and is mostly wrong.
#
# ## 7. Turn it up
#
# A feature that fires on a concept need not be *used* as one. Clamp it: does the model talk about it?
#
# ### Exercise 12 · `steer`
# *25 minutes, ★★★☆, 3 points*
#
# Run the model with one feature clamped: at every position its code becomes `value`, and everything else about the activation stays as it was, **also what the autoencoder does not reconstruct**. (So do not put `decode(encode(x))` in place of x: move x.)
#
# **In:** `model`; `sae`, with `encode` and `W_dec`, whose rows may have any length; `site`; `tokens`, shape (batch, position); the latent's number `feature`; `value`. **Out:** logits, shape (batch, position, vocabulary).
#
# **Example:** if `x = [5., 5.]`, the latent's code there is 3 and its row of `W_dec` is `[0., 1.]`, clamping to 10 gives the activation `[5., 12.]`.


# %% exercise="sae.steer"
def steer(
    model, sae, site: str, tokens: Int[Tensor, "batch position"], feature: int, value: float
) -> Float[Tensor, "batch position vocabulary"]:
    """The logits with one feature clamped to `value` everywhere."""

    ### BEGIN SOLUTION
    def clamp(x, hook):
        code = sae.encode(x)[..., feature, None]
        return x + (value - code) * sae.W_dec[feature]

    return model.run_with_hooks(tokens, fwd_hooks=[(site, clamp)])
    ### END SOLUTION


# %% check="sae.steer"
check("sae.steer", steer)

# %% [markdown]
# We take the latent that act 6 *chose* for "a city comes next", not one that happens to steer well. The prompts are sentences in wordings that no training text showed. Two numbers at each prompt's end:
#
# - **effect**: does the probability of all cities together go up, and to how much?
# - **side effect**: how far does the *rest* of the distribution move, the words that are no cities, among themselves (KL, in nats)?
#
# The rival needs no autoencoder: the **difference of means**, the mean activation where a city follows less the mean where none does, added at every position. The controls are ten latents drawn at random, clamped just as hard.

# %% tags=["experiment"]
STEERED = next(i for i, concept in enumerate(CONCEPTS) if concept.name == "city next")
latent = found["SAE latent"][STEERED].unit
cities = torch.tensor(tokenizer.convert_tokens_to_ids(sorted(CITIES)))
prompts = [
    p
    for task in (tasks.agreement, tasks.sentiment, tasks.ioi, tasks.pronouns)
    for p in task(tokenizer, 40, seed=5, split="held-out wordings")
]
prompt_tokens, ends = tasks.to_tokens(tokenizer, [p.text for p in prompts]), tasks.positions(prompts)
others = torch.ones(model.cfg.d_vocab, dtype=torch.bool)
others[cities] = False


def at_end(logits):
    return logits[torch.arange(len(prompts)), ends]


before = at_end(model(prompt_tokens))


def judge_steering(logits):
    """Share of prompts on which cities became likelier, their mean probability, and how far the rest moved."""
    after = at_end(logits)
    mass = [d.softmax(dim=-1)[:, cities].sum(dim=-1) for d in (before, after)]
    p, q = before[:, others].log_softmax(dim=-1), after[:, others].log_softmax(dim=-1)
    return (
        (mass[1] > mass[0]).float().mean().item(),
        mass[1].mean().item(),
        (p.exp() * (p - q)).sum(dim=-1).mean().item(),
    )


def add(direction):
    return model.run_with_hooks(prompt_tokens, fwd_hooks=[(SITE, lambda x, hook: x + direction)])


largest = codes_choose.amax(dim=0)
follows = truth_choose[:, STEERED]
difference = x_choose[follows].mean(dim=0) - x_choose[~follows].mean(dim=0)
random_latents = torch.randperm(len(largest), generator=generator)[:10].tolist()
strengths = [1, 2, 3, 4]
steered = {
    f"latent {latent}, clamped": [judge_steering(steer(model, shipped, SITE, prompt_tokens, latent, s * largest[latent].item())) for s in strengths],
    "difference of means, added": [judge_steering(add(s * difference)) for s in strengths],
    "ten random latents, clamped (mean)": torch.tensor(
        [[judge_steering(steer(model, shipped, SITE, prompt_tokens, r, s * largest[r].item())) for s in strengths] for r in random_latents]
    ).mean(dim=0).tolist(),
}  # fmt: skip
print(
    f"{len(prompts)} prompts; before, cities have a probability of {before.softmax(dim=-1)[:, cities].sum(dim=-1).mean():.3f}"
)
for name, rows in steered.items():
    print(name)
    for s, (share, mass, moved) in zip(strengths, rows):
        print(
            f"   x {s:<4} cities likelier on {share:4.0%} of the prompts, probability {mass:.2f}; the rest moved by {moved:.1f} nats"
        )

# %% tags=["experiment"]
plots.plot_trade(
    {name: ([0.0] + [row[2] for row in rows], [0.0] + [row[1] for row in rows]) for name, rows in steered.items()},
    "side effect: the rest moved by so many nats",
    "effect: probability of a city",
    "For the same effect, the difference of means disturbs the rest a little less than the clamped latent",
)

# %% tags=["experiment", "finding"]
by_latent, by_difference, at_random = steered.values()
twice = strengths.index(2)
print(
    "Clamped to twice its maximum, the latent makes cities likelier on at least 80% of held-out prompts:",
    by_latent[twice][0] >= 0.8,
)
print("So does the difference of means, added twice:", by_difference[twice][0] >= 0.8)
print("So do random latents, clamped as hard:", at_random[twice][0] >= 0.8)
print(
    "But the probability of a city is at least five times the random latents':",
    by_latent[twice][1] >= 5 * at_random[twice][1],
)


def cost(rows, wanted=0.5):
    """The side effect at which cities reach the wanted probability, between the strengths tried."""
    for (_, low, before), (_, high, after) in zip(rows, rows[1:]):
        if low < wanted <= high:
            return before + (after - before) * (wanted - low) / (high - low)
    return float("nan")


print(
    "For a probability of one half, the rest moves less with the difference of means:",
    cost(by_difference) < cost(by_latent),
)

# %% [markdown]
# The latent passes its test (80% of the prompts), and the test is weak: *random* latents, too, make cities likelier on most prompts, perhaps because any hard push flattens the distribution, and cities start near 0. How *much* likelier tells them apart.
#
# And the difference of means, without any training, does the same with a little less damage to the rest. If you can label examples of what you want, show their mean beside every steering result.
#
# Sufficient is one thing; is the feature *needed*? Clamp it to 0 at every position, and look at the tokens before a city.

# %% tags=["experiment"]
before_city = labels_report[:100, :-1, STEERED]
usual = per_token_loss(model(some), some)[before_city].mean().item()


def cost_of_removing(feature):
    logits = steer(model, shipped, SITE, some, feature, 0.0)
    return per_token_loss(logits, some)[before_city].mean().item() - usual


active = (codes_report[truth_report[:, STEERED]] > 0).float().mean(dim=0)  # how often each latent is on before a city
rivals = [i for i in active.argsort(descending=True).tolist() if i != latent][:5]
removed = {latent: cost_of_removing(latent)} | {rival: cost_of_removing(rival) for rival in rivals}
print(f"the city that follows costs {usual:.2f} nats; without latent {latent}: {removed[latent]:+.2f};"
      f" without one of the five others that are on most often there: {min(removed[r] for r in rivals):+.2f} to {max(removed[r] for r in rivals):+.2f}")  # fmt: skip

# %% tags=["experiment", "finding"]
print("Removing the latent costs less than half a nat:", removed[latent] < 0.5)

# %% [markdown]
# Hardly: without it the city costs little more, and without another latent that is on there, more. That a latent *can* move an output does not say that the output hangs on it.
#
# ### In your own words · 2
# *2 points, graded by a person*
#
# You want a chat model to stay polite. A colleague proposes to train a sparse autoencoder, find the politeness feature by its top examples, and clamp it. What would you try first, which numbers would you put side by side, and what could an autoencoder give you that the first attempt cannot?

# %% [markdown] question="sae.words-steering" points=2
# First the difference of means (polite replies less others, at one layer), since it needs a few labelled examples and no training; and a plain instruction. Side by side: how often held-out prompts change in the wanted way, and the side effects, such as how far the rest of the distribution moves, or the loss on ordinary text, at strengths at which the effect is *equal*; beside random
# latents or directions of the same size, because hard pushes change many things. If a feature is used, it must be tested over its whole range with precision and recall, not by its top examples. What an autoencoder can give: features nobody thought of labelling, a finer handle (one of several things that the mean difference mixes), and a name for what one is
# changing; none of that follows from steering well.
#
# *Rubric: 1 point for the simple baseline with effect and side effect at equal effect (or a control for pushing hard); 1 point for something that the autoencoder can do and the baseline cannot (unlabelled or finer concepts), or for testing the feature below its top examples.*

# %% [markdown]
# ## Caveats
#
# - **Explained variance is not understanding** (act 3); what is not explained is not noise (act 4).
# - **Another training, another dictionary.** Look for each of your latents in the shipped dictionary, made for the same place with the same sizes:

# %% tags=["experiment"]
here, there = normalize(mine.W_dec, dim=-1), normalize(shipped.W_dec, dim=-1)
shuffled = there[:, torch.randperm(model.cfg.d_model, generator=generator)]
for name, dictionary in (("the shipped one", shipped.W_dec), ("the shipped one, dimensions shuffled", shuffled)):
    print(f"your {len(here)} latents, in {name}: MMCS {mean_max_cosine_similarity(dictionary, here):.2f},"
          f" {((here @ normalize(dictionary, dim=-1).T).amax(dim=1) > 0.9).float().mean():.0%} of them with a cosine above 0.9")  # fmt: skip
read_and_written = (normalize(shipped.W_enc, dim=0).T * there).sum(dim=1).mean()
print(f"shipped: the cosine of what a latent reads with what it writes is {read_and_written:.2f} on average")

# %% [markdown]
# - They agree above chance, and far from one to one. Yours was trained for a shorter time; but what is simply *there* should come back.
# - **A latent is read with its encoder and written with its decoder**, and those are different directions. A top example tells about the first, steering about the second.
#
# ## Going on
#
# Without a checker:
#
# 1. **Where do features live?** Train at another site (`blocks.0.hook_mlp_out`, a later layer) and draw act 6's figure again. Do the controls move with the concepts? *A good answer has the probe's ceiling for each site, and chooses the site on one split.*
# 2. **Stability.** Train five autoencoders that differ in the seed only. Which latents come back in all, and are those the ones with a concept? *A good answer states how similar latents of different seeds would be by chance.*
# 3. **Finer than the mean.** Steer with two latents that both promote cities but answer to different contexts. *A good answer shows something that the difference of means cannot do at any strength, on prompts that were not used to find it.*
#
# **The same on `gpt2`**: `model = load("gpt2")`; where there is a network, `library.from_sae_lens(repository, "blocks.8.hook_resid_pre")` loads released autoencoders. With texts of your own, labels for concepts are the hard part.
#
# **Papers**
# - Bricken et al. 2023, [Towards Monosemanticity](https://transformer-circuits.pub/2023/monosemantic-features): how much evidence one feature needs.
# - Cunningham et al. 2023, [Sparse Autoencoders Find Highly Interpretable Features](https://arxiv.org/abs/2309.08600): against neurons, PCA and ICA.
# - Gao et al. 2024, [Scaling and Evaluating Sparse Autoencoders](https://arxiv.org/abs/2406.04093): TopK, dead latents, measures.
# - Rajamanoharan et al. 2024, [Jumping Ahead](https://arxiv.org/abs/2407.14435): JumpReLU, and the gradient of exercise 7 derived.
# - Templeton et al. 2024, [Scaling Monosemanticity](https://transformer-circuits.pub/2024/scaling-monosemanticity): specificity by interval, and the clamped bridge.
# - Bolukbasi et al. 2021, [An Interpretability Illusion for BERT](https://arxiv.org/abs/2104.07143): what top examples hide.

# %% tags=["experiment"]
progress()
