"""Write docs/models.md from the cards of the models: nothing on that page is typed by hand.

    python tools/model_cards.py            # write the page
    python tools/model_cards.py --check    # exit 1 if the page is not what the cards say

The cards of the models and of the sparse autoencoders that come with the course lie beside their weights. Of further
training seeds, some models are kept as NAME-seed-N, of others only the card: docs/models/NAME-seed-N.json.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mechlib import sae
from mechlib.models import card, names
from mechlib.models.evaluate import LIMITS, TARGETS
from mechlib.recipes.sae import TARGETS as SAE_TARGETS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "models.md"

HEAD = """# The course's models

Made by `python tools/model_cards.py` from the models' cards; the skills were measured by
`mechlib models --evaluate NAME` on prompts that the training never showed. `mechlib train NAME --seed N` makes
each model again.
"""


def further_seeds(name: str) -> list[dict[str, Any]]:
    """The cards of other training seeds of a model."""
    files = sorted((ROOT / "docs" / "models").glob(f"{name}-seed-*.json"))
    kept = [card(other) for other in names() if other.startswith(f"{name}-seed-")]
    return kept + [json.loads(file.read_text(encoding="utf-8")) for file in files]


def facts(card: dict[str, Any]) -> list[tuple[str, str]]:
    """The rows of the table above the skills."""
    a, recipe = card["architecture"], card["recipe"]
    shape = f"{a['layers']} layers, {a['heads']} heads, width {a['width']}, MLP {a['mlp']}"
    settings = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in recipe.items() if key != "command")
    return [
        ("architecture", f"{a['kind']}: {shape}, context {a['context']}, vocabulary {a['vocabulary']}"),
        ("parameters", f"{a['parameters']:,}"),
        ("corpus", card["corpus"]),
        ("recipe", f"`{recipe['command']}`; {settings}"),
        ("seed, steps, minutes", f"{card['seed']}, {card['steps']}, {card['minutes']}"),
        ("made", f"{card['date']}, " + ", ".join(f"{k} {v}" for k, v in card["versions"].items())),
        ("sha256", f"`{card['sha256']}`"),
        ("licence", card["licence"]),
    ]


def skills(cards: list[dict[str, Any]], targets: dict[str, float]) -> list[str]:
    """One row a skill, one column a seed."""
    lines = ["| skill | asked for | " + " | ".join(f"seed {card['seed']}" for card in cards) + " |"]
    lines.append("|---|---|" + "---|" * len(cards))
    for skill in cards[0]["skills"]:
        asked = f"{'≤' if skill in LIMITS else '≥'} {targets[skill]:g}" if skill in targets else ""
        values = []
        for one in cards:
            value = f"{one['skills'][skill]['value']:.3f}" if skill in one["skills"] else ""
            values.append(f"**{value}** (not reached)" if skill in one["not reached"] else value)
        lines.append(f"| {skill} | {asked} | " + " | ".join(values) + " |")
    return lines


def section(name: str) -> str:
    shipped = card(name)
    lines = [f"## {name}", "", "| | |", "|---|---|", *(f"| {label} | {text} |" for label, text in facts(shipped)), ""]
    lines += skills([shipped, *further_seeds(name)], TARGETS.get(name, {}))
    lines += ["", "Known weaknesses:", "", *(f"- {weakness}" for weakness in shipped["weaknesses"])]
    if (ROOT / "docs" / "models" / f"{name}.md").is_file():
        lines += ["", f"What was tried: [models/{name}.md](models/{name}.md)."]
    return "\n".join(lines) + "\n"


def sae_facts(card: dict[str, Any]) -> dict[str, str]:
    """What one sparse autoencoder is and how good it is."""
    shape, recipe = card["sae"], card["recipe"]
    settings = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in recipe.items() if key != "command")
    return {
        "trained on": f"{card['model']}, `{card['site']}`",
        "width, latents, k": f"{shape['d_in']}, {shape['d_sae']} ({shape['activation']}), {shape['k']}",
        **{measure: f"{value:.3f}" for measure, value in card["measures"].items()},
        "recipe": f"`{recipe['command']}`; {settings}",
        "made": f"{card['date']}, " + ", ".join(f"{k} {v}" for k, v in card["versions"].items()),
        "sha256": f"`{card['sha256']}`",
        "licence": card["licence"],
    }


def sae_section(cards: list[dict[str, Any]]) -> str:
    """One row a fact, one column a sparse autoencoder."""
    facts = [sae_facts(card) for card in cards]
    lines = ["## Sparse autoencoders", "", "| | asked for | " + " | ".join(card["name"] for card in cards) + " |"]
    lines.append("|---|---|" + "---|" * len(cards))
    for label in facts[0]:
        sign = "≥" if label == "loss recovered" else "≤"
        asked = f"{sign} {SAE_TARGETS[label]:g}" if label in SAE_TARGETS else ""
        lines.append(f"| {label} | {asked} | " + " | ".join(fact[label] for fact in facts) + " |")
    lines += [
        "",
        'The targets are those of `pocket`; `pocket-random` is its control. `mechlib.sae.load("pocket")` loads one.',
    ]
    lines += ["", "What was tried, and which concepts their latents find: [models/sae.md](models/sae.md)."]
    return "\n".join(lines) + "\n"


def page() -> str:
    models = [section(name) for name in names() if "-seed-" not in name]
    return "\n".join([HEAD, *models, sae_section([sae.load(name).card for name in sae.names()])])


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Write docs/models.md from the models' cards.")
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    if not parser.parse_args(arguments).check:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if PAGE.read_text(encoding="utf-8") == page():
        return 0
    print("docs/models.md is not what the cards say: run python tools/model_cards.py")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
