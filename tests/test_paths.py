"""Path patching: on models whose answers are known, against TransformerLens's own, against a run frozen by hooks."""

import itertools
import time
from functools import partial

import pytest
import torch
from test_handmade import CASES, SPLIT, TOLERANCE, build, logit_diff

from mechlib.checker import recipes
from mechlib.handmade import Blueprint, attend
from mechlib.paths import patch_keys, path_patch, path_sweep

CLEAN = torch.tensor([[0, 3, 4, 5, 3, 4, 5], [0, 6, 7, 7, 8, 6, 9]])
CORRUPTED = torch.tensor([[0, 8, 4, 5, 3, 2, 5], [0, 5, 7, 6, 8, 4, 9]])
MODELS = {
    "gpt2": lambda: recipes.gpt2(1, layers=4),
    "processed": lambda: recipes.gpt2(1, layers=4, processed=True),
    "attention only": lambda: recipes.gpt2(2, layers=4, attention_only=True),
    "attn-only-2l": lambda: recipes.model("attn-only-2l"),
    "pocket": lambda: recipes.model("pocket"),
}


@pytest.fixture(params=MODELS)
def runs(request):
    model = MODELS[request.param]()
    return model, model.run_with_cache(CORRUPTED)[1], model.run_with_cache(CLEAN)[1]


EDGES = [case for case in CASES if "->" in case[3]]


@pytest.mark.parametrize("case", EDGES, ids=[" ".join(case[:4]) for case in EDGES])
def test_every_edge_of_the_hand_written_models(case):
    name, clean, corrupted, row, expected = case
    model = build(name)
    tokens = model.to_tokens(corrupted)
    caches = [model.run_with_cache(model.to_tokens(text))[1] for text in (corrupted, clean)]
    sender, receiver = row.split(" -> ")
    senders = [tuple(map(int, sender.split(".")))]
    if receiver == "logits":
        receivers = "logits"
    else:
        head, part = receiver.split()
        receivers = [(*map(int, head.split(".")), part)]
    logits = path_patch(model, tokens, *caches, senders, receivers)
    tolerance = SPLIT if name == "induction" else TOLERANCE
    assert logit_diff(model, logits) == pytest.approx(expected["denoising"], abs=tolerance)


DIRECT = [case for case in CASES if "direct" in case[4] and "resid" not in case[3] and "mlp" not in case[3]]


@pytest.mark.parametrize(
    ("name", "clean", "corrupted", "row", "expected"), DIRECT, ids=[" ".join(c[:4]) for c in DIRECT]
)
def test_the_direct_column_of_the_hand_written_models(name, clean, corrupted, row, expected):
    model = build(name)
    caches = [model.run_with_cache(model.to_tokens(text))[1] for text in (corrupted, clean)]
    senders = [tuple(map(int, head.removeprefix("head ").split("."))) for head in row.split(", ")]
    logits = path_patch(model, model.to_tokens(corrupted), *caches, senders)
    assert logit_diff(model, logits) == pytest.approx(expected["direct"], abs=SPLIT)


@pytest.mark.parametrize(("sender", "frozen", "recomputed"), [((0, 0), -4, 4), ((0, 1), 4, 4), ((1, 0), -12, -12)])
def test_mlps_frozen_and_recomputed_differ(sender, frozen, recomputed):
    """In `indirect` MLP 1 turns what head 0.0 says into the answer: a path only if MLPs may respond."""
    model = build("indirect")
    caches = [model.run_with_cache(model.to_tokens(text))[1] for text in ("0 =", "1 =")]
    for mlps, expected in (("frozen", frozen), ("recomputed", recomputed)):
        logits = path_patch(model, model.to_tokens("0 ="), *caches, [sender], mlps=mlps)
        assert logit_diff(model, logits) == pytest.approx(expected, abs=TOLERANCE)


def test_the_direct_edge_is_transformer_lenss(runs):
    from transformer_lens.patching import get_act_patch_direct_path

    model, cache, source = runs
    for head, part in enumerate("qkv"[: model.cfg.n_heads]):
        theirs = get_act_patch_direct_path(
            model, CORRUPTED, source, cache, lambda x: x[:, -1, 3].sum(), 0, head, part, verbose=False
        )
        for layer in range(1, model.cfg.n_layers):
            for receiver in range(model.cfg.n_heads):
                logits = path_patch(model, CORRUPTED, cache, source, [(0, head)], [(layer, receiver, part)])
                assert logits[:, -1, 3].sum().item() == pytest.approx(theirs[layer, receiver].item(), abs=2e-4)


