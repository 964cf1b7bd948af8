"""What an instructor has decided for a course: a small file at the root of the students' folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

FILE = "mechlib-course.json"
OFF = ("off", "0", "no", "false")


def solutions_allowed() -> bool:
    """Whether `reveal` and `borrow` work here: unless the environment or the course's file says no."""
    if os.environ.get("MECHLIB_SOLUTIONS", "on").lower() in OFF:
        return False
    here = Path.cwd()
    path = next((folder / FILE for folder in (here, *here.parents) if (folder / FILE).is_file()), None)
    try:
        return path is None or json.loads(path.read_text(encoding="utf-8")).get("solutions") is not False
    except (OSError, ValueError, AttributeError):
        return True  # a damaged file takes nothing away
