"""Lengths become shares of the image's width and come back; what is not known is not said."""

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_records import truths

from slava_jax.data.units import Scale, in_shares, to_shares, to_units
from slava_jax.synthetic.claims import claims_of
from slava_jax.synthetic.facts import facts, length_text, round_digits
from slava_jax.teacher.procedural import instructions

SCALE = Scale(nm_per_pixel=2.0, width_px=500, magnification=25_000)  # 1 µm wide


@pytest.mark.parametrize(
    ("people", "model"),
    [
        ("They are about 50 nm wide.", "They are about 5 percent of the width wide."),
        ("Larger than 0.25 µm?", "Larger than 25 percent of the width?"),
        ("0.25 μm", "25 percent of the width"),
        ("0.25 um", "25 percent of the width"),
        ("0.001 millimetres", "100 percent of the width"),
        ("grains,20 nm", "grains,2 percent of the width"),
        ("9" * 400 + " nm", None),
        ("1,200 nm", "120 percent of the width"),
        ("1.5 mm", "150000 percent of the width"),
        ("about 123 nm", "about 12 percent of the width"),
        ("about 137 nm", "about 14 percent of the width"),
        ("wires, magnified 25,000 times.", "wires, magnified as given."),
        (
            "One pixel of the image corresponds to 2 nm.",
            "One pixel of the image corresponds to the given length.",
        ),
        ("about 30 particles, 40 percent of the image area", None),
        ("5 nmol of 3 mmol, 12 nms, 5 nm/s, 30 nm², 3 nm^2", None),
        ("20-50 nm", "2-5 percent of the width"),
        ("from 20 to 50 nm", "from 2 to 5 percent of the width"),
        ("between 0.1 and 0.25 µm", "between 10 and 25 percent of the width"),
        ("40 ± 5 nm", "4 ± 0.5 percent of the width"),
        (
            "50 nanometers, 0.3 microns, 100 Å",
            "5 percent of the width, 30 percent of the width, 1 percent of the width",
        ),
    ],
)
def test_what_the_model_reads(people, model):
    assert to_shares(people, SCALE) == (people if model is None else model)


@pytest.mark.parametrize(
    "text",
    ["1," * 500_000, "1" * 10**6, "1-" * 500_000, "1." * 500_000, " " * 10**6, "1 to " * 200_000,
     "magnified 1," * 80_000, "0." + "1" * 10**6],
    ids=lambda text: text[:6],
)  # fmt: skip
def test_a_long_text_takes_no_time(text):
    """A MB of commas and digits was hours."""
    start = time.process_time()
    assert to_shares(text, SCALE) == text
    to_units(text, SCALE)
    assert time.process_time() - start < 12


@pytest.mark.parametrize("number", ["1,5 nm", "0.5,5 nm", "5, 5 nm", "found,5 nm"])
def test_the_last_of_a_list_of_numbers_has_the_unit(number):
    assert to_shares(number, SCALE).endswith(" percent of the width")


def test_what_the_user_reads():
    model = "Wires, about 6 percent of the width in diameter, magnified as given. They touch."
    assert to_units(model, SCALE) == (
        "Wires, about 60 nm in diameter, magnified 25,000 times. They touch."
    )
    assert to_units(model, Scale()) == (
        "Wires, about 6 percent of the width in diameter. They touch."
    )
    pixel = "It is a wire. One pixel of the image corresponds to the given length."
    assert to_units(pixel, SCALE) == "It is a wire. One pixel of the image corresponds to 2 nm."
    assert to_units(pixel, Scale()) == "It is a wire."


@pytest.mark.parametrize("text", ["20-50 nm", "from 20 to 50 nm", "40 ± 5 nm", "0.1 to 1.2 µm"])
def test_ranges_come_back(text):
    assert to_units(to_shares(text, SCALE), SCALE) == text


def test_without_a_pixel_size_a_length_stays_as_it_was_written():
    text = "about 40 nm, magnified 25,000 times"
    assert to_shares(text, Scale()) == text
    assert to_shares(text, Scale(magnification=25_000)) == "about 40 nm, magnified as given"


@settings(max_examples=150, deadline=None)
@given(truths(), st.integers(0, 5))
def test_the_teachers_answers_come_back(truth, seed):
    table = facts(truth)
    scale = Scale.of(table)
    for item in instructions("image", truth, seed):
        read = in_shares(item, scale)
        assert not {"nm", "µm"} & set(read.answer.replace(".", " ").replace(",", " ").split())
        assert read.metadata["supplement"] == ""
        back = to_units(read.answer, scale)
        assert claims_of(back).keys() == claims_of(item.answer).keys()
        for name, value in claims_of(item.answer).items():
            found = claims_of(back)[name]
            if name in ("mean_size_nm", "spacing_nm"):  # two digits each way
                assert abs(math.log(found / value)) < 0.11, (item.answer, read.answer, back)
            elif name not in ("magnification", "nm_per_pixel"):
                assert found == value


def test_shares_of_the_teacher_are_steps_so_that_there_are_few_of_them():
    """A length rounded to two digits finds the step it was."""
    for power in (0.1, 1.0, 10.0):
        for step in (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0):
            for width in (77.0, 1234.0, 98_765.0):
                text = f"about {length_text(round_digits(step * power / 100 * width))} wide"
                share = to_shares(text, Scale(1.0, int(width)))
                assert share == f"about {step * power:.4g} percent of the width wide", text


@pytest.mark.parametrize("text", ["1,", "1 to "])
def test_a_megabyte_is_converted_at_once(text):
    start = time.process_time()
    for convert in (to_shares, to_units):
        convert(text * (10**6 // len(text)), SCALE)
    to_units("9" * 10**6 + " percent of the width", SCALE)
    assert time.process_time() - start < 10
