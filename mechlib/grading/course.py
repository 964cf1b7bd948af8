"""nbgrader, configured for a mechlib course: the only place where its API is opened."""

from __future__ import annotations

import datetime
import os
import re
import sysconfig
import warnings
from pathlib import Path

from traitlets.config import Config

from mechlib.grading.quiet import quiet_logger

STUB = "# YOUR CODE HERE\nraise NotImplementedError"
ANSWER_STUB = "YOUR ANSWER HERE"
PATIENCE = 60  # seconds to wait for another program that has locked the gradebook
WORK = ".mechlib/grading"  # what grading keeps between its steps, under the course's folder


class StepFailed(Exception):
    """nbgrader could not do a step; the message has the first exception in its log."""

    def __init__(self, step: str, result: dict):
        self.log = f"{result.get('log') or ''}\n{result.get('error') or ''}".strip()
        reasons = re.findall(r"^ *((?:\w+\.)*\w*(?:Error|Exception): .*)", self.log, flags=re.MULTILINE)
        super().__init__(f"nbgrader could not {step}: {(reasons or ['no reason given'])[0]}")


def release_config() -> Config:
    """Strip the answers, write the checksums; no database."""
    config = Config()
    config.CourseDirectory.source_directory = "solutions"
    config.CourseDirectory.release_directory = "chapters"
    config.GenerateAssignment.no_database = True
    config.GenerateAssignment.preprocessors = _preprocessors(
        "LockCells", "ClearSolutions", "ClearOutput", "CheckCellMetadata", "ComputeChecksums"
    )
    config.ClearSolutions.code_stub = {"python": STUB}
    config.ClearSolutions.text_stub = ANSWER_STUB
    return config


def grading_config(course: Path) -> Config:
    """Score notebooks that have been executed already; keep grades in gradebook.db.

    The released chapter is nbgrader's source here: grading needs no solutions. Its "submitted" notebooks are
    those that we have grafted and executed, in a working folder; nbgrader neither clears nor executes them.
    """
    config = Config()
    # Formgrader may write at the same moment: wait for it longer than sqlite's 5 s.
    config.CourseDirectory.db_url = f"sqlite:///{course.resolve() / 'gradebook.db'}?timeout={PATIENCE}"
    config.CourseDirectory.source_directory = "chapters"
    config.CourseDirectory.release_directory = f"{WORK}/released"
    config.CourseDirectory.submitted_directory = f"{WORK}/submitted"
    config.GenerateAssignment.preprocessors = _preprocessors("CheckCellMetadata", "SaveCells")
    config.Autograde.sanitize_preprocessors = _preprocessors(
        "OverwriteKernelspec", "OverwriteCells", "CheckCellMetadata"
    )
    config.Autograde.autograde_preprocessors = _preprocessors(
        "IgnorePattern", "LimitOutput", "SaveAutoGrades", "AssignLatePenalties", "CheckCellMetadata"
    )
    config.IgnorePattern.enabled = True
    config.IgnorePattern.pattern = "(?s)."  # a warning must not cost marks
    return config


def _preprocessors(*names: str) -> list[str]:
    return [f"nbgrader.preprocessors.{name}" for name in names]


def parse_utc(text: str) -> datetime.datetime:
    """A time as nbgrader reads it from timestamp.txt; ValueError if it is none."""
    from nbgrader.utils import parse_utc

    return parse_utc(text)


def open_api(root: Path, config: Config):
    """nbgrader's API on the course in `root`, quiet: what it logs comes back with each step's result.

    nbgrader starts `alembic` by its bare name when it makes a gradebook, so that has to be on the PATH, also
    where the virtual environment has not been activated.
    """
    scripts = sysconfig.get_path("scripts")
    if scripts not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([scripts, os.environ.get("PATH", "")])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nbgrader.apps import NbGraderAPI
        from nbgrader.coursedir import CourseDirectory

        config.CourseDirectory.root = str(root.resolve())
        config.Exchange.root = str(root.resolve() / "no-exchange")
        coursedir = CourseDirectory(config=config, log=quiet_logger())
        return NbGraderAPI(coursedir=coursedir, config=config, log=quiet_logger())