def frozen_run(model, tokens, cache, source, senders, receivers, mlps, where):
    """Path patching by hooks alone: pin every attention output, read the receivers' inputs, run again with them."""
    hooks, seen = [], {}
    for layer in range(model.cfg.n_layers):
        output = cache["attn_out", layer].clone()
        for sender, head in senders:
            if sender == layer:
                z = source["z", layer][:, :, head] - cache["z", layer][:, :, head]
                change = z @ model.W_O[layer, head]
                output += change * where[..., None]
        hooks.append((f"blocks.{layer}.hook_attn_out", lambda value, hook, output=output: output.clone()))
        if mlps == "frozen":
            kept = cache["mlp_out", layer]
            hooks.append((f"blocks.{layer}.hook_mlp_out", lambda value, hook, kept=kept: kept.clone()))
        for part in "qkv":

            def see(value, hook, key=(layer, part)):
                seen[key] = value.detach().clone()

            hooks.append((f"blocks.{layer}.attn.hook_{part}", see))
    logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
    if receivers == "logits":
        return logits
    hooks = []
    for layer, head, part in receivers:

        def put(value, hook, layer=layer, head=head, part=part):
            value = value.clone()
            value[:, :, head] = seen[layer, part][:, :, head]
            return value

        hooks.append((f"blocks.{layer}.attn.hook_{part}", put))
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


@pytest.mark.parametrize("mlps", ["frozen", "recomputed"])
def test_it_is_what_two_hooked_runs_give(runs, mlps):
    model, cache, source = runs
    last = model.cfg.n_layers - 1
    where = torch.tensor([[False, True, True, False, True, True, True], [True] * 7])
    for receivers in ("logits", [(last, 0, "k"), (last, 1, "q"), (1, 1, "v"), (last, 0, "v")]):
        for senders in ([(0, 1)], [(0, 0), (0, 1), (1, 0)]):
            asked = (model, CORRUPTED, cache, source, senders, receivers)
            expected = frozen_run(*asked, mlps, where)
            torch.testing.assert_close(path_patch(*asked, mlps=mlps, where=where), expected, atol=2e-4, rtol=1e-4)
            whole = frozen_run(*asked, mlps, torch.ones_like(where))
            torch.testing.assert_close(path_patch(*asked, mlps=mlps), whole, atol=2e-4, rtol=1e-4)


def test_patch_keys_is_a_path_patch(runs):
    model, cache, source = runs
    unpatched = model(CORRUPTED)
    keys = patch_keys(model, CORRUPTED, cache, source, (0, 1), (1, 0))
    torch.testing.assert_close(keys, path_patch(model, CORRUPTED, cache, source, [(0, 1)], [(1, 0, "k")]))
    assert (keys - unpatched).abs().max() > 1e-4


def test_what_has_no_path_changes_nothing(runs):
    model, cache, source = runs
    for senders, receivers in (([], "logits"), ([(1, 0)], [(1, 1, "k")]), ([(1, 0)], [(0, 1, "q")])):
        logits = path_patch(model, CORRUPTED, cache, source, senders, receivers, mlps="recomputed")
        torch.testing.assert_close(logits, model(CORRUPTED), atol=2e-4, rtol=1e-4)
    same = path_patch(model, CORRUPTED, cache, cache, [(0, 0), (0, 1)], [(1, 0, "k")])
    torch.testing.assert_close(same, model(CORRUPTED), atol=2e-4, rtol=1e-4)


def test_it_leaves_no_hooks_and_changes_no_cache():
    model = recipes.gpt2(1)
    cache, source = (model.run_with_cache(tokens)[1] for tokens in (CORRUPTED, CLEAN))
    before = [recipes.witness(value) for value in (model, cache, source)]
    path_patch(model, CORRUPTED, cache, source, [(0, 0)], [(1, 0, "k"), (2, 1, "v")], mlps="recomputed")
    patch_keys(model, CORRUPTED, cache, source, (0, 1), (1, 0))
    assert before == [recipes.witness(value) for value in (model, cache, source)]


