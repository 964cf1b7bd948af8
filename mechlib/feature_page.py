"""A page about one feature, to be read by people: HTML that loads nothing from the network, and the same as text.

    page = feature_page(model, sae, "blocks.2.hook_resid_post", tokens, feature, concepts)
    page              # in a notebook
    print(page)       # as text
    page.save("feature.html")

It shows the examples where the feature is largest and examples from lower intervals of its activation (a feature that
looks clean at its maximum may not be so below it), how often it has which activation, which tokens it promotes and
suppresses by the direct path, and the concept that fits best, with precision and recall.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlib.sae.features import (
    best_detectors,
    examples_by_level,
    logit_effect,
    precision_recall_by_level,
    top_activations,
)
from mechlib.sae.model import SAE, check_latent
from mechlib.sae.steering import read_site

LEVELS = 4  # intervals of the activation
AROUND = (12, 5)  # tokens shown before and after the one with the activation
BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Example:
    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    at: int  # the token that the example is about


@dataclass(frozen=True)
class Fit:
    """How well "the activation exceeds this share of its maximum" fits a concept, level by level."""

    concept: str
    levels: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    best: tuple[float, float, float]  # at the threshold with the largest F1: threshold, precision, recall


@dataclass(frozen=True)
class FeaturePage:
    title: str
    density: float  # the share of tokens with any activation
    maximum: float
    counts: tuple[int, ...]  # tokens in each of equal intervals from 0 to the maximum
    top: tuple[Example, ...]
    lower: tuple[tuple[Example, ...], ...]  # of each interval, the highest first
    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]
    fit: Fit | None

    def __repr__(self) -> str:
        near = f", nearest concept: {self.fit.concept}" if self.fit else ""
        return f"FeaturePage({self.title!r}, active on {self.density:.2%} of tokens{near})"

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)

    def save(self, path: str | Path) -> None:
        """A whole HTML document."""
        head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(self.title)}</title>'
        body = f'<style>body {{ margin: 1em }}</style></head><body class="mechlib-page">{as_html(self)}</body></html>\n'
        Path(path).write_text(head + body, encoding="utf-8")


# ---- what is on it


@torch.no_grad()
def feature_page(
    model: Any,
    sae: SAE,
    site: str,
    tokens: Int[Tensor, "row position"],
    feature: int,
    concepts: Mapping[str, Bool[Tensor, "row position"]] | None = None,
    examples: int = 8,
    seed: int = 0,
    title: str = "",
) -> FeaturePage:
    """The page of one latent over some texts. `concepts` are labels of the same tokens, by name; the one with the
    largest F1 is shown (chosen on these tokens, so read its numbers as the best that could be said). Raises IndexError
    if the SAE has no such latent."""
    check_latent(sae, feature)
    codes = sae.encode(read_site(model, site, tokens))[..., feature]
    words = [[model.tokenizer.decode(token) for token in row] for row in tokens.tolist()]

    def example(row: int, position: int) -> Example:
        start, end = max(0, position - AROUND[0]), min(len(words[row]), position + AROUND[1] + 1)
        return Example(tuple(words[row][start:end]), tuple(codes[row, start:end].tolist()), position - start)

    top = [example(row, at) for value, row, at in zip(*(x.tolist() for x in top_activations(codes, examples))) if value]
    some = examples_by_level(codes, LEVELS, max(2, examples // 2), torch.Generator().manual_seed(seed))
    lower = [tuple(example(row, at) for row, at in zip(rows.tolist(), ats.tolist())) for _, rows, ats in some]
    active = codes[codes > 0]
    counts = torch.histc(active, 24, 0, active.max().item()) if len(active) else torch.zeros(24)
    promoted, suppressed = _tokens(model, sae.W_dec[feature])
    return FeaturePage(
        title=title or f"Latent {feature} at {site}",
        density=(codes > 0).float().mean().item(),
        maximum=codes.max().item(),
        counts=tuple(int(count) for count in counts),
        top=tuple(top),
        lower=tuple(lower),
        promoted=promoted,
        suppressed=suppressed,
        fit=_fit(codes, concepts) if concepts and len(active) else None,
    )


def _tokens(model: Any, direction: Tensor, k: int = 6) -> tuple[tuple[tuple[str, float], ...], ...]:
    effect = logit_effect(model, direction)
    most, least = (effect.topk(k, largest=largest).indices.tolist() for largest in (True, False))
    return tuple(tuple((model.tokenizer.decode(t), effect[t].item()) for t in tokens) for tokens in (most, least))


def _fit(codes: Float[Tensor, "row position"], concepts: Mapping[str, Bool[Tensor, "row position"]]) -> Fit:
    names, labels = list(concepts), torch.stack([label.flatten() for label in concepts.values()], dim=1)
    detectors = best_detectors(codes.flatten()[:, None], labels, signs=(1,))
    best = max(range(len(names)), key=lambda i: detectors[i].f1)
    levels = torch.arange(LEVELS) / LEVELS
    precision, recall = precision_recall_by_level(codes.flatten(), labels[:, best], levels)
    at_best = detectors[best].score(codes.flatten()[:, None], labels[:, best])
    best_fit = (detectors[best].threshold, *at_best[:2])
    return Fit(names[best], tuple(levels.tolist()), tuple(precision.tolist()), tuple(recall.tolist()), best_fit)


# ---- as text


def as_text(page: FeaturePage) -> str:
    """Plain text: the token that an example is about stands between >> and <<; activations follow in brackets."""
    lines = [page.title, "=" * len(page.title), f"active on {page.density:.2%} of tokens, at most {page.maximum:.2f}"]
    if page.fit:
        fit = page.fit
        lines.append(f"nearest concept: {_fit_sentence(fit)}")
        for level, precision, recall in zip(fit.levels, fit.precision, fit.recall):
            lines.append(f"  above {level:4.0%} of the maximum   precision {precision:.2f}   recall {recall:.2f}")
    highest = max(page.counts) or 1
    bars = "".join(BARS[-(-count * 8 // highest)] for count in page.counts)
    lines.append(f"histogram of the activation, 0 to {page.maximum:.2f}, highest bar {highest} tokens: |{bars}|")
    lines.append("promotes:   " + ", ".join(f"{token.strip()} {value:+.2f}" for token, value in page.promoted))
    lines.append("suppresses: " + ", ".join(f"{token.strip()} {value:+.2f}" for token, value in page.suppressed))
    for title, examples in _sections(page):
        lines += ["", title, *(f"  {_plain(example)}" for example in examples or [])]
        if not examples:
            lines.append("  (none)")
    return "\n".join(lines)


def _plain(example: Example) -> str:
    words = [token.strip() for token in example.tokens]
    words[example.at] = f">>{words[example.at]}<< [{example.activations[example.at]:.2f}]"
    return " ".join(words)


def _sections(page: FeaturePage) -> list[tuple[str, Sequence[Example]]]:
    found: list[tuple[str, Sequence[Example]]] = [("Where it is largest (one a text)", page.top)]
    for i, examples in enumerate(page.lower):
        high, low = ((LEVELS - i - end) / LEVELS for end in (0, 1))
        found.append((f"Drawn at random between {low:.0%} and {high:.0%} of the maximum", examples))
    return found


def _fit_sentence(fit: Fit) -> str:
    threshold, precision, recall = fit.best
    return (
        f"{fit.concept} (precision {precision:.2f}, recall {recall:.2f} above {threshold:.2f}; chosen on these texts)"
    )


# ---- as HTML

# JupyterLab says on the body whether its theme is light; a page of its own asks the reader's settings.
STYLE = """
.mechlib-feature { --ink: #1b1b1b; --faint: #666; --line: #d9d9d9; --paper: #fff; --hue: 230, 120, 0;
  font: 14px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  padding: .8em 1em; max-width: 66em }
