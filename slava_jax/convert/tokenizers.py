"""The tokenizer that came with the weights, adapted to the data pipeline.

The pipeline appends the assistant's own tokens (`<image>`, `<Encode>`, `<Decode>`, `<EOS>`) after
the `len(tokenizer)` tokens of the base (data/tokenizer.py), so that length must equal the number
of rows of the frozen embedding table. Special tokens in text are split: a literal '</s>' is text.
How text is cut is read from the files, never guessed: other ids make a model worse without an
error.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.integrations.gguf import GGUF_TOKENIZER_MAPPING, convert_gguf_tokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from slava_jax.convert.pieces import gguf_pieces, read_pieces
from slava_jax.convert.rules import ConvertError
from slava_jax.convert.settings import mapping, read_json
from slava_jax.data.tokenizer import check_limit, library_errors
from slava_jax.facts import shown

# Values of tokenizer.ggml.pre whose vocabularies have whole words that merges cannot produce;
# llama.cpp looks these words up before merging.
_WHOLE_FIRST = (
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
    "jina-v5-nano", "tekken",
)  # fmt: skip
_JSON, _MODEL, _SETTINGS = "tokenizer.json", "tokenizer.model", "tokenizer_config.json"
_BESIDE = (_SETTINGS, "special_tokens_map.json", "chat_template.jinja", "chat_template.json")
# Classes of transformers whose ids are those of the tokenizer.model.
_PLAIN_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", None)
_SPECIAL = ("bos", "eos", "unk", "pad")
_WRITE_JSON = (
    "put a tokenizer.json into the folder: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) "
    "of transformers writes it"
)


def folder_tokenizer(folder: Path, rows: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a Hugging Face folder, fitted to an embedding of `rows` rows.

    Raises:
      ConvertError: it is missing or damaged, does not state how text is cut, has no end token, or
        has more tokens than rows.
    """
    if (folder / _JSON).is_file():
        return fitted(_read(folder, folder), rows, str(folder))
    if not (folder / _MODEL).is_file():
        raise ConvertError(
            f"{folder}: the tokenizer cannot be read: there is no {_JSON} and no {_MODEL}, and "
            f"other files do not say how text is cut; {_WRITE_JSON}"
        )
    # Through the same reader as tokenizer.json, which also reads the files beside it.
    with tempfile.TemporaryDirectory() as place:
        built, special = _from_pieces(folder)
        built.save(str(Path(place) / _JSON))
        for name in _BESIDE:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, Path(place) / name)
        return fitted(_read(Path(place), folder, **special), rows, str(folder))


def _read(place: Path, folder: Path, **special: str) -> PreTrainedTokenizerFast:
    """Reads tokenizer.json and its companions at `place`; errors name `folder`."""
    problem = f"{folder}: the tokenizer cannot be read"
    with library_errors(problem, f"; download {_JSON} and {_SETTINGS} again", ConvertError):
        known = Tokenizer.from_file(str(place / _JSON)).get_vocab()
        # A folder may name its own Python files; like pickles, they are never run here.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(
            place, local_files_only=True, split_special_tokens=True, trust_remote_code=False,
            **special,
        )  # fmt: skip
        check_limit(tokenizer)
        named = {f"{name}_token": getattr(tokenizer, f"{name}_token") for name in _SPECIAL}
    for name, token in named.items():
        # transformers appends an unknown one, with an id that the weights never saw. A padding
        # token may be such a one: it is never read.
        if token == "" or (token and token not in known and name != "pad_token"):
            raise ConvertError(
                f"{folder}: {name} is {shown(token)}, which is not in the vocabulary; correct it "
                f"in {_SETTINGS}"
            )
    return tokenizer


