"""Answers to the exercises of 05_ioi, written from the prompts alone by somebody who had not seen any case.

WRONG must be rejected, RIGHT must be accepted; the first ten of WRONG are the ones that their author took for the most
typical, of which `UNTOLD` got no sentence of their own. What happened is told in docs/blind.md.
"""

from functools import partial

import torch

P = "ioi."
WRONG, RIGHT = [], []
UNTOLD = set()


def W(ex, name, f, why):
    WRONG.append((P + ex, name, f, why))


def R(ex, name, f, why):
    RIGHT.append((P + ex, name, f, why))


# ---------- helpers
def rows(x):
    return torch.arange(len(x), device=x.device)


def mask(roles, role):
    return torch.tensor([[r == role for r in row] for row in roles])


# ---------- mean_logit_diff
def mld_last(logits, answers, end):
    at_end = logits[:, -1]
    return (at_end.gather(1, answers[:, :1]) - at_end.gather(1, answers[:, 1:])).mean()


def mld_sign(logits, answers, end):
    at_end = logits[rows(logits), end]
    return (at_end.gather(1, answers[:, 1:]) - at_end.gather(1, answers[:, :1])).mean()


def mld_grid(logits, answers, end):
    """`logits[:, end]` crosses every prompt with every end."""
    at_end = logits[:, end]
    return (
        at_end[rows(logits)[:, None], rows(logits), answers[:, :1]]
        - at_end[rows(logits)[:, None], rows(logits), answers[:, 1:]]
    ).mean()


def mld_loop(logits, answers, end):
    total = logits.new_zeros(())
    for row, (io, s), e in zip(logits, answers.tolist(), end.tolist()):
        total = total + row[e, io] - row[e, s]
    return total / len(logits)


# ---------- name_mover_score
def nms(o):
    def f(model, cache, answers, io, end):
        n = rows(answers)
        U = model.W_U.T[answers]
        direction = U[:, 0] - (0 if o == "io only" else U[:, 1])
        attn, written = [], []
        scale = cache["ln_final.hook_scale"][n, io if o == "scale at io" else end]
        for layer in range(model.cfg.n_layers):
            p = cache["pattern", layer]
            attn.append(p[n, :, io, end] if o == "transposed" else p[n, :, end, io])
            out = torch.einsum("bhd,hdm->bhm", cache["z", layer][n, end], model.W_O[layer])
            if o == "own mean and scale":
                out = torch.nn.functional.layer_norm(out, out.shape[-1:])
            elif o != "no layernorm":
                if o != "not centred":
                    out = out - out.mean(-1, keepdim=True)
                out = out / scale[:, None]
            if o not in ("no weight", "no layernorm"):
                out = out * model.ln_final.weight
            written.append((out * direction[:, None]).sum(-1))
        attn, written = torch.stack(attn), torch.stack(written)
        return (attn, written) if o == "layer batch head" else (attn.mT, written.mT)

    return f


def nms_directions(model, cache, answers, io, end):
    n = rows(answers)
    d = (model.W_U[:, answers[:, 0]] - model.W_U[:, answers[:, 1]]).T * model.ln_final.weight
    d = (d - d.mean(-1, keepdim=True)) / cache["ln_final.hook_scale"][n, end]
    attention, written = [], []
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            attention.append(cache["pattern", layer][n, head, end, io])
            written.append((cache["z", layer][n, end, head] * (d @ model.W_O[layer, head].T)).sum(-1))
    shape = model.cfg.n_layers, model.cfg.n_heads, len(n)
    return torch.stack(attention).view(shape), torch.stack(written).view(shape)


