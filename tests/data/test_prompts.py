"""Tokenizer, prompts and the token side of a batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slava_jax.data.collate import PAD_ORDER, assistant_fields, pad_prompts
from slava_jax.data.instructions import Instruction
from slava_jax.data.prompts import PromptError, encode_example, encode_examples, encode_prompt
from slava_jax.data.tokenizer import (
    TokenizerError,
    decode_text,
    encode_texts,
    load_tokenizer,
    save_tokenizer,
    special_tokens,
    train_tokenizer,
)

TEXTS = ["What is the mean diameter of the particles?", "The mean diameter is 120 nm."] * 20


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 320)


def instruction(question="<image> What is it?", answer="Powder.", images=("a",), supplement=""):
    metadata = {"supplement": supplement}
    return Instruction("q1", images, question, answer, "vqa", "short", "Powder", metadata)


def text_of(ids, tokenizer):
    """The ids as text, the four added tokens by name."""
    names = dict(zip(special_tokens(tokenizer), ["{I}", "{E}", "{D}", "{EOS}"], strict=True))
    return "".join(names.get(i) or tokenizer.decode([i]) for i in np.asarray(ids).tolist())


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives(tokenizer, text):
    assert decode_text(tokenizer, encode_texts(tokenizer, [text])[0]) == text


@pytest.mark.parametrize("text", ["a </s> b<pad>", "  two  blanks \n", "don ’t .", "it 's , x ?"])
def test_awkward_text_survives(tokenizer, text):
    ids = encode_texts(tokenizer, [text])[0]
    assert decode_text(tokenizer, ids) == text
    assert min(ids) > 3  # no special token of the tokenizer hides in plain text


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    again = load_tokenizer(tmp_path / "tokenizer")
    texts = [*TEXTS[:2], "a </s>  b ’ .", ""]
    assert encode_texts(again, texts) == encode_texts(tokenizer, texts)
    assert decode_text(again, encode_texts(again, texts[2:3])[0]) == texts[2]
    assert special_tokens(again) == special_tokens(tokenizer)
    assert (again.pad_token_id, again.bos_token_id, again.eos_token_id) == (0, 2, 3)
    with pytest.raises(TokenizerError, match=r"holds no tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_training_is_deterministic_and_learns(tokenizer):
    again = train_tokenizer(TEXTS, 320)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert len(encode_texts(tokenizer, [TEXTS[0]])[0]) < len(TEXTS[0]) / 2
    assert len(tokenizer) <= 320
    with pytest.raises(ValueError, match="260"):
        train_tokenizer(TEXTS, 100)


def test_special_ids_follow_the_vocabulary(tokenizer):
    base = len(tokenizer)
    assert special_tokens(tokenizer) == (base, base + 1, base + 2, base + 3)
    assert max(tokenizer.get_vocab().values()) == base - 1
    assert decode_text(tokenizer, [0, 2, base + 1, *encode_texts(tokenizer, ["ok"])[0], 3]) == "ok"


def test_prompt_order(tokenizer):
    example = encode_example(instruction(supplement="2 nm per pixel."), tokenizer)
    assert text_of(example.prompt_ids, tokenizer) == "<s>2 nm per pixel.{I} What is it?"
    assert text_of(example.answer_ids, tokenizer) == "Powder."
    assert example.prompt_ids[example.image_positions[0]] == special_tokens(tokenizer).image


def test_images_stand_anywhere(tokenizer):
    question = "Is <image> finer than<image>?"
    example = encode_example(instruction(question, images=("a", "b"), supplement="Two."), tokenizer)
    assert text_of(example.prompt_ids, tokenizer) == "<s>Two. Is {I} finer than{I}?"
    assert len(example.image_positions) == 2


def test_inference_sees_the_training_prompt(tokenizer):
    example = encode_example(instruction(supplement="2 nm."), tokenizer)
    ids = encode_prompt("<image> What is it?", "2 nm.", 1, tokenizer)
    assert np.array_equal(ids[:-1], example.prompt_ids)
    assert ids[-1] == special_tokens(tokenizer).encode
    plain = encode_prompt("What?", "", 2, tokenizer)
    assert text_of(plain, tokenizer) == "<s>{I}{I}What?{E}"


def test_images_that_do_not_match(tokenizer):
    item = instruction()
    object.__setattr__(item, "images", ("a", "b"))
    with pytest.raises(PromptError, match=r"'q1': 1 <image> in the question for 2"):
        encode_example(item, tokenizer)
    with pytest.raises(PromptError, match="2 <image> in the question for 1"):
        encode_prompt("<image> or <image>?", "", 1, tokenizer)
    with pytest.raises(PromptError, match=r"'q1'.*supplement"):
        encode_example(instruction(supplement="<image>"), tokenizer)


def test_fields_of_a_batch(tokenizer):
    items = [instruction(), instruction("Is <image> like <image>?", "No, it is not.", ("a", "b"))]
    examples = encode_examples(items, tokenizer)
    shape = (max(e.length for e in examples) + 3, max(e.answer_length for e in examples) + 2)
    fields = assistant_fields(examples, shape, special_tokens(tokenizer))
    for i, (item, example) in enumerate(zip(items, examples, strict=True)):
        length, end = example.length, example.answer_length
        question = item.question.replace("<image>", "{I}")
        tokens = fields["tokens"][i]
        assert text_of(tokens[:length], tokenizer) == f"<s>{question}{{E}}{item.answer}{{E}}"
        assert not tokens[length:].any()
        assert fields["order"][i].tolist() == [*range(length)] + [PAD_ORDER] * (shape[0] - length)
        assert (tokens[fields["encode_at"][i]] == special_tokens(tokenizer).encode).all()
        assert fields["encode_at"][i, 1] == length - 1
        images = (tokens == special_tokens(tokenizer).image).nonzero()[0]
        before = [(images <= t).sum() for t in range(shape[0])]
        assert fields["images_before"][i].tolist() == before
        assert text_of(fields["decoder_in"][i, :end], tokenizer) == "{D}" + item.answer
        assert text_of(fields["targets"][i, :end], tokenizer) == item.answer + "{EOS}"
        assert fields["target_weights"][i].tolist() == [1.0] * end + [0.0] * (shape[1] - end)
        assert not fields["targets"][i, end:].any() and not fields["decoder_in"][i, end:].any()
    kinds = {name: array.dtype for name, array in fields.items()}
    assert kinds.pop("target_weights") == np.float32
    assert set(kinds.values()) == {np.dtype(np.int32)}


def test_prompts_padded_for_inference(tokenizer):
    prompts = [encode_prompt(q, "", 1, tokenizer) for q in ("What?", "What is the mean size?")]
    fields = pad_prompts(prompts, special_tokens(tokenizer), 40)
    assert fields["tokens"].shape == (2, 40)
    for i, ids in enumerate(prompts):
        assert np.array_equal(fields["tokens"][i, : len(ids)], ids)
        assert fields["encode_at"][i].tolist() == [len(ids) - 1] * 2
        assert (fields["order"][i] < PAD_ORDER).sum() == len(ids)
    with pytest.raises(PromptError, match="more than the 3"):
        pad_prompts(prompts, special_tokens(tokenizer), 3)
