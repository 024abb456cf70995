"""Asks an assistant for the facts of test images and scores what it says against the truth.

Only for images with a ground truth (synthetic.records). Beside the assistant and its controls
(evaluation) stand answers that see no image, the classical baseline, and the teacher's own answers,
which are the best that its wording allows.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from slava_jax.data.assistant_data import AssistantData
from slava_jax.data.chat import encode_examples
from slava_jax.data.instructions import Instruction
from slava_jax.data.units import Scale
from slava_jax.eval import truth
from slava_jax.eval.blind import blind_answers
from slava_jax.inference.assistant import Assistant
from slava_jax.synthetic.claims import claims_of
from slava_jax.synthetic.facts import ACQUISITION, round_digits
from slava_jax.synthetic.records import GroundTruth
from slava_jax.teacher import procedural as teacher
from slava_jax.train.datasets import Datasets, Split, worded_for_model
from slava_jax.train.stages import assistant_data
from slava_jax.train.test_split import TestSplit, scored_texts, written

_FEW = 20  # images with a fact below which it is not scored


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Image statistics (eval.classical) of the data set.

    Attributes:
      fitted: int[m], the training images that the classical baseline is fitted on.
      train, test: float32[m, F] and float32[n, F], of these images and of the whole test split.
    """

    fitted: np.ndarray
    train: np.ndarray
    test: np.ndarray