# ---------- path_patch
def pp(o=""):
    def f(model, cache, source_cache, senders, mlps):
        L = model.cfg.n_layers
        stream = cache["resid_pre", 0]
        if mlps == "frozen" or o == "always frozen":
            final = cache["resid_post", L - 1]
            for i, (layer, head) in enumerate(senders):
                if o == "last sender only" and i < len(senders) - 1:
                    continue
                change = (source_cache["z", layer] - cache["z", layer])[:, :, head] @ model.W_O[layer, head]
                final = final + (-change if o == "sign" else change)
                if o == "first sender only":
                    break
        else:
            for layer in range(L):
                heads = [h for l, h in senders if l == layer]
                attn = cache["attn_out", layer]
                for h in heads:
                    attn = attn + (source_cache["z", layer] - cache["z", layer])[:, :, h] @ model.W_O[layer, h]
                before = stream
                stream = stream + attn
                first = min(l for l, _ in senders) if senders else L
                if o == "own MLP frozen" and heads:
                    stream = stream + cache["mlp_out", layer]
                elif o == "MLP without ln2":
                    stream = stream + model.blocks[layer].mlp(stream)
                elif o == "MLP hears stream before attention":
                    stream = stream + model.blocks[layer].mlp(model.blocks[layer].ln2(before))
                elif o == "first MLP only" and layer != first:
                    stream = stream + cache["mlp_out", layer]
                else:
                    stream = stream + model.blocks[layer].mlp(model.blocks[layer].ln2(stream))
            final = stream
        if o == "no ln_final":
            return model.unembed(final)
        if o == "frozen scale":
            x = final - final.mean(-1, keepdim=True)
            x = x / cache["ln_final.hook_scale"] * model.ln_final.weight
            return model.unembed(x + getattr(model.ln_final, "b", 0))
        return model.unembed(model.ln_final(final))

    return f


def pp_total(model, cache, source_cache, senders, mlps):
    """Later heads respond: plain activation patching, by hand."""
    stream = cache["resid_pre", 0]
    for layer in range(model.cfg.n_layers):
        block = model.blocks[layer]
        x = block.ln1(stream)
        attn = block.attn(x)[0]
        for l, h in senders:
            if l == layer:
                attn = attn + (source_cache["z", l] - cache["z", l])[:, :, h] @ model.W_O[l, h]
        stream = stream + attn
        mlp = cache["mlp_out", layer] if mlps == "frozen" else block.mlp(block.ln2(stream))
        stream = stream + mlp
    return model.unembed(model.ln_final(stream))


def pp_deltas(model, cache, source_cache, senders, mlps):
    """Carries only the change along, not the stream."""
    change = torch.zeros_like(cache["resid_pre", 0])
    for layer, block in enumerate(model.blocks):
        for head in {h for l, h in senders if l == layer}:
            change = (
                change + (source_cache["z", layer][:, :, head] - cache["z", layer][:, :, head]) @ model.W_O[layer, head]
            )
        if mlps == "recomputed":
            middle = cache["resid_pre", layer] + cache["attn_out", layer] + change
            change = change + block.mlp(block.ln2(middle)) - cache["mlp_out", layer]
    return model.unembed(model.ln_final(cache["resid_post", model.cfg.n_layers - 1] + change))


# ---------- second_mention_score
def sms(o):
    def f(cache, n_layers, at):
        n = rows(at["end"])
        out = []
        for layer in range(n_layers):
            p = cache["pattern", layer]
            s2, s1 = p[n, :, at["end"], at["s2"]], p[n, :, at["end"], at["s1"]]
            if o == "s2 to s1":
                out.append(p[n, :, at["s2"], at["s1"]].mean(0))
            elif o == "s2 alone":
                out.append(s2.mean(0))
            elif o == "sign":
                out.append((s1 - s2).mean(0))
            elif o == "abs":
                out.append((s2 - s1).abs().mean(0))
            elif o == "first prompt's positions":
                e, a, b = (at[k][0] for k in ("end", "s2", "s1"))
                out.append((p[:, :, e, a] - p[:, :, e, b]).mean(0))
        return torch.stack(out)

    return f


def sms_gather(cache, n_layers, at):
    p = torch.stack([cache["pattern", layer] for layer in range(n_layers)])
    weight = torch.zeros(len(at["end"]), *p.shape[-2:], dtype=p.dtype)
    for b, (e, s1, s2) in enumerate(zip(at["end"].tolist(), at["s1"].tolist(), at["s2"].tolist())):
        weight[b, e, s2] += 1
        weight[b, e, s1] -= 1
    return torch.einsum("lbhqk,bqk->lh", p, weight) / len(weight)


