"""Tokenizers of folders: ids as in sentencepiece and llama.cpp; a folder's code is never run."""

import json

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from slava_jax.convert.rules import ConvertError
from slava_jax.convert.tokenizers import folder_tokenizer, gguf_tokenizer
from slava_jax.data.tokenizer import decode_text, encode_texts

ROWS = 340
CORPUS = """The film is smooth and the grains are faceted. What does the last image show?
Porous sponge with open cells, fibres that are aligned, and a rough tip of 12 nm."""
TEXTS = ("the film", "what is", "grains  of 12 µm, faceted", "a\nsponge")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A sentencepiece model like Llama's: byte-pair merges with byte fallback."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "corpus.txt").write_text(CORPUS)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "tokenizer"),
        model_type="bpe", vocab_size=ROWS, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    return folder / "tokenizer.model"


def processor(model, prefix=True):
    stored = sentencepiece_model_pb2.ModelProto()
    stored.ParseFromString(model.read_bytes())
    stored.normalizer_spec.add_dummy_prefix = prefix
    return sentencepiece.SentencePieceProcessor(model_proto=stored.SerializeToString())


def test_a_folder_with_the_sentencepiece_model_alone(model, tmp_path):
    """As OpenLLaMA and Vicuna are distributed."""
    (tmp_path / "tokenizer.model").write_bytes(model.read_bytes())
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>",
                "unk_token": "<unk>", "legacy": True}  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer, wanted = folder_tokenizer(tmp_path, ROWS), processor(model)
    assert encode_texts(tokenizer, TEXTS) == [wanted.encode(text) for text in TEXTS]
    assert [decode_text(tokenizer, ids) for ids in encode_texts(tokenizer, TEXTS)] == list(TEXTS)
    assert tokenizer.eos_token_id == wanted.eos_id()


@pytest.mark.parametrize("prefix", [True, False])
def test_a_gguf_of_such_a_model(model, prefix):
    wanted = processor(model, prefix)
    ids = range(wanted.vocab_size())
    kinds = [
        2 if wanted.is_unknown(i) else 3 if wanted.is_control(i) else 6 if wanted.is_byte(i) else 1
        for i in ids
    ]
    fields = {
        "model": "llama",
        "tokens": [wanted.id_to_piece(i) for i in ids],
        "scores": [wanted.get_score(i) for i in ids],
        "token_type": kinds,
        "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0,
        "add_space_prefix": prefix,
    }  # fmt: skip
    metadata = {f"tokenizer.ggml.{name}": value for name, value in fields.items()}
    tokenizer = gguf_tokenizer(metadata, ROWS, "model.gguf")
    assert encode_texts(tokenizer, TEXTS) == [wanted.encode(text) for text in TEXTS]
    assert [decode_text(tokenizer, ids) for ids in encode_texts(tokenizer, TEXTS)] == list(TEXTS)


@pytest.mark.parametrize(("kind", "ids"), [("llama-bpe", [5]), ("gpt-2", [2, 3, 4])])
def test_a_whole_word_without_merges(kind, ids):
    """Llama 3's vocabulary has these; llama.cpp looks them up first, but merges for GPT-2's."""
    fields = {"model": "gpt2", "pre": kind, "tokens": ["<s>", "</s>", "a", "n", "m", "anm"],
              "merges": [], "bos_token_id": 0, "eos_token_id": 1}  # fmt: skip
    metadata = {f"tokenizer.ggml.{name}": value for name, value in fields.items()}
    assert encode_texts(gguf_tokenizer(metadata, 6, "model.gguf"), ["anm"]) == [ids]


def test_no_code_of_a_folder_is_run(tmp_path, monkeypatch):
    """Nor is the user prompted to allow it."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    settings = {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": "Own"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    ran = tmp_path / "ran"
    (tmp_path / "own.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Own: pass\n")
    with pytest.raises(ConvertError, match="the tokenizer cannot be read"):
        folder_tokenizer(tmp_path, 10)
    assert not ran.exists()
