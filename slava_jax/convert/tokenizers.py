"""The tokenizer that came with the weights, adapted to the data pipeline.

The pipeline appends the assistant's own tokens (`<image>`, `<Encode>`, `<Decode>`, `<EOS>`) after
the `len(tokenizer)` tokens of the base (data/tokenizer.py), so that length must equal the number
of rows of the frozen embedding table. Special tokens in text are split: a literal '</s>' is text.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.integrations.gguf import GGUF_TOKENIZER_MAPPING, convert_gguf_tokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from slava_jax.convert.rules import ConvertError

# Values of tokenizer.ggml.pre whose vocabularies have whole words that merges cannot produce;
# llama.cpp looks these words up before merging.
_WHOLE_FIRST = ("llama3", "llama-v3", "llama-bpe", "falcon3", "tekken", "pixtral")


def folder_tokenizer(folder: Path, rows: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a Hugging Face folder, fitted to an embedding of `rows` rows.

    Raises:
      ConvertError: it is missing, has no end token, or has more tokens than rows.
    """
    # A folder may name its own Python files; like pickles, they are never run here.
    options = {
        "local_files_only": True, "split_special_tokens": True, "trust_remote_code": False
    }  # fmt: skip
    try:
        if (folder / "tokenizer.json").is_file():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, **options)
        else:
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except Exception as error:  # three libraries raise many kinds
        raise ConvertError(
            f"{folder}: the tokenizer cannot be read ({error}); put tokenizer.json and "
            "tokenizer_config.json into the folder"
        ) from error
    return fitted(tokenizer, rows, str(folder))


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
    """The tokenizer in a GGUF file's metadata, built by transformers; raises as `fitted`."""
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
    split = _split(vocabulary, place)
    backend, _ = convert_gguf_tokenizer("llama", vocabulary)
    if split is not None:
        backend.pre_tokenizer = split
    backend = _mended(backend, vocabulary)
    special = {
        f"{name}_token": vocabulary["tokens"][vocabulary[f"{name}_token_id"]]
        for name in ("bos", "eos", "unk", "pad")
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


def _split(vocabulary: dict[str, Any], place: str) -> pre_tokenizers.PreTokenizer | None:
    """The pre-tokenizer, if transformers does not know it.

    transformers silently falls back to GPT-2's for unknown names, which gives wrong ids.
    """
    name = vocabulary.get("pre_tokenizer_type", "default")
    if vocabulary["tokenizer_type"] != "gpt2" or name in ("default", "gpt-2"):
        return None
    if name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        return pre_tokenizers.Sequence([digits, by_bytes])
    if name not in GGUF_PRE_TOKENIZER_SPLITS:
        raise ConvertError(
            f"{place}: tokenizer.ggml.pre is {name!r}, which is not supported; convert the Hugging "
            "Face folder of this model instead"
        )
    return None


def _mended(backend: Tokenizer, vocabulary: dict[str, Any]) -> Tokenizer:
    """`backend` with settings that transformers ignores in GGUF files, without tokens it adds."""
    state, count = json.loads(backend.to_str()), len(vocabulary["tokens"])
    # It adds GPT-2's end token to every byte-level vocabulary that lacks it.
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < count]
    if vocabulary.get("pre_tokenizer_type") in _WHOLE_FIRST:
        state["model"]["ignore_merges"] = True
    if vocabulary["tokenizer_type"] == "llama" and not vocabulary.get("add_prefix_space", True):
        state["pre_tokenizer"]["prepend_scheme"] = "never"
        decoders = state["decoder"]["decoders"]
        state["decoder"]["decoders"] = [part for part in decoders if part["type"] != "Strip"]
    return Tokenizer.from_str(json.dumps(state))