# ---------- path_patch_to_receivers
def ppr(o=""):
    def f(model, tokens, cache, source_cache, senders, receivers, mlps):
        L = model.cfg.n_layers
        # the stream in front of every layer, as the senders have changed it
        change, changed = torch.zeros_like(cache["resid_pre", 0]), []
        for layer in range(L):
            seen = cache["resid_pre", layer] + change
            changed.append(seen)
            for l, h in senders:
                if l == layer:
                    change = change + (source_cache["z", l] - cache["z", l])[:, :, h] @ model.W_O[l, h]
            if o == "same layer hears":
                changed[-1] = cache["resid_pre", layer] + change
            if mlps == "recomputed" and o != "always frozen":
                middle = cache["resid_pre", layer] + cache["attn_out", layer] + change
                block = model.blocks[layer]
                change = change + block.mlp(block.ln2(middle)) - cache["mlp_out", layer]
        hooks = []
        for layer, head, part in receivers:
            part_ = {"q": "k", "k": "q", "v": "v"}[part] if o == "q and k swapped" else part
            x = changed[layer]
            if o != "no ln1":
                x = model.blocks[layer].ln1(x)
            weight = getattr(model, f"W_{part_.upper()}")[layer, head]
            new = x @ weight
            if o != "no bias":
                new = new + getattr(model, f"b_{part_.upper()}")[layer, head]

            def put(old, hook, new=new, head=head):
                old = old.clone()
                if o == "all heads":
                    old[:] = new[:, :, None]
                else:
                    old[:, :, head] = new
                return old

            hooks.append((f"blocks.{layer}.attn.hook_{part_}", put))
            if o == "first receiver only":
                break
        if o == "late binding":
            hooks = [
                (name, lambda old, hook: torch.cat([old[:, :, :head], new[:, :, None], old[:, :, head + 1 :]], 2))
                for name, _ in hooks
            ]
        return model.run_with_hooks(tokens, fwd_hooks=hooks)

    return f


def ppr_where(model, tokens, cache, source_cache, senders, receivers, mlps):
    """Walks the stream itself, and makes all heads' inputs at once."""
    stream, new = cache["resid_pre", 0], {}
    for layer, block in enumerate(model.blocks):
        x = block.ln1(stream)
        for part in "qkv":
            if any(l == layer and p == part for l, _, p in receivers):
                weight, bias = getattr(model, f"W_{part.upper()}")[layer], getattr(model, f"b_{part.upper()}")[layer]
                new[layer, part] = torch.einsum("bpm,hmd->bphd", x, weight) + bias
        z = torch.stack(
            [(source_cache if (layer, h) in senders else cache)["z", layer][:, :, h] for h in range(model.cfg.n_heads)],
            2,
        )
        attn_change = torch.einsum("bphd,hdm->bpm", z - cache["z", layer], model.W_O[layer])
        stream = stream + cache["attn_out", layer] + attn_change
        stream = stream + (cache["mlp_out", layer] if mlps == "frozen" else block.mlp(block.ln2(stream)))

    def hook_for(layer, part):
        chosen = torch.tensor([(layer, h, part) in receivers for h in range(model.cfg.n_heads)])
        return lambda old, hook: torch.where(chosen[:, None], new[layer, part], old)

    return model.run_with_hooks(
        tokens, fwd_hooks=[(f"blocks.{l}.attn.hook_{part}", hook_for(l, part)) for l, part in new]
    )


# ---------- precision_recall
def pr_no_set(found, true):
    right = sum(f in true for f in found)
    return right / len(found) if found else 0.0, right / len(true)


def pr_swapped(found, true):
    found, true = set(found), set(true)
    both = len(found & true)
    return both / len(true), both / len(found) if found else 0.0


def pr_one(found, true):
    found, true = set(found), set(true)
    both = len(found & true)
    return both / len(found) if found else 1.0, both / len(true)


def pr_layers(found, true):
    """Only found is made a set; a head that is true twice counts twice below the line."""
    found = set(found)
    both = len(found.intersection(true))
    return both / max(len(found), 1), both / len(true)