def _from_pieces(folder: Path) -> tuple[Tokenizer, dict[str, str]]:
    """(the tokenizer of a tokenizer.model, special tokens that no other file names)."""
    path = folder / _SETTINGS
    settings = read_json(path) if path.is_file() else {}
    kind = settings.get("tokenizer_class")
    if kind not in _PLAIN_CLASSES or settings.get("auto_map"):
        raise ConvertError(
            f"{folder}: the tokenizer cannot be read: {shown(kind)} may number the tokens of "
            f"{_MODEL} otherwise; {_WRITE_JSON}"
        )
    pieces = read_pieces(folder / _MODEL, settings.get("add_prefix_space") is not False)
    problem = f"{folder / _MODEL}: cannot be read"
    with library_errors(problem, "; download it again", ConvertError):
        built = pieces.tokenizer()
    for number, token in sorted(_added(folder, settings).items()):
        known = built.token_to_id(token.content)
        if known is None and number == built.get_vocab_size():
            built.add_tokens([token])
        elif known != number:
            raise ConvertError(
                f"{folder}: the added token {shown(token.content)} has the id {number}, but "
                f"{_MODEL} leaves {built.get_vocab_size() if known is None else known} for it; "
                "download the tokenizer's files again"
            )
    named = read_json(beside) if (beside := folder / _BESIDE[1]).is_file() else {}
    held = {**named, **settings}
    return built, {n: token for n, token in pieces.special().items() if held.get(n) is None}


def _added(folder: Path, settings: dict[str, Any]) -> dict[int, AddedToken]:
    """The tokens that a folder adds to its tokenizer.model, by id."""
    path = folder / "added_tokens.json"
    try:
        listed = {
            content: {"id": number} for content, number in (
                read_json(path) if path.is_file() else {}
            ).items()
        }  # fmt: skip
        for number, token in mapping(settings, "added_tokens_decoder").items():
            listed[token["content"]] = {"id": int(number), **token}
        return {
            int(token["id"]): AddedToken(
                content, normalized=False, special=bool(token.get("special", False)),
                lstrip=bool(token.get("lstrip")), rstrip=bool(token.get("rstrip")),
            )
            for content, token in listed.items()
        }  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConvertError(
            f"{folder}: added tokens must have an id and a content, in added_tokens.json or in "
            f"added_tokens_decoder of {_SETTINGS} ({error})"
        ) from error


def fitted(tokenizer, rows: int, place: str) -> PreTrainedTokenizerFast:
    """`tokenizer` with exactly `rows` tokens; rows without a token get `<unused_N>`.

    Raises:
      ConvertError: it has no end token, more tokens than rows, or ids that do not match the rows.
    """
    if tokenizer.eos_token_id is None:
        raise ConvertError(
            f"{place}: the tokenizer has no end token; set eos_token in tokenizer_config.json"
        )
    if len(tokenizer) > rows:
        raise ConvertError(
            f"{place}: the tokenizer has {len(tokenizer)} tokens, but the embedding only {rows} "
            "rows; remove the tokens without a row (added_tokens in tokenizer.json)"
        )
    tokenizer.add_tokens([f"<unused_{i}>" for i in range(len(tokenizer), rows)], True)
    if sorted(tokenizer.get_vocab().values()) != list(range(rows)):
        raise ConvertError(
            f"{place}: the tokenizer's ids are not 0 to {rows - 1}, one per row of the embedding. "
            "Ids are missing, a token occurs twice, or one is called <unused_N>, the name used "
            "here for rows without a token; rename or remove it"
        )
    return tokenizer


