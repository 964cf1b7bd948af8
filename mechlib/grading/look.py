"""What a person should look at: answers that may be copied, and code that reaches into the checks.

Nothing is decided here. Students have the library, so they can copy an answer out of it; no sandbox can tell that from
understanding.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Mapping

from nbformat import NotebookNode

from mechlib.checker.exercise import Exercise

SMALLEST = 80  # nodes of a syntax tree; two people write a shorter answer in the same way
MACHINERY = re.compile(
    r"mechlib\.(?:exercises|checker|grading)|MECHLIB_DESK|\.equivalents\b|\.reference\b|__code__|\bgetsource\b"
)


def remarks(notebook: NotebookNode, exercises: Mapping[str, Exercise]) -> list[str]:
    """One sentence for each answer that has the library's own text, and for each mention of the checks' machinery."""
    found = []
    for cell in notebook.cells:
        name = cell.metadata.get("exercise")
        if name in exercises and has_text_of(cell.source, exercises[name].reference):
            found.append(f"the answer to {name} has the library's own text")
        if cell.cell_type == "code" and "check" not in cell.metadata and (mention := MACHINERY.search(cell.source)):
            found.append(f"{'the answer to ' + name if name else 'a cell'} mentions {mention[0]}")
    return list(dict.fromkeys(found))


def has_text_of(source: str, reference: object) -> bool:
    """Whether the code defines what the reference is, but for names, annotations and docstrings."""
    try:
        (original,) = ast.parse(textwrap.dedent(inspect.getsource(reference))).body  # type: ignore[arg-type]
        statements = ast.parse(source).body
    except (SyntaxError, ValueError, TypeError, OSError, RecursionError):
        return False
    text = plain(original)
    if sum(1 for _ in ast.walk(original)) < SMALLEST:  # counted after what is plain
        return False
    return any(plain(statement) == text for statement in statements if type(statement) is type(original))


def plain(tree: ast.AST) -> str:
    """Strip a syntax tree of annotations, docstrings and names (which become numbers), and put it into words."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            if hasattr(node, field):
                setattr(node, field, None)
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    for node in ast.walk(tree):
        for field in ("id", "arg", "name"):
            if isinstance(getattr(node, field, None), str):
                setattr(node, field, names.setdefault(getattr(node, field), f"n{len(names)}"))
    return ast.dump(tree)
