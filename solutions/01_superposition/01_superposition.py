# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 01 · Superposition
#
# [▶ Open this chapter in Colab]({{colab}})
#
# **How can a model hold more features than it has dimensions?**
#
# ![Five features in two dimensions, as they become sparser](picture.png)
#
# Somebody looks for the neuron that means "Paris" and finds one that fires on Paris, on cheese and on the keyword `lambda`. Why would a
# network build such a thing? Elhage et al. ([2022](https://transformer-circuits.pub/2022/toy_model/index.html)) gave an answer that you
# can hold in your hands: models so small that you know every feature they were given, and can *watch* them run out of room.
# In this chapter you build these models, and draw the picture above.
#
# **When you are done** you can measure how strongly a feature is represented and how much the others cross it, train many toy models at once, say
# when superposition pays and when it does not, and explain why a single neuron is a bad place to look for a meaning.
#
# **You need** Python, PyTorch and `einsum` (or loops). Nothing about interpretability.
#
# **Time:** two to three hours for you, about a minute for your computer. No GPU, no network.

# %% tags=["setup"]
try:
    import mechlib
except ImportError:  # in Colab, or in a bare folder: install it once; the torch that is already there stays
    # %pip install --quiet "mechlib @ git+{{repository}}"
    import mechlib

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor, nn

from mechlib import plots
from mechlib.check import borrow, check, hint, progress, reveal
from mechlib.recipes import superposition_sweep
from mechlib.superposition import (
    AbsoluteValueModel,
    anticorrelated_batch,
    classify_geometry,
    share_near,
    signed_sparse_batch,
    train,
)

torch.manual_seed(0)  # the one seed of this notebook
generator = torch.Generator().manual_seed(0)
torch.set_num_threads(1)  # these models are so small that more threads only get into each other's way

# %% [markdown]
# **How to work.** Replace every `raise NotImplementedError` by your own lines, run the cell, and run the check under it. A check says at once
# whether you are right and, if not, which mistake it looks like. `hint("superposition.feature_norms")` helps a little and, called again, a little
# more. `borrow(...)` hands over the solution so that you can go on (it earns no points), and `progress()` shows how far you are.
#
# Unless an exercise says otherwise, a result has the dtype and the device of the tensors that went in, and those stay as they are.

# %% [markdown]
# ## 1. A feature is a direction
#
# A toy model squeezes $n$ features through $m < n$ hidden dimensions: $h = Wx$. Feature $i$ is then the direction $W_i$, **column** $i$ of $W$.
# We train many models side by side, so every $W$ in this chapter has three axes: **instances, hidden, features**.
#
# Two questions about a direction: how long is it, and who else uses it? Before any training, ask them of a $W$ drawn by hand: a
# pentagon, five features in two dimensions.

# %% tags=["experiment"]
angles = torch.arange(5) * 2 * torch.pi / 5
pentagon = torch.stack([angles.cos(), angles.sin()])[None]  # one instance, two hidden dimensions, five features
plots.plot_features_in_plane(pentagon, ["five features,\ntwo dimensions"], "A pentagon", columns=1)

# %% [markdown]
# ### Exercise 1 · `feature_norms`
# *5 minutes, ★☆☆☆, 1 point*
#
# How strongly is each feature represented? Return the length of every feature's direction, $\|W_i\|$.
#
# **In:** `W`, shape (instances, hidden, features). **Out:** the lengths, shape (instances, features), same dtype.
#
# **Example:** one instance, two hidden dimensions, two features: `W = [[[3., 0.], [4., 2.]]]` gives `[[5., 2.]]`.


# %% exercise="superposition.feature_norms"
def feature_norms(W: Float[Tensor, "instances hidden features"]) -> Float[Tensor, "instances features"]:
    """The length of every feature's direction."""
    ### BEGIN SOLUTION
    return W.norm(dim=1)
    ### END SOLUTION


# %% check="superposition.feature_norms"
check("superposition.feature_norms", feature_norms)

# %% [markdown]
# In the pentagon every norm is 1: every feature is fully there. But five unit vectors do not fit into a plane without overlapping. Suppose that
# feature $j$ alone is on: what do you read along the direction of *another* feature $i$? **Before you go on, guess**: in the
# pentagon, does a feature suffer more from its two neighbours (72° away) or from the two that lie opposite (144° away)?
#
# ### Exercise 2 · `superposition_index`
# *15 minutes, ★★☆☆, 2 points*
#
# How much is a feature crossed by the others? Project every other feature onto the feature's *direction* $\hat W_i = W_i / \|W_i\|$, square, and add up:
#
# $$\sum_{j \ne i} (\hat W_i \cdot W_j)^2$$
#
# A feature that is not represented ($W_i = 0$) has no direction to share: its index is 0, never NaN.
#
# **In:** `W`, shape (instances, hidden, features). **Out:** shape (instances, features).
#
# **Example:** three features in two dimensions, `W = [[[2., 3., 0.], [0., 4., 0.]]]` gives `[[9., 1.44, 0.]]`: the second feature has 3 along the first one's direction,
# the first one has 1.2 along the second one's, and the third is not there.


# %% exercise="superposition.superposition_index"
def superposition_index(W: Float[Tensor, "instances hidden features"]) -> Float[Tensor, "instances features"]:
    """For every feature, the sum over the other features j of (unit(W_i) . W_j)^2; 0 where W_i = 0."""
    ### BEGIN SOLUTION
    norms = W.norm(dim=1, keepdim=True)
    unit = W / norms.where(norms > 0, torch.ones_like(norms))
    overlap = einsum(unit, W, "inst hidden i, inst hidden j -> inst i j") ** 2
    return overlap.sum(dim=-1) - overlap.diagonal(dim1=-2, dim2=-1)
    ### END SOLUTION


# %% check="superposition.superposition_index"
check("superposition.superposition_index", superposition_index)

# %% tags=["experiment", "finding"]
overlaps = (pentagon[0].T @ pentagon[0])[0] ** 2
print("pentagon, norms:              ", [round(v, 3) for v in feature_norms(pentagon)[0].tolist()])
print("pentagon, superposition index:", [round(v, 3) for v in superposition_index(pentagon)[0].tolist()])
print(
    f"the first feature is crossed by a neighbour with {overlaps[1]:.3f}, by one that lies opposite with {overlaps[2]:.3f}"
)

