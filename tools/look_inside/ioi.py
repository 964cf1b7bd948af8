# ruff: noqa: E501 (sentences)
"""Indirect object identification in `pocket`: who gives, who was there, and where the two meet."""

from typing import Any

import torch
from matplotlib.figure import Figure

from mechlib import tasks
from tools.look_inside.figures import by_head, by_place, heatmaps
from tools.look_inside.prose import Numbers, Page, each, head, in_all, listing
from tools.look_inside.runs import Batch, blind, from_run, put
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
        "of these, the last": batch.at("s2").roll(-1, dims=1),
        'of these, "the"': batch.at("place").roll(-1, dims=1),
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

    found: dict[str, Any] = {
        "n": N,
        "neurons": model.cfg.d_mlp,
        "accuracy": batch.says(io),
        "difference": batch.score(),
    }
    control = Batch.of(random_model, batch.prompts)
    found["random weights"] = {"accuracy": control.says(io), "difference": control.score()}
    found["guest accuracy"] = guest.says(new)

    # which heads and MLPs tell who gives
    found["heads, giver"] = head_effects(batch, giver)
    found["mlps at END, giver"] = mlp_effects(batch, giver, batch.at("end"))
    found["stream, giver"] = stream_effects(batch, giver, places)
    for n in range(1, 5):  # as few heads as make nine tenths of the difference
        found["readers"] = readers = strongest(found["heads, giver"], n)
        edits = [from_run("head", layer, giver, batch.at("end"), which) for layer, which in readers]
        found["readers at END together"] = share(batch, giver, edits)
        if found["readers at END together"] >= 0.9:
            break
    found["readers elsewhere together"] = share(
        batch, giver, [from_run("head", layer, giver, ~batch.at("end"), which) for layer, which in readers]
    )
    found["attention"] = attention_from_end(batch, {"IO": batch.at("io"), "S1": batch.at("s1"), "S2": batch.at("s2")})

    # where the name of IO is, layer by layer: how often the new name is the answer
    def taken_over(where: torch.Tensor, layer: int) -> float:
        logits = batch.run([from_run("resid", layer, guest, where)])
        return ((logits.argmax(dim=1) == new) & keep).sum().item() / keep.sum().item()

    found["stream, guest"] = {place: [taken_over(where, layer) for layer in LAYERS] for place, where in places.items()}
    found["stream, guest"][REST] = [taken_over(~names & ~batch.at("end"), layer) for layer in LAYERS]
    difference = guest.kept("resid", 1) - batch.kept("resid", 1)
    torch.manual_seed(0)
    noise = torch.randn_like(difference)
    noise = noise / noise.norm(dim=-1, keepdim=True) * difference.norm(dim=-1, keepdim=True)
    logits = batch.run([put("resid", 1, batch.kept("resid", 1) + noise, after_second)])
    found["guest, random direction between"] = batch.says(new, logits)
    found["accuracy, random direction between"] = batch.says(io, logits)

    # who looks where: accuracy when it cannot
    end, late = batch.at("end"), [1, 2, 3]
    roles = batch.at("io", "s1", "s2", "end")
    others = batch.elsewhere(roles | after_second, 2)
    knockouts = {
        "END cannot see the names": blind(LAYERS, end, names),
        "END cannot see the names, layer 0": blind([0], end, names),
        "END cannot see IO": blind(LAYERS, end, batch.at("io")),
        "END cannot see S1": blind(LAYERS, end, batch.at("s1")),
        "END cannot see two other words": blind(LAYERS, end, others),
        "the last word between cannot see the names": blind(LAYERS, batch.at("s2").roll(-1, dims=1), names),
        '"the" cannot see the names': blind(LAYERS, batch.at("place").roll(-1, dims=1), names),
        "the words between cannot see other words": blind(LAYERS, after_second, others),
        "END cannot see the words between": blind(LAYERS, end, after_second),
        "the words between cannot see the names": blind(LAYERS, after_second, names),
        "S2 and what follows cannot see the names": blind(LAYERS, batch.at("s2") | batch.span("s2", "end"), names),
        "END cannot see the names, nor the words between": blind(LAYERS, end | after_second, names),
        "END cannot see S2, layer 0": blind([0], end, batch.at("s2")),
        "END cannot see S2, layers 1 to 3": blind(late, end, batch.at("s2")),
        "END cannot see one other word, layer 0": blind([0], end, batch.elsewhere(roles)),
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
    logits = batch.run(
        [put("mlp", 0, batch.kept("mlp", 0)[:, 1:].mean(dim=(0, 1)), batch.elsewhere(names | batch.at("s2")))]
    )
    found["without MLP 0 at another word"] = {"IO": batch.says(io, logits), "S": batch.says(s, logits)}
    return found


# ---- what the page says


def write(page: Page, numbers: Numbers) -> None:
    def e(read: Any, spec: str = ".2f") -> str:
        return each(numbers, read, spec)

    def cut(what: str, who: str = "IO") -> str:
        return e(lambda f: f["knockout"][what][who])

    def written(f: Any, who: str, part: str) -> float:
        values = f[f"direct, {who}"][part]
        return sum(sum(row) for row in values) if part == "heads" else sum(values)

    def reader(f: Any) -> Any:
        return f["readers"][0]

    def attention(f: Any, where: str, place: Any) -> float:
        return f["attention"][where][place[0]][place[1]]

    page.lines.append("## Indirect object identification in `pocket`")
    page.add(
        f'"When Mary and John went to the store, John gave a drink to": the model says Mary in {e(lambda f: f["accuracy"])} of '
        f"{N} prompts with pairs of names that it has never seen together, by a logit difference of "
        f"{e(lambda f: f['difference'], '.1f')} on average.",
        f"With random weights that is {e(lambda f: f['random weights']['accuracy'])} and "
        f"{e(lambda f: f['random weights']['difference'], '.1f')}.",
    )
    page.lines.append("![Heads and positions that matter](look-inside/ioi.png)")
    page.lines.append("### Mechanism: a bag of names minus the one who gives")
    page.add(
        page.finding(
            in_all(
                numbers, lambda f: f["readers at END together"] >= 0.9 and all(layer == 0 for layer, _ in f["readers"])
            ),
            f"**1. Who gives.** In layer 0, head {e(lambda f: listing([head(h) for h in f['readers']]))} reads S2 from END: taken at "
            f"END from a prompt where the other person gives, that makes {e(lambda f: f['readers at END together'])} of the whole "
            f"difference.",
            f"**1. Who gives.** The strongest heads, {e(lambda f: listing([head(h) for h in f['readers']]))}, taken at END from a "
            f"prompt where the other person gives, make {e(lambda f: f['readers at END together'])} of the whole difference.",
        ),
        f"The strongest pays {e(lambda f: attention(f, 'S2', reader(f)))} of its attention to S2, and "
        f"{e(lambda f: attention(f, 'S1', reader(f)))} to S1, the same name.",
        f"Control: the same, taken from that prompt at every other position, make "
        f"{e(lambda f: f['readers elsewhere together'])}.",
    )
    page.add(
        f"**2. Who was there.** The names can reach END by two routes: END looks at them, in layers 1 to 3; or the words between "
        f"them and S2 look at them first, and END reads those. Hidden in layer 0 only, the names leave END right in "
        f"{cut('END cannot see the names, layer 0')}.",
        *(verdict(model, f) for model, f in numbers.items()),
        f"Both routes cut leave {cut('END cannot see the names, nor the words between')}.",
        f"Control: two other words hidden from END leave {cut('END cannot see two other words')}, and hidden from the words between "
        f"{cut('the words between cannot see other words')}.",
    )
    page.add(
        page.finding(
            in_all(
                numbers, lambda f: abs(written(f, "IO", "heads") - written(f, "S", "heads")) < 0.35 * f["difference"]
            ),
            f"By either route the names come as a bag, almost without preference: straight to the logits, all heads together write "
            f"{e(lambda f: written(f, 'IO', 'heads'), '.1f')} for IO and {e(lambda f: written(f, 'S', 'heads'), '.1f')} for S "
            f"(above the mean of all names).",
            f"They come with a preference: straight to the logits, all heads together write "
            f"{e(lambda f: written(f, 'IO', 'heads'), '.1f')} for IO and {e(lambda f: written(f, 'S', 'heads'), '.1f')} for S.",
        ),
    )
    page.add(
        page.finding(
            in_all(
                numbers,
                lambda f: written(f, "IO", "mlps") - written(f, "S", "mlps") > 0.65 * f["difference"],
            ),
            f"**3. The MLPs subtract.** At END they write {e(lambda f: written(f, 'IO', 'mlps'), '.1f')} for IO and "
            f"{e(lambda f: written(f, 'S', 'mlps'), '.1f')} for S: the difference of the two is the answer.",
            f"**3.** At END the MLPs write {e(lambda f: written(f, 'IO', 'mlps'), '.1f')} for IO and "
            f"{e(lambda f: written(f, 'S', 'mlps'), '.1f')} for S, which is less than two thirds of the logit difference.",
        ),
        f"With MLP 0 at END replaced by its mean over the prompts, the answer is IO in "
        f"{e(lambda f: f['without MLP at END']['0']['IO'])} and S in {e(lambda f: f['without MLP at END']['0']['S'])}.",
        f"Control: replaced at a random word that is no name, it leaves "
        f"{e(lambda f: f['without MLP 0 at another word']['IO'])}.",
        f"Any later MLP alone can be spared: the worst of the three leaves "
        f"{e(lambda f: min(f['without MLP at END'][str(i)]['IO'] for i in (1, 2, 3)))}.",
    )
    page.lines.append("### Was it as expected?")
    page.add(
        'We expected that the comma and the "and" before S2 collect a summary of the names, and that the MLPs subtract S. The '
        "test: give the words between a stream from a prompt with another IO, who is nowhere in this one, and see how often the "
        "answer becomes that name.",
    )
    page.add(
        f"Before layer 1 it does so in {e(lambda f: f['stream, guest'][BETWEEN][1])}, before layer 3 in "
        f"{e(lambda f: f['stream, guest'][BETWEEN][3])}.",
        page.finding(
            in_all(numbers, lambda f: max(f["stream, guest"][LAST]) < 0.1),
            f'The word before S2 alone (a comma, a full stop, "and", "then") never gives more than '
            f'{e(lambda f: max(f["stream, guest"][LAST]))}; the word before the place, "the", gives '
            f"{e(lambda f: max(f['stream, guest'][THE][1:]))}: so if there is a summary, it is not where we expected it.",
            f'The word before S2 alone (a comma, a full stop, "and", "then") gives up to '
            f'{e(lambda f: max(f["stream, guest"][LAST]))}, the word before the place, "the", '
            f"{e(lambda f: max(f['stream, guest'][THE][1:]))}.",
        ),
        f"At IO's own position it is {e(lambda f: f['stream, guest']['the name IO'][1])} and "
        f"{e(lambda f: f['stream, guest']['the name IO'][3])}, at END {e(lambda f: f['stream, guest']['END'][1])} and "
        f"{e(lambda f: f['stream, guest']['END'][3])}.",
        f"Controls: the words between S2 and END give {e(lambda f: f['stream, guest']['between S2 and END'][1])}, and a random "
        f"direction of the same length at the words between leaves {e(lambda f: f['accuracy, random direction between'])} right.",
        f"**So a summary that END needs is {listing([f'{how(f)} in `{model}`' for model, f in numbers.items()])}** (needed: cutting it "
        f"leaves less than {LOW} right).",
    )
    page.add(
        page.finding(
            in_all(numbers, lambda f: f["S and S, then IO gives"]["S"] > 0.9),
            f"Nothing detects a duplicate: in prompts where S is named twice at first and IO gives, so that S is the "
            f"duplicate, the answer is S in {e(lambda f: f['S and S, then IO gives']['S'])}.",
            f"Where S is named twice at first and IO gives, the answer is S in "
            f"{e(lambda f: f['S and S, then IO gives']['S'])}.",
        ),
        page.finding(
            in_all(
                numbers,
                lambda f: (
                    f["IO and X, then S gives"]["IO"] + f["IO and X, then S gives"]["X"] > 0.7
                    and f["IO and X, then S gives"]["X"] > 0.15
                ),
            ),
            f"And where S gives who was not there, both of those who were are answers: the first in "
            f"{e(lambda f: f['IO and X, then S gives']['IO'])}, the other in {e(lambda f: f['IO and X, then S gives']['X'])}.",
            f"Where S gives who was not there, one of those who were is the answer in "
            f"{e(lambda f: f['IO and X, then S gives']['IO'])}, the other in {e(lambda f: f['IO and X, then S gives']['X'])}.",
        ),
        f"So what counts is who gives, not who is repeated: END without sight of S2 in layer 0 says IO in "
        f"{cut('END cannot see S2, layer 0')} and S in {cut('END cannot see S2, layer 0', 'S')}, a coin toss, and one other "
        f"hidden word leaves {cut('END cannot see one other word, layer 0')}.",
    )
    page.lines.append("![Attention from END, and what is written straight to the logits](look-inside/ioi-direct.png)")
    page.lines.append("### Not known")
    page.add(
        f"Which neurons subtract: MLP 3 alone writes {e(lambda f: f['direct, IO']['mlps'][3], '.1f')} for IO, and none of its "
        f"{next(iter(numbers.values()))['neurons']} neurons has been looked at.",
        page.finding(
            len({how(f) for f in numbers.values()}) > 1,
            f"Why trainings that differ by their seed alone bring the names to END by different routes "
            f"({cut('the words between cannot see the names')} right without the one, {cut('END cannot see the names')} without the "
            f"other).",
            f"Why it is this route ({cut('the words between cannot see the names')} right without the summary, "
            f"{cut('END cannot see the names')} without the names' own positions).",
        ),
    )


BETWEEN, LAST, THE = "between the names and S2", "of these, the last", 'of these, "the"'
REST, LOW = "all but the names and END", 0.6


def how(f: Any) -> str:
    """Is there a summary at the words between that END needs, and at which word?"""
    if f["knockout"]["the words between cannot see the names"]["IO"] >= LOW:
        return "absent"
    the, last = (max(f["stream, guest"][where][1:]) for where in (THE, LAST))
    return 'there, at "the",' if the > 2 * last else "there, at the word before S2," if last > 2 * the else "there"


def verdict(model: str, f: Any) -> str:
    """Which route a model takes, by what is left when it is cut."""
    left = {
        "END cannot see the names": f["knockout"]["END cannot see the names"]["IO"],
        "the words between cannot see them": f["knockout"]["the words between cannot see the names"]["IO"],
        "the last of these alone cannot": f["knockout"]["the last word between cannot see the names"]["IO"],
        '"the" alone cannot': f["knockout"]['"the" cannot see the names']["IO"],
        "END cannot see the words between": f["knockout"]["END cannot see the words between"]["IO"],
    }
    return (
        f"`{model}` is still right in " + "; in ".join(f"{value:.2f} if {what}" for what, value in left.items()) + "."
    )


def draw(numbers: Numbers) -> dict[str, Figure]:
    panels = {
        model: [
            by_head(f["heads, giver"], "each head, another giver"),
            by_place(f["stream, giver"], "the stream before each layer"),
            by_place(
                {k: v for k, v in f["stream, guest"].items() if k not in ("the name S1", REST)},
                "the stream, another IO",
            ),
        ]
        for model, f in numbers.items()
    }
    direct = {
        model: [
            by_head(f["attention"]["IO"], "attention END to IO"),
            by_head(f["attention"]["S2"], "attention END to S2"),
            straight(f),
        ]
        for model, f in numbers.items()
    }
    return {
        "ioi": heatmaps(
            panels,
            "IOI in pocket. Share of the answers' change when a part comes from a prompt with another giver (left, middle) or "
            "another IO (right)",
        ),
        "ioi-direct": heatmaps(
            direct, "IOI in pocket: where END looks, and what is written straight to the logits there"
        ),
    }


def straight(f: Any) -> dict[str, Any]:
    """What each layer's heads and MLP write for the two names."""
    table = [
        [sum(f[f"direct, {who}"]["heads"][layer]) for who in ("IO", "S")]
        + [f[f"direct, {who}"]["mlps"][layer] for who in ("IO", "S")]
        for layer in LAYERS
    ]
    columns = ["heads: IO", "heads: S", "MLP: IO", "MLP: S"]
    rows = [f"layer {layer}" for layer in LAYERS]
    limit = max(abs(value) for row in table for value in row)
    return {"table": table, "rows": rows, "columns": columns, "title": "logits at END", "limit": max(limit, 1.01)}
