"""How good are the checks? cosmic-ray makes mutants of every reference solution, and we count how many are rejected.

    python tools/mutants.py [TOPIC ...]             prints the tables
    python tools/mutants.py [TOPIC ...] --write     writes docs/mutants.md and docs/mutants.json as well

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
import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from mechlib.checker import Case, Exercise
from mechlib.checker.judge import judge
from mechlib.checker.observe import usual_torch
from mechlib.checker.run import observe_encoded
from mechlib.exercises import all_exercises

PAGE = Path(__file__).parents[1] / "docs" / "mutants.md"
ROWS = PAGE.with_suffix(".json")  # the measurements
NEEDS_ARGUMENTS = {"core/VariableReplacer", "core/VariableInserter"}

# (exercise, the changed line as it reads in the mutant) -> why that is still a right answer.
NEVER = "a uniform draw that is exactly equal has probability 2^-24"
NORM = "a norm is never negative, so this says the same"
EVEN = "2 * feature is even, so setting or flipping its last bit adds 1"
COUNTS = "a word with k occurrences has k - 1 queries that look back and k - 1 keys to look at: the same count"
AXES = "the last axis under its other name"
KEY_BIAS = "a bias of the keys adds the same to all of a query's scores, which a softmax does not see"
TEXT = "the same for the texts that are allowed"
DIRECTION = "there are two directions, and in alphabetical order this picks the same"
OPTIONS = "the exercise asks for a ReLU alone: other activation functions and their settings are the library's part"
METRIC_TABLE = (
    "table[name] = {'continuous': bool(curve.diff().abs().max() <= span / 10), "
    "'linear': bool((curve - line).abs().max() <= span / 100), "
    "'prior_independent': bool((m['tilted'].mean() - m['even'].mean()).abs() <= span / 100), "
    "'fooled': bool(effect > 0.1)}"
)
# Exercises whose survivors all live for one reason.
SAME_REASON = {
    "ioi.name_mover_score": "what reads the stream has two axes: 1 is the last one",
    "ioi.path_patch": "there are two conventions, and in alphabetical order this picks the same",
    "ioi.faithfulness": "refusing a model that is no better than nothing is the library's part, not asked of students",
    "ioi.name_copying_score": "a batch of one, two axes, and a LayerNorm behind it that takes the size away: the same",
}

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
        ("patching.log_prob", f"return _of(logits.log_softmax(dim={axis}), answers[:, 0])"): AXES
        for axis in ("1", "+1")
    },
    ("patching.normalised_effect", "start = corrupted if direction <= 'denoising' else clean"): DIRECTION,
    (
        "patching.residual_sweep",
        "base, source = (corrupted, clean) if direction <= 'denoising' else (clean, corrupted)",
    ): DIRECTION,
    (
        "patching.corrupt_by_noise",
        "length = embeddings.shape[ 0]",
    ): "only the refusal of positions that are not there reads this: the library's part, not asked of students",
    (
        "patching.corrupt_by_noise",
        "for position in []:",
    ): "refusing positions that are not there is the library's part, not asked of students",
    (
        "patching.attention_knockout",
        "for layer in []:",
    ): "refusing layers that are not there is the library's part, not asked of students",
    **{
        (
            "patching.metric_table",
            METRIC_TABLE.replace(*change),
        ): "at exactly the bound a comparison tells only which way a float was rounded, so no case lies there"
        for change in (
            ("curve.diff().abs().max() <=", "curve.diff().abs().max() <"),
            ("(curve - line).abs().max() <=", "(curve - line).abs().max() <"),
            ("(m['tilted'].mean() - m['even'].mean()).abs() <=", "(m['tilted'].mean() - m['even'].mean()).abs() <"),
            ("effect >", "effect >="),
        )
    },
    **{
        ("superposition.absolute_value_weights", line.replace("+", operator)): EVEN
        for operator in "|^"
        for line in (
            "W_in[2 * feature, feature], W_in[2 * feature + 1, feature] = (1.0, -1.0)",
            "W_out[feature, 2 * feature] = W_out[feature, 2 * feature + 1] = 1.0",
        )
    },
    (
        "induction.positional_attention",
        "scores = (x @ W_Q + b_Q) @ (x @ W_K - b_K).T / W_Q.shape[1] ** 0.5",
    ): KEY_BIAS,
    (
        "induction.patch_keys",
        "keys[:, :, reader] = seen @ model.W_K[later, reader] - model.b_K[later, reader]",
    ): KEY_BIAS,
    **{
        (
            f"induction.{score}",
            "return (pattern * wanted[:, None]).sum(dim=(0, 2, 3)) / wanted.any(dim= 1).sum().clamp(min=1)",
        ): COUNTS
        for score in ("duplicate_token_score", "induction_score")
    },
    ("induction.composition_score", "reads = reader.mT if side is 'K' else reader"): "Python keeps one copy of 'K'",
    (
        "induction.composition_score",
        "reads = reader.mT if side <= 'K' else reader",
    ): "of the three sides that are allowed, K comes first in the alphabet",
    **{
        ("induction.build_induction_circuit", f"plan.unembed(guess, {gain})"): "a logit of 19 or 21 is the largest, too"
        for gain in ("19.0", "21.0")
    },
    (
        "induction.build_induction_circuit",
        "one_back = attend({i: i - 1 for i in range( 2, n_ctx)}, n_ctx)",
    ): "a position that is not in the table looks at the first one, which is the one before position 1",
    (
        "induction.build_induction_circuit",
        "one_back = attend({i: i - 1 for i in range( 0, n_ctx)}, n_ctx)",
    ): "position 0 is sent to the last one, which it may not see, and looks at itself as before",
    **{
        (
            "induction.build_induction_circuit",
            f"plan.head({head}).qk({how}",
        ): "another head of the same layer; which one is up to the student"
        for head, how in (
            ("0, 0", "plan.position, plan.position, one_back).ov(token, previous)"),
            ("0, 2", "plan.position, plan.position, one_back).ov(token, previous)"),
            ("1, 1", "token, previous, SHARP).ov(token, guess)"),
        )
    },
    (
        "residual_stream.next_token_table",
        "probabilities = model(model.to_tokens(text))[ -1, -1].softmax(dim=-1)",
    ): "one text is a batch of one: its first row is its last",
    (
        "residual_stream.next_token_table",
        "probabilities = model(model.to_tokens(text))[0, -1].softmax(dim=- 0)",
    ): "the logits of one text at one position have a single axis",
    **{
        ("sae.SAE", f"def __init__(self, d_in, d_sae, activation='relu', k=None, {settings}, generator=None):"): OPTIONS
        for settings in (
            *(f"threshold= {threshold}, bandwidth=0.05" for threshold in ("1.1", "-0.9")),
            *(f"threshold=0.1, bandwidth= {bandwidth}" for bandwidth in ("1.05", "-0.95")),
        )
    },
    **{
        ("sae.SAE", line): OPTIONS
        for line in ("def threshold(self):", *(f"if activation {sign} 'jumprelu':" for sign in ("is", "<", "<=")))
    },
    **{
        (
            "sae.relu_l1_loss",
            f"return squared_error(x, reconstruction) + l1 * codes.abs().sum(dim={dim}).mean()",
        ): "a batch of codes has two axes: 1 is the last one"
        for dim in ("1", "+1")
    },
    ("sae.resample_dead", "if n_dead <= 0:"): "a count is never negative",
    ("sae.precision_recall_by_level", "hits = (fires * concept).sum(dim=1)"): "for truth values `*` is `&`",
    ("residual_stream.get_activation", "return kept[ -1]"): "the hook has run once: the last activation is the first",
    **{
        (
            "residual_stream.direct_logit_attribution",
            line.replace("-1", dim),
        ): "one position's vectors, [batch d_model], have two axes: 1 is the last one"
        for dim in ("1", "+1")
        for line in (
            "normalised = (last - last.mean(dim=-1, keepdim=True)) / scale * model.ln_final.weight",
            "attribution[name] = (normalised * direction).sum(dim=-1)",
        )
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
        with contextlib.redirect_stdout(io.StringIO()), usual_torch():
            exec(compile(mutant, f"<mutant of {exercise.id}>", "exec"), scope)
            return all(passes(exercise, case, scope[exercise.name]) for case in exercise.cases(0))
    except Exception:
        return False


def passes(exercise: Exercise, case: Case, answer: Any) -> bool:
    """As in a check, but without asking which mistake a wrong answer is: that takes most of the time."""
    outcome = observe_encoded(answer, case, exercise.reference)
    return judge(exercise, case, outcome, suspects=[]).passed


def changed_line(source: str, mutant: str) -> str:
    lines = zip(source.splitlines(), mutant.splitlines(), strict=False)
    return next((after.strip() for before, after in lines if before != after), "")


def measure(topics: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """For each exercise: the number of mutants, the changed line of every survivor, and when and with what."""
    rows = {}
    for exercise in all_exercises():
        if topics and exercise.id.split(".")[0] not in topics:
            continue
        source = plain_source(exercise.reference)
        tried = list(mutants(source))
        alive = [changed_line(source, mutant) for mutant in tried if survives(exercise, mutant)]
        rows[exercise.id] = {"mutants": len(tried), "survivors": alive, "measured": measured()}
        print(f"{exercise.id}: {len(tried) - len(alive)} of {len(tried)} rejected", flush=True)
    return rows


def measured() -> str:
    """The date and the versions."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("cosmic-ray", "torch"))
    return f"{datetime.date.today()}, Python {sys.version.split()[0]}, {versions}"


