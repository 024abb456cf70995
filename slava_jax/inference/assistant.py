"""A trained assistant: images and questions in, answers out."""

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

from slava_jax import hosts
from slava_jax.checkpoint import (
    CheckpointError,
    content_hash,
    load_facts,
    load_tree,
    save_tree,
)
from slava_jax.convert.pretrained import WEIGHTS
from slava_jax.data.collate import pad_prompts
from slava_jax.data.images import read_image
from slava_jax.data.prompts import encode_prompt
from slava_jax.data.tokenizer import (
    decode_text,
    encode_texts,
    load_tokenizer,
    save_tokenizer,
    special_tokens,
)
from slava_jax.inference import decode
from slava_jax.models.presets import model_config
from slava_jax.models.slava import Memory, Prompt, Slava, split_frozen
from slava_jax.nn.adapters import AdapterCall, joined
from slava_jax.nn.attention import HIDDEN

MODEL = "assistant/model"  # below a work directory
# Below that. The adapters are everything that was trained, and what is frozen beside the Llama.
_ADAPTERS, _BASE, _TOKENIZER = "adapters", "base", "tokenizer"
# 256 MiB: a hundred classes and a Llama's vocabulary would make 4 GB.
_LOGITS_AT_ONCE = 2**26


@dataclasses.dataclass(frozen=True)
class Assistant:
    """A model, its weights and its tokenizer.

    Attributes:
      variables: the collections `params` and `frozen`.
      class_names: what it was trained to tell apart.
      crop_bar: it was trained on images without their data bar, and is shown them so.
    """

    model: Slava
    variables: dict
    tokenizer: PreTrainedTokenizerFast
    class_names: tuple[str, ...] = ()
    crop_bar: bool = False

    @property
    def rank(self) -> int:
        """The largest adapter rank, which inference uses unless asked otherwise."""
        adapter = self.model.config.adapter
        return adapter.r_max if adapter else 0

    @property
    def base(self) -> dict:
        """The frozen Llama without its adapters: the same arrays, which others may share."""
        return split_frozen(self.variables["frozen"])[0]

    @functools.cached_property
    def base_hash(self) -> str:
        """SHA-256 of `base` (checkpoint.content_hash)."""
        return content_hash(self.base)

    def remember(self, batch: dict, rank: int | None = None) -> Memory:
        """Reads prompts: the decoder's memory of an assistant batch or one of `prompts`.

        Raises ValueError, as every method that takes one, for a rank that the adapters lack.
        """
        return decode.encode(self.model, self.variables, as_prompt(batch), self._rank(rank))

    def answers(
        self,
        memory: Memory,
        max_tokens: int,
        rank: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[str]:
        """One answer for each prompt remembered, at most `max_tokens` long; greedy by default.

        Raises ValueError for a `temperature` below 0, or a `top_p` outside of (0, 1].
        """
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or more, got {temperature}")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")
        special = special_tokens(self.tokenizer)
        tokens = decode.generate(
            self.model, self.variables, memory, self._rank(rank), jax.random.key(seed),
            start=special.decode, stop=special.eos, length=max_tokens,
            temperature=temperature, top_p=top_p,
        )  # fmt: skip
        return [decode_text(self.tokenizer, row) for row in np.asarray(tokens)]

    def candidate_scores(
        self, memory: Memory, candidates: Sequence[str], rank: int | None = None
    ) -> np.ndarray:
        """float32[B, M]: sum of log p over each candidate answer and `<EOS>` (docs/paper.md)."""
        arrays = self._candidates(tuple(candidates))
        rank, tokens = self._rank(rank), len(memory.values) * arrays[0].shape[1]
        at_once = max(1, _LOGITS_AT_ONCE // (tokens * len(self.tokenizer)))
        scores = [
            decode.answer_log_probs(
                self.model, self.variables, memory, rank, *(a[i : i + at_once] for a in arrays)
            )
            for i in range(0, len(candidates), at_once)
        ]
        return np.concatenate(scores, axis=1)

    def prompts(
        self, images: Sequence[Sequence[np.ndarray]], questions: Sequence[str], supplement: str = ""
    ) -> dict:
        """A batch of prompts.

        Args:
          images: uint8[S, S, channels] each (see `read`), those of each question in its order;
            the last one is asked about.
          questions: with one `<image>` where each image stands, or none: they come first then.
          supplement: pixel size and magnification as text, where known.

        Raises:
          PromptError: a question has `<image>` tokens, but not one for each of its images.
        """
        rows = [
            encode_prompt(question, supplement, len(shown), self.tokenizer)
            for question, shown in zip(questions, images, strict=True)
        ]
        # A few lengths only, so that a few shapes are compiled.
        length = -(-max(len(row) for row in rows) // 32) * 32
        batch = pad_prompts(rows, special_tokens(self.tokenizer), length)
        most = max(len(shown) for shown in images)
        pixels = np.zeros((len(images), most, *images[0][0].shape), np.uint8)
        for row, shown in zip(pixels, images, strict=True):
            row[: len(shown)] = shown
        return {"images": pixels, **batch}

    def read(self, path: str | Path) -> np.ndarray:
        """An image file as the vision encoder wants it. Raises ImageError, naming the file."""
        vit = self.model.config.vit
        return read_image(path, vit.image_size, vit.channels, crop_bar=self.crop_bar)

    def ask(
        self,
        paths: str | Path | Sequence[str | Path],
        question: str,
        supplement: str = "",
        **sampling,
    ) -> str:
        """The answer to one question about one image file, or several; `sampling` as in `answers`.

        Of several the last one is asked about (see `prompts`).
        """
        paths = [paths] if isinstance(paths, str | Path) else paths
        images = [self.read(path) for path in paths]
        memory = self.remember(self.prompts([images], [question], supplement))
        return self.answers(memory, **{"max_tokens": 96, **sampling})[0]

    def _rank(self, rank: int | None):
        if rank is None:
            return jnp.int32(self.rank)
        if not min(1, self.rank) <= rank <= self.rank:
            raise ValueError(f"rank {rank}: this assistant's adapters have ranks 1 to {self.rank}")
        return jnp.int32(rank)

    def _candidates(self, texts: tuple[str, ...]):
        special = special_tokens(self.tokenizer)
        rows = encode_texts(self.tokenizer, texts)
        width = max(len(row) for row in rows) + 1
        shape = (len(rows), width)
        decoder_in, targets = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        weights = np.zeros(shape, np.float32)
        for i, row in enumerate(rows):
            decoder_in[i, : len(row) + 1] = [special.decode, *row]
            targets[i, : len(row) + 1] = [*row, special.eos]
            weights[i, : len(row) + 1] = 1
        return decoder_in, targets, weights


def as_prompt(batch: dict) -> Prompt:
    """The prompts of a batch, without the answers that stand behind them in a training batch.

    Texts that are all the same, as when one question is put to a folder of images, become one row.
    """
    asked = batch["order"] <= batch["encode_at"][:, :1]
    tokens, order = np.where(asked, batch["tokens"], 0), np.where(asked, batch["order"], HIDDEN)
    rows = slice(1 if (tokens == tokens[0]).all() and (order == order[0]).all() else None)
    return Prompt(
        batch["images"], tokens[rows], order[rows], batch["images_before"], batch["encode_at"][:, 0]
    )


def load_assistant(
    path: str | Path, base: str | Path | None = None, beside: Assistant | None = None
) -> Assistant:
    """The assistant that a run left in its work directory, or in a folder copied from it.

    Args:
      path: the work directory, or its folder assistant/model.
      base: converted weights (docs/convert.md) to take the frozen Llama from, where it is neither
        in the folder nor where it was.
      beside: an assistant whose frozen Llama this one shall share, without a copy; instead of
        `base`.

    Raises:
      CheckpointError: there is none, it is not whole, its arrays are not of its config, or the
        frozen Llama is not the one that it was trained on.
      TokenizerError: its tokenizer is gone or damaged. ValueError: both `base` and `beside`.
    """
    if base is not None and beside is not None:
        raise ValueError("base and beside both say where the frozen Llama is from: give one")
    folder = _folder(Path(path))
    facts = load_facts(folder / _ADAPTERS)
    config = ConfigDict(json.loads(facts["config"]))
    tokenizer = load_tokenizer(folder / _TOKENIZER)
    model = Slava(model_config(config, len(tokenizer)), jnp.dtype(config.dtype))
    shapes = _variable_shapes(model)
    base_shapes, own = split_frozen(shapes["frozen"])
    held, _ = load_tree(folder / _ADAPTERS, {"params": shapes["params"], "frozen": own})
    if beside is not None:
        shared, found, place = beside.base, beside.base_hash, "that of the assistant beside it"
    else:
        place = _base_place(folder, facts["base"]["place"], base)
        shared, _ = load_tree(place, base_shapes)
        found = content_hash(shared)
    if found != facts["base"]["sha256"]:
        raise CheckpointError(
            f"{folder}: its adapters were trained on the frozen Llama of SHA-256 "
            f"{facts['base']['sha256']}, but {place} is {found}: give the right one"
        )
    variables = {"params": held["params"], "frozen": joined(shared, held["frozen"])}
    crop_bar = config.data.get("crop_bar", False)  # not there before there was the option
    return Assistant(model, variables, tokenizer, tuple(facts["class_names"]), crop_bar)


def _folder(path: Path) -> Path:
    for folder in (path, path / MODEL):
        if (folder / _ADAPTERS).is_dir():
            return folder
    if (path / MODEL).is_dir():
        raise CheckpointError(
            f"{path / MODEL}: cut short, or written by an older slava_jax; the command of its run "
            "writes it anew and repeats no stage that is done"
        )
    raise CheckpointError(
        f"{path}: no trained assistant here (no {path / MODEL}); train one with "
        "python -m slava_jax.main --config configs/quickstart.py --workdir DIR"
    )


def _base_place(folder: Path, stored: str | None, asked: str | Path | None) -> Path:
    """The checkpoint of the frozen Llama."""
    if asked is None and stored is None:
        return folder / _BASE
    place = Path(asked or stored)
    if not (place / WEIGHTS).is_dir():
        raise CheckpointError(
            f"{folder}: its frozen Llama is not in {place}; say where the converted weights are "
            "(--base DIR, or load_assistant(..., base=DIR))"
        )
    return place / WEIGHTS


def _variable_shapes(model: Slava) -> dict:
    """The collections of a model as `jax.ShapeDtypeStruct`s."""
    vit = model.config.vit
    side, numbers = vit.image_size, jnp.zeros((1, 2), jnp.int32)
    batch = {
        "images": jnp.zeros((1, 1, side, side, vit.channels), jnp.uint8),
        **dict.fromkeys(("tokens", "order", "images_before", "encode_at", "decoder_in"), numbers),
        **dict.fromkeys(("target_image", "wrong_offset"), jnp.zeros(1, jnp.int32)),
    }
    return jax.eval_shape(model.init, jax.random.key(0), batch, AdapterCall(jnp.int32(1)))


def save_assistant(
    assistant: Assistant,
    config: ConfigDict,
    workdir: str | Path,
    base_place: str | Path | None = None,
) -> None:
    """Writes what `load_assistant` reads: one folder that can be copied and holds all it needs.

    Args:
      base_place: converted weights in which the frozen Llama lies exactly as the assistant holds
        it. It is not written again then; its place and hash are.

    Raises:
      CheckpointError: there is one already, or the disk is full. Nothing is taken for an assistant
        then: `adapters`, which comes last, is not there.
    """
    folder = Path(workdir) / MODEL
    base, own = split_frozen(assistant.variables["frozen"])
    if hosts.is_first() and not has_assistant(workdir):
        shutil.rmtree(folder, ignore_errors=True)  # what a kill left
        try:
            save_tokenizer(assistant.tokenizer, folder / _TOKENIZER)
        except OSError as error:
            raise CheckpointError(f"{folder}: could not be written: {error}") from error
    hosts.meet()  # before others write beside it, or take what a kill left for there already
    place = None if base_place is None else str(Path(base_place).absolute())
    facts = {
        "config": config.to_json(),
        "class_names": list(assistant.class_names),
        "base": {"sha256": assistant.base_hash, "place": place},
    }
    if place is None and not has_assistant(workdir):
        save_tree(folder / _BASE, base, {})
    adapters = {"params": assistant.variables["params"], "frozen": own}
    save_tree(folder / _ADAPTERS, adapters, facts)


def has_assistant(workdir: str | Path) -> bool:
    """Whether `save_assistant` was through with a work directory."""
    return (Path(workdir) / MODEL / _ADAPTERS).is_dir()
