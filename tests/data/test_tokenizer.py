"""The tokenizer: any text survives a round trip and contains no special tokens."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slava_jax.data.tokenizer import (
    TokenizerError,
    decode_text,
    encode_texts,
    library_errors,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)

TEXTS = ["What is the mean diameter of the particles?", "The mean diameter is 120 nm."] * 20


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 320)


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives(tokenizer, text):
    assert decode_text(tokenizer, encode_texts(tokenizer, [text])[0]) == text


@pytest.mark.parametrize("text", ["a </s> b<pad>", "  two  blanks \n", "don ’t .", "it 's , x ?"])
def test_awkward_text_survives(tokenizer, text):
    ids = encode_texts(tokenizer, [text])[0]
    assert decode_text(tokenizer, ids) == text
    assert min(ids) > 3  # no special tokens in plain text
    tokenizer.split_special_tokens = False  # as in tokenizers from elsewhere
    try:
        assert encode_texts(tokenizer, [text])[0] == ids
    finally:
        tokenizer.split_special_tokens = True


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    again = load_tokenizer(tmp_path / "tokenizer")
    texts = [*TEXTS[:2], "a </s>  b ’ .", ""]
    assert encode_texts(again, texts) == encode_texts(tokenizer, texts)
    assert decode_text(again, encode_texts(again, texts[2:3])[0]) == texts[2]
    assert (again.pad_token_id, again.bos_token_id, again.eos_token_id) == (0, 2, 3)
    with pytest.raises(TokenizerError, match=r"contains no tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_changed_byte_of_a_saved_tokenizer_is_named(tokenizer, tmp_path):
    """Two tokens exchanged leave a tokenizer that loads."""
    save_tokenizer(tokenizer, tmp_path)
    file = tmp_path / "tokenizer.json"
    text = file.read_text()
    file.write_text(text.replace('"e":', '"?":').replace('"a":', '"e":').replace('"?":', '"a":'))
    assert file.read_text() != text
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: damaged"):
        load_tokenizer(tmp_path)


class PanicException(BaseException):
    """As pyo3's: no Exception."""


@pytest.mark.parametrize("failure", [PanicException("x"), RecursionError("deep"), KeyError("a")])
def test_failures_of_the_library_are_errors_of_ours(failure):
    """A panic of its Rust code would pass every `except Exception`; an interrupt must pass."""
    with (
        pytest.raises(TokenizerError, match=r"cannot be read .*; again"),
        library_errors("cannot be read", "; again"),
    ):
        raise failure
    for passes in (KeyboardInterrupt(), TokenizerError("as it is")):
        with pytest.raises(type(passes)) as found, library_errors("cannot be read"):
            raise passes
        assert found.value is passes


def doubled(held) -> None:
    """Every second id is missing."""
    held["model"]["vocab"] = {token: 2 * i for token, i in held["model"]["vocab"].items()}


@pytest.mark.parametrize(
    "change",
    [
        doubled,
        lambda held: held.update(model=None),
        lambda held: held.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AA"}),
    ],
)
def test_a_damaged_tokenizer(tokenizer, tmp_path, change):
    save_tokenizer(tokenizer, tmp_path / "tokenizer", sealed=False)
    path = tmp_path / "tokenizer" / "tokenizer.json"
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))
    with pytest.raises(TokenizerError, match="tokenizer: the tokenizer is damaged"):
        load_tokenizer(path.parent)


@pytest.mark.parametrize(
    "change", [{"eos_token": ""}, {"eos_token": None}, {"model_max_length": "x"}]
)
def test_damaged_settings_of_a_tokenizer(tokenizer, tmp_path, change):
    save_tokenizer(tokenizer, tmp_path / "tokenizer", sealed=False)
    path = tmp_path / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(TokenizerError, match="tokenizer: the tokenizer is damaged"):
        load_tokenizer(path.parent)


def test_training_is_deterministic_and_learns(tokenizer):
    again = train_tokenizer(TEXTS, 320)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert len(encode_texts(tokenizer, [TEXTS[0]])[0]) < len(TEXTS[0]) / 2
    assert len(tokenizer) <= 320
    with pytest.raises(ValueError, match="260"):
        train_tokenizer(TEXTS, 100)


def test_special_ids_follow_the_vocabulary(tokenizer):
    base = len(tokenizer)
    assert max(tokenizer.get_vocab().values()) == base - 1
    assert decode_text(tokenizer, [0, 2, base + 1, *encode_texts(tokenizer, ["ok"])[0], 3]) == "ok"
