"""Models written by hand: every table of every docstring is read and measured through the bridge's hooks."""

import copy
import re
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mechlib import handmade as hand
from mechlib.handmade import BLUEPRINTS, BOS, SHARP, Blueprint, attend, handmade

TOLERANCE = 1e-4
SPLIT = 1e-3  # where attention is split between positions
SEEDS = [0, 3]
ANSWERING = ["and_gate", "or_gate", "chain", "diamond", "indirect"]


@cache
def build(name: str, seed: int = 0):
    model = handmade(name, seed=seed, device="cpu")
    model.set_use_attn_result(True)
    model.set_use_split_qkv_input(True)
    return model


def logit_diff(model, logits):
    right, wrong = ("yes", "no") if "yes" in model.tokenizer.get_vocab() else ("w2", "w3")
    return (logits[0, -1, model.to_single_token(right)] - logits[0, -1, model.to_single_token(wrong)]).item()


def answer(model, prompt: str) -> float:
    return logit_diff(model, model(model.to_tokens(prompt)))


# ---- the tables


def tables(name: str) -> list[tuple[str, str, list[str], list[tuple[str, list[float]]]]]:
    """(clean, corrupted, columns, rows) of each table of a docstring."""
    found = []
    for line in BLUEPRINTS[name].__doc__.splitlines():
        line = line.strip()
        if match := re.fullmatch(r"clean (.+?)  corrupted (.+)", line):
            found.append((match[1], match[2], [], []))
        elif re.match(r"(patched|edge)  ", line):
            found[-1][2].extend(line.split()[1:])
        elif match := re.fullmatch(r"(\S.*?) {2,}(-?\d+(?: +-?\d+)*)", line):
            found[-1][3].append((match[1], [float(number) for number in match[2].split()]))
    return found


CASES = [
    (name, clean, corrupted, row, dict(zip(columns, numbers)))
    for name in BLUEPRINTS
    for clean, corrupted, columns, rows in tables(name)
    for row, numbers in rows
]


def site(text: str) -> tuple[str, tuple]:
    """The hook of a site, and the part of its activation: [batch, position, head, ...]."""
    if match := re.fullmatch(r"head (\d)\.(\d)", text):
        return f"blocks.{match[1]}.attn.hook_z", (slice(None), slice(None), int(match[2]))
    if match := re.fullmatch(r"([qkv]) (\d)\.(\d)", text):
        return f"blocks.{match[2]}.attn.hook_{match[1]}", (slice(None), slice(None), int(match[3]))
    if match := re.fullmatch(r"pattern (\d)\.(\d)", text):
        return f"blocks.{match[1]}.attn.hook_pattern", (slice(None), int(match[2]))
    if match := re.fullmatch(r"mlp (\d)", text):
        return f"blocks.{match[1]}.hook_mlp_out", (slice(None),)
    match = re.fullmatch(r"resid (\d) @ (\d)", text)
    assert match, text
    return f"blocks.{match[1]}.hook_resid_pre", (slice(None), int(match[2]))


def patched(model, sites: str, into: str, source: str) -> float:
    """Run `into` with the activations that the sites have on `source`."""
    _, activations = model.run_with_cache(model.to_tokens(source))
    hooks = []
    for hook_name, part in map(site, sites.split(", ")):

        def patch(value, hook, hook_name=hook_name, part=part):
            value = value.clone()
            value[part] = activations[hook_name][part]
            return value

        hooks.append((hook_name, patch))
    return logit_diff(model, model.run_with_hooks(model.to_tokens(into), fwd_hooks=hooks))


def written(model, text: str, prompt: str) -> torch.Tensor:
    """What a site adds to the residual stream: [batch position d_model]."""
    _, activations = model.run_with_cache(model.to_tokens(prompt))
    hook_name, part = site(text)
    if text.startswith("head"):
        return activations[hook_name.replace("hook_z", "hook_result")][part]
    output = torch.zeros_like(activations[hook_name])
    output[part] = activations[hook_name][part]
    return output


def straight(model, sites: str, into: str, source: str) -> float:
    """Run `into`; what the sites write changes to what they write on `source`, for the final LayerNorm alone."""
    change = sum(written(model, text, source) - written(model, text, into) for text in sites.split(", "))
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    hooks = [(last, lambda value, hook: value + change)]
    return logit_diff(model, model.run_with_hooks(model.to_tokens(into), fwd_hooks=hooks))


