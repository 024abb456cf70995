"""Stated probabilities are honest where they can be, and say so where they are not."""

import numpy as np
import pytest

from slava_jax.eval import reliability
from slava_jax.eval.calibration import Calibration, CalibrationError
from slava_jax.files import SUMS

RNG = np.random.default_rng(0)
LOG_P = -RNG.exponential(2.0, 4000)
TRUE = Calibration(1.5, 2.0)
RIGHT = RNG.random(4000) < TRUE(LOG_P)


def test_the_curve_that_made_the_answers_is_found_again():
    fitted = reliability.fit(LOG_P[:2000], RIGHT[:2000])
    assert fitted.slope == pytest.approx(TRUE.slope, abs=0.2)
    assert fitted.offset == pytest.approx(TRUE.offset, abs=0.2)
    assert reliability.calibration_error(fitted(LOG_P[2000:]), RIGHT[2000:]) < 0.03


def test_overconfidence_is_an_error():
    p = np.full(1000, 0.9)
    right = np.arange(1000) % 2 == 0
    assert reliability.calibration_error(p, right) == pytest.approx(0.4, abs=0.02)


def test_answering_less_is_right_more_often_if_the_order_is_good():
    points = reliability.right_when_answering(TRUE(LOG_P), RIGHT)
    assert points[-1] == (1.0, RIGHT.mean())
    assert points[0][1] > points[9][1] > points[-1][1]
    useless = reliability.right_when_answering(RNG.random(4000), RIGHT)
    assert useless[9][1] == pytest.approx(RIGHT.mean(), abs=0.03)


def test_of_few_or_equal_answers_there_is_no_curve():
    assert reliability.fit(LOG_P[:100], np.ones(100, bool)) is None
    assert reliability.fit(LOG_P[:12], RIGHT[:12]) is None


def test_bins_hold_every_answer_once():
    found = reliability.bins(np.linspace(0, 1, 57), np.zeros(57, bool))
    assert len(found) == reliability.BINS and sum(n for *_, n in found) == 57
    assert [p for p, *_ in found] == sorted(p for p, *_ in found)


def test_a_calibration_is_read_back_and_damage_is_named(tmp_path):
    path = tmp_path / "calibration.json"
    TRUE.write(path)
    assert Calibration.read(path) == TRUE
    path.write_text(path.read_text().replace("slope\": ", "slope\": 1"))
    with pytest.raises(CalibrationError, match=f"{path}: damaged: .*, or delete calib"):
        Calibration.read(path)
    (tmp_path / SUMS).unlink()  # of an older version
    huge, one = "1" + "0" * 400, '"slope": 1, "offset": 0'
    held = [f'{{"slope": {huge}, "offset": 0}}', f'{{{one}, "slope": 2}}', '{"slope": 1}']
    for text in ("[1, 2]", *held, f'{{{one}, "x": 2}}', '{"slope": NaN, "offset": 0}'):
        path.write_text(text)
        with pytest.raises(CalibrationError, match="not a calibration; delete it"):
            Calibration.read(path)
