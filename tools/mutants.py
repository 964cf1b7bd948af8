"""How good are the checks? cosmic-ray makes mutants of every reference solution, and we count how many are rejected.

    python tools/mutants.py             prints the table
    python tools/mutants.py --write     writes docs/mutants.md as well

A mutant is the reference with one small change (+ for -, 1 for 2, < for <=, no minus sign, ...), handed to `check` as
if a student had written it. Annotations and docstrings are left out: nothing that they say can be observed. A survivor
is fine only if it is really another way to write the right answer; `REASONS` says for each why.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import datetime
import importlib.metadata
import inspect
import io
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from mechlib.checker import Exercise, run
from mechlib.exercises import all_exercises

PAGE = Path(__file__).parents[1] / "docs" / "mutants.md"
NEEDS_ARGUMENTS = {"core/VariableReplacer", "core/VariableInserter"}

# (exercise, the changed line as it reads in the mutant) -> why that is still a right answer.
NEVER = "a uniform draw that is exactly equal has probability 2^-24"
NORM = "a norm is never negative, so this says the same"
EVEN = "2 * feature is even, so setting or flipping its last bit adds 1"
COUNTS = "a word with k occurrences has k - 1 queries that look back and k - 1 keys to look at: the same count"
AXES = "the last axis under its other name"
CHUNK = "only how many rows are multiplied at a time"
KEY_BIAS = "a bias of the keys adds the same to all of a query's scores, which a softmax does not see"
TEXT = "the same for the texts that are allowed"
REASONS: dict[tuple[str, str], str] = {
    ("superposition.superposition_index", "unit = W / norms.where(norms != 0, torch.ones_like(norms))"): NORM,
    (
        "superposition.sparse_batch",
        "active = torch.rand(shape, generator=generator, device=sparsity.device) > sparsity[:, None]",
    ): NEVER,
    (
        "superposition.correlated_batch",
        "pair_active = torch.rand(pairs, generator=generator, device=sparsity.device) > sparsity[:, None]",
    ): NEVER,
    ("superposition.feature_dimensionality", "unit = W / norms.where(norms != 0, torch.ones_like(norms))"): NORM,
    (
        "superposition.feature_dimensionality",
        "return norms.squeeze(-2) ** 2 / shared.where(shared != 0, torch.ones_like(shared))",
    ): "a sum of squares is never negative, so this says the same",
    **{
        (
            "superposition.feature_dimensionality",
            f"unit = W / norms.where(norms {comparison}, torch.ones_like(norms))",
        ): "0 / 0 gives NaN for a column of zeros, and the guard in the next line turns it into the right 0"
        for comparison in ("> -1", ">= 0")
    },
    (
        "superposition.polysemanticity",
        "return ((response > 0) * (response >= threshold * largest)).sum(dim=-1)",
    ): "for truth values `*` is `&`",
    (
        "superposition.polysemanticity",
        "return ((response != 0) & (response >= threshold * largest)).sum(dim=-1)",
    ): "after a ReLU nothing is negative",
    **{
        ("logit_lens.value_vector_tokens", line.replace("-1", dim)): "W_out[layer] has two axes: 1 is the last one"
        for dim in ("1", "+1")
        for line in (
            "centred = values - values.mean(dim=-1, keepdim=True)",
            "return (centred * model.ln_final.weight @ model.W_U).topk(k, dim=-1).indices",
        )
    },
    **{
        ("logit_lens.erase_direction", line.replace("-1", dim)): "one vector a prompt has two axes: 1 is the last one"
        for dim in ("1", "+1")
        for line in (
            "unit = directions / directions.norm(dim=-1, keepdim=True)",
            "edited[rows, positions] = here - (here * unit).sum(dim=-1, keepdim=True) * unit",
        )
    },
    **{
        (
            "logit_lens.blind_direction",
            f"return torch.linalg.eigh(scores + scores.trace() {sign} mean).eigenvectors[:, 0]",
        ): "a large number added to every entry lifts the mean out of the way just as well"
        for sign in ("+", "-", "/", "//")
    },
    **{
        ("superposition.absolute_value_weights", line.replace("+", operator)): EVEN
        for operator in "|^"
        for line in (
            "W_in[2 * feature, feature], W_in[2 * feature + 1, feature] = (1.0, -1.0)",
            "W_out[feature, 2 * feature] = W_out[feature, 2 * feature + 1] = 1.0",
        )
    },
    **{
        (
            "induction.previous_token_score",
            f"return pattern.diagonal(offset=-1, dim1={axis}, dim2=-1).mean(dim=(0, 2))",
        ): AXES
        for axis in ("2", "+2")
    },
    **{
        (
            "induction.copying_score",
            f"most = torch.cat([(rows @ W_V @ W_O @ W_U).argmax(dim=-1) for rows in W_E.split( {n})])",
        ): CHUNK
        for n in ("4095", "4097")
    },
    **{
        (
            "induction.copying_score",
            f"most = torch.cat([(rows @ W_V @ W_O @ W_U).argmax(dim={axis}) for rows in W_E.split(4096)])",
        ): AXES
        for axis in ("1", "+1")
    },
    **{
        ("induction.positional_attention", f"return scores.masked_fill(later, -torch.inf).softmax(dim={axis})"): AXES
        for axis in ("1", "+1")
    },
    (
        "induction.positional_attention",
        "scores = (x @ W_Q + b_Q) @ (x @ W_K - b_K).T / W_Q.shape[1] ** 0.5",
    ): KEY_BIAS,
    **{
        ("induction.composition_score", f"reads = reader.mT if side {comparison} 'K' else reader"): TEXT
        for comparison in ("is", "<=")
    },
}


def plain_source(reference: Any) -> str:
    """The reference's source without annotations and docstrings."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(reference)))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            node.body = node.body[1:]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            for argument in node.args.args + node.args.kwonlyargs:
                argument.annotation = None
    return ast.unparse(tree)


