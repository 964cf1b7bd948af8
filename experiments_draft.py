# %% tags=["setup"]
import sys
import time

import torch

from mechlib import plots
from mechlib import superposition as sp
from mechlib.recipes import superposition_sweep

torch.set_num_threads(1)  # these models are too small for more threads to help
GLOBAL_SEED = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 0
FIGURES = {}
SECONDS = {}


def lap(name, start):
    SECONDS[name] = round(time.time() - start, 1)


# %% [markdown]
# ## 1. Five features in two dimensions
# Importance 0.9^i, ten seeds at each of six sparsities: 60 models in one tensor. All seeds of a sparsity are judged on the
# same fresh batch of 50 000.

# %% tags=["experiment", "finding"]
start = time.time()
generator = torch.Generator().manual_seed(GLOBAL_SEED)
levels, seeds = torch.tensor([0.0, 0.5, 0.7, 0.8, 0.9, 0.95]), 10
sparsity = levels.repeat_interleave(seeds)
importance = 0.9 ** torch.arange(5.0)
model = sp.ToyModel(len(sparsity), 5, 2, generator)
history = sp.train(
    model,
    lambda size: sp.sparse_batch(size, 5, sparsity, generator),
    lambda y, x: sp.importance_weighted_loss(y, x, importance),
    steps=1200, lr=0.03, batch_size=384, label="5 features in 2 dimensions",
)  # fmt: skip
with torch.no_grad():
    x = sp.sparse_batch(50_000, 5, levels, generator).repeat_interleave(seeds, dim=1)
    losses = sp.importance_weighted_loss(model(x), x, importance).view(len(levels), seeds)
names = sp.classify_geometry(model.W)
best = losses.argmin(dim=1) + seeds * torch.arange(len(levels))
for k, level in enumerate(levels):
    found = names[k * seeds : (k + 1) * seeds]
    winner = names[best[k]]
    others = losses[k][torch.tensor([name != winner for name in found])]
    print(
        f"S = {level:.2f}: lowest loss {losses[k].min():.4f} is {winner!r}, found by {found.count(winner)} of {seeds} seeds;"
        f" best other geometry {others.min().item() if len(others) else float('nan'):.4f}"
    )
lap("1 five in two", start)
FIGURES["1_plane"] = plots.plot_features_in_plane(
    model.W[best],
    [f"S = {level:.2f}\n{names[b]}" for level, b in zip(levels, best, strict=True)],
    "Sparser features: an orthogonal pair, then two antipodal pairs, then a pentagon (lowest-loss seed of ten)",
)
FIGURES["1_gram"] = plots.plot_gram(
    model.W[best], [f"S = {level:.2f}" for level in levels], "What interferes: off the diagonal, the price of a stored feature"
)
FIGURES["1_seeds"] = plots.plot_features_in_plane(
    model.W[3 * seeds : 4 * seeds],
    [f"{names[i]}\nloss {losses[3, i - 3 * seeds]:.4f}" for i in range(3 * seeds, 4 * seeds)],
    "Ten seeds at S = 0.80 do not agree: optimisation is noisy",
    columns=5,
)
FIGURES["1_loss"] = plots.plot_loss_curves(
    {f"S = {levels[k]:.2f}": history[:, best[k]] for k in (0, 3, 4, 5)}, 1200, "Most of the loss falls in the first 200 steps (lowest-loss seed of ten)"
)

# %% tags=["experiment", "finding"]
# the measures on the lowest-loss seeds, beside random directions with the same norms
index = sp.superposition_index(model.W[best]).detach()
dimensionality = sp.feature_dimensionality(model.W[best]).detach()
control = sp.superposition_index(superposition_sweep.random_directions(model.W[best].detach(), generator))
for k, level in enumerate(levels):
    print(
        f"S = {level:.2f}: norms {[round(v, 2) for v in sp.feature_norms(model.W[best])[k].tolist()]}"
        f" superposition index {[round(v, 2) for v in index[k].tolist()]} (random directions: mean {control[k].mean():.2f})"
        f" dimensionality {[round(v, 2) for v in dimensionality[k].tolist()]}"
    )

# %% [markdown]
# ## 2. Plateaus of dimensionality
# (a) live: 60 equally important features in 10 dimensions, two seeds at eight sparsities;
# (b) the shipped sweep, 400 in 30, made by `python -m mechlib.recipes.superposition_sweep`.

