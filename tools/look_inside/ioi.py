"""Indirect object identification in `pocket`: who gives, who was there, and where the two meet."""

from typing import Any

import torch

from mechlib import tasks
from tools.look_inside.runs import Batch, blind, from_run, put
from tools.look_inside.sweeps import (
    attention_from_end,
    direct_effects,
    head_effects,
    mlp_effects,
    name,
    share,
    stream_effects,
    strongest,
)

N = 200
LAYERS = range(4)


def measure(model: Any, random_model: Any) -> dict[str, Any]:
    batch = Batch.of(model, tasks.ioi(model.tokenizer, N, split="held-out pairs"))
    io, s = batch.answers.T
    giver = batch.twin()  # S2 is the other person
    names = batch.at("io", "s1")
    second = torch.where(batch.at("io").long().argmax(1) > batch.at("s1").long().argmax(1), 0, 1)
    after_second = torch.stack(
        [
            batch.span("io" if first == 0 else "s1", "s2")[i]
            for i, first in enumerate(second.tolist())  # from the later of the two names on
        ]
    )
    places = {
        "the name IO": batch.at("io"),
        "the name S1": batch.at("s1"),
        "between the names and S2": after_second,
        "S2": batch.at("s2"),
        "between S2 and END": batch.span("s2", "end"),
        "END": batch.at("end"),
    }
    # Another IO: nobody of the prompt, so that its source is one token.
    new = io.roll(1)
    new = torch.where((new == io) | (new == s), io.roll(7), new)
    keep = (new != io) & (new != s)
    tokens = batch.tokens.clone()
    tokens[batch.at("io")] = new
    guest = batch.with_tokens(tokens)

    found: dict[str, Any] = {"n": N, "accuracy": batch.says(io), "difference": batch.score()}
    control = Batch.of(random_model, batch.prompts)
    found["random weights"] = {"accuracy": control.says(io), "difference": control.score()}
    found["guest accuracy"] = guest.says(new)

    # which heads and MLPs tell who gives
    found["heads, giver"] = head_effects(batch, giver)
    found["mlps at END, giver"] = mlp_effects(batch, giver, batch.at("end"))
    found["stream, giver"] = stream_effects(batch, giver, places)
    readers = strongest(found["heads, giver"], 2)
    found["readers"] = readers
    edits = [from_run("head", layer, giver, batch.at("end"), head) for layer, head in readers]
    found["readers at END together"] = share(batch, giver, edits)
    found["readers elsewhere together"] = share(
        batch, giver, [from_run("head", layer, giver, ~batch.at("end"), head) for layer, head in readers]
    )
    found["attention"] = attention_from_end(batch, {"IO": batch.at("io"), "S1": batch.at("s1"), "S2": batch.at("s2")})

    # where the name of IO is, layer by layer: how often the new name is the answer
    def taken_over(where: torch.Tensor, layer: int) -> float:
        logits = batch.run([from_run("resid", layer, guest, where)])
        return ((logits.argmax(dim=1) == new) & keep).sum().item() / keep.sum().item()

    found["stream, guest"] = {place: [taken_over(where, layer) for layer in LAYERS] for place, where in places.items()}
    found["stream, guest"]["all but the names and END"] = [
        taken_over(~names & ~batch.at("end"), layer) for layer in LAYERS
    ]
    difference = guest.kept("resid", 1) - batch.kept("resid", 1)
    torch.manual_seed(0)
    noise = torch.randn_like(difference)
    noise = noise / noise.norm(dim=-1, keepdim=True) * difference.norm(dim=-1, keepdim=True)
    logits = batch.run([put("resid", 1, batch.kept("resid", 1) + noise, after_second)])
    found["guest, random direction between"] = batch.says(new, logits)
    found["accuracy, random direction between"] = batch.says(io, logits)

    # who looks where: accuracy when it cannot
    end, late = batch.at("end"), [1, 2, 3]
    control_keys = batch.elsewhere(batch.at("io", "s1", "s2", "end"), 2)
    knockouts = {
        "END cannot see the names": blind(LAYERS, end, names),
        "END cannot see the names, layer 0": blind([0], end, names),
        "END cannot see IO": blind(LAYERS, end, batch.at("io")),
        "END cannot see S1": blind(LAYERS, end, batch.at("s1")),
        "END cannot see two other words": blind(LAYERS, end, control_keys),
        "END cannot see the words between": blind(LAYERS, end, after_second),
        "the words between cannot see the names": blind(LAYERS, after_second, names),
        "S2 and what follows cannot see the names": blind(LAYERS, batch.at("s2") | batch.span("s2", "end"), names),
        "END cannot see the names, nor the words between": blind(LAYERS, end | after_second, names),
        "END cannot see S2, layer 0": blind([0], end, batch.at("s2")),
        "END cannot see S2, layers 1 to 3": blind(late, end, batch.at("s2")),
        "END cannot see one other word, layer 0": blind([0], end, batch.elsewhere(batch.at("io", "s1", "s2", "end"))),
    }
    found["knockout"] = {}
    for what, edits in knockouts.items():
        logits = batch.run(edits)
        found["knockout"][what] = {"IO": batch.says(io, logits), "S": batch.says(s, logits)}

    # bag of names minus S2?
    tokens = batch.tokens.clone()
    tokens[batch.at("io")] = tokens[batch.at("s1")] = s
    tokens[batch.at("s2")] = io
    twice = batch.with_tokens(tokens)
    found["S and S, then IO gives"] = {"IO": twice.says(io), "S": twice.says(s)}
    tokens = batch.tokens.clone()
    tokens[batch.at("s1")] = new
    stranger = batch.with_tokens(tokens)
    found["IO and X, then S gives"] = {"IO": stranger.says(io), "X": stranger.says(new), "S": stranger.says(s)}

    # who raises and who lowers the names: straight to the logits, against the mean of names that are not there
    all_names = [tasks.token_id(model.tokenizer, f" {n}") for n in tasks.words.NAMES]
    absent = model.W_U[:, all_names].mean(dim=1)
    for who, token in (("IO", io), ("S", s)):
        by_head, by_mlp, _ = direct_effects(batch, model.W_U.T[token] - absent)
        found[f"direct, {who}"] = {"heads": by_head.tolist(), "mlps": by_mlp.tolist()}
    found["without MLP at END"] = {}
    for layer in LAYERS:
        mean = batch.kept("mlp", layer)[batch.rows, batch.end].mean(dim=0)
        logits = batch.run([put("mlp", layer, mean, end)])
        found["without MLP at END"][str(layer)] = {"IO": batch.says(io, logits), "S": batch.says(s, logits)}
    logits = batch.run([put("mlp", 0, batch.kept("mlp", 0)[:, 1:].mean(dim=(0, 1)), batch.elsewhere(names | batch.at("s2")))])
    found["without MLP 0 at another word"] = {"IO": batch.says(io, logits), "S": batch.says(s, logits)}
    found["names"] = {"reader": [name(head) for head in readers]}
    return found
