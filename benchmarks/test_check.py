"""What the comparison with the targets says, and when it fails."""

from __future__ import annotations

import pytest

from benchmarks import check
from benchmarks.check import Row

AT_MOST = [(None, "-"), (0.5, "reached"), (1.0, "reached"), (1.9, "missed"), (2.1, "FAR OFF")]
AT_LEAST = [(None, "-"), (99.0, "reached"), (50.0, "reached"), (26.0, "missed"), (24.0, "FAR OFF")]
ROWS = [(Row("a scope", 1.0, measured, "S", ""), verdict) for measured, verdict in AT_MOST]
ROWS += [
    (Row("what waits", 1.0, measured, "us", "", known=18.0), verdict)
    for measured, verdict in [(1.0, "reached"), (30.0, "missed"), (37.0, "FAR OFF")]
]
ROWS += [(Row("a tool", 50.0, m, "times", "", True), verdict) for m, verdict in AT_LEAST]


@pytest.mark.parametrize("row, verdict", ROWS)
def test_a_row_says_whether_its_target_is_reached(row: Row, verdict: str) -> None:
    assert str(row).startswith(f"{verdict} ")
    assert f"{row.target:.4g} {row.unit})" in str(row)


@pytest.mark.parametrize("row, verdict", ROWS)
def test_only_what_is_far_off_is_a_failure(
    row: Row, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "measure", lambda seconds: [ROWS[0][0], row])
    assert check.main([]) == (verdict == "FAR OFF")
