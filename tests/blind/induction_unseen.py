"""Answers to the exercises of 02_induction, written from the prompts alone by somebody who had not seen any case.

WRONG must be rejected, RIGHT must be accepted; the first ten of WRONG are the ones that their author took for the most
typical, and `UNTOLD` names those of them that get no sentence of their own. What happened is told in docs/blind.md.
"""

import math

import torch
import torch.nn.functional as F
from einops import einsum

from mechlib.handmade import SHARP, Blueprint, attend

P = "induction."
WRONG, RIGHT = [], []
UNTOLD: set[str] = set()  # at first contact two: "counts itself", "fixed stripe"


def W(ex, name, f, why):
    WRONG.append((P + ex, name, f, why))


def R(ex, name, f, why):
    RIGHT.append((P + ex, name, f, why))


# ---------- helpers
def dup_mask(tokens):
    S = tokens.shape[1]
    return (tokens[:, :, None] == tokens[:, None, :]) & torch.ones(S, S, dtype=torch.bool, device=tokens.device).tril(
        -1
    )


def ind_mask(tokens):
    d = dup_mask(tokens)
    m = torch.zeros_like(d)
    m[:, :, 1:] = d[:, :, :-1]
    return m


def score(pattern, m, has):
    s = (pattern * m[:, None]).sum(-1)
    n = has.sum()
    if n == 0:
        return pattern.new_zeros(pattern.shape[1])
    return (s * has[:, None]).sum((0, 2)) / n


# ---------- ten typical
def ptl_notshift(logits, tokens):
    lp = logits.log_softmax(-1)
    return -lp.gather(-1, tokens[..., None])[..., 0][:, :-1]


def ptl_sign(logits, tokens):
    lp = logits.log_softmax(-1)
    return lp[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]


def pts_allpos(pattern):
    return pattern.diagonal(-1, -2, -1).sum(-1).mean(0) / pattern.shape[-1]


def dts_self(pattern, tokens):
    tokens.shape[1]
    m = (tokens[:, :, None] == tokens[:, None, :]).tril()
    return score(pattern, m, dup_mask(tokens).any(-1))


def dts_allpos(pattern, tokens):
    return (pattern * dup_mask(tokens)[:, None]).sum(-1).mean((0, 2))


def is_fixed(pattern, tokens):
    half = (tokens.shape[1] - 1) // 2
    return pattern.diagonal(1 - half, -2, -1).mean((0, 2))


def is_before(pattern, tokens):
    d = dup_mask(tokens)
    m = torch.zeros_like(d)
    m[:, :, :-1] = d[:, :, 1:]
    return score(pattern, m, d.any(-1))


def ah_meanall(model, tokens, layer, head, method, reference=None):
    name = f"blocks.{layer}.attn.hook_z"
    ref = None if reference is None else model.run_with_cache(reference)[1]["z", layer][:, :, head]

    def hook(z, hook):
        z = z.clone()
        z[:, :, head] = 0 if method == "zero" else ref.mean((0, 1)) if method == "mean" else ref
        return z

    return model.run_with_hooks(tokens, fwd_hooks=[(name, hook)])


def cs_trace(W_E, W_V, W_O, W_U):
    M = W_E @ W_V @ W_O @ W_U
    return (M.argmax(0) == torch.arange(len(M), device=M.device)).to(M.dtype).mean(), torch.linalg.eigvals(
        M
    ).real.sum() / torch.linalg.eigvals(M).abs().sum()


def pa_noscale(x, W_Q, b_Q, W_K, b_K):
    s = (x @ W_Q + b_Q) @ (x @ W_K + b_K).T
    m = torch.ones_like(s, dtype=torch.bool).triu(1)
    return s.masked_fill(m, -torch.inf).softmax(-1)