def test_two_receivers_of_one_head_both_notice():
    """A head whose score needs query and key: only both together restore it."""
    plan = Blueprint(["0", "1", "=", "no", "yes"], n_ctx=3, n_heads=2)
    bit, q, answer = plan.space("bit"), plan.space("q"), plan.space("answer")
    plan.embed(bit, {"0": -1.0, "1": 1.0})
    plan.unembed(answer, {"no": -2.0, "yes": 2.0})
    plan.head(0, 0).qk(plan.position, plan.position, attend({1: 1, 2: 1}, n_ctx=3)).ov(bit, q)
    plan.head(1, 0).qk(q, q, 40.0).ov(plan.position[1], answer)
    model = plan.build("cpu")
    caches = [model.run_with_cache(model.to_tokens(text))[1] for text in ("0 =", "1 =")]
    tokens = model.to_tokens("0 =")
    one = path_patch(model, tokens, *caches, [(0, 0)], [(1, 0, "k")])
    both = path_patch(model, tokens, *caches, [(0, 0)], [(1, 0, "k"), (1, 0, "q")])
    assert logit_diff(model, both) > logit_diff(model, one) + 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"mlps": "thawed"}, "mlps is"),
        ({"receivers": "logit"}, "receivers is"),
        ({"receivers": [(1, 0, "z")]}, "receivers is"),
    ],
)
def test_what_is_refused(arguments, sentence):
    model = recipes.gpt2(1)
    cache = model.run_with_cache(CLEAN)[1]
    with pytest.raises(ValueError, match=sentence):
        path_patch(model, CLEAN, cache, cache, [(0, 0)], **arguments)
    shorter = model.run_with_cache(CLEAN[:, :-1])[1]
    with pytest.raises(ValueError, match="differ in shape"):
        path_patch(model, CLEAN, cache, shorter, [(0, 0)])


def test_shared_keys_are_refused(monkeypatch):
    model = recipes.gpt2(1)
    cache = model.run_with_cache(CLEAN)[1]
    monkeypatch.setattr(model.cfg, "n_key_value_heads", 1, raising=False)
    with pytest.raises(ValueError, match="grouped-query"):
        path_patch(model, CLEAN, cache, cache, [(0, 0)])


def test_a_sweep_over_pocket_is_quick():
    """The first layer's heads into every later head's keys: 48 edges on 8 prompts of 20 tokens."""
    model = recipes.model("pocket")
    tokens = torch.randint(2, 700, (8, 20), generator=torch.Generator().manual_seed(0))
    cache, source = model.run_with_cache(tokens)[1], model.run_with_cache(tokens.flip(0))[1]
    start = time.process_time()
    for edge in itertools.product(range(4), range(1, 4), range(4)):
        head, later, receiver = edge
        path_patch(model, tokens, cache, source, [(0, head)], [(later, receiver, "k")])
    assert time.process_time() - start < 10


# ---- through chosen components, MLPs as senders and receivers, and every head at once


@pytest.mark.parametrize(
    ("name", "twins", "sender", "through", "expected"),
    [
        ("chain", ("0 . =", "1 . ="), (0, 1), [], -4),
        ("chain", ("0 . =", "1 . ="), (0, 1), [(1, 0)], 4),
        ("chain", ("0 . =", "1 . ="), (0, 1), [(1, 0, "v")], 4),
        ("chain", ("0 . =", "1 . ="), (0, 1), [(1, 0, "q"), (1, 0, "k"), (1, 1), (0, "mlp"), (1, "mlp")], -4),
        ("diamond", ("0 . =", "1 . ="), (0, 1), [(1, 0)], -4),  # B hears A, but D does not hear B
        ("diamond", ("0 . =", "1 . ="), (0, 1), [(1, 0), (2, 1)], 4),
        ("diamond", ("0 . =", "1 . ="), (0, 1), [(1, 2), (2, 1)], -4),  # the dead branch
        ("diamond", ("0 . =", "1 . ="), (1, 0), [(2, 1, "v")], 4),
        ("diamond", ("0 . =", "1 . ="), (1, 0), [(2, 1, "k"), (2, 1, "q")], -4),
        ("indirect", ("0 =", "1 ="), (0, 0), [(1, "mlp")], 4),
        ("indirect", ("0 =", "1 ="), (0, 0), [(0, "mlp"), (1, 0)], -4),
        ("indirect", ("0 =", "1 ="), (0, 1), [(1, 0)], -4),  # the eraser hears it, and takes it away again
        ("indirect", ("0 =", "1 ="), (1, "mlp"), [], 4),
        ("indirect", ("0 =", "1 ="), (0, "mlp"), [(1, "mlp")], -4),
    ],
)
def test_paths_through_chosen_components(name, twins, sender, through, expected):
    model = build(name)
    caches = [model.run_with_cache(model.to_tokens(text))[1] for text in twins]
    logits = path_patch(model, model.to_tokens(twins[0]), *caches, [sender], through=through)
    assert logit_diff(model, logits) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize(("sender", "mlp", "expected"), [((0, 0), 1, 4), ((0, 1), 1, -4), ((0, 0), 0, -4)])
