"""ioi-known: a model whose circuit is known because training put it there."""

import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mechlib import models, tasks
from mechlib.models import circuit as truth
from mechlib.models import interchange as i
from mechlib.models.evaluate import load_plain
from mechlib.recipes import corpus, ioi_known, train
from mechlib.recipes.interchange_training import OWN, edited, run, unembed
from mechlib.tasks import held_out

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import known_circuits

SHORT = replace(ioi_known.RECIPE, steps=6, save_every=2, probe=None)
KNOWN = ("ioi-known", "ioi-known-seed-1", "ioi-known-hard")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def shipped():
    """name -> model and truth, loaded once."""
    loaded = {name: (models.load(name, device="cpu"), models.truth(name)) for name in KNOWN}
    return loaded.__getitem__


# ---- the truth file


def test_the_truth_file_is_read_as_it_was_written(tmp_path):
    circuit = ioi_known.UNEQUAL
    truth.write(circuit, tmp_path / truth.FILE)
    assert models.truth(tmp_path) == truth.read(tmp_path / truth.FILE) == circuit
    assert circuit.heads("name mover") == ((2, 1), (2, 2), (2, 3))
    assert circuit.heads() == ((0, 1), (0, 2), (1, 0), (1, 3), (2, 1), (2, 2), (2, 3), (3, 0))
    for variable in circuit.variables:
        assert sum(node.share for node in circuit.group(variable)) == pytest.approx(1)
    with pytest.raises(ValueError, match="no variable 'induction'; there are duplicate, s-inhibition"):
        circuit.group("induction")


def test_no_truth_and_a_damaged_one(tmp_path):
    with pytest.raises(models.ModelError, match="no truth.json for 'pocket'.*ioi-known, ioi-known-hard"):
        models.truth("pocket")
    (tmp_path / truth.FILE).write_text('{"task": "ioi", "nodes": []}')
    with pytest.raises(models.ModelError, match="damaged: KeyError: 'variables'"):
        models.truth(tmp_path)


# ---- training


@pytest.fixture(scope="module")
def untrained():
    torch.manual_seed(0)
    model = train.build(SHORT, SHORT.tokenizer(), 0).eval()
    batch = ioi_known.to_batch(ioi_known.draw_pairs(random.Random(0), 8))
    with torch.no_grad():
        return model, batch, run(model, batch.tokens, model.transformer.wte.weight)


def test_the_quick_forward_pass_is_the_models_own(untrained):
    model, batch, clean = untrained
    with torch.no_grad():
        torch.testing.assert_close(
            unembed(model, clean.resid, model.transformer.wte.weight), model(batch.tokens).logits, atol=1e-4, rtol=1e-4
        )