def rejected(rows: dict[str, dict[str, Any]]) -> str:
    """ "549 of 562 (97.7%)"."""
    made = sum(row["mutants"] for row in rows.values())
    alive = sum(len(row["survivors"]) for row in rows.values())
    return f"{made - alive} of {made} ({100 * (made - alive) / max(1, made):.1f}%)"


def reason(id: str, line: str) -> str:
    """Why a survivor is a right answer."""
    return REASONS.get((id, line)) or SAME_REASON.get(id, "no reason known")


def page(rows: dict[str, dict[str, Any]]) -> str:
    """The measurements as a page of the documentation."""
    text = [
        "# Mutants: how much do the checks notice?",
        "",
        "Every reference solution with one small change, handed in as an answer (`tools/mutants.py`). Where the tool",
        "finds nothing to change, because a reference only calls other functions, the named mistakes have to do.",
        "What a library function refuses (a layer that is not there) stands in helpers, which are not mutated: before",
        "those of `attention_knockout` moved there on 2026-11-21, the first five topics together stood at 94.5%.",
        "The references of `induction` were made simpler on the same day, when 366 of 414 of its mutants (88.4%) were",
        "rejected: `build_induction_circuit` lost a term that nothing asked for, `ablate_head` calls the library's",
        "ablations, and axes are counted from the front, which leaves no minus sign to turn into a synonym. So most of",
        "the rise is fewer idle mutants, not stricter checks: of the old 414, today's checks reject 368 (88.9%). The",
        "two new ones are circuits with a third layer; the other 46 are right answers still.",
        "",
        f"**{rejected(rows)} mutants are rejected.**",
    ]
    topics = dict.fromkeys(id.split(".")[0] for id in rows)
    for topic in topics:
        own = {id: row for id, row in rows.items() if id.startswith(f"{topic}.")}
        when = "; ".join(dict.fromkeys(row["measured"] for row in own.values()))
        text += [
            "",
            f"## {topic}: {rejected(own)}",
            "",
            f"Measured on {when}.",
            "",
        ]
        text += ["| exercise | mutants | rejected |", "|---|---|---|"]
        text += [f"| {id} | {row['mutants']} | {row['mutants'] - len(row['survivors'])} |" for id, row in own.items()]
        survivors = [(id, line) for id, row in own.items() for line in row["survivors"]]
        text += (
            ["", "Survivors, and why each is a right answer, or differs only where the exercise asks for nothing:", ""]
            if survivors
            else []
        )
        text += [f"- `{id}`: `{line}`: {reason(id, line)}" for id, line in survivors]
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("topics", nargs="*", help="which topics to measure again (default: all)")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name} and {ROWS.name}")
    options = parser.parse_args()
    known = json.loads(ROWS.read_text(encoding="utf-8")) if ROWS.exists() else {}
    rows = known | measure(options.topics)
    rows = {exercise.id: rows[exercise.id] for exercise in all_exercises() if exercise.id in rows}
    print(page(rows))
    if options.write:
        ROWS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