# %% tags=["experiment", "finding"]
start = time.time()
generator = torch.Generator().manual_seed(GLOBAL_SEED)
PLATEAUS = {"1": 1.0, "3/4": 3 / 4, "2/3": 2 / 3, "1/2": 1 / 2, "2/5": 2 / 5, "3/8": 3 / 8}
grid = torch.tensor([1.3, 1.5, 1.75, 2.0, 3.0, 4.25, 5.0, 7.0])
sparsity = (1 - 1 / grid).repeat_interleave(2)
model = sp.ToyModel(len(sparsity), 60, 10, generator)
sp.train(
    model,
    lambda size: sp.sparse_batch(size, 60, sparsity, generator),
    lambda y, x: sp.importance_weighted_loss(y, x, torch.ones(60)),
    steps=1000, lr=0.03, batch_size=256, label="60 features in 10 dimensions",
)  # fmt: skip
W = model.W.detach()
live = {
    "sparsity": sparsity,
    "dimensionality": sp.feature_dimensionality(W),
    "norms": sp.feature_norms(W),
    "control": sp.feature_dimensionality(superposition_sweep.random_directions(W, generator)),
    "per_feature": sp.dimensions_per_feature(W),
}
lap("2 live sweep", start)
shipped = superposition_sweep.load()
for name, sweep in (("live 60 in 10", live), ("shipped 400 in 30", shipped)):
    stored = sweep["norms"] > 0.5
    print(f"{name}: {int(stored.sum())} stored features of {stored.numel()}")
    for width in (0.02, 0.005):
        trained = sp.share_near(sweep["dimensionality"][stored], list(PLATEAUS.values()), width)
        random = sp.share_near(sweep["control"][stored], list(PLATEAUS.values()), width)
        for (label, value), a, b in zip(PLATEAUS.items(), trained, random, strict=True):
            each = torch.tensor([
                [sp.share_near(sweep[key][k][stored[k]], [value], width).item() if stored[k].sum() >= 5 else 0.0
                 for k in range(len(stored))] for key in ("dimensionality", "control")
            ])  # fmt: skip
            top = each[0].argmax()
            print(
                f"  within {width} of {label:4s} all sparsities {a:.3f} (random {b:.3f})   most at one sparsity {each[0, top]:.2f}"
                f" at 1/(1-S) = {1 / (1 - sweep['sparsity'][top]):.2f} (random there {each[1, top]:.2f}, at its own best {each[1].max():.2f})"
            )
for s, d, keep in zip(shipped["sparsity"], shipped["per_feature"], shipped["norms"] > 0.5, strict=True):
    print(f"  1/(1-S) = {1 / (1 - s):5.2f}  D* = {d:.3f}  stored {int(keep.sum())}")
nan = torch.full_like(shipped["norms"], float("nan"))
stored = shipped["norms"] > 0.5
FIGURES["2_dimensionality"] = plots.plot_dimensionality(
    shipped["sparsity"],
    shipped["dimensionality"].where(stored, nan),
    shipped["control"].where(stored, nan),
    PLATEAUS,
    "Stored features gather at 1/2, and some at 2/3, 2/5 and near 3/8; none at 1 or 3/4. Random directions with the same norms (grey) spread smoothly",
)
FIGURES["2_per_feature"] = plots.plot_dimensions_per_feature(
    shipped["sparsity"], shipped["per_feature"], "Dimensions per feature stick at 1 and at 1/2"
)

# %% [markdown]
# ## 3. Phase diagram: two features in one dimension
# 11 x 11 combinations of relative importance and density, eight seeds each: 968 models in one tensor.

# %% tags=["experiment", "finding"]
start = time.time()
generator = torch.Generator().manual_seed(GLOBAL_SEED)
relative, density, seeds = torch.logspace(-1, 1, 11), torch.logspace(-1.5, 0, 11), 8
rows, columns = torch.meshgrid(relative, density, indexing="ij")
cells = 1 - columns.flatten()
importance = torch.stack([torch.ones(121), rows.flatten()], dim=-1).repeat_interleave(seeds, dim=0)
model = sp.ToyModel(121 * seeds, 2, 1, generator)
sp.train(
    model,
    lambda size: sp.sparse_batch(size, 2, cells, generator).repeat_interleave(seeds, dim=1),
    lambda y, x: sp.importance_weighted_loss(y, x, importance),
    steps=800, lr=0.05, batch_size=128, label="phase diagram",
)  # fmt: skip
with torch.no_grad():
    batches = [sp.sparse_batch(2000, 2, cells, generator).repeat_interleave(seeds, dim=1) for _ in range(8)]
    losses = sum(sp.importance_weighted_loss(model(x), x, importance) for x in batches).view(121, seeds) / 8


