"""Induction in `pocket`: which heads copy, and who tells them what came before.

END is the second occurrence of a word; "copied" is the word after its first occurrence, "source": the answer. An
induction head attends from END to "copied". It can find it only if "copied" knows which word stands before it.
"""

from typing import Any

from mechlib import tasks
from tools.look_inside.runs import Batch, blind, from_run
from tools.look_inside.sweeps import attention_from_end, direct_effects, head_effects, share, stream_effects, strongest

N = 200
LAYERS = range(4)


def measure(model: Any, random_model: Any) -> dict[str, Any]:
    prompts = tasks.repeated_tokens(model.tokenizer, N, length=10, start=5)
    batch, control = Batch.of(model, prompts), Batch.of(random_model, prompts)
    twin = batch.twin()
    end, copied, source = batch.at("end"), batch.at("copied"), batch.at("source")
    places = {"the word to copy": copied, "after it": batch.span("copied", "end"), "END": end}
    right = batch.answers[:, 0]
    found: dict[str, Any] = {
        "n": N,
        "accuracy": batch.says(right),
        "difference": batch.score(),
        "random weights": {"accuracy": control.says(right), "difference": control.score()},
        "heads at END": head_effects(batch, twin, end),
        "stream": stream_effects(batch, twin, places),
        "attention": attention_from_end(batch, {"copied": copied, "source": source}),
    }
    # attention from each word to the one before it
    found["previous"] = [
        batch.kept("attn.hook_pattern", layer)[batch.rows, :, copied.long().argmax(1), source.long().argmax(1)].mean(0).tolist()
        for layer in LAYERS
    ]
    found["copiers"] = copiers = strongest(found["heads at END"], 3)
    for n in (1, 2, 3):
        edits = [from_run("head", layer, twin, end, head) for layer, head in copiers[:n]]
        found[f"{n} copiers"] = share(batch, twin, edits)
    edits = [
        from_run("head", layer, twin, end, head)
        for layer in LAYERS
        for head in range(model.cfg.n_heads)
        if (layer, head) not in copiers
    ]
    found["all other heads"] = share(batch, twin, edits)
    layer, head = copiers[0]
    where = (batch.rows, head, end.long().argmax(1), copied.long().argmax(1))
    found["copier's attention"] = batch.kept("attn.hook_pattern", layer)[where].mean().item()

    before = source.roll(-1, dims=1)  # the word before the source
    cuts = {
        "the word to copy cannot see the one before it": blind(LAYERS, copied, source),
        "the word to copy cannot see the one before that": blind(LAYERS, copied, before),
    }
    for one in LAYERS:
        cuts[f"the word to copy cannot see the one before it, layer {one}"] = blind([one], copied, source)
    for one in LAYERS[:2]:
        for h in range(model.cfg.n_heads):
            cuts[f"head {one}.{h} cannot"] = blind([one], copied, source, [h])
    cuts["END cannot see the word to copy"] = blind(LAYERS, end, copied)
    cuts["END cannot see another word"] = blind(LAYERS, end, batch.elsewhere(copied | source | end))
    found["knockout"] = {}
    for what, edits in cuts.items():
        logits, seen = batch.run(edits, watch=(layer, head))
        attention = seen[batch.rows, batch.end, copied.long().argmax(1)].mean().item()
        found["knockout"][what] = {"right": batch.says(right, logits), "attention": attention}
    directions = model.W_U.T[batch.answers[:, 0]] - model.W_U.T[batch.answers[:, 1]]
    by_head, by_mlp, embedding = direct_effects(batch, directions)
    found["direct"] = {"heads": by_head.tolist(), "mlps": by_mlp.tolist(), "embedding": embedding}
    return found
