"""Answers to the exercises of 00_residual_stream, written from the prompts alone by somebody who had not seen any case.

WRONG must be rejected, RIGHT must be accepted; the first ten of WRONG are the ones that their author took for the most
typical. What happened is told in docs/blind.md.
"""

import torch

P = "residual_stream."
WRONG, RIGHT = [], []


def W(i, n, f, w):
    WRONG.append((P + i, n, f, w))


def R(i, n, f, w):
    RIGHT.append((P + i, n, f, w))


def ld(lg, a, pos=-1):
    l = lg[:, pos].gather(1, a)
    return l[:, 0] - l[:, 1]


def ntt(m, t, k=5, pos=-1, soft=True, bos=True, asc=False, tok=lambda m, i: m.tokenizer.decode([i])):
    ids = m.to_tokens(t)
    if not bos:
        ids = ids[:, 1:]
    lg = m(ids)[0, pos]
    p = lg.softmax(-1) if soft else lg
    v, i = p.topk(k)
    o = [(tok(m, a), b) for a, b in zip(i.tolist(), v.tolist())]
    return o[::-1] if asc else o


def ga(m, t, name, how=0):
    st = []

    def h(a, hook):
        st.append(a)
        if how == 2:
            return a * 0

    m.run_with_hooks(t, fwd_hooks=[(name, h)])
    return st[0][:1] if how == 1 else st[0][:, -1] if how == 3 else st[0].mean(0) if how == 4 else st[0]


def rc(m, c, pos=True, n=None, post=False, order=0):
    d = {"embed": c["hook_embed"]}
    if pos:
        d["pos_embed"] = c["hook_pos_embed"]
    for l in range(n or m.cfg.n_layers):
        a = ("attn_out", "mlp_out") if order == 0 else ("mlp_out", "attn_out")
        for x in a:
            d[f"{l}_{x}"] = c[x, l]
    if post:
        d = {k: (v if "mlp" not in k else c["resid_post", int(k.split("_")[0])]) for k, v in d.items()}
    return d


def ho(m, c, l, b=1, nh=None, wl=None):
    z = c["z", l]
    d = {}
    for h in range(nh or m.cfg.n_heads):
        d[f"{l}.{h}"] = z[:, :, h] @ m.W_O[l if wl is None else wl, h] + (m.b_O[l] / m.cfg.n_heads if b == 2 else 0)
    if b == 1:
        d[f"{l}.bias"] = m.b_O[l].expand(z.shape[0], z.shape[1], -1)
    if b == 2:
        d[f"{l}.bias"] = torch.zeros_like(d[f"{l}.0"])
    if b == 3:
        d[f"{l}.bias"] = m.b_O[l]
    return d


def dla(m, c, parts, a, center=True, scale=True, w=True, bias=3, pos=-1, swap=False, sb=None, own=False):
    s = c["ln_final.hook_scale"][:, pos]
    if sb:
        s = s.mean(0, keepdim=True)
    if swap:
        a = a.flip(1)
    D = (m.W_U[:, a[:, 0]] - m.W_U[:, a[:, 1]]).T
    o = {}
    for k, v in parts.items():
        x = v[:, pos]
        if center:
            x = x - x.mean(-1, keepdim=True)
        if own:
            x = x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        elif scale:
            x = x / s
        if w:
            x = x * m.ln_final.weight
        o[k] = (x * D).sum(-1)
    z = torch.zeros_like(D[:, 0])
    if bias >= 0:
        o["bias"] = (
            z + ((D @ m.ln_final.bias) if bias & 1 else 0) + ((m.b_U[a[:, 0]] - m.b_U[a[:, 1]]) if bias & 2 else 0)
        )
    return o


def de(m, t, l, h, a, replacement=0.0, mode=0):
    lg, c = m.run_with_cache(t)
    z = c["z", l][:, :, h]
    rep = replacement if mode != 1 else 0.0
    dz = z - rep
    if mode == 2:
        dz = z + rep
    o = dz @ m.W_O[l, h]
    if mode == 3:
        o = (z @ m.W_O[l, h]) - replacement if not torch.is_tensor(replacement) else z @ m.W_O[l, h]
    L = m.cfg.n_layers - 1 if mode != 4 else l
    f = c["resid_post", L] - o
    if mode == 5:
        s = c["ln_final.hook_scale"]
        x = o - o.mean(-1, keepdim=True)
        return ld(x / s * m.ln_final.weight @ m.W_U, a)
    if mode == 6:
        return ld(m.unembed(f), a) * -1 + ld(lg, a)
    if mode == 8:
        f = c["resid_post", L] + o
    r = ld(lg, a) - ld(m.unembed(m.ln_final(f)), a)
    return -r if mode == 7 else r


