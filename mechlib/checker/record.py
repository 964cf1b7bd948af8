"""What a student has done so far: one small JSON file beside the notebook, for nobody's eyes but theirs."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

FILE = Path(".mechlib") / "progress.json"

Entry = dict[str, Any]


def load() -> dict[str, Entry]:
    """Exercise id -> what is known about it: status, earned, tries, hints, borrowed. A damaged file is put aside."""
    try:
        entries = json.loads(FILE.read_text(encoding="utf-8"))
        if isinstance(entries, dict) and all(isinstance(entry, dict) for entry in entries.values()):
            return entries
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        pass
    aside = FILE.with_suffix(".damaged.json")
    try:
        os.replace(FILE, aside)
        warnings.warn(f"{FILE} could not be read. It was moved to {aside}, and a new one begins.", stacklevel=3)
    except OSError:
        pass
    return {}


def update(id: str, **changes: Any) -> Entry:
    """Changes one exercise's entry and writes the file, whole or not at all. Returns the entry."""
    entries = load()
    entry = entries.setdefault(id, {"status": "untried", "earned": 0.0, "tries": 0, "hints": 0}) | changes
    entries[id] = entry
    temporary = FILE.with_suffix(f".{os.getpid()}.tmp")
    try:
        FILE.parent.mkdir(exist_ok=True)
        temporary.write_text(json.dumps(entries, indent=1), encoding="utf-8")
        os.replace(temporary, FILE)
    except OSError as error:
        warnings.warn(f"Your progress could not be saved in {FILE}: {error.strerror}.", stacklevel=3)
    return entry