# %% [markdown]
# The features that lie *opposite* interfere most when you count squares: $\cos^2 144° > \cos^2 72°$. But their overlap is **negative**, and we will see that a ReLU
# forgives negative interference for free. Hold that thought.

# %% [markdown]
# ## 2. A sparse world
#
# Five features at full strength cost every feature an interference of 1.5. When could that be worth paying? When the others are rarely on. So we need a
# world in which features are **sparse**: most of the time, a feature is exactly 0.
#
# ### Exercise 3 · `sparse_batch`
# *15 minutes, ★★☆☆, 2 points*
#
# Draw a batch of examples. Each feature is 0 with probability `sparsity`, else uniform in [0, 1]; whether it is on and how large it is are drawn
# **independently**, for every example, every instance and every feature. Each instance has a sparsity of its own.
#
# **In:** `batch_size`, `n_features`, `sparsity` of shape (instances,), and a `torch.Generator` or None: hand it to every random function that you call (`torch.rand(..., generator=generator)`).
# **Out:** shape (batch, instances, features), on the device and with the dtype of `sparsity`.
#
# **Example:** `sparse_batch(4, 3, torch.tensor([1.0, 0.0]))` has shape (4, 2, 3); its first instance is all zeros, its second has no zero.


# %% exercise="superposition.sparse_batch"
def sparse_batch(
    batch_size: int, n_features: int, sparsity: Float[Tensor, "instances"], generator: torch.Generator | None = None
) -> Float[Tensor, "batch instances features"]:
    """Features that are 0 with probability sparsity, else uniform in [0, 1]."""
    ### BEGIN SOLUTION
    shape = (batch_size, len(sparsity), n_features)
    active = torch.rand(shape, generator=generator, device=sparsity.device) >= sparsity[:, None]
    magnitude = torch.rand(shape, generator=generator, device=sparsity.device, dtype=sparsity.dtype)
    return magnitude * active
    ### END SOLUTION


# %% check="superposition.sparse_batch"
check("superposition.sparse_batch", sparse_batch)

# %% [markdown]
# ## 3. The toy model
#
# The model may use one matrix and one bias: $x' = \mathrm{ReLU}(W^\top W x + b)$. It reads each feature back along the direction in which it was stored.
#
# ### Exercise 4 · `ToyModel`
# *20 minutes, ★★☆☆, 3 points (1 for the parameters, 2 for `forward`)*
#
# Write the class. `ToyModel(n_instances, n_features, n_hidden)` has two parameters (`nn.Parameter`): `W`, shape (instances, hidden, features), which starts at small random numbers (a size around 0.1 to 1),
# different in each instance; and `b`, shape (instances, features), which starts at zero. `forward(x)` computes $\mathrm{ReLU}(W^\top W x + b)$ for every example in every
# instance, each with its own weights.
#
# **In:** `x`, shape (batch, instances, features). **Out:** the same shape.
#
# **Example:** with one instance, `W = [[[1., -1.]]]` and `b = [[0., 0.5]]`, the input `[[[1., 0.]]]` gives `[[[1., 0.]]]`, and `[[[0., 1.]]]` gives `[[[0., 1.5]]]`.


# %% exercise="superposition.ToyModel"
class ToyModel(nn.Module):
    """ReLU(W^T W x + b), in many instances at once."""

    def __init__(self, n_instances: int, n_features: int, n_hidden: int):
        super().__init__()
        ### BEGIN SOLUTION
        self.W = nn.Parameter(0.3 * torch.randn(n_instances, n_hidden, n_features))
        self.b = nn.Parameter(torch.zeros(n_instances, n_features))
        ### END SOLUTION

    def forward(self, x: Float[Tensor, "batch instances features"]) -> Float[Tensor, "batch instances features"]:
        ### BEGIN SOLUTION
        hidden = einsum(self.W, x, "inst hidden feat, batch inst feat -> batch inst hidden")
        out = einsum(self.W, hidden, "inst hidden feat, batch inst hidden -> batch inst feat")
        return (out + self.b).relu()
        ### END SOLUTION


# %% check="superposition.ToyModel"
check("superposition.ToyModel", ToyModel)

# %% [markdown]
# ### Exercise 5 · `importance_weighted_loss`
# *10 minutes, ★☆☆☆, 1 point*
#
# Some features matter more than others. The loss of an instance is the importance times the squared error, **summed** over the features and **averaged** over the batch. One number an instance: the
# models must not pay for each other.
#
# **In:** `prediction` and `target`, shape (batch, instances, features); `importance`, shape (features,) or (instances, features). **Out:** shape (instances,).
#
# **Example:** prediction `[[[1., 0.]], [[0., 0.]]]` (two examples, one instance, two features), target all zeros, importance `[3., 1.]`: the loss is `[1.5]`.


# %% exercise="superposition.importance_weighted_loss"
def importance_weighted_loss(
    prediction: Float[Tensor, "batch instances features"],
    target: Float[Tensor, "batch instances features"],
    importance: Float[Tensor, "features"] | Float[Tensor, "instances features"],
) -> Float[Tensor, "instances"]:
    """One loss an instance: importance-weighted squared errors, summed over features, averaged over the batch."""
    ### BEGIN SOLUTION
    return (importance * (prediction - target) ** 2).sum(dim=-1).mean(dim=0)
    ### END SOLUTION


# %% check="superposition.importance_weighted_loss"
check("superposition.importance_weighted_loss", importance_weighted_loss)

# %% [markdown]
# ### Five features, two dimensions
#
# Now let the models choose. Five features of importance $0.9^i$, two hidden dimensions, six sparsities, and ten random starts at each: sixty models, trained at once in one tensor.
# `train` is ordinary Adam with a learning rate that falls to zero.
#
# **Predict** before you run it: how many features will the model store when every feature is always on ($S = 0$)? And when each is on one time in twenty ($S = 0.95$)? Which shape will they make?

# %% tags=["experiment"]
levels, seeds = torch.tensor([0.0, 0.5, 0.7, 0.8, 0.9, 0.95]), 10
sparsity = levels.repeat_interleave(seeds)  # instances: ten seeds of the first sparsity, ten of the second, ...
importance = 0.9 ** torch.arange(5.0)

