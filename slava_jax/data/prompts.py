"""From instructions to token ids: the interleaved prompt and the answer."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from transformers import PreTrainedTokenizerFast

from slava_jax.data.instructions import IMAGE_TOKEN, Instruction
from slava_jax.data.tokenizer import encode_texts, special_tokens


class PromptError(ValueError):
    """A prompt that does not fit its images; the message names the instruction."""


@dataclasses.dataclass(frozen=True)
class Example:
    """The token ids of one instruction.

    Attributes:
      prompt_ids: int32[P]: bos where the tokenizer has one, supplement, question; `<image>` (an
        added id) where each image stands; no `<Encode>`.
      answer_ids: int32[A], no special token; A >= 1.
      image_positions: int32[I], where in prompt_ids the images stand.
    """

    prompt_ids: np.ndarray
    answer_ids: np.ndarray
    image_positions: np.ndarray

    @property
    def length(self) -> int:
        """Tokens of prompt `<Encode>` answer `<Encode>`: the T this example needs."""
        return len(self.prompt_ids) + len(self.answer_ids) + 2

    @property
    def answer_length(self) -> int:
        """Tokens of answer `<EOS>`: the U this example needs."""
        return len(self.answer_ids) + 1


def encode_examples(
    instructions: Sequence[Instruction], tokenizer: PreTrainedTokenizerFast
) -> list[Example]:
    """Tokenises instructions for training, each distinct piece of text once.

    Raises:
      PromptError: an answer has no token, or the `<image>` tokens do not match the images.
    """
    prompts = [
        _pieces(
            item.question,
            item.metadata.get("supplement", ""),
            len(item.images),
            f"instruction {item.id!r}",
        )
        for item in instructions
    ]
    texts = (text for pieces in prompts for text in pieces)
    ids_of = _token_ids((*texts, *(item.answer for item in instructions)), tokenizer)
    # Asked once: a tokenizer of transformers takes its time over each of its properties.
    start, image_id = _start(tokenizer), special_tokens(tokenizer).image
    examples = []
    for item, pieces in zip(instructions, prompts, strict=True):
        prompt = _joined([ids_of[piece] for piece in pieces], start, image_id)
        answer = np.asarray(ids_of[item.answer], np.int32)
        if not len(answer):
            raise PromptError(f"instruction {item.id!r}: the answer has no token; write one")
        positions = np.flatnonzero(prompt == image_id).astype(np.int32)
        examples.append(Example(prompt, answer, positions))
    return examples


def encode_example(instruction: Instruction, tokenizer: PreTrainedTokenizerFast) -> Example:
    """`encode_examples` of one instruction."""
    return encode_examples([instruction], tokenizer)[0]


def encode_prompt(
    question: str, supplement: str, n_images: int, tokenizer: PreTrainedTokenizerFast
) -> np.ndarray:
    """Tokenises a question for inference: the prompt and `<Encode>`.

    A question without any `<image>` gets its images in front.

    Returns:
      int32[P + 1].

    Raises:
      PromptError: the question has `<image>` tokens, but not `n_images` of them.
    """
    if IMAGE_TOKEN not in question:
        question = IMAGE_TOKEN * n_images + question
    pieces = _pieces(question, supplement, n_images, f"question {question!r}")
    ids_of, special = _token_ids(pieces, tokenizer), special_tokens(tokenizer)
    prompt = _joined([ids_of[piece] for piece in pieces], _start(tokenizer), special.image)
    return np.append(prompt, np.int32(special.encode))


def _pieces(question: str, supplement: str, n_images: int, name: str) -> list[str]:
    """Supplement and question as texts between which, from the second on, the images stand."""
    found = question.count(IMAGE_TOKEN)
    if found != n_images:
        raise PromptError(
            f"{name}: {found} {IMAGE_TOKEN} in the question for {n_images} image(s); "
            f"write one {IMAGE_TOKEN} where each image stands"
        )
    if IMAGE_TOKEN in supplement:
        raise PromptError(
            f"{name}: {IMAGE_TOKEN} in the supplement; it belongs into the question only"
        )
    first, *rest = question.split(IMAGE_TOKEN)
    return [f"{supplement} {first}" if supplement and first else supplement or first, *rest]


def _token_ids(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> dict[str, list[int]]:
    distinct = list(dict.fromkeys(texts))
    return dict(zip(distinct, encode_texts(tokenizer, distinct), strict=True))


def _start(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    bos = tokenizer.bos_token_id
    return [] if bos is None else [bos]


def _joined(pieces: Sequence[list[int]], start: list[int], image_id: int) -> np.ndarray:
    """int32[P]: `start`, then the pieces with an image between each two."""
    ids = list(start)
    for i, piece in enumerate(pieces):
        if i:
            ids.append(image_id)
        ids += piece
    return np.asarray(ids, np.int32)
