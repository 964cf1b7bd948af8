# ruff: noqa: E501 (sentences)
"""Induction in `pocket`: which heads copy, and who tells them what came before.

END is the second occurrence of a word; "copied" is the word after its first occurrence, "source": the answer. An
induction head attends from END to "copied". It can find it only if "copied" knows which word stands before it.
"""

from typing import Any

from matplotlib.figure import Figure

from mechlib import tasks
from tools.look_inside.figures import by_head, heatmaps
from tools.look_inside.prose import Numbers, Page, each, head, in_all, listing
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
        batch.kept("attn.hook_pattern", layer)[batch.rows, :, copied.long().argmax(1), source.long().argmax(1)]
        .mean(0)
        .tolist()
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
    found["attention of the strongest"] = batch.kept("attn.hook_pattern", layer)[where].mean().item()

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


# ---- what the page says


def write(page: Page, numbers: Numbers) -> None:
    def e(read: Any, spec: str = ".2f") -> str:
        return each(numbers, read, spec)

    def cut(what: str, measure: str = "right") -> str:
        return e(lambda f: f["knockout"][what][measure])

    def of(f: Any, table: str) -> str:
        values = f["attention"]["copied"] if table == "attention" else f[table]
        return listing([format(values[layer][which], ".2f") for layer, which in f["copiers"]])

    page.lines.append("## Induction in `pocket`")
    page.add(
        f"Random words that begin to repeat: the next one is right in {e(lambda f: f['accuracy'])} of {N} prompts, by a logit "
        f"difference of {e(lambda f: f['difference'], '.1f')} to a word that is not there; random weights: "
        f"{e(lambda f: f['random weights']['accuracy'])} and {e(lambda f: f['random weights']['difference'], '.1f')}.",
    )
    page.lines.append("![Heads that matter](look-inside/induction.png)")
    page.add(
        page.finding(
            in_all(numbers, lambda f: f["knockout"][previous(f)[1]]["right"] < 0.5),
            f"**Mechanism.** Head {e(lambda f: previous(f)[0], '')} tells each word which one stands before it: it looks there "
            f"with {e(lambda f: f['previous'][int(previous(f)[0][0])][int(previous(f)[0][2])])} of its attention, and if it alone "
            f"cannot, at the word to copy, {e(lambda f: f['knockout'][previous(f)[1]]['right'])} stay right, and the strongest "
            f"copying head's attention falls from {e(lambda f: f['attention of the strongest'])} to "
            f"{e(lambda f: f['knockout'][previous(f)[1]]['attention'])}.",
            f"**Mechanism.** No head alone tells a word which one stands before it: without the most important, "
            f"{e(lambda f: previous(f)[0], '')}, {e(lambda f: f['knockout'][previous(f)[1]]['right'])} stay right, without the "
            f"whole of layer 0 {cut(BEFORE + ', layer 0')}.",
        ),
        page.finding(
            in_all(numbers, lambda f: f["1 copiers"] < 0.5 < f["3 copiers"]),
            f"Several heads share the copying: the strongest three, {e(lambda f: listing([head(h) for h in f['copiers']]), '')}, "
            f"attend from END to the word to copy with {e(lambda f: of(f, 'attention'), '')}, and make "
            f"{e(lambda f: of(f, 'heads at END'), '')} of the difference one by one, {e(lambda f: f['3 copiers'])} together; all "
            f"other heads make {e(lambda f: f['all other heads'])}.",
            f"The strongest head, {e(lambda f: head(f['copiers'][0]), '')}, makes {e(lambda f: f['1 copiers'])} of the difference, "
            f"the strongest three {e(lambda f: f['3 copiers'])}, all others {e(lambda f: f['all other heads'])}.",
        ),
        page.finding(
            in_all(numbers, lambda f: f["direct"]["mlps"][3] > sum(map(sum, f["direct"]["heads"])) * 0.5),
            f"What they copy is made louder by MLP 3: straight to the logits it writes {e(lambda f: f['direct']['mlps'][3], '.1f')}, "
            f"all heads together {e(lambda f: sum(map(sum, f['direct']['heads'])), '.1f')}.",
            f"Straight to the logits MLP 3 writes {e(lambda f: f['direct']['mlps'][3], '.1f')}, all heads together "
            f"{e(lambda f: sum(map(sum, f['direct']['heads'])), '.1f')}.",
        ),
    )
    page.add(
        f"**Control.** If the word to copy cannot see the one two before it, {cut('the word to copy cannot see the one before that')} "
        f"stay right; if it cannot see the one before it in layer 1 only, {cut(BEFORE + ', layer 1')}; if END cannot see the word "
        f"to copy, {cut('END cannot see the word to copy')}, and another word, {cut('END cannot see another word')}.",
    )
    page.add(
        f"**Not known.** Why so many heads do one thing: with the three strongest from the other prompt the others still hold "
        f"{e(lambda f: f['all other heads'])}, and whether they would take over if the three were gone was not tried.",
        f"The page shows composition by cutting edges on {N} prompts; the weights that carry it (key composition) were not "
        f"measured here.",
    )


BEFORE = "the word to copy cannot see the one before it"


def previous(f: Any) -> tuple[str, str]:
    """The head without which least is left, and the knock-out that says so."""
    single = {what: found["right"] for what, found in f["knockout"].items() if what.startswith("head ")}
    worst = min(single, key=lambda what: single[what])
    return worst.removeprefix("head ").removesuffix(" cannot"), worst


def draw(numbers: Numbers) -> dict[str, Figure]:
    panels = {
        model: [
            by_head(f["previous"], "attention to the word before"),
            by_head(f["attention"]["copied"], "attention END to copied"),
            by_head(f["heads at END"], "each head at END"),
        ]
        for model, f in numbers.items()
    }
    return {"induction": heatmaps(panels, "Induction in pocket: who looks back, who copies, and whose copying matters")}
