"""Answers to the exercises of 01_superposition, written from the prompts alone by somebody who had not seen any case.

WRONG must be rejected, RIGHT must be accepted; the first ten of WRONG are the ones that its author took for the most
typical. What happened is told in docs/blind.md.
"""

import itertools

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce, repeat
from torch import nn

P = "superposition."
WRONG, RIGHT = [], []


# ------------------------------------------------------------------------------------------------------------------
# WRONG, the ten most representative
# ------------------------------------------------------------------------------------------------------------------
def fn_row_norms(W):
    norms = W.norm(dim=-1)  # the last axis "because features are vectors"
    return norms


def si_cosines(W):
    unit = F.normalize(W, dim=1)
    cos = einsum(unit, unit, "inst hid i, inst hid j -> inst i j")
    cos = cos * (1 - torch.eye(W.shape[-1], dtype=W.dtype, device=W.device))
    return (cos**2).sum(dim=-1)


def sb_one_draw(batch_size, n_features, sparsity, generator=None):
    x = torch.rand(
        batch_size, len(sparsity), n_features, generator=generator, dtype=sparsity.dtype, device=sparsity.device
    )
    return torch.where(x >= sparsity[:, None], x, torch.zeros_like(x))


class TMHiddenRelu(nn.Module):
    def __init__(self, n_instances, n_features, n_hidden):
        super().__init__()
        self.W = nn.Parameter(torch.randn(n_instances, n_hidden, n_features) * 0.5)
        self.b = nn.Parameter(torch.zeros(n_instances, n_features))

    def forward(self, x):
        h = einsum(self.W, x, "inst hid feat, batch inst feat -> batch inst hid").relu()
        return (einsum(self.W, h, "inst hid feat, batch inst hid -> batch inst feat") + self.b).relu()


def iwl_all_means(prediction, target, importance):
    return (importance * (prediction - target) ** 2).mean(dim=(0, 2))


def dpf_sum_of_lengths(W):
    return W.shape[1] / W.norm(dim=1).sum(dim=-1)


def fd_cosine_denominator(W):
    norms = W.norm(dim=1)
    unit = F.normalize(W, dim=1)
    cos = unit.mT @ unit
    return torch.nan_to_num(norms**2 / (cos**2).sum(dim=-1))


def sl_density_is_sparsity(sparsity, importance):
    sparsity, importance = torch.broadcast_tensors(sparsity, importance)
    p = sparsity
    variance = p / 3 - p**2 / 4
    return torch.stack([importance * variance, variance, (1 + importance) * p**2 / 6])


