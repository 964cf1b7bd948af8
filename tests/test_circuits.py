"""Circuits: knocking out and judging what is left, on models whose circuit is known, with cases that must fail."""

import itertools
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from mechlib import circuits, models, tasks
from mechlib.checker import recipes
from mechlib.circuits import (
    Circuit,
    Edge,
    Node,
    ablation_values,
    as_nodes,
    completeness_gap,
    faithfulness,
    greedy_subset,
    heads_of,
    knock_out,
    minimality_score,
    position_roles,
    precision_recall,
    random_circuits,
    random_subsets,
    scorer,
)
from mechlib.handmade import handmade
from mechlib.metrics import logit_diff

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import gpt2_ioi

GATE_ROLES = [["bos", "x", "y", "end"]]
CHAIN_ROLES = [["bos", "x", "dot", "end"]]


def yes_less_no(model):
    yes, no = model.to_tokens("yes no")[0, 1:].tolist()
    return lambda logits: logits[:, yes] - logits[:, no]


def gate_score(name, text, reference, roles=GATE_ROLES, method="mean"):
    """F on one prompt of a hand-written model, where knocked-out heads say what they say on the reference prompts."""
    model = handmade(name, device="cpu")
    other = torch.cat([model.to_tokens(each) for each in reference])
    values = ablation_values(model, roles, method, other, roles * len(reference))
    return scorer(model, model.to_tokens(text), values, yes_less_no(model), roles=roles)


@pytest.fixture(scope="module")
def known():
    """ioi-known with its truth: the model, its circuit, prompts, and F where the rest is the mean over ABC twins."""
    model, truth = models.load("ioi-known", device="cpu"), models.truth("ioi-known")
    prompts = tasks.ioi(model.tokenizer, 40, split="held-out pairs", corruption="abc")
    return model, truth, prompts, ioi_score(model, prompts)


def ioi_score(model, prompts, method="mean", mlps=False):
    tokens, twins = (
        tasks.to_tokens(model.tokenizer, [getattr(p, text) for p in prompts]) for text in ("text", "corrupted")
    )
    roles = position_roles(prompts)
    values = ablation_values(model, roles, method, twins, mlps=mlps)
    metric = partial(logit_diff, answers=tasks.answer_tokens(model.tokenizer, prompts))
    return scorer(model, tokens, values, metric, tasks.positions(prompts), roles)


# ---- nodes


def test_nodes_come_from_tuples_circuits_and_truth_files():
    nodes = as_nodes([(3, 0), (3, 0, "end"), (1, "mlp"), (3, 0)])
    assert nodes == (Node(3, 0), Node(3, 0, "end"), Node(1, "mlp"))
    assert [node.name for node in nodes] == ["3.0", "3.0", "MLP 1"]
    assert as_nodes(Circuit(nodes, (Edge(nodes[2], nodes[1], 0.5, "q"),))) == nodes
    assert heads_of(nodes) == {(3, 0)}
    truth = models.truth("ioi-known")
    assert Node(0, 1, "s2") in as_nodes(truth) and heads_of(truth) == set(truth.heads())
    with pytest.raises(ValueError, match=r"nodes are \(layer, head\)"):
        as_nodes([3])


# ---- roles


def test_every_position_has_a_role():
    tokenizer = recipes.model("pocket").tokenizer
    prompts = tasks.ioi(tokenizer, 30)
    tokens, roles = tasks.to_tokens(tokenizer, [p.text for p in prompts]), position_roles(prompts)
    assert tokens.shape == (len(roles), len(roles[0]))
    for prompt, row in zip(prompts, roles):
        assert all(row[position] == role for role, position in prompt.positions.items())
        assert row[0] == "bos" and row[prompt.positions["s2"] + 1] == "s2+1" and len(set(row)) == len(row)
    for role in ("io", "s2", "end"):
        assert torch.equal(circuits.where(roles, role).nonzero()[:, 1], tasks.positions(prompts, role))
    worded = position_roles(prompts, by_wording=True)
    same = [(a, b) for a, b in itertools.combinations(range(30), 2) if worded[a][0] == worded[b][0]]
    assert all(prompts[a].labels["wording"] == prompts[b].labels["wording"] for a, b in same)
    assert len({row[0] for row in worded}) > 20
    with pytest.raises(ValueError, match="no position has the role 'S2'; there are bos, "):
        circuits.where(roles, "S2")
    with pytest.raises(ValueError, match="these prompts have no roles"):
        position_roles(["When Mary and John"])


