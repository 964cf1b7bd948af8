"""nbgrader, configured for a mechlib course: the only place where its application programming interface is opened."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

from traitlets.config import Config

STUB = "# YOUR CODE HERE\nraise NotImplementedError"
ANSWER_STUB = "YOUR ANSWER HERE"


class StepFailed(Exception):
    """nbgrader could not do a step; the message is the last line of its traceback."""

    def __init__(self, step: str, result: dict):
        lines = (result.get("error") or "").strip().splitlines()
        self.log = f"{result.get('log') or ''}\n{result.get('error') or ''}".strip()
        reasons = [line for line in self.log.splitlines() if ": " in line and not line.startswith((" ", "["))]
        super().__init__(f"nbgrader could not {step}: {(reasons or lines or ['no reason given'])[0]}")


def release_config() -> Config:
    """Strip the answers, write the checksums; no database."""
    config = Config()
    config.CourseDirectory.source_directory = "solutions"
    config.CourseDirectory.release_directory = "chapters"
    config.GenerateAssignment.no_database = True
    config.GenerateAssignment.preprocessors = [
        f"nbgrader.preprocessors.{name}"
        for name in ("LockCells", "ClearSolutions", "ClearOutput", "CheckCellMetadata", "ComputeChecksums")
    ]
    config.ClearSolutions.code_stub = {"python": STUB}
    config.ClearSolutions.text_stub = ANSWER_STUB
    return config


def open_api(root: Path, config: Config):
    """nbgrader's API on the course in `root`, quiet: what it logs comes back with each step's result."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nbgrader.apps import NbGraderAPI
        from nbgrader.coursedir import CourseDirectory

        config.CourseDirectory.root = str(root.resolve())
        config.Exchange.root = str(root.resolve() / "no-exchange")
        logger = logging.getLogger("mechlib.nbgrader")
        logger.propagate = False
        logger.handlers = [logging.NullHandler()]
        coursedir = CourseDirectory(config=config, log=logger)
        return NbGraderAPI(coursedir=coursedir, config=config, log=logger)
