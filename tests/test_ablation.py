"""Ablations of one head: against edits written out, and on a head whose loss is known."""

import pytest
import torch

from mechlib.ablation import ablate_head
from mechlib.checker import recipes
from mechlib.handmade import handmade

TOKENS = torch.tensor([[0, 3, 4, 5, 3], [0, 6, 7, 8, 6]])
REFERENCE = torch.tensor([[0, 9, 4, 2, 3], [0, 5, 6, 7, 8]])
MODELS = {
    "gpt2": lambda: recipes.gpt2(1),
    "processed": lambda: recipes.gpt2(1, processed=True),
    "attn-only-2l": lambda: recipes.model("attn-only-2l"),
    "pocket": lambda: recipes.model("pocket"),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_heads_part_of_the_attention_output_is_exchanged(name):
    model = MODELS[name]()
    cache, other = model.run_with_cache(TOKENS)[1], model.run_with_cache(REFERENCE)[1]
    z, theirs = cache["z", 1][:, :, 1], other["z", 1][:, :, 1]
    wanted = {
        "zero": torch.zeros_like(z),
        "mean": theirs.mean(dim=0, keepdim=True).expand_as(z),
        "resample": theirs,
    }
    for method, value in wanted.items():
        output = cache["attn_out", 1] + (value - z) @ model.W_O[1, 1]
        hooks = [("blocks.1.hook_attn_out", lambda _, hook, output=output: output)]
        expected = model.run_with_hooks(TOKENS, fwd_hooks=hooks)
        found = ablate_head(model, TOKENS, 1, 1, method, None if method == "zero" else REFERENCE)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert recipes.witness(model)["hooks left"] == 0


def test_a_known_head():
    """Head 0.0 of `indirect` is half of the answer's way: at zero the answer is 0, resampled it is the other's."""
    model = handmade("indirect", device="cpu")
    yes, no = model.to_single_token("yes"), model.to_single_token("no")
    one, both = model.to_tokens("1 ="), model.to_tokens(["1 =", "0 ="])
    found = {
        "zero": ablate_head(model, one, 0, 0, "zero"),
        "mean": ablate_head(model, one, 0, 0, "mean", both),
        "resample": ablate_head(model, one, 0, 0, "resample", model.to_tokens("0 =")),
    }
    differences = {method: (logits[0, -1, yes] - logits[0, -1, no]).item() for method, logits in found.items()}
    assert differences == pytest.approx({"zero": 0, "mean": 0, "resample": -4}, abs=1e-4)


@pytest.mark.parametrize(
    ("method", "reference", "sentence"),
    [
        ("none", None, "method is"),
        ("mean", None, "need reference"),
        ("resample", None, "need reference"),
        ("mean", REFERENCE[:, :4], "prompts of equal length"),
        ("resample", REFERENCE[:, :4], "prompts of equal length"),
        ("resample", torch.cat([REFERENCE, REFERENCE]), "The other run had 4 prompts"),
    ],
)
def test_what_is_refused(method, reference, sentence):
    with pytest.raises(ValueError, match=sentence):
        ablate_head(recipes.gpt2(1), TOKENS, 0, 0, method, reference)