# ---- what a component says instead


@pytest.fixture(scope="module")
def random_run():
    model = recipes.gpt2(3)
    tokens = torch.randint(2, 17, (3, 5), generator=torch.Generator().manual_seed(0))
    reference = torch.randint(2, 17, (4, 6), generator=torch.Generator().manual_seed(1))
    roles = [list("abcde"), list("bacde"), list("abced")]
    return model, tokens, roles, reference, [list("abcdef"), list("facdeb"), list("aaacdb"), list("ebcdfa")]


def test_mean_ablation_is_the_mean_over_positions_of_the_same_role(random_run):
    model, _, roles, reference, theirs = random_run
    values = ablation_values(model, roles, "mean", reference, theirs, mlps=True)
    cache = model.run_with_cache(reference)[1]
    assert set(values) == {f"blocks.{i}.{hook}" for i in range(3) for hook in ("attn.hook_z", "hook_mlp_out")}
    for name, value in values.items():
        for i, j in itertools.product(range(3), range(5)):
            alike = [cache[name][a, b] for a, b in itertools.product(range(4), range(6)) if theirs[a][b] == roles[i][j]]
            torch.testing.assert_close(value[i, j], torch.stack(alike).mean(dim=0))
    assert len(ablation_values(model, roles, "mean", reference, theirs)) == 3


def test_resampling_takes_one_prompt_for_all_components(random_run):
    model, _, roles, reference, theirs = random_run
    values = ablation_values(model, roles, "resample", reference, theirs, mlps=True)
    cache = model.run_with_cache(reference)[1]
    for i in range(3):
        fits = [
            a
            for a in range(4)
            if all(
                torch.allclose(value[i, j], cache[name][a, theirs[a].index(roles[i][j])])
                for name, value in values.items()
                for j in range(5)
                if roles[i][j] in theirs[a]
            )
            and set(roles[i]) <= set(theirs[a])
        ]
        assert len(fits) == 1
    name = "blocks.0.attn.hook_z"
    others = [ablation_values(model, roles, "resample", reference, theirs, seed=seed)[name] for seed in range(10)]
    assert torch.equal(others[0], values[name]) and any(not torch.equal(other, values[name]) for other in others)


def test_zero_needs_no_reference(random_run):
    model, tokens, roles, *_ = random_run
    values = ablation_values(model, roles, "zero", mlps=True)
    assert all(value.shape[:2] == tokens.shape and not value.any() for value in values.values())
    silent = knock_out(model, tokens, values, keep=())
    plain = model.W_E[tokens] + model.W_pos[:5] + sum(model.b_O)  # every MLP's output is zero, its bias too
    torch.testing.assert_close(silent, model.unembed(model.ln_final(plain)), atol=1e-4, rtol=1e-4)


# ---- knocking out