def mutants(source: str) -> Iterator[str]:
    """Every different source that one change of cosmic-ray's makes."""
    seen = {source}
    for name in sorted(set(operator_names()) - NEEDS_ARGUMENTS):
        operator, occurrence = get_operator(name)(), 0
        while (mutant := mutate_code(source, operator, occurrence)) is not None:
            occurrence += 1
            if mutant not in seen:
                seen.add(mutant)
                yield mutant


def survives(exercise: Exercise, mutant: str) -> bool:
    """Whether the check accepts the mutant. One that does not even run as a definition is rejected."""
    scope = dict(vars(sys.modules[exercise.reference.__module__]))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(mutant, f"<mutant of {exercise.id}>", "exec"), scope)
            return run(exercise, scope[exercise.name]).status == "pass"
    except Exception:
        return False


def changed_line(source: str, mutant: str) -> str:
    lines = zip(source.splitlines(), mutant.splitlines(), strict=False)
    return next((after.strip() for before, after in lines if before != after), "")


def measure() -> list[tuple[str, int, list[str]]]:
    """For each exercise: its id, the number of mutants, and the changed line of every survivor."""
    rows = []
    for exercise in all_exercises():
        source = plain_source(exercise.reference)
        tried = list(mutants(source))
        alive = [changed_line(source, mutant) for mutant in tried if survives(exercise, mutant)]
        rows.append((exercise.id, len(tried), alive))
    return rows


def page(rows: list[tuple[str, int, list[str]]]) -> str:
    """The measurement as a page of the documentation."""
    made, alive = sum(n for _, n, _ in rows), sum(len(lines) for _, _, lines in rows)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("cosmic-ray", "torch"))
    text = [
        "# Mutants: how much do the checks notice?",
        "",
        "Every reference solution with one small change, handed in as an answer (`tools/mutants.py`).",
        f"Measured on {datetime.date.today()} with Python {sys.version.split()[0]}, {versions}.",
        "",
        f"**{made - alive} of {made} mutants are rejected ({100 * (made - alive) / made:.1f}%).**",
        "",
        "| exercise | mutants | rejected |",
        "|---|---|---|",
        *(f"| {id} | {n} | {n - len(lines)} |" for id, n, lines in rows),
        "",
        "## Survivors, and why each is a right answer",
        "",
        *(
            f"- `{id}`: `{line}`: {REASONS.get((id, line), 'no reason known')}"
            for id, _, lines in rows
            for line in lines
        ),
    ]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    written = page(measure())
    print(written)
    if parser.parse_args().write:
        PAGE.write_text(written, encoding="utf-8")
