"""Patching: the sweeps against TransformerLens and the naive loop, hand-written models, and what can go wrong."""

import io
import warnings
import weakref
from contextlib import redirect_stderr
from functools import cache, partial

import pytest
import torch
import transformer_lens.patching as peer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_handmade import CASES, SPLIT, TOLERANCE, build, logit_diff, site
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mechlib import fast_sweep, metrics, patching
from mechlib.attribution import attribute, attribution_patching
from mechlib.checker.recipes import gpt2
from mechlib.models import load
from mechlib.patching import (
    SITES,
    attention_knockout,
    causal_trace,
    corrupt_by_noise,
    mean_ablation,
    patch_head,
    patch_mlp,
    patch_pattern,
    patch_residual,
    resample_ablation,
    sweep,
    zero_ablation,
)
from mechlib.tasks import answer_tokens, ioi, positions, to_tokens


def prompts(model, batch, length, changed, seed=0):
    """Random clean and corrupted tokens that differ at the positions `changed`, and answers."""
    draws = torch.Generator().manual_seed(seed)
    clean = torch.randint(2, model.cfg.d_vocab, (batch, length), generator=draws)
    corrupted = clean.clone()
    corrupted[:, changed] = (clean[:, changed] - 1) % (model.cfg.d_vocab - 2) + 2
    return clean, corrupted, torch.randint(2, model.cfg.d_vocab, (batch, 2), generator=draws)


@cache
def pocket():
    """pocket and four of its own prompts: model, clean, corrupted, answers, where they are read."""
    model = load("pocket", device="cpu")
    found = ioi(model.tokenizer, 4, seed=5)
    clean, corrupted = (to_tokens(model.tokenizer, [getattr(p, x) for p in found]) for x in ("text", "corrupted"))
    return model, clean, corrupted, answer_tokens(model.tokenizer, found), positions(found)


# ---- against TransformerLens

PEERS = [
    ("resid_pre", True, peer.get_act_patch_resid_pre),
    ("attn_out", True, peer.get_act_patch_attn_out),
    ("mlp_out", True, peer.get_act_patch_mlp_out),
    ("head", False, peer.get_act_patch_attn_head_out_all_pos),
    ("head", True, peer.get_act_patch_attn_head_out_by_pos),
    ("q", False, peer.get_act_patch_attn_head_q_all_pos),
    ("k", False, peer.get_act_patch_attn_head_k_all_pos),
    ("v", False, peer.get_act_patch_attn_head_v_all_pos),
    ("pattern", False, peer.get_act_patch_attn_head_pattern_all_pos),
]


@pytest.mark.parametrize("shape", ["pocket", "gpt2"])
@pytest.mark.parametrize(("site", "by_position", "theirs"), PEERS, ids=lambda x: str(getattr(x, "keywords", x))[:20])
def test_the_sweeps_are_transformer_lens_s(shape, site, by_position, theirs, recwarn):
    if shape == "pocket":
        model, clean, corrupted, answers, at = pocket()
    else:
        model = gpt2(seed=3, layers=4, heads=3, d_head=6, vocabulary=23)
        clean, corrupted, answers = prompts(model, 3, 9, [2, 5])
        at = torch.full((3,), 8)
    rows = torch.arange(len(clean))
    with torch.no_grad(), redirect_stderr(io.StringIO()):
        expected = theirs(
            model,
            corrupted,
            model.run_with_cache(clean)[1],
            lambda logits: metrics.logit_diff(logits[rows, at], answers).mean(),
        )
    found = sweep(model, clean, corrupted, partial(metrics.logit_diff, answers=answers), site, by_position, at=at)
    tolerance = 1e-5 * (expected.max() - expected.min()).item()
    if site in ("q", "k", "v", "pattern"):
        # Where the range is a small part of the values themselves (a pattern may move a logit by a hundredth),
        # 1e-5 of the range is less than float32 resolves: its steps are 1.2e-7 of a logit, and dozens of them add up.
        tolerance += 1e-6 * expected.abs().max().item()
    torch.testing.assert_close(found.mean(dim=-1), expected, atol=tolerance, rtol=0)
    assert not [w for w in recwarn if "one forward pass for each cell" in str(w.message)]