def cb_same_magnitude(batch_size, n_features, sparsity, generator=None):
    shape = (batch_size, len(sparsity), n_features // 2)
    kw = dict(generator=generator, dtype=sparsity.dtype, device=sparsity.device)
    on = torch.rand(shape, **kw) >= sparsity[:, None]
    x = torch.rand(shape, **kw) * on
    return x.repeat_interleave(2, dim=-1)


def poly_absolute_threshold(W, threshold=0.5):
    return (W.relu() >= threshold).sum(dim=-1)


WRONG += [
    (
        P + "feature_norms",
        "row_norms",
        fn_row_norms,
        "Takes the norm over features (rows: hidden dims), not over the hidden axis; shape happens to fit for square W.",
    ),
    (
        P + "superposition_index",
        "cosines_both_normalised",
        si_cosines,
        "Normalises W_j as well, so a long feature crosses no more than a short one.",
    ),
    (
        P + "sparse_batch",
        "one_draw_for_both",
        sb_one_draw,
        "The same random number decides on/off and size, so active values are uniform in [S, 1] instead of [0, 1].",
    ),
    (P + "ToyModel", "relu_on_hidden", TMHiddenRelu, "Puts a ReLU on the hidden layer too."),
    (
        P + "importance_weighted_loss",
        "mean_over_features",
        iwl_all_means,
        "Averages over the features instead of summing.",
    ),
    (
        P + "dimensions_per_feature",
        "sum_of_lengths",
        dpf_sum_of_lengths,
        "Divides by the sum of lengths rather than of squared lengths; equal only for unit vectors (as in the example).",
    ),
    (
        P + "feature_dimensionality",
        "cosine_denominator",
        fd_cosine_denominator,
        "Normalises W_j in the denominator too; equal only for unit vectors (as in the example).",
    ),
    (
        P + "strategy_losses",
        "p_is_sparsity",
        sl_density_is_sparsity,
        "Uses p = S instead of p = 1 - S; the example has S = 0.5 and cannot tell.",
    ),
    (
        P + "correlated_batch",
        "same_magnitude",
        cb_same_magnitude,
        "Partners get the same magnitude; the zero pattern of the example is right.",
    ),
    (
        P + "polysemanticity",
        "absolute_threshold",
        poly_absolute_threshold,
        "Compares with the threshold itself, not with threshold times the neuron's largest response; the example's largest response is 1.",
    ),
]


# ------------------------------------------------------------------------------------------------------------------
# WRONG, the others
# ------------------------------------------------------------------------------------------------------------------
# --- 1 feature_norms
def fn_squared(W):
    return (W**2).sum(dim=1)


def fn_two_hidden_only(W):
    return (W[:, 0] ** 2 + W[:, 1] ** 2).sqrt()


def fn_float32(W):
    out = torch.zeros(W.shape[0], W.shape[2])
    for k in range(W.shape[0]):
        for i in range(W.shape[2]):
            out[k, i] = W[k, :, i].norm()
    return out


def fn_first_instance(W):
    return W[0].norm(dim=0).expand(W.shape[0], -1)


def fn_sqrt_of_gram_first_axis(W):
    return W.pow(2).sum(dim=-2).sqrt().squeeze(0)


def fn_l1(W):
    return W.abs().sum(dim=1)


def fn_std(W):
    # root MEAN square times sqrt(2): right in two hidden dimensions only
    return W.pow(2).mean(dim=1).sqrt() * 2**0.5


WRONG += [
    (P + "feature_norms", "squared", fn_squared, "Forgets the square root."),
    (P + "feature_norms", "two_hidden_only", fn_two_hidden_only, "Only looks at the first two hidden dimensions."),
    (
        P + "feature_norms",
        "float32_output",
        fn_float32,
        "Fills a float32 tensor: the dtype of a float64 W is lost (prompt: same dtype).",
    ),
    (
        P + "feature_norms",
        "first_instance_for_all",
        fn_first_instance,
        "Gives every instance the norms of the first instance.",
    ),
    (
        P + "feature_norms",
        "squeezed_instance_axis",
        fn_sqrt_of_gram_first_axis,
        "Squeezes the instance axis away when there is one instance: shape (features,) instead of (1, features).",
    ),
    (P + "feature_norms", "l1", fn_l1, "L1 length."),
    (
        P + "feature_norms",
        "rms_two",
        fn_std,
        "Root mean square scaled for two hidden dimensions; wrong for any other number.",
    ),
]


# --- 2 superposition_index
def _offdiag(G):
    return G * (1 - torch.eye(G.shape[-1], dtype=G.dtype, device=G.device))


def si_transposed(W):
    unit = W / W.norm(dim=1, keepdim=True).clamp(min=1e-12)
    proj = einsum(unit, W, "inst hid i, inst hid j -> inst i j") ** 2
    return _offdiag(proj).sum(dim=1)  # sums over i, keeps j


def si_transposed_masked(W):
    out = si_transposed(W)
    return torch.where(W.norm(dim=1) > 0, out, torch.zeros_like(out))


def si_self_included(W):
    unit = F.normalize(W, dim=1)
    return ((unit.mT @ W) ** 2).sum(dim=-1)


def si_minus_one(W):
    unit = F.normalize(W, dim=1)
    total = ((unit.mT @ W) ** 2).sum(dim=-1)
    return torch.where(W.norm(dim=1) > 0, total - 1, torch.zeros_like(total))


def si_zero_by_sum(W):
    norms = W.norm(dim=1)
    proj = (W.mT @ W / norms[:, :, None]) ** 2
    proj = torch.where(torch.eye(W.shape[-1], dtype=torch.bool, device=W.device), torch.zeros_like(proj), proj)
    return torch.where(W.sum(dim=1) == 0, torch.zeros_like(norms), proj.sum(dim=-1))


def si_small_is_zero(W):
    norms = W.norm(dim=1)
    unit = W / norms.clamp(min=1e-9)[:, None]
    out = _offdiag((unit.mT @ W) ** 2).sum(dim=-1)
    return torch.where(norms > 0.05, out, torch.zeros_like(out))


def si_clamped_norm(W):
    unit = W / W.norm(dim=1, keepdim=True).clamp(min=0.05)
    return _offdiag((unit.mT @ W) ** 2).sum(dim=-1)


def si_mixes_instances(W):
    unit = F.normalize(W, dim=1)
    proj = torch.einsum("ahi,bhj->aij", unit, W) ** 2
    return _offdiag(proj).sum(dim=-1)


def si_upper_only(W):
    unit = F.normalize(W, dim=1)
    proj = (unit.mT @ W) ** 2
    return torch.triu(proj, diagonal=1).sum(dim=-1)


def si_positive_only(W):
    unit = F.normalize(W, dim=1)
    return (_offdiag((unit.mT @ W).relu()) ** 2).sum(dim=-1)


def si_square_of_sum(W):
    unit = F.normalize(W, dim=1)
    return _offdiag(unit.mT @ W).sum(dim=-1) ** 2


def si_nan_when_zero_neighbour(W):
    norms = W.norm(dim=1)
    out = _offdiag((W.mT @ W / norms[:, :, None]) ** 2).sum(dim=-1)
    return (
        out
        if out.isfinite().all()
        else torch.nan_to_num(out, nan=0.0) * (norms.min(dim=-1, keepdim=True).values >= 0)
        if W.shape[0] == 1
        else out
    )


WRONG += [
    (
        P + "superposition_index",
        "transposed_projection",
        si_transposed_masked,
        "Sums over the wrong index: how much feature i crosses the others, not how much it is crossed.",
    ),
    (P + "superposition_index", "self_included", si_self_included, "Forgets to leave out j = i."),
    (
        P + "superposition_index",
        "minus_one_for_self",
        si_minus_one,
        "Removes the self term by subtracting 1, right for unit-length features (the pentagon) only.",
    ),
    (
        P + "superposition_index",
        "zero_test_by_sum",
        si_zero_by_sum,
        "Calls a feature unrepresented when its entries SUM to 0, e.g. (1, -1).",
    ),
    (
        P + "superposition_index",
        "small_counts_as_zero",
        si_small_is_zero,
        "Treats features with a norm below 0.05 as unrepresented, though they have a direction.",
    ),
    (
        P + "superposition_index",
        "clamped_norm",
        si_clamped_norm,
        "Clamps the norm at 0.05, so short features are not normalised.",
    ),
    (
        P + "superposition_index",
        "mixes_instances",
        si_mixes_instances,
        "einsum with two different instance letters sums W_j over all instances; right for one instance.",
    ),
    (P + "superposition_index", "upper_triangle", si_upper_only, "Counts each pair once (j > i only)."),
    (
        P + "superposition_index",
        "positive_overlaps_only",
        si_positive_only,
        "Drops negative overlaps ('the ReLU forgives them'); the example has only positive ones.",
    ),
    (
        P + "superposition_index",
        "square_of_sum",
        si_square_of_sum,
        "Squares after summing; the example has one other non-zero feature, so it cannot tell.",
    ),
    (
        P + "superposition_index",
        "nan_for_several_instances",
        si_nan_when_zero_neighbour,
        "Cleans NaN for a single instance only; a zero feature among several instances is NaN.",
    ),
]


# --- 3 sparse_batch
def _kw(sparsity, generator):
    return dict(generator=generator, dtype=sparsity.dtype, device=sparsity.device)


def sb_flipped(batch_size, n_features, sparsity, generator=None):
    shape, kw = (batch_size, len(sparsity), n_features), _kw(sparsity, generator)
    return torch.rand(shape, **kw) * (torch.rand(shape, **kw) < sparsity[:, None])


def sb_mask_shared_over_features(batch_size, n_features, sparsity, generator=None):
    kw = _kw(sparsity, generator)
    on = torch.rand(batch_size, len(sparsity), 1, **kw) >= sparsity[:, None]
    return torch.rand(batch_size, len(sparsity), n_features, **kw) * on


def sb_mask_shared_over_instances(batch_size, n_features, sparsity, generator=None):
    kw = _kw(sparsity, generator)
    on = torch.rand(batch_size, 1, n_features, **kw) >= sparsity[None, :, None]
    return torch.rand(batch_size, len(sparsity), n_features, **kw) * on


def sb_mask_shared_over_batch(batch_size, n_features, sparsity, generator=None):
    kw = _kw(sparsity, generator)
    on = torch.rand(len(sparsity), n_features, **kw) >= sparsity[:, None]
    return torch.rand(batch_size, len(sparsity), n_features, **kw) * on


def sb_magnitude_shared_over_instances(batch_size, n_features, sparsity, generator=None):
    kw = _kw(sparsity, generator)
    on = torch.rand(batch_size, len(sparsity), n_features, **kw) >= sparsity[:, None]
    return torch.rand(batch_size, 1, n_features, **kw) * on


def sb_magnitude_shared_over_features(batch_size, n_features, sparsity, generator=None):
    kw = _kw(sparsity, generator)
    on = torch.rand(batch_size, len(sparsity), n_features, **kw) >= sparsity[:, None]
    return torch.rand(batch_size, len(sparsity), 1, **kw) * on


def sb_mask_without_generator(batch_size, n_features, sparsity, generator=None):
    shape = (batch_size, len(sparsity), n_features)
    on = torch.bernoulli((1 - sparsity)[:, None].expand(shape))
    return on * torch.rand(shape, **_kw(sparsity, generator))


def sb_float32(batch_size, n_features, sparsity, generator=None):
    shape = (batch_size, len(sparsity), n_features)
    x = torch.rand(shape, generator=generator, device=sparsity.device)
    on = torch.rand(shape, generator=generator, device=sparsity.device) >= sparsity[:, None]
    return x * on


def sb_dropout_rescaled(batch_size, n_features, sparsity, generator=None):
    shape, kw = (batch_size, len(sparsity), n_features), _kw(sparsity, generator)
    on = torch.rand(shape, **kw) >= sparsity[:, None]
    return torch.rand(shape, **kw) * on / (1 - sparsity).clamp(min=1e-6)[:, None]


def sb_exact_count(batch_size, n_features, sparsity, generator=None):
    shape, kw = (batch_size, len(sparsity), n_features), _kw(sparsity, generator)
    rank = torch.rand(shape, **kw).argsort(dim=-1).argsort(dim=-1)
    off = rank < (sparsity * n_features).round()[:, None]
    return torch.rand(shape, **kw) * ~off


def sb_binary(batch_size, n_features, sparsity, generator=None):
    shape, kw = (batch_size, len(sparsity), n_features), _kw(sparsity, generator)
    return (torch.rand(shape, **kw) >= sparsity[:, None]).to(sparsity.dtype)


def sb_half_normal(batch_size, n_features, sparsity, generator=None):
    shape, kw = (batch_size, len(sparsity), n_features), _kw(sparsity, generator)
    return torch.randn(shape, **kw).abs().clamp(max=1) * (torch.rand(shape, **kw) >= sparsity[:, None])


def sb_reseeds(batch_size, n_features, sparsity, generator=None):
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    shape, kw = (batch_size, len(sparsity), n_features), _kw(sparsity, generator)
    return torch.rand(shape, **kw) * (torch.rand(shape, **kw) >= sparsity[:, None])


def sb_cloned_generator(batch_size, n_features, sparsity, generator=None):
    """Two generators "with the same seed", one for each draw: mask and magnitude are then the same numbers."""
    shape = (batch_size, len(sparsity), n_features)
    if generator is None:
        other = None
    else:
        other = torch.Generator().manual_seed(0)
        other.set_state(generator.get_state())
    on = torch.rand(shape, **_kw(sparsity, other)) >= sparsity[:, None]
    return torch.rand(shape, **_kw(sparsity, generator)) * on


def sb_wrong_reshape(batch_size, n_features, sparsity, generator=None):
    """Draws as (instances, batch, features) and 'reshapes' instead of permuting: instances get each other's sparsity."""
    n = len(sparsity)
    kw = _kw(sparsity, generator)
    on = torch.rand(n, batch_size, n_features, **kw) >= sparsity[:, None, None]
    x = torch.rand(n, batch_size, n_features, **kw) * on
    return x.reshape(batch_size, n, n_features)


def sb_squared_magnitude(batch_size, n_features, sparsity, generator=None):
    shape, kw = (batch_size, len(sparsity), n_features), _kw(sparsity, generator)
    a, b = torch.rand(shape, **kw), torch.rand(shape, **kw)
    c = torch.rand(shape, **kw)
    return (a * b) * (c >= sparsity[:, None])


def sb_average_sparsity_rounding(batch_size, n_features, sparsity, generator=None):
    shape, kw = (batch_size, len(sparsity), n_features), _kw(sparsity, generator)
    u = torch.randint(0, 11, shape, generator=generator, device=sparsity.device) / 10
    on = u.to(sparsity.dtype) >= sparsity[:, None]
    on = on & (sparsity[:, None] < 1)
    return torch.rand(shape, **kw) * on


def sb_batch_tiled(batch_size, n_features, sparsity, generator=None):
    half, kw = (batch_size + 1) // 2, _kw(sparsity, generator)
    shape = (half, len(sparsity), n_features)
    on = torch.rand(shape, **kw) >= sparsity[:, None]
    x = torch.rand(shape, **kw)
    return torch.cat([x * on, (1 - x) * on])[:batch_size]


WRONG += [
    (P + "sparse_batch", "on_with_probability_sparsity", sb_flipped, "Features are ON with probability sparsity."),
    (
        P + "sparse_batch",
        "mask_shared_over_features",
        sb_mask_shared_over_features,
        "All features of an example are on or off together.",
    ),
    (
        P + "sparse_batch",
        "mask_shared_over_instances",
        sb_mask_shared_over_instances,
        "Instances share the draw that decides on/off, so they are not independent.",
    ),
    (
        P + "sparse_batch",
        "mask_shared_over_batch",
        sb_mask_shared_over_batch,
        "On/off is drawn once for the whole batch.",
    ),
    (
        P + "sparse_batch",
        "magnitude_shared_over_instances",
        sb_magnitude_shared_over_instances,
        "Instances share the magnitudes.",
    ),
    (
        P + "sparse_batch",
        "magnitude_shared_over_features",
        sb_magnitude_shared_over_features,
        "All active features of an example have the same value.",
    ),
    (
        P + "sparse_batch",
        "mask_ignores_generator",
        sb_mask_without_generator,
        "torch.bernoulli is called without the generator, so a seeded call is not reproducible.",
    ),
    (P + "sparse_batch", "float32_output", sb_float32, "Returns float32 for a float64 sparsity."),
    (
        P + "sparse_batch",
        "dropout_rescaled",
        sb_dropout_rescaled,
        "Divides by 1 - S as dropout does, so values run to 1/(1-S); S = 0 and S = 1 (the example) look right.",
    ),
    (
        P + "sparse_batch",
        "exact_number_of_zeros",
        sb_exact_count,
        "Turns off exactly round(S n) features in each example: right rate, not independent.",
    ),
    (P + "sparse_batch", "binary_values", sb_binary, "Active features are 1, not uniform."),
    (
        P + "sparse_batch",
        "half_normal_magnitudes",
        sb_half_normal,
        "Magnitudes are |normal| clamped to 1, not uniform.",
    ),
    (
        P + "sparse_batch",
        "same_batch_without_generator",
        sb_reseeds,
        "generator=None makes a fresh seed-0 generator: every call returns the same batch.",
    ),
    (
        P + "sparse_batch",
        "two_generators_one_state",
        sb_cloned_generator,
        "Mask and magnitude use two generators in the same state, i.e. the same numbers.",
    ),
    (
        P + "sparse_batch",
        "reshape_for_permute",
        sb_wrong_reshape,
        "Reshapes (instances, batch, ...) to (batch, instances, ...) instead of permuting, so sparsities land in wrong instances.",
    ),
    (
        P + "sparse_batch",
        "product_of_uniforms",
        sb_squared_magnitude,
        "Magnitude is the product of two uniforms: right range, wrong distribution.",
    ),
    (
        P + "sparse_batch",
        "coarse_probability",
        sb_average_sparsity_rounding,
        "Decides on/off by an 11-value randint, so P(0) is off (S=0.5 gives 5/11); exact at S = 0 and 1.",
    ),
    (
        P + "sparse_batch",
        "antithetic_batch",
        sb_batch_tiled,
        "The second half of the batch mirrors the first (same mask, 1 - x): examples are not independent, marginals are right.",
    ),
]


# --- 4 ToyModel
class _TM(nn.Module):
    def __init__(self, n_instances, n_features, n_hidden):
        super().__init__()
        self.W = nn.Parameter(torch.randn(n_instances, n_hidden, n_features) * 0.5)
        self.b = nn.Parameter(torch.zeros(n_instances, n_features))

    def forward(self, x):
        h = torch.einsum("ihf,bif->bih", self.W, x)
        return (torch.einsum("ihf,bih->bif", self.W, h) + self.b).relu()


class TMSameInit(_TM):
    def __init__(self, n_instances, n_features, n_hidden):
        super().__init__(n_instances, n_features, n_hidden)
        self.W = nn.Parameter((torch.randn(n_hidden, n_features) * 0.5).repeat(n_instances, 1, 1))


class TMRankOneInit(_TM):
    def __init__(self, n_instances, n_features, n_hidden):
        super().__init__(n_instances, n_features, n_hidden)
        self.W = nn.Parameter((torch.randn(n_instances, 1, n_features) * 0.5).repeat(1, n_hidden, 1))


class TMSharedBias(_TM):
    def __init__(self, n_instances, n_features, n_hidden):
        super().__init__(n_instances, n_features, n_hidden)
        self.b = nn.Parameter(torch.zeros(n_features))


class TMRandomBias(_TM):
    def __init__(self, n_instances, n_features, n_hidden):
        super().__init__(n_instances, n_features, n_hidden)
        self.b = nn.Parameter(torch.randn(n_instances, n_features) * 0.1)


class TMBiasNoParameter(_TM):
    def __init__(self, n_instances, n_features, n_hidden):
        nn.Module.__init__(self)
        self.W = nn.Parameter(torch.randn(n_instances, n_hidden, n_features) * 0.5)
        self.b = torch.zeros(n_instances, n_features)


class TMBiasBuffer(_TM):
    def __init__(self, n_instances, n_features, n_hidden):
        nn.Module.__init__(self)
        self.W = nn.Parameter(torch.randn(n_instances, n_hidden, n_features) * 0.5)
        self.register_buffer("b", torch.zeros(n_instances, n_features))


class TMDetachedEncoder(_TM):
    def forward(self, x):
        h = torch.einsum("ihf,bif->bih", self.W.data, x)
        return (torch.einsum("ihf,bih->bif", self.W, h) + self.b).relu()


class TMStaleGram(_TM):
    def __init__(self, n_instances, n_features, n_hidden):
        super().__init__(n_instances, n_features, n_hidden)
        self.gram = self.W.mT @ self.W

    def forward(self, x):
        return (torch.einsum("ifg,big->bif", self.gram, x) + self.b).relu()


class TMUntied(_TM):
    def __init__(self, n_instances, n_features, n_hidden):
        super().__init__(n_instances, n_features, n_hidden)
        self.W_T = nn.Parameter(self.W.detach().mT.clone())

    def forward(self, x):
        h = torch.einsum("ihf,bif->bih", self.W, x)
        return (torch.einsum("ifh,bih->bif", self.W_T, h) + self.b).relu()


class TMMatmulBroadcast(_TM):
    def forward(self, x):
        return (x @ (self.W.mT @ self.W) + self.b).relu()  # (batch, inst, feat) @ (inst, feat, feat)


class TMSummedInstances(_TM):
    def forward(self, x):
        h = torch.einsum("ihf,bjf->bjh", self.W, x)
        return (torch.einsum("ihf,bih->bif", self.W, h) + self.b).relu()


class TMFirstInstance(_TM):
    def forward(self, x):
        return (x @ self.W[0].T @ self.W[0] + self.b).relu()


class TMSqueeze(_TM):
    def forward(self, x):
        return super().forward(x).squeeze()


class TMBiasAfterRelu(_TM):
    def forward(self, x):
        h = torch.einsum("ihf,bif->bih", self.W, x)
        return torch.einsum("ihf,bih->bif", self.W, h).relu() + self.b


class TMNoRelu(_TM):
    def forward(self, x):
        h = torch.einsum("ihf,bif->bih", self.W, x)
        return torch.einsum("ihf,bih->bif", self.W, h) + self.b


class TMTinyInit(_TM):
    def __init__(self, n_instances, n_features, n_hidden):
        super().__init__(n_instances, n_features, n_hidden)
        self.W = nn.Parameter(torch.randn(n_instances, n_hidden, n_features) * 1e-4)


class TMZeroInit(_TM):
    def __init__(self, n_instances, n_features, n_hidden):
        super().__init__(n_instances, n_features, n_hidden)
        self.W = nn.Parameter(torch.zeros(n_instances, n_hidden, n_features))


class TMUnitColumns(_TM):
    """Normalises the columns in the forward pass ('a feature is a direction')."""

    def forward(self, x):
        W = F.normalize(self.W, dim=1)
        h = torch.einsum("ihf,bif->bih", W, x)
        return (torch.einsum("ihf,bih->bif", W, h) + self.b).relu()


class TMClippedAtOne(_TM):
    def __init__(self, n_instances, n_features, n_hidden):
        super().__init__(n_instances, n_features, n_hidden)

    def forward(self, x):
        return super().forward(x).clamp(max=2.0)


class TMNoGrad(_TM):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


class TMAbsInput(_TM):
    def forward(self, x):
        return super().forward(x.relu())


class TMInPlace(_TM):
    """Writes the answer into its input."""

    def forward(self, x):
        out = super().forward(x)
        if not x.requires_grad:
            x.copy_(out.detach())
        return out


WRONG += [
    (
        P + "ToyModel",
        "same_init_everywhere",
        TMSameInit,
        "All instances start at the same W: 'ten random starts' are one.",
    ),
    (
        P + "ToyModel",
        "identical_hidden_rows",
        TMRankOneInit,
        "The random row is repeated over the hidden axis: all hidden dims stay identical under training (rank one for ever).",
    ),
    (P + "ToyModel", "bias_shared_over_instances", TMSharedBias, "b has shape (features,), shared by all instances."),
    (P + "ToyModel", "random_bias", TMRandomBias, "b does not start at zero."),
    (P + "ToyModel", "bias_plain_tensor", TMBiasNoParameter, "b is no Parameter and never trains."),
    (P + "ToyModel", "bias_buffer", TMBiasBuffer, "b is a buffer and never trains."),
    (
        P + "ToyModel",
        "encoder_detached",
        TMDetachedEncoder,
        "Uses W.data for the encoder: right forward, half of the gradient is missing.",
    ),
    (P + "ToyModel", "stale_gram", TMStaleGram, "Computes W^T W once in __init__, so changing W changes nothing."),
    (P + "ToyModel", "untied_decoder", TMUntied, "A third parameter as decoder that is not tied to W."),
    (
        P + "ToyModel",
        "matmul_broadcast",
        TMMatmulBroadcast,
        "x @ gram broadcasts the batch axis against the instance axis: right for one instance, silently wrong when batch == instances.",
    ),
    (
        P + "ToyModel",
        "encoder_summed_over_instances",
        TMSummedInstances,
        "The encoder sums W over all instances; right for one instance.",
    ),
    (P + "ToyModel", "first_instance_weights", TMFirstInstance, "All instances use the first instance's W."),
    (
        P + "ToyModel",
        "squeezed_output",
        TMSqueeze,
        "squeeze() removes axes of size one, so the shape differs from x's for one example or one instance.",
    ),
    (P + "ToyModel", "bias_after_relu", TMBiasAfterRelu, "Adds the bias outside of the ReLU."),
    (P + "ToyModel", "no_relu", TMNoRelu, "No ReLU."),
    (P + "ToyModel", "tiny_init", TMTinyInit, "W starts at 1e-4, not at a size of 0.1 to 1."),
    (P + "ToyModel", "zero_init", TMZeroInit, "W starts at zero, where its gradient vanishes."),
    (
        P + "ToyModel",
        "unit_columns",
        TMUnitColumns,
        "Normalises the columns in forward: right for the example's unit W only.",
    ),
    (
        P + "ToyModel",
        "output_clipped_at_two",
        TMClippedAtOne,
        "Clips the output at 2 (stands for any saturating activation above the example's 1.5).",
    ),
    (P + "ToyModel", "forward_without_grad", TMNoGrad, "forward runs under no_grad: nothing can be trained."),
    (
        P + "ToyModel",
        "negative_inputs_dropped",
        TMAbsInput,
        "Applies ReLU to the input; the same for x >= 0 only, and the prompt's formula holds for every x.",
    ),
    (
        P + "ToyModel",
        "overwrites_its_input_UNSURE",
        TMInPlace,
        "Right output, but it overwrites x, so that the loss against x is 0 (side effect; the prompt does not speak of it).",
    ),
]


# --- 5 importance_weighted_loss
def iwl_absolute(prediction, target, importance):
    return (importance * (prediction - target).abs()).sum(dim=-1).mean(dim=0)


def iwl_importance_squared(prediction, target, importance):
    return ((importance * (prediction - target)) ** 2).sum(dim=-1).mean(dim=0)


def iwl_first_row(prediction, target, importance):
    if importance.ndim == 2:
        importance = importance[0]
    return einsum((prediction - target) ** 2, importance, "b i f, f -> b i").mean(dim=0)


def iwl_scalar_over_instances(prediction, target, importance):
    loss = (importance * (prediction - target) ** 2).sum(dim=-1).mean()
    return loss.expand(prediction.shape[1])


def iwl_detached(prediction, target, importance):
    error = (prediction - target) ** 2
    out = []
    for k in range(prediction.shape[1]):
        weights = importance if importance.ndim == 1 else importance[k]
        out.append((error[:, k] * weights).sum(dim=-1).mean().item())
    return torch.tensor(out)


def iwl_difference_of_squares(prediction, target, importance):
    return (importance * (prediction**2 - target**2).abs()).sum(dim=-1).mean(dim=0)


def iwl_batch_size_two(prediction, target, importance):
    return (importance * (prediction - target) ** 2).sum(dim=(0, 2)) / prediction.shape[-1]


def iwl_sum_over_batch(prediction, target, importance):
    return (importance * (prediction - target) ** 2).sum(dim=(0, 2))


def iwl_half(prediction, target, importance):
    return 0.5 * (importance * (prediction - target) ** 2).sum(dim=-1).mean(dim=0)


def iwl_normalised_importance(prediction, target, importance):
    weights = importance / importance.sum(dim=-1, keepdim=True)
    return (weights * (prediction - target) ** 2).sum(dim=-1).mean(dim=0)


def iwl_target_only_active(prediction, target, importance):
    error = (prediction - target) ** 2
    return (importance * error).sum(dim=-1).sum(dim=0) / (error.sum(dim=-1) >= 0).sum(dim=0).clamp(max=2)


def iwl_mean_then_square(prediction, target, importance):
    mean_error = (prediction - target).mean(dim=0)
    return 2 * (importance * mean_error**2).sum(dim=-1)


def iwl_per_instance_importance_by_length(prediction, target, importance):
    """Tells the two shapes of importance apart by the length of the first axis."""
    if importance.shape[0] == prediction.shape[1] and importance.ndim == 1 and prediction.shape[1] > 1:
        importance = importance[:, None]
    return (importance * (prediction - target) ** 2).sum(dim=-1).mean(dim=0)


def iwl_squeeze(prediction, target, importance):
    return (importance * (prediction - target) ** 2).sum(dim=-1).mean(dim=0).squeeze()


def iwl_huber(prediction, target, importance):
    return 2 * (importance * F.smooth_l1_loss(prediction, target, reduction="none", beta=1.0)).sum(dim=-1).mean(dim=0)


WRONG += [
    (
        P + "importance_weighted_loss",
        "absolute_error",
        iwl_absolute,
        "Absolute instead of squared error; the example's only error is 1.",
    ),
    (
        P + "importance_weighted_loss",
        "importance_squared",
        iwl_importance_squared,
        "Multiplies before squaring, so the importance is squared.",
    ),
    (
        P + "importance_weighted_loss",
        "first_instance_importance",
        iwl_first_row,
        "With importance of shape (instances, features) everybody gets the first row.",
    ),
    (
        P + "importance_weighted_loss",
        "averaged_over_instances",
        iwl_scalar_over_instances,
        "One number for all instances, expanded to the right shape.",
    ),
    (
        P + "importance_weighted_loss",
        "no_gradient",
        iwl_detached,
        "Right numbers through .item(), but no gradient: nothing can be trained.",
    ),
    (
        P + "importance_weighted_loss",
        "difference_of_squares",
        iwl_difference_of_squares,
        "|p^2 - t^2| instead of (p - t)^2; the example's target is zero.",
    ),
    (
        P + "importance_weighted_loss",
        "divides_by_features",
        iwl_batch_size_two,
        "Divides by the number of features instead of the batch size; both are 2 in the example.",
    ),
    (P + "importance_weighted_loss", "sum_over_batch", iwl_sum_over_batch, "Sums over the batch."),
    (P + "importance_weighted_loss", "half", iwl_half, "Adds a factor of one half."),
    (
        P + "importance_weighted_loss",
        "importance_normalised",
        iwl_normalised_importance,
        "Makes the importances sum to one.",
    ),
    (
        P + "importance_weighted_loss",
        "importance_axis_by_length",
        iwl_per_instance_importance_by_length,
        "A 1-D importance whose length equals the number of instances is taken as one number an instance: wrong when instances == features.",
    ),
    (
        P + "importance_weighted_loss",
        "square_of_mean_error",
        iwl_mean_then_square,
        "Squares the batch mean of the error: positive and negative errors cancel (scaled so as to fit the example).",
    ),
    (P + "importance_weighted_loss", "squeezed", iwl_squeeze, "Returns shape () instead of (1,) for one instance."),
    (
        P + "importance_weighted_loss",
        "huber",
        iwl_huber,
        "smooth L1: equal to the squared error only up to an error of 1.",
    ),
]


# --- 6 dimensions_per_feature
def dpf_global(W):
    return (W.shape[1] / (W**2).sum()).expand(W.shape[0])


def dpf_counts_stored(W):
    return W.shape[1] / (W.norm(dim=1) > 0.5).sum(dim=-1).clamp(min=1).to(W.dtype)


def dpf_two(W):
    return 2 / (W**2).sum(dim=(1, 2))


def dpf_norm_not_squared(W):
    return W.shape[1] / torch.linalg.matrix_norm(W)


def dpf_features(W):
    return W.shape[2] / (W**2).sum(dim=(1, 2))


def dpf_mean(W):
    return W.shape[1] / ((W**2).mean(dim=(1, 2)) * 8)


def dpf_rank(W):
    return torch.linalg.matrix_rank(W).to(W.dtype) / (W**2).sum(dim=(1, 2))


def dpf_instances(W):
    """Gets the shape wrong: len(W) is taken for the hidden axis after dropping one instance."""
    hidden = W[0].shape[0] if W.shape[0] == 1 else W.shape[0]
    return hidden / (W**2).sum(dim=(1, 2))


def dpf_feature_shape(W):
    return (W.shape[1] / W.shape[2] / (W**2).sum(dim=1)).mean(dim=-1)


def dpf_clamped(W):
    return (W.shape[1] / (W**2).sum(dim=(1, 2))).clamp(max=1)


WRONG += [
    (P + "dimensions_per_feature", "over_all_instances", dpf_global, "||W||^2 is summed over all instances."),
    (
        P + "dimensions_per_feature",
        "counts_norm_above_half",
        dpf_counts_stored,
        "Counts features with norm > 0.5 instead of summing the squares.",
    ),
    (P + "dimensions_per_feature", "two_hard_coded", dpf_two, "m = 2 is hard-coded."),
    (
        P + "dimensions_per_feature",
        "norm_not_squared",
        dpf_norm_not_squared,
        "Divides by the Frobenius norm, not by its square.",
    ),
    (P + "dimensions_per_feature", "features_for_hidden", dpf_features, "Uses the number of features as m."),
    (
        P + "dimensions_per_feature",
        "mean_times_example_size",
        dpf_mean,
        "Mean of squares times the example's number of entries (8); wrong for other shapes.",
    ),
    (
        P + "dimensions_per_feature",
        "rank_for_hidden",
        dpf_rank,
        "Uses the rank of W as m; wrong when W does not use all hidden dimensions.",
    ),
    (
        P + "dimensions_per_feature",
        "instances_for_hidden",
        dpf_instances,
        "Takes the instance axis for m when there are several instances.",
    ),
    (
        P + "dimensions_per_feature",
        "mean_of_inverses",
        dpf_feature_shape,
        "Averages m / (n ||W_i||^2) over features instead of dividing once; equal for equal norms.",
    ),
    (
        P + "dimensions_per_feature",
        "clamped_at_one",
        dpf_clamped,
        "Clamps at 1 ('a feature cannot use more than one dimension'); the formula gives more for a small W.",
    ),
]


# --- 7 feature_dimensionality
def _fd(numerator, denominator):
    return torch.where(denominator > 0, numerator / denominator.clamp(min=1e-30), torch.zeros_like(numerator))


def fd_norm_not_squared(W):
    norms = W.norm(dim=1)
    unit = F.normalize(W, dim=1)
    return _fd(norms, ((unit.mT @ W) ** 2).sum(dim=-1))


def fd_unnormalised_denominator(W):
    return _fd((W**2).sum(dim=1), ((W.mT @ W) ** 2).sum(dim=-1))


def fd_absolute_overlaps(W):
    unit = F.normalize(W, dim=1)
    return _fd((W**2).sum(dim=1), (unit.mT @ W).abs().sum(dim=-1))


def fd_transposed(W):
    unit = F.normalize(W, dim=1)
    return _fd((W**2).sum(dim=1), ((W.mT @ unit) ** 2).sum(dim=-1))


def fd_nan(W):
    norms = W.norm(dim=1, keepdim=True)
    unit = W / norms
    return norms[:, 0] ** 2 / ((unit.mT @ W) ** 2).sum(dim=-1)


def fd_nan_to_one(W):
    return torch.nan_to_num(fd_nan(W), nan=1.0)


def fd_nan_spreads(W):
    """NaN of a zero feature spreads into the sum of all others, then becomes 0 everywhere."""
    norms = W.norm(dim=1)
    unit = W / norms[:, None]
    return torch.nan_to_num(norms**2 / ((W.mT @ unit) ** 2).sum(dim=-1), nan=0.0)


def fd_excludes_self(W):
    unit = F.normalize(W, dim=1)
    others = _offdiag((unit.mT @ W) ** 2).sum(dim=-1)
    return (W**2).sum(dim=1) / (1 + others) * (W.norm(dim=1) > 0)


def fd_mixes_instances(W):
    unit = F.normalize(W, dim=1)
    proj = torch.einsum("ahi,bhj->abij", unit, W) ** 2
    return _fd((W**2).sum(dim=1), proj.sum(dim=(1, 3)))


def fd_zero_by_first_entry(W):
    unit = F.normalize(W, dim=1)
    d = _fd((W**2).sum(dim=1), ((unit.mT @ W) ** 2).sum(dim=-1))
    return d * (W.sum(dim=1) != 0)


def fd_eps(W):
    norms2 = (W**2).sum(dim=1)
    proj = ((W.mT @ W) ** 2).sum(dim=-1) / (norms2 + 1e-3)
    return norms2 / (proj + 1e-3)


def fd_one_over_one_plus_index(W):
    unit = F.normalize(W, dim=1)
    cos2 = (unit.mT @ unit) ** 2
    return _fd((W.norm(dim=1) > 0).to(W.dtype), cos2.sum(dim=-1))


def fd_small_is_zero(W):
    unit = F.normalize(W, dim=1)
    d = _fd((W**2).sum(dim=1), ((unit.mT @ W) ** 2).sum(dim=-1))
    return d * (W.norm(dim=1) > 0.5)


WRONG += [
    (
        P + "feature_dimensionality",
        "norm_not_squared",
        fd_norm_not_squared,
        "The numerator is the norm, not its square; same for unit vectors.",
    ),
    (
        P + "feature_dimensionality",
        "unnormalised_denominator",
        fd_unnormalised_denominator,
        "W_i is not normalised in the denominator; same for unit vectors.",
    ),
    (
        P + "feature_dimensionality",
        "absolute_overlaps",
        fd_absolute_overlaps,
        "Sums |overlap| instead of its square; same when overlaps are 0 or 1.",
    ),
    (
        P + "feature_dimensionality",
        "wrong_one_normalised",
        fd_transposed,
        "Projects W_i onto the direction of W_j; same for unit vectors.",
    ),
    (P + "feature_dimensionality", "nan_at_zero", fd_nan, "NaN for a feature that is not represented."),
    (P + "feature_dimensionality", "zero_feature_gets_one", fd_nan_to_one, "A feature that is not represented gets 1."),
    (
        P + "feature_dimensionality",
        "nan_spreads_to_others",
        fd_nan_spreads,
        "Normalises W_j, and one zero feature makes every feature of its instance 0 through NaN.",
    ),
    (P + "feature_dimensionality", "one_for_self", fd_excludes_self, "Uses 1 for the term j = i instead of ||W_i||^2."),
    (
        P + "feature_dimensionality",
        "mixes_instances",
        fd_mixes_instances,
        "The sum over j runs over the features of all instances.",
    ),
    (
        P + "feature_dimensionality",
        "zero_test_by_sum",
        fd_zero_by_first_entry,
        "A feature like (1, -1) sums to 0 and counts as not represented.",
    ),
    (
        P + "feature_dimensionality",
        "large_epsilon",
        fd_eps,
        "An epsilon of 1e-3 in the denominators: short features get a far too small D (0.01-long orthogonal feature: ~0 instead of 1).",
    ),
    (
        P + "feature_dimensionality",
        "all_cosines",
        fd_one_over_one_plus_index,
        "1 / sum of squared cosines: ignores all lengths.",
    ),
    (
        P + "feature_dimensionality",
        "short_features_dropped",
        fd_small_is_zero,
        "Everything with norm <= 0.5 gets 0, not only W_i = 0.",
    ),
]


# --- 8 strategy_losses
def _var(p):
    return p / 3 - p**2 / 4


def sl_exactly_one_on(sparsity, importance):
    p, importance = torch.broadcast_tensors(1 - sparsity, importance)
    return torch.stack([importance * _var(p), _var(p), (1 + importance) * p * (1 - p) / 6])


def sl_variance_slip(sparsity, importance):
    p, importance = torch.broadcast_tensors(1 - sparsity, importance)
    v = p / 12 + p**2 / 4
    return torch.stack([importance * v, v, (1 + importance) * p**2 / 6])


def sl_stacked_last(sparsity, importance):
    p, importance = torch.broadcast_tensors(1 - sparsity, importance)
    return torch.stack([importance * _var(p), _var(p), (1 + importance) * p**2 / 6], dim=-1)


def sl_no_broadcast(sparsity, importance):
    p = 1 - sparsity
    return torch.stack([importance * _var(p), _var(p), (1 + importance) * p**2 / 6])


def sl_constant_half(sparsity, importance):
    p, importance = torch.broadcast_tensors(1 - sparsity, importance)
    v = p / 3 - p / 2 + 1 / 4
    return torch.stack([importance * v, v, (1 + importance) * p**2 / 6])


def sl_constant_zero(sparsity, importance):
    p, importance = torch.broadcast_tensors(1 - sparsity, importance)
    return torch.stack([importance * p / 3, p / 3, (1 + importance) * p**2 / 6])


def sl_linear_pair(sparsity, importance):
    p, importance = torch.broadcast_tensors(1 - sparsity, importance)
    return torch.stack([importance * _var(p), _var(p), (1 + importance) * p / 12])


def sl_min_squared_mean(sparsity, importance):
    p, importance = torch.broadcast_tensors(1 - sparsity, importance)
    return torch.stack([importance * _var(p), _var(p), (1 + importance) * p**2 / 9])


def sl_monte_carlo(sparsity, importance):
    s, importance = torch.broadcast_tensors(sparsity, importance)
    g = torch.Generator().manual_seed(1)
    shape = (20000, 2, *s.shape)
    x = torch.rand(shape, generator=g, dtype=s.dtype) * (torch.rand(shape, generator=g, dtype=s.dtype) >= s)
    v = x.var(dim=0)
    pair = torch.minimum(x[:, 0], x[:, 1]).pow(2).mean(dim=0)
    return torch.stack([importance * v[1], v[0], (1 + importance) * pair])


def sl_swapped(sparsity, importance):
    p, importance = torch.broadcast_tensors(1 - sparsity, importance)
    return torch.stack([_var(p), importance * _var(p), (1 + importance) * p**2 / 6])


def sl_pair_max_importance(sparsity, importance):
    p, importance = torch.broadcast_tensors(1 - sparsity, importance)
    return torch.stack([importance * _var(p), _var(p), (importance**2 - 1) * p**2 / 6])


def sl_flattened(sparsity, importance):
    p, importance = torch.broadcast_tensors(1 - sparsity, importance)
    out = torch.stack([importance * _var(p), _var(p), (1 + importance) * p**2 / 6])
    return out.reshape(3, -1) if out.ndim > 1 else out


def sl_conditioned_constant(sparsity, importance):
    """The best constant knows whether the feature is on (variance of the uniform alone plus ... at p = 1/2 scaled)."""
    p, importance = torch.broadcast_tensors(1 - sparsity, importance)
    v = p * (1 - p) / 3 + p**2 / 12
    return torch.stack([importance * v, v, (1 + importance) * p**2 / 6])


WRONG += [
    (
        P + "strategy_losses",
        "exactly_one_on",
        sl_exactly_one_on,
        "Charges the pair when exactly one is on, p(1-p), instead of both, p^2; equal at S = 0.5.",
    ),
    (
        P + "strategy_losses",
        "variance_slip",
        sl_variance_slip,
        "p/12 + p^2/4 instead of p/12 + p(1-p)/4; equal at S = 0.5.",
    ),
    (
        P + "strategy_losses",
        "stacked_last",
        sl_stacked_last,
        "Stacks on the last axis: shape (*, 3); the scalar example cannot tell.",
    ),
    (
        P + "strategy_losses",
        "no_broadcast",
        sl_no_broadcast,
        "Strategy 1 keeps the shape of sparsity: torch.stack fails when the two shapes differ but broadcast.",
    ),
    (
        P + "strategy_losses",
        "constant_half",
        sl_constant_half,
        "Takes 1/2, the mean of an active feature, as the best constant.",
    ),
    (
        P + "strategy_losses",
        "constant_zero",
        sl_constant_zero,
        "Answers the dropped feature with 0 instead of the best constant.",
    ),
    (P + "strategy_losses", "pair_linear_in_p", sl_linear_pair, "Pair loss p/12 instead of p^2/6; equal at S = 0.5."),
    (P + "strategy_losses", "square_of_mean_minimum", sl_min_squared_mean, "(E min)^2 = 1/9 instead of E min^2 = 1/6."),
    (
        P + "strategy_losses",
        "monte_carlo",
        sl_monte_carlo,
        "A noisy estimate from 20000 samples instead of the expectation (off by about 1%).",
    ),
    (
        P + "strategy_losses",
        "importance_swapped",
        sl_swapped,
        "Weights strategy 1 with the importance instead of strategy 0.",
    ),
    (
        P + "strategy_losses",
        "pair_wrong_weight",
        sl_pair_max_importance,
        "Weights the pair by importance^2 - 1 instead of 1 + importance; equal at importance 2.",
    ),
    (P + "strategy_losses", "flattened", sl_flattened, "Flattens the broadcast shape: (3, N) instead of (3, a, b)."),
    (
        P + "strategy_losses",
        "variance_mixed_up",
        sl_conditioned_constant,
        "p(1-p)/3 + p^2/12 = p/3 - p^2/4 ... see name",
    ),
]
# p(1-p)/3 + p^2/12 = p/3 - p^2/4: this one is RIGHT. Taken out of WRONG, put into RIGHT below.
WRONG.pop()


# --- 9 correlated_batch
def cb_far_partners(batch_size, n_features, sparsity, generator=None):
    kw = _kw(sparsity, generator)
    on = torch.rand(batch_size, len(sparsity), n_features // 2, **kw) >= sparsity[:, None]
    return torch.rand(batch_size, len(sparsity), n_features, **kw) * on.repeat(1, 1, 2)


def cb_all_together(batch_size, n_features, sparsity, generator=None):
    return sb_mask_shared_over_features(batch_size, n_features, sparsity, generator)


def cb_both_must_agree(batch_size, n_features, sparsity, generator=None):
    kw = _kw(sparsity, generator)
    on = torch.rand(batch_size, len(sparsity), n_features, **kw) >= sparsity[:, None]
    pair = (on[..., 0::2] & on[..., 1::2]).repeat_interleave(2, dim=-1)
    return torch.rand(batch_size, len(sparsity), n_features, **kw) * pair


def cb_either(batch_size, n_features, sparsity, generator=None):
    kw = _kw(sparsity, generator)
    on = torch.rand(batch_size, len(sparsity), n_features, **kw) >= sparsity[:, None]
    pair = (on[..., 0::2] | on[..., 1::2]).repeat_interleave(2, dim=-1)
    return torch.rand(batch_size, len(sparsity), n_features, **kw) * pair


def cb_double_sparse(batch_size, n_features, sparsity, generator=None):
    kw = _kw(sparsity, generator)
    on = torch.rand(batch_size, len(sparsity), n_features // 2, **kw) >= sparsity[:, None]
    return sb_right_for_reuse(batch_size, n_features, sparsity, generator) * on.repeat_interleave(2, dim=-1)


def sb_right_for_reuse(batch_size, n_features, sparsity, generator=None):
    shape, kw = (batch_size, len(sparsity), n_features), _kw(sparsity, generator)
    return torch.rand(shape, **kw) * (torch.rand(shape, **kw) >= sparsity[:, None])


def cb_gate_is_first_magnitude(batch_size, n_features, sparsity, generator=None):
    kw = _kw(sparsity, generator)
    x = torch.rand(batch_size, len(sparsity), n_features, **kw)
    on = x[..., 0::2] >= sparsity[:, None]
    return x * on.repeat_interleave(2, dim=-1)


def cb_shared_over_instances(batch_size, n_features, sparsity, generator=None):
    kw = _kw(sparsity, generator)
    on = torch.rand(batch_size, 1, n_features // 2, **kw) >= sparsity[:, None]
    return torch.rand(batch_size, len(sparsity), n_features, **kw) * on.repeat_interleave(2, dim=-1)


def cb_mirror(batch_size, n_features, sparsity, generator=None):
    kw = _kw(sparsity, generator)
    on = torch.rand(batch_size, len(sparsity), n_features // 2, **kw) >= sparsity[:, None]
    first = torch.rand(batch_size, len(sparsity), n_features // 2, **kw)
    return torch.stack([first * on, (1 - first) * on], dim=-1).flatten(-2)


def cb_first_sparsity(batch_size, n_features, sparsity, generator=None):
    kw = _kw(sparsity, generator)
    on = torch.rand(batch_size, len(sparsity), n_features // 2, **kw) >= sparsity[0]
    return torch.rand(batch_size, len(sparsity), n_features, **kw) * on.repeat_interleave(2, dim=-1)


def cb_float32(batch_size, n_features, sparsity, generator=None):
    on = torch.rand(batch_size, len(sparsity), n_features // 2, generator=generator) >= sparsity[:, None]
    return torch.rand(batch_size, len(sparsity), n_features, generator=generator) * on.repeat_interleave(2, dim=-1)


def cb_magnitudes_ignore_generator(batch_size, n_features, sparsity, generator=None):
    on = torch.rand(batch_size, len(sparsity), n_features // 2, **_kw(sparsity, generator)) >= sparsity[:, None]
    return torch.rand(
        batch_size, len(sparsity), n_features, dtype=sparsity.dtype, device=sparsity.device
    ) * on.repeat_interleave(2, dim=-1)


def cb_chain(batch_size, n_features, sparsity, generator=None):
    """Partner exclusion between pairs: exactly one in n/2 pairs is chosen when n = 4 and S <= 0.5 ..."""
    kw = _kw(sparsity, generator)
    u = torch.rand(batch_size, len(sparsity), 1, **kw)  # one draw; every pair looks at it from another offset
    offsets = torch.arange(n_features // 2, dtype=sparsity.dtype, device=sparsity.device) / (n_features // 2)
    on = (u + offsets) % 1 >= sparsity[:, None]
    return torch.rand(batch_size, len(sparsity), n_features, **kw) * on.repeat_interleave(2, dim=-1)


def cb_pairs_share_magnitudes(batch_size, n_features, sparsity, generator=None):
    """Independent within a pair, but one pair of magnitudes is copied to all pairs."""
    kw = _kw(sparsity, generator)
    on = torch.rand(batch_size, len(sparsity), n_features // 2, **kw) >= sparsity[:, None]
    two = torch.rand(batch_size, len(sparsity), 2, **kw).repeat(1, 1, n_features // 2)
    return two * on.repeat_interleave(2, dim=-1)


WRONG += [
    (
        P + "correlated_batch",
        "partners_half_apart",
        cb_far_partners,
        "repeat instead of repeat_interleave: partners are k and k + n/2.",
    ),
    (
        P + "correlated_batch",
        "all_features_together",
        cb_all_together,
        "All features of an example are on or off together, not just partners.",
    ),
    (
        P + "correlated_batch",
        "both_must_be_on",
        cb_both_must_agree,
        "A pair is on when two independent draws are both on: on with (1-S)^2.",
    ),
    (P + "correlated_batch", "either_is_enough", cb_either, "A pair is off with S^2 instead of S."),
    (
        P + "correlated_batch",
        "sparse_twice",
        cb_double_sparse,
        "Masks an already sparse batch: partners are not on together and zeros are too many.",
    ),
    (
        P + "correlated_batch",
        "gate_is_the_first_magnitude",
        cb_gate_is_first_magnitude,
        "The even feature's own value is the gate, so it is uniform in [S, 1].",
    ),
    (
        P + "correlated_batch",
        "gates_shared_over_instances",
        cb_shared_over_instances,
        "Instances share the on/off draws.",
    ),
    (
        P + "correlated_batch",
        "mirrored_magnitudes",
        cb_mirror,
        "The partner's magnitude is 1 - x: same marginals, not independent.",
    ),
    (
        P + "correlated_batch",
        "first_sparsity_for_all",
        cb_first_sparsity,
        "Every instance gets the first instance's sparsity.",
    ),
    (P + "correlated_batch", "float32_output", cb_float32, "Returns float32 for a float64 sparsity."),
    (
        P + "correlated_batch",
        "magnitudes_ignore_generator",
        cb_magnitudes_ignore_generator,
        "The magnitudes are drawn without the generator.",
    ),
    (
        P + "correlated_batch",
        "pairs_not_independent",
        cb_chain,
        "All pairs look at one draw with shifted offsets: right rates, different rows, but pairs exclude or entail each other.",
    ),
    (
        P + "correlated_batch",
        "pairs_share_magnitudes",
        cb_pairs_share_magnitudes,
        "The same two magnitudes serve every pair.",
    ),
]


# --- 10 polysemanticity
def poly_strict(W, threshold=0.5):
    r = W.relu()
    return ((r > threshold * r.max(dim=-1, keepdim=True).values) & (r > 0)).sum(dim=-1)


def poly_instance_max(W, threshold=0.5):
    r = W.relu()
    return ((r >= threshold * r.amax(dim=(1, 2), keepdim=True)) & (r > 0)).sum(dim=-1)


def poly_global_max(W, threshold=0.5):
    r = W.relu()
    return ((r >= threshold * r.max()) & (r > 0)).sum(dim=-1)


def poly_hidden_max(W, threshold=0.5):
    r = W.relu()
    return ((r >= threshold * r.amax(dim=1, keepdim=True)) & (r > 0)).sum(dim=-1)


def poly_fixed_threshold(W, threshold=0.5):
    r = W.relu()
    return ((r >= 0.5 * r.amax(dim=-1, keepdim=True)) & (r > 0)).sum(dim=-1)


def poly_int32(W, threshold=0.5):
    r = W.relu()
    return ((r >= threshold * r.amax(dim=-1, keepdim=True)) & (r > 0)).sum(dim=-1).int()


def poly_float(W, threshold=0.5):
    r = W.relu()
    return ((r >= threshold * r.amax(dim=-1, keepdim=True)) & (r > 0)).to(W.dtype).sum(dim=-1)


def poly_eps(W, threshold=0.5):
    r = W.relu()
    share = r / (r.amax(dim=-1, keepdim=True) + 1e-4)
    return (share >= threshold).sum(dim=-1)


def poly_dead_counts_all(W, threshold=0.5):
    r = W.relu()
    return (r >= threshold * r.amax(dim=-1, keepdim=True)).sum(dim=-1)


def poly_abs(W, threshold=0.5):
    r = W.abs()
    return (r >= threshold * r.amax(dim=-1, keepdim=True)).sum(dim=-1) * (W.relu().amax(dim=-1) > 0)


def poly_zero_threshold(W, threshold=0.5):
    r = W.relu()
    top = r.amax(dim=-1, keepdim=True)
    return ((r >= threshold * top) & (top > 0)).sum(dim=-1)


def poly_mean(W, threshold=0.5):
    r = W.relu()
    return ((r >= r.mean(dim=-1, keepdim=True)) & (r > 0)).sum(dim=-1)


def poly_others_only(W, threshold=0.5):
    """Normalises by the row's L2 length, not by its largest response."""
    unit = F.normalize(W.relu(), dim=-1)
    return (unit >= threshold).sum(dim=-1)


def poly_normalised_columns(W, threshold=0.5):
    """Features first brought to unit length ('a feature is a direction')."""
    r = F.normalize(W, dim=1).relu()
    return ((r >= threshold * r.amax(dim=-1, keepdim=True)) & (r > 0)).sum(dim=-1)


def poly_first_two(W, threshold=0.5):
    r = W.relu()
    top = r.sort(dim=-1, descending=True).values
    return (top[..., 0] > 0).long() + ((top[..., 1] >= threshold * top[..., 0]) & (top[..., 1] > 0)).long()


WRONG += [
    (
        P + "polysemanticity",
        "strictly_greater",
        poly_strict,
        "> instead of >= ('at least'): threshold 1 counts nothing.",
    ),
    (
        P + "polysemanticity",
        "largest_of_the_instance",
        poly_instance_max,
        "Compares with the largest response of any neuron in the instance.",
    ),
    (P + "polysemanticity", "largest_of_all", poly_global_max, "Compares with the largest response of all instances."),
    (
        P + "polysemanticity",
        "largest_over_neurons",
        poly_hidden_max,
        "Takes the maximum over the neurons, not over the features.",
    ),
    (P + "polysemanticity", "threshold_ignored", poly_fixed_threshold, "Ignores the argument threshold."),
    (P + "polysemanticity", "int32", poly_int32, "int32 instead of int64."),
    (P + "polysemanticity", "float_counts", poly_float, "Floats instead of integers."),
    (
        P + "polysemanticity",
        "epsilon_in_the_share",
        poly_eps,
        "Divides by max + 1e-4: ties at the threshold are lost, threshold 1 counts nothing, quiet neurons are wrong.",
    ),
    (
        P + "polysemanticity",
        "dead_neuron_counts_all",
        poly_dead_counts_all,
        "0 >= 0: a neuron that nothing drives answers to all features.",
    ),
    (
        P + "polysemanticity",
        "magnitudes",
        poly_abs,
        "Uses |W|: counts features that switch the neuron off; dead neurons are handled.",
    ),
    (
        P + "polysemanticity",
        "zero_threshold_counts_silent",
        poly_zero_threshold,
        "With threshold 0 it counts features with response 0 too (must be positive).",
    ),
    (P + "polysemanticity", "above_the_mean", poly_mean, "Compares with the mean response."),
    (P + "polysemanticity", "row_normalised", poly_others_only, "Compares with threshold times the row's L2 length."),
    (P + "polysemanticity", "columns_normalised", poly_normalised_columns, "Normalises the features first."),
    (
        P + "polysemanticity",
        "at_most_two",
        poly_first_two,
        "Looks at the two strongest features only: never counts more than 2 (and fails for one feature).",
    ),
]


# --- 11 absolute_value_weights
def _avw(n_features, n_hidden, k, dtype=torch.float32):
    W_in = torch.zeros(n_hidden, n_features, dtype=dtype)
    W_out = torch.zeros(n_features, n_hidden, dtype=dtype)
    for i in range(k):
        W_in[2 * i, i], W_in[2 * i + 1, i] = 1, -1
        W_out[i, 2 * i] = W_out[i, 2 * i + 1] = 1
    return W_in, W_out, torch.zeros(n_features, dtype=dtype)


def avw_leftover(n_features, n_hidden):
    W_in, W_out, b = _avw(n_features, n_hidden, min(n_features, n_hidden // 2))
    k = n_hidden // 2
    if n_hidden % 2 and k < n_features:
        W_in[-1, k] = W_out[k, -1] = 1
    return W_in, W_out, b


def avw_short(n_features, n_hidden):
    k = min(n_features, n_hidden // 2)
    return _avw(n_features, 2 * k, k)


def avw_no_min(n_features, n_hidden):
    return _avw(n_features, n_hidden, n_hidden // 2)


def avw_surplus_doubles(n_features, n_hidden):
    W_in, W_out = torch.zeros(n_hidden, n_features), torch.zeros(n_features, n_hidden)
    for j in range(2 * (n_hidden // 2)):
        i = (j // 2) % n_features
        W_in[j, i] = 1 if j % 2 == 0 else -1
        W_out[i, j] = 1
    return W_in, W_out, torch.zeros(n_features)


def avw_constant_rest(n_features, n_hidden):
    k = min(n_features, n_hidden // 2)
    W_in, W_out, b = _avw(n_features, n_hidden, k)
    b[k:] = 0.5
    return W_in, W_out, b


def avw_float64(n_features, n_hidden):
    return _avw(n_features, n_hidden, min(n_features, n_hidden // 2), torch.float64)


def avw_mod_share(n_features, n_hidden):
    """All features share the k pairs, sorted out by a negative bias: works only when one feature is on."""
    k = max(1, min(n_features, n_hidden // 2))
    W_in, W_out, b = _avw(n_features, n_hidden, min(n_features, n_hidden // 2))
    for i in range(k, n_features):
        if n_hidden >= 2:
            W_in[2 * (i % k), i], W_in[2 * (i % k) + 1, i] = 1, -1
    return W_in, W_out, b


def avw_one_neuron_each(n_features, n_hidden):
    k = min(n_features, n_hidden)
    W_in, W_out = torch.zeros(n_hidden, n_features), torch.zeros(n_features, n_hidden)
    for i in range(k):
        W_in[i, i] = W_out[i, i] = 1
    return W_in, W_out, torch.zeros(n_features)


def avw_bias_leak(n_features, n_hidden):
    W_in, W_out, b = _avw(n_features, n_hidden, min(n_features, n_hidden // 2))
    return W_in, W_out, b - 1e-2


def avw_positive_out(n_features, n_hidden):
    """Interleaved W_in, blocked W_out."""
    k = min(n_features, n_hidden // 2)
    W_in, _, b = _avw(n_features, n_hidden, k)
    W_out = torch.zeros(n_features, n_hidden)
    for i in range(k):
        W_out[i, i] = W_out[i, i + k] = 1
    return W_in, W_out, b


def avw_rest_relu(n_features, n_hidden):
    """Rounds n_hidden / 2 up: the last feature has only its positive neuron."""
    k = min(n_features, -(-n_hidden // 2))
    W_in, W_out = torch.zeros(n_hidden + 1, n_features), torch.zeros(n_features, n_hidden + 1)
    for i in range(k):
        W_in[2 * i, i], W_in[2 * i + 1, i] = 1, -1
        W_out[i, 2 * i : 2 * i + 2] = 1
    return W_in[:n_hidden], W_out[:, :n_hidden], torch.zeros(n_features)


def avw_last_features(n_features, n_hidden):
    """Serves the LAST features instead of the first."""
    W_in, W_out, b = _avw(n_features, n_hidden, min(n_features, n_hidden // 2))
    return W_in.flip(1), W_out.flip(0), b


WRONG += [
    (
        P + "absolute_value_weights",
        "leftover_neuron_used",
        avw_leftover,
        "With an odd n_hidden the leftover neuron gives the next feature ReLU(x) instead of 0.",
    ),
    (
        P + "absolute_value_weights",
        "fewer_neurons_than_asked",
        avw_short,
        "Returns 2 * k neurons: the wrong shape for odd or surplus n_hidden.",
    ),
    (
        P + "absolute_value_weights",
        "index_error_with_surplus",
        avw_no_min,
        "Does not cap at n_features: IndexError when n_hidden > 2 n_features + 1.",
    ),
    (
        P + "absolute_value_weights",
        "surplus_neurons_double",
        avw_surplus_doubles,
        "Surplus neurons start over at feature 0 and double its output.",
    ),
    (
        P + "absolute_value_weights",
        "constant_for_the_rest",
        avw_constant_rest,
        "Answers 0.5 for the rest instead of 0; fails the example.",
    ),
    (P + "absolute_value_weights", "float64", avw_float64, "float64 instead of float32."),
    (
        P + "absolute_value_weights",
        "rest_leaks_in",
        avw_mod_share,
        "The rest feed into the pairs of the first features: right only if the rest are off.",
    ),
    (
        P + "absolute_value_weights",
        "one_neuron_a_feature",
        avw_one_neuron_each,
        "Computes ReLU(x): negative values are lost.",
    ),
    (
        P + "absolute_value_weights",
        "small_negative_bias",
        avw_bias_leak,
        "A bias of -0.01 'to be safe': |x| is off by 0.01, so not exact.",
    ),
    (
        P + "absolute_value_weights",
        "interleaved_in_blocked_out",
        avw_positive_out,
        "W_in interleaves the pairs while W_out expects blocks.",
    ),
    (
        P + "absolute_value_weights",
        "rounds_up",
        avw_rest_relu,
        "Rounds n_hidden / 2 up: with an odd n_hidden one more feature gives ReLU(x).",
    ),
    (
        P + "absolute_value_weights",
        "last_features",
        avw_last_features,
        "Serves the last features; right when all are served.",
    ),
]


# ==================================================================================================================
# RIGHT
# ==================================================================================================================
# --- 1
def r_fn_loops(W):
    return torch.stack([torch.stack([w[:, i].pow(2).sum().sqrt() for i in range(w.shape[1])]) for w in W])


def r_fn_gram_diagonal(W):
    return torch.sqrt(torch.diagonal(W.mT @ W, dim1=-2, dim2=-1))


def r_fn_vmap(W):
    return torch.func.vmap(torch.func.vmap(torch.linalg.vector_norm, in_dims=1))(W)


def r_fn_float64(W, *, order=2):
    return reduce(W.double().abs() ** order, "i h f -> i f", "sum").pow(1 / order).to(W.dtype)


def r_fn_hypot(W):
    out = torch.zeros_like(W[:, 0])
    for row in W.unbind(dim=1):
        out = torch.hypot(out, row)
    return out


# --- 2
def r_si_loops(W):
    out = torch.zeros(W.shape[0], W.shape[2], dtype=W.dtype, device=W.device)
    for k, i in itertools.product(range(W.shape[0]), range(W.shape[2])):
        length = W[k, :, i].norm()
        if length == 0:
            continue
        for j in range(W.shape[2]):
            if j != i:
                out[k, i] = out[k, i] + (W[k, :, i] / length @ W[k, :, j]) ** 2
    return out


def r_si_nan_to_num(W):
    gram = torch.einsum("...hi,...hj->...ij", W, W)
    length2 = gram.diagonal(dim1=-2, dim2=-1).clone()
    gram.diagonal(dim1=-2, dim2=-1).zero_()
    return torch.nan_to_num(gram.square().sum(-1) / length2, nan=0.0)


def r_si_vmap(W, *, eps=1e-30):
    def one(w):
        unit = w / torch.linalg.vector_norm(w, dim=0).clamp(min=eps)
        proj = unit.T @ w
        return (proj - torch.diag(torch.diag(proj))).square().sum(dim=1)

    return torch.func.vmap(one)(W)


def r_si_float64_subtract(W):
    V = W.double()
    unit = F.normalize(V, dim=1, eps=1e-300)
    total = einsum(einsum(unit, V, "i h a, i h b -> i a b").square(), "i a b -> i a")
    return (total - V.square().sum(1)).clamp(min=0).to(W.dtype)


# --- 3
def r_sb_bernoulli(batch_size, n_features, sparsity, generator=None):
    on = torch.bernoulli((1 - sparsity)[None, :, None].expand(batch_size, -1, n_features), generator=generator)
    return on * torch.rand(on.shape, generator=generator, dtype=on.dtype, device=on.device)


def r_sb_masked_fill(batch_size, n_features, sparsity, generator=None):
    x = torch.empty(batch_size, len(sparsity), n_features, dtype=sparsity.dtype, device=sparsity.device).uniform_(
        generator=generator
    )
    coin = torch.empty_like(x).uniform_(generator=generator)
    x[coin < rearrange(sparsity, "i -> 1 i 1")] = 0
    return x


def r_sb_loop_instances(batch_size, n_features, sparsity, generator=None):
    columns = []
    for s in sparsity:
        u = torch.rand(2, batch_size, n_features, generator=generator, dtype=sparsity.dtype, device=sparsity.device)
        columns.append(torch.where(u[0] < s, torch.zeros_like(u[1]), u[1]))
    return torch.stack(columns, dim=1)


def r_sb_features_first(batch_size, n_features, sparsity, generator=None, *, low=0.0, high=1.0):
    shape = (n_features, batch_size, sparsity.numel())
    kw = dict(generator=generator, dtype=sparsity.dtype, device=sparsity.device)
    size = low + (high - low) * (1 - torch.rand(shape, **kw))  # in (0, 1]
    return (size * (torch.rand(shape, **kw) >= sparsity)).permute(1, 2, 0)


def r_sb_inverse_cdf(batch_size, n_features, sparsity, generator=None):
    """One float64 draw, rescaled: exactly the same distribution (given 'on', the rest of the draw is uniform)."""
    u = torch.rand(
        batch_size, len(sparsity), n_features, generator=generator, dtype=torch.float64, device=sparsity.device
    )
    s = sparsity.double()[:, None]
    return torch.where(u >= s, (u - s) / (1 - s).clamp(min=1e-12), torch.zeros_like(u)).to(sparsity.dtype)


# --- 4
class RTMUniform(nn.Module):
    def __init__(self, n_instances, n_features, n_hidden, *, scale=1.0):
        super().__init__()
        self.n_instances, self.n_features, self.n_hidden = n_instances, n_features, n_hidden
        self.b = nn.Parameter(torch.zeros(n_instances, n_features))
        self.W = nn.Parameter(torch.empty(n_instances, n_hidden, n_features).uniform_(-scale, scale))
        self.register_buffer("steps", torch.tensor(0), persistent=False)

    def forward(self, x):
        out = [F.linear(F.linear(x[:, k], self.W[k]), self.W[k].T, self.b[k]) for k in range(self.W.shape[0])]
        return F.relu(torch.stack(out, dim=1))


class RTMXavier(nn.Module):
    def __init__(self, n_instances, n_features, n_hidden):
        super().__init__()
        self.W = nn.Parameter(
            torch.stack([nn.init.xavier_normal_(torch.empty(n_hidden, n_features)) for _ in range(n_instances)])
        )
        self.b = nn.Parameter(torch.zeros(n_instances, n_features))
        self.relu = nn.ReLU()

    def forward(self, x):
        gram = torch.bmm(self.W.transpose(1, 2), self.W)
        return self.relu(torch.matmul(gram, x.unsqueeze(-1)).squeeze(-1) + self.b)


class RTMBmm(nn.Module):
    def __init__(self, n_instances, n_features, n_hidden):
        super().__init__()
        self.register_parameter("W", nn.Parameter(0.1 * torch.randn(n_instances, n_hidden, n_features)))
        self.register_parameter("b", nn.Parameter(torch.zeros((n_instances, n_features))))

    def forward(self, x):
        h = torch.bmm(x.transpose(0, 1), self.W.mT)  # (inst, batch, hidden)
        return torch.baddbmm(self.b[:, None], h, self.W).transpose(0, 1).clamp(min=0)


class RTMVmap(nn.Module):
    def __init__(self, n_instances, n_features, n_hidden):
        super().__init__()
        self.W = nn.Parameter(torch.randn(n_instances, n_hidden, n_features) / n_hidden**0.5)
        self.b = nn.Parameter(self.W.new_zeros(n_instances, n_features))

    def forward(self, x):
        one = lambda w, b, v: torch.relu(v @ w.T @ w + b)
        return torch.func.vmap(one, in_dims=(0, 0, 1), out_dims=1)(self.W, self.b, x)


class RTMChunks(nn.Module):
    def __init__(self, n_instances, n_features, n_hidden):
        super().__init__()
        W = torch.rand(n_instances, n_hidden, n_features) - 0.5
        self.W, self.b = nn.Parameter(W), nn.Parameter(torch.zeros(n_instances, n_features))

    def forward(self, x):
        parts = [torch.einsum("bif,ihf,ihg->big", part, self.W, self.W) + self.b for part in x.split(64)]
        return torch.cat(parts).relu()


# --- 5
def r_iwl_loops(prediction, target, importance):
    importance = importance.expand(prediction.shape[1:])
    return torch.stack(
        [((prediction[:, k] - target[:, k]).square() @ importance[k]).mean() for k in range(prediction.shape[1])]
    )


def r_iwl_mse(prediction, target, importance):
    return (F.mse_loss(prediction, target, reduction="none") * importance).mean(0).sum(-1)


def r_iwl_einsum(prediction, target, importance):
    error = prediction - target
    weights = importance if importance.ndim == 2 else repeat(importance, "f -> i f", i=error.shape[1])
    return einsum(error, error, weights, "b i f, b i f, i f -> i") / len(error)


def r_iwl_root_weights(prediction, target, importance):
    error = (prediction - target).double()
    loss = (importance.double() * error * error).sum((0, -1)) / prediction.size(0)
    return loss.to(prediction.dtype)


# --- 6
def r_dpf_trace(W):
    return W.size(-2) / torch.stack([torch.trace(w @ w.T) for w in W])


def r_dpf_frobenius(W):
    return torch.linalg.matrix_norm(W, "fro").pow(-2).mul(W.shape[1])


def r_dpf_inverse_mean(W):
    return 1 / W.square().sum(dim=2).mean(dim=1)


def r_dpf_svd(W):
    return W.shape[1] / torch.linalg.svdvals(W).square().sum(-1)


# --- 7
def r_fd_gram(W):
    gram = W.mT @ W
    length2 = gram.diagonal(dim1=-2, dim2=-1)
    return torch.nan_to_num(length2**2 / gram.square().sum(-1))


def r_fd_from_index(W):
    length2 = W.square().sum(1)
    total = length2 + r_si_nan_to_num(W)
    return torch.where(
        length2 == 0, torch.zeros_like(total), length2 / torch.where(length2 == 0, torch.ones_like(total), total)
    )


def r_fd_loops(W):
    rows = []
    for w in W:
        row = []
        for i in range(w.shape[1]):
            length = w[:, i].norm()
            row.append(
                length.new_zeros(())
                if length == 0
                else length**2 / sum((w[:, i] / length @ w[:, j]) ** 2 for j in range(w.shape[1]))
            )
        rows.append(torch.stack(row))
    return torch.stack(rows)


def r_fd_cosine_double(W):
    V = W.double()
    unit = V / V.norm(dim=1, keepdim=True).clamp(min=1e-300)
    share = V.square().sum(1) / einsum(unit, V, "i h a, i h b -> i a b").square().sum(2).clamp(min=1e-300)
    return share.to(W.dtype)


# --- 8
def r_sl_total_variance(sparsity, importance):
    p = (1 - sparsity) + torch.zeros_like(importance)
    weight = importance + torch.zeros_like(p)
    variance = p * (1 / 12) + p * (1 - p) / 4
    return torch.stack((weight * variance, variance, (1 + weight) * p.square() / 6))


def r_sl_double(sparsity, importance):
    dtype = torch.promote_types(sparsity.dtype, importance.dtype)
    s, w = torch.broadcast_tensors(sparsity.double(), importance.double())
    p = 1 - s
    variance = p * (1 - p) / 3 + p**2 / 12  # = p/3 - p^2/4
    return torch.stack([w * variance, variance, (1 + w) * p**2 / 6]).to(dtype)


def r_sl_quadrature(sparsity, importance):
    """E min(x1, x2)^2 by a fine midpoint rule over its density 2(1 - m), in float64."""
    m = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    both = float((m**2 * 2 * (1 - m)).mean())
    shape = torch.broadcast_shapes(sparsity.shape, importance.shape)
    p, w = (1 - sparsity).expand(shape), importance.expand(shape)
    mean, square = p / 2, p / 3
    out = torch.empty(3, *shape, dtype=torch.promote_types(sparsity.dtype, importance.dtype), device=sparsity.device)
    out[1] = square - mean**2
    out[0] = w * out[1]
    out[2] = (w + 1) * p * p * both
    return out


# --- 9
def r_cb_stack(batch_size, n_features, sparsity, generator=None):
    shape = (batch_size, len(sparsity), n_features // 2)
    kw = dict(generator=generator, dtype=sparsity.dtype, device=sparsity.device)
    on = (torch.rand(shape, **kw) >= sparsity.unsqueeze(-1)).to(sparsity.dtype)
    return torch.stack([on * torch.rand(shape, **kw), on * torch.rand(shape, **kw)], dim=-1).reshape(
        batch_size, len(sparsity), n_features
    )


def r_cb_reuse_sparse(batch_size, n_features, sparsity, generator=None):
    """Even features from a sparse batch; partners get a fresh magnitude where the even one is on."""
    out = r_sb_features_first(batch_size, n_features, sparsity, generator).contiguous()  # magnitudes in (0, 1]
    fresh = torch.rand(out[..., 1::2].shape, generator=generator, dtype=out.dtype, device=out.device)
    out[..., 1::2] = torch.where(out[..., 0::2] > 0, fresh, torch.zeros_like(fresh))
    return out


def r_cb_loop_pairs(batch_size, n_features, sparsity, generator=None):
    pieces = []
    for _ in range(n_features // 2):
        p = (1 - sparsity).expand(batch_size, -1)
        on = torch.bernoulli(p, generator=generator)[..., None]
        pieces.append(
            on
            * torch.rand(
                batch_size, len(sparsity), 2, generator=generator, dtype=sparsity.dtype, device=sparsity.device
            )
        )
    return torch.cat(pieces, dim=-1)


def r_cb_gate_index(batch_size, n_features, sparsity, generator=None):
    kw = dict(generator=generator, dtype=sparsity.dtype, device=sparsity.device)
    x = torch.rand(batch_size, len(sparsity), n_features, **kw)
    coin = torch.rand(batch_size, len(sparsity), n_features // 2, **kw)
    coin = coin[..., torch.arange(n_features, device=sparsity.device) // 2]
    return x.masked_fill(coin < sparsity[:, None], 0.0)


# --- 10
def r_poly_loops(W, threshold=0.5):
    counts = []
    for w in W.tolist():
        rows = []
        for row in w:
            top = max(max(row), 0.0)
            rows.append(sum(1 for v in row if v > 0 and v >= threshold * top))
        counts.append(rows)
    return torch.tensor(counts, dtype=torch.int64).reshape(W.shape[0], W.shape[1])


def r_poly_signed_max(W, threshold=0.5):
    top = W.max(dim=-1, keepdim=True).values  # may be negative; then nothing is positive anyway
    return torch.count_nonzero((W > 0) & (threshold * top <= W), dim=-1)


def r_poly_vmap(W, threshold=0.5, *, dim=-1):
    def one(row):
        r = row.clamp(min=0)
        return ((r > 0) * (r >= r.amax() * threshold)).sum()

    return torch.func.vmap(torch.func.vmap(one))(W).long()


def r_poly_experiment(W, threshold=0.5):
    """Really switches on one feature at a time."""
    eye = torch.eye(W.shape[-1], dtype=W.dtype, device=W.device)
    shows = torch.stack([F.relu(W @ e) for e in eye], dim=-1)
    return (shows.gt(0) & shows.ge(threshold * shows.amax(-1, keepdim=True))).sum(-1, dtype=torch.int64)


# --- 11
def r_avw_kron_padded(n_features, n_hidden):
    k = min(n_features, n_hidden // 2)
    W_in = torch.zeros(n_hidden, n_features)
    W_in[: 2 * k, :k] = torch.kron(torch.eye(k), torch.tensor([[1.0], [-1.0]]))
    return W_in, W_in.abs().T.clone(), torch.zeros(n_features)


def r_avw_blocks_scaled(n_features, n_hidden):
    k = min(n_features, n_hidden // 2)
    eye = torch.eye(n_features)[:k]
    pad = torch.zeros(n_hidden - 2 * k, n_features)
    W_in = torch.cat([4 * eye, -0.5 * eye, pad])
    W_out = torch.cat([eye / 4, 2 * eye, pad]).T
    return W_in, W_out, torch.zeros(n_features)


def r_avw_permuted(n_features, n_hidden):
    W_in, W_out, b = r_avw_kron_padded(n_features, n_hidden)
    order = torch.arange(n_hidden - 1, -1, -1)
    return W_in[order], W_out[:, order], b


def r_avw_negative_bias(n_features, n_hidden):
    """The rest is silenced by a negative bias; surplus neurons read something that nobody listens to."""
    k = min(n_features, n_hidden // 2)
    W_in, W_out, b = r_avw_kron_padded(n_features, n_hidden)
    W_in[2 * k :] = 0.7
    b[k:] = -1.0
    return W_in, W_out, b


def r_avw_surplus_shares(n_features, n_hidden):
    """Surplus pairs are not left idle: they share a feature's work, weights halved (powers of two, so it stays exact)."""
    k = min(n_features, n_hidden // 2)
    W_in, W_out, b = r_avw_kron_padded(n_features, n_hidden)
    if k and n_hidden >= 2 * k + 2:
        W_in[2 * k, 0], W_in[2 * k + 1, 0] = 1.0, -1.0
        W_out[0, [0, 1, 2 * k, 2 * k + 1]] = 0.5
    return W_in, W_out, b


RIGHT += [
    (P + "feature_norms", "nested_comprehension", r_fn_loops),
    (P + "feature_norms", "sqrt_of_gram_diagonal", r_fn_gram_diagonal),
    (P + "feature_norms", "double_vmap", r_fn_vmap),
    (P + "feature_norms", "float64_keyword_order", r_fn_float64),
    (P + "feature_norms", "hypot_fold", r_fn_hypot),
    (P + "superposition_index", "triple_loop", r_si_loops),
    (P + "superposition_index", "gram_nan_to_num", r_si_nan_to_num),
    (P + "superposition_index", "vmap_minus_diagonal", r_si_vmap),
    (P + "superposition_index", "float64_subtract_self", r_si_float64_subtract),
    (P + "sparse_batch", "bernoulli_with_generator", r_sb_bernoulli),
    (P + "sparse_batch", "uniform_in_place_on_own_tensor", r_sb_masked_fill),
    (P + "sparse_batch", "loop_over_instances", r_sb_loop_instances),
    (P + "sparse_batch", "features_first_permuted_view", r_sb_features_first),
    (P + "sparse_batch", "inverse_cdf_borderline", r_sb_inverse_cdf),
    (P + "ToyModel", "uniform_init_linear_loop_extra_buffer", RTMUniform),
    (P + "ToyModel", "xavier_gram_matmul", RTMXavier),
    (P + "ToyModel", "register_parameter_baddbmm_clamp", RTMBmm),
    (P + "ToyModel", "vmap", RTMVmap),
    (P + "ToyModel", "chunked_three_way_einsum", RTMChunks),
    (P + "importance_weighted_loss", "loop_over_instances", r_iwl_loops),
    (P + "importance_weighted_loss", "mse_loss_none", r_iwl_mse),
    (P + "importance_weighted_loss", "three_way_einsum", r_iwl_einsum),
    (P + "importance_weighted_loss", "float64_cast_back", r_iwl_root_weights),
    (P + "dimensions_per_feature", "trace_comprehension", r_dpf_trace),
    (P + "dimensions_per_feature", "frobenius_power", r_dpf_frobenius),
    (P + "dimensions_per_feature", "inverse_of_mean_row", r_dpf_inverse_mean),
    (P + "dimensions_per_feature", "singular_values", r_dpf_svd),
    (P + "feature_dimensionality", "gram_only", r_fd_gram),
    (P + "feature_dimensionality", "from_superposition_index", r_fd_from_index),
    (P + "feature_dimensionality", "loops", r_fd_loops),
    (P + "feature_dimensionality", "float64_cast_back", r_fd_cosine_double),
    (P + "strategy_losses", "total_variance", r_sl_total_variance),
    (P + "strategy_losses", "float64_other_variance_formula", r_sl_double),
    (P + "strategy_losses", "quadrature_filled_in_place", r_sl_quadrature),
    (P + "correlated_batch", "stack_reshape", r_cb_stack),
    (P + "correlated_batch", "partner_follows_even_feature", r_cb_reuse_sparse),
    (P + "correlated_batch", "loop_over_pairs", r_cb_loop_pairs),
    (P + "correlated_batch", "gate_by_integer_division", r_cb_gate_index),
    (P + "polysemanticity", "python_lists", r_poly_loops),
    (P + "polysemanticity", "signed_maximum", r_poly_signed_max),
    (P + "polysemanticity", "double_vmap", r_poly_vmap),
    (P + "polysemanticity", "really_switch_features_on", r_poly_experiment),
    (P + "absolute_value_weights", "kron", r_avw_kron_padded),
    (P + "absolute_value_weights", "blocks_with_scales", r_avw_blocks_scaled),
    (P + "absolute_value_weights", "reversed_neurons", r_avw_permuted),
    (P + "absolute_value_weights", "negative_bias_for_the_rest", r_avw_negative_bias),
    (P + "absolute_value_weights", "surplus_neurons_share", r_avw_surplus_shares),
]