W("per_token_loss", "no shift", ptl_notshift, "loss of own token, not the next")
W("per_token_loss", "log probability, sign", ptl_sign, "minus forgotten")
W("previous_token_score", "divides by all positions", pts_allpos, "sum over n-1 divided by n")
W("duplicate_token_score", "counts itself", dts_self, "current position included")
W(
    "duplicate_token_score",
    "mean over all positions",
    dts_allpos,
    "averages over positions without an earlier occurrence",
)
W("induction_score", "fixed stripe", is_fixed, "diagonal half-1 back whatever tokens")
W("induction_score", "token before", is_before, "shift the wrong way")
W("ablate_head", "mean over positions too", ah_meanall, "mean over batch and position")
W("copying_score", "argmax over the looked-at axis", cs_trace, "transposed argmax")
W("positional_attention", "not scaled", pa_noscale, "no sqrt(d_head)")


# ---------- subtler
def ptl_log2(logits, tokens):
    return -ptl_sign(logits, tokens) / math.log(2)


def ptl_firstrow(logits, tokens):
    lp = logits.log_softmax(-1)
    return torch.stack([-lp[:, i, :][:, tokens[0, i + 1]] for i in range(tokens.shape[1] - 1)], 1)


def ptl_naive(logits, tokens):
    e = logits.exp()
    p = e / e.sum(-1, keepdim=True)
    return -p[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0].log()


def ptl_float(logits, tokens):
    return -ptl_sign(logits.float(), tokens).float()


def ptl_softmax_pos(logits, tokens):
    return -logits.log_softmax(1)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]


W("per_token_loss", "log base 2", ptl_log2, "bits")
W("per_token_loss", "first row's tokens for all", ptl_firstrow, "batch ignored in tokens")
W("per_token_loss", "always float32", ptl_float, "dtype lost for float64")
W("per_token_loss", "softmax over positions", ptl_softmax_pos, "wrong axis")
W("previous_token_score", "next token (upper diagonal)", lambda p: p.diagonal(1, -2, -1).mean((0, 2)), "diagonal +1")
W("previous_token_score", "one prompt", lambda p: p[0].diagonal(-1, -2, -1).mean(-1), "only first prompt")
W(
    "previous_token_score",
    "diagonal over batch and head axes",
    lambda p: p.mean(0).diagonal(-2, -2, -1).mean(-1),
    "two back",
)
W(
    "previous_token_score",
    "skips position 1",
    lambda p: p.diagonal(-1, -2, -1)[..., 1:].mean((0, 2)),
    "drops the bos target",
)


def dts_nan(pattern, tokens):
    has = dup_mask(tokens).any(-1)
    return (pattern * dup_mask(tokens)[:, None]).sum((0, 2, 3)) / has.sum()


def dts_pairs(pattern, tokens):
    m = dup_mask(tokens)
    return (pattern * m[:, None]).sum((0, 2, 3)) / m.sum().clamp(min=1)


def dts_perprompt(pattern, tokens):
    m = dup_mask(tokens)
    h = m.any(-1)
    return ((pattern * m[:, None]).sum((2, 3)) / h.sum(-1).clamp(min=1)[:, None]).mean(0)


def dts_last(pattern, tokens):
    m = dup_mask(tokens)
    S = tokens.shape[1]
    idx = torch.where(m, torch.arange(S), -1).amax(-1)
    m2 = F.one_hot(idx.clamp(min=0), S).bool() & (idx >= 0)[..., None]
    return score(pattern, m2, m.any(-1))


W("duplicate_token_score", "nan if none", dts_nan, "0/0")
W("duplicate_token_score", "divides by pairs", dts_pairs, "mean over pairs instead of positions")
W("duplicate_token_score", "mean of prompt means", dts_perprompt, "prompts with unequal counts weigh the same")
W("duplicate_token_score", "latest occurrence only", dts_last, "no sum")


def is_noself(pattern, tokens):
    m = ind_mask(tokens) & ~torch.eye(tokens.shape[1], dtype=torch.bool)
    return score(pattern, m, dup_mask(tokens).any(-1))


