"""How a report looks: one line for a pass, a short card for a failure; HTML in a notebook, plain text elsewhere."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from html import escape

from mechlib.checker.run import Report

# Halfway between dark and light, to be read in JupyterLab's light and dark theme.
GREEN, RED, AMBER, BLUE = "#23905a", "#d0463a", "#a87300", "#3a7fc4"
MARKS = {"pass": ("✓", GREEN), "partly": ("◐", AMBER), "borrowed": ("↩", BLUE), "not_written": ("…", AMBER)}
PLAIN = str.maketrans({"✓": "+", "✗": "x", "◐": "~", "↩": "<", "…": "...", "▤": "#", "·": "-", "±": "+-"})


@dataclass(frozen=True)
class Card:
    """A headline, a sentence and rows of details; shows itself in a notebook or a terminal."""

    mark: str
    headline: str
    sentence: str = ""
    rows: list[tuple[str, str]] = field(default_factory=list)
    footer: str = ""
    colour: str = BLUE

    def __str__(self) -> str:
        width = max((len(label) for label, _ in self.rows), default=0)
        lines = [f"{self.mark} {self.headline}"]
        if self.sentence:
            lines += ["", f"  {self.sentence}"]
        if self.rows:
            indent = "\n" + " " * (width + 4)
            lines += [""] + [f"  {label:<{width}}  {text.replace(chr(10), indent)}" for label, text in self.rows]
        return _printable("\n".join(lines + (["", f"  {self.footer}"] if self.footer else [])))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        mark, headline = escape(self.mark), escape(self.headline)
        head = f'<b style="color:{self.colour}">{mark}</b>&ensp;<b style="white-space:pre-wrap">{headline}</b>'
        if not self.sentence:
            return f'<div style="padding:2px 0">{head}</div>'
        cell = "text-align:left;vertical-align:baseline;background:none"
        rows = "".join(
            f'<tr style="background:none"><td style="{cell};opacity:.7;white-space:nowrap;padding:1px 12px 1px 0">'
            f'{escape(label)}</td><td style="{cell}"><code style="white-space:pre-wrap">{escape(text)}</code></td></tr>'
            for label, text in self.rows
        )
        table = f'<table style="margin:6px 0;font-size:90%;border:none">{rows}</table>' if rows else ""
        footer = f'<div style="opacity:.7;font-size:90%">{escape(self.footer)}</div>' if self.footer else ""
        return (
            f'<div style="border-left:4px solid {self.colour};padding:4px 12px;margin:4px 0;max-width:60em">{head}'
            f'<div style="margin:6px 0">{_with_code(self.sentence)}</div>{table}{footer}</div>'
        )


def _printable(text: str) -> str:
    """The text in characters that standard output has; a pipe on Windows knows neither ✓ nor ✗."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(PLAIN).encode(encoding, "backslashreplace").decode(encoding)
    return text


def _with_code(sentence: str) -> str:
    """A sentence as HTML: what stands between backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(sentence))


def card(report: Report) -> Card:
    """The card of a report."""
    mark, colour = MARKS.get(report.status, ("✗", RED))
    headline = f"{report.id}   {report.earned:g} / {report.points}"
    if report.status == "pass":
        return Card(mark, headline, colour=colour)
    rows = list(report.verdict.details)
    if any(report.parts.values()):
        rows.append(("parts", ", ".join(f"{part} {'✓' if ok else '✗'}" for part, ok in report.parts.items())))
    stuck = f'Stuck? hint("{report.id}")' if report.status in ("fail", "partly") else ""
    return Card(mark, headline, report.verdict.sentence, rows, stuck, colour)
