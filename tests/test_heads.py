"""Head scores and measures of weights: against TransformerLens's own, against loops, and on a circuit that is known."""

import pytest
import torch
from transformer_lens import ActivationCache
from transformer_lens.head_detector import detect_head

from mechlib import heads, tasks
from mechlib.checker import recipes
from mechlib.handmade import handmade

TOKENS = torch.tensor([[0, 3, 4, 5, 3, 4, 5], [0, 6, 7, 7, 8, 6, 9], [0, 4, 5, 6, 7, 8, 9]])
MODELS = {
    "gpt2": lambda: recipes.gpt2(1),
    "processed": lambda: recipes.gpt2(1, processed=True),
    "attention only": lambda: recipes.gpt2(2, attention_only=True),
    "attn-only-2l": lambda: recipes.model("attn-only-2l"),
    "pocket": lambda: recipes.model("pocket"),
    "induction": lambda: handmade("induction", device="cpu"),
}


@pytest.fixture(params=MODELS)
def run(request):
    model = MODELS[request.param]()
    logits, cache = model.run_with_cache(TOKENS)
    return model, logits, cache


def test_loss_is_the_models_own(run):
    model, logits, _ = run
    expected = model(TOKENS, return_type="loss", loss_per_token=True)
    torch.testing.assert_close(heads.per_token_loss(logits, TOKENS), expected)


@pytest.mark.parametrize("name", ["gpt2", "attn-only-2l"])
def test_pattern_scores_agree_with_transformer_lens(name):
    """Its detector divides by all attention, one unit a position; ours by the positions that can have any."""
    model = MODELS[name]()
    for row in TOKENS:
        text = " ".join(model.tokenizer.convert_ids_to_tokens(row[1:]))
        assert torch.equal(model.to_tokens(text), row[None])
        _, cache = model.run_with_cache(row[None])
        alone = ActivationCache({k: v[0] for k, v in cache.cache_dict.items()}, model, has_batch_dim=False)
        pattern = torch.stack([cache["pattern", layer] for layer in range(model.cfg.n_layers)])
        earlier = heads.earlier_occurrences(row[None])[0]
        asked = earlier.any(dim=-1).sum().item()
        n = len(row)
        scores = {
            "previous_token_head": (heads.previous_token_score, (), n - 1),
            "duplicate_token_head": (heads.duplicate_token_score, (row[None],), asked),
            "induction_head": (heads.induction_score, (row[None],), asked),
        }
        for kind, (score, arguments, count) in scores.items():
            theirs = detect_head(model, text, kind, cache=alone)
            ours = torch.stack([score(p, *arguments) for p in pattern]) * count / n
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def naive_induction(pattern, tokens):
    total, asked = torch.zeros(pattern.shape[1]), 0
    for b, row in enumerate(tokens.tolist()):
        for query in range(len(row)):
            keys = [k + 1 for k in range(query) if row[k] == row[query]]
            asked += bool(keys)
            for key in keys:
                total += pattern[b, :, query, key]
    return total / max(asked, 1)


def test_induction_score_is_the_loop(run):
    model, _, cache = run
    for layer in range(model.cfg.n_layers):
        pattern = cache["pattern", layer]
        torch.testing.assert_close(heads.induction_score(pattern, TOKENS), naive_induction(pattern, TOKENS))


def test_without_a_recurring_token_the_scores_are_zero():
    pattern = torch.ones(1, 2, 4, 4).tril() / torch.arange(1, 5)[:, None]
    tokens = torch.tensor([[1, 2, 3, 4]])
    assert heads.induction_score(pattern, tokens).tolist() == heads.duplicate_token_score(pattern, tokens).tolist()
    assert heads.induction_score(pattern, tokens).tolist() == [0, 0]


def test_the_hand_written_circuit_is_found():
    model = handmade("induction", device="cpu")
    tokens = torch.cat([torch.zeros(1, dtype=torch.long), torch.arange(2, 14).repeat(2)])[None]
    _, cache = model.run_with_cache(tokens)
    previous = torch.stack([heads.previous_token_score(cache["pattern", layer]) for layer in (0, 1)])
    induction = torch.stack([heads.induction_score(cache["pattern", layer], tokens) for layer in (0, 1)])
    idle = sum(1 / (q + 1) for q in range(1, 25)) / 24  # even attention
    assert previous[0, 1] > 0.9999 and induction[1, 0] > 0.9999
    assert previous.flatten()[[0, 2, 3]].max() < idle + 0.01
    assert induction.flatten()[[0, 1, 3]].max() < 0.1