def is_roll(pattern, tokens):
    tokens.shape[1]
    eq = tokens[:, :, None] == tokens[:, None, :]
    m = eq.roll(1, -1).tril()
    m[:, :, 0] = eq[:, :, -1]  # wraparound column
    return score(pattern, m, dup_mask(tokens).any(-1))


def is_firstocc(pattern, tokens):
    m = ind_mask(tokens)
    first = m & (m.cumsum(-1) == 1)
    return score(pattern, first, dup_mask(tokens).any(-1))


def is_pairs(pattern, tokens):
    m = ind_mask(tokens)
    return (pattern * m[:, None]).sum((0, 2, 3)) / m.sum().clamp(min=1)


def is_pernorm(pattern, tokens):
    m = ind_mask(tokens)
    h = m.any(-1)
    return ((pattern * m[:, None]).sum((2, 3)) / h.sum(-1).clamp(min=1)[:, None]).mean(0)


def is_has_noself(pattern, tokens):
    m = ind_mask(tokens) & ~torch.eye(tokens.shape[1], dtype=torch.bool)
    return score(pattern, m, m.any(-1))


W("induction_score", "follower of itself left out", is_noself, "k=q excluded")
W("induction_score", "roll wraps", is_roll, "column 0 counts the last token's match")
W("induction_score", "first occurrence only", is_firstocc, "no sum")
W("induction_score", "divides by pairs", is_pairs, "mean over pairs")
W("induction_score", "mean of prompt means", is_pernorm, "unequal weights")
W(
    "induction_score",
    "self excluded from numerator and positions",
    is_has_noself,
    "position dropped when only self-follow",
)


def mk_ablate(**o):
    def ah(model, tokens, layer, head, method, reference=None):
        name = f"blocks.{layer}.attn.hook_z"
        src = tokens if o.get("own") else reference
        ref = None if src is None else model.run_with_cache(src)[1]["z", layer].clone()

        def hook(z, hook):
            if not o.get("inplace_ok"):
                z = z.clone()
            i = slice(None) if o.get("all") else head
            if method == "zero":
                z[:, :, i] = 0
            elif method == "mean":
                z[:, :, i] = ref[:, :, i].mean(1, keepdim=True) if o.get("posmean") else ref[:, :, i].mean(0)
            elif o.get("perm"):
                z[:, :, i] = ref[:, :, i].flip(0)
            elif o.get("row0"):
                z[:, :, i] = ref[:1, :, i]
            elif o.get("resmean"):
                z[:, :, i] = ref[:, :, i].mean(0)
            else:
                z[:, :, i] = ref[:, :, i]
            return z

        if o.get("left"):
            model.add_hook(name, hook) if hasattr(model, "add_hook") else None
            return model(tokens)
        return model.run_with_hooks(tokens, fwd_hooks=[(name, hook)])

    return ah


W("ablate_head", "all heads of the layer", mk_ablate(all=True), "whole layer ablated")
W("ablate_head", "mean of own prompts", mk_ablate(own=True), "reference ignored")
W("ablate_head", "resample flips rows", mk_ablate(perm=True), "wrong rows")
W("ablate_head", "resample from row 0", mk_ablate(row0=True), "first reference row for all")
W("ablate_head", "resample is mean", mk_ablate(resmean=True), "mean for resample")
W("ablate_head", "hook left", mk_ablate(left=True), "add_hook, never removed")


def ah_weights(model, tokens, layer, head, method, reference=None):
    if method == "zero":
        with torch.no_grad():
            model.W_V[layer, head] = 0
        return model(tokens)
    return mk_ablate()(model, tokens, layer, head, method, reference)


def ah_mean_tokens_shape(model, tokens, layer, head, method, reference=None):
    if method == "mean":
        reference = reference[: len(tokens)]
    return mk_ablate()(model, tokens, layer, head, method, reference)


W("ablate_head", "mean over only as many rows as tokens", ah_mean_tokens_shape, "reference cut")