def pr_dict(found, true):
    found, true = dict.fromkeys(map(tuple, found)), dict.fromkeys(map(tuple, true))
    both = [node for node in true if node in found]
    return len(both) / (len(found) or 1), len(both) / len(true)


# ---------- role_means
def rm(o):
    def f(activation, roles):
        out = torch.zeros_like(activation)
        names = {r for row in roles for r in row}
        if o == "position means":
            return activation.mean(0, keepdim=True).expand_as(activation).clone()
        for r in names:
            m = mask(roles, r)
            if o == "mean of prompt means":
                out[m] = torch.stack([a[k].mean(0) for a, k in zip(activation, m) if k.any()]).mean(0)
            elif o == "per prompt":
                for i in range(len(activation)):
                    out[i, m[i]] = activation[i, m[i]].mean(0) if m[i].any() else 0
            elif o == "over features too":
                out[m] = activation[m].mean()
            elif o == "empty role skipped":
                if r:
                    out[m] = activation[m].mean(0)
            elif o == "in place":
                activation[m] = activation[m].mean(0)
            elif o == "first prompt's roles":
                m = m[:1].expand(len(activation), -1)
                out[m] = activation[m].mean(0)
        return activation if o == "in place" else out

    return f


def rm_matrix(activation, roles):
    flat = [r for row in roles for r in row]
    same = torch.tensor([[a == b for b in flat] for a in flat]).to(activation.dtype)
    x = activation.reshape(len(flat), -1)
    return (same @ x / same.sum(1, keepdim=True)).view(activation.shape)


# ---------- knock_out
def ko(o=""):
    def f(model, tokens, values, keep, drop, roles):
        names = sorted({r for row in roles for r in row})

        def silent(layer, part):
            m = torch.zeros(tokens.shape, dtype=torch.bool)
            for r in names:
                node = (layer, part, r)
                kept = keep is None or (node in keep)
                if o == "empty keep is everything":
                    kept = not keep or node in keep
                if o == "drop only without keep" and keep is not None:
                    dropped = False
                elif o == "keep wins":
                    dropped = node in drop and not (keep is not None and node in keep)
                elif o == "drop ignored":
                    dropped = False
                elif o == "drop anywhere":
                    dropped = any(n[:2] == node[:2] for n in drop)
                else:
                    dropped = node in drop
                if o == "keep anywhere" and keep is not None:
                    kept = any(n[:2] == node[:2] for n in keep)
                if o == "inverted":
                    kept = keep is None or not kept
                if o == "MLPs always work" and part == "mlp":
                    kept, dropped = True, dropped
                if not kept or dropped:
                    m |= mask(roles, r)
            return m

        def z_hook(layer, name):
            def hook(z, hook):
                z = z.clone()
                for h in range(z.shape[2]):
                    m = silent(layer, h)
                    z[:, :, h][m] = 0 if o == "zero" else values[name][:, :, h][m]
                return z

            return hook

        def mlp_hook(layer, name):
            return lambda x, hook: torch.where(silent(layer, "mlp")[..., None], values[name], x)

        zs, mlps = ([f"blocks.{l}.{n}" for l in range(model.cfg.n_layers)] for n in ("attn.hook_z", "hook_mlp_out"))
        hooks = [(name, z_hook(l, name)) for l, name in enumerate(zs)]
        if o != "no MLPs":
            hooks += [(name, mlp_hook(l, name)) for l, name in enumerate(mlps)]
        return model.run_with_hooks(tokens, fwd_hooks=hooks)

    return f


def ko_frozen(model, tokens, values, keep, drop, roles):
    """Kept nodes say what they say in the whole model, not what they compute from the stream they see now."""
    _, clean = model.run_with_cache(tokens)

    def say(name, x, hook):
        out = clean[name].clone()
        layer = int(name.split(".")[1])
        for part in range(model.cfg.n_heads) if out.ndim == 4 else ["mlp"]:
            for r in {r for row in roles for r in row}:
                node = (layer, part, r)
                if (keep is not None and node not in keep) or node in drop:
                    at = mask(roles, r)
                    if part == "mlp":
                        out[at] = values[name][at]
                    else:
                        out[:, :, part][at] = values[name][:, :, part][at]
        return out

    return model.run_with_hooks(tokens, fwd_hooks=[(name, partial(say, name)) for name in values])