def test_composition_agrees_with_transformer_lens(run):
    model, _, _ = run
    if (model.W_V.abs().amax(dim=(-2, -1)) == 0).any():
        pytest.skip("idle heads have no norm")
    for side in ("Q", "K", "V"):
        theirs = model.all_composition_scores(side).scores
        torch.testing.assert_close(heads.composition_scores(model, side), theirs, atol=1e-5, rtol=1e-4)


def test_composition_is_one_where_all_is_read_and_zero_where_nothing_is():
    first, second = torch.diag(torch.tensor([1.0, 1, 0, 0])), torch.diag(torch.tensor([0.0, 0, 1, 1]))
    one = torch.outer(torch.tensor([1.0, 0, 0, 0]), torch.tensor([0.0, 0, 1, 0]))
    assert heads.composition_score(first, second, "V") == 0
    assert heads.composition_score(one, one, "K") == 1  # the key side of the reader is what the writer writes
    assert heads.composition_score(one, one, "Q") == 0
    with pytest.raises(ValueError, match="side is"):
        heads.composition_score(one, one, "k")


def test_the_baseline_of_composition_keeps_sizes_and_breaks_the_fit():
    draw = torch.Generator().manual_seed(0)
    writer = torch.randn(20, 3, generator=draw) @ torch.randn(3, 20, generator=draw)
    reader = writer.T.contiguous()
    assert heads.composition_score(writer, reader, "V") > 0.5
    scores = heads.composition_baseline(writer, reader, "V", 200, draw)
    assert scores.shape == (200,) and 0.1 < scores.mean() < 0.35 and scores.min() > 0
    again = heads.composition_baseline(writer, reader, "V", 5, torch.Generator().manual_seed(1))
    assert torch.equal(again, heads.composition_baseline(writer, reader, "V", 5, torch.Generator().manual_seed(1)))


def test_copying_of_a_known_circuit():
    model = handmade("induction", device="cpu")
    top, eigen = heads.copying_score(model.W_E, model.W_V[1, 0], model.W_O[1, 0], model.W_U)
    assert top == 1 and eigen == pytest.approx(1, abs=1e-3)
    top, eigen = heads.copying_score(model.W_E, model.W_V[1, 0], -model.W_O[1, 0], model.W_U)
    assert top == 0 and eigen == pytest.approx(-1, abs=1e-3)


def test_copying_is_what_the_whole_circuit_says():
    model = recipes.gpt2(1)
    W_E, W_V, W_O, W_U = model.W_E, model.W_V[1, 0], model.W_O[1, 0], model.W_U
    circuit = W_E @ W_V @ W_O @ W_U
    eigenvalues = torch.linalg.eigvals(circuit.double())
    top, eigen = heads.copying_score(W_E, W_V, W_O, W_U)
    assert top.item() == pytest.approx((circuit.argmax(-1) == torch.arange(17)).float().mean().item())
    assert eigen.item() == pytest.approx((eigenvalues.real.sum() / eigenvalues.abs().sum()).item(), abs=1e-4)
    draws = [
        torch.randn(1, *W.shape, generator=torch.Generator().manual_seed(i)) for i in range(60) for W in (W_V, W_O)
    ]
    random = [heads.copying_score(W_E, v[0], o[0], W_U)[1] for v, o in zip(draws[::2], draws[1::2])]
    assert abs(torch.stack(random).mean()) < 0.2


@pytest.mark.parametrize("name", ["gpt2", "attn-only-2l"])
def test_positional_attention_is_the_pattern_on_average_tokens(name):
    model = MODELS[name]()
    x = (model.W_pos + model.W_E.mean(0))[: TOKENS.shape[1]]
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda value, hook: x[None].clone())]):
        _, cache = model.run_with_cache(TOKENS[:1])
    for head in range(model.cfg.n_heads):
        weights = [getattr(model, weight)[0, head] for weight in ("W_Q", "b_Q", "W_K", "b_K")]
        pattern = heads.positional_attention(model.blocks[0].ln1(x[None])[0], *weights)
        torch.testing.assert_close(pattern, cache["pattern", 0][0, head], atol=1e-5, rtol=1e-4)