@dataclasses.dataclass(frozen=True)
class FactQuestions:
    """The questions about some test images.

    Attributes:
      test: the test split with these questions instead of its own.
      fact_rows: the questions about facts. caption_rows: captions of the same images.
    """

    test: TestSplit
    fact_rows: np.ndarray
    caption_rows: np.ndarray

    @classmethod
    def of(
        cls, config: ConfigDict, datasets: Datasets, test: TestSplit, split: Split | None = None
    ) -> "FactQuestions | None":
        """Asks about at most `config.evaluation.truth` images; None without any ground truth.

        `split`: the one of these images; by default the test split.
        """
        split = split or datasets.test
        asked, captions = _questions(config, split)
        if not asked:
            return None
        rows = np.split(np.arange(len(asked) + len(captions)), [len(asked)])
        data = _data(config, datasets, split, asked + captions)
        test = dataclasses.replace(test, data=data, mismatched=data.mismatched(config.seed))
        return cls(test, *rows)

    def facts(self, row: int) -> dict[str, Any]:
        """The true facts of the image of a question."""
        data = self.test.data
        return data.images.facts[data.targets[row]]

    def asked_for(self, fact: str) -> list[int]:
        """The places within `fact_rows` of the questions for a fact that the image has."""
        items = self.test.data.instructions
        return [
            place
            for place, row in enumerate(self.fact_rows.tolist())
            if fact in items[row].metadata["asked"] and fact in self.facts(row)
        ]

    @property
    def places(self) -> dict[str, list[int]]:
        """{fact: its places}, of the facts that any image has."""
        places = {fact: self.asked_for(fact) for fact in (*truth.NUMBERS, *truth.WORDS)}
        return {fact: rows for fact, rows in places.items() if rows}

    def enough(self, places: Sequence[int]) -> bool:
        """Whether so many images are enough to score a fact."""
        return len(places) > min(_FEW, len(self.caption_rows) // 2)


def check_facts_fit(config: ConfigDict, datasets: Datasets) -> None:
    """Raises PipelineError if a question about a fact does not fit into the largest bucket.

    Called before training, because the buckets cannot change afterwards.
    """
    for split in (datasets.validation, datasets.test):
        asked, captions = _questions(config, split)
        if "assistant" in config.stages and asked:
            _data(config, datasets, split, asked + captions)


def _questions(config, split: Split) -> tuple[list[Instruction], list[Instruction]]:
    """Questions about the facts of the chosen images, and their captions."""
    images = split.images
    known = np.asarray([i for i, r in enumerate(images.records) if r is not None], int)
    chosen = _of_every_class(images.labels, known, config.evaluation.truth, config.seed)
    asked, captions = [], []
    for i in chosen:
        record, key = GroundTruth.from_dict(images.records[i]), images.keys[i]
        asked += teacher.fact_questions(key, record, config.seed)
        items = teacher.instructions(key, record, config.seed)
        captions.append(next(item for item in items if item.task == "caption"))
    return asked, captions


def _of_every_class(labels: np.ndarray, rows: np.ndarray, most: int, seed: int) -> list[int]:
    """At most `most` of the rows in order, drawn in turns from each class."""
    rows = np.random.default_rng(seed).permutation(rows)
    turn = np.zeros(len(rows), int)
    for label in set(labels[rows].tolist()):
        own = labels[rows] == label
        turn[own] = np.arange(own.sum())
    return sorted(rows[np.argsort(turn, kind="stable")][:most].tolist())


def _data(config, datasets: Datasets, split: Split, items: Sequence[Instruction]) -> AssistantData:
    read = worded_for_model(split.images, items)
    examples = encode_examples(read, datasets.tokenizer, datasets.form)
    split = dataclasses.replace(split, instructions=list(items), examples=examples)
    return assistant_data(config, dataclasses.replace(datasets, test=split), split)


@dataclasses.dataclass(frozen=True)
class Judged:
    """An answer to a question about a fact.

    Attributes:
      row: of the questions. log_p: the answer's log-likelihood.
    """

    row: int
    answer: str
    right: bool
    log_p: float


@dataclasses.dataclass(frozen=True)
class FactFindings:
    """What the assistant says about facts.

    Attributes:
      metrics: `truth<control>.<fact>.<score>` (eval.truth), `truth<control>.skill`, the prompt's
        numbers.
      judged: its own answers, those of facts that are scored.
    """

    metrics: dict[str, float]
    judged: list[Judged]


def check_facts(
    questions: FactQuestions,
    datasets: Datasets,
    controls: Sequence[tuple[str, Assistant, bool]],
    statistics: Statistics,
) -> FactFindings:
    """Asks the assistant and its controls for facts.

    Args:
      controls: (suffix, assistant, whether it is shown images of another category); the assistant
        itself comes first.
    """
    test, rows = questions.test, questions.fact_rows
    items = [test.data.instructions[row] for row in rows]
    answers = {
        control: scored_texts(assistant, test, rows, test.mismatched if mismatched else None)
        for control, assistant, mismatched in controls
    }
    own = answers[controls[0][0]]
    texts = {control: texts for control, (texts, _) in answers.items()}
    texts["_blind"] = blind_answers(items, datasets.train.instructions)
    texts["_teacher"] = [item.answer for item in items]
    claims = {control: [claims_of(text) for text in said] for control, said in texts.items()}
    asked: dict[str, dict[str, truth.Asked]] = {}
    images, unscored = {}, {}
    for fact, places in questions.places.items():
        known = any(fact in datasets.train.images.facts[i] for i in statistics.fitted)
        if not (known and questions.enough(places)):  # else there is nothing to guess from
            unscored[f"truth.{fact}.n"] = float(len(places))
            continue
        true = [questions.facts(rows[place]) for place in places]
        images[fact] = test.data.targets[rows[places]]
        said = {name: [read[i].get(fact) for i in places] for name, read in claims.items()}
        said |= _baselines(fact, datasets.train, true, statistics, images[fact])
        for control, values in said.items():
            told = truth.Asked([facts[fact] for facts in true], values)
            asked.setdefault(control.lstrip("_"), {})[fact] = told
    if not asked:
        return FactFindings(unscored, [])
    metrics = {
        **unscored,
        **_scored(asked, images, datasets.test.images.facts),
        **dict(_caption_metrics(questions, controls[0][1], datasets.train.instructions)),
    }
    return FactFindings(metrics, _judged(questions, *own, [*asked[""]]))


def judged_answers(questions: FactQuestions, assistant: Assistant) -> list[Judged]:
    """The assistant's answers about all facts."""
    texts, log_p = scored_texts(assistant, questions.test, questions.fact_rows)
    return _judged(questions, texts, log_p, [*questions.places])


def _judged(
    questions: FactQuestions, texts: Sequence[str], log_p: np.ndarray, facts: Sequence[str]
) -> list[Judged]:
    """Each answer once for every one of the facts that it was asked for."""
    out, claims = [], [claims_of(text) for text in texts]
    for fact in facts:
        places = questions.places[fact]
        rows = questions.fact_rows[places].tolist()
        true = [questions.facts(row)[fact] for row in rows]
        right = truth.right(fact, truth.Asked(true, [claims[i].get(fact) for i in places]))
        for place, row, is_right in zip(places, rows, right.tolist(), strict=True):
            out.append(Judged(row, texts[place], is_right, float(log_p[place])))
    return out


def _scored(asked, images, facts: Sequence[dict]) -> dict[str, float]:
    """The metrics of all controls."""
    metrics, scores = {}, {}
    for control, by_fact in asked.items():
        prefix = f"truth_{control}" if control else "truth"
        for fact, told in by_fact.items():
            found = truth.fact_scores(fact, told)
            scores.setdefault(control, {})[fact] = found["score"]
            if fact in truth.NUMBERS:
                scales = [Scale.of(facts[image]) for image in images[fact]]
                pairs = [(scale.nm_per_pixel, scale.width_nm) for scale in scales]
                found["impossible"] = truth.share_impossible(fact, told, pairs)
            metrics.update({f"{prefix}.{fact}.{name}": value for name, value in found.items()})
    for control in scores:
        name = f"truth_{control}" if control else "truth"
        metrics[f"{name}.skill"] = truth.skill(scores, control)
        metrics[f"{name}.right"] = truth.share_right(asked[control])
    gain = truth.skill_gain(asked, images, "classical")
    metrics["truth.gain_low"], metrics["truth.gain_high"] = gain
    metrics["truth.images"] = float(len(np.unique(np.concatenate(list(images.values())))))
    return {name: value for name, value in metrics.items() if not np.isnan(value)}


def _baselines(
    fact: str, train: Split, true: Sequence[dict], statistics: Statistics, images: np.ndarray
) -> dict[str, list]:
    """What is said of test images without looking, and by the classical baseline."""
    known = [facts for facts in train.images.facts if fact in facts]
    fitted = [k for k, i in enumerate(statistics.fitted) if fact in train.images.facts[i]]
    seen = [train.images.facts[statistics.fitted[k]] for k in fitted]
    pair = (statistics.train[fitted], statistics.test[images])
    return {
        "_constant": truth.blind_guesses(fact, known, true, by_class=False),
        "_class": truth.blind_guesses(fact, known, true, by_class=True),
        "_classical": truth.classical_guesses(fact, seen, true, pair),
    }


def _caption_metrics(
    questions: FactQuestions, assistant: Assistant, known: Sequence[Instruction]
) -> Iterator[tuple[str, float]]:
    """What share of a caption's statements is true, and how it states the magnification.

    `known`: the training instructions. Controls: the captions written for images of another
    category (`_shuffled`), and the most common training caption (`_blind`).
    """
    rows, data = questions.caption_rows, questions.test.data
    texts = written(assistant, questions.test, rows)
    blind = blind_answers([data.instructions[row] for row in rows], known)
    labels = data.images.labels[data.targets[rows]]
    shuffled = [texts[_of_another_class(labels, i)] for i in range(len(rows))]
    for control, said in (("", texts), ("_shuffled", shuffled), ("_blind", blind)):
        each = zip(rows, said, strict=True)
        right = np.concatenate([_statements(text, questions.facts(row)) for row, text in each])
        if len(right):
            yield f"truth_captions{control}.right", float(right.mean())
            yield f"truth_captions{control}.n", float(len(right))
    given = [round_digits(questions.facts(row)["magnification"]) for row in rows]
    withheld = written(assistant, questions.test, rows, scale=Scale())
    for name, said in (("given", texts), ("withheld", withheld)):
        stated = [claims_of(text).get("magnification") for text in said]
        for what, value in truth.copied(stated, given):
            yield f"truth.magnification_{name}.{what}", value


def _of_another_class(labels: np.ndarray, i: int) -> int:
    """The next row after i with another label; i itself if there is none."""
    after = np.roll(np.arange(len(labels)), -i)
    return int(next((j for j in after if labels[j] != labels[i]), i))


def _statements(text: str, facts: dict[str, Any]) -> np.ndarray:
    """bool[m]: which of a text's statements about what an image shows are true."""
    known = facts.keys() - {*ACQUISITION}
    checked = {fact: said for fact, said in claims_of(text).items() if fact in known}
    right = [
        truth.right(fact, truth.Asked([facts[fact]], [said]))[0] for fact, said in checked.items()
    ]
    return np.asarray(right, bool)
