"""The residual stream's parts add up; they agree with TransformerLens's own; weights say what hand-written heads do."""

import pytest
import torch

from mechlib import decomposition as d
from mechlib import models, weights
from mechlib.checker import recipes
from mechlib.handmade import BLUEPRINTS, handmade

MODELS = {
    "random": lambda: recipes.gpt2(3),
    "random, processed": lambda: recipes.gpt2(3, processed=True),
    "random, attention only": lambda: recipes.gpt2(4, attention_only=True),
    "pocket": lambda: recipes.model("pocket"),
    "pocket, processed": lambda: recipes.model("pocket", processed=True),
    "attn-only-2l": lambda: recipes.model("attn-only-2l"),
    "attn-only-2l, processed": lambda: recipes.model("attn-only-2l", processed=True),
}
TOKENS = torch.tensor([[0, 3, 4, 5, 7, 9], [0, 5, 6, 16, 3, 3]])
ANSWERS = torch.tensor([[2, 3], [9, 4]])


@pytest.fixture(params=MODELS)
def run(request):
    model = MODELS[request.param]()
    with torch.no_grad():
        logits, cache = model.run_with_cache(TOKENS)
    return model, logits, cache


def adds_up(parts, whole) -> bool:
    """Within 1e-4 of the sum of absolute parts (and the rounding of numbers that are made of ones of size 1)."""
    return bool(((sum(parts) - whole).abs() <= 1e-4 * sum(part.abs() for part in parts) + 1e-6).all())


def difference(logits):
    right, wrong = logits[:, -1].gather(1, ANSWERS).T
    return right - wrong


def all_parts(model, cache):
    """The stream with every attention layer split into its heads and bias."""
    parts = d.residual_components(model, cache)
    for layer in range(model.cfg.n_layers):
        del parts[f"{layer}_attn_out"]
        parts |= d.head_outputs(model, cache, layer)
    return parts


def test_parts_add_up(run):
    model, logits, cache = run
    final = cache["resid_post", model.cfg.n_layers - 1]
    for parts in (d.residual_components(model, cache), all_parts(model, cache)):
        assert adds_up(parts.values(), final)
        attribution = d.direct_logit_attribution(model, cache, parts, ANSWERS)
        assert list(attribution) == [*parts, "bias"]
        assert adds_up(attribution.values(), difference(logits))
        for name, part in parts.items():  # and without any one that writes something they do not
            if part.abs().max() == 0:
                continue
            assert not adds_up([parts[other] for other in parts if other != name], final)


def test_heads_sources_and_scores_add_up(run):
    model, _, cache = run
    parts, allowed = d.residual_components(model, cache), torch.ones(6, 6).tril().bool()
    for layer in range(model.cfg.n_layers):
        heads = d.head_outputs(model, cache, layer)
        assert adds_up(heads.values(), cache["attn_out", layer])
        before = {name: parts[name] for name in list(parts)[: 2 + 2 * layer]}
        for head in range(model.cfg.n_heads):
            by_source = d.outputs_by_source(model, cache, layer, head)
            assert adds_up(by_source.unbind(dim=2), heads[f"{layer}.{head}"])
            scores = d.attention_score_parts(model, cache, layer, head, before).flatten(3)
            assert adds_up(scores[:, allowed].unbind(dim=-1), cache["attn_scores", layer][:, head][:, allowed])


def test_components_and_heads_agree_with_transformer_lens(run):
    model, _, cache = run
    stack, labels = cache.decompose_resid(return_labels=True)
    ours = d.residual_components(model, cache)
    assert list(ours) == labels
    torch.testing.assert_close(torch.stack(list(ours.values())), stack)
    theirs = cache.stack_head_results(layer=-1)
    heads = [part for name, part in all_parts(model, cache).items() if name[-1].isdigit()]
    torch.testing.assert_close(torch.stack(heads), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in MODELS if "processed" in name])
def test_attribution_agrees_with_transformer_lens_on_processed_weights(name):
    """On raw weights TransformerLens's leaves ln_final's weight out; on both it has no entry for the biases."""
    model = MODELS[name]()
    _, cache = model.run_with_cache(TOKENS)
    stack, labels = cache.decompose_resid(return_labels=True)
    last = stack[:, :, -1:]
    theirs = cache.logit_attrs(last, tokens=ANSWERS[:, 0], incorrect_tokens=ANSWERS[:, 1], pos_slice=slice(-1, None))
    ours = d.direct_logit_attribution(model, cache, d.residual_components(model, cache), ANSWERS)
    torch.testing.assert_close(
        torch.stack([ours[label] for label in labels]), theirs.reshape(len(labels), 2), rtol=1e-3, atol=1e-4
    )
    b_U = model.b_U[ANSWERS]
    torch.testing.assert_close(ours["bias"], b_U[:, 0] - b_U[:, 1])
    assert ours["bias"].abs().min() > 1e-4


def test_circuits_agree_with_transformer_lens(run):
    model, _, _ = run
    for layer, head in [(0, 1), (1, 0)]:
        torch.testing.assert_close(weights.ov_circuit(model, layer, head), model.OV[layer, head].AB)
        torch.testing.assert_close(weights.qk_circuit(model, layer, head), model.QK[layer, head].AB)