def phase(W):
    """0 only the first feature is stored, 1 only the second, 2 both, 3 neither (stored: |W_f| > 1/2)."""
    first, second = (W[:, 0, 0].abs() > 0.5), (W[:, 0, 1].abs() > 0.5)
    return torch.where(first & second, 2, torch.where(first, 0, torch.where(second, 1, 3)))


found = phase(model.W.detach()).view(121, seeds)
winner = losses.argmin(dim=1)
trained = found[torch.arange(121), winner]
theory_losses = sp.strategy_losses(cells, rows.flatten())
theory = theory_losses.argmin(dim=0)
agree = trained == theory
print(f"trained = theory in {agree.float().mean():.3f} of 121 cells; one seed only: {(found[:, 0] == theory).float().mean():.3f}")
print(f"control, theory's answers shuffled: {(trained == theory[torch.randperm(121, generator=generator)]).float().mean():.3f}")
ordered = theory_losses.sort(dim=0).values
print("second-best / best theory loss where they disagree:", [round(v, 2) for v in (ordered[1] / ordered[0])[~agree].tolist()])
print(f"  everywhere: median {(ordered[1] / ordered[0]).median():.2f}")
bias = model.b.detach().view(121, seeds, 2)[torch.arange(121), winner]
ratio = losses.min(dim=1).values / theory_losses.min(dim=0).values
common = columns.flatten() > 0.1  # below, the evaluation batch holds too few coincidences
middle = common & (trained == 2) & (columns.flatten() > 0.3)
print(f"density > .1: trained loss / theory's best: median {ratio[common].median():.2f}, lowest {ratio[common].min():.2f}; both stored and density > .3:"
      f" median {ratio[middle].median():.2f}, median of the larger bias {bias[middle].amax(-1).median():.2f} (theory has 0)")  # fmt: skip
for j in (~agree).nonzero().flatten():
    print(f"   r={rows.flatten()[j]:.2f} p={columns.flatten()[j]:.3f} trained {plots.PHASES[trained[j]]}, theory {plots.PHASES[theory[j]]},"
          f" b={[round(v, 2) for v in bias[j].tolist()]}, trained/theory loss {ratio[j]:.2f}")  # fmt: skip
lap("3 phase", start)
FIGURES["3_phase"] = plots.plot_phase_diagram(
    relative, density, {"trained, best of 8 seeds": trained.view(11, 11), "trained, one seed": found[:, 0].view(11, 11)},
    "Rare features share the one dimension, common ones leave it to the more important: the best of eight seeds follows theory",
)  # fmt: skip

# %% [markdown]
# ## 4. Correlated and anticorrelated pairs
# Four features in two dimensions, two pairs, S = 0.85, 60 seeds each. Independent features are the control. A third of all ways to
# split four features into two antipodal pairs puts partners together: chance is 1/3.