def hla(center=True, scale=True, w=True, avg=True, ln_mean=True, bias=False, layers=None, shift=False, inplace=False):
    def f(model, cache, targets):
        out = []
        for l in range(layers or model.cfg.n_layers):
            z = cache["z", l]
            o = einsum(z, model.W_O[l], "b p h d, h d m -> h b p m")
            if bias:
                o = o + model.b_O[l] / model.cfg.n_heads
            if ln_mean:
                o = o - o.mean(-1, keepdim=True)
            if scale:
                o = o / cache["ln_final.hook_scale"]
            if w:
                o = o * model.ln_final.weight
            U = model.W_U
            lg = o @ U
            if avg:
                lg = lg - lg.mean(-1, keepdim=True)
            t = targets.roll(-1, 1) if shift else targets
            out.append(lg.gather(-1, t[None, ..., None].expand(lg.shape[0], -1, -1, 1))[..., 0])
        return torch.stack(out)

    return f


W("head_logit_attribution", "no average logit", hla(avg=False), "average not taken off")
W("head_logit_attribution", "no scale", hla(scale=False), "scale forgotten")
W("head_logit_attribution", "no ln weight", hla(w=False), "weight forgotten")
W("head_logit_attribution", "not centred", hla(ln_mean=False), "mean over d_model not subtracted")
W("head_logit_attribution", "b_O shared among heads", hla(bias=True), "bias given to heads")
W("head_logit_attribution", "targets shifted", hla(shift=True), "next position's target")


def cs(mode):
    def f(W_E, W_V, W_O, W_U):
        M = W_E @ W_V @ W_O @ W_U
        top = (M.argmax(-1) == torch.arange(len(M), device=M.device)).to(M.dtype).mean()
        e = torch.linalg.eigvals(M)
        if mode == "positive":
            return (M.diagonal() > 0).to(M.dtype).mean(), (e.sum() / e.abs().sum()).real
        if mode == "realabs":
            return top, e.real.sum() / e.real.abs().sum()
        if mode == "count":
            return top, (e.real > 0).to(M.dtype).mean()
        if mode == "svd":
            return top, M.trace() / torch.linalg.svdvals(M).sum()
        if mode == "eigh":
            e2 = torch.linalg.eigvalsh(M)
            return top, e2.sum() / e2.abs().sum()
        if mode == "absarg":
            return (M.abs().argmax(-1) == torch.arange(len(M))).to(M.dtype).mean(), (e.sum() / e.abs().sum()).real
        if mode == "complex":
            return top, e.sum() / e.abs().sum()
        if mode == "swap":
            return (e.sum() / e.abs().sum()).real, top
        if mode == "abssum":
            return top, e.sum().abs() / e.abs().sum()

    return f


for m, why in dict(
    positive="own logit raised at all",
    realabs="|Re| in the denominator",
    count="share of positive eigenvalues",
    svd="singular values",
    eigh="symmetric solver",
    absarg="argmax of |M|",
    complex="not real",
    swap="tuple swapped",
    abssum="|sum|: sign lost",
).items():
    W("copying_score", m, cs(m), why)


def pa(mode):
    def f(x, W_Q, b_Q, W_K, b_K):
        q, k = x @ W_Q, x @ W_K
        if mode != "nobias":
            q, k = q + b_Q, k + b_K
        if mode == "swapbias":
            q, k = x @ W_Q + b_K, x @ W_K + b_Q
        d = x.shape[-1] if mode == "dmodel" else W_Q.shape[-1]
        s = q @ k.T / math.sqrt(d)
        if mode == "T":
            s = s.T
        m = torch.ones_like(s, dtype=torch.bool).triu(0 if mode == "strict" else 1)
        if mode == "zero":
            return s.masked_fill(m, 0).softmax(-1)
        if mode == "after":
            return s.softmax(-1).tril()
        if mode == "nocausal":
            return s.softmax(-1)
        if mode == "axis":
            return s.masked_fill(m, -torch.inf).softmax(0)
        if mode == "strict":
            s = s.masked_fill(m, -torch.inf)
            s[0, 0] = 0
            return s.softmax(-1)
        return s.masked_fill(m, -torch.inf).softmax(-1)

    return f


