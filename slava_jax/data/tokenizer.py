"""A byte-level BPE tokenizer trained on the instruction text, and the model's four added tokens."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD_ID = 0
_OWN_SPECIALS = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
}


class TokenizerError(ValueError):
    """A folder without a tokenizer that can be read; the message names it."""


class SpecialTokens(NamedTuple):
    """Ids of the added tokens; they follow the tokenizer's own vocabulary of `image` tokens.

    Their embeddings are trained beside the frozen table (design: four parts, item 2), so the
    tokenizer itself does not know them.
    """

    image: int  # `<image>`, where an image stands in the prompt
    encode: int  # `<Encode>`, closes the question and the answer
    decode: int  # `<Decode>`, starts the decoder
    eos: int  # `<EOS>`, ends the decoder's answer


def special_tokens(tokenizer: PreTrainedTokenizerFast) -> SpecialTokens:
    """The four ids after the tokenizer's vocabulary: len(tokenizer) + 0..3."""
    base = len(tokenizer)
    return SpecialTokens(base, base + 1, base + 2, base + 3)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-pair encoding trained on `texts`: any text is encoded, and decoded to itself.

    Args:
      vocab_size: at most so many tokens, with the 256 bytes and `<pad>` `<unk>` `<s>` `</s>`
        (ids 0 to 3) among them; fewer where the texts do not give that many.

    Raises:
      ValueError: vocab_size below 260.
    """
    if vocab_size < 260:
        raise ValueError(f"vocab_size must be at least 260 (256 bytes, 4 specials): {vocab_size}")
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
    """Token ids of plain texts, without any special token; all at once, which is much faster."""
    if not texts:
        return []
    return tokenizer(
        list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
    )["input_ids"]


def decode_text(tokenizer: PreTrainedTokenizerFast, ids: Iterable[int]) -> str:
    """Text of token ids; special tokens and ids beyond the tokenizer's vocabulary are left out."""
    own = [int(i) for i in ids if i < len(tokenizer)]
    return tokenizer.decode(own, skip_special_tokens=True, clean_up_tokenization_spaces=False)