def ab(m, t, l, h, a, replacement=0.0, mode=0):
    base = ld(m(t), a)

    def hk(z, hook):
        z = z.clone()
        if mode == 1:
            z[:, -1, h] = (
                replacement
                if not torch.is_tensor(replacement)
                else torch.broadcast_to(replacement, z[:, :, h].shape)[:, -1]
            )
        elif mode == 2:
            z[:] = (
                replacement
                if not torch.is_tensor(replacement)
                else torch.broadcast_to(replacement, z[:, :, h].shape)[:, :, None]
            )
        elif mode == 3:
            z[:, :, h] = 0
        elif mode == 4:
            z[:, h] = 0.0
        else:
            z[:, :, h] = replacement
        return z

    n = ld(m.run_with_hooks(t, fwd_hooks=[(f"blocks.{l}.attn.hook_z", hk)]), a)
    return n - base if mode == 5 else (base - n).abs() if mode == 6 else (base - n).mean() if mode == 7 else base - n


def obs(m, c, l, h, mode=0):
    p = c["pattern", l][:, h]
    v = c["v", l][:, :, h]
    if mode == 1:
        p = p.transpose(1, 2)
    if mode == 3:
        p = torch.ones_like(p).tril()
    o = v @ m.W_O[l, h]
    if mode == 4:
        o = o + m.b_O[l]
    if mode == 5:
        o = (v - m.b_V[l, h]) @ m.W_O[l, h]
    r = p[..., None] * o[:, None]
    return r.sum(2) if mode == 2 else r


def asp(m, c, l, h, parts, mode=0):
    ln = m.blocks[l].ln1
    s = c["scale", l, "ln1"]
    if s.ndim == 4:
        s = s[:, :, h]
    X = torch.stack(list(parts.values()), 2)
    if mode != 1:
        X = X - X.mean(-1, keepdim=True)
    if mode != 2:
        X = X / s[:, :, None]
    if mode != 3:
        X = X * ln.weight

    def side(Wm, b):
        y = X @ Wm
        k = (ln.bias if mode != 4 else 0 * ln.bias) @ Wm + (b if mode != 5 else 0 * b)
        if mode == 9:
            k = k / s
        return torch.cat([y, k.expand(y.shape[0], y.shape[1], -1)[:, :, None]], 2)

    q = side(m.W_Q[l, h], m.b_Q[l, h])
    k = side(m.W_K[l, h], m.b_K[l, h])
    r = torch.einsum("bqid,bkjd->bqkij", q, k)
    if mode == 6:
        return r
    r = r / m.cfg.d_head**0.5
    return r.transpose(-1, -2) if mode == 7 else r.transpose(1, 2) if mode == 8 else r


# ten typical
W("next_token_table", "logits", lambda m, t, k=5: ntt(m, t, k, soft=False), "no softmax")
W("get_activation", "left hook", lambda m, t, n: _left(m, t, n), "hook stays on the model")


def _left(m, t, n):
    s = []
    m.add_hook(n, lambda a, hook: s.append(a))
    m(t)
    return s[0]


W("residual_components", "no pos_embed", lambda m, c: rc(m, c, pos=False), "pos_embed left out")
W("head_outputs", "no bias", lambda m, c, l: ho(m, c, l, b=0), "bias entry missing")
W("direct_logit_attribution", "no scale", lambda m, c, p, a: dla(m, c, p, a, scale=False), "not divided by scale")
W("direct_effect", "sign", lambda *x, **k: de(*x, **k, mode=7), "changed minus intact")
W("ablation_effect", "sign", lambda *x, **k: ab(*x, **k, mode=5), "changed minus intact")
W("ov_circuit", "transposed", lambda m, l, h: (m.W_V[l, h] @ m.W_O[l, h]).T, "transposed")
W("qk_circuit", "swapped", lambda m, l, h: m.W_K[l, h] @ m.W_Q[l, h].T, "key left")
W("virtual_weights", "no norm", lambda w, r: (w @ r).norm(dim=(-2, -1)), "not normalised")
# subtle
W("next_token_table", "first pos", lambda m, t, k=5: ntt(m, t, k, pos=0), "first position")
W("next_token_table", "no bos", lambda m, t, k=5: ntt(m, t, k, bos=False), "bos cut")
W("next_token_table", "k=5", lambda m, t, k=5: ntt(m, t, 5), "k ignored")
W("next_token_table", "ascending", lambda m, t, k=5: ntt(m, t, k, asc=True), "likeliest last")
W("next_token_table", "ids", lambda m, t, k=5: ntt(m, t, k, tok=lambda m, i: i), "ids not strings")
for h, n in [(1, "batch 1"), (3, "last pos"), (4, "batch mean")]:
    W("get_activation", n, lambda m, t, x, h=h: ga(m, t, x, h), n)
