"""The second of the three numbers: mutants that a tool makes from every reference."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_checks_reject_the_mutants_of_their_references():
    import mutants

    rows = mutants.measure()
    made = sum(row["mutants"] for row in rows.values())
    survivors = [(id, line) for id, row in rows.items() for line in row["survivors"]]
    assert made > 300
    assert [s for s in survivors if mutants.reason(*s) == "no reason known"] == [], "survivors without a reason"
    # One reason may stand for many mutants of an exercise: it holds for those that were looked at, and no others.
    seen = {(id, line) for id, row in json.loads(mutants.ROWS.read_text()).items() for line in row["survivors"]}
    assert [s for s in survivors if s not in seen and s not in mutants.REASONS] == [], "new survivors"
    assert len(survivors) <= 0.05 * made, survivors


def test_the_page_is_made_from_the_measurements():
    import mutants

    rows = json.loads(mutants.ROWS.read_text(encoding="utf-8"))
    assert mutants.PAGE.read_text(encoding="utf-8") == mutants.page(rows)
    assert "no reason known" not in mutants.page(rows)