def ko_one_tensor(model, tokens, values, keep, drop, roles):
    """One mask for all hooks, looked up node by node."""
    gone = set(map(tuple, drop))
    kept = None if keep is None else set(map(tuple, keep))

    def works(layer, part):
        return torch.tensor(
            [
                [(kept is None or (layer, part, r) in kept) and (layer, part, r) not in gone for r in row]
                for row in roles
            ]
        )

    def put(name, x, hook):
        layer = int(name.split(".")[1])
        if x.ndim == 4:
            m = torch.stack([works(layer, h) for h in range(x.shape[2])], 2)[..., None]
        else:
            m = works(layer, "mlp")[..., None]
        return torch.where(m, x, values[name])

    return model.run_with_hooks(tokens, fwd_hooks=[(name, partial(put, name)) for name in values])


# ---------- faithfulness
def fa_ratio_of(circuit, model, empty):
    return (model.mean() - circuit.mean()).item(), (circuit.mean() / model.mean()).item()


def fa_per_prompt(circuit, model, empty):
    return (model - circuit).mean().item(), ((circuit - empty) / (model - empty)).mean().item()


def fa_sign(circuit, model, empty):
    c, m, e = (x.mean().item() for x in (circuit, model, empty))
    return c - m, (c - e) / (m - e)


def fa_abs(circuit, model, empty):
    c, m, e = (x.mean().item() for x in (circuit, model, empty))
    return abs(m - c), (c - e) / (m - e)


def fa_missing(circuit, model, empty):
    c, m, e = (x.mean().item() for x in (circuit, model, empty))
    return m - c, 1 - abs(m - c) / abs(m - e)


def fa_sums(circuit, model, empty):
    gap = (model - circuit).sum()
    return float(gap / len(model)), float(1 - gap / (model - empty).sum())


# ---------- completeness_gap
def cg_signed(score, circuit, K):
    return (score(circuit, K).mean() - score(None, K).mean()).item()


def cg_per_prompt(score, circuit, K):
    return (score(circuit, K) - score(None, K)).abs().mean().item()


def cg_model_whole(score, circuit, K):
    return abs(score(circuit, K).mean() - score(None, []).mean()).item()


def cg_added(score, circuit, K):
    """As with removing from the circuit, but also from the model only what the circuit has."""
    return abs(score(circuit, K).mean() - score(None, [n for n in circuit if n not in K]).mean()).item()


def cg_circuit_whole(score, circuit, K):
    return abs(score(circuit, []).mean() - score(None, K).mean()).item()


def cg_unsorted(score, circuit, K):
    left, right = (float(sum(score(c, K)) / len(score(c, K))) for c in (circuit, None))
    return max(left - right, right - left)


# ---------- minimality_score
def mi(o=""):
    def f(score, circuit, node, subsets):
        def change(K):
            K = list(K)
            if o == "model":
                d = score(None, K) - score(None, [*K, node])
            elif o == "from the whole circuit":
                d = score(circuit, []) - score(circuit, [*K, node])
            else:
                d = score(circuit, K) - score(circuit, [*K, node])
            if o == "per prompt":
                return d.abs().mean().item()
            return d.mean().item() if o in ("signed", "abs of max") else abs(d.mean().item())

        changes = [change(K) for K in subsets]
        naive = change([])
        if o == "without the empty one":
            return max(changes, default=naive), naive
        if o == "mean":
            every = [naive, *changes]
            return sum(every) / len(every), naive
        if o == "abs of max":
            return abs(max([naive, *changes])), abs(naive)
        return max([naive, *changes]), naive

    return f


def mi_stack(score, circuit, node, subsets):
    changes = torch.stack(
        [(score(circuit, [node, *K]).mean() - score(circuit, list(K)).mean()).abs() for K in ([], *subsets)]
    )
    return changes.amax().item(), changes[0].item()