model = ToyModel(len(sparsity), n_features=5, n_hidden=2)
history = train(
    model,
    sample=lambda batch_size: sparse_batch(batch_size, 5, sparsity, generator),
    loss=lambda prediction, x: importance_weighted_loss(prediction, x, importance),
    steps=1200,
    lr=0.03,
    batch_size=384,
    label="5 features in 2 dimensions",
)

# Judge all seeds of a sparsity on the same 50 000 fresh examples, and keep the one with the lowest loss.
with torch.no_grad():
    x = sparse_batch(50_000, 5, levels, generator).repeat_interleave(seeds, dim=1)
    losses = importance_weighted_loss(model(x), x, importance).view(len(levels), seeds)
names = classify_geometry(model.W)
best = losses.argmin(dim=1) + seeds * torch.arange(len(levels))

plots.plot_features_in_plane(
    model.W[best],
    [f"S = {level:.2f}\n{names[i]}" for level, i in zip(levels, best)],
    "The sparser the features, the more of them are stored: a pair, two antipodal pairs, a pentagon",
)

# %% tags=["experiment", "finding"]
print("The lowest-loss model of ten seeds:")
for level, i in zip(levels, best):
    print(f"  sparsity {level:.2f}: {names[i]}")

# %% tags=["experiment"]
for k, level in enumerate(levels):
    found, winner = names[k * seeds : (k + 1) * seeds], names[best[k]]
    others = [loss for loss, name in zip(losses[k].tolist(), found) if name != winner]
    rest = f"the best seed that did not has {min(others):.4f}" if others else "every seed did"
    print(
        f"sparsity {level:.2f}: {found.count(winner):2d} of {seeds} seeds found it (loss {losses[k].min():.4f}); {rest}"
    )

# %% [markdown]
# Had training come to rest, or did we stop it too early?

# %% tags=["experiment"]
plots.plot_loss_curves(
    {f"S = {levels[k]:.2f}": history[:, best[k]] for k in (0, 3, 4, 5)},
    1200,
    "The loss had come to rest at every sparsity",
)

# %% [markdown]
# So that is superposition. With dense features the model keeps the two most important ones, at right angles, and drops the rest: exactly what linear
# algebra says is best. With sparse features it keeps all five. In between it stores two *antipodal pairs*.
#
# Antipodal pairs are where the ReLU earns its keep. If feature 1 points up and feature 2 points down, feature 1 alone makes feature 2's readout negative, and the ReLU
# cuts it to exactly 0. There is interference only when *both* are on, which in a sparse world is rare.
#
# **What would have fooled us:** one seed. Optimisation is noisy; in the middle of the range not every start finds the best shape. Look at ten of them:

# %% tags=["experiment"]
chosen = range(4 * seeds, 5 * seeds)  # sparsity 0.9
plots.plot_features_in_plane(
    model.W[4 * seeds : 5 * seeds],
    [f"{names[i]}\nloss {losses.flatten()[i]:.4f}" for i in chosen],
    "Ten seeds at sparsity 0.90: the same data, not always the same shape",
    columns=5,
)

# %% [markdown]
# Which features disturb which? $W^\top W$ shows it: the diagonal is how strongly a feature comes back, everything else is interference.

# %% tags=["experiment"]
plots.plot_gram(
    model.W[best],
    [f"S = {level:.2f}" for level in levels],
    "Off the diagonal of $W^T W$: the interference that storing more features costs",
)

# %% tags=["experiment"]
W = model.W[best].detach()
index, stored = superposition_index(W), feature_norms(W) > 0.5
for k, level in enumerate(levels):
    random = superposition_sweep.random_directions(
        W[k].expand(1000, -1, -1), generator
    )  # a thousand tries, same lengths
    print(
        f"sparsity {level:.2f}: {int(stored[k].sum())} features stored, crossed by {index[k][stored[k]].mean():.2f} on average;"
        f" random directions of the same lengths: {superposition_index(random)[:, stored[k]].mean():.2f}"
    )

# %% [markdown]
# The control matters: *any* five vectors in the plane cross each other, so an index of 1.8 means little until you know what random directions of the same lengths would have. The model
# does not just crowd its features, it places them.
#
# (We look only at features that are stored. The index of a feature with $\|W_i\| = 0.01$ can be large too, because it asks about its direction alone. **Look at the norms first.**)

# %% [markdown]
# ### In your own words · 1
# *2 points, graded by a person*
#
# You train the same sixty models again, but now feature $i$ has importance $0.3^i$ instead of $0.9^i$. What would you expect at $S = 0.9$, and why? Name the two quantities that the
# model weighs against each other when it decides whether to store one more feature.

# %% [markdown] question="superposition.words-importance" points=2
# I expect fewer features to be stored at $S = 0.9$: the first two or three, and no full pentagon. Storing one more feature saves importance times its variance, and costs the
# interference that it adds to the features that are stored already, times *their* importances, in the cases where both are on. With $0.3^i$ the fifth feature is worth 0.008 of the first, so
# it may not disturb the first even rarely. At a high enough sparsity interference (which needs two features on at once, so it falls with $(1-S)^2$) loses against the gain (which falls only with $1-S$), and the unimportant ones come in as well.
#
# *Rubric: 1 point for "fewer features, the important ones", 1 point for naming both sides: the feature's own importance (or variance) gained, against the interference with others, which needs
# two features on at once.*

# %% [markdown]
# ## 4. What does a feature cost?
#
# In the pentagon five features share two dimensions, so each gets 2/5 of one. Does the model always use such tidy fractions? Count first, in the roughest way.
#
# ### Exercise 6 · `dimensions_per_feature`
# *5 minutes, ★☆☆☆, 1 point*
#
# A stored feature has $\|W_i\| \approx 1$ and a dropped one 0, so the sum of all squared entries $\|W\|_F^2$ counts the stored features. Return $D^* = m / \|W\|_F^2$ for each instance, with $m$ the number of hidden dimensions.
#
# **In:** `W`, shape (instances, hidden, features). **Out:** shape (instances,).
#
# **Example:** two hidden dimensions and four unit vectors give `[0.5]`.