def test_an_mlp_as_the_receiver(sender, mlp, expected):
    """In `indirect` the planner speaks to MLP 1, and to nobody else."""
    model = build("indirect")
    caches = [model.run_with_cache(model.to_tokens(text))[1] for text in ("0 =", "1 =")]
    for convention in ("frozen", "recomputed"):
        logits = path_patch(model, model.to_tokens("0 ="), *caches, [sender], [(mlp, "mlp")], mlps=convention)
        assert logit_diff(model, logits) == pytest.approx(expected, abs=TOLERANCE)


def test_if_everything_responds_it_is_activation_patching(runs):
    """Then the difference travels every path: from one sender, and from two of which the later one is fixed."""
    model, cache, source = runs
    heads = list(itertools.product(range(model.cfg.n_layers), range(model.cfg.n_heads)))
    for senders in ([(0, 1)], [(0, 0), (1, 1)]):

        def put(value, hook, layer, senders=senders):
            value = value.clone()
            for sender in senders:
                if sender[0] == layer:
                    value[:, :, sender[1]] = source["z", layer][:, :, sender[1]]
            return value

        hooks = [(f"blocks.{layer}.attn.hook_z", partial(put, layer=layer)) for layer in {0, senders[-1][0]}]
        expected = model.run_with_hooks(CORRUPTED, fwd_hooks=hooks)
        through = [head for head in heads if head not in senders]
        logits = path_patch(model, CORRUPTED, cache, source, senders, mlps="recomputed", through=through)
        torch.testing.assert_close(logits, expected, atol=5e-4, rtol=1e-3)
        if model.cfg.n_layers > 2:  # the control: two layers alone have hardly any other path
            direct = path_patch(model, CORRUPTED, cache, source, senders, mlps="recomputed")
            assert (direct - expected).abs().max() > 1e-2


@pytest.mark.parametrize("mlps", ["frozen", "recomputed"])
def test_the_sweep_is_one_path_patch_for_each_head(runs, mlps):
    model, cache, source = runs
    at, rows = torch.tensor([4, 6]), torch.arange(2)
    where = torch.tensor([[False, True, True, False, True, True, True], [True] * 6 + [False]])
    last = model.cfg.n_layers - 1

    def metric(logits):
        return logits[:, 3] - logits[:, 5]

    for receivers, settings in (
        ("logits", {}),
        ("logits", {"where": where}),
        ([(last, 0, "q"), (last, 1, "v")], {"where": where}),
        ("logits", {"through": [(last, 1)]}),
    ):
        settings = {"mlps": mlps, **settings}
        values = path_sweep(model, CORRUPTED, cache, source, metric, receivers, at=at, **settings)
        assert values.shape == (model.cfg.n_layers, model.cfg.n_heads, 2)
        for layer, head in [(0, 1), (1, 0), (last, 1)]:
            logits = path_patch(model, CORRUPTED, cache, source, [(layer, head)], receivers, **settings)
            torch.testing.assert_close(values[layer, head], metric(logits[rows, at]), atol=5e-4, rtol=1e-3)


def test_the_sweep_finds_who_speaks_to_the_logits():
    model = build("diamond")
    caches = [model.run_with_cache(model.to_tokens(text))[1] for text in ("0 . =", "1 . =")]
    yes, no = model.to_tokens("yes no")[0, 1:].tolist()
    values = path_sweep(model, model.to_tokens("0 . ="), *caches, lambda logits: logits[:, yes] - logits[:, no])
    expected = torch.full((3, 3, 1), -4.0)
    expected[2, 1] = 4
    torch.testing.assert_close(values, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"through": [(1, 0, "z")]}, "through is a list of"),
        ({"through": [(1,)]}, "through is a list of"),
        ({"receivers": [(1, 0)]}, "receivers is"),
        ({"receivers": [(5, "mlp")]}, "there is no 5.mlp: the model has 3 layers of 2 heads"),
        ({"senders": [(0, 7)]}, "there is no 0.7"),
    ],
)
def test_what_else_is_refused(arguments, sentence):
    model = recipes.gpt2(1)
    cache = model.run_with_cache(CLEAN)[1]
    with pytest.raises(ValueError, match=sentence):
        path_patch(model, CLEAN, cache, cache, **{"senders": [(0, 0)], **arguments})
