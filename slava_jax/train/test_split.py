"""The test split as used by every control of the evaluation, and an assistant's results on it."""

import copy
import dataclasses
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy.special import logsumexp

from slava_jax.data.assistant_batches import AssistantEvaluation
from slava_jax.data.assistant_data import AssistantData
from slava_jax.data.images import UPRIGHT
from slava_jax.data.instructions import Instruction
from slava_jax.data.pipeline import SymmetricView
from slava_jax.data.units import Scale, to_units
from slava_jax.eval import tasks
from slava_jax.inference import decode
from slava_jax.inference.assistant import Assistant
from slava_jax.synthetic.phrases import readable
from slava_jax.teacher.multi_image import CHALLENGES, FEW_SHOT, PERMUTED
from slava_jax.train.datasets import Datasets, scale_of
from slava_jax.train.recipes import model_batch
from slava_jax.train.stages import assistant_data


@dataclasses.dataclass(frozen=True)
class TestSplit:
    """The instructions to ask, and the mismatched images.

    Attributes:
      answers: the class names as worded in answers.
      class_rows, caption_rows, vqa_rows: instructions by task, without the following ones.
      challenge_rows: {one of multi_image.CHALLENGES: instructions}, without empty ones.
      few_shot_rows, permuted_rows: {number of examples: instructions}, for the images of
        `class_rows` in the same order.
      mismatched: for each instruction a target image of another category.
    """

    __test__ = False  # else pytest would collect it

    config: ConfigDict
    data: AssistantData
    answers: list[str]
    class_rows: np.ndarray
    caption_rows: np.ndarray
    vqa_rows: np.ndarray
    challenge_rows: dict[str, np.ndarray]
    few_shot_rows: dict[int, np.ndarray]
    permuted_rows: dict[int, np.ndarray]
    mismatched: np.ndarray

    @classmethod
    def of(cls, config: ConfigDict, datasets: Datasets) -> "TestSplit":
        """Chooses the instructions, at most as many of each kind as `config.evaluation` allows."""
        c, data = config.evaluation, assistant_data(config, datasets, datasets.test)
        items = data.instructions
        names = datasets.class_answers
        rows_of: dict = {}
        for row, label in enumerate(data.images.labels[data.targets].tolist()):
            rows_of.setdefault(_kind(items[row], names[label]), []).append(row)

        def some(kind, most):
            rows = np.asarray(rows_of.get(kind, ()), int)
            chosen = np.random.default_rng(config.seed).permutation(rows)[:most]
            return np.sort(chosen)

        class_rows = some("classification", c.classification)

        def same_images(kind):
            asked = {int(data.targets[row]): row for row in rows_of[kind]}
            return np.asarray([asked[image] for image in data.targets[class_rows].tolist()], int)

        challenges = {kind: some((kind, None), c.several) for kind in CHALLENGES}
        return cls(
            config, data, datasets.class_answers, class_rows,
            some("caption", c.captions), some("vqa", c.answers),
            {kind: rows for kind, rows in challenges.items() if len(rows)},
            {n: same_images((FEW_SHOT, n)) for n in sorted(config.data.shots)},
            {n: same_images((PERMUTED, n)) for n in sorted(config.data.shots)},
            data.mismatched(config.seed),
        )  # fmt: skip

    @property
    def scored_rows(self) -> np.ndarray:
        """Instructions whose loss and match are evaluated."""
        few = (rows[: self.config.evaluation.several] for rows in self.few_shot_rows.values())
        several = (*self.challenge_rows.values(), *few)
        return np.concatenate([self.class_rows, self.caption_rows, self.vqa_rows, *several])

    @property
    def text_rows(self) -> dict[str, np.ndarray]:
        """{task or challenge: instructions}, for answers that are compared as texts."""
        rows = {"caption": self.caption_rows, "vqa": self.vqa_rows, **self.challenge_rows}
        return {task: chosen for task, chosen in rows.items() if len(chosen)}

    @property
    def told_rows(self) -> np.ndarray:
        """The questions with the longest answers: VQA, else captions, else the class."""
        return next(r for r in (self.vqa_rows, self.caption_rows, self.class_rows) if len(r))

    def batches(self, rows, shown=None, symmetry=UPRIGHT) -> Iterator[dict]:
        """Batches of these instructions, with `shown` instead of the target images."""
        c, data = self.config.evaluation, copy.copy(self.data)
        data.cache = SymmetricView(data.cache, symmetry)
        source = AssistantEvaluation(
            data, c.batch_size, c.pair_block, self.config.seed, rows, shown
        )
        return (source[i] for i in range(len(source)))

    def labels(self, rows) -> np.ndarray:
        """int32[n], class of each target image."""
        return self.data.images.labels[self.data.targets[rows]]

    def truths(self, rows) -> list[str]:
        """The true answers."""
        return [self.data.instructions[i].answer for i in rows]


