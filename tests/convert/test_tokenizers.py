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
TEXTS = (
    "the film", "what is", "grains  of 12 µm, faceted", "a\nsponge", " one", "  two  ", "\nline",
    "a", "</s> is text, <0x0A> and <unk>, too", "漢字 ﬁ", "",
)  # fmt: skip
LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def trained(folder, **settings):
    """The path of a tokenizer.model, by default like Llama's: byte pairs with byte fallback."""
    folder.mkdir(exist_ok=True)
    (folder / "corpus.txt").write_text(CORPUS)
    sentencepiece.SentencePieceTrainer.train(**{
        "input": str(folder / "corpus.txt"), "model_prefix": str(folder / "tokenizer"),
        "model_type": "bpe", "vocab_size": ROWS, "byte_fallback": True, "minloglevel": 2,
        "normalization_rule_name": "identity", "remove_extra_whitespaces": False, **settings,
    })  # fmt: skip
    return folder / "tokenizer.model"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("sentencepiece"))


def beside(model, folder, **files) -> None:
    """A folder of this tokenizer.model and JSON files."""
    (folder / "tokenizer.model").write_bytes(model.read_bytes())
    for name, held in files.items():
        (folder / f"{name}.json").write_text(json.dumps(held))


def processor(model, prefix=True):
    stored = sentencepiece_model_pb2.ModelProto()
    stored.ParseFromString(model.read_bytes())
    if prefix is not None:
        stored.normalizer_spec.add_dummy_prefix = prefix
    return sentencepiece.SentencePieceProcessor(model_proto=stored.SerializeToString())


@pytest.mark.parametrize(
    "settings",
    [
        None,
        {},
        {"tokenizer_class": "LlamaTokenizer", **LLAMA, "legacy": True},
        {"tokenizer_class": "LlamaTokenizer", "legacy": False},
        {"tokenizer_class": "LlamaTokenizerFast", "eos_token": None},
        LLAMA,
    ],
)
def test_a_folder_with_the_sentencepiece_model_alone(model, tmp_path, settings):
    """As OpenLLaMA and Vicuna are distributed: whatever stands beside it, the ids are its own."""
    beside(model, tmp_path, **({} if settings is None else {"tokenizer_config": settings}))
    tokenizer, wanted = folder_tokenizer(tmp_path, ROWS), processor(model)
    assert encode_texts(tokenizer, TEXTS) == [wanted.encode(text) for text in TEXTS]
    assert [decode_text(tokenizer, ids) for ids in encode_texts(tokenizer, TEXTS[:8])] == list(
        TEXTS[:8]
    )
    assert tokenizer.eos_token_id == wanted.eos_id()


@pytest.mark.parametrize(
    "settings",
    [
        {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True},
        {"remove_extra_whitespaces": True},
        {"add_dummy_prefix": False},
        {"byte_fallback": False, "vocab_size": 60},
        {"control_symbols": ["<ctl>"]},
        {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3},
    ],
)
def test_settings_of_a_sentencepiece_model(tmp_path, settings):
    """Each is read from the model, none assumed."""
    path = trained(tmp_path, **settings)
    tokenizer, wanted = folder_tokenizer(tmp_path, ROWS), processor(path, None)
    assert encode_texts(tokenizer, TEXTS) == [wanted.encode(text) for text in TEXTS]
    assert tokenizer.eos_token_id == wanted.eos_id()


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"model_type": "char", "byte_fallback": False, "vocab_size": 50}, "not of byte pairs"),
        ({"treat_whitespace_as_suffix": True}, "'a' differ"),
        ({"user_defined_symbols": ["<sep>"]}, "'a<sep>b' differ"),
        ({"eos_id": -1}, "no end token"),
    ],
)
def test_a_sentencepiece_model_with_other_rules_is_refused(tmp_path, settings, part):
    trained(tmp_path, **settings)
    with pytest.raises(ConvertError, match=f"{tmp_path}.*{part}"):
        folder_tokenizer(tmp_path, ROWS)


@pytest.mark.parametrize(
    ("files", "part"),
    [
        ({"tokenizer_config": {"tokenizer_class": "XLMRobertaTokenizer"}}, "'XLMRobertaTokenizer'"),
        ({"tokenizer_config": {"eos_token": ""}}, "eos_token is ''"),
        ({"tokenizer_config": {"eos_token": "</S>"}}, "eos_token is '</S>'"),
        ({"added_tokens": {"<pad>": ROWS + 1}}, f"<pad>' has the id {ROWS + 1}.*leaves {ROWS}"),
        ({"added_tokens": {"</s>": 7}}, "</s>' has the id 7.*leaves 2"),
        ({"tokenizer_config": {"added_tokens_decoder": {"x": {}}}}, "an id and a content"),
    ],
)
def test_files_that_contradict_the_model(model, tmp_path, files, part):
    beside(model, tmp_path, **files)
    with pytest.raises(ConvertError, match=part):
        folder_tokenizer(tmp_path, ROWS + 2)