# %% exercise="superposition.dimensions_per_feature"
def dimensions_per_feature(W: Float[Tensor, "instances hidden features"]) -> Float[Tensor, "instances"]:
    """Hidden dimensions spent on a stored feature: m / ||W||_F^2."""
    ### BEGIN SOLUTION
    return W.shape[1] / W.pow(2).sum(dim=(1, 2))
    ### END SOLUTION


# %% check="superposition.dimensions_per_feature"
check("superposition.dimensions_per_feature", dimensions_per_feature)

# %% [markdown]
# An average hides who gets what. The paper's finer measure asks what share of a dimension *one* feature has to itself.
#
# ### Exercise 7 · `feature_dimensionality`
# *15 minutes, ★★☆☆, 2 points*
#
# $$D_i = \frac{\|W_i\|^2}{\sum_j (\hat W_i \cdot W_j)^2}$$
#
# The sum runs over **all** features, $j = i$ included. A feature that is not represented gets 0, never NaN.
#
# **In:** `W`, shape (instances, hidden, features). **Out:** shape (instances, features).
#
# **Example:** an antipodal pair and a feature with its own dimension, `W = [[[1., -1., 0.], [0., 0., 1.]]]`, gives `[[0.5, 0.5, 1.]]`.


# %% exercise="superposition.feature_dimensionality"
def feature_dimensionality(W: Float[Tensor, "instances hidden features"]) -> Float[Tensor, "instances features"]:
    """The share of a dimension that each feature has to itself; 0 where W_i = 0."""
    ### BEGIN SOLUTION
    norms = W.norm(dim=1, keepdim=True)
    unit = W / norms.where(norms > 0, torch.ones_like(norms))
    shared = einsum(unit, W, "inst hidden i, inst hidden j -> inst i j").pow(2).sum(dim=-1)
    return norms.squeeze(1) ** 2 / shared.where(shared > 0, torch.ones_like(shared))
    ### END SOLUTION


# %% check="superposition.feature_dimensionality"
check("superposition.feature_dimensionality", feature_dimensionality)

# %% [markdown]
# ### Plateaus
#
# Now give the model room for more than a polygon: 60 equally important features in 10 dimensions, at eight sparsities. Elhage et al. found that the
# dimensionalities gather at a few fractions, one for each regular shape: 1 (alone), 3/4 (tetrahedron), 2/3 (triangle), 1/2 (antipodal pair), 2/5 (pentagon), 3/8 (square antiprism).
#
# **Predict:** will all six appear? And how often would *random* directions land near one of them?

# %% tags=["experiment"]
PLATEAUS = {"1": 1.0, "3/4": 3 / 4, "2/3": 2 / 3, "1/2": 1 / 2, "2/5": 2 / 5, "3/8": 3 / 8}
density_grid = torch.tensor([1.3, 1.5, 1.75, 2.0, 3.0, 4.25, 5.0, 7.0])  # 1 / (1 - S)
sparsity = (1 - 1 / density_grid).repeat_interleave(2)
model = ToyModel(len(sparsity), n_features=60, n_hidden=10)
train(
    model,
    sample=lambda batch_size: sparse_batch(batch_size, 60, sparsity, generator),
    loss=lambda prediction, x: importance_weighted_loss(prediction, x, torch.ones(60)),
    steps=1000,
    lr=0.03,
    batch_size=256,
    label="60 features in 10 dimensions",
)
W = model.W.detach()
print("1 / (1 - S):           ", [f"{1 / (1 - s):.2f}" for s in sparsity.tolist()[::2]])
print("dimensions per feature:", [f"{d:.2f}" for d in dimensions_per_feature(W).tolist()[::2]])

# %% [markdown]
# Ten dimensions are few. The same sweep with 400 features in 30 dimensions and twenty sparsities takes minutes, so its weights' measures ship with the course (`python -m mechlib.recipes.superposition_sweep` makes the file again).
# Beside each share stand two controls: **random directions** with the very same lengths, at the same sparsity, and the most that random directions reach at any sparsity.

# %% tags=["experiment"]
sweep = superposition_sweep.load()
kept = sweep["norms"] > 0.5  # a feature that is not stored has no dimensionality worth counting
densest = int(sweep["sparsity"].argmin())
print(
    f"the densest model: {sweep['per_feature'][densest]:.2f} dimensions per feature, but the largest norm of a feature is {sweep['norms'][densest].max():.2f}"
)

table = []
for name, value in PLATEAUS.items():
    rows = [(share_near(d[k], [value], 0.01).item(), share_near(c[k], [value], 0.01).item(), 1 / (1 - s.item()))
            for d, c, k, s in zip(sweep["dimensionality"], sweep["control"], kept, sweep["sparsity"]) if k.sum() >= 5]  # fmt: skip
    everywhere = (
        share_near(sweep["dimensionality"][kept], [value], 0.01).item(),
        share_near(sweep["control"][kept], [value], 0.01).item(),
    )
    most, random_there, at = max(rows)
    table.append((name, most, max(random for _, random, _ in rows)))
    print(
        f"{name:>3} ± 0.01: {everywhere[0]:4.0%} of all stored features (random {everywhere[1]:4.0%});"
        f" most at 1/(1-S) = {at:5.2f}: {most:4.0%} (random there {random_there:4.0%}, random anywhere at most {table[-1][2]:4.0%})"
    )

# %% tags=["experiment", "finding"]
print(
    "Plateaus that show (their best sparsity beats random directions at any sparsity):",
    [name for name, most, random in table if most > random + 0.05],
)
print("Plateaus that do not show in our sweep:", [name for name, most, random in table if most <= random + 0.05])

# %% tags=["experiment"]
nan = torch.full_like(sweep["norms"], float("nan"))
plots.plot_dimensionality(
    sweep["sparsity"],
    sweep["dimensionality"].where(kept, nan),
    sweep["control"].where(kept, nan),
    PLATEAUS,
    "Stored features gather at a few fractions; random directions glide past them",
)

# %% tags=["experiment"]
plots.plot_dimensions_per_feature(
    sweep["sparsity"], sweep["per_feature"], "Dimensions per feature stick at 1 and at 1/2 before they fall"
)

