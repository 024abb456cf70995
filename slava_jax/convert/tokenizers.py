"""The tokenizer that came with the weights, as the data pipeline wants it.

The pipeline puts the assistant's own tokens (`<image>`, `<Encode>`, `<Decode>`, `<EOS>`) behind
the `len(tokenizer)` of the base (data/tokenizer.py), so that length must be the number of rows of
the frozen embedding table. Special tokens are split: text that happens to hold '</s>' is text.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.integrations.gguf import GGUF_TOKENIZER_MAPPING, convert_gguf_tokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from slava_jax.convert.rules import ConvertError

# Values of tokenizer.ggml.pre whose vocabularies hold whole words that no merges lead to, and which
# llama.cpp looks up before it merges.
_WHOLE_FIRST = ("llama3", "llama-v3", "llama-bpe", "falcon3", "tekken", "pixtral")


def folder_tokenizer(folder: Path, rows: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a Hugging Face folder, fitted to an embedding of `rows` rows.

    Raises:
      ConvertError: there is none, it has no end token, or more tokens than rows.
    """
    # A folder may name Python files of its own: as little as a pickle are they run here.
    options = {
        "local_files_only": True, "split_special_tokens": True, "trust_remote_code": False
    }  # fmt: skip
    try:
        if (folder / "tokenizer.json").is_file():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, **options)
        else:
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except Exception as error:  # of many kinds, from three libraries
        raise ConvertError(
            f"{folder}: its tokenizer cannot be read ({error}); tokenizer.json and "
            "tokenizer_config.json belong into the folder"
        ) from error
    return fitted(tokenizer, rows, str(folder))


def fitted(tokenizer, rows: int, place: str) -> PreTrainedTokenizerFast:
    """`tokenizer` with exactly `rows` tokens; rows of the table without one get `<unused_N>`.

    Raises:
      ConvertError: it has no end token, more tokens than rows, or ids that are not those of rows.
    """
    if tokenizer.eos_token_id is None:
        raise ConvertError(
            f"{place}: the tokenizer has no end token, without which no text ends; name one as "
            "eos_token in tokenizer_config.json"
        )
    if len(tokenizer) > rows:
        raise ConvertError(
            f"{place}: the tokenizer has {len(tokenizer)} tokens and the embedding {rows} rows; "
            "remove the tokens that were added without one (added_tokens in tokenizer.json)"
        )
    tokenizer.add_tokens([f"<unused_{i}>" for i in range(len(tokenizer), rows)], True)
    if sorted(tokenizer.get_vocab().values()) != list(range(rows)):
        raise ConvertError(
            f"{place}: the tokenizer's ids are not 0 to {rows - 1}, one a row of the embedding: "
            "ids are left out, a token is there twice, or one is called <unused_N>, as rows "
            "without a token are here; rename or remove it"
        )
    return tokenizer


def gguf_tokenizer(metadata: dict[str, Any], rows: int, place: str) -> PreTrainedTokenizerFast:
    """The tokenizer in a GGUF file's metadata, built by transformers. Raises as above."""
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
        raise ConvertError(f"{place}: holds no tokenizer; take a file that has one")
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
    """How text is cut before its bytes are merged, where transformers does not know it.

    transformers cuts as GPT-2 whatever it does not know, and gives other ids without a word.
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
            f"{place}: tokenizer.ggml.pre is {name!r}, and how that cuts text is not known here; "
            "convert the Hugging Face folder of this model, which says it"
        )
    return None


def _mended(backend: Tokenizer, vocabulary: dict[str, Any]) -> Tokenizer:
    """`backend` with what transformers does not take from a GGUF file, and without what it adds."""
    state, count = json.loads(backend.to_str()), len(vocabulary["tokens"])
    # It builds every byte-level vocabulary as GPT-2's, with that one's end token where it lacks it.
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < count]
    if vocabulary.get("pre_tokenizer_type") in _WHOLE_FIRST:
        state["model"]["ignore_merges"] = True
    if vocabulary["tokenizer_type"] == "llama" and not vocabulary.get("add_prefix_space", True):
        state["pre_tokenizer"]["prepend_scheme"] = "never"
        decoders = state["decoder"]["decoders"]
        state["decoder"]["decoders"] = [part for part in decoders if part["type"] != "Strip"]
    return Tokenizer.from_str(json.dumps(state))
