# ruff: noqa: E501 (sentences)
"""Facts in `pocket`: where the subject is looked up, and whether two-word subjects make its own position work.

The landmarks are invented, two words in both orders: "Alder Vale" stands in another city than "Vale Alder". So neither
word alone tells the city, and no bag of the two does; somebody has to put them together, in order. Countries, which are
one word, are the comparison.
"""

from typing import Any

from matplotlib.figure import Figure

from mechlib import tasks
from tools.look_inside.figures import by_place, heatmaps
from tools.look_inside.prose import Numbers, Page, each, head, in_all, listing
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
        "attention": attention_from_end(
            batch, {"subject": last, "first": batch.at("subject first")} if two else {"subject": last}
        ),
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
            "END cannot see one other word": blind(LAYERS, end, batch.elsewhere(subject)),
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
        found["all MLPs at both words"] = share(
            batch, twin, [from_run("mlp", layer, twin, subject) for layer in LAYERS]
        )
        edits = [from_run("resid", 1, twin, where) for where in (first, last)]
        found["both words before layer 1"] = share(batch, twin, edits)
        found["joiner"] = strongest(joiners)[0]
    return found


# ---- what the page says


def write(page: Page, numbers: Numbers, corpora: dict[str, Any] | None = None) -> None:
    def country(read: Any, spec: str = ".2f") -> str:
        return each(numbers, lambda f: read(f["country"]), spec)

    def mark(read: Any, spec: str = ".2f") -> str:
        return each(numbers, lambda f: read(f["landmark"]), spec)

    def cut(what: str, who: str = "right") -> str:
        return mark(lambda f: f["knockout"][what][who])

    page.lines.append("## Facts in `pocket`")
    page.add(
        f"Two kinds of subjects, on {N} prompts each, of sentences that training has shown, for these are facts to be known: countries, which are one word (capital: right in "
        f"{country(lambda f: f['accuracy'])}; random weights {country(lambda f: f['random weights']['accuracy'])}), and invented "
        f"landmarks, which are two words whose order decides (city: right in {mark(lambda f: f['accuracy'])}; random weights "
        f"{mark(lambda f: f['random weights']['accuracy'])}).",
        f'In the twin of a landmark the words change places ("Alder Vale", "Vale Alder"), so no single word and no bag of the '
        f"two gives the city: on the twin itself the model is right in {mark(lambda f: f['twin accuracy'])}.",
    )
    page.lines.append("![Positions and MLPs that matter](look-inside/facts.png)")
    page.lines.append("### Countries: moved first, looked up at END")
    page.add(
        page.finding(
            in_all(
                numbers,
                lambda f: (
                    f["country"]["stream"]["END"][1] > 0.8
                    and f["country"]["heads at END"][f["country"]["movers"][0][0]][f["country"]["movers"][0][1]] > 0.7
                ),
            ),
            f"**Mechanism.** Head {country(lambda f: head(f['movers'][0]), '')} carries the country to END in layer 0: taken "
            f"from a prompt about another country, it alone makes "
            f"{country(lambda f: f['heads at END'][f['movers'][0][0]][f['movers'][0][1]])} of the difference, and before layer "
            f"1 END holds {country(lambda f: f['stream']['END'][1])} of it.",
            f"**Mechanism.** Before layer 1, END holds {country(lambda f: f['stream']['END'][1])} of what tells the country, and "
            f"the strongest head, {country(lambda f: head(f['movers'][0]), '')}, makes "
            f"{country(lambda f: f['heads at END'][f['movers'][0][0]][f['movers'][0][1]])} of the difference.",
        ),
        page.finding(
            in_all(numbers, lambda f: abs(f["country"]["all MLPs at the subject"]) < 0.1),
            f"The lookup is done by the MLPs at END (all of them together: {country(lambda f: f['all MLPs at END'])}); those at "
            f"the subject make {country(lambda f: f['all MLPs at the subject'])}: there is no enrichment of the subject.",
            f"The MLPs at END make {country(lambda f: f['all MLPs at END'])} and those at the subject "
            f"{country(lambda f: f['all MLPs at the subject'])}.",
        ),
        f"**Control.** Hidden from END in layer 0 alone, the country leaves "
        f"{country(lambda f: f['knockout']['END cannot see the subject, layer 0']['right'])} right; hidden in layers 1 to 3, "
        f"{country(lambda f: f['knockout']['END cannot see the subject, layers 1 to 3']['right'])}; another word hidden in all "
        f"layers, {country(lambda f: f['knockout']['END cannot see another word']['right'])}.",
    )
    page.lines.append("### Landmarks: each word does its own work, and END puts them together")
    page.add(
        page.finding(
            in_all(numbers, lambda f: max(f["landmark"]["taken over at the subject"][1:]) < 0.5),
            f"**Mechanism.** Two-word, order-dependent subjects do not make the subject's last position look the landmark up: "
            f"with its stream before layer 1 taken from the twin, "
            f"{mark(lambda f: f['taken over at the subject'][1])} of the answers become the twin's, before layer 2 "
            f"{mark(lambda f: f['taken over at the subject'][2])}.",
            f"**Mechanism.** The subject's last position knows the landmark: with its stream taken from the twin, up to "
            f"{mark(lambda f: max(f['taken over at the subject'][1:]))} of the answers become the twin's.",
        ),
        f"Before layer 1, the first word's position holds {mark(lambda f: f['stream'][FIRST][1])} of the difference, the last "
        f"word's {mark(lambda f: f['stream'][LAST][1])}, END {mark(lambda f: f['stream']['END'][1])}; before layer 3 it is "
        f"{mark(lambda f: f['stream'][FIRST][3])}, {mark(lambda f: f['stream'][LAST][3])} and "
        f"{mark(lambda f: f['stream']['END'][3])}.",
        page.finding(
            in_all(
                numbers,
                lambda f: (
                    f["landmark"]["knockout"]["END cannot see the first word"]["right"] < 0.5
                    and f["landmark"]["knockout"]["END cannot see the last word"]["right"] < 0.5
                ),
            ),
            f"END needs both words for itself: without sight of the first it is right in {cut('END cannot see the first word')}, "
            f"without the last in {cut('END cannot see the last word')}; one other word hidden leaves "
            f"{cut('END cannot see one other word')}.",
            f"Without sight of the first word END is right in {cut('END cannot see the first word')}, without the last in "
            f"{cut('END cannot see the last word')}; one other word hidden leaves {cut('END cannot see one other word')}.",
        ),
        f"The last word looks at the first a little: when it cannot, {cut('the last word cannot see the first')} stay right, "
        f"and with another word hidden from it {cut('the last word cannot see another word')}.",
    )
    page.add(
        page.finding(
            in_all(numbers, lambda f: f["landmark"]["all MLPs at both words"] > 0.5),
            f"**What is new beside countries.** MLPs at the subject matter, but one word at a time: those at the first word's "
            f"position, MLP 0 ({mark(lambda f: f['mlps at the first word'][0])}), and at the last "
            f"({mark(lambda f: f['mlps at the subject'][0])}), all of them together {mark(lambda f: f['all MLPs at both words'])}; the first "
            f"word, which cannot see the last, is read there for what it says in its place, and heads {mark(lambda f: listing([head(h) for h in f['movers']]), '')} "
            f"bring it to END.",
            f"**What is new beside countries.** MLPs at the two words of the subject make "
            f"{mark(lambda f: f['all MLPs at both words'])} together, those at the first "
            f"{mark(lambda f: f['mlps at the first word'][0])}.",
        ),
        f"The MLPs at END then make {mark(lambda f: f['all MLPs at END'])}, the first two "
        f"{mark(lambda f: f['mlps at END'][0] + f['mlps at END'][1])}, the last two "
        f"{mark(lambda f: f['mlps at END'][2] + f['mlps at END'][3])}.",
        f"**Control.** With MLP 0 replaced by its mean at the last word, "
        f"{mark(lambda f: f['without MLPs'][LAST][0])} stay right, at another word "
        f"{mark(lambda f: f['without MLPs']['another word'][0])}, at END {mark(lambda f: f['without MLPs']['END'][0])}.",
    )
    page.lines.append("### Not known")
    page.add(
        f"How the order gets in: before layer 1 the two words' positions hold "
        f"{mark(lambda f: f['both words before layer 1'])} of the difference between them, but which part of it is the "
        f"absolute position and which is the neighbour was not separated.",
        f"The twin is a single kind of change; {N} prompts about it say nothing of a subject that shares no word.",
    )
    if corpora and {"plain", "second subject"} <= corpora.keys():
        write_corpora(page, corpora)