def gguf_tokenizer(metadata: dict[str, Any], rows: int, place: str) -> PreTrainedTokenizerFast:
    """The tokenizer in a GGUF file's metadata.

    Raises:
      ConvertError: it is missing, does not state how text is cut, or as in `fitted`. KeyError,
        ValueError: a field is missing or invalid.
    """
    parts = {
        group: {
            name: metadata[f"tokenizer.{key}"]
            for key, name in names.items()
            if f"tokenizer.{key}" in metadata
        }
        for group, names in GGUF_TOKENIZER_MAPPING.items()
    }
    vocabulary = parts["tokenizer"]
    if "tokens" not in vocabulary or "tokenizer_type" not in vocabulary:
        raise ConvertError(f"{place}: has no tokenizer; use a file that has one")
    _check_vocabulary(vocabulary, rows)
    extra = "tokenizer.ggml.remove_extra_whitespaces"
    problem = f"{place}: its tokenizer cannot be read"
    with library_errors(problem, "; download the file again", ConvertError):
        if vocabulary["tokenizer_type"] == "llama":
            vocabulary["remove_extra_whitespaces"] = metadata.get(extra, False)
            backend = gguf_pieces(vocabulary, place).tokenizer()
        else:
            backend = _byte_level(vocabulary, place)
        special = {
            f"{name}_token": vocabulary["tokens"][vocabulary[f"{name}_token_id"]]
            for name in _SPECIAL
            if f"{name}_token_id" in vocabulary
        }
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend,
            clean_up_tokenization_spaces=False,
            split_special_tokens=True,
            **parts["tokenizer_config"],
            **special,
        )
    return fitted(tokenizer, rows, place)


def _check_vocabulary(vocabulary: dict[str, Any], rows: int) -> None:
    """Raises ValueError if the tokens are not a list of texts, or an id is not one of theirs."""
    tokens = vocabulary["tokens"]
    if not isinstance(tokens, list) or not all(isinstance(t, str) and t for t in tokens):
        raise ValueError("tokenizer.ggml.tokens: must be a list of texts, none of them empty")
    if len(tokens) > rows:
        raise ValueError(f"tokenizer.ggml.tokens: has {len(tokens)}, the embedding {rows} rows")
    for name in ("scores", "token_type"):
        if name in vocabulary and len(vocabulary[name]) != len(tokens):
            raise ValueError(f"tokenizer.ggml.{name}: must have one entry for each token")
    for name in _SPECIAL:
        number = vocabulary.get(f"{name}_token_id", 0)
        if type(number) is not int or not 0 <= number < len(tokens):
            raise ValueError(f"the id of the {name} token: {shown(number)} is not one of a token")


def _byte_level(vocabulary: dict[str, Any], place: str) -> Tokenizer:
    """A byte-level tokenizer, built by transformers with the cut that the file states."""
    kind, name = vocabulary["tokenizer_type"], vocabulary.get("pre_tokenizer_type")
    hint = "convert the Hugging Face folder of this model instead"
    if kind != "gpt2" or "merges" not in vocabulary:
        raise ConvertError(
            f"{place}: tokenizer.ggml.model is {shown(kind)}, but must be 'llama', or 'gpt2' with "
            f"tokenizer.ggml.merges; {hint}"
        )
    if name in (None, "default"):
        raise ConvertError(
            f"{place}: tokenizer.ggml.pre is {'missing' if name is None else repr(name)}, so the "
            f"file does not say how text is cut (older versions of llama.cpp wrote such files); "
            f"{hint}. If you know the name ('llama-bpe' for Llama 3), write a file that has it: "
            "gguf-new-metadata --pre-tokenizer NAME OLD.gguf NEW.gguf"
        )
    if name not in ("gpt-2", "smollm", *GGUF_PRE_TOKENIZER_SPLITS):
        raise ConvertError(
            f"{place}: tokenizer.ggml.pre is {shown(name)}, which is not supported; {hint}"
        )
    backend, _ = convert_gguf_tokenizer("llama", vocabulary)
    if name == "smollm":  # transformers falls back to GPT-2's cut, which gives wrong ids
        digits = pre_tokenizers.Digits(individual_digits=True)
        by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, by_bytes])
    state, count = json.loads(backend.to_str()), len(vocabulary["tokens"])
    # It adds GPT-2's end token to every byte-level vocabulary that lacks it.
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < count]
    if name in _WHOLE_FIRST:  # which transformers ignores
        state["model"]["ignore_merges"] = True
    return Tokenizer.from_str(json.dumps(state))
