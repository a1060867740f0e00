"""The calibration's own arithmetic, and that the file it writes is the file the product reads."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from bench.calibrate_abstention import calibration_error, fit_isotonic, write_calibration
from reader import calibration

ROWS = st.lists(st.tuples(st.floats(-3, 3), st.booleans()), min_size=1, max_size=60)


@given(rows=ROWS, least=st.integers(1, 9))
def test_the_fit_ascends(rows, least):
    scores, labels = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    knots = fit_isotonic(scores, labels, least=least)
    chances = [chance for _, chance in knots]
    assert [score for score, _ in knots] == sorted(score for score, _ in knots)
    assert all(0 < chance < 1 for chance in chances)


def test_it_is_the_isotonic_regression():
    """Against scikit-learn, where blocks are large enough for the added half marks not to count."""
    rng = np.random.default_rng(1)
    scores = np.sort(rng.normal(size=20_000))
    labels = (rng.random(20_000) < 1 / (1 + np.exp(-2 * scores))).astype(float)
    knots = fit_isotonic(scores, labels, least=500)
    reference = IsotonicRegression().fit(scores, labels)
    assert [chance for _, chance in knots] == pytest.approx(
        reference.predict([score for score, _ in knots]).tolist(), abs=0.06
    )


def test_calibration_error_of_honest_and_of_boasting_chances():
    labels = np.array([0.0, 1.0] * 50)
    assert calibration_error(np.full(100, 0.5), labels) == 0
    assert calibration_error(np.full(100, 0.95), labels) == pytest.approx(0.45)


def test_the_written_file_says_what_was_fitted(tmp_path: Path):
    path = tmp_path / "calibration.py"
    write_calibration(path)
    spec = spec_from_file_location("written", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("ANSWERABLE_WEIGHTS", "ANSWERABLE_KNOTS", "WEIGHTS", "KNOTS"):
        assert getattr(module, name) == getattr(calibration, name)
    root = Path(calibration.__file__).parents[1]
    command = [sys.executable, "-m", "ruff", "check", "--config", str(root / "pyproject.toml"), str(path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
