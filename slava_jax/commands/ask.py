"""Asks an assistant: slava ask --checkpoint runs/quickstart IMAGE... "question"."""

import argparse
import os
import sys

from slava_jax.errors import UserError, printable, reported
from slava_jax.teacher.procedural import DETAIL_REQUEST


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Prints only the answer to stdout."""
    asked = parser().parse_args(arguments)
    if sys.stderr.isatty():
        print("loading and compiling takes a few seconds ...", file=sys.stderr, flush=True)
    # Imported here so that --help and wrong options answer at once.
    from absl import logging

    from slava_jax.data.decoding import read_header
    from slava_jax.inference.assistant import load_assistant

    logging.set_verbosity(logging.ERROR)
    question = f"{asked.question} {DETAIL_REQUEST}" if asked.detailed else asked.question
    with reported():
        if os.path.isfile(asked.question):  # Path.is_file raises for a long question
            raise UserError(f"{asked.question}: the question comes last, after the images")
        for path in asked.images:
            if note := read_header(path).note:
                print(f"{path}: {note}", file=sys.stderr)
        assistant = load_assistant(asked.checkpoint, asked.base)
        rank = _rank(asked.rank, assistant.model.adapter)
        answer = assistant.answer(
            asked.images, question, asked.pixel_size, asked.magnification,
            max_tokens=asked.max_tokens, rank=rank,
            temperature=asked.temperature, top_p=asked.top_p, seed=asked.seed,
        )  # fmt: skip
    print(printable(answer.text))
    if asked.probability and answer.text:
        said = "unknown" if answer.probability is None else f"{answer.probability:.2f}"
        print(f"estimated probability that the stated fact is right: {said}", file=sys.stderr)
    if not answer.text:
        print("The answer is empty: the assistant may need more training.", file=sys.stderr)


def _rank(rank: int | None, adapter) -> int | None:
    if rank is not None and adapter is None:
        raise UserError("--rank: this assistant has no adapters; leave it out")
    if rank is not None and not adapter.r_min <= rank <= adapter.r_max:
        raise UserError(f"--rank: must be {adapter.r_min} to {adapter.r_max}, is {rank}")
    return rank


def parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    options = argparse.ArgumentParser("slava ask", description=__doc__.split(":")[0])
    options.add_argument(
        "images", nargs="+", metavar="image",
        help="image file of any size and bit depth; of several, the last is asked about",
    )  # fmt: skip
    options.add_argument(
        "question",
        type=_text,
        help="e.g. 'What does this image show?'; with one <image> for each image, or none",
    )
    options.add_argument("--checkpoint", required=True, help="the work directory of a finished run")
    options.add_argument("--base", help="folder of its converted language model, if moved")
    options.add_argument(
        "--pixel_size", type=_above_zero, help="nm per pixel of the file, if it does not say"
    )
    options.add_argument(
        "--magnification", type=_above_zero, help="such as 25000, if the file does not say"
    )
    options.add_argument("--detailed", action="store_true", help="ask for a longer answer")
    options.add_argument(
        "--probability", action="store_true",
        help="say on stderr how likely the answer is right; for questions about a single fact",
    )  # fmt: skip
    options.add_argument(
        "--temperature", type=_temperature, default=0.0, help="0 (default): greedy"
    )
    options.add_argument(
        "--top_p", type=_share, default=1.0, help="probability mass to sample from (default 1)"
    )
    options.add_argument("--seed", type=_seed, default=0, help="seed for sampling")
    options.add_argument("--rank", type=int, help="rank of the adapters (default: the largest)")
    options.add_argument("--max_tokens", type=_count, default=96, help="length limit (default 96)")
    return options


def _text(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text.strip()


def _number(text: str, holds, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not holds(value):
        raise argparse.ArgumentTypeError(f"must be {what}, is {text!r}")
    return value


def _above_zero(text: str) -> float:
    return _number(text, lambda x: 0 < x < float("inf"), "a number above 0")


def _temperature(text: str) -> float:
    # Logits are float32: beyond these bounds they overflow, or all tokens are equally likely.
    return _number(text, lambda x: x == 0 or 0.001 <= x <= 1000, "0, or 0.001 to 1000")


def _share(text: str) -> float:
    return _number(text, lambda x: 0 < x <= 1, "above 0 and at most 1")


def _count(text: str) -> int:
    words = "a whole number from 1 to 100,000"
    return int(_number(text, lambda x: 1 <= x <= 100_000 and x == int(x), words))


def _seed(text: str) -> int:
    try:
        seed = int(text)
    except ValueError:
        seed = -1
    if not 0 <= seed < 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2**32 - 1, is {text!r}")
    return seed


if __name__ == "__main__":
    main()
