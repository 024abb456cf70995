"""A byte-level BPE tokenizer trained on the instruction text."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from slava_jax import files
from slava_jax.errors import UserError

PAD_ID = 0
SMALLEST = 260  # tokens: 256 bytes and 4 special ones
_OWN_SPECIALS = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
}


class TokenizerError(UserError, ValueError):
    """A missing or damaged tokenizer; the message names the folder."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains byte-pair encoding on `texts`. Any text can be encoded and decodes to itself.

    Args:
      vocab_size: the most tokens, including the 256 bytes and `<pad>` `<unk>` `<s>` `</s>` (ids
        0 to 3); there may be fewer if the texts do not yield that many.

    Raises:
      ValueError: vocab_size is below SMALLEST.
    """
    if vocab_size < SMALLEST:
        raise ValueError(f"vocab_size must be at least {SMALLEST}, is {vocab_size}")
    model = Tokenizer(models.BPE(unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_OWN_SPECIALS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=model,
        clean_up_tokenization_spaces=False,
        # '</s>' within a text is plain text.
        split_special_tokens=True,
        **_OWN_SPECIALS,
    )


def save_tokenizer(
    tokenizer: PreTrainedTokenizerFast, folder: str | os.PathLike, sealed: bool = True
) -> None:
    """Writes tokenizer.json and its companion files to `folder`, creating it if needed.

    Args:
      sealed: add checksums, for a folder with nothing else.

    Raises:
      OSError: the files cannot be written.
    """
    try:
        tokenizer.save_pretrained(os.fspath(folder))
        if sealed:
            files.seal(Path(folder))
    except OSError:
        raise
    except Exception as error:  # tokenizers reports a full disk this way
        raise OSError(f"{folder}: the tokenizer cannot be written: {error}") from error


def load_tokenizer(folder: str | os.PathLike) -> PreTrainedTokenizerFast:
    """Loads a tokenizer written by `save_tokenizer` or transformers.

    Raises:
      TokenizerError: tokenizer.json is missing, or a file is damaged. Only in folders with
        checksums, which other programs do not write, every changed byte is noticed.
    """
    if not (Path(folder) / "tokenizer.json").is_file():
        raise TokenizerError(f"{folder}: contains no tokenizer.json")
    try:
        files.check(Path(folder))
    except files.DamagedError as error:
        raise TokenizerError(str(error)) from error
    try:
        return PreTrainedTokenizerFast.from_pretrained(os.fspath(folder))
    except Exception as error:  # three libraries raise many types
        raise TokenizerError(
            f"{folder}: the tokenizer is damaged ({type(error).__name__}: {error})"
        ) from error


def encode_texts(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Encodes plain texts in one call, which is much faster.

    No special tokens are added or recognised: '</s>' within a text is plain text.
    """
    if not texts:
        return []
    return tokenizer(
        list(texts), add_special_tokens=False, split_special_tokens=True,
        return_attention_mask=False, verbose=False,
    )["input_ids"]  # fmt: skip


def decode_text(tokenizer: PreTrainedTokenizerFast, ids: Iterable[int]) -> str:
    """Decodes token ids; special tokens and ids outside the tokenizer's vocabulary are skipped."""
    own = [int(i) for i in ids if i < len(tokenizer)]
    return tokenizer.decode(own, skip_special_tokens=True, clean_up_tokenization_spaces=False)
