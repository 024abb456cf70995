"""What the teacher writes is read back as it was meant."""

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
