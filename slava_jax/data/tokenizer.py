"""A byte-level BPE tokenizer trained on the instruction text."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from slava_jax import files
from slava_jax.errors import UserError

PAD_ID = 0
SMALLEST = 260  # tokens: 256 bytes and 4 special ones
_CAUSE = 300  # characters of a library's message in an error
_PROBE = "A film of 12 µm, 4096 x 3072.\n  It's rough."
_OWN_SPECIALS = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
}


class TokenizerError(UserError, ValueError):
    """A missing or damaged tokenizer; the message names the folder."""


@contextlib.contextmanager
def library_errors(
    problem: str, remedy: str = "", kind: type[UserError] = TokenizerError
) -> Iterator[None]:
    """Any failure of the tokenizer libraries in the body, as `kind`: problem (cause) remedy.

    They raise many types for a damaged file. The Rust code of `tokenizers` also panics, which is no
    Exception: `except Exception` lets it pass.
    """
    try:
        yield
    except BaseException as error:
        panic = type(error).__name__ == "PanicException"
        if isinstance(error, UserError) or not (panic or isinstance(error, Exception)):
            raise  # it says what to do, or is an interrupt
        cause = str(error).strip()[:_CAUSE] or type(error).__name__
        raise kind(f"{problem} ({cause}){remedy}") from error


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


def load_tokenizer(
    folder: str | os.PathLike, beside: str | os.PathLike | None = None
) -> PreTrainedTokenizerFast:
    """Loads a tokenizer written by `save_tokenizer` or transformers.

    Args:
      beside: a folder that was saved with the tokenizer: if it has checksums, so must this one.

    Raises:
      TokenizerError: tokenizer.json is missing, a file is damaged, or there is no end token. Only
        in folders with checksums, which other programs do not write, every changed byte is noticed.
    """
    if not (Path(folder) / "tokenizer.json").is_file():
        raise TokenizerError(f"{folder}: contains no tokenizer.json")
    try:
        files.check(Path(folder), beside=None if beside is None else Path(beside))
    except files.DamagedError as error:
        raise TokenizerError(str(error)) from error
    with library_errors(f"{folder}: the tokenizer is damaged"):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(os.fspath(folder))
        check_limit(tokenizer)
        # Some damage only shows in use. Ids beyond the vocabulary would read other rows.
        tokenizer.decode(tokenizer(_PROBE)["input_ids"])
        whole = sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
        if not whole or not tokenizer.eos_token or tokenizer.eos_token_id is None:
            raise ValueError("ids are missing, or it has no end token")
    return tokenizer


def check_limit(tokenizer: PreTrainedTokenizerFast) -> None:
    """Raises ValueError if model_max_length, which transformers does not check, is no length."""
    limit = tokenizer.model_max_length
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 1:
        raise ValueError(f"model_max_length: must be a number above 0, is {str(limit)[:80]!r}")


def encode_texts(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Encodes plain texts in one call, which is much faster.

    No special tokens are added or recognised: '</s>' within a text is plain text.

    Raises:
      TokenizerError: the tokenizer is damaged.
    """
    if not texts:
        return []
    with library_errors("a text cannot be encoded, the tokenizer is damaged"):
        return tokenizer(
            list(texts), add_special_tokens=False, split_special_tokens=True,
            return_attention_mask=False, verbose=False,
        )["input_ids"]  # fmt: skip


def decode_text(tokenizer: PreTrainedTokenizerFast, ids: Iterable[int]) -> str:
    """Decodes token ids; special tokens and ids outside the tokenizer's vocabulary are skipped."""
    own = [int(i) for i in ids if i < len(tokenizer)]
    with library_errors("tokens cannot be decoded, the tokenizer is damaged"):
        return tokenizer.decode(own, skip_special_tokens=True, clean_up_tokenization_spaces=False)