def test_tokens_added_to_a_sentencepiece_model(model, tmp_path):
    """As Vicuna's padding and a chat format's tokens: behind the model's own."""
    decoder = {str(ROWS): {"content": "<|end|>", "special": True}}
    settings = {"added_tokens_decoder": decoder, "eos_token": "<|end|>", "chat_template": "{{ x }}"}
    beside(model, tmp_path, tokenizer_config=settings, added_tokens={"<pad>": ROWS + 1})
    tokenizer = folder_tokenizer(tmp_path, ROWS + 4)
    assert tokenizer.convert_tokens_to_ids(["<|end|>", "<pad>"]) == [ROWS, ROWS + 1]
    assert (tokenizer.eos_token_id, tokenizer.chat_template) == (ROWS, "{{ x }}")
    assert encode_texts(tokenizer, ["a<|end|>"]) == [processor(model).encode("a<|end|>")]


@pytest.mark.parametrize("damage", [lambda raw: raw[:40], lambda raw: b"", lambda raw: raw[7:]])
def test_a_damaged_sentencepiece_model(model, tmp_path, damage):
    (tmp_path / "tokenizer.model").write_bytes(damage(model.read_bytes()))
    with pytest.raises(ConvertError, match=r"tokenizer\.model.*again"):
        folder_tokenizer(tmp_path, ROWS)


def test_a_vocabulary_and_merges_do_not_say_how_text_is_cut(tmp_path):
    """SmolLM's are as GPT-2's, but it cuts at every digit."""
    (tmp_path / "vocab.json").write_text('{"<s>": 0, "</s>": 1}')
    (tmp_path / "merges.txt").write_text("#version: 0.2")
    beside_it = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(beside_it))
    with pytest.raises(ConvertError, match=r"no tokenizer\.json and no tokenizer\.model.*AutoTok"):
        folder_tokenizer(tmp_path, 10)


def spm_fields(wanted, prefix=True) -> dict:
    """The metadata of a GGUF file with a sentencepiece model."""
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
    return {f"tokenizer.ggml.{name}": value for name, value in fields.items()}


@pytest.mark.parametrize("prefix", [True, False])
def test_a_gguf_of_such_a_model(model, prefix):
    wanted = processor(model, prefix)
    tokenizer = gguf_tokenizer(spm_fields(wanted, prefix), ROWS, "model.gguf")
    assert encode_texts(tokenizer, TEXTS) == [wanted.encode(text) for text in TEXTS]
    found = [decode_text(tokenizer, ids) for ids in encode_texts(tokenizer, TEXTS[:8])]
    assert found == list(TEXTS[:8])


def test_a_gguf_without_scores_that_tell(model):
    """Some writers give all tokens one score; merges, if listed, tell as much."""
    wanted = processor(model)
    fields = spm_fields(wanted)
    tokens, scores = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.scores"]
    best = sorted(range(259, ROWS), key=lambda i: -scores[i])
    merges = [
        f"{tokens[i][:cut]} {tokens[i][cut:]}"
        for i in best
        for cut in range(1, len(tokens[i]))
        if {tokens[i][:cut], tokens[i][cut:]} <= set(tokens)
    ]
    fields["tokenizer.ggml.scores"] = [0.0] * ROWS
    with pytest.raises(ConvertError, match=r"model.gguf: all tokens have the same score"):
        gguf_tokenizer(fields, ROWS, "model.gguf")
    fields["tokenizer.ggml.merges"] = merges
    found = encode_texts(gguf_tokenizer(fields, ROWS, "model.gguf"), TEXTS)
    assert found == [wanted.encode(text) for text in TEXTS]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokens", ["<s>", 3]), ("tokens", [""] * ROWS), ("tokens", "text"), ("tokens", ["a"]),
        ("scores", [0.0]), ("scores", [float("nan")] * ROWS), ("scores", None), ("scores", ["x"]),
        ("token_type", [1] * ROWS), ("token_type", [99] * ROWS), ("token_type", None),
        ("eos_token_id", ROWS), ("eos_token_id", -1), ("bos_token_id", [1]), ("model", "t5"),
        ("model", ["llama"]), ("merges", ["a b c"]), ("merges", ["zzz yyy"]), ("merges", 3),
        ("precompiled_charsmap", [300]), ("precompiled_charsmap", [1, 2, 3]),
    ],
)  # fmt: skip
def test_a_damaged_field_of_a_gguf(model, name, value):
    """Never a traceback, never other ids."""
    fields = spm_fields(processor(model))
    fields.pop("tokenizer.ggml.unknown_token_id")
    fields[f"tokenizer.ggml.{name}"] = value
    if value is None:
        del fields[f"tokenizer.ggml.{name}"]
    with pytest.raises((ConvertError, ValueError, KeyError, TypeError)):
        gguf_tokenizer(fields, ROWS, "model.gguf")


@pytest.mark.parametrize(("kind", "ids"), [
    *((kind, [5]) for kind in ("llama-bpe", "llama3", "falcon-h1", "lfm2", "midm-2.0", "tekken")),
    ("gpt-2", [2, 3, 4]),
])  # fmt: skip
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