# ---- against the naive loop


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_fast_and_naive_agree(data):
    draw = data.draw
    model = gpt2(
        seed=draw(st.integers(0, 3)),
        layers=draw(st.integers(1, 4)),
        heads=draw(st.integers(1, 3)),
        d_head=draw(st.integers(2, 5)),
        attention_only=draw(st.booleans()),
        processed=draw(st.booleans()),
    )
    length, batch = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    changed = draw(st.lists(st.integers(0, length - 1), unique=True, max_size=4))
    clean, corrupted, answers = prompts(model, batch, length, changed, draw(st.integers(0, 99)))
    metric = partial(draw(st.sampled_from([metrics.logit_diff, metrics.log_prob, metrics.prob])), answers=answers)
    arguments = {
        "site": draw(st.sampled_from(sorted(SITES))),
        "by_position": draw(st.booleans()),
        "direction": draw(st.sampled_from(metrics.DIRECTIONS)),
        "at": draw(st.none() | st.lists(st.integers(0, length - 1), min_size=batch, max_size=batch).map(torch.tensor)),
    }
    expected = sweep(model, clean, corrupted, metric, **arguments, fast=False)
    memory = draw(st.sampled_from([0, 20_000, None]))  # one cell after the other, a few at once, or as usual
    found = fast_sweep_only(model, clean, corrupted, metric, **arguments, memory=memory)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def fast_sweep_only(model, clean, corrupted, metric, site, by_position, direction="denoising", at=None, memory=None):
    base, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    with torch.no_grad():
        read = patching.reading(base, at)
        return fast_sweep.fast_sweep(model, base, source, metric, site, by_position, read, memory)


def test_nothing_is_computed_where_the_runs_agree(monkeypatch):
    model = gpt2(seed=0)
    clean, corrupted, answers = prompts(model, 2, 8, [3])
    clean[1] = corrupted[1]
    seen = []
    run = fast_sweep._run
    monkeypatch.setattr(fast_sweep, "_run", lambda n, p, cells: seen.append(cells) or run(n, p, cells))
    sweep(model, clean, corrupted, partial(metrics.logit_diff, answers=answers), "head", True)
    assert min(int(cells.start.min()) for cells in seen) == 3
    assert all((cells.prompt == 0).all() for cells in seen)


def test_what_the_fast_way_does_not_support_falls_back_and_says_so_once(monkeypatch):
    monkeypatch.setattr(patching, "_SAID", set())
    model = gpt2(seed=0)
    clean, corrupted, answers = prompts(model, 2, 5, [1])

    def metric(logits):
        return metrics.logit_diff(logits[:, -1], answers) if logits.ndim == 3 else metrics.logit_diff(logits, answers)

    expected = sweep(model, clean, corrupted, metric)
    with pytest.warns(UserWarning, match="one forward pass for each cell here: the metric reads all positions"):
        found = sweep(model, clean, corrupted, metric, at="all")
    torch.testing.assert_close(found, expected)
    with warnings.catch_warnings(action="error"):
        sweep(model, clean, corrupted, metric, at="all")
    model.add_hook("blocks.1.hook_mlp_out", lambda value, hook: 2 * value)
    try:
        with pytest.warns(UserWarning, match="does not reproduce"):
            found = sweep(model, clean, corrupted, metric)
        torch.testing.assert_close(found, sweep(model, clean, corrupted, metric, fast=False))
    finally:
        model.reset_hooks(including_permanent=True)


