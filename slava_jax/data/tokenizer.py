"""A byte-level BPE tokenizer trained on the instruction text."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

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
    """A folder without a tokenizer that can be read; the message names it."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-pair encoding trained on `texts`: any text is encoded, and decoded to itself.

    Args:
      vocab_size: at most so many tokens, with the 256 bytes and `<pad>` `<unk>` `<s>` `</s>`
        (ids 0 to 3) among them; fewer where the texts do not give that many.

    Raises:
      ValueError: vocab_size below SMALLEST.
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
        # Text that happens to hold '</s>' is text.
        split_special_tokens=True,
        **_OWN_SPECIALS,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: str | os.PathLike) -> None:
    """Writes tokenizer.json and its companions into `folder`, made where missing.

    Raises:
      OSError: it cannot be written.
    """
    try:
        tokenizer.save_pretrained(os.fspath(folder))
    except OSError:
        raise
    except Exception as error:  # so tokenizers reports a full disk
        raise OSError(f"{folder}: the tokenizer could not be written: {error}") from error


def load_tokenizer(folder: str | os.PathLike) -> PreTrainedTokenizerFast:
    """The tokenizer that `save_tokenizer` (or transformers) wrote.

    Raises:
      TokenizerError: the folder holds no tokenizer.json, or a damaged one.
    """
    if not (Path(folder) / "tokenizer.json").is_file():
        raise TokenizerError(f"{folder}: holds no tokenizer.json")
    try:
        return PreTrainedTokenizerFast.from_pretrained(os.fspath(folder))
    except Exception as error:  # of many kinds, from three libraries
        raise TokenizerError(
            f"{folder}: the tokenizer is damaged ({type(error).__name__}: {error})"
        ) from error


def encode_texts(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of plain texts, all at once, which is much faster.

    No special token is added, and none is found: '</s>' in a text is text.
    """
    if not texts:
        return []
    return tokenizer(
        list(texts), add_special_tokens=False, split_special_tokens=True,
        return_attention_mask=False, verbose=False,
    )["input_ids"]  # fmt: skip


def decode_text(tokenizer: PreTrainedTokenizerFast, ids: Iterable[int]) -> str:
    """Text of token ids; special tokens and ids beyond the tokenizer's vocabulary are left out."""
    own = [int(i) for i in ids if i < len(tokenizer)]
    return tokenizer.decode(own, skip_special_tokens=True, clean_up_tokenization_spaces=False)