# ---------- name_copying_score
def nc(o=""):
    def f(model, stream, names, k=5, sign=1):
        out = torch.zeros(model.cfg.n_layers, model.cfg.n_heads)
        for layer in range(model.cfg.n_layers):
            x = stream if o == "no ln1" else model.blocks[layer].ln1(stream)
            for head in range(model.cfg.n_heads):
                v = x @ model.W_V[layer, head]
                if o != "no b_V":
                    v = v + model.b_V[layer, head]
                written = v @ model.W_O[layer, head]
                if o == "with b_O":
                    written = written + model.b_O[layer]
                if o == "added to the stream":
                    written = stream + sign * written
                elif o != "sign ignored":
                    written = sign * written
                logits = model.unembed(written if o == "no ln_final" else model.ln_final(written))
                if o == "sign after unembed":
                    logits = sign * model.unembed(model.ln_final(sign * written))
                if o == "among names":
                    logits = logits[:, names]
                    top = names[logits.topk(min(k, len(names)), -1).indices]
                else:
                    top = logits.topk(1 if o == "k is 1" else k, -1).indices
                hit = (top == names[:, None]).any(-1)
                if o == "any name":
                    hit = torch.isin(top, names).any(-1)
                out[layer, head] = hit.float().mean()
        return out

    return f


def nc_rank(model, stream, names, k=5, sign=1):
    shares = []
    for layer, block in enumerate(model.blocks):
        v = torch.einsum("nm,hmd->nhd", block.ln1(stream), model.W_V[layer]) + model.b_V[layer]
        logits = model.unembed(model.ln_final(sign * torch.einsum("nhd,hdm->nhm", v, model.W_O[layer])))
        own = logits.gather(-1, names[:, None, None].expand(-1, logits.shape[1], 1))
        shares.append(((logits > own).sum(-1) < k).to(stream.dtype).mean(0))
    return torch.stack(shares)


# ---------- ten typical
W("mean_logit_diff", "last position for all", mld_last, "logits[:, -1], padding read")
W("name_mover_score", "attention from IO to END", nms("transposed"), "query and key swapped")
W("name_mover_score", "no LayerNorm at all", nms("no layernorm"), "straight z W_O W_U")
W("path_patch", "always frozen", pp("always frozen"), "mlps not looked at")
W("path_patch", "later heads respond", pp_total, "plain activation patching")
W("second_mention_score", "S1 less S2", sms("sign"), "sign")
W("path_patch_to_receivers", "no LayerNorm in front", ppr("no ln1"), "ln1 forgotten")
W("precision_recall", "swapped", pr_swapped, "recall first")
W("knock_out", "drop looked at only without keep", ko("drop only without keep"), "drop ignored if keep is given")
W("faithfulness", "ratio from zero", fa_ratio_of, "circuit / model, empty ignored")