def _kind(item: Instruction, class_answer: str):
    """The task; for generated multi-image questions, the question type and number of examples."""
    # A user's own questions about several images count under their task.
    if item.question_type in (FEW_SHOT, PERMUTED, *CHALLENGES):
        return item.question_type, item.metadata.get("shots")
    # A classification question with another answer than the class cannot be scored against the
    # class names. Every image also has one that asks for the class.
    other = item.question_type != "class" and _plain(item.answer) != _plain(class_answer)
    return "vqa" if item.task == "classification" and other else item.task


def _plain(answer: str) -> str:
    return readable(answer).rstrip(".").casefold()


def class_scores(
    assistant: Assistant, test: TestSplit, rows, shown=None, rank=None, views=(UPRIGHT,)
) -> np.ndarray:
    """Log p of each class name as the answer, float32[n, classes], in the order of `rows`.

    p is the mean over `views`, the symmetries under which each image is shown.
    """
    scores = np.zeros((len(views), len(test.data), len(test.answers)), np.float32)
    for of_view, symmetry in zip(scores, views, strict=True):
        for batch in test.batches(rows, shown, symmetry):
            got = assistant.candidate_scores(batch, test.answers, rank)
            real = batch["index"] >= 0
            of_view[batch["index"][real]] = got[real]
    return log_mean(scores[:, rows])


def log_mean(log_p: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Log of the mean probability over views, each float32[n, classes]."""
    return logsumexp(log_p, axis=0, b=1 / len(log_p)).astype(np.float32)


def losses(assistant: Assistant, test: TestSplit, rows, shown=None, rank=None) -> tasks.Losses:
    """Answer losses and match logits, in no particular order."""
    parts: dict[str, list] = {}
    index = []
    rank = jnp.int32(assistant.rank if rank is None else rank)
    for batch in test.batches(rows, shown):
        inputs = model_batch(assistant.model, batch)
        got = decode.score_batch(assistant.model, assistant.variables, inputs, rank)
        real = batch["index"] >= 0
        if assistant.model.matches:
            got["paired"] = batch["mismatch_weight"] > 0
        for name, values in got.items():
            parts.setdefault(name, []).append(np.asarray(values)[real])
        index.append(batch["index"][real])
    columns = {name: np.concatenate(values) for name, values in parts.items()}
    types = [test.data.instructions[i].question_type for i in np.concatenate(index)]
    return tasks.Losses(types, **columns)


def written(
    assistant: Assistant, test: TestSplit, rows, shown=None, scale: Scale | None = None
) -> list[str]:
    """Generated answers in the order of `rows`, with units.

    `scale`: that of every image; by default what is known of each target image, whichever image is
    shown.
    """
    return scored_texts(assistant, test, rows, shown, scale)[0]


def scored_texts(
    assistant: Assistant, test: TestSplit, rows, shown=None, scale: Scale | None = None
) -> tuple[list[str], np.ndarray]:
    """As `written`, and the log-likelihood of each answer, float32[n]."""
    # Every question gets the longest answer length. With the length of its own true answer, a
    # verbose answer would be truncated in its favour.
    length = max(answer for _, answer, _ in test.config.assistant.buckets)
    answers, log_p = {}, {}
    for batch in test.batches(rows, shown):
        index = batch["index"].tolist()
        texts, likelihoods = assistant.scored_answers(batch, length)
        answers.update(zip(index, texts, strict=True))
        log_p.update(zip(index, likelihoods.tolist(), strict=True))
    data, rows = test.data, rows.tolist()
    scales = (scale or scale_of(data.images, data.instructions[row]) for row in rows)
    texts = [to_units(answers[r], s) for r, s in zip(rows, scales, strict=True)]
    return texts, np.asarray([log_p[row] for row in rows], np.float32)