@media (prefers-color-scheme: dark) { .mechlib-page, .mechlib-page .mechlib-feature { --ink: #e6e6e6; --faint: #a0a0a0;
  --line: #444; --paper: #181818; background: #181818 } }
body[data-jp-theme-light="false"] .mechlib-feature { --ink: #e6e6e6; --faint: #a0a0a0; --line: #444; --paper: #111 }
.mechlib-feature h3 { margin: 0 0 .2em; font-size: 1.15em } .mechlib-feature h4 { margin: 1em 0 .2em; font-size: 1em }
.mechlib-feature .faint { color: var(--faint) }
.mechlib-feature .panels { display: flex; flex-wrap: wrap; gap: .4em 1.6em; align-items: flex-start }
.mechlib-feature table { border-collapse: collapse; font-variant-numeric: tabular-nums; color: inherit }
.mechlib-feature th, .mechlib-feature td { padding: 0 .8em 0 0; text-align: left; font-weight: normal;
  background: none; border: 0; color: inherit }
.mechlib-feature td.number { text-align: right }
.mechlib-feature .example { font-family: ui-monospace, monospace; font-size: 12.5px; padding: .1em 0;
  border-bottom: 1px solid var(--line); white-space: pre-wrap }
.mechlib-feature .example b { outline: 1.5px solid currentColor; border-radius: 2px; font-weight: inherit }
.mechlib-feature .value { display: inline-block; width: 4em; color: var(--faint) }
.mechlib-feature svg rect { fill: rgb(var(--hue)) } .mechlib-feature svg line { stroke: var(--line) }
"""


def as_html(page: FeaturePage) -> str:
    """A piece of HTML with its own style: no script, and nothing from elsewhere."""
    e = html.escape
    parts = [f'<div class="mechlib-feature"><style>{STYLE}</style><h3>{e(page.title)}</h3>']
    parts.append(f'<div class="faint">active on {page.density:.2%} of tokens, at most {page.maximum:.2f}</div>')
    if page.fit:
        parts.append(f"<div>nearest concept: <strong>{e(_fit_sentence(page.fit))}</strong></div>")
    parts.append('<div class="panels">' + _histogram(page))
    if page.fit:
        rows = zip(page.fit.levels, page.fit.precision, page.fit.recall)
        cells = "".join(
            f'<tr><td>{above:.0%}</td><td class="number">{precision:.2f}</td><td class="number">{recall:.2f}</td></tr>'
            for above, precision, recall in rows
        )
        head = "<tr><th>share of maximum</th><th>precision</th><th>recall</th></tr>"
        parts.append(f"<div><h4>{e(page.fit.concept)}</h4><table>{head}{cells}</table></div>")
    for title, tokens in (("Promotes", page.promoted), ("Suppresses", page.suppressed)):
        cells = "".join(f'<tr><td>{e(t.strip())}</td><td class="number">{v:+.2f}</td></tr>' for t, v in tokens)
        parts.append(f"<div><h4>{title}</h4><table>{cells}</table></div>")
    parts.append("</div>")
    for title, examples in _sections(page):
        shown = "".join(_coloured(example, page.maximum) for example in examples)
        parts.append(f"<h4>{title}</h4>{shown or '<div class=faint>none</div>'}")
    return "".join(parts) + "</div>"


def _coloured(example: Example, maximum: float) -> str:
    words = []
    for i, (token, value) in enumerate(zip(example.tokens, example.activations)):
        tag = "b" if i == example.at else "span"
        colour = f' style="background: rgba(var(--hue), {0.75 * value / maximum:.2f})"' if value > 0 else ""
        words.append(f'<{tag}{colour} title="{value:.2f}">{html.escape(token.strip())}</{tag}>')
    shown = f'<span class="value">{example.activations[example.at]:.2f}</span> {" ".join(words)}'
    return f'<div class="example">{shown}</div>'


def _histogram(page: FeaturePage) -> str:
    highest, n = max(page.counts) or 1, len(page.counts)
    bars = "".join(
        f'<rect x="{8 * i + 1}" y="{60 - 58 * count / highest:.1f}" width="6" height="{58 * count / highest:.1f}">'
        f"<title>{count} tokens</title></rect>"
        for i, count in enumerate(page.counts)
    )
    axis = f'<line x1="0" y1="60" x2="{8 * n}" y2="60"/>'
    return (
        f'<div><h4>Activation, 0 to {page.maximum:.2f}</h4><svg width="{8 * n}" height="62" role="img" '
        f'aria-label="histogram of the activation">{bars}{axis}</svg>'
        f'<div class="faint">highest bar: {highest} tokens</div></div>'
    )