def along(model, edge: str, into: str, source: str) -> float:
    """Run `into`; the sender's output changes to that on `source` for one input of one receiver alone."""
    sender, receiver = edge.split(" -> ")
    if receiver == "logits":
        return straight(model, f"head {sender}", into, source)
    layer, head, which = re.fullmatch(r"(\d)\.(\d) ([qkv])", receiver).groups()
    change = written(model, f"head {sender}", source) - written(model, f"head {sender}", into)

    def add(value, hook):
        value = value.clone()
        value[:, :, int(head)] += change
        return value

    hooks = [(f"blocks.{layer}.hook_{which}_input", add)]
    return logit_diff(model, model.run_with_hooks(model.to_tokens(into), fwd_hooks=hooks))


def test_the_docstrings_have_tables():
    counts = {name: [len(rows) for *_, rows in tables(name)] for name in BLUEPRINTS}
    assert counts == {
        "induction": [8, 4, 5, 6, 6],
        "and_gate": [10, 3],
        "or_gate": [10, 3],
        "chain": [9, 5, 6],
        "diamond": [14, 11],
        "indirect": [9],
    }
    assert len(CASES) == sum(map(sum, counts.values()))
    columns = [["denoising", "noising", "direct"], ["denoising", "noising"], ["denoising"]]
    assert all(list(expected) in columns for *_, expected in CASES)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("name", "clean", "corrupted", "row", "expected"), CASES, ids=[" ".join(case[:4]) for case in CASES]
)
def test_every_row_of_every_table(name, clean, corrupted, row, expected, seed):
    model = build(name, seed)
    if "->" in row:
        found = {"denoising": along(model, row, into=corrupted, source=clean)}
    else:
        found = {
            "denoising": patched(model, row, into=corrupted, source=clean),
            "noising": patched(model, row, into=clean, source=corrupted),
        }
    if "direct" in expected:
        found["direct"] = straight(model, row, into=corrupted, source=clean)
    assert found == pytest.approx(expected, abs=SPLIT if name == "induction" else TOLERANCE)


# ---- the sentences


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("name", "prompts"),
    [
        ("and_gate", {"0 0 =": -4, "0 1 =": -4, "1 0 =": -4, "1 1 =": 4}),
        ("or_gate", {"0 0 =": -4, "0 1 =": 4, "1 0 =": 4, "1 1 =": 4}),
        ("chain", {"0 . =": -4, "1 . =": 4}),
        ("diamond", {"0 . =": -4, "1 . =": 4}),
        ("indirect", {"0 =": -4, "1 =": 4}),
    ],
)
def test_answers(name, prompts, seed):
    model = build(name, seed)
    assert {prompt: answer(model, prompt) for prompt in prompts} == pytest.approx(prompts, abs=TOLERANCE)
    logits = torch.cat([model(model.to_tokens(prompt))[:, -1] for prompt in prompts])
    batch = model(model.to_tokens(list(prompts)))[:, -1]
    torch.testing.assert_close(batch, logits, atol=TOLERANCE, rtol=0)


def scaled(model, head: str, factor: float, prompt: str) -> float:
    layer, index = map(int, head.split("."))

    def scale(value, hook):
        value = value.clone()
        value[:, :, index] *= factor
        return value

    hooks = [(f"blocks.{layer}.attn.hook_z", scale)]
    return logit_diff(model, model.run_with_hooks(model.to_tokens(prompt), fwd_hooks=hooks))


def test_a_gates_head_set_to_zero_is_half_way_between_the_bits():
    gates = {name: build(name) for name in ("and_gate", "or_gate")}
    for head in ("0.0", "0.1"):
        assert scaled(gates["and_gate"], head, 0.0, "1 1 =") == pytest.approx(-4, abs=TOLERANCE)
        assert scaled(gates["and_gate"], head, 0.0, "0 0 =") == pytest.approx(-4, abs=TOLERANCE)
        assert scaled(gates["or_gate"], head, 0.0, "1 1 =") == pytest.approx(4, abs=TOLERANCE)
        assert scaled(gates["or_gate"], head, 0.0, "0 0 =") == pytest.approx(4, abs=TOLERANCE)