W("residual_components", "4 layers", lambda m, c: rc(m, c, n=4), "hard-coded layers")
W("residual_components", "resid_post", lambda m, c: rc(m, c, post=True), "resid_post as mlp")
W("residual_components", "order", lambda m, c: rc(m, c, order=1), "mlp before attn")
W("head_outputs", "shared bias", lambda m, c, l: ho(m, c, l, b=2), "bias split over heads")
W("head_outputs", "bias shape", lambda m, c, l: ho(m, c, l, b=3), "bias (d_model,)")
W("head_outputs", "4 heads", lambda m, c, l: ho(m, c, l, nh=4), "hard-coded heads")
W("head_outputs", "layer 0 W_O", lambda m, c, l: ho(m, c, l, wl=0), "wrong layer")
for n, k in dict(
    nocenter=dict(center=False),
    noweight=dict(w=False),
    bias_ln_only=dict(bias=1),
    bias_bU_only=dict(bias=2),
    no_bias=dict(bias=-1),
    pos0=dict(pos=0),
    swap=dict(swap=True),
    meanscale=dict(sb=1),
    ownscale=dict(own=True),
).items():
    W("direct_logit_attribution", n, lambda m, c, p, a, k=k: dla(m, c, p, a, **k), n)
for i, n in {
    1: "replacement ignored",
    2: "z + rep",
    4: "stream after own layer",
    5: "frozen scale",
    6: "no ln",
    8: "added",
}.items():
    W("direct_effect", n, lambda m, t, l, h, a, replacement=0.0, i=i: de(m, t, l, h, a, replacement, i), n)
W("direct_effect", "total", ab, "total effect")
for i, n in {
    1: "last pos only",
    2: "all heads",
    3: "replacement ignored",
    4: "head index on position",
    6: "abs",
    7: "batch mean",
}.items():
    W("ablation_effect", n, lambda m, t, l, h, a, replacement=0.0, i=i: ab(m, t, l, h, a, replacement, i), n)
W("ablation_effect", "direct", de, "direct effect")
for i, n in {1: "pattern T", 2: "summed", 3: "no pattern", 4: "b_O", 5: "b_V removed"}.items():
    W("outputs_by_source", n, lambda m, c, l, h, i=i: obs(m, c, l, h, i), n)
for i, n in {
    1: "no centre",
    2: "no scale",
    3: "no weight",
    4: "no ln bias",
    5: "no qk bias",
    6: "no sqrt",
    7: "ij swapped",
    8: "qk swapped",
    9: "const scaled",
}.items():
    W("attention_score_parts", n, lambda m, c, l, h, p, i=i: asp(m, c, l, h, p, i), n)
W("ov_circuit", "layer0", lambda m, l, h: m.W_V[0, h] @ m.W_O[0, h], "layer ignored")
W("ov_circuit", "head/layer summed", lambda m, l, h: torch.einsum("hde,hef->df", m.W_V[l], m.W_O[l]), "all heads")
W("qk_circuit", "scaled", lambda m, l, h: m.W_Q[l, h] @ m.W_K[l, h].T / m.cfg.d_head**0.5, "divided")
W("virtual_weights", "all norms", lambda w, r: (w @ r).norm() / w.norm() / r.norm(), "no pairs")
W(
    "virtual_weights",
    "spectral",
    lambda w, r: torch.linalg.matrix_norm(w @ r, 2) / torch.linalg.matrix_norm(w, 2) / torch.linalg.matrix_norm(r, 2),
    "spectral",
)
W(
    "virtual_weights",
    "squared",
    lambda w, r: ((w @ r).norm(dim=(-2, -1)) / w.norm(dim=(-2, -1)) / r.norm(dim=(-2, -1))) ** 2,
    "squared",
)
# right
R(
    "next_token_table",
    "argsort",
    lambda m, t, k=5: [
        (m.tokenizer.decode([i]), p[i].item())
        for p in [m(m.to_tokens(t))[0, -1].log_softmax(-1).exp()]
        for i in p.argsort(descending=True)[:k].tolist()
    ],
    "comprehension",
)
R("get_activation", "hook list", ga, "list")
R("get_activation", "cache", lambda m, t, n: m.run_with_cache(t)[1][n], "cache")
R("residual_components", "plain", rc, "plain")
R("head_outputs", "expand", ho, "expanded bias")
R("direct_logit_attribution", "plain", dla, "loop")
R("direct_effect", "plain", de, "helper")
R("ablation_effect", "plain", ab, "clone")
R("outputs_by_source", "plain", obs, "broadcast")
R("attention_score_parts", "stacked", asp, "stack")
R("ov_circuit", "double T", lambda m, l, h: (m.W_O[l, h].T @ m.W_V[l, h].T).T, "transposes")
R("qk_circuit", "einsum", lambda m, l, h: torch.einsum("ae,be->ab", m.W_Q[l, h], m.W_K[l, h]), "einsum")
R(
    "virtual_weights",
    "grams",
    lambda w, r: (w @ r).pow(2).sum((-1, -2)).sqrt() / (w.pow(2).sum((-1, -2)) * r.pow(2).sum((-1, -2))).sqrt(),
    "pow",
)
