"""Padding of token ids to batch arrays."""

import numpy as np
import pytest

from slava_jax.data.chat import ChatError, Message, TextForm, encode_examples, encode_prompt
from slava_jax.data.collate import assistant_fields, prompt_part, text_fields
from slava_jax.data.instructions import Instruction
from slava_jax.data.tokenizer import PAD_ID, train_tokenizer

TOKENIZER = train_tokenizer(["What is the mean size? It is 120 nm. Powder."] * 20, 300)
FORM = TextForm("plain", 3, 0, 3)  # three positions per image


def item(question, answer, images, turns=()):
    return Instruction("q", images, question, answer, "vqa", "short", "", {}, turns)


ITEMS = [
    item("<image> What is it?", "Powder.", ("a",)),
    item("Like <image>?", "No.", ("a", "b"), (("<image> Size?", "It is 120 nm."),)),
]


def examples():
    return encode_examples(ITEMS, TOKENIZER, FORM)


@pytest.mark.parametrize("every", [False, True])
def test_fields_of_a_batch(every):
    """Texts are left-aligned, image positions numbered, and answers have weights."""
    fields = assistant_fields(examples(), (60, 50), every)
    for row, example in enumerate(examples()):
        n = len(example.ids)
        assert fields["length"][row] == n
        assert np.array_equal(fields["tokens"][row, :n], example.ids)
        assert (fields["tokens"][row, n:] == PAD_ID).all()
        assert np.array_equal(fields["image_index"][row, :n], example.image_index)
        assert (fields["image_index"][row, n:] == -1).all()
        start = example.answers[0 if every else -1, 0]
        assert fields["answer_start"][row] == start
        counted = start + np.flatnonzero(fields["weights"][row])
        wanted = np.flatnonzero(example.loss_mask)
        assert np.array_equal(counted, wanted if every else wanted[wanted >= start])
    assert (fields["image_index"][1] >= 0).sum() == 2 * 3
    kinds = {name: array.dtype for name, array in fields.items()}
    assert kinds.pop("weights") == np.float32
    assert set(kinds.values()) == {np.dtype(np.int32)}


def test_prompts_end_before_the_answer():
    """Prompts equal those of `encode_prompt`; identical texts are merged into one row."""
    fields = assistant_fields(examples(), (60, 50), False)
    prompts = prompt_part(fields)
    ids, spans = encode_prompt([Message("user", ITEMS[0].question)], TOKENIZER, FORM, 1)
    alone = prompt_part(text_fields([ids], [spans], 60))
    for name, array in alone.items():
        assert np.array_equal(prompts[name][:1], array), name
    same = text_fields([ids] * 3, [spans] * 3, 60)
    assert [len(a) for a in prompt_part(same).values()] == [1, 1, 1]
    assert len(prompts["tokens"]) == 2


def test_a_prompt_that_is_too_long_is_refused():
    with pytest.raises(ChatError, match="a prompt has 9 tokens, more than the 8"):
        text_fields([np.zeros(9, np.int32)], [np.zeros((0, 2), np.int32)], 8)