def test_effects_of_the_model_written_by_hand():
    """The planner acts only indirectly, the mirage only directly; see its docstring."""
    model = handmade("indirect")
    tokens = model.to_tokens("1 =")
    answers = torch.tensor([[model.tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no")]])
    for head, direct, total in [((0, 0), 0.0, 4.0), ((0, 1), 4.0, 0.0), ((1, 0), -4.0, -4.0)]:
        assert d.direct_effect(model, tokens, *head, answers).item() == pytest.approx(direct, abs=1e-4)
        assert d.ablation_effect(model, tokens, *head, answers).item() == pytest.approx(total, abs=1e-4)


def test_effects_by_hand(run):
    model, logits, cache = run
    layer, head = 1, 0
    mean = cache["z", layer][:, :, head].mean(dim=0, keepdim=True)
    for replacement in (0.0, mean):
        z = cache["z", layer].clone()
        z[:, :, head] = replacement
        attention = torch.einsum("bphd,hdm->bpm", z, model.W_O[layer]) + model.b_O[layer]
        final = cache["resid_post", model.cfg.n_layers - 1] - cache["attn_out", layer] + attention
        centred = final - final.mean(dim=-1, keepdim=True)
        normal = centred / (centred.pow(2).mean(dim=-1, keepdim=True) + model.cfg.eps).sqrt()
        without = (normal * model.ln_final.weight + model.ln_final.bias) @ model.W_U + model.b_U
        effect = d.direct_effect(model, TOKENS, layer, head, ANSWERS, replacement)
        torch.testing.assert_close(effect, difference(logits) - difference(without), rtol=1e-3, atol=1e-4)
        edit = [("blocks.1.hook_attn_out", lambda _, hook, attention=attention: attention)]
        without = model.run_with_hooks(TOKENS, fwd_hooks=edit)
        effect = d.ablation_effect(model, TOKENS, layer, head, ANSWERS, replacement)
        torch.testing.assert_close(effect, difference(logits) - difference(without), rtol=1e-3, atol=1e-4)


def test_nothing_stays_on_the_model(run):
    model, _, _ = run
    d.get_activation(model, TOKENS, "blocks.1.hook_resid_pre")
    d.ablation_effect(model, TOKENS, 0, 1, ANSWERS)
    assert recipes.witness(model)["hooks left"] == 0


def test_reading(run):
    model, logits, cache = run
    name = "blocks.1.attn.hook_z"
    assert torch.equal(d.get_activation(model, TOKENS, name), cache[name])
    with pytest.raises(KeyError, match="no hook point 'blocks.99"):
        d.get_activation(model, TOKENS, "blocks.99.attn.hook_z")
    text = model.tokenizer.decode(TOKENS[0, 1:])
    table = d.next_token_table(model, text, k=3)
    expected = model(model.to_tokens(text))[0, -1].softmax(dim=-1)
    assert [p for _, p in table] == sorted(expected.tolist(), reverse=True)[:3]


def test_virtual_weights():
    generator = torch.Generator().manual_seed(0)
    write, read = torch.randn(40, 5, 200, generator=generator), torch.randn(40, 200, 7, generator=generator)
    strengths = weights.virtual_weights(write, read)
    assert strengths.shape == (40,)
    assert strengths.mean().item() == pytest.approx(200**-0.5, rel=0.03)  # unrelated matrices
    line = torch.randn(1, 9, generator=generator)
    torch.testing.assert_close(weights.virtual_weights(line, -3 * line.T), torch.tensor(1.0))


def test_virtual_weights_find_the_wiring_of_a_model_written_by_hand():
    """In the diamond, A's output is read by the values of B and C and of nobody else in the next layer."""
    plan = BLUEPRINTS["diamond"](seed=0)
    model = plan.build("cpu")
    strength = [weights.virtual_weights(model.W_O[0, 1], model.W_V[1, head]).nan_to_num().item() for head in range(3)]
    assert strength == pytest.approx([1.0, 0.0, 1.0], abs=1e-4)
    a, b = plan.directions(plan.spaces["a"]), plan.directions(plan.spaces["b"])
    torch.testing.assert_close(a @ weights.ov_circuit(model, 1, 0), b, rtol=1e-4, atol=1e-5)


def test_effective_dimensions():
    matrix = torch.diag(torch.tensor([2.0, 2.0, 2.0, 0.0]))
    assert weights.effective_dimensions(matrix).item() == pytest.approx(3)
    assert weights.effective_dimensions(torch.ones(5, 4)).item() == pytest.approx(1)


def test_what_is_not_supported_is_said():
    from types import SimpleNamespace as Config

    rotary = Config(cfg=Config(normalization_type="LN", positional_embedding_type="rotary", n_heads=4))
    other_norm = Config(cfg=Config(normalization_type="RMS", positional_embedding_type="standard"))
    grouped = Config(cfg=Config(n_heads=4, n_key_value_heads=2))
    with pytest.raises(ValueError, match="needs LayerNorm"):
        d.residual_components(other_norm, {})
    with pytest.raises(ValueError, match="absolute positions"):
        d.residual_components(rotary, {})
    with pytest.raises(ValueError, match="rotary"):
        weights.qk_circuit(rotary, 0, 0)
    with pytest.raises(ValueError, match="groups"):
        weights.ov_circuit(grouped, 0, 0)


def test_a_model_of_gpt2s_shape():
    """A random twin of a folder in GPT-2's own layout, tied embeddings and all."""
    model = models.random_twin("pocket", seed=1)
    with torch.no_grad():
        logits, cache = model.run_with_cache(TOKENS)
    attribution = d.direct_logit_attribution(model, cache, all_parts(model, cache), ANSWERS)
    assert adds_up(attribution.values(), difference(logits))