def attributed(model, head: str, into: str, source: str) -> float:
    """Attribution patching of a head: the gradient of the answer on `into` times how its output changes."""
    hook_name, part = site(f"head {head}")
    _, activations = model.run_with_cache(model.to_tokens(source))
    held = []

    def hold(value, hook):
        held.append(value.detach().requires_grad_(True))
        return held[0].view_as(value)

    logits = model.run_with_hooks(model.to_tokens(into), fwd_hooks=[(hook_name, hold)])
    right, wrong = model.to_single_token("yes"), model.to_single_token("no")
    (logits[0, -1, right] - logits[0, -1, wrong]).backward()
    return (held[0].grad * (activations[hook_name] - held[0]))[part].sum().item()


@pytest.mark.parametrize(
    ("name", "heads", "denoising", "noising"),
    [
        ("and_gate", ["0.0", "0.1"], 0, -16),
        ("or_gate", ["0.0", "0.1"], 16, 0),
        ("chain", ["0.1", "1.0"], 8, -8),
        ("chain", ["0.0", "1.1"], 0, 0),
    ],
)
def test_attribution_patching_sees_only_the_slope(name, heads, denoising, noising):
    model = build(name)
    clean, corrupted, *_ = tables(name)[0]
    for head in heads:
        assert attributed(model, head, into=corrupted, source=clean) == pytest.approx(denoising, abs=TOLERANCE)
        assert attributed(model, head, into=clean, source=corrupted) == pytest.approx(noising, abs=TOLERANCE)


@pytest.mark.parametrize("head", ["0.1", "1.0"])
def test_the_chain_is_linear(head):
    for factor in (0.0, 0.5, -1.0, 3.0):
        assert scaled(build("chain"), head, factor, "1 . =") == pytest.approx(4 * factor, abs=TOLERANCE)


def test_the_diamonds_branches_differ_equally():
    model, plan = build("diamond"), BLUEPRINTS["diamond"]()
    outputs, patterns = {}, {}
    for prompt in ("1 . =", "0 . ="):
        _, activations = model.run_with_cache(model.to_tokens(prompt))
        outputs[prompt] = activations["blocks.1.attn.hook_result"][0, -1]
        patterns[prompt] = activations["blocks.1.attn.hook_pattern"][0]
    change = outputs["1 . ="] - outputs["0 . ="]
    assert change.norm(dim=-1).tolist() == pytest.approx([2.0, 0.0, 2.0], abs=1e-5)
    torch.testing.assert_close(patterns["1 . ="][0], patterns["1 . ="][2])
    torch.testing.assert_close(patterns["1 . ="], patterns["0 . ="])
    b, c = plan.spaces["b"], plan.spaces["c"]
    assert plan.read(change[0], b).item() == pytest.approx(2.0, abs=1e-5)
    assert plan.read(change[2], c).item() == pytest.approx(2.0, abs=1e-5)
    assert plan.read(change[0], c).item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("name", ANSWERING)
def test_where_heads_look_depends_on_positions_alone(name):
    model = build(name)
    prompts = {prompt for clean, corrupted, *_ in tables(name) for prompt in (clean, corrupted)}
    _, activations = model.run_with_cache(model.to_tokens(sorted(prompts)))
    for layer in range(model.cfg.n_layers):
        pattern = activations[f"blocks.{layer}.attn.hook_pattern"]
        torch.testing.assert_close(pattern, pattern[:1].expand_as(pattern), atol=1e-6, rtol=0)


WORKING = {
    "induction": {"0.1", "1.0"},
    "and_gate": {"0.0", "0.1", "mlp 1"},
    "or_gate": {"0.0", "0.1", "mlp 1"},
    "chain": {"0.1", "1.0"},
    "diamond": {"0.1", "1.0", "1.2", "2.1"},
    "indirect": {"0.0", "0.1", "1.0", "mlp 1"},
}


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_the_others_do_nothing(name):
    model = build(name)
    tokens = torch.tensor([[0, *([3, 2, 4] * 9)][: model.cfg.n_ctx]])
    _, activations = model.run_with_cache(tokens)
    working = set()
    for layer in range(model.cfg.n_layers):
        heads = activations[f"blocks.{layer}.attn.hook_result"].abs().amax(dim=(0, 1, 3))
        working |= {f"{layer}.{head}" for head, size in enumerate(heads) if size > 0}
        if activations[f"blocks.{layer}.hook_mlp_out"].any():
            working.add(f"mlp {layer}")
    assert working == WORKING[name]


