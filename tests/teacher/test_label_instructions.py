from slava_jax.teacher.procedural import is_true, label_instructions


def test_label_instructions_say_the_label_and_the_values():
    known = {"cell_type": "monocrystalline", "defect_probability": "0.33"}
    asked = "Is this solar cell defective?"
    classed, caption = label_instructions("cell/7", "possibly_defective", known, 1, asked)
    assert classed.question == "<image> Is this solar cell defective?"
    assert (classed.answer, classed.task) == ("possibly defective", "classification")
    assert classed.claims == {"category": "possibly_defective"}
    for said in ("possibly defective", "cell type monocrystalline", "defect probability 0.33"):
        assert said in caption.answer
    assert is_true(caption, {"category": "possibly_defective", **known})
    assert not is_true(caption, {"category": "possibly_defective", **known, "cell_type": "poly"})
    bare = label_instructions("cell/7", "functional", {}, 1)[1]
    assert bare.answer.endswith("the class functional.")


def test_what_is_known_of_the_scale_goes_into_the_prompt_and_no_claim():
    told = label_instructions("a", "iron", {}, 1, None, "Pixel size 2.5 nm.")
    assert {item.metadata["supplement"] for item in told} == {"Pixel size 2.5 nm."}
    plain = label_instructions("a", "iron", {}, 1)
    assert {item.metadata["supplement"] for item in plain} == {""}
    assert [item.claims for item in told] == [item.claims for item in plain]
