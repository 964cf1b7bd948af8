"""The command `mechlib`. Each command imports only what it needs, when it is called."""

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from mechlib import __version__

# What `pip install 'mechlib[grade]'` brings and the instructor's commands need.
GRADE = {"nbgrader", "nbclient", "nbconvert", "nbformat", "jupytext"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["help"] and len(arguments) > 1:  # `mechlib help lab` is `mechlib lab --help`
        arguments = [arguments[1], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"mechlib {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        return fail(f"there is no command `{name}`{did_you_mean(name)}; `mechlib --help` lists them.", 2)
    try:
        return COMMANDS[name][0](rest) or 0
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing not in GRADE:
            raise
        return fail(f"`mechlib {name}` needs {missing}: pip install 'mechlib[grade]'")
    except KeyboardInterrupt:
        return 130


def lab(arguments: list[str]) -> int:
    from mechlib import lab

    return lab.main(arguments)


def exercises(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="mechlib exercises",
        description="List the checked exercises: their points, how many named mistakes and equivalent "
        "answers each check knows, how long they take and how hard they are.",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    options = parser.parse_args(arguments)

    from mechlib.exercises import all_exercises

    rows = [
        {
            "id": exercise.id,
            "chapter": exercise.chapter,
            "points": exercise.points,
            "mistakes": len(exercise.mistakes),
            "equivalents": len(exercise.equivalents),
            "minutes": exercise.minutes,
            "difficulty": exercise.difficulty,
        }
        for exercise in all_exercises()
    ]
    if options.json:
        import json

        print(json.dumps(rows, indent=2))
    else:
        print(table(rows))
    return 0


def release(arguments: list[str]) -> int:
    from mechlib.grading.release import main

    return main(arguments)


def collect(arguments: list[str]) -> int:
    from mechlib.grading.collect import main

    return main(arguments)


def grade(arguments: list[str]) -> int:
    if sys.platform == "win32":
        return fail("grading needs Linux or macOS; on Windows, use the Windows Subsystem for Linux.")
    from mechlib.grading.grade import main

    return main(arguments)


def models(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="mechlib models",
        description="List the models that come with the course, with their size and skills; or measure a model's "
        "skills on held-out prompts.",
    )
    parser.add_argument("--evaluate", metavar="NAME", help="measure the skills of a model, a folder or a hub name")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args(arguments)

    import json

    from mechlib import models

    try:
        if options.evaluate is None:
            rows = models.listing()
            print(json.dumps(rows, indent=2) if options.json else "\n\n".join(map(describe, rows)) or "There are none.")
            return 0
        evaluate = import_module("mechlib.models.evaluate")
        model = models.load(options.evaluate)
        circuit = {"circuit": models.truth(options.evaluate)} if models.has_truth(options.evaluate) else {}
        skills = evaluate.evaluate(model, model.tokenizer, **circuit)
        lines = evaluate.table(skills, evaluate.targets(options.evaluate))
        print(json.dumps(skills, indent=2) if options.json else lines)
        return 0
    except models.ModelError as error:
        return fail(str(error))


def describe(model: dict) -> str:
    """A model of `mechlib models`: a line about its size, then one for each skill."""
    parameters = f"{model['parameters']:,} parameters, " if model["parameters"] else ""
    lines = [f"{model['name']}: {parameters}{model['megabytes']:g} MB", *filter(None, [model["summary"]])]
    width = max(map(len, model["skills"]), default=0)
    for skill, measured in model["skills"].items():
        value = measured["value"] if isinstance(measured, dict) else measured
        lines.append(f"{skill:<{width}}  {value:.3g}")
    return "\n    ".join(lines)


def train(arguments: list[str]) -> int:
    from mechlib.recipes import train

    return train.main(arguments)


COMMANDS: dict[str, tuple[Callable[[list[str]], int], str, str]] = {
    "lab": (lab, "[FOLDER] [JUPYTER OPTIONS]", "open the chapters in JupyterLab"),
    "exercises": (exercises, "[--json]", "list the checked exercises"),
    "models": (models, "[--json] [--evaluate NAME]", "list the course's models with their size and skills"),
    "release": (release, "[--check] [--package ZIP] [CHAPTER ...]", "make the notebooks from solutions/*.py"),
    "collect": (collect, "CHAPTER SOURCE", "sort a folder or a zip of notebooks into submitted/"),
    "grade": (grade, "CHAPTER", "grade submitted/ and write feedback and grades.csv"),
    "train": (train, "NAME [--seed N] [--out FOLDER]", "train one of the course's language models again"),
}


def overview() -> str:
    lines = ["mechlib: a notebook course in mechanistic interpretability", ""]
    synopsis = {name: f"mechlib {name} {usage}" for name, (_, usage, _) in COMMANDS.items()}
    width = max(len(line) for line in synopsis.values())
    lines += [f"  {synopsis[name]:<{width}}  {summary}" for name, (_, _, summary) in COMMANDS.items()]
    return "\n".join([*lines, "", "`mechlib COMMAND --help` tells more about one of them."])


def table(rows: list[dict]) -> str:
    """Aligned columns with a line of totals; numbers stand to the right."""
    if not rows:
        return "There are no exercises."
    columns = list(rows[0])
    total: dict = dict.fromkeys(columns, "")
    total["id"] = f"{len(rows)} exercises"
    for column in ("points", "mistakes", "equivalents", "minutes"):
        total[column] = sum(row[column] or 0 for row in rows)
    cells = [columns, *([str(row[column]) for column in columns] for row in [*rows, total])]
    widths = [max(map(len, column)) for column in zip(*cells)]
    numeric = [isinstance(rows[0][column], int | float) for column in columns]
    lines = [
        "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in zip(line, widths, numeric)).rstrip()
        for line in cells
    ]
    lines.insert(-1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def did_you_mean(name: str) -> str:
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""


def fail(message: str, code: int = 1) -> int:
    print(f"mechlib: {message}", file=sys.stderr)
    return code