def test_an_edit_takes_what_its_origin_says(untrained):
    """Against transformers' own modules, with hooks."""
    model, batch, clean = untrained
    words, rows, length, end = model.transformer.wte.weight, 8, batch.tokens.shape[1], batch.at("end")
    origin = torch.full((rows, length, ioi_known.LAYERS, ioi_known.HEADS + 1), OWN)
    with torch.no_grad():
        same = edited(model, batch.tokens[:rows], words, clean, origin, end)
        torch.testing.assert_close(same.resid, clean.resid[:rows])
        origin[:, 5, 1, 2] = 3 * length + 7  # head 1.2 at position 5, from row 3's position 7
        origin[:, 6, 2, -1] = 2 * length + 1  # MLP 2 at position 6, from row 2's position 1
        origin[:, 4, 3, 0] = len(batch.tokens) * length  # head 3.0 at position 4: zero
        origin[:, 9, 3, 1] = len(batch.tokens) * length + 1  # head 3.1 at position 9: the mean at the ends
        changed = edited(model, batch.tokens[:rows], words, clean, origin, end)
        size = ioi_known.WIDTH // ioi_known.HEADS

        def put(layer, position, head, value):
            def hook(module, args):
                args[0][:, position, head * size : (head + 1) * size] = value

            return model.transformer.h[layer].attn.c_proj.register_forward_pre_hook(hook)

        def put_mlp(module, args, out):
            out[:, 6] = clean.mlp[2][2, 1]

        mean = clean.z[3][torch.arange(len(end)), end, 1].mean(dim=0)
        handles = [put(1, 5, 2, clean.z[1][3, 7, 2]), put(3, 4, 0, 0.0), put(3, 9, 1, mean)]
        handles.append(model.transformer.h[2].mlp.register_forward_hook(put_mlp))
        expected = model(batch.tokens[:rows]).logits
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(unembed(model, changed.resid, words), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(changed.resid, clean.resid[:rows])


def test_the_prompts_and_the_causal_model():
    rng = random.Random(1)
    prompts = ioi_known.draw_pairs(rng, 100)
    words = ioi_known.vocabulary()
    for prompt, partner in zip(prompts[:100], prompts[100:]):
        assert (prompt.first, prompt.second) == (partner.first, partner.second)
    batch = ioi_known.to_batch(prompts)
    values = [prompt.value for prompt in prompts]
    assert min(map(values.count, (0, 1, 2))) > 15
    for n, prompt in enumerate(prompts):
        first, second, s2 = (words[prompt.tokens[at]] for at in (prompt.first, prompt.second, prompt.s2))
        assert {first: 0, second: 1}.get(s2, 2) == prompt.value
        assert not corpus.name_leaks({first, second, s2}) and not held_out.NAMES & {first, second, s2}
        likely = {words[j]: p for j, p in enumerate(ioi_known.answer(batch, n, prompt.value).tolist()) if p}
        assert likely == [{second: 1.0}, {first: 1.0}, {first: 0.5, second: 0.5}][prompt.value]


def test_a_plan_edits_what_it_says():
    """Resampling leaves the circuit's nodes alone; an interchange takes them from their position in the source."""
    rng = random.Random(2)
    batch = ioi_known.to_batch(ioi_known.draw_pairs(rng, 16))
    everything = replace(ioi_known.STRICT, calm=0, storm=1, aligned=0, interchange=0, part=0)
    plan, length = ioi_known.Plan(rng, batch, ioi_known.EVEN, everything), batch.tokens.shape[1]
    for row, prompt in enumerate(batch.prompts[:16]):
        own = {tuple(place) for place in (plan.origin[row] == OWN).nonzero().tolist()}
        assert own == {(getattr(prompt, node.at), node.layer, node.head) for node in ioi_known.EVEN.nodes}
        positions = torch.arange(length)[:, None, None].expand_as(plan.origin[row])
        taken = plan.origin[row] != OWN
        assert (plan.origin[row][taken] % length == positions[taken]).all()
        source = batch.prompts[row + 16]
        target = plan.interchange(row, "duplicate")
        for node in ioi_known.EVEN.group("duplicate"):
            assert plan.origin[row, prompt.s2, node.layer, node.head] == (row + 16) * length + source.s2
        assert torch.equal(target, ioi_known.answer(batch, row, source.value))
    part = replace(everything, part=1)
    votes = ioi_known.Plan(rng, batch, ioi_known.UNEQUAL, part).interchange(0, "s-inhibition").unique().tolist()
    assert all(min(abs(vote - x) for x in (0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1)) < 1e-6 for vote in votes)


def test_interrupted_training_ends_with_the_same_weights(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.train(SHORT, whole, seed=1, quiet=True)
    train.train(SHORT, parts, seed=1, stop_after=3, quiet=True)
    train.train(SHORT, parts, seed=1, quiet=True)
    one, other = (load_plain(folder)[0].state_dict() for folder in (whole, parts))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_model_that_misses_a_gate_is_refused(tmp_path, capsys):
    assert train.main(["ioi-known", "--steps", "2", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "not reached: ioi, unseen pairs of names" in said and "interchange, duplicate, unseen names" in said
    card = json.loads((tmp_path / "card.json").read_text())
    assert "interchange, name mover, unseen wordings" in card["not reached"]
    assert models.truth(tmp_path).heads() == ioi_known.EVEN.heads()  # the intended circuit: the card says it failed


# ---- the shipped models


@pytest.mark.parametrize("name", KNOWN)
def test_every_variable_answers_to_an_interchange(name, shipped):
    model, circuit = shipped(name)
    for split in i.SPLITS.values():
        subject = i.Subject(model, model.tokenizer, split, 60)
        for variable in circuit.variables:
            if variable != i.BACKUP:
                assert i.interchange_accuracy(subject, circuit, variable) >= 0.95


@pytest.mark.parametrize("name", KNOWN[:2])
def test_the_other_models_map_is_wrong_here(name, shipped):
    """The control: the same measurements tell the right circuit from another one."""
    model, _ = shipped(name)
    _, other = shipped(KNOWN[1 - KNOWN.index(name)])
    subject = i.Subject(model, model.tokenizer, "held-out pairs", 60)
    assert i.interchange_accuracy(subject, other, "s-inhibition") < 0.1
    assert subject.kept(i.resampled(subject, other.nodes)) < 0.5


@pytest.mark.parametrize("name", KNOWN)
def test_the_truth_is_measured(name, shipped):
    model, circuit = shipped(name)
    again = i.measure(model, model.tokenizer, circuit)
    for node, twin in zip(circuit.nodes, again.nodes):
        assert node.attention == pytest.approx(twin.attention, abs=0.02)
        assert (node.vote is None) == (node.variable == i.BACKUP)
        assert node.vote is None or node.vote == pytest.approx(twin.vote, abs=0.02)
    for edge, twin in zip(circuit.edges, again.edges):
        assert edge.undone == pytest.approx(twin.undone, abs=0.02) and edge.undone > 0.9


def test_the_two_seeds_have_different_circuits(shipped):
    one, other = (shipped(name)[1] for name in KNOWN[:2])
    assert one.variables == other.variables
    for variable in one.variables:
        assert set(one.heads(variable)) != set(other.heads(variable))


def test_the_backup_wakes_when_the_name_movers_are_removed(shipped):
    model, circuit = shipped("ioi-known-hard")
    subject = i.Subject(model, model.tokenizer, "held-out pairs", 60)
    measured = i.knock_outs(subject, circuit)
    assert measured["accuracy without the name movers"] > 0.85
    awake = measured["logit difference kept without the name movers"]
    assert awake > 2 * abs(measured["logit difference kept without the name movers and the backup"])
    assert measured["logit difference kept without the backup"] > 0.85
    plain, _ = shipped("ioi-known")  # the control: no backup, no answer
    subject = i.Subject(plain, plain.tokenizer, "held-out pairs", 60)
    assert abs(subject.kept(i.removed(subject, shipped("ioi-known")[1].group("name mover")))) < awake / 3


def test_patching_and_attribution_find_the_other_seeds_heads():
    """Thresholds fixed on one model, scored on another with another circuit."""
    first, second = (known_circuits.head_scores(name, n=100) for name in KNOWN[:2])
    for method, scores in first.items():
        one, other = (known_circuits.to_find(models.truth(name), method) for name in KNOWN[:2])
        threshold = known_circuits.fix_threshold(scores, one)
        precision, recall = known_circuits.precision_recall(known_circuits.found(second[method], threshold), other)
        assert precision == 1 and recall >= 0.6  # of three name movers, one is weaker than any head of the first model
        assert known_circuits.precision_recall(known_circuits.found(second[method], 0.1), other) == (1, 1)


def test_path_patching_from_the_logits_back_finds_the_other_seeds_circuit():
    """With its roles and its edges. The control: from the middle of the first model's gap, a name mover is missed."""
    with torch.no_grad():
        runs, truth = known_circuits.Runs.of("ioi-known-seed-1", 24), models.truth("ioi-known-seed-1")
        circuit, _ = known_circuits.trace(runs, 0.069)
        assert set(circuit.nodes) == {(*node.place, node.at) for node in truth.nodes}
        assert known_circuits.kept(runs, circuit, mlps=True).ratio == pytest.approx(1, abs=0.1)
        groups = {node.place: node.variable for node in truth.nodes}
        said = {
            (groups[e.source[:2]], e.part, "logits" if e.target == "logits" else groups[e.target[:2]])
            for e in circuit.edges
        }
        assert said == {
            ("duplicate", "v", "s-inhibition"),
            ("s-inhibition", "q", "name mover"),
            ("name mover", "", "logits"),
        }
        assert len(circuit.edges) == 3 + 2 * 3 + 2 * 2
        missed = set(truth.heads()) - known_circuits.heads_of(known_circuits.trace(runs, 0.246)[0])
    assert missed == {(3, 2)}


def test_a_threshold_by_hand():
    scores = torch.tensor([[0.1, 0.9], [0.5, 0.2]])
    assert known_circuits.found(scores, 0.4) == {(0, 1), (1, 0)}
    assert known_circuits.fix_threshold(scores, {(0, 1), (1, 0)}) == pytest.approx(0.35)


def test_sources_and_donors():
    tokenizer = ioi_known.tokenizer()
    prompts, source = i.sources(tasks.ioi(tokenizer, 100, split="held-out pairs"))
    data = i.sample(tokenizer, prompts)
    assert (data.at["io"][source] == data.at["s1"]).all() and (data.at["s1"][source] == data.at["io"]).all()
    assert (data.at["end"][i.donors(data)] >= data.at["end"]).all()
    for role, token in (("io", data.io), ("s1", data.s), ("s2", data.s)):
        assert (data.tokens[torch.arange(len(data)), data.at[role]] == token).all()