# ---------- subtler
W("mean_logit_diff", "S less IO", mld_sign, "sign")
W("mean_logit_diff", "every end for every prompt", mld_grid, "logits[:, end]: an outer product, averaged")
W("name_mover_score", "logit of IO alone", nms("io only"), "S not taken off")
W("name_mover_score", "scale read at IO", nms("scale at io"), "LayerNorm scale at another position")
W("name_mover_score", "not centred", nms("not centred"), "mean over d_model left in")
W("name_mover_score", "layer norm of the head alone", nms("own mean and scale"), "its own scale, not this run's")
W("path_patch", "own layer's MLP frozen", pp("own MLP frozen"), "the sender's own MLP does not respond")
W("path_patch", "final scale frozen", pp("frozen scale"), "ln_final as in the clean run")
W("path_patch", "first sender only", pp("first sender only"), "break after one, frozen only")
W("path_patch", "only the first MLP responds", pp("first MLP only"), "later MLPs frozen")
W("second_mention_score", "S2 alone", sms("s2 alone"), "S1 not taken off")
W("second_mention_score", "size of the difference", sms("abs"), "abs before the mean")
W("second_mention_score", "first prompt's positions", sms("first prompt's positions"), "one position for all")
W("path_patch_to_receivers", "bias forgotten", ppr("no bias"), "b_Q, b_K, b_V")
W("path_patch_to_receivers", "same layer hears", ppr("same layer hears"), "sender of the receiver's layer is heard")
W("path_patch_to_receivers", "always frozen", ppr("always frozen"), "mlps not looked at")
W("path_patch_to_receivers", "closure over the last receiver", ppr("late binding"), "late binding in a loop")
W("precision_recall", "twice counts twice", pr_no_set, "no set")
W("precision_recall", "precision 1 if nothing found", pr_one, "empty")
W("precision_recall", "what is true twice counts twice", pr_layers, "only found is a set")
W("role_means", "mean over the prompts at each position", rm("position means"), "roles ignored")
W("role_means", "mean of prompt means", rm("mean of prompt means"), "prompts weigh the same")
W("role_means", "each prompt by itself", rm("per prompt"), "no mean over prompts")
W("role_means", "over the features too", rm("over features too"), "one number for a role")
W("role_means", "overwrites what it was given", rm("in place"), "changes the activation")
W("role_means", "role without a name left out", rm("empty role skipped"), "'' taken for padding")
W("knock_out", "empty keep keeps everything", ko("empty keep is everything"), "if not keep")
W("knock_out", "MLPs never silent", ko("no MLPs"), "only heads are hooked")
W("knock_out", "kept nodes as in the whole model", ko_frozen, "kept nodes do not respond")
W("knock_out", "a kept component works everywhere", ko("keep anywhere"), "role of keep ignored")
W("knock_out", "zero for heads", ko("zero"), "values not used for z")
W("faithfulness", "mean of ratios", fa_per_prompt, "ratio per prompt, then the mean")
W("faithfulness", "difference turned round", fa_sign, "circuit less model")
W("faithfulness", "size of the difference", fa_abs, "abs")
W("faithfulness", "one less what is missing", fa_missing, "wrong when the circuit is better than the model")
W("completeness_gap", "with its sign", cg_signed, "no abs")
W("completeness_gap", "size on each prompt", cg_per_prompt, "abs before the mean")
W("completeness_gap", "model left whole", cg_model_whole, "K removed only from the circuit")
W("completeness_gap", "circuit left whole", cg_circuit_whole, "K removed only from the model")
W("completeness_gap", "model without the rest", cg_added, "model without C less K")
W("minimality_score", "in the whole model", mi("model"), "None instead of the circuit")
W("minimality_score", "against the whole circuit", mi("from the whole circuit"), "K not taken from the first term")
W("minimality_score", "size on each prompt", mi("per prompt"), "abs before the mean")
W("minimality_score", "size of the largest", mi("abs of max"), "max before abs")
W("minimality_score", "empty subset left out", mi("without the empty one"), "largest over the subsets only")
W("name_copying_score", "no LayerNorm in front", nc("no ln1"), "ln1 forgotten")
W("name_copying_score", "no final LayerNorm", nc("no ln_final"), "ln_final forgotten")
W("name_copying_score", "sign ignored", nc("sign ignored"), "sign")
W("name_copying_score", "any name counts", nc("any name"), "another's name is a hit")
W("name_copying_score", "bias of the values forgotten", nc("no b_V"), "b_V")
W("name_copying_score", "among the names alone", nc("among names"), "topk over the names, not the vocabulary")

R("mean_logit_diff", "a loop", mld_loop, "python loop")
R("name_mover_score", "directions", nms_directions, "LayerNorm folded into the directions")
R("path_patch", "carries the change", pp_deltas, "stream differences; MLPs before the sender cancel")
R("second_mention_score", "one weight matrix", sms_gather, "einsum with +1 and -1")
R("path_patch_to_receivers", "walks the stream", ppr_where, "z of both runs mixed; all heads at once")
R("precision_recall", "dictionaries", pr_dict, "no sets")
R("role_means", "matrix product", rm_matrix, "same-role matrix")
R("knock_out", "one hook for all", ko_one_tensor, "name filter, torch.where")
R("faithfulness", "sums", fa_sums, "one less the gap's share, signed")
R("completeness_gap", "by hand", cg_unsorted, "python sums, max instead of abs")
R("minimality_score", "stacked", mi_stack, "changes in one tensor, node first")
R("name_copying_score", "rank", nc_rank, "counts better tokens")
