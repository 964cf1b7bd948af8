# ruff: noqa: E501 (sentences)
"""Agreement in `pocket`: "The keys to the cabinet" -> are. Who carries the subject's number past the attractor?

The attractor, of the other number, is the last token: the verb is predicted from its position.
"""

from typing import Any

from matplotlib.figure import Figure

from mechlib import tasks
from mechlib.tasks.words import PLURAL, SINGULAR
from tools.look_inside.figures import by_head, by_place, heatmaps
from tools.look_inside.prose import Numbers, Page, each, head, in_all, listing
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
    found["carriers"] = carriers = strongest(found["heads at END"], 6)
    for n in range(1, 7):
        edits = [from_run("head", layer, twin, end, head) for layer, head in carriers[:n]]
        found[f"{n} carriers"] = share(batch, twin, edits)
    # how many of them make nine tenths of the difference
    found["enough"] = next((n for n in range(1, 7) if found[f"{n} carriers"] >= 0.9), 6)
    edits = [
        from_run("head", layer, twin, end, head)
        for layer in LAYERS
        for head in range(model.cfg.n_heads)
        if (layer, head) not in carriers[: found["enough"]]
    ]
    found["all heads but these"] = share(batch, twin, edits)
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


# ---- what the page says


def write(page: Page, numbers: Numbers) -> None:
    def e(read: Any, spec: str = ".2f") -> str:
        return each(numbers, read, spec)

    def cut(what: str) -> str:
        return e(lambda f: f["knockout"][what], ".1f")

    def those(f: Any) -> list[Any]:
        return f["carriers"][: f["enough"]]

    def one_by_one(table: Any) -> str:
        return e(lambda f: listing([format(table(f)[layer][which], ".2f") for layer, which in those(f)]))

    names = e(lambda f: listing([head(place) for place in those(f)]))
    together = e(lambda f: f[f"{f['enough']} carriers"])
    alone = one_by_one(lambda f: f["heads at END"])
    looks = one_by_one(lambda f: f["attention"]["subject"])

    page.lines.append("## Agreement in `pocket`")
    page.add(
        f'"The keys to the cabinet" goes on with a verb of the subject\'s number in {e(lambda f: f["right"])} of {N} prompts, by '
        f"a logit difference of {e(lambda f: f['difference'], '.1f')}, although the last word is an attractor of the other "
        f"number; random weights: {e(lambda f: f['random weights, right'])} and {e(lambda f: f['random weights'], '.1f')}.",
        f"The attractor hardly matters: with one of the subject's number the difference is "
        f"{e(lambda f: f['difference, attractor agrees'], '.1f')}.",
    )
    page.lines.append("![Heads and positions that matter](look-inside/agreement.png)")
    page.add(
        page.finding(
            in_all(
                numbers,
                lambda f: (
                    f[f"{f['enough']} carriers"] >= 0.9
                    and all(f["attention"]["subject"][layer][which] > 0.4 for layer, which in those(f))
                ),
            ),
            f"**Mechanism.** A few heads carry the number past the attractor, by looking from END straight at the subject: {names} "
            f"make {together} of the difference when taken from a prompt whose subject has the other number (one by one: {alone}), "
            f"and look at the subject with {looks} of their attention.",
            f"**Mechanism.** The strongest heads at END are not all heads that look at the subject: {names} make {together} of the "
            f"difference when taken from a prompt whose subject has the other number (one by one: {alone}), and look at the subject "
            f"with {looks} of their attention.",
        ),
        page.finding(
            in_all(numbers, lambda f: max(map(abs, f["stream"]["between subject and attractor"])) < 0.1),
            f"Nobody relays it: the stream at the words between never holds more than "
            f"{e(lambda f: max(f['stream']['between subject and attractor']))} of the number, while before layer 3 the subject still "
            f"holds {e(lambda f: f['stream']['the subject'][3])} and END {e(lambda f: f['stream']['END, the attractor'][3])}.",
            f"The words between relay a part of it: their stream holds up to "
            f"{e(lambda f: max(f['stream']['between subject and attractor']))} of the number, before layer 3 the subject "
            f"{e(lambda f: f['stream']['the subject'][3])} and END {e(lambda f: f['stream']['END, the attractor'][3])}.",
        ),
        page.finding(
            in_all(numbers, lambda f: f["direct"]["mlps"][3] > 2 * sum(f["direct"]["heads"][3])),
            f"MLP 0 at the subject turns the noun into its number ({e(lambda f: f['mlps at the subject'][0])} when taken from the "
            f"other noun), and MLP 3 at END turns that into a verb: straight to the logits it writes "
            f"{e(lambda f: f['direct']['mlps'][3], '.1f')}, the heads of its layer {e(lambda f: sum(f['direct']['heads'][3]), '.1f')}.",
            f"MLP 0 at the subject makes {e(lambda f: f['mlps at the subject'][0])}; straight to the logits MLP 3 writes "
            f"{e(lambda f: f['direct']['mlps'][3], '.1f')}, the heads of its layer {e(lambda f: sum(f['direct']['heads'][3]), '.1f')}.",
        ),
    )
    page.add(
        f"**Control.** All other heads at END, from the same prompt, make {e(lambda f: f['all heads but these'])}.",
        f"If END cannot see the subject, a difference of {cut('END cannot see the subject')} is left; if the words between "
        f"cannot, {cut('the words between cannot see the subject')}; if END cannot see another word, "
        f"{cut('END cannot see another word')}.",
    )
    page.add(
        f"**Not known.** What END takes from the words between: without sight of them {cut('END cannot see the words between')} "
        f"is left, although patching them moves {e(lambda f: f['stream']['between subject and attractor'][0])}, so they say "
        f"nothing about the number and yet help to find it.",
        f"How these heads know the subject from the attractor was not taken apart; {N} prompts with one attractor each do not "
        f"tell.",
    )


def draw(numbers: Numbers) -> dict[str, Figure]:
    panels = {
        model: [
            by_head(f["heads at END"], "each head at END"),
            by_head(f["attention"]["subject"], "attention END to subject"),
            by_place(f["stream"], "the stream before each layer"),
        ]
        for model, f in numbers.items()
    }
    return {
        "agreement": heatmaps(
            panels,
            "Agreement in pocket. Share of the logit difference's change when a part comes from a prompt with the other number",
        )
    }
