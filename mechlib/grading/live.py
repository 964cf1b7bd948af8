"""What the instructor sees while a class is graded: a table that fills, how far it is, and how long it will take."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mechlib.grading.report import CALM, Row

SHOWN = 20  # rows: those that run and those that have just ended


class LiveTable:
    """Use it in a `with` statement. Where the output is no terminal, it prints a line for each student instead."""

    def __init__(self, chapter: str, names: Sequence[str]):
        self.console = Console()
        self.running: dict[str, float] = {}
        self.rows: dict[str, Row] = {}
        self.bar = Progress(
            TextColumn(chapter),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            auto_refresh=False,
        )
        self.task = self.bar.add_task(chapter, total=len(names))
        self.live = Live(get_renderable=self._draw, console=self.console, refresh_per_second=2, transient=True)

    def __enter__(self) -> LiveTable:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def warn(self, message: str) -> None:
        self.console.print(message, style="bold red", soft_wrap=True)

    def begin(self, student: str) -> None:
        self.running[student] = time.monotonic()

    def show(self, row: Row, known: bool = False) -> None:
        """A student is done; `known`: since an earlier run."""
        started = self.running.pop(row.student, None)
        self.rows[row.student] = row
        self.bar.advance(self.task)
        if not self.console.is_terminal:
            took = "unchanged" if known or started is None else f"{time.monotonic() - started:.1f} s"
            words = f"{row.status}{', borrowed: ' + ', '.join(row.borrowed) if row.borrowed else ''}"
            print(f"{len(self.rows)}: {row.student}  {row.score:g}/{row.max_score:g}  {words}  ({took})", flush=True)

    def _draw(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for heading in ("student", "status", "score", "borrowed"):
            table.add_column(heading)
        for row in list(self.rows.values())[len(self.running) - SHOWN :]:
            style = CALM.get(row.status, "red")
            score = f"{row.score:g}/{row.max_score:g}"
            table.add_row(row.student, f"[{style}]{row.status}[/]", score, ", ".join(row.borrowed))
        for student, since in list(self.running.items()):
            table.add_row(student, f"[dim]running, {time.monotonic() - since:.0f} s[/]", "", "")
        counts = Counter(row.status for row in self.rows.values())
        return Group(table, ", ".join(f"{count} {status}" for status, count in counts.most_common()), self.bar)