def test_attributions_and_the_rest_make_up_the_logits(run):
    """Heads, biases, MLPs and embeddings through the same linear map are the logit less the average logit."""
    model, logits, cache = run
    targets = TOKENS.roll(-1, dims=1)
    parts = heads.head_logit_attribution(model, cache, targets).sum(dim=(0, 1))
    rest = cache["resid_pre", 0] + sum(
        cache["mlp_out", layer] + model.b_O[layer] for layer in range(model.cfg.n_layers)
    )
    centred = rest - rest.mean(dim=-1, keepdim=True)
    normed = centred / cache["ln_final.hook_scale"] * model.ln_final.weight + model.ln_final.bias
    W_U, b_U = model.W_U, model.b_U
    others = normed @ W_U + b_U
    total = (others - others.mean(-1, keepdim=True)).gather(-1, targets[..., None])[..., 0] + parts
    expected = (logits - logits.mean(-1, keepdim=True)).gather(-1, targets[..., None])[..., 0]
    torch.testing.assert_close(total, expected, atol=2e-4, rtol=1e-4)


# ---- the heads of Wang et al. 2023


@pytest.fixture(scope="module")
def ioi_known():
    """The model of known circuit on prompts, on their twins where the other person gives, and where things stand."""
    model = recipes.model("ioi-known")
    prompts = tasks.ioi(model.tokenizer, 40, split="held-out pairs")
    caches = [
        model.run_with_cache(tasks.to_tokens(model.tokenizer, [getattr(p, text) for p in prompts]))[1]
        for text in ("text", "corrupted")
    ]
    at = {role: tasks.positions(prompts, role) for role in ("io", "s1", "end")}
    return model, caches, tasks.answer_tokens(model.tokenizer, prompts), at


def test_name_movers_look_at_io_and_write_it(ioi_known):
    model, (cache, _), answers, at = ioi_known
    attention, written = heads.name_mover_score(model, cache, answers, at["io"], at["end"])
    assert attention.shape == written.shape == (4, 4, 40)
    movers = torch.zeros(4, 4, dtype=torch.bool)
    movers[3, [0, 2]] = True
    assert (attention.mean(dim=-1)[movers] > 0.9).all() and (attention.mean(dim=-1)[~movers] < 0.5).all()
    assert (written.mean(dim=-1)[movers] > 5).all() and (written.mean(dim=-1)[~movers].abs() < 0.5).all()
    targets = [answers[:, i, None].expand(-1, 1 + int(at["end"].max())) for i in (0, 1)]
    io, s = (heads.head_logit_attribution(model, cache, target) for target in targets)
    rows = torch.arange(40)
    torch.testing.assert_close(written, (io - s)[:, :, rows, at["end"]], atol=1e-4, rtol=1e-4)


def test_name_movers_copy_names(ioi_known):
    model, (cache, _), answers, at = ioi_known
    stream = cache["resid_post", 0][torch.arange(40), at["io"]]
    copies = heads.name_copying_score(model, stream, answers[:, 0])
    assert copies[3, 0] == copies[3, 2] == 1 and copies[1].max() < 0.1
    assert heads.name_copying_score(model, stream, answers[:, 0], sign=-1)[3, 0] == 0
    everything = heads.name_copying_score(model, stream, answers[:, 0], k=model.cfg.d_vocab)
    assert (everything == 1).all()
    layer, head = 2, 1
    z = model.blocks[layer].ln1(stream[None])[0] @ model.W_V[layer, head] + model.b_V[layer, head]
    top = model.unembed(model.ln_final((z @ model.W_O[layer, head])[None]))[0].topk(50).indices
    expected = sum(int(token) in row for token, row in zip(answers[:, 0], top.tolist())) / 40
    score = heads.name_copying_score(model, stream, answers[:, 0], k=50)[layer, head]
    assert score.item() == pytest.approx(expected)


def test_s_inhibition_heads_turn_the_name_movers(ioi_known):
    model, (cache, twin), _, at = ioi_known
    movers = [(3, 0), (3, 2)]
    scores = heads.s_inhibition_score(model, cache, twin, movers, at["io"], at["s1"], at["end"])
    assert scores[1, 0] > 0.8 and scores[1, 2] > 0.8
    scores[1, 0] = scores[1, 2] = 0
    assert scores.abs().max() < 0.05
    assert not heads.s_inhibition_score(model, cache, cache, movers, at["io"], at["s1"], at["end"]).any()
    with pytest.raises(ValueError, match="name the name movers first"):
        heads.s_inhibition_score(model, cache, twin, [], at["io"], at["s1"], at["end"])
