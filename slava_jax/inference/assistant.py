"""A trained assistant: answers questions about images."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerFast

from slava_jax import files, hosts
from slava_jax.checkpoint import (
    CheckpointError,
    content_hash,
    load_tree,
    save_tree,
)
from slava_jax.convert.pretrained import is_converted, part_place
from slava_jax.data.chat import Message, TextForm, encode_answers, encode_prompt, user_text
from slava_jax.data.collate import prompt_part, text_fields
from slava_jax.data.images import read_image, read_width
from slava_jax.data.scale import check_scale, read_scale
from slava_jax.data.tokenizer import decode_text, load_tokenizer, save_tokenizer
from slava_jax.data.units import Scale, to_shares, to_units
from slava_jax.eval.calibration import Calibration
from slava_jax.inference import decode, description
from slava_jax.models.interface import Prompt, VisionLanguageModel
from slava_jax.nn.adapters import joined, split_frozen

MODEL = "assistant/model"  # below a work directory
# Folders below MODEL. The adapters are everything trained, and everything frozen except the base.
_ADAPTERS, _BASE, _TOKENIZER = "adapters", "base", "tokenizer"
CALIBRATION = "calibration.json"  # written after the evaluation
# Beside MODEL, which may be given away: the path of the base, if it is elsewhere.
_PLACE = "base_place.txt"


@dataclasses.dataclass(frozen=True)
class Answer:
    """What an assistant says.

    Attributes:
      probability: that it is right, for a question about a single fact: among the validation
        questions with such a likelihood, this share was answered rightly. None if unknown.
    """

    text: str
    probability: float | None = None


@dataclasses.dataclass(frozen=True)
class Assistant:
    """A model, its weights and its tokenizer.

    Attributes:
      variables: the collections `params` and `frozen`.
      class_names: the classes it was trained on.
      crop_bar: whether the data bar is cropped from images, as in training.
      calibration: from the likelihood of an answer to the probability that it is right; None if
        its answers could not be compared with a ground truth.
    """

    model: VisionLanguageModel
    variables: dict
    tokenizer: PreTrainedTokenizerFast
    class_names: tuple[str, ...] = ()
    crop_bar: bool = False
    calibration: Calibration | None = None

    @property
    def rank(self) -> int:
        """The largest adapter rank, the default for inference."""
        return self.model.adapter.r_max if self.model.adapter else 0

    @property
    def form(self) -> TextForm:
        """The text format of its model."""
        return self.model.text_form(self.tokenizer.eos_token_id)

    @property
    def base(self) -> dict:
        """The frozen language model without its adapters: arrays that assistants can share.

        Empty if the language model itself was trained.
        """
        return split_frozen(self.variables["frozen"])[0]

    @functools.cached_property
    def base_hash(self) -> str:
        """SHA-256 of `base` (checkpoint.content_hash)."""
        return content_hash(self.base)

    def prompt(self, batch: dict) -> Prompt:
        """The prompts of an assistant batch or of one from `prompts`, without answers."""
        return Prompt(batch["images"], **prompt_part(batch))

    def answers(self, batch: dict, max_tokens: int, **sampling) -> list[str]:
        """One answer per prompt of a batch; arguments and errors as of `scored_answers`."""
        return self.scored_answers(batch, max_tokens, **sampling)[0]

    def scored_answers(
        self,
        batch: dict,
        max_tokens: int,
        rank: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> tuple[list[str], np.ndarray]:
        """One answer per prompt of a batch, at most `max_tokens` long; greedy by default.

        Returns:
          (answers, log_p): the log-likelihood of each answer in nats, float32[B].

        Raises:
          ValueError: `temperature` below 0, `top_p` outside (0, 1], or (in every method that takes
            one) a rank that the adapters do not have.
        """
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or more, got {temperature}")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")
        rank = self._rank(rank)
        state = decode.prefill(
            self.model, self.variables, self.prompt(batch), rank, room=max_tokens
        )
        tokens, log_p = decode.generate(
            self.model, self.variables, state, rank, jax.random.key(seed),
            stop=self.form.end_id, length=max_tokens, temperature=temperature, top_p=top_p,
        )  # fmt: skip
        return [self._text(row) for row in np.asarray(tokens)], np.asarray(log_p)

    def _text(self, ids: np.ndarray) -> str:
        ends = np.flatnonzero(ids == self.form.end_id)
        return decode_text(self.tokenizer, ids[: ends[0]] if len(ends) else ids).strip()

    def candidate_scores(
        self, batch: dict, candidates: Sequence[str], rank: int | None = None
    ) -> np.ndarray:
        """float32[B, candidates]: sum of log p of each answer and its end (docs/paper.md)."""
        answers, weights = self._candidates(tuple(candidates))
        rank = self._rank(rank)
        state = decode.prefill(
            self.model, self.variables, self.prompt(batch), rank, room=answers.shape[1]
        )
        scores = decode.answer_log_probs(self.model, self.variables, state, rank, answers, weights)
        return np.asarray(scores)

    def prompts(self, images: Sequence[Sequence[np.ndarray]], questions: Sequence[str]) -> dict:
        """A batch of prompts.

        Args:
          images: the images of each question in order, uint8[P, P, channels] each (see `read`);
            the question is about the last one.
          questions: with one `<image>` per image at its place, or none; images then come first.

        Raises:
          ChatError: a question has `<image>` tokens, but not one for each of its images.
        """
        encoded = [
            encode_prompt(
                (Message("user", user_text(question, images=len(of))),),
                self.tokenizer, self.form, len(of),
            )
            for question, of in zip(questions, images, strict=True)
        ]  # fmt: skip
        ids, spans = zip(*encoded, strict=True)
        # Few lengths, so that few shapes are compiled.
        length = -(-max(map(len, ids)) // 32) * 32
        most = max(len(of) for of in images)
        pixels = np.zeros((len(images), most, *images[0][0].shape), np.uint8)
        for row, of in zip(pixels, images, strict=True):
            row[: len(of)] = of
        return {"images": pixels, **text_fields(ids, spans, length)}

    def read(self, path: str | Path) -> np.ndarray:
        """Reads an image file for the vision encoder (data.images.read_image).

        Raises:
          ImageError: the file cannot be read; names it.
        """
        vit = self.model.config.vit
        return read_image(path, vit.image_size, vit.channels, crop_bar=self.crop_bar)

    def ask(
        self,
        paths: str | Path | Sequence[str | Path],
        question: str,
        pixel_size: float | None = None,
        magnification: float | None = None,
        **sampling,
    ) -> str:
        """Answers one question about one or more image files; `sampling` as in `scored_answers`.

        With several images the question is about the last one (see `prompts`).

        Args:
          pixel_size: nm per pixel of that file; by default what its metadata says. Without either,
            lengths are answered in percent of the image's width.
          magnification: the same for the magnification, which is not mentioned if unknown.

        Raises:
          ImageError: a file cannot be read; names it. ScaleError: a scale no microscope has.
        """
        return self.answer(paths, question, pixel_size, magnification, **sampling).text

    def answer(
        self,
        paths: str | Path | Sequence[str | Path],
        question: str,
        pixel_size: float | None = None,
        magnification: float | None = None,
        **sampling,
    ) -> Answer:
        """As `ask`, with the probability that the answer is right."""
        paths = [paths] if isinstance(paths, str | Path) else paths
        images = [self.read(path) for path in paths]
        scale = _scale(Path(paths[-1]), pixel_size, magnification)
        batch = self.prompts([images], [to_shares(question, scale)])
        texts, log_p = self.scored_answers(batch, **{"max_tokens": 96, **sampling})
        probability = None if self.calibration is None else float(self.calibration(log_p)[0])
        return Answer(to_units(texts[0], scale), probability)

    def _rank(self, rank: int | None):
        if rank is None:
            return jnp.int32(self.rank)
        if not min(1, self.rank) <= rank <= self.rank:
            raise ValueError(f"rank {rank}: must be 1 to {self.rank} for this assistant's adapters")
        return jnp.int32(rank)

    def _candidates(self, texts: tuple[str, ...]):
        """Answers int32[candidates, U], each with its end token, and their weights."""
        rows = encode_answers(texts, self.tokenizer, self.form)
        shape = (len(rows), max(map(len, rows)))
        answers, weights = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        for i, row in enumerate(rows):
            answers[i, : len(row)], weights[i, : len(row)] = row, 1
        return answers, weights


def _scale(path: Path, pixel_size: float | None, magnification: float | None) -> Scale:
    known = read_scale(path)
    if pixel_size is not None:
        known["nm_per_pixel"] = check_scale("nm_per_pixel", pixel_size, "pixel_size")
    if magnification is not None:
        known["magnification"] = check_scale("magnification", magnification, "magnification")
    return Scale(known.get("nm_per_pixel"), read_width(path), known.get("magnification"))


def load_assistant(
    path: str | Path, base: str | Path | None = None, sharing: Assistant | None = None
) -> Assistant:
    """Loads the assistant from a run's work directory or from a copied folder.

    Args:
      path: the work directory, or its folder assistant/model.
      base: converted weights (docs/convert.md) with the frozen language model, if it is neither in
        the folder nor at its original place.
      sharing: an assistant whose frozen language model is shared without a copy; instead of `base`.

    Raises:
      CheckpointError: there is no assistant, it is incomplete, its arrays do not match its config,
        or the frozen language model is not the one it was trained on.
      TokenizerError: its tokenizer is missing or damaged. ValueError: both `base` and `sharing`.
    """
    if base is not None and sharing is not None:
        raise ValueError("base and sharing both set the language model: give only one")
    folder = _folder(Path(path))
    facts = description.read(folder / _ADAPTERS)
    config = facts["config"]
    tokenizer = load_tokenizer(folder / _TOKENIZER, beside=folder / _ADAPTERS)
    model, shapes = description.model(folder / _ADAPTERS, config, len(tokenizer))
    base_shapes, own = split_frozen(shapes["frozen"])
    held, _ = load_tree(folder / _ADAPTERS, {"params": shapes["params"], "frozen": own})
    if sharing is not None:
        shared, found, place = sharing.base, sharing.base_hash, "that of the shared assistant"
    else:
        place = _base_place(folder, facts["base"], base)
        shared, _ = load_tree(place, base_shapes)
        found = content_hash(shared)
    if found != facts["base"]["sha256"]:
        raise CheckpointError(
            f"{folder}: the adapters were trained on the frozen language model with SHA-256 "
            f"{facts['base']['sha256']}, but {place} has {found}; use the one they were trained on"
        )
    variables = {"params": held["params"], "frozen": joined(shared, held["frozen"])}
    crop_bar = bool(config["data"].get("crop_bar"))  # missing in older configs
    calibrated, calibration = folder / CALIBRATION, None
    if calibrated.is_file():
        calibration = Calibration.read(calibrated, beside=folder / _ADAPTERS)
    names = tuple(facts["class_names"])
    return Assistant(model, variables, tokenizer, names, crop_bar, calibration)


def _folder(path: Path) -> Path:
    for folder in (path, path / MODEL):
        if (folder / _ADAPTERS).is_dir():
            return folder
    if (path / MODEL).is_dir():
        raise CheckpointError(
            f"{path / MODEL}: incomplete, or written by an older slava_jax; run the training "
            "command again to rewrite it (finished stages are not repeated)"
        )
    if (path / "config.json").is_file():
        raise CheckpointError(
            f"{path}: the run is not finished; repeat its training command to resume it"
        )
    raise CheckpointError(
        f"{path}: no trained assistant here (no {path / MODEL}); train one with "
        "slava train --config configs/quickstart.py --workdir DIR"
    )


def _base_place(folder: Path, held: dict, asked: str | Path | None) -> Path:
    """The checkpoint of the frozen language model."""
    if asked is None and held.get("name") is None and held.get("place") is None:
        return folder / _BASE
    noted = folder.parent / _PLACE
    place = asked or held.get("place")  # older versions stored it in the folder
    if place is None and noted.is_file():
        place = noted.read_text(encoding="utf-8", errors="replace").strip()
    if place is None or not is_converted(place):
        raise CheckpointError(
            f"{folder}: its frozen language model is not in {place or 'this folder'}; give the "
            "folder of the converted weights (--base DIR, or load_assistant(..., base=DIR))"
        )
    return part_place(place, "language_model")


def save_assistant(
    assistant: Assistant,
    config: ConfigDict,
    workdir: str | Path,
    base_place: str | Path | None = None,
) -> None:
    """Writes the folder that `load_assistant` reads; it is self-contained and can be copied.

    Args:
      base_place: converted weights with exactly this frozen language model. The folder has only
        their hash then and is not self-contained; their path is noted beside it.

    Raises:
      CheckpointError: there is one already, or the disk is full. An unfinished folder is not taken
        for an assistant, because `adapters` is written last.
    """
    folder = Path(workdir) / MODEL
    base, own = split_frozen(assistant.variables["frozen"])
    if hosts.is_first() and not has_assistant(workdir):
        shutil.rmtree(folder, ignore_errors=True)  # leftovers of an interrupted run
        try:
            save_tokenizer(assistant.tokenizer, folder / _TOKENIZER)
            if base_place is not None:
                files.write_text(folder.parent / _PLACE, f"{Path(base_place).absolute()}\n")
        except OSError as error:
            raise CheckpointError(f"{folder}: cannot be written: {error}") from error
    hosts.barrier()  # so that no other host writes before leftovers are removed
    name = None if base_place is None else Path(base_place).absolute().name
    facts = {
        "config": json.dumps(files.without_places(json.loads(config.to_json()))),
        "lengths": description.LENGTHS,
        "class_names": list(assistant.class_names),
        "base": {"sha256": assistant.base_hash, "name": name},
    }
    if name is None and not has_assistant(workdir):
        save_tree(folder / _BASE, base, {})
    adapters = {"params": assistant.variables["params"], "frozen": own}
    save_tree(folder / _ADAPTERS, adapters, facts)


def has_assistant(workdir: str | Path) -> bool:
    """Whether `save_assistant` finished for a work directory."""
    return (Path(workdir) / MODEL / _ADAPTERS).is_dir()
