"""Agreement in `pocket`: "The keys to the cabinet" -> are. Who carries the subject's number past the attractor?

The attractor, of the other number, is the last token: the verb is predicted from its position.
"""

from typing import Any

from mechlib import tasks
from mechlib.tasks.words import PLURAL, SINGULAR
from tools.look_inside.runs import Batch, blind, from_run
from tools.look_inside.sweeps import (
    attention_from_end,
    direct_effects,
    head_effects,
    mlp_effects,
    share,
    stream_effects,
    strongest,
)

N = 200
LAYERS = range(4)


def measure(model: Any, random_model: Any) -> dict[str, Any]:
    prompts = tasks.agreement(model.tokenizer, N, split="held-out pairs")
    batch, control = Batch.of(model, prompts), Batch.of(random_model, prompts)
    twin = batch.twin()
    end, subject, between = batch.at("end"), batch.at("subject"), batch.span("subject", "end")
    other = dict(zip(SINGULAR + PLURAL, PLURAL + SINGULAR))
    ids = {word: tasks.token_id(model.tokenizer, f" {word}") for word in other}
    swap = {ids[word]: ids[other[word]] for word in other}
    tokens = batch.tokens.clone()
    tokens[end] = tokens[end].apply_(lambda token: swap[token])
    same = batch.with_tokens(tokens)  # the attractor has the subject's number
    places = {"the subject": subject, "between subject and attractor": between, "END, the attractor": end}
    found: dict[str, Any] = {
        "n": N,
        "difference": batch.score(),
        "right": (batch.logits.gather(1, batch.answers).diff(dim=1) < 0).float().mean().item(),
        "difference, attractor agrees": same.score(),
        "random weights": control.score(),
        "random weights, right": (control.logits.gather(1, control.answers).diff(dim=1) < 0).float().mean().item(),
        "heads": head_effects(batch, twin),
        "heads at END": head_effects(batch, twin, end),
        "heads between": head_effects(batch, twin, between),
        "mlps at END": mlp_effects(batch, twin, end),
        "mlps at the subject": mlp_effects(batch, twin, subject),
        "stream": stream_effects(batch, twin, places),
        "attention": attention_from_end(batch, {"subject": subject, "between": between}),
    }
    found["carriers"] = carriers = strongest(found["heads at END"], 4)
    for n in (1, 2, 3, 4):
        edits = [from_run("head", layer, twin, end, head) for layer, head in carriers[:n]]
        found[f"{n} carriers"] = share(batch, twin, edits)
    edits = [
        from_run("head", layer, twin, end, head)
        for layer in LAYERS
        for head in range(model.cfg.n_heads)
        if (layer, head) not in carriers[:2]
    ]
    found["all heads but two"] = share(batch, twin, edits)
    found["all MLPs at END"] = share(batch, twin, [from_run("mlp", layer, twin, end) for layer in LAYERS])
    found["attractor's number"] = batch.score() - same.score()
    cut = {
        "END cannot see the subject": blind(LAYERS, end, subject),
        "END cannot see the subject, layer 0": blind([0], end, subject),
        "END cannot see the words between": blind(LAYERS, end, between),
        "the words between cannot see the subject": blind(LAYERS, between, subject),
        "neither END nor the words between can see the subject": blind(LAYERS, end | between, subject),
        "END cannot see another word": blind(LAYERS, end, batch.elsewhere(batch.at("subject", "end"))),
    }
    found["knockout"] = {what: batch.score(batch.run(edits)) for what, edits in cut.items()}
    directions = model.W_U.T[batch.answers[:, 0]] - model.W_U.T[batch.answers[:, 1]]
    by_head, by_mlp, embedding = direct_effects(batch, directions)
    found["direct"] = {"heads": by_head.tolist(), "mlps": by_mlp.tolist(), "embedding": embedding}
    return found