FIRST, LAST = "the subject's first word", "the subject's last word"


def write_corpora(page: Page, corpora: dict[str, Any]) -> None:
    """The experiment of `other_corpus.py`."""
    plain, second = corpora["plain"], corpora["second subject"]
    page.lines.append("### A corpus that forces more")
    page.add(
        f"A chapter on enrichment wants the subject's own position to do work, and in `pocket` it does too little, so we "
        f"changed one thing: two models of pocket's size were trained for {corpora['steps']} steps "
        f"({plain['CPU minutes']:.1f} and {second['CPU minutes']:.1f} minutes on one core) on nothing but landmarks' cities and "
        f"countries' capitals; in the second's corpus half of the sentences name a second subject beside the first, which has "
        f'to be ignored ("You can find not Tarn Maren but Alder Vale in").',
        f"On plain prompts they are right in {plain['accuracy']:.2f} and {second['accuracy']:.2f} of {plain['n']}, and the "
        f"second is right in {second['accuracy with a second subject']:.2f} where a second landmark is named.",
    )
    before, after = (max(found["taken over at the subject"][1:]) for found in (plain, second))
    page.add(
        page.finding(
            after > before + 0.2 and second["accuracy"] > 0.8,
            f"It helps: with the stream at the subject's last word taken from the twin (before layer 1, 2 or 3, whichever is "
            f"most), {before:.2f} of the answers become the twin's in the plain model and {after:.2f} in the other.",
            f"It does not help in this little time: with the stream at the subject's last word taken from the twin (before layer "
            f"1, 2 or 3, whichever is most), {before:.2f} of the answers become the twin's in the plain model and {after:.2f} "
            f"in the other.",
        ),
        page.finding(
            second["knockout"][EARLY]["right"] > plain["knockout"][EARLY]["right"] + 0.3,
            f"What does change is the shortcut through layer 0: with the subject hidden from END there, "
            f"{plain['knockout'][EARLY]['right']:.2f} of the plain model's answers stay right and {second['knockout'][EARLY]['right']:.2f} "
            f"of the other's, and before layer 3 the subject's last word holds {plain['stream'][LAST][3]:.2f} and "
            f"{second['stream'][LAST][3]:.2f} of the difference.",
            f"With the subject hidden from END in layer 0, {plain['knockout'][EARLY]['right']:.2f} of the plain model's answers stay right "
            f"and {second['knockout'][EARLY]['right']:.2f} of the other's.",
        ),
        f"When the last word cannot see the first, {plain['knockout'][JOIN]['right']:.2f} and "
        f"{second['knockout'][JOIN]['right']:.2f} stay right; with another word hidden from it, "
        f"{plain['knockout'][CONTROL]['right']:.2f} and {second['knockout'][CONTROL]['right']:.2f}.",
        f"One seed each, and {corpora['steps']} steps of half a batch are little reading: this says what to try, not what will come out.",
    )


EARLY = "END cannot see the subject, layer 0"
JOIN, CONTROL = "the last word cannot see the first", "the last word cannot see another word"


def draw(numbers: Numbers) -> dict[str, Figure]:
    panels = {}
    for model, f in numbers.items():
        mlps = {
            "first word": f["landmark"]["mlps at the first word"],
            "last word": f["landmark"]["mlps at the subject"],
            "END": f["landmark"]["mlps at END"],
            "country: subject": f["country"]["mlps at the subject"],
            "country: END": f["country"]["mlps at END"],
        }
        panels[model] = [
            by_place(f["country"]["stream"], "stream, another country"),
            by_place(f["landmark"]["stream"], "stream, the words swapped"),
            by_place(mlps, "MLPs", [f"MLP {layer}" for layer in LAYERS]),
        ]
    return {
        "facts": heatmaps(
            panels,
            "Facts in pocket. Share of the logit difference's change when a part comes from a prompt about another subject",
        )
    }