@pytest.mark.parametrize(("head", "total", "direct"), [("0.0", 0, 4), ("0.1", 4, 0), ("1.0", 8, 8)])
def test_what_is_left_without_a_head_or_its_direct_path(head, total, direct):
    model = build("indirect")
    assert scaled(model, head, 0.0, "1 =") == pytest.approx(total, abs=TOLERANCE)
    own = written(model, f"head {head}", "1 =")
    hooks = [("blocks.1.hook_resid_post", lambda value, hook: value - own)]
    left = logit_diff(model, model.run_with_hooks(model.to_tokens("1 ="), fwd_hooks=hooks))
    assert left == pytest.approx(direct, abs=TOLERANCE)


# ---- the induction circuit


def repeated(plan_words: int, length: int, before: int, seed: int, times: int = 2) -> torch.Tensor:
    """`before` other words, then a segment of different words `times` times: [1 position]."""
    order = torch.randperm(plan_words, generator=torch.Generator().manual_seed(seed)) + 2
    segment, others = order[:length], order[length:]
    prefix = others.repeat(before)[:before] if len(others) else segment[:0]
    return torch.cat([prefix, *[segment] * times])[None]


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 60), st.integers(0, 4), st.booleans(), st.integers(0, 10**6), st.data())
def test_induction_predicts_every_repeat(n_words, before, with_bos, seed, data):
    length = data.draw(st.integers(2, n_words))
    tokens = repeated(n_words, length, before, seed)
    if with_bos:
        tokens = torch.cat([torch.zeros(1, 1, dtype=torch.long), tokens], dim=1)
    n_ctx = tokens.shape[1] + data.draw(st.integers(0, 8))
    model = handmade("induction", seed=seed, device="cpu", n_words=n_words, n_ctx=n_ctx)
    probability = model(tokens).softmax(dim=-1)[0, -length:-1].gather(-1, tokens[0, 1 - length :, None])
    assert probability.min() > 0.999999