# %% [markdown]
# The antipodal pair, 1/2, is unmistakable. **What would have fooled us** is counting hits without a control: as features get crowded, *random* directions drift through every
# fraction below 1/2 as well, so "many features near 3/8" alone means little. That is why the list of plateaus that do not show is part of the result. The paper reports more of these shapes, in models of the same size; ours says only that
# our short optimisation does not find them, or not often enough to be told from chance.
#
# **A surprise**: dimensions per feature stick at 1 while *no* feature has a dimension to itself. With dense and equally important features the model has no reason to prefer any of them, so it spreads each one
# thinly over all dimensions, like PCA. An average of 1 does not mean one each.

# %% [markdown]
# ## 5. When does it pay?
#
# Take the smallest case: two features, one dimension. Only three things can happen: keep the first, keep the second, or keep both as an antipodal pair. Their costs can be worked
# out on paper, and then compared with what training does.
#
# ### Exercise 8 · `strategy_losses` (optional, hard)
# *30 minutes, ★★★★, 3 points*
#
# Feature 1 has importance 1 and feature 2 has importance `importance`; each is on with probability $p = 1 - S$, independently, and then uniform in [0, 1]. Return the expected loss (importance-weighted squared error) of three strategies, stacked:
#
# 0. keep feature 1 perfectly; answer feature 2 always with the best constant;
# 1. keep feature 2 perfectly; answer feature 1 always with the best constant;
# 2. the antipodal pair, $W = [1, -1]$ and $b = 0$: the outputs are $\mathrm{ReLU}(x_1 - x_2)$ and $\mathrm{ReLU}(x_2 - x_1)$.
#
# **In:** `sparsity` and `importance`, tensors of any shapes that broadcast. **Out:** shape (3, \*broadcast shape).
#
# **Example:** `strategy_losses(torch.tensor(0.5), torch.tensor(2.0))` is `[0.2083, 0.1042, 0.1250]`.
#
# **Short of time?** Write `strategy_losses = borrow("superposition.strategy_losses")` in its place: the next cells need it.


# %% exercise="superposition.strategy_losses"
def strategy_losses(
    sparsity: Float[Tensor, "*shape"], importance: Float[Tensor, "*shape"]
) -> Float[Tensor, "3 *shape"]:
    """Expected losses of keeping feature 1, keeping feature 2, and the antipodal pair."""
    ### BEGIN SOLUTION
    p = 1 - sparsity
    variance = p / 3 - p**2 / 4
    return torch.stack(torch.broadcast_tensors(importance * variance, variance, (1 + importance) * p**2 / 6))
    ### END SOLUTION


# %% check="superposition.strategy_losses"
check("superposition.strategy_losses", strategy_losses)

# %% [markdown]
# Now the experiment: 11 x 11 combinations of relative importance and density, eight seeds each, 968 models at once. Where a trained model stores both features, it is in superposition.

# %% tags=["experiment"]
relative, density, seeds = torch.logspace(-1, 1, 11), torch.logspace(-1.5, 0, 11), 8
rows, columns = torch.meshgrid(relative, density, indexing="ij")
cells = 1 - columns.flatten()  # the sparsity of each of the 121 cells
importance = torch.stack([torch.ones(121), rows.flatten()], dim=-1).repeat_interleave(seeds, dim=0)
model = ToyModel(121 * seeds, n_features=2, n_hidden=1)
train(
    model,
    sample=lambda batch_size: sparse_batch(batch_size, 2, cells, generator).repeat_interleave(seeds, dim=1),
    loss=lambda prediction, x: importance_weighted_loss(prediction, x, importance),
    steps=800,
    lr=0.05,
    batch_size=128,
    label="phase diagram",
)
with torch.no_grad():
    batches = [sparse_batch(2000, 2, cells, generator).repeat_interleave(seeds, dim=1) for _ in range(8)]
    losses = sum(importance_weighted_loss(model(x), x, importance) for x in batches).view(121, seeds) / 8

first, second = (model.W.detach()[:, 0].abs() > 0.5).T
phases = torch.where(first & second, 2, torch.where(first, 0, torch.where(second, 1, 3))).view(121, seeds)
trained = phases[torch.arange(121), losses.argmin(dim=1)]
theory_losses = strategy_losses(cells, rows.flatten())
theory = theory_losses.argmin(dim=0)

plots.plot_phase_diagram(
    relative,
    density,
    {
        "theory": theory.view(11, 11),
        "trained, best of 8": trained.view(11, 11),
        "trained, one seed": phases[:, 0].view(11, 11),
    },
    "Rare features of similar importance share one dimension; theory's boundary is black",
)

# %% tags=["experiment"]
agree = trained == theory
shuffled = theory[torch.randperm(121, generator=generator)]
ordered = theory_losses.sort(dim=0).values
close_call = ordered[1] / ordered[0]
print(
    f"training (best of 8) does what theory says in {agree.float().mean():.0%} of the cells; a single seed in {(phases[:, 0] == theory).float().mean():.0%}"
)
print(f"control: with theory's answers shuffled, {(trained == shuffled).float().mean():.0%}")
print(f"how much worse theory's second choice is: {close_call.median():.1f} times in the median cell,", end=" ")
print(
    f"at most {close_call[~agree].max():.2f} times where they disagree" if (~agree).any() else "and they never disagree"
)

# %% tags=["experiment", "finding"]
print("Theory and training agree in more than 85% of the cells:", bool(agree.float().mean() > 0.85))
print(
    "Where they disagree, theory's first two choices are within 25% of each other:",
    bool((close_call[~agree] < 1.25).all()),
)

# %% [markdown]
# Superposition is not a gradual thing: crossing the boundary, the best strategy switches. It is a **phase change**. Theory and training disagree only where two strategies cost nearly the same; there the trained
# model can also cheat a little, with a bias or with lengths other than 1, which our three strategies do not allow.

# %% [markdown]
# ## 6. Who shares with whom?
#
# So far features were independent. Real ones are not: "is a question" comes with "ends in ?", and a word is never both French and Finnish. If you had to let two features share a dimension, would you choose two that always
# come **together**, or two that **exclude** each other?
#
# ### Exercise 9 · `correlated_batch`
# *10 minutes, ★★☆☆, 2 points*
#
# Like `sparse_batch`, but features $2k$ and $2k + 1$ are partners: on together, or off together. Each is still 0 with probability `sparsity`, and when they are on, their magnitudes are independent. `n_features` is even.
#
# **In and out:** as in `sparse_batch`.
#
# **Example:** in `correlated_batch(1000, 4, torch.tensor([0.7]))` columns 0 and 1 (the last axis) are zero in the same examples, about 700 of them; columns 2 and 3 are zero in 700 or so that are drawn independently.


