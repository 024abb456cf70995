"""What the teacher writes is read back as it was meant."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_records import truths

from slava_jax.data.instructions import claims_hold
from slava_jax.synthetic.claims import claims_of
from slava_jax.synthetic.facts import facts
from slava_jax.teacher.procedural import instructions

# Words of the open vocabulary: a class, a shape and a feature may have any name.
OPEN = ("category", "feature", "shape", "size_kind", "main_defect", "total_defects")


@settings(max_examples=150, deadline=None)
@given(truths(), st.integers(0, 5))
def test_what_is_written_is_read_back(truth, seed):
    table = facts(truth)
    for item in instructions("image", truth, seed):
        if item.question_type == "class":
            continue
        said = claims_of(item.answer)
        for name, claim in item.claims.items():
            if name in OPEN or name.startswith("defect_"):
                continue
            if name == "count" and name not in said:  # 'a tip': one, said by the singular
                assert claim == 1
                continue
            assert claims_hold({name: claim}, said), (item.answer, name, claim, said)
        for name in said:
            assert name in item.claims, (item.answer, name)
        words = {name: value for name, value in said.items() if isinstance(value, str | bool)}
        assert claims_hold(words, table), (item.answer, words)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("No charging is visible in the image.", {"artefact_charging": False}),
        ("The image shows no charging.", {"artefact_charging": False}),
        ("The surface is rough and shows no visible defects.",
         {"texture": "rough", "has_defects": False}),
        ("Yes, the image shows no visible defects.", {}),  # contradicts itself
        ("Yes, the image shows noise.", {"has_artefacts": True, "artefact_noise": True}),
        ("The surface is not rough.", {}),
        ("It is not rough, but smooth.", {"texture": "smooth"}),
        ("Neither smooth nor rough.", {}),
        ("The wires are not aligned.", {}),
        ("They don't touch each other; they are isolated.", {"aggregation": "isolated"}),
        ("There is no bright second phase, it is homogeneous.", {"composition": "uniform"}),
        ("Yes, the surface is smooth.", {}),
        ("No, the particles touch each other.", {}),
        ("The surface is rough, smooth and grainy.", {}),
        ("They are about 4 nm in diameter. They are about 4 µm in diameter.", {}),
        ("about 1,5 µm in diameter", {}),
        ("about 1.5 \u03bcm in diameter", {"mean_size_nm": 1500.0}),
        ("about 1.5um in diameter", {"mean_size_nm": 1500.0}),
        ("about 5 µm in spacing", {}),
        ("about 40 % of the area", {"coverage": 0.4}),
        ("The image shows less than 5 percent.", {"coverage": 0.025}),
        ("The image shows no visible artefacts.", {}),
        ("One can count about 1" + ",000" * 103 + " grains in the image.", {}),
        ("about 40 % " + "low " * 250_000, {"coverage": 0.4, "coverage_level": "low"}),
        ("In addition, " * 80_000, {}),
        (" " * 10**6 + "not low", {}),
    ],
)  # fmt: skip
def test_what_is_denied_garbled_or_said_in_two_ways_is_not_stated(answer, said):
    assert claims_of(answer) == said