# %% tags=["experiment", "finding"]
start = time.time()
generator = torch.Generator().manual_seed(GLOBAL_SEED)
seeds, shares, best_seeds = 60, {}, []
for name, sampler, level in (
    ("independent", sp.sparse_batch, 0.85), ("correlated", sp.correlated_batch, 0.85),
    ("anticorrelated", sp.anticorrelated_batch, 0.85),
    ("correlated, S = 0.7", sp.correlated_batch, 0.7),
):  # fmt: skip
    sparsity = torch.full((seeds,), level)
    model = sp.ToyModel(seeds, 4, 2, generator)
    sp.train(
        model,
        lambda size, sampler=sampler, sparsity=sparsity: sampler(size, 4, sparsity, generator),
        lambda y, x: sp.importance_weighted_loss(y, x, torch.ones(4)),
        steps=700, lr=0.03, batch_size=128, label=name,
    )  # fmt: skip
    with torch.no_grad():
        x = sampler(50_000, 4, sparsity[:1], generator).expand(-1, seeds, -1)
        losses = sp.importance_weighted_loss(model(x), x, torch.ones(4))
    W = model.W.detach()
    cosine = torch.nn.functional.cosine_similarity(W[..., 0::2], W[..., 1::2], dim=1)
    antipodal, orthogonal, same = cosine < -0.9, cosine.abs() < 0.2, cosine > 0.9
    shares[name] = {
        "antipodal": antipodal.float().mean().item(),
        "orthogonal": orthogonal.float().mean().item(),
        "same direction": same.float().mean().item(),
    }
    best_seeds.append(W[losses.argmin()])
    print(f"{name:20s} share of pairs", {k: round(v, 3) for k, v in shares[name].items()},
          f"; seeds that store all four {(sp.feature_norms(W) > 0.5).all(-1).float().mean():.2f};"
          f" lowest-loss seed: cos {[round(v, 2) for v in cosine[losses.argmin()].tolist()]}, loss {losses.min():.5f};"
          f" median loss of seeds with partners all antipodal {losses[antipodal.all(-1)].nanmedian():.5f},"
          f" all orthogonal {losses[orthogonal.all(-1)].nanmedian():.5f}, all in one direction {losses[same.all(-1)].nanmedian():.5f}"
          f" ({int(antipodal.all(-1).sum())}, {int(orthogonal.all(-1).sum())}, {int(same.all(-1).sum())} seeds)")  # fmt: skip
lap("4 correlated", start)
FIGURES["4_shares"] = plots.plot_shares(
    {name: shares[name] for name in ("independent", "correlated", "anticorrelated")}, "share of pairs (60 seeds)",
    "Correlated partners avoid each other's opposite; anticorrelated partners seek it", chance=1 / 3,
)  # fmt: skip
FIGURES["4_plane"] = plots.plot_features_in_plane(
    torch.stack(best_seeds[:4]), ["independent", "correlated", "anticorrelated", "correlated,\nS = 0.7"],
    "The lowest-loss seed of 60: partners share a colour", pairs=True,
)  # fmt: skip

# %% [markdown]
# ## 5. A privileged basis
# Ten features, importance 0.75^i, five hidden neurons; ten seeds. The ReLU on the hidden layer gives its basis a meaning: rotating the
# hidden space leaves the linear model's loss alone and ruins the other.

# %% tags=["experiment", "finding"]
start = time.time()
generator = torch.Generator().manual_seed(GLOBAL_SEED)
levels, seeds = torch.tensor([0.0, 0.5, 0.8, 0.9, 0.95]), 10
sparsity = levels.repeat_interleave(seeds)
importance = 0.75 ** torch.arange(10.0)
monosemantic = {}
for name, kind in (("ReLU neurons", sp.ReluHiddenModel), ("linear hidden layer", sp.ToyModel)):
    model = kind(len(sparsity), 10, 5, generator)
    sp.train(
        model,
        lambda size: sp.sparse_batch(size, 10, sparsity, generator),
        lambda y, x: sp.importance_weighted_loss(y, x, importance),
        steps=700, lr=0.03, batch_size=256, label=name,
    )  # fmt: skip
    W = model.W.detach().clone()
    rotation = torch.linalg.qr(torch.randn(len(sparsity), 5, 5, generator=generator)).Q
    with torch.no_grad():
        x = sp.sparse_batch(10_000, 10, levels, generator).repeat_interleave(seeds, dim=1)
        losses = sp.importance_weighted_loss(model(x), x, importance).view(-1, seeds)
        model.W.copy_(rotation @ W)
        rotated = sp.importance_weighted_loss(model(x), x, importance).view(-1, seeds)
    counts = sp.polysemanticity(W).view(-1, seeds, 5).float()
    turned = sp.polysemanticity(rotation @ W).view(-1, seeds, 5).float()
    best = losses.argmin(dim=1)
    for k, level in enumerate(levels):
        print(f"{name:20s} S = {level:.2f}: features a neuron {counts[k].mean():.2f}, monosemantic {(counts[k] == 1).float().mean():.2f};"
              f" after a rotation {turned[k].mean():.2f}, {(turned[k] == 1).float().mean():.2f}, loss x {(rotated[k] / losses[k]).mean():.2f};"
              f" lowest-loss seed {counts[k, best[k]].int().tolist()}")  # fmt: skip
    monosemantic[name] = (counts == 1).float().mean(dim=(1, 2))
    if kind is sp.ReluHiddenModel:
        show = [1, 2, 4]
        neurons = W.view(-1, seeds, 5, 10)[show, best[show]]
        neuron_labels = [f"S = {levels[k]:.2f}" for k in show]
        monosemantic["ReLU, lowest-loss seed"] = (counts[torch.arange(len(levels)), best] == 1).float().mean(dim=1)
        with torch.no_grad():
            off = torch.einsum("ihf,bif->bih", W, x) < 0
        off = off.float().mean(dim=0).view(-1, seeds, 5)
        print("   share of inputs on which a neuron is off, by sparsity:", [round(v, 2) for v in off.mean(dim=(1, 2)).tolist()])
        monosemantic["ReLU neurons, rotated"] = (turned == 1).float().mean(dim=(1, 2))
