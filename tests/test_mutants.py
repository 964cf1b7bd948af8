"""The second of the three numbers: mutants that a tool makes from every reference."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_checks_reject_the_mutants_of_their_references():
    import mutants

    rows = mutants.measure()
    made = sum(n for _, n, _ in rows)
    survivors = [(id, line) for id, _, lines in rows for line in lines]
    assert made > 300
    assert [s for s in survivors if s not in mutants.REASONS] == [], "survivors without a reason"
    assert len(survivors) <= 0.05 * made, survivors
