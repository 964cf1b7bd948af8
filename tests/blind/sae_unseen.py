"""Answers to the exercises of 06_sae, written from the prompts alone by somebody who had not seen any case.

WRONG must be rejected, RIGHT must be accepted; the first ten of WRONG are the ones that their author took for the most
typical, and `UNTOLD` names those of them that get no sentence of their own. What happened is told in docs/blind.md.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import normalize

from mechlib.heads import per_token_loss

P = "sae."
WRONG, RIGHT = [], []
UNTOLD: set[str] = set()


def W(ex, name, f, why):
    WRONG.append((P + ex, name, f, why))


def R(ex, name, f, why):
    RIGHT.append((P + ex, name, f, why))


# ---------- ten typical
def mmcs_over_found(found, true):
    return (normalize(found, dim=-1) @ normalize(true, dim=-1).T).amax(dim=1).mean()


class GoodSAE(nn.Module):
    def __init__(self, d_in, d_sae):
        super().__init__()
        self.W_dec = nn.Parameter(normalize(torch.randn(d_sae, d_in), dim=-1))
        self.W_enc = nn.Parameter(self.W_dec.detach().T.clone())
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    def encode(self, x):
        return F.relu((x - self.b_dec) @ self.W_enc + self.b_enc)

    def decode(self, codes):
        return codes @ self.W_dec + self.b_dec

    def forward(self, x):
        return self.decode(self.encode(x))


class UncentredSAE(GoodSAE):
    def encode(self, x):
        return F.relu(x @ self.W_enc + self.b_enc)


def l1_mse(x, reconstruction, codes, l1):
    return F.mse_loss(reconstruction, x) + l1 * codes.sum(dim=-1).mean()


def rpg_not_unit(W_dec, gradient):
    return gradient - (gradient * W_dec).sum(dim=-1, keepdim=True) * W_dec


def ev_scalar_mean(x, reconstruction):
    return 1 - (x - reconstruction).square().sum() / (x - x.mean()).square().sum()


def topk_no_relu(pre, k):
    values, where = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, where, values)


def lr_zero(model, sae, site, tokens):
    def loss(change):
        return per_token_loss(
            model.run_with_hooks(tokens, fwd_hooks=[(site, lambda x, hook: change(x))]), tokens
        ).mean()

    clean, spliced, ablated = loss(lambda x: x), loss(lambda x: sae.decode(sae.encode(x))), loss(torch.zeros_like)
    return ((ablated - spliced) / (ablated - clean)).item()


def top_flat(codes, k):
    values, where = codes.flatten().topk(k)
    return values, where // codes.shape[1], where % codes.shape[1]


def prl_at_least(activation, concept, levels):
    fires = activation >= levels[:, None] * activation.max()
    hits = (fires & concept).sum(dim=-1)
    return hits / fires.sum(dim=-1), hits / concept.sum()


def steer_replace(model, sae, site, tokens, feature, value):
    def hook(x, hook):
        codes = sae.encode(x)
        codes[..., feature] = value
        return sae.decode(codes)

    return model.run_with_hooks(tokens, fwd_hooks=[(site, hook)])


W("mean_max_cosine_similarity", "best true for each found", mmcs_over_found, "the wrong axis")
W("SAE", "encode does not subtract b_dec", UncentredSAE, "b_dec forgotten in encode")
W("relu_l1_loss", "mean squared error", l1_mse, "mean over the dimensions too")
W("remove_parallel_gradient", "rows taken for unit rows", rpg_not_unit, "not divided by the squared length")
W("explained_variance", "one mean for all dimensions", ev_scalar_mean, "a number in place of the mean vector")
W("topk_activation", "no ReLU", topk_no_relu, "negative ones stay")
W("loss_recovered", "zero ablation", lr_zero, "zeros in place of the mean")
W("top_activations", "several from one row", top_flat, "topk of all")
W("precision_recall_by_level", "at least", prl_at_least, ">= in place of >")
W("steer", "reconstruction in place of x", steer_replace, "drops the error term")


# ---------- the others
def mmcs_abs(found, true):
    return (normalize(found, dim=-1) @ normalize(true, dim=-1).T).abs().amax(dim=0).mean()


def mmcs_never_negative(found, true):
    return (normalize(found, dim=-1) @ normalize(true, dim=-1).T).amax(dim=0).clamp(min=0).mean()


class SharedSAE(GoodSAE):
    def __init__(self, d_in, d_sae):
        super().__init__(d_in, d_sae)
        self.W_enc = nn.Parameter(self.W_dec.data.T)


class OrthantSAE(GoodSAE):
    def __init__(self, d_in, d_sae):
        super().__init__(d_in, d_sae)
        self.W_dec = nn.Parameter(normalize(torch.rand(d_sae, d_in), dim=-1))
        self.W_enc = nn.Parameter(self.W_dec.detach().T.clone())


def l1_mean_codes(x, reconstruction, codes, l1):
    return (x - reconstruction).square().sum(dim=-1).mean() + l1 * codes.mean()


def l1_detached(x, reconstruction, codes, l1):
    return (x - reconstruction).square().sum(dim=-1).mean() + l1 * codes.detach().sum(dim=-1).mean()


def rpg_columns(W_dec, gradient):
    unit = normalize(W_dec, dim=0)
    return gradient - (gradient * unit).sum(dim=0) * unit


def rpg_only_outward(W_dec, gradient):
    unit = normalize(W_dec, dim=-1)
    return gradient - (gradient * unit).sum(dim=-1, keepdim=True).clamp(min=0) * unit


def ev_by_dimension(x, reconstruction):
    return (1 - (x - reconstruction).square().sum(dim=0) / (x - x.mean(dim=0)).square().sum(dim=0)).mean()


def ev_variance_of_error(x, reconstruction):
    return 1 - (x - reconstruction).var(dim=0).sum() / x.var(dim=0).sum()


def topk_by_size(pre, k):
    where = pre.abs().topk(k, dim=-1).indices
    return F.relu(torch.zeros_like(pre).scatter(-1, where, pre.gather(-1, where)))


def topk_ties_stay(pre, k):
    return F.relu(pre) * (pre >= pre.topk(k, dim=-1).values[..., -1:])


def jump(forward, to_pre, to_threshold):
    class Jump(torch.autograd.Function):
        @staticmethod
        def forward(ctx, pre, threshold, bandwidth):
            ctx.save_for_backward(pre, threshold)
            ctx.bandwidth = bandwidth
            return forward(pre, threshold)

        @staticmethod
        def backward(ctx, g):
            pre, threshold = ctx.saved_tensors
            own = to_threshold(pre, threshold, ctx.bandwidth) * g
            return to_pre(pre, threshold) * g, own.flatten(0, -2).sum(dim=0) if own.dim() > 1 else own, None

    return lambda pre, threshold, bandwidth: Jump.apply(pre, threshold, bandwidth)


def passed(pre, threshold):
    return pre * (pre > threshold)


def is_passed(pre, threshold):
    return (pre > threshold).to(pre.dtype)


def stand_in(pre, threshold, e):
    return -threshold / e * ((pre - threshold).abs() < e / 2)


jr_shrinks = jump(lambda p, t: F.relu(p - t), is_passed, stand_in)
jr_wide = jump(passed, is_passed, lambda p, t, e: -t / e * ((p - t).abs() < e))
jr_pre_for_threshold = jump(passed, is_passed, lambda p, t, e: -p / e * ((p - t).abs() < e / 2))


def resample(W_enc, b_enc, W_dec, b_dec, dead, x, losses, generator, power=2, replace=True, root=False, alive=True):
    W_enc, b_enc, W_dec = W_enc.clone(), b_enc.clone(), W_dec.clone()
    n = int(dead.sum())
    if n == 0:
        return W_enc, b_enc, W_dec
    drawn = torch.multinomial(losses**power, n, replacement=replace, generator=generator)
    rows = normalize(x[drawn] - b_dec, dim=-1)
    lengths = W_enc[:, ~dead if alive else slice(None)].norm(dim=0)
    W_dec[dead] = rows
    W_enc[:, dead] = rows.T * 0.2 * (lengths.square().mean().sqrt() if root else lengths.mean())
    b_enc[dead] = 0.0
    return W_enc, b_enc, W_dec


def rd_plain_losses(W_enc, b_enc, W_dec, b_dec, dead, x, losses, generator=None):
    return resample(W_enc, b_enc, W_dec, b_dec, dead, x, losses, generator, power=1)


def rd_all_lengths(W_enc, b_enc, W_dec, b_dec, dead, x, losses, generator=None):
    return resample(W_enc, b_enc, W_dec, b_dec, dead, x, losses, generator, alive=False)


def rd_root_mean_square(W_enc, b_enc, W_dec, b_dec, dead, x, losses, generator=None):
    return resample(W_enc, b_enc, W_dec, b_dec, dead, x, losses, generator, root=True)


def recovered(model, sae, site, tokens, mean):
    def loss(change):
        return per_token_loss(
            model.run_with_hooks(tokens, fwd_hooks=[(site, lambda x, hook: change(x))]), tokens
        ).mean()

    clean, spliced = loss(lambda x: x), loss(lambda x: sae.decode(sae.encode(x)))
    ablated = loss(lambda x: mean(x).expand_as(x))
    return ((ablated - spliced) / (ablated - clean)).item()


def lr_mean_by_position(model, sae, site, tokens):
    return recovered(model, sae, site, tokens, lambda x: x.mean(dim=0))


def lr_mean_of_reconstruction(model, sae, site, tokens):
    return recovered(model, sae, site, tokens, lambda x: sae.decode(sae.encode(x)).mean(dim=(0, 1)))


def lr_clamped(model, sae, site, tokens):
    return min(1.0, max(0.0, recovered(model, sae, site, tokens, lambda x: x.mean(dim=(0, 1)))))


def top_positions_not_sorted(codes, k):
    maxima, positions = codes.max(dim=1)
    values, rows = maxima.topk(k)
    return values, rows, positions[:k]


def top_in_row_order(codes, k):
    maxima, positions = codes.max(dim=1)
    rows = maxima.topk(k).indices.sort().values
    return maxima[rows], rows, positions[rows]


def prl(activation, concept, cuts):
    fires = activation > cuts[:, None]
    hits = (fires & concept).sum(dim=-1)
    return hits / fires.sum(dim=-1), hits / concept.sum()


def prl_zero_for_nan(activation, concept, levels):
    precision, recall = prl(activation, concept, levels * activation.max())
    return precision.nan_to_num(0.0), recall.nan_to_num(0.0)


def prl_largest_on_concept(activation, concept, levels):
    largest = activation[concept].max() if concept.any() else activation.max()
    return prl(activation, concept, levels * largest)


def steered(model, sae, site, tokens, feature, move):
    def hook(x, hook):
        return x + move(sae.encode(x)[..., feature])[..., None] * sae.W_dec[feature]

    return model.run_with_hooks(tokens, fwd_hooks=[(site, hook)])


def steer_add(model, sae, site, tokens, feature, value):
    return steered(model, sae, site, tokens, feature, lambda code: torch.full_like(code, value))


def steer_where_active(model, sae, site, tokens, feature, value):
    return steered(model, sae, site, tokens, feature, lambda code: (value - code) * (code > 0))


W("mean_max_cosine_similarity", "sign ignored", mmcs_abs, "absolute cosines")
W("mean_max_cosine_similarity", "never negative", mmcs_never_negative, "a best cosine below 0 becomes 0")
W("SAE", "W_enc shares W_dec's memory", SharedSAE, "a view, not a copy: they change together")
W("SAE", "directions of one orthant", OrthantSAE, "torch.rand: all entries positive, all rows alike")
W("relu_l1_loss", "mean of the codes", l1_mean_codes, "mean over the latents too")
W("relu_l1_loss", "codes detached", l1_detached, "the right number, without a gradient for the codes")
W("remove_parallel_gradient", "columns", rpg_columns, "columns in place of rows")
W("remove_parallel_gradient", "outward part only", rpg_only_outward, "a part against the row stays")
W("explained_variance", "mean of the dimensions' shares", ev_by_dimension, "a ratio for each dimension")
W("explained_variance", "variance of the error", ev_variance_of_error, "a constant error costs nothing")
W("topk_activation", "largest in size", topk_by_size, "negative ones take a place")
W("topk_activation", "ties all stay", topk_ties_stay, "more than k where the k-th value recurs")
W("jumprelu", "threshold subtracted", jr_shrinks, "what exceeds it does not pass unchanged")
W("jumprelu", "window of twice the width", jr_wide, "eps in place of eps / 2")
W("jumprelu", "pre in place of the threshold", jr_pre_for_threshold, "close to it inside the window")
W("resample_dead", "losses not squared", rd_plain_losses, "in proportion to the loss")
W("resample_dead", "mean length of all columns", rd_all_lengths, "dead ones counted")
W("resample_dead", "root mean square length", rd_root_mean_square, "not the mean of the lengths")
W("loss_recovered", "a mean for each position", lr_mean_by_position, "mean over the prompts only")
W("loss_recovered", "mean of the reconstruction", lr_mean_of_reconstruction, "not the activations' mean")
W("loss_recovered", "between 0 and 1", lr_clamped, "harm beyond the mean's is hidden")
W("top_activations", "positions not reordered", top_positions_not_sorted, "positions of the first k rows")
W("top_activations", "in the rows' order", top_in_row_order, "not best first")
W("precision_recall_by_level", "0 for NaN", prl_zero_for_nan, "nothing fires: 0")
W("precision_recall_by_level", "largest on the concept", prl_largest_on_concept, "maximum of the concept's tokens only")
W("steer", "added to the code", steer_add, "the code that is there is not taken away")
W("steer", "only where active", steer_where_active, "not at every position")


# ---------- right, in unusual styles
def mmcs_loops(found, true):
    return torch.stack([max(F.cosine_similarity(t, f, dim=0) for f in found) for t in true]).mean()


class LinearSAE(nn.Module):
    def __init__(self, d_in, d_sae):
        super().__init__()
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        directions = F.normalize(torch.empty(d_in, d_sae).normal_(), dim=0)
        self.W_enc = nn.Parameter(directions.clone())
        self.W_dec = nn.Parameter(directions.T.contiguous())

    def encode(self, x):
        return F.linear(x, self.W_enc.T, self.b_enc - self.b_dec @ self.W_enc).clamp(min=0)

    def decode(self, codes):
        return F.linear(codes, self.W_dec.T, self.b_dec)

    def forward(self, x):
        codes = F.linear(x, self.W_enc.T, self.b_enc - self.b_dec @ self.W_enc).clamp(min=0)
        return F.linear(codes, self.W_dec.T, self.b_dec)


def topk_relu_first(pre, k):
    order = F.relu(pre).argsort(dim=-1, descending=True)
    return F.relu(pre).masked_fill(order.argsort(dim=-1) >= k, 0.0)


def jr_without_function(pre, threshold, bandwidth):
    fixed = threshold.detach()
    near = ((pre.detach() - fixed).abs() < bandwidth / 2).to(pre.dtype)
    return pre * (pre > threshold) - fixed / bandwidth * near * (threshold - fixed)


def lr_by_cache(model, sae, site, tokens):
    logits, cache = model.run_with_cache(tokens)
    x = cache[site]
    mean = x.reshape(-1, x.shape[-1]).mean(dim=0)

    def loss(new):
        logits = model.run_with_hooks(tokens, fwd_hooks=[(site, lambda old, hook: new)])
        return float(per_token_loss(logits, tokens).mean())

    clean, ablated = float(per_token_loss(logits, tokens).mean()), loss(mean + 0 * x)
    return 1 - (loss(sae.decode(sae.encode(x))) - clean) / (ablated - clean)


def top_in_python(codes, k):
    best = sorted(((-max(row), r, row.index(max(row))) for r, row in enumerate(codes.tolist())))[:k]
    rows, positions = torch.tensor([b[1] for b in best]), torch.tensor([b[2] for b in best])
    return codes[rows, positions], rows, positions


def steer_whole_codes(model, sae, site, tokens, feature, value):
    def hook(x, hook):
        codes = sae.encode(x)
        clamped = codes.clone()
        clamped[:, :, feature] = value
        return x + (clamped - codes) @ sae.W_dec

    return model.run_with_hooks(tokens, fwd_hooks=[(site, hook)])


R("mean_max_cosine_similarity", "loops", mmcs_loops, "pair by pair")
R("SAE", "F.linear, bias folded", LinearSAE, "b_dec folded into the encoder's bias; forward written out")
R("topk_activation", "ReLU first, ranks", topk_relu_first, "a mask of ranks")
R("jumprelu", "no autograd.Function", jr_without_function, "a term that is 0 and has the gradient")
R("loss_recovered", "cache, 1 minus a share", lr_by_cache, "the activations of one cached run")
R("top_activations", "Python's sorted", top_in_python, "lists")
R("steer", "all codes", steer_whole_codes, "the difference of two whole codes")
