"""Facts in `pocket`: where the subject is looked up, and whether two-word subjects make its own position work.

The landmarks are invented, two words in both orders: "Alder Vale" stands in another city than "Vale Alder". So neither
word alone tells the city, and no bag of the two does; somebody has to put them together, in order. Countries, which are
one word, are the comparison.
"""

from typing import Any

from mechlib import tasks
from tools.look_inside.runs import Batch, blind, from_run, put
from tools.look_inside.sweeps import attention_from_end, head_effects, mlp_effects, share, stream_effects, strongest

N = 200
LAYERS = range(4)


def landmarks(tokenizer: Any) -> list[tasks.Prompt]:
    """Questions for the city of invented landmarks; the twin is the same two words in the other order."""
    prompts = tasks.facts(tokenizer, 2 * N, relation="landmark_city")
    return [prompt for prompt in prompts if prompt.labels["invented"]][:N]


def measure(model: Any, random_model: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"n": N}
    for kind, prompts in (
        ("landmark", landmarks(model.tokenizer)),
        ("country", tasks.facts(model.tokenizer, N, relation="capital")),
    ):
        found[kind] = one_kind(model, random_model, prompts)
    return found


def one_kind(model: Any, random_model: Any, prompts: list[tasks.Prompt]) -> dict[str, Any]:
    batch = Batch.of(model, prompts)
    right, wrong = batch.answers.T
    twin = batch.twin()
    end, last = batch.at("end"), batch.at("subject")
    two = "subject first" in prompts[0].positions
    places = {"the subject's last word": last, "between subject and END": batch.span("subject", "end"), "END": end}
    if two:
        places = {"the subject's first word": batch.at("subject first")} | places
    control = Batch.of(random_model, prompts)
    found: dict[str, Any] = {
        "n": len(batch),
        "accuracy": batch.says(right),
        "difference": batch.score(),
        "twin accuracy": twin.says(wrong),
        "random weights": {"accuracy": control.says(right), "difference": control.score()},
        "stream": stream_effects(batch, twin, places),
        "heads": head_effects(batch, twin),
        "heads at END": head_effects(batch, twin, end),
        "mlps at the subject": mlp_effects(batch, twin, last),
        "mlps at END": mlp_effects(batch, twin, end),
        "mlps elsewhere": mlp_effects(batch, twin, ~(last | end)),
        "attention": attention_from_end(batch, {"subject": last, "first": batch.at("subject first")} if two else {"subject": last}),
    }
    # How often the answer becomes the twin's if only the subject's last position comes from there.
    found["taken over at the subject"] = [
        batch.says(wrong, batch.run([from_run("resid", layer, twin, last)])) for layer in LAYERS
    ]
    subject = last | batch.at("subject first") if two else last
    found["all MLPs at the subject"] = share(batch, twin, [from_run("mlp", layer, twin, last) for layer in LAYERS])
    found["all MLPs at END"] = share(batch, twin, [from_run("mlp", layer, twin, end) for layer in LAYERS])

    # An MLP's work at a position undone: its mean over the prompts there.
    found["without MLPs"] = {}
    other = batch.elsewhere(subject)
    for what, where in (("the subject's last word", last), ("another word", other), ("END", end)):
        rows = []
        for layer in LAYERS:
            mean = batch.kept("mlp", layer)[where].mean(dim=0)
            rows.append(batch.says(right, batch.run([put("mlp", layer, mean, where)])))
        found["without MLPs"][what] = rows
    knockouts = {
        "END cannot see the subject": blind(LAYERS, end, subject),
        "END cannot see another word": blind(LAYERS, end, batch.elsewhere(subject, 2 if two else 1)),
        "END cannot see the subject, layer 0": blind([0], end, subject),
        "END cannot see the subject, layers 1 to 3": blind([1, 2, 3], end, subject),
    }
    if two:
        first, before = batch.at("subject first"), batch.elsewhere(subject)
        knockouts |= {
            "END cannot see the first word": blind(LAYERS, end, first),
            "END cannot see the last word": blind(LAYERS, end, last),
            "the last word cannot see the first": blind(LAYERS, last, first),
            "the last word cannot see the first, layer 0": blind([0], last, first),
            "the last word cannot see another word": blind(LAYERS, last, before),
            "the words after cannot see the first word": blind(LAYERS, batch.span("subject", "end") | end, first),
        }
    found["knockout"] = {}
    for what, edits in knockouts.items():
        logits = batch.run(edits)
        found["knockout"][what] = {"right": batch.says(right, logits), "twin's": batch.says(wrong, logits)}
    found["movers"] = strongest(found["heads at END"], 2)
    if two:
        joiners = head_effects(batch, twin, last)
        first = batch.at("subject first")
        found["heads at the subject"] = joiners
        found["mlps at the first word"] = mlp_effects(batch, twin, first)
        found["all MLPs at both words"] = share(batch, twin, [from_run("mlp", layer, twin, subject) for layer in LAYERS])
        edits = [from_run("resid", 1, twin, where) for where in (first, last)]
        found["both words before layer 1"] = share(batch, twin, edits)
        found["joiner"] = strongest(joiners)[0]
    return found