def test_induction_where_it_looks_and_what_it_says():
    model = build("induction")
    tokens = repeated(20, 9, 3, seed=1)
    logits, activations = model.run_with_cache(tokens)
    previous = activations["blocks.0.attn.hook_pattern"][0, 1]
    positions = torch.arange(1, tokens.shape[1])
    assert (previous[positions, positions - 1] == 1).all()
    induction = activations["blocks.1.attn.hook_pattern"][0, 0]
    for position in range(12, 21):
        assert induction[position, position - 8] == pytest.approx(1.0, abs=1e-6)
    assert induction[1:, 0].max() < 1e-6
    for position in range(12, 20):
        expected = torch.zeros(22)
        expected[tokens[0, position + 1]] = 20.0
        torch.testing.assert_close(logits[0, position], expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("occurrences", [2, 3, 4])
def test_induction_splits_evenly_over_different_successors(occurrences):
    model = build("induction")
    text = " ".join(f"w9 w{i}" for i in range(occurrences)) + " w9"
    logits = model(model.to_tokens(text))[0, -1]
    expected = torch.zeros(22)
    expected[2 : occurrences + 2] = 20 / occurrences
    torch.testing.assert_close(logits, expected, atol=SPLIT, rtol=0)


def test_induction_on_a_token_right_after_itself():
    model = build("induction")
    logits = model(model.to_tokens("w3 w5 w5"))[0, -1]
    assert logits.argmax() == model.to_single_token("w5")
    assert logits.max().item() == pytest.approx(20, abs=TOLERANCE)


def test_induction_on_a_new_token_averages_what_it_saw():
    model = build("induction")
    logits = model(model.to_tokens("w1 w2 w1 w7"))[0, -1]
    expected = torch.zeros(22)
    expected[[model.to_single_token(word) for word in ("w1", "w2", "w7")]] = torch.tensor([10.0, 5.0, 5.0])
    torch.testing.assert_close(logits, expected, atol=SPLIT, rtol=0)


# ---- the builder


def test_the_modules_example():
    example = re.search(r"(?s)    plan = Blueprint.*?build\(\)\n", hand.__doc__)[0]
    names = {"Blueprint": Blueprint, "attend": attend}
    exec(re.sub("(?m)^    ", "", example), names)
    assert answer(names["model"], "1 =") == pytest.approx(4, abs=TOLERANCE)
    assert answer(names["model"], "0 =") == pytest.approx(-4, abs=TOLERANCE)


def a_plan() -> Blueprint:
    """Two heads and an MLP that read and write overlapping spaces with random matrices."""
    draw = torch.Generator().manual_seed(7)
    plan = Blueprint(["a", "b", "c"], n_ctx=5, n_heads=3, seed=5)
    token, other, out = plan.space("token", 5), plan.space("other", 3), plan.space("out", 2)
    plan.embed(token)
    plan.embed(other, {"a": [1.0, 2.0, 3.0], "c": [-1.0, 0.0, 1.0]})
    plan.unembed(out, torch.randn(5, 2, generator=draw))
    head = plan.head(0, 1)
    head.qk(token, other, torch.randn(5, 3, generator=draw)).qk(plan.position, token, torch.randn(5, 5, generator=draw))
    head.ov(token, other[1:], torch.randn(5, 2, generator=draw)).ov(other[0], out[1], 2.0)
    plan.mlp(1).neuron({token[1]: 1.5, other[2]: -1.0}, 0.25, {out[0]: 2.0}).constant({out[1]: 0.5})
    return plan


def test_a_plan_means_what_it_says():
    plan, tokens = a_plan(), torch.tensor([[0, 2, 4, 2, 3]])
    token, other, out = (plan.spaces[name] for name in ("token", "other", "out"))
    model = plan.build("cpu")
    model.set_use_attn_result(True)
    logits, activations = model.run_with_cache(tokens)
    stream = activations["blocks.0.hook_resid_pre"][0]
    holds = {space.name: plan.read(stream, space) for space in (plan.position, token, other, out)}
    table = torch.tensor([[0.0, 0, 0], [0, 0, 0], [1, 2, 3], [0, 0, 0], [-1, 0, 1]])
    torch.testing.assert_close(holds["position"], torch.eye(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(holds["token"], torch.eye(5)[tokens[0]], atol=1e-5, rtol=0)
    torch.testing.assert_close(holds["other"], table[tokens[0]], atol=1e-5, rtol=0)
    torch.testing.assert_close(holds["out"], torch.zeros(5, 2), atol=1e-5, rtol=0)

    (_, _, by_token), (_, _, by_position) = plan.heads[0, 1].looks
    scores = holds["token"] @ by_token @ holds["other"].T + by_position @ holds["token"].T
    allowed = torch.ones(5, 5).tril().bool()
    found = activations["blocks.0.attn.hook_attn_scores"][0, 1]
    torch.testing.assert_close(found[allowed], scores[allowed], atol=1e-4, rtol=0)

    pattern = scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1)
    (_, _, moved), (_, _, second) = plan.heads[0, 1].moves
    result = activations["blocks.0.attn.hook_result"][0, :, 1]
    expected = pattern @ holds["token"] @ moved
    torch.testing.assert_close(plan.read(result, other[1:]), expected, atol=1e-4, rtol=0)
    expected = pattern @ holds["other"][:, :1] @ second
    torch.testing.assert_close(plan.read(result, out[1]), expected, atol=1e-4, rtol=0)

    middle = activations["blocks.1.hook_resid_mid"][0]
    drive = 1.5 * plan.read(middle, token[1]) - plan.read(middle, other[2]) + 0.25
    mlp = activations["blocks.1.hook_mlp_out"][0]
    torch.testing.assert_close(plan.read(mlp, out[0]), 2 * drive.relu(), atol=1e-4, rtol=0)
    torch.testing.assert_close(plan.read(mlp, out[1]), torch.full((5, 1), 0.5), atol=1e-5, rtol=0)

    final = plan.read(activations["blocks.1.hook_resid_post"][0], out)
    torch.testing.assert_close(logits[0], final @ plan._written["unembed"][0][1].T, atol=1e-4, rtol=0)


def test_directions_are_orthonormal_without_a_mean_and_new_for_each_seed():
    plan = a_plan()
    directions = torch.cat([plan.directions(space) for space in plan.spaces.values()])
    torch.testing.assert_close(directions @ directions.T, torch.eye(len(directions)), atol=1e-6, rtol=0)
    assert directions.sum(dim=-1).abs().max() < 1e-6
    other = copy.copy(plan)
    other.seed = 6
    assert (other.directions(plan.position) - plan.directions(plan.position)).abs().max() > 0.1


def test_the_layer_norms_do_nothing():
    model = build("diamond")
    _, activations = model.run_with_cache(model.to_tokens("1 . ="))
    before, after = activations["blocks.2.hook_resid_post"], activations["ln_final.hook_out"]
    torch.testing.assert_close(after, before, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_same_seed_same_weights_and_no_global_randomness(name):
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first, second = handmade(name, seed=4, device="cpu"), handmade(name, seed=4, device="cpu")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.W_E, second.W_E)
    assert not torch.equal(first.W_E, handmade(name, seed=5, device="cpu").W_E)
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())
    assert first.tokenizer.bos_token == BOS


@pytest.mark.parametrize("name", ANSWERING)
def test_folding_the_weights_changes_no_answer(name):
    model, folded = build(name), handmade(name, device="cpu")
    folded.enable_compatibility_mode(disable_warnings=True)
    for prompt in {clean for clean, *_ in tables(name)} | {corrupted for _, corrupted, *_ in tables(name)}:
        assert answer(folded, prompt) == pytest.approx(answer(model, prompt), abs=1e-3)


def test_the_checks_can_ask_for_them():
    from mechlib.checker import Recipe, encoding, recipes

    wanted = {"model": Recipe("handmade", {"name": "diamond", "seed": 3})}
    model = recipes.build(encoding.decode(encoding.encode(wanted)))["model"]
    assert torch.equal(model.W_E, build("diamond", 3).W_E)


def test_attend():
    pattern = attend({3: 1, 2: 2}, n_ctx=4).softmax(dim=-1)
    assert pattern.argmax(dim=-1).tolist() == [0, 0, 2, 1]
    assert pattern.amax(dim=-1).tolist() == pytest.approx([1.0] * 4, abs=1e-6)
    assert SHARP > 16  # below, the others would show in float32


def test_a_space_can_be_taken_apart():
    space = Blueprint(["a"], n_ctx=2).space("token", 5)
    assert [len(part) for part in (space, space[2], space[-1], space[1:3])] == [5, 1, 1, 2]
    assert space[1:3][1] == space[2]
    with pytest.raises(IndexError):
        space[5]


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (lambda plan: plan.space("x"), "there is a space 'x' already"),
        (lambda plan: plan.embed(plan.spaces["x"], {"z": 1.0}), "not among the words: z"),
        (
            lambda plan: plan.embed(plan.spaces["x"]),
            "table must be a 4 x 2 matrix, since the two spaces differ in size",
        ),
        (lambda plan: plan.head(0, 0).ov(plan.position, plan.spaces["x"]), "matrix must be a 4 x 2 matrix"),
        (lambda plan: plan.head(0, 0).qk(plan.position, plan.position, torch.eye(3)), r"scores must be \[4, 4\]"),
        (lambda plan: Blueprint(["a", "a"], n_ctx=2), "the words must differ"),
        (lambda plan: Blueprint([BOS], n_ctx=2), "the words must differ"),
        (lambda plan: plan.directions(Blueprint(["a"], n_ctx=9).position), "'position' belongs to another plan"),
        (lambda plan: plan.directions(Blueprint(["a"], n_ctx=2).space("y")), "'y' belongs to another plan"),
        (lambda plan: handmade("dimond"), r"no hand-written model 'dimond' \(did you mean diamond"),
    ],
)
def test_mistakes_in_a_plan(mistake, sentence):
    plan = Blueprint(["a", "b"], n_ctx=4)
    plan.space("x", 2)
    with pytest.raises(ValueError, match=sentence):
        mistake(plan)