for m, why in dict(
    nobias="biases forgotten",
    swapbias="biases swapped",
    dmodel="sqrt(d_model)",
    T="scores transposed",
    zero="masked with 0",
    after="mask after softmax",
    nocausal="no mask",
    axis="softmax over queries",
    strict="self excluded",
).items():
    W("positional_attention", m, pa(m), why)


def comp(mode):
    def f(writer, reader, side):
        if mode == "noT":
            Rm = reader
        elif mode == "swapQK":
            Rm = reader.T if side == "Q" else reader
        elif mode == "VT":
            Rm = reader.T if side in "KV" else reader
        elif mode == "left":
            return (reader @ writer).norm() / (reader.norm() * writer.norm())
        else:
            Rm = reader.T if side == "K" else reader
        if mode == "spectral":
            return torch.linalg.matrix_norm(writer @ Rm, 2) / (
                torch.linalg.matrix_norm(writer, 2) * torch.linalg.matrix_norm(Rm, 2)
            )
        if mode == "square":
            return (writer @ Rm).norm() ** 2 / (writer.norm() * Rm.norm()) ** 2
        if mode == "normprod":
            return (writer @ Rm).norm() / (writer @ Rm.abs()).norm().clamp(min=1e-9)
        if mode == "writerT":
            return (writer.T @ Rm).norm() / (writer.norm() * Rm.norm())
        return (writer @ Rm).norm() / (writer.norm() * Rm.norm())

    return f


for m, why in dict(
    noT="K not transposed",
    swapQK="Q and K swapped",
    VT="V transposed",
    left="reader first",
    spectral="spectral norm",
    square="squared",
    writerT="writer transposed",
).items():
    W("composition_score", m, comp(m), why)


def pk(mode):
    def f(model, tokens, cache, source_cache, sender, receiver):
        (sl, sh), (rl, rh) = sender, receiver
        if mode == "swap":
            cache_a, cache_b = source_cache, cache
        else:
            cache_a, cache_b = cache, source_cache
        dz = cache_b["z", sl][:, :, sh] - cache_a["z", sl][:, :, sh]
        if mode == "allheads":
            d = einsum(cache_b["z", sl] - cache_a["z", sl], model.W_O[sl], "b p h d, h d m -> b p m")
        else:
            d = dz @ model.W_O[sl, sh]
        layer0 = sl + 1 if mode == "nextlayer" else rl
        base = (source_cache if mode == "srcbase" else cache)["resid_pre", layer0]
        if mode == "inplace":
            x = base
            x += d
        else:
            x = base + d
        if mode == "noln":
            n = x
        elif mode == "lnsender":
            n = model.blocks[sl].ln1(x)
        else:
            n = model.blocks[rl].ln1(x)
        k = n @ model.W_K[rl, rh]
        if mode != "nobias":
            k = k + model.b_K[rl, rh]
        name = f"blocks.{rl}.attn.hook_" + ("q" if mode == "queries" else "k")

        def hook(kk, hook):
            kk = kk.clone()
            if mode == "allrec":
                kk[:] = k[:, :, None]
            elif mode == "last":
                kk[:, -1, rh] = k[:, -1]
            elif mode == "add":
                kk[:, :, rh] += k
            else:
                kk[:, :, rh] = k
            return kk

        return model.run_with_hooks(tokens, fwd_hooks=[(name, hook)])

    return f


for m, why in dict(
    swap="minus the change",
    allheads="all heads of sender layer",
    nextlayer="resid of the layer after sender, not receiver's",
    srcbase="receiver's input of the other run",
    inplace="edits cache in place",
    noln="no LayerNorm",
    lnsender="LayerNorm of sender layer",
    queries="hook_q patched",
    allrec="all receiver-layer heads",
    last="only last position",
    add="adds whole key",
).items():
    W("patch_keys", m, pk(m), why)