# %% exercise="superposition.correlated_batch"
def correlated_batch(
    batch_size: int, n_features: int, sparsity: Float[Tensor, "instances"], generator: torch.Generator | None = None
) -> Float[Tensor, "batch instances features"]:
    """Like sparse_batch, but features 2k and 2k+1 are active together or not at all."""
    ### BEGIN SOLUTION
    pairs = (batch_size, len(sparsity), n_features // 2)
    pair_active = torch.rand(pairs, generator=generator, device=sparsity.device) >= sparsity[:, None]
    active = pair_active.repeat_interleave(2, dim=-1)
    return torch.rand(active.shape, generator=generator, device=sparsity.device, dtype=sparsity.dtype) * active
    ### END SOLUTION


# %% check="superposition.correlated_batch"
check("superposition.correlated_batch", correlated_batch)

# %% [markdown]
# Four features in two dimensions, as two pairs of partners; three hundred seeds each. Independent features are the control: there "partners" mean nothing.

# %% tags=["experiment"]
worlds = {"independent": sparse_batch, "correlated": correlated_batch, "anticorrelated": anticorrelated_batch}
shares, examples = {}, []
for name, sampler in worlds.items():
    sparsity = torch.full((300,), 0.8)
    model = ToyModel(300, n_features=4, n_hidden=2)
    train(
        model,
        sample=lambda batch_size: sampler(batch_size, 4, sparsity, generator),
        loss=lambda prediction, x: importance_weighted_loss(prediction, x, torch.ones(4)),
        steps=700,
        lr=0.1,
        batch_size=128,
        label=name,
    )
    with torch.no_grad():
        x = sampler(20_000, 4, sparsity[:1], generator).expand(-1, 300, -1)
        losses = importance_weighted_loss(model(x), x, torch.ones(4))
    W = model.W.detach()
    cosine = torch.nn.functional.cosine_similarity(W[..., 0::2], W[..., 1::2], dim=1)  # between partners
    shares[name] = {
        "antipodal": (cosine < -0.9).float().mean().item(),
        "orthogonal": (cosine.abs() < 0.2).float().mean().item(),
        "same direction": (cosine > 0.9).float().mean().item(),
    }
    examples.append(W[losses.argmin()])
    print(f"{name}: partners are", ", ".join(f"{what} in {share:.0%}" for what, share in shares[name].items()))

# %% tags=["experiment"]
plots.plot_shares(
    shares,
    "share of pairs (300 seeds)",
    "Partners that come together go orthogonal, partners that exclude each other antipodal",
    chance=1 / 3,
)

# %% tags=["experiment"]
plots.plot_features_in_plane(
    torch.stack(examples),
    list(shares),
    "Partners share a colour: the lowest-loss seed of 300 in each world",
    pairs=True,
)

# %% tags=["experiment", "finding"]
for kind in ("orthogonal", "antipodal"):
    print(f"Partners are most often {kind} when they are", max(shares, key=lambda world: shares[world][kind]))

# %% [markdown]
# An antipodal pair is ruined when both are on, so the model gives that place to features that never meet, and correlated features go to different dimensions. Not every seed manages: the shares are
# preferences, and only beside the independent world do they mean something. (In a denser world correlated features do something else again: see *Going on*.)

# %% [markdown]
# ## 7. Why neurons are polysemantic
#
# The hidden layer so far had no favourite axes: rotate it, and nothing changes. Give it a ReLU and each hidden dimension becomes a **neuron**, whose axis is special: a *privileged basis*. Will the model then use
# one neuron a feature?
#
# ### Exercise 10 · `polysemanticity`
# *15 minutes, ★★☆☆, 2 points*
#
# In the model with ReLU neurons, $\mathrm{ReLU}(W^\top \mathrm{ReLU}(Wx) + b)$, switch on one feature at a time, at 1, and look at neuron $j$: it shows $\mathrm{ReLU}(W_{ji})$. The neuron *answers to* feature $i$ if this is positive and at least
# `threshold` times the largest response that the neuron gives to any feature. Count the features that each neuron answers to. A neuron that no feature drives counts 0.
#
# **In:** `W`, shape (instances, hidden, features), and `threshold`. **Out:** integers (int64), shape (instances, hidden).
#
# **Example:** `W = [[[1., 0.6, 0.2, -2.], [-1., 0., -3., -1.]]]` with threshold 0.5 gives `[[2, 0]]`.


# %% exercise="superposition.polysemanticity"
def polysemanticity(
    W: Float[Tensor, "instances hidden features"], threshold: float = 0.5
) -> Int[Tensor, "instances hidden"]:
    """How many features each ReLU neuron answers to."""
    ### BEGIN SOLUTION
    response = W.relu()
    largest = response.amax(dim=-1, keepdim=True)
    return ((response > 0) & (response >= threshold * largest)).sum(dim=-1)
    ### END SOLUTION


# %% check="superposition.polysemanticity"
check("superposition.polysemanticity", polysemanticity)


# %% tags=["experiment"]
class ReluHiddenModel(ToyModel):
    """Your toy model with neurons: ReLU(W^T ReLU(W x) + b)."""

    def forward(self, x):
        neurons = einsum(self.W, x, "inst hidden feat, batch inst feat -> batch inst hidden").relu()
        return (einsum(self.W, neurons, "inst hidden feat, batch inst hidden -> batch inst feat") + self.b).relu()


levels, seeds = torch.tensor([0.0, 0.5, 0.7, 0.8, 0.9, 0.95]), 10
sparsity = levels.repeat_interleave(seeds)
importance = 0.75 ** torch.arange(10.0)
monosemantic, neurons = {}, None
for name, kind in {"ReLU neurons": ReluHiddenModel, "linear hidden layer": ToyModel}.items():
    model = kind(len(sparsity), n_features=10, n_hidden=5)
    train(
        model,
        sample=lambda batch_size: sparse_batch(batch_size, 10, sparsity, generator),
        loss=lambda prediction, x: importance_weighted_loss(prediction, x, importance),
        steps=700,
        lr=0.03,
        batch_size=256,
        label=name,
    )
    W = model.W.detach().clone()
    rotation = torch.linalg.qr(torch.randn(len(sparsity), 5, 5, generator=generator)).Q
    with torch.no_grad():
        x = sparse_batch(10_000, 10, levels, generator).repeat_interleave(seeds, dim=1)
        losses = importance_weighted_loss(model(x), x, importance).view(-1, seeds)
        model.W.copy_(rotation @ W)
        rotated = importance_weighted_loss(model(x), x, importance).view(-1, seeds)
        off = (
            (einsum(W, x, "inst hidden feat, batch inst feat -> batch inst hidden") <= 0)
            .float()
            .mean(dim=(0, 2))
            .view(-1, seeds)
        )
    counts = polysemanticity(W).view(-1, seeds, 5).float()
    monosemantic[name] = (counts == 1).float().mean(dim=(1, 2))
    if kind is ReluHiddenModel:
        best = losses.argmin(dim=1)
        neurons = W.view(-1, seeds, 5, 10)[torch.arange(len(levels)), best]
        turned = polysemanticity(rotation @ W).view(-1, seeds, 5)
        monosemantic["ReLU neurons, rotated"] = (turned == 1).float().mean(dim=(1, 2))
        features_a_neuron = counts.mean(dim=(1, 2))
        silent = off.mean(dim=1)
        of_the_best = counts[torch.arange(len(levels)), best].int().tolist()
    print(
        f"{name}: a random rotation of the hidden space multiplies the loss by {(rotated / losses).median():.2f} (median)"
    )
for level, mean, best_counts, share in zip(levels, features_a_neuron, of_the_best, silent):
    print(
        f"ReLU neurons, sparsity {level:.2f}: {mean:.2f} features a neuron on average; lowest-loss seed {best_counts}; silent {share:.0%} of the time"
    )

# %% tags=["experiment"]
random = polysemanticity(torch.randn(2000, 5, 10, generator=generator))
plots.plot_lines(
    levels,
    monosemantic,
    "sparsity",
    "share of neurons with one feature",
    "Neurons lose their single meaning as features get sparse",
    reference=(random == 1).float().mean().item(),
    reference_label="random weights",
)

# %% tags=["experiment"]
show = [1, 3, 5]
plots.plot_neurons(
    neurons[show],
    [f"S = {levels[k]:.2f}" for k in show],
    "The sparser the features, the more of them in each ReLU neuron",
)

# %% tags=["experiment", "finding"]
print("Monosemantic in the lowest-loss seed at sparsity 0.50:", of_the_best[1] == [1] * 5)
print("More features a neuron at sparsity 0.95 than at 0.50:", bool(features_a_neuron[5] > features_a_neuron[1] + 1))

# %% [markdown]
# The ReLU does make the basis special: rotating the hidden space ruins the model, while the linear one does not notice. At $S = 0.5$ the best model gives every neuron one feature; where features are sparse, it
# packs several into a neuron *although* it could have kept them clean. Polysemanticity is not sloppiness. It is what a lower loss looks like.
#
# One thing does not fit the simple story: at $S = 0$, where everything is on all the time, neurons are *less* clean than at 0.5. The last column suggests why: there a neuron is almost never silent, so its ReLU
# hardly acts, and without a ReLU no basis is special.

# %% [markdown]
# ### In your own words · 2
# *2 points, graded by a person*
#
# A colleague finds a neuron that fires on cheese and on French poetry, and concludes that the model confuses the two. What would you answer, and what measurement on the model
# would you propose to tell "the model confuses them" from "the model stores both in superposition"?

# %% [markdown] question="superposition.words-neuron" points=2
# A neuron that answers to two features says nothing about confusion: with sparse features the best model puts several into each neuron and tells them apart by the *other* neurons (the direction). It
# can afford that because the two hardly ever occur together. To tell the cases apart, look at the whole layer instead of one neuron: if cheese and poetry are two different directions (a linear readout separates them, and moving the activation along one
# changes only the outputs about that one), they are in superposition. If no direction separates them, and the output treats them alike, the model confuses them.
#
# *Rubric: 1 point for "features are directions; one neuron is the wrong basis to look in", 1 point for a measurement on several neurons that would have come out differently in the two cases.*

# %% [markdown]
# ## 8. Computing in superposition
#
# Storing is one thing. Can a model also *compute* with more features than it has neurons? Ask it for the absolute value: inputs in [-1, 1], and $y = \mathrm{ReLU}(W_{out}\,\mathrm{ReLU}(W_{in} x) + b)$ should be $|x|$.
#
# First do it yourself, without superposition.
#
# ### Exercise 11 · `absolute_value_weights` (optional, hard)
# *25 minutes, ★★★★, 3 points (2 with enough neurons, 1 without)*
#
# Write the weights by hand; nothing is trained. With `n_hidden` neurons the model must compute $|x_i|$ exactly for the first `n_hidden // 2` features (or for all, if there are enough neurons), for **any** $x$ in $[-1, 1]^n$, and output 0 for
# the rest. Neurons may come in any order and at any scale: what counts is what the model computes.
#
# **In:** `n_features`, `n_hidden`. **Out:** the tuple `W_in` (hidden, features), `W_out` (features, hidden), `b` (features,), float32.
#
# **Example:** with the weights of `absolute_value_weights(3, 4)` the input `[-0.5, 0.2, 0.9]` gives `[0.5, 0.2, 0.]`.
#
# **Short of time?** Write `absolute_value_weights = borrow("superposition.absolute_value_weights")` in its place: the next cells need it.


# %% exercise="superposition.absolute_value_weights"
def absolute_value_weights(
    n_features: int, n_hidden: int
) -> tuple[Float[Tensor, "hidden features"], Float[Tensor, "features hidden"], Float[Tensor, "features"]]:
    """Weights with which ReLU(W_out ReLU(W_in x) + b) is |x| for the first n_hidden // 2 features, and 0 for the rest."""
    ### BEGIN SOLUTION
    W_in, W_out = torch.zeros(n_hidden, n_features), torch.zeros(n_features, n_hidden)
    for i in range(min(n_hidden // 2, n_features)):
        W_in[2 * i, i], W_in[2 * i + 1, i] = 1.0, -1.0
        W_out[i, 2 * i], W_out[i, 2 * i + 1] = 1.0, 1.0
    return W_in, W_out, torch.zeros(n_features)
    ### END SOLUTION


# %% check="superposition.absolute_value_weights"
check("superposition.absolute_value_weights", absolute_value_weights)

# %% [markdown]
# Your weights are honest: two neurons a feature, no interference, and nothing for whoever comes late. Now 12 features and 8 neurons, so 4 features by hand. **Can training beat you, and at which sparsity?**
# (To be fair, your model may also add the best constant for the features that it drops. "Worth 4 features" means: the shares of each $|x_i|$'s variance that the model explains add up to 4.)

# %% tags=["experiment"]
levels, seeds, n, m = torch.tensor([0.0, 0.5, 0.8, 0.9, 0.95]), 8, 12, 8
sparsity = levels.repeat_interleave(seeds)
model = AbsoluteValueModel(len(sparsity), n, m)
train(
    model,
    sample=lambda batch_size: signed_sparse_batch(batch_size, n, sparsity, generator),
    loss=lambda prediction, x: importance_weighted_loss(prediction, x.abs(), torch.ones(n)),
    steps=1500,
    lr=0.03,
    batch_size=256,
    label="absolute value",
)
W_in, W_out, b = absolute_value_weights(n, m)
with torch.no_grad():
    x = signed_sparse_batch(20_000, n, levels, generator)
    repeated = x.repeat_interleave(seeds, dim=1)
    answer = model(repeated)
    losses = importance_weighted_loss(answer, repeated.abs(), torch.ones(n)).view(-1, seeds)
    constants = torch.where(torch.arange(n) < m // 2, 0, (1 - levels[:, None]) / 2)
    by_hand = importance_weighted_loss(((x @ W_in.T).relu() @ W_out.T + b).relu() + constants, x.abs(), torch.ones(n))
    explained = 1 - ((answer - repeated.abs()) ** 2).mean(dim=0) / repeated.abs().var(dim=0)
computed = explained.view(-1, seeds, n).sum(dim=-1)[torch.arange(len(levels)), losses.argmin(dim=1)]
ratio = losses.min(dim=1).values / by_hand
for k, level in enumerate(levels):
    print(f"sparsity {level:.2f}: trained {losses[k].min():.4f}, by hand {by_hand[k]:.4f}, ratio {ratio[k]:.2f};"
          f" worth {computed[k]:.1f} features (by hand {m // 2})")  # fmt: skip

# %% tags=["experiment"]
plots.plot_lines(
    levels,
    {"lowest-loss seed": ratio, "median seed": losses.median(dim=1).values / by_hand},
    "sparsity",
    "loss / loss of hand-written weights",
    "Trained weights beat two neurons a feature only where features are sparse",
    reference=1.0,
    reference_label="by hand",
)

# %% tags=["experiment", "finding"]
print(
    "At sparsity 0.90 and 0.95 training beats the hand-written weights by more than a tenth:",
    bool((ratio[-2:] < 0.9).all()),
)
print(
    "There it is worth more features than it could compute without superposition:", bool((computed[-2:] > m // 2).all())
)
print("At sparsity 0 and 0.50 training wins nothing (less than 5%):", bool((ratio[:2] > 0.95).all()))

# %% [markdown]
# With dense features training gains nothing over your weights. With sparse ones the trained model computes more absolute values than it has room for: it *calculates* in superposition. A circuit
# that reads and writes such features cannot be understood neuron by neuron either.

# %% [markdown]
# ## Caveats
#
# - **We knew the features.** In a real model nobody hands you $x$. Every measure here needs the true directions; finding them is the subject of chapter 06.
# - **One seed is an anecdote.** Where a picture shows single models, they are the lowest-loss ones of several. Before you believe such a picture, look at the other seeds.
# - **A count near a fraction is no plateau.** Random directions pass through the same fractions; only the comparison tells.
# - **Thresholds are choices.** "Stored" meant $\|W_i\| > 1/2$, and a neuron's "answers to" used a threshold of 1/2. How much hangs on the second? Look:

# %% tags=["experiment"]
print("features a neuron at sparsity 0.50, 0.80 and 0.95 (lowest-loss seeds)")
for threshold in (0.1, 0.25, 0.5, 0.75):
    counts = polysemanticity(neurons[[1, 3, 5]], threshold).float().mean(dim=1)
    print(f"  threshold {threshold:.2f}: ", ", ".join(f"{count:.1f}" for count in counts))

# %% [markdown]
# The numbers move with the threshold; the rise with sparsity does not go away.
#
# ## Going on
#
# Three investigations without a checker:
#
# 1. **The merge.** Train the correlated world at $S = 0.7$ instead of 0.8, and look at where partners point now. Work out what the loss of storing only the average of two correlated features is, and predict the sparsity at which it starts
#    to pay. *A good answer has a formula, a sweep, and the two on one plot.*
# 2. **The missing plateaus.** Train longer, or with more features, until 3/4 or 2/3 shows up clearly against random directions, or collect evidence that it does not. *A good answer states its control, and how many seeds it tried.*
# 3. **Exact computing in superposition.** If only *one* feature is on at a time, how few neurons suffice to compute $|x_i|$ exactly for $n$ features? *A good answer is a construction, a proof that one fewer fails for small $n$, or a search that suggests it.*
#
# There is no `gpt2` version of this chapter: the point of a toy is that you know its features.
#
# **Papers**
# - Elhage et al. 2022, [Toy Models of Superposition](https://transformer-circuits.pub/2022/toy_model/index.html): read the sections on geometry and on feature dimensionality beside your own plots.
# - Scherlis et al. 2022, [Polysemanticity and Capacity in Neural Networks](https://arxiv.org/abs/2210.01892): the same trade as an allocation of capacity; read it for the theory of exercise 8.
# - Bricken et al. 2023, [Towards Monosemanticity](https://transformer-circuits.pub/2023/monosemantic-features/index.html): how to get the features back out, which chapter 06 does.

# %% tags=["experiment"]
progress()