def test_knock_out_is_what_hooks_by_hand_give(random_run):
    model, tokens, roles, reference, theirs = random_run
    values = ablation_values(model, roles, "mean", reference, theirs, mlps=True)

    def by_hand(silent):
        """`silent`: (layer, head or None, row, position)."""

        def hook_of(layer, kind):
            def put(value, hook):
                value = value.clone()
                for at, head, row, position in silent:
                    if at == layer and (head == "mlp") == (kind == "hook_mlp_out"):
                        part = (row, position) if head == "mlp" else (row, position, head)
                        value[part] = values[f"blocks.{layer}.{kind}"][part]
                return value

            return f"blocks.{layer}.{kind}", put

        hooks = [hook_of(layer, kind) for layer in range(3) for kind in ("attn.hook_z", "hook_mlp_out")]
        return model.run_with_hooks(tokens, fwd_hooks=hooks)

    cells = list(itertools.product(range(3), (0, 1, "mlp"), range(3), range(5)))
    for keep, drop in (
        (None, [(1, 0), (2, "mlp")]),
        ([(0, 1), (1, "mlp", "e")], []),
        ([(0, 1), (1, 1), (2, "mlp")], [(0, 1, "a"), (2, "mlp")]),
        ((), ()),
    ):
        silent = [cell for cell in cells if keep is not None and not on(cell, keep, roles) or on(cell, drop, roles)]
        got = knock_out(model, tokens, values, keep, drop, roles)
        torch.testing.assert_close(got, by_hand(silent), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(knock_out(model, tokens, values), model(tokens), atol=1e-4, rtol=1e-4)
    once = (node for node in [(0, 1), (1, 1)])  # an iterator is read once
    torch.testing.assert_close(
        knock_out(model, tokens, values, once), knock_out(model, tokens, values, [(0, 1), (1, 1)])
    )


def on(cell, nodes, roles):
    layer, head, row, position = cell
    return any((n.layer, n.head) == (layer, head) and n.at in (None, roles[row][position]) for n in as_nodes(nodes))


def test_knock_out_leaves_nothing_behind(random_run):
    model, tokens, roles, *_ = random_run
    values = ablation_values(model, roles, "zero")
    before = recipes.witness(model), {name: value.clone() for name, value in values.items()}
    knock_out(model, tokens, values, keep=[(1, 1)])
    assert recipes.witness(model) == before[0]
    assert all(torch.equal(values[name], value) for name, value in before[1].items())


def test_the_chain_needs_both_heads_at_their_positions():
    score = gate_score("chain", "1 . =", ["0 . =", "1 . ="], CHAIN_ROLES)
    for keep, expected in (
        (None, 4),
        ((), 0),
        ([(0, 1), (1, 0)], 4),
        ([(0, 1, "dot"), (1, 0, "end")], 4),
        ([(0, 1, "end"), (1, 0, "end")], 0),
        ([(0, 1)], 0),
        ([(1, 0)], 0),
        ([(0, 0), (1, 1)], 0),
    ):
        assert score(keep).item() == pytest.approx(expected, abs=1e-4)
    assert score(None, without=[(0, 0), (1, 1)]).item() == pytest.approx(4, abs=1e-4)


def test_the_ablation_changes_the_verdict():
    """OR of two bits: without both heads the answer is yes, by zero, and no, by the mean over prompts that say 0."""
    heads = [(0, 0), (0, 1)]
    assert gate_score("or_gate", "1 1 =", ["0 0 ="], method="zero")(None, without=heads).item() == pytest.approx(4)
    assert gate_score("or_gate", "1 1 =", ["0 0 ="])(None, without=heads).item() == pytest.approx(-4)


# ---- judging


def test_faithfulness_is_a_ratio_of_means():
    difference, ratio = faithfulness(torch.tensor([3.0, 1.0]), torch.tensor([4.0, 2.0]), torch.tensor([0.0, 1.0]))
    assert difference == pytest.approx(1) and ratio == pytest.approx(1.5 / 2.5)  # a mean of ratios: 0.375
    with pytest.raises(ValueError, match="there is nothing to explain here"):
        faithfulness(torch.ones(2), torch.tensor([1.0, 3.0]), torch.tensor([3.0, 1.0]))


def test_a_faithful_circuit_can_be_incomplete():
    """Either head of OR is enough, so one alone is faithful; without it, only the model has another."""
    score = gate_score("or_gate", "1 1 =", ["0 0 ="])
    half, whole = [(0, 0)], [(0, 0), (0, 1)]
    for circuit, gap in ((half, 8), (whole, 0)):
        assert faithfulness(score(circuit), score(), score(())).ratio == pytest.approx(1)
        assert completeness_gap(score, circuit, [(0, 0)]) == pytest.approx(gap, abs=1e-4)
        assert completeness_gap(score, circuit, ()) == pytest.approx(0, abs=1e-4)
    assert greedy_subset(score, half, size=3) == (Node(0, 0),)
    assert greedy_subset(score, whole, size=3) == ()


def test_a_backed_up_head_is_minimal_though_its_removal_does_nothing():
    score = gate_score("or_gate", "1 1 =", ["0 0 ="])
    circuit = [(0, 0), (0, 1), (0, 2)]
    backed_up = minimality_score(score, circuit, (0, 0))
    assert backed_up.naive == pytest.approx(0, abs=1e-4) and backed_up.score == pytest.approx(8, abs=1e-4)
    assert set(backed_up.subset) >= {Node(0, 1)}
    assert minimality_score(score, circuit, (0, 2)).score == pytest.approx(0, abs=1e-4)  # an idle head
    assert minimality_score(score, circuit, (0, 0), subsets=[[(0, 2)]]).score == pytest.approx(0, abs=1e-4)
    needed = minimality_score(gate_score("and_gate", "1 1 =", ["0 0 ="]), circuit, (0, 0))
    assert needed.naive == needed.score == pytest.approx(8, abs=1e-4) and needed.subset == ()


def test_precision_and_recall():
    assert precision_recall({(0, 1), (1, 0)}, {(0, 1), (1, 1), (0, 0)}) == (1 / 2, 1 / 3)
    assert precision_recall([], [(0, 1)]) == (0, 0)
    assert precision_recall([(0, 1), (0, 1)], [(0, 1)]) == (1, 1)
    with pytest.raises(ValueError, match="there is nothing to find"):
        precision_recall([(0, 1)], [])


def test_subsets_and_random_circuits():
    model = recipes.model("ioi-known")
    circuit = [(0, 1, "s2"), (3, 0, "end"), (3, 2, "end"), (1, "mlp")]
    drawn = random_circuits(model, circuit, 50)
    assert len(drawn) == 50 and drawn == random_circuits(model, circuit, 50) != random_circuits(
        model, circuit, 50, seed=1
    )
    for nodes in drawn:
        assert set(nodes) != set(as_nodes(circuit))
        assert [node.at for node in nodes] == ["s2", "end", "end", None] and nodes[3].head == "mlp"
        assert len(heads_of(nodes)) == 3
    assert len(heads_of(sum(drawn, ()))) == 16
    subsets = random_subsets(circuit, 200)
    assert all(set(subset) <= set(as_nodes(circuit)) for subset in subsets)
    assert sum(map(len, subsets)) / 200 == pytest.approx(2, abs=0.3)


# ---- the known circuit


def test_the_truth_is_faithful_and_random_circuits_are_not(known):
    model, truth, _, score = known
    whole, empty = score(), score(())
    assert faithfulness(score(truth), whole, empty).ratio == pytest.approx(1, abs=0.1)
    others = [faithfulness(score(other), whole, empty).ratio for other in random_circuits(model, truth, 20)]
    assert max(others) < 0.5
    movers = as_nodes(truth.group("name mover"))
    assert faithfulness(score(truth, without=movers), whole, empty).ratio < 0.2
    assert completeness_gap(score, truth, movers) < 0.1 * whole.mean() < completeness_gap(score, truth.heads()[:1], ())


def test_the_published_circuit_of_gpt2():
    there = circuits.published("gpt2-ioi")
    heads = {name: " ".join(f"{layer}.{head}" for layer, head in found) for name, found in there.classes().items()}
    assert heads == {
        "previous token": "2.2 4.11",
        "duplicate token": "0.1 0.10 3.0",
        "induction": "5.5 5.8 5.9 6.9",
        "s-inhibition": "7.3 7.9 8.6 8.10",
        "name mover": "9.9 9.6 10.0",
        "backup name mover": "9.0 9.7 10.1 10.2 10.6 10.10 11.2 11.9",
        "negative name mover": "10.7 11.10",
    }
    assert len(heads_of(there.circuit)) == 26
    assert there.numbers["logit difference of the circuit"] / there.numbers["logit difference"] == pytest.approx(
        0.87, abs=0.005
    )
    with pytest.raises(ValueError, match="no published circuit 'gpt2'; there are gpt2-ioi"):
        circuits.published("gpt2")


# ---- what can go wrong, in one sentence


@pytest.mark.parametrize(
    ("keep", "drop", "roles", "sentence"),
    [
        (None, [(3, 0)], True, "there is no 3.0: the model has 3 layers of 2 heads"),
        ([(0, 2)], (), True, "there is no 0.2"),
        ([(0, "MLP")], (), True, "there is no 0.MLP"),
        (None, [(0, "mlp")], True, "nothing to put for MLP 0: make the values with mlps=True"),
        (None, [(0, 1, "a")], False, "0.1 is meant at 'a': give the `roles`"),
        ([(0, 1, "z")], (), True, "no position has the role 'z'"),
    ],
)
def test_unknown_nodes(random_run, keep, drop, roles, sentence):
    model, tokens, all_roles, *_ = random_run
    values = ablation_values(model, all_roles, "zero")
    with pytest.raises(ValueError, match=sentence):
        knock_out(model, tokens, values, keep, drop, all_roles if roles else None)
    with pytest.raises(ValueError, match="make both from the same prompts"):
        knock_out(model, tokens[:2], values)


def test_references_that_do_not_fit(random_run):
    model, _, roles, reference, theirs = random_run
    for settings, sentence in (
        ({"method": "median"}, "method is one of 'mean', 'zero', 'resample'"),
        ({"method": "mean"}, "mean ablation needs reference prompts"),
        (
            {"reference": reference[:, :4], "reference_roles": theirs},
            r"the reference is \[4, 4\] and its roles \[4, 6\]",
        ),
        ({"reference": reference[:2], "reference_roles": [list("abcxyz")] * 2}, "no reference prompt has the role 'd'"),
        ({"reference": reference, "reference_roles": [list("abc"), list("abcd")]}, "the roles are of mixed lengths"),
        (
            {"method": "resample", "reference": reference[:2, :4], "reference_roles": [list("abcd"), list("ecda")]},
            "no reference prompt has all roles",
        ),
    ):
        with pytest.raises(ValueError, match=sentence):
            ablation_values(model, roles, **settings)


def test_an_empty_circuit():
    score = gate_score("or_gate", "1 1 =", ["0 0 ="])
    for ask in (
        lambda: random_circuits(recipes.model("ioi-known"), [], 5),
        lambda: random_subsets([], 5),
        lambda: greedy_subset(score, [], 3),
    ):
        with pytest.raises(ValueError, match="the circuit is empty"):
            ask()


def test_minimality_of_what_is_not_there():
    score = gate_score("or_gate", "1 1 =", ["0 0 ="])
    with pytest.raises(ValueError, match=r"0\.2 is not in the circuit"):
        minimality_score(score, [(0, 0), (0, 1)], (0, 2))
    with pytest.raises(ValueError, match="11 nodes have too many subsets"):
        minimality_score(score, [(layer, head) for layer in range(2) for head in range(6)], (0, 0))


# ---- GPT-2's published circuit, on a model that has no circuit: the code runs, and the claims are refused


def test_the_comparison_with_gpt2_runs_and_refuses_random_weights(monkeypatch, capsys):
    """Twelve layers of twelve heads with random weights. This proves that every number can be computed, and that the
    comparison can fail; that the numbers agree on the real gpt2, .github/workflows/gpt2.yml has to show."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = GPT2LMHeadModel(GPT2Config(n_embd=48, vocab_size=796, n_positions=32, bos_token_id=0, eos_token_id=0))
    model = models.bridge(network, recipes.model("pocket").tokenizer, device="cpu")
    with torch.no_grad():
        measured = gpt2_ioi.measure(model, n=12)
    assert all(value == value for value in measured.values())
    assert len(set(measured["hurt most when patched"])) == 3 and len(set(measured["help most when patched"])) == 2
    refused = [sentence for sentence, holds in gpt2_ioi.CLAIMS if not holds(measured)]
    assert len(refused) >= 4 and any("3.56" in sentence for sentence in refused)
    good = {
        **measured,
        **gpt2_ioi.PAPER.numbers,
        "hurt most when patched": [(9, 9), (10, 0), (9, 6)],
        "help most when patched": [(10, 7), (11, 10)],
        "name movers copy": 1.0,
    }
    monkeypatch.setattr(gpt2_ioi.models, "load", lambda name: model)
    for result, code in ((measured, 1), (good, 0)):
        monkeypatch.setattr(gpt2_ioi, "measure", lambda model, result=result: result)
        assert gpt2_ioi.main() == code
        said = capsys.readouterr().out
        assert said.count("NOT SO: ") == len(refused) * code and "logit difference: " in said


def test_the_papers_prompts():
    prompts = gpt2_ioi.prompts(recipes.model("pocket").tokenizer, 20)
    for prompt in prompts:
        words, twin = prompt.text.replace(",", " ,").split(), prompt.corrupted.replace(",", " ,").split()
        assert len(words) == len(twin) and sum(a != b for a, b in zip(words, twin)) == 3
        assert words.count(prompt.distractor.strip()) == 2 and words.count(prompt.answer.strip()) == 1
        assert not {prompt.answer.strip(), prompt.distractor.strip()} & set(twin)
    assert {prompt.labels["order"] for prompt in prompts} == {"ABBA", "BABA"}
