"""What of an executed notebook may be shown to others: text and pictures, nothing that a browser would run.

Instructors open what students hand in in formgrader, with the rights to change grades; nbconvert puts HTML and Markdown
on the page as they are. Everything that a kernel has sent is rebuilt here from what is known to be harmless.
"""

from __future__ import annotations

import re
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_output

from mechlib.grading.graft import EXTRA

PICTURES = ("image/png", "image/jpeg")
BASE64 = re.compile(r"[A-Za-z0-9+/=\s]+")
# Turning text into a page takes minutes for a megabyte, and grows with the square for some; the driver does it.
LONGEST_TEXT, LONGEST_MARKDOWN, MOST_TEXT = 20_000, 10_000, 300_000  # characters: of a cell, an answer, a notebook
MOST_OUTPUTS = 1000  # of a notebook
CUT = "\n... (the rest was cut)"
TAG = re.compile(r"<(?=[A-Za-z/!?])")
LINK = re.compile(r"\](?=[(:])")  # nbconvert lets a link run JavaScript; a picture tells its server who looks at it
SPECIAL = re.compile(r"[^\w .,:;()'+=@-]")
LONGEST_REMARK = 300


def clean(notebook: NotebookNode, release: NotebookNode) -> None:
    """Leave only text and pictures in the outputs of `notebook`, only text in the Markdown that the student wrote."""
    notebook.metadata = release.metadata  # the kernel has put in what it says about itself
    space = Space()
    for cell in notebook.cells:
        theirs = "exercise" in cell.metadata or EXTRA in cell.metadata.get("tags", [])
        if cell.cell_type == "code":
            cell.source = space.cut(cell.source) if theirs else cell.source
            count = cell.get("execution_count")
            cell.execution_count = count if type(count) is int else None
            cell.outputs = [kept for output in space.some(cell.outputs) if (kept := clean_output(output))]
            for output in cell.outputs:
                shorten(output, space)
        elif theirs or "question" in cell.metadata:
            cell.source = LINK.sub("] ", TAG.sub("&lt;", space.cut(cell.source, LONGEST_MARKDOWN)))


def clean_remark(text: str) -> str:
    """One line without anything that a page, a terminal or Markdown would take for more than text.

    Students choose the names of their files and of their errors, and remarks quote them.
    """
    return SPECIAL.sub("?", text[:LONGEST_REMARK])


class Space:
    """How much a page still takes."""

    def __init__(self) -> None:
        self.left, self.outputs = MOST_TEXT, MOST_OUTPUTS

    def some(self, outputs: list[NotebookNode]) -> list[NotebookNode]:
        kept = outputs[: self.outputs]
        self.outputs -= len(kept)
        return kept

    def cut(self, text: str, longest: int = LONGEST_TEXT) -> str:
        kept = text[: min(longest, self.left)]
        self.left -= len(kept)
        return text if kept == text else f"{kept}{CUT}"


def shorten(output: NotebookNode, space: Space) -> None:
    """Cut the texts of a clean output."""
    if output.output_type == "stream":
        output.text = space.cut(output.text)
    elif output.output_type == "error":
        output.evalue = space.cut(output.evalue)
        output.traceback = [space.cut("\n".join(output.traceback))]
    elif "text/plain" in output.data:
        output.data["text/plain"] = space.cut(output.data["text/plain"])


def clean_output(output: NotebookNode) -> NotebookNode | None:
    """The output with its text and its picture alone; None if it has neither."""
    kind = output.get("output_type")
    if kind == "stream":
        name = "stderr" if output.get("name") == "stderr" else "stdout"
        return new_output("stream", name=name, text=_text(output.get("text")))
    if kind == "error":
        lines = output.get("traceback")
        traceback = [_text(line) for line in lines] if isinstance(lines, list) else []
        return new_output("error", ename=_text(output.get("ename")), evalue=_text(output.get("evalue")),
                          traceback=traceback)  # fmt: skip
    data = output.get("data")
    if not isinstance(data, dict):
        return None
    kept = {"text/plain": _text(data["text/plain"])} if "text/plain" in data else {}
    for picture in PICTURES:
        if isinstance(data.get(picture), str) and BASE64.fullmatch(data[picture]):
            kept[picture] = data[picture]
    return new_output("display_data", data=kept) if kept else None


def _text(value: Any) -> str:
    text = "".join(map(str, value)) if isinstance(value, list) else str(value)
    return text.encode(errors="replace").decode()  # half a surrogate pair cannot be written to a file