random = sp.polysemanticity(torch.randn(2000, 5, 10, generator=generator)).float()
print(f"random Gaussian weights: features a neuron {random.mean():.2f}, monosemantic {(random == 1).float().mean():.2f}")
lap("5 privileged basis", start)
FIGURES["5_monosemantic"] = plots.plot_lines(
    levels, monosemantic, "sparsity", "share of neurons with one feature",
    "At S = 0.5 ReLU neurons hold one feature each; sparser features crowd into them. A linear layer has no such basis",
    reference=(random == 1).float().mean().item(), reference_label="random weights",
)  # fmt: skip
FIGURES["5_neurons"] = plots.plot_neurons(neurons, neuron_labels, "Sparser features: more of them in each ReLU neuron")

# %% [markdown]
# ## 6. Computing in superposition
# |x| for 12 equally important features with 8 neurons; by hand two neurons buy one feature, so 4 of 12.

# %% tags=["experiment", "finding"]
start = time.time()
generator = torch.Generator().manual_seed(GLOBAL_SEED)
levels, seeds, n, m = torch.tensor([0.0, 0.5, 0.8, 0.9, 0.95]), 8, 12, 8
sparsity = levels.repeat_interleave(seeds)
model = sp.AbsoluteValueModel(len(sparsity), n, m, generator)
sp.train(
    model,
    lambda size: sp.signed_sparse_batch(size, n, sparsity, generator),
    lambda y, x: sp.importance_weighted_loss(y, x.abs(), torch.ones(n)),
    steps=1500, lr=0.03, batch_size=256, label="absolute value",
)  # fmt: skip
W_in, W_out, b = sp.absolute_value_weights(n, m)
with torch.no_grad():
    x = sp.signed_sparse_batch(20_000, n, levels, generator)
    repeated = x.repeat_interleave(seeds, dim=1)
    answer = model(repeated)
    losses = sp.importance_weighted_loss(answer, repeated.abs(), torch.ones(n)).view(-1, seeds)
    by_hand = ((x @ W_in.T).relu() @ W_out.T + b).relu()
    mean = torch.where(torch.arange(n) < m // 2, 0, (1 - levels[:, None]) / 2)
    hand = sp.importance_weighted_loss(by_hand, x.abs(), torch.ones(n))
    hand_mean = sp.importance_weighted_loss(by_hand + mean, x.abs(), torch.ones(n))
    explained = 1 - ((answer - repeated.abs()) ** 2).mean(dim=0) / repeated.abs().var(dim=0)
    explained = explained.view(-1, seeds, n)
best = losses.argmin(dim=1)
computed = explained.sum(dim=-1)  # by hand exactly m / 2
for k, level in enumerate(levels):
    print(f"S = {level:.2f}: lowest loss {losses[k].min():.4f} (median seed {losses[k].median():.4f}); by hand {hand[k]:.4f},"
          f" by hand with the best constants {hand_mean[k]:.4f}; ratio {losses[k].min() / hand_mean[k]:.2f};"
          f" R^2 summed over features: {computed[k, best[k]]:.1f} (by hand {m // 2})")  # fmt: skip
lap("6 absolute value", start)
FIGURES["6_ratio"] = plots.plot_lines(
    levels, {"lowest-loss seed": losses.min(dim=1).values / hand_mean, "median seed": losses.median(dim=1).values / hand_mean},
    "sparsity", "loss / loss of hand-written weights",
    "Trained weights beat two neurons a feature only where features are sparse", reference=1.0, reference_label="by hand",
)  # fmt: skip

# %%
print("seconds", SECONDS, "total", sum(SECONDS.values()))
if "--figures" in sys.argv:
    for name, figure in FIGURES.items():
        figure.savefig(f"{sys.argv[-1]}/{name}.png")