def bic(mode):
    def f(words, n_ctx):
        plan = Blueprint(words, n_ctx)
        n = len(plan.words)
        here, prev, ans = plan.space("here", n), plan.space("prev", n), plan.space("answer", n)
        plan.embed(here)
        back = 2 if mode == "two" else 1
        lim = min(n_ctx, 8) if mode == "eight" else n_ctx
        plan.head(0, 0).qk(plan.position, plan.position, attend({p: p - back for p in range(back, lim)}, n_ctx)).ov(
            here, prev
        )
        h = plan.head(0 if mode == "samelayer" else 1, 1 if mode == "samelayer" else 0)
        if mode == "dup":
            h.qk(here, here, SHARP)
        elif mode == "flip":
            h.qk(prev, here, SHARP)
        elif mode == "weak":
            h.qk(here, prev, 1.0)
        elif mode == "neg":
            h.qk(here, prev, -SHARP)
        else:
            h.qk(here, prev, SHARP)
        h.ov(prev if mode == "ovprev" else here, ans)
        if mode == "two_ind":
            plan.head(1, 1).qk(here, prev, SHARP).ov(here, ans)
        plan.unembed(here if mode == "unembhere" else ans, -20.0 if mode == "negun" else 20.0)
        return plan.build("cpu") if mode == "built" else plan

    return f


for m, why in dict(
    two="two-back head",
    eight="positions only up to 8",
    samelayer="both in layer 0",
    dup="duplicate head",
    flip="query prev, key here",
    weak="score 1, not sharp",
    neg="negative score",
    ovprev="hands on the previous word",
    two_ind="two induction heads",
    unembhere="unembeds the word itself",
    negun="negative unembedding",
    built="built, not a plan",
).items():
    W("build_induction_circuit", m, bic(m), why)


# ---------- RIGHT, unusual
def ptl_ce(logits, tokens):
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")


def pts_loop(pattern):
    B, H, S, _ = pattern.shape
    return torch.stack(
        [sum(pattern[b, h, i, i - 1] for b in range(B) for i in range(1, S)) / (B * (S - 1)) for h in range(H)]
    )


def loop_score(after):
    def f(pattern, tokens):
        B, H, S, _ = pattern.shape
        tot = torch.zeros_like(pattern[0, :, 0, 0])
        n = 0
        T = tokens.tolist()
        for b in range(B):
            for q in range(S):
                ks = [k for k in range(q) if T[b][k] == T[b][q]]
                if ks:
                    n += 1
                    for k in ks:
                        tot = tot + pattern[b, :, q, k + after]
        return tot / max(n, 1)

    return f


def ah_hand(model, tokens, layer, head, method, reference=None):
    keep = {}
    name = f"blocks.{layer}.attn.hook_z"
    if method != "zero":
        model.run_with_hooks(reference, fwd_hooks=[(name, lambda z, hook: keep.update(z=z.detach().clone()))])

    def put(z, hook):
        new = (
            torch.zeros_like(z)
            if method == "zero"
            else (keep["z"].mean(0, keepdim=True).expand_as(z) if method == "mean" else keep["z"])
        )
        pick = torch.arange(z.shape[2], device=z.device) == head
        return torch.where(pick[None, None, :, None], new, z)

    return model.run_with_hooks(tokens, fwd_hooks=[(name, put)])


def hla_dirs(model, cache, targets):
    U = model.W_U - model.W_U.mean(1, keepdim=True)
    D = U * model.ln_final.weight[:, None]
    D = (D - D.mean(0, keepdim=True)).T[targets] / cache["ln_final.hook_scale"]
    return torch.stack(
        [
            torch.stack([((cache["z", l][:, :, h] @ model.W_O[l, h]) * D).sum(-1) for h in range(model.cfg.n_heads)])
            for l in range(model.cfg.n_layers)
        ]
    )