def test_another_architecture_takes_the_hooks(monkeypatch):
    from transformers import LlamaConfig, LlamaForCausalLM

    from mechlib import models
    from mechlib.handmade import word_tokenizer

    monkeypatch.setattr(patching, "_SAID", set())
    sizes = {"hidden_size": 16, "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=11, num_key_value_heads=2, max_position_embeddings=16, bos_token_id=0, **sizes)
    words = ["<bos>", "<unk>", *(f"w{i}" for i in range(2, 11))]
    torch.manual_seed(0)
    model = models.bridge(LlamaForCausalLM(config), word_tokenizer(words), device="cpu")
    clean, corrupted, answers = prompts(model, 2, 5, [1])
    with pytest.warns(UserWarning, match="GPT-2's architecture only"):
        values = sweep(model, clean, corrupted, partial(metrics.logit_diff, answers=answers), "k", False)
    assert values.shape == (2, 2, 2)
    with warnings.catch_warnings(action="error"):
        sweep(model, clean, corrupted, partial(metrics.logit_diff, answers=answers))


# ---- models written by hand


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize(
    ("name", "clean", "corrupted", "row", "expected"),
    [case for case in CASES if "->" not in case[3] and "," not in case[3]],
    ids=[" ".join(case[:4]) for case in CASES if "->" not in case[3] and "," not in case[3]],
)
def test_hand_written_models_give_their_docstrings_answers(name, clean, corrupted, row, expected, direction):
    model = build(name)
    tokens = [model.to_tokens(prompt) for prompt in (clean, corrupted)]
    right, wrong = ("yes", "no") if "yes" in model.tokenizer.get_vocab() else ("w2", "w3")
    answers = torch.tensor([[model.to_single_token(right), model.to_single_token(wrong)]])
    hook, part = site(row)
    layer = int(hook.split(".")[1])
    kind = next(kind for kind, value in SITES.items() if value.name(layer) == hook)
    metric = partial(metrics.logit_diff, answers=answers)
    values = sweep(model, *tokens, metric, kind, by_position="@" in row, direction=direction)
    cell = values[layer]
    if "@" in row or SITES[kind].head_axis:
        cell = cell[part[-1]]
    assert cell.item() == pytest.approx(expected[direction], abs=SPLIT if name == "induction" else TOLERANCE)


def test_single_patches_are_the_sweeps_cells():
    model = gpt2(seed=1)
    clean, corrupted, answers = prompts(model, 3, 7, [1, 4])
    metric = partial(metrics.logit_diff, answers=answers)
    _, cached = model.run_with_cache(clean)
    for run, kind, by_position, index in [
        (lambda: patch_residual(model, corrupted, cached, 1, 4), "resid_pre", True, (1, 4)),
        (lambda: patch_residual(model, corrupted, cached, 2, -1), "resid_pre", True, (2, -1)),
        (lambda: patch_head(model, corrupted, cached, 1, 1), "head", False, (1, 1)),
        (lambda: patch_head(model, corrupted, cached, 0, 1, 4), "head", True, (0, 4, 1)),
        (lambda: patch_mlp(model, corrupted, cached, 2), "mlp_out", False, (2,)),
        (lambda: patch_mlp(model, corrupted, cached, 0, 1), "mlp_out", True, (0, 1)),
        (lambda: patch_pattern(model, corrupted, cached, 1, 0), "pattern", False, (1, 0)),
        (lambda: patch_pattern(model, corrupted, cached, 1, 0, 6), "pattern", True, (1, 6, 0)),
    ]:
        expected = sweep(model, clean, corrupted, metric, kind, by_position, fast=False)[index]
        torch.testing.assert_close(metric(run()[:, -1]), expected)
        assert (expected - metric(model(corrupted)[:, -1])).abs().max() > 1e-4


# ---- ablations, knockout, causal tracing


def test_ablations():
    model = gpt2(seed=2)
    tokens, reference, _ = prompts(model, 3, 6, [0, 1, 2, 3, 4, 5])
    name = "blocks.1.attn.hook_z"
    z = model.run_with_cache(reference)[1][name][:, :, 1]

    def with_z(value):
        def put(found, hook):
            found = found.clone()
            found[:, :, 1] = value
            return found

        return model.run_with_hooks(tokens, fwd_hooks=[(name, put)])

    torch.testing.assert_close(zero_ablation(model, tokens, 1, 1), with_z(0.0))
    torch.testing.assert_close(mean_ablation(model, tokens, reference, 1, 1), with_z(z.mean(dim=0)))
    same = mean_ablation(model, tokens[:1], tokens[:1], 1, 1)
    torch.testing.assert_close(same, model(tokens[:1]))
    drawn = torch.randint(3, (3,), generator=torch.Generator().manual_seed(4))
    found = resample_ablation(model, tokens, reference, 1, 1, torch.Generator().manual_seed(4))
    torch.testing.assert_close(found, with_z(z[drawn]))


def test_attention_knockout_cuts_the_edge_and_nothing_else():
    model = build("chain")  # head 0.1 carries x from position 1 to 2, head 1.0 from 2 to 3
    tokens = model.to_tokens("1 . =")
    assert logit_diff(model, model(tokens)) == pytest.approx(4, abs=TOLERANCE)
    assert logit_diff(model, attention_knockout(model, tokens, [(2, 1)])) == pytest.approx(0, abs=TOLERANCE)
    assert logit_diff(model, attention_knockout(model, tokens, [(3, 2)])) == pytest.approx(0, abs=TOLERANCE)
    assert logit_diff(model, attention_knockout(model, tokens, [(3, 1)])) == pytest.approx(4, abs=TOLERANCE)
    assert logit_diff(model, attention_knockout(model, tokens, [(2, 1)], layers=[1])) == pytest.approx(4, abs=1e-4)
    for edges in ([(1, 2)], [(9, 0)], [(0, 0)]):
        with pytest.raises(ValueError, match="not an edge|no key left"):
            attention_knockout(model, tokens, edges)


def test_noise_lands_where_it_is_told():
    embeddings = torch.zeros(500, 4, 30, dtype=torch.float64)
    noised = corrupt_by_noise(embeddings, [1, 3], 0.7, torch.Generator().manual_seed(0))
    assert not embeddings.any() and not noised[:, [0, 2]].any()
    assert noised[:, [1, 3]].std().item() == pytest.approx(0.7, rel=0.02)
    assert abs((noised[:, 1] * noised[:, 3]).mean().item()) < 0.02
    with pytest.raises(ValueError, match="Position 4 is out of range"):
        corrupt_by_noise(embeddings, [4], 1.0)


def test_causal_trace_of_a_chain():
    model = build("chain")
    tokens = model.to_tokens(["1 . =", "1 . ="])
    answers = torch.tensor([[model.to_single_token("yes"), model.to_single_token("no")]] * 2)
    metric = partial(metrics.logit_diff, answers=answers)
    trace = causal_trace(model, tokens, [1], metric, 0.3, "resid_pre", generator=torch.Generator().manual_seed(1))
    assert ((trace.clean - trace.corrupted).abs() > 0.1).all()
    path = torch.zeros(2, 4)
    path[0, 1] = path[1, 2] = 1.0  # the bit is at position 1 before layer 0, at 2 before layer 1
    torch.testing.assert_close(trace.effects[2], path, atol=1e-4, rtol=0)
    whole = causal_trace(model, tokens, [1], metric, 0.3, "resid_pre", 2, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(whole.effects[2], path.amax(dim=0).expand(2, 4), atol=1e-4, rtol=0)


# ---- attribution


def test_attribution_is_the_directional_derivative():
    model = gpt2(seed=7).double()
    try:
        clean, corrupted, answers = prompts(model, 3, 7, [1, 4])
        metric = partial(metrics.logit_diff, answers=answers)
        for direction, base, source in (("denoising", corrupted, clean), ("noising", clean, corrupted)):
            found = attribute(model, clean, corrupted, metric, sorted(SITES), True, direction)
            with torch.no_grad():
                _, here = model.run_with_cache(base)
                _, there = model.run_with_cache(source)
            for kind, position, head in [
                ("resid_pre", 4, None),
                ("head", 5, 1),
                ("v", 4, 0),
                ("pattern", 6, 1),
                ("mlp_out", 4, None),
            ]:
                layer, step = 1, 1e-5
                name = SITES[kind].name(layer)
                part = patching.part_of(SITES[kind], position, head)

                def nudge(value, hook, name=name, part=part, step=step, here=here, there=there):
                    value = value.clone()
                    value[part] += step * (there[name] - here[name])[part]
                    return value

                with torch.no_grad():
                    moved = metric(model.run_with_hooks(base, fwd_hooks=[(name, nudge)])[:, -1])
                    slope = (moved - metric(model(base)[:, -1])) / step
                index = (layer, position) if head is None else (layer, position, head)
                assert slope.abs().max() > 1e-6
                torch.testing.assert_close(found[kind][index], slope, rtol=0.01, atol=1e-6)
    finally:
        model.float()


def test_attribution_of_gates_sees_only_the_slope():
    for name, denoising, noising in (("and_gate", 0, -16), ("or_gate", 16, 0)):
        model = build(name)
        clean, corrupted = model.to_tokens("1 1 ="), model.to_tokens("0 0 =")
        answers = torch.tensor([[model.to_single_token("yes"), model.to_single_token("no")]])
        metric = partial(metrics.logit_diff, answers=answers)
        for direction, expected in (("denoising", denoising), ("noising", noising)):
            found = attribution_patching(model, clean, corrupted, metric, "head", False, direction)
            assert found[0, :2, 0].tolist() == pytest.approx([expected] * 2, abs=TOLERANCE)


# ---- what can go wrong


def test_errors_are_one_sentence():
    model = gpt2(seed=0)
    clean, corrupted, answers = prompts(model, 2, 6, [1])
    metric = partial(metrics.logit_diff, answers=answers)
    _, cached = model.run_with_cache(clean)
    for run, message in [
        (lambda: sweep(model, clean, corrupted[:, :5], metric), "clean prompts have 6 tokens and the corrupted ones 5"),
        (lambda: sweep(model, clean, corrupted[:1], metric), "2 clean prompts and 1 corrupted"),
        (lambda: sweep(model, clean.float(), corrupted, metric), "token ids"),
        (lambda: sweep(model, clean, corrupted, lambda logits: logits.mean()), r"shape \[2\]; it gave shape \[\]"),
        (lambda: sweep(model, clean, corrupted, lambda logits: 1.0), "it gave a float"),
        (lambda: sweep(model, clean, corrupted, metric, fast=False, site="z"), "site is one of"),
        (lambda: sweep(model, clean, corrupted, metric, direction="up"), "direction is one of"),
        (lambda: sweep(model, clean, corrupted, metric, at=torch.tensor([5, 6])), "Position 6 is out of range"),
        (lambda: sweep(model, clean, corrupted, metric, at=torch.tensor([5])), "one position for each prompt"),
        (lambda: patch_residual(model, corrupted, cached, 0, 6), "Position 6 is out of range: the prompts have 6"),
        (lambda: patch_residual(model, corrupted[:, :4], cached, 0, 1), "patch between prompts of equal length"),
        (lambda: patch_residual(model, corrupted, {}, 0, 1), "cache has no blocks.0.hook_resid_pre"),
        (lambda: patch_residual(model, corrupted, cached, 3, 1), "There is no layer 3: the model has 3"),
        (lambda: patch_head(model, corrupted, cached, 0, 2), "There is no head 2: a layer has 2"),
        (lambda: sweep(model, clean.to("meta"), corrupted.to("meta"), metric), "on meta and the model is on cpu"),
        (lambda: attribution_patching(model, clean, corrupted, lambda x: (x > 0).float().mean(1)), "no gradient"),
        (lambda: mean_ablation(model, clean, clean[:, :3], 0, 0), "reference prompts have 3 tokens"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            run()
        assert "\n" not in str(error.value)


# ---- memory


def test_memory_stays_under_twice_the_model_and_one_cache():
    model = gpt2(seed=0, layers=2, heads=4, d_head=16, d_mlp=256, vocabulary=30, context=32)
    clean, corrupted, answers = prompts(model, 2, 12, list(range(1, 12)))
    whole = sum(p.nbytes for p in model.parameters())
    _, cached = model.run_with_cache(clean)
    kept = sum({value.data_ptr(): value.nbytes for value in cached.values()}.values())
    for kind, by_position, metric in (
        ("head", True, metrics.logit_diff),
        ("head", False, metrics.logit_diff),
        ("resid_pre", True, metrics.log_prob),
    ):
        with Peak() as peak:
            sweep(model, clean, corrupted, partial(metric, answers=answers), kind, by_position)
        assert kept < whole + peak.bytes < 2 * whole + kept


@pytest.mark.parametrize(("kind", "by_position"), [("head", False), ("resid_pre", True), ("v", True)])
def test_a_tight_budget_means_more_and_smaller_batches_and_the_same_numbers(kind, by_position, monkeypatch):
    model = gpt2(seed=0, layers=3, heads=2, d_head=8, d_mlp=64, vocabulary=30)
    clean, corrupted, answers = prompts(model, 3, 6, [1, 3])
    metric = partial(metrics.logit_diff, answers=answers)
    run, sizes, peaks = fast_sweep._run, [], []

    def watched(network, patches, cells):
        with Peak() as peak:
            ends = run(network, patches, cells)
        sizes.append(len(cells))
        peaks.append(peak.bytes)
        return ends

    monkeypatch.setattr(fast_sweep, "_run", watched)
    plenty = fast_sweep_only(model, clean, corrupted, metric, kind, by_position, memory=10**9)
    few, largest, most = len(sizes), max(sizes), max(peaks)
    budget = most // 2
    sizes.clear(), peaks.clear()
    tight = fast_sweep_only(model, clean, corrupted, metric, kind, by_position, memory=budget)
    assert len(sizes) > few and max(sizes) < largest and max(peaks) <= budget
    torch.testing.assert_close(tight, plenty, atol=1e-5, rtol=1e-5)


class Peak(TorchDispatchMode):
    """The most bytes that the tensors made under it ever held at once. Views of what was there before hold nothing."""

    def __init__(self):
        super().__init__()
        self.live, self.bytes, self.known = 0, 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        for tensor in tree_leaves((args, kwargs)):
            self._meet(tensor, new=False)
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            self._meet(tensor, new=True)
        self.bytes = max(self.bytes, self.live)
        return result

    def _meet(self, tensor, new):
        if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in self.known:
            size = storage.nbytes() if new else 0
            self.known.add(storage._cdata)
            self.live += size
            weakref.finalize(storage, self._drop, storage._cdata, size)

    def _drop(self, address, size):
        self.known.discard(address)
        self.live -= size