def cs_rank(W_E, W_V, W_O, W_U):
    M = torch.linalg.multi_dot([W_E, W_V, W_O, W_U])
    own = M.diagonal()
    other = M.clone()
    other.fill_diagonal_(-torch.inf)
    e = torch.linalg.eigvals((W_O @ W_U) @ (W_E @ W_V))
    return (own > other.max(1).values).to(M.dtype).mean(), e.real.sum() / e.abs().sum()


def pa_rows(x, W_Q, b_Q, W_K, b_K):
    out = x.new_zeros(len(x), len(x))
    for i in range(len(x)):
        out[i, : i + 1] = ((x[: i + 1] @ W_K + b_K) @ (x[i] @ W_Q + b_Q) * W_Q.shape[1] ** -0.5).softmax(0)
    return out


def comp_trace(writer, reader, side):
    a = writer / writer.square().sum().sqrt()
    b = reader / reader.square().sum().sqrt()
    gram = b.T @ b if side == "K" else b @ b.T
    return ((a.T @ a) * gram).sum().clamp(min=0).sqrt()


def pk_where(model, tokens, cache, source_cache, sender, receiver):
    s, t = sender
    l, h = receiver
    x = (
        cache["resid_pre", l]
        - cache["z", s][:, :, t] @ model.W_O[s, t]
        + source_cache["z", s][:, :, t] @ model.W_O[s, t]
    )
    k = torch.einsum("bpm,md->bpd", model.blocks[l].ln1(x), model.W_K[l, h]) + model.b_K[l, h]
    return model.run_with_hooks(
        tokens,
        fwd_hooks=[
            (
                f"blocks.{l}.attn.hook_k",
                lambda old, hook: torch.cat([old[:, :, :h], k[:, :, None], old[:, :, h + 1 :]], 2),
            )
        ],
    )


def bic_third(words, n_ctx):
    plan = Blueprint(words, n_ctx)
    n = len(plan.words)
    a, b, c = plan.space("w", n), plan.space("before", n), plan.space("out", n)
    plan.embed(a)
    first = plan.head(0, 1)
    first.qk(plan.position, plan.position, attend({p: p - 1 for p in range(1, n_ctx)}, n_ctx))
    first.ov(a, b)
    second = plan.head(1, 1)
    second.qk(a, b, SHARP)
    second.ov(a, c)
    plan.unembed(c, 50.0)
    return plan


R("per_token_loss", "cross_entropy", ptl_ce, "F.cross_entropy")
R("previous_token_score", "loops", pts_loop, "python loops")
R("duplicate_token_score", "loops", loop_score(0), "python loops")
R("induction_score", "loops", loop_score(1), "python loops")
R("ablate_head", "where, capture hook", ah_hand, "captures through a hook")
R("head_logit_attribution", "directions", hla_dirs, "LN folded into the directions")
R("copying_score", "d_head eigenvalues", cs_rank, "cyclic product; strict >")
R("positional_attention", "row by row", pa_rows, "no mask")
R("composition_score", "trace of Grams", comp_trace, "Gram matrices")
R("patch_keys", "cat, subtract and add", pk_where, "cat instead of write")
R("build_induction_circuit", "heads 0.1 and 1.1", bic_third, "other head indices")


# A second round, after the first had been seen: the two that passed then.
def dts_without_token_0(pattern, tokens):
    m = dup_mask(tokens) & (tokens != 0)[:, :, None]
    return score(pattern, m, m.any(-1))


def is_without_token_0(pattern, tokens):
    d = dup_mask(tokens) & (tokens != 0)[:, :, None]
    m = torch.zeros_like(d)
    m[:, :, 1:] = d[:, :, :-1]
    return score(pattern, m, d.any(-1))


W("duplicate_token_score", "token 0 not counted", dts_without_token_0, "takes token 0 for padding")
W("induction_score", "token 0 not counted", is_without_token_0, "takes token 0 for padding")
