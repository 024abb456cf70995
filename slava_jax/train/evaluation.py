"""Evaluates a trained assistant on the test split, with controls.

The assistant answers the same questions with the right image, with an image of another category
(`_shuffled`), with every adapter's B at zero (`_zero_b`) and before its training stage
(`_untrained`). A baseline answers from the training answers alone, without the image (`_blind`).
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from slava_jax.data.assistant_batches import pair_problems
from slava_jax.data.images import UPRIGHT, Symmetry, symmetries
from slava_jax.data.instructions import STYLES
from slava_jax.data.pipeline import SymmetricView, VisionEvaluation
from slava_jax.data.units import Scale
from slava_jax.errors import too_small
from slava_jax.eval import reliability, tasks
from slava_jax.eval.blind import blind_answers
from slava_jax.eval.calibration import Calibration
from slava_jax.eval.classical import class_probabilities, features
from slava_jax.eval.classification import confusion_matrix, predictions
from slava_jax.eval.consistency import consistency
from slava_jax.eval.reliability import Confidence
from slava_jax.eval.report import ReportExample
from slava_jax.inference import decode
from slava_jax.inference.assistant import Assistant
from slava_jax.train.datasets import Datasets
from slava_jax.train.fact_check import (
    FactQuestions,
    Judged,
    Statistics,
    check_facts,
    judged_answers,
)
from slava_jax.train.recipes import variables_of
from slava_jax.train.stages import evenly
from slava_jax.train.test_split import TestSplit, class_scores, log_mean, losses, written

# Training images for the classical baseline. The same number set the difficulty of the synthetic
# micrographs (experiments/classical.json).
_CLASSICAL_IMAGES = 2800


def setting_problems(evaluation: Mapping, r_max: int) -> Iterator[str]:
    """Problems with the evaluation settings, given adapters of rank `r_max`."""
    yield from too_small(evaluation, 1, "batch_size", "classification")
    yield from too_small(evaluation, 0, "captions", "answers", "truth", "several", "examples")
    yield from pair_problems(evaluation)
    if not all(type(rank) is int and 1 <= rank <= r_max for rank in evaluation["ranks"]):
        yield f"ranks: must be whole numbers in 1..adapter.r_max, {r_max}"


@dataclasses.dataclass
class Findings:
    """Contents of the report.

    Attributes:
      metrics: flat, as in metrics.json.
      confusion: int[classes, classes], of the assistant.
      experts: {projection: float[layers, K]}. rank_scores: {metric: {rank: score}}.
      examples: unseen images with question, truth and answers.
      calibration: of the assistant's answers. confidence: how it does on test images.
      predictions: rows of predictions.csv: (control, image, class, log p of each class name).
    """

    metrics: dict[str, float]
    confusion: np.ndarray | None = None
    experts: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    rank_scores: dict[str, dict[int, float]] = dataclasses.field(default_factory=dict)
    examples: list[ReportExample] = dataclasses.field(default_factory=list)
    predictions: list[tuple] = dataclasses.field(default_factory=list)
    calibration: Calibration | None = None
    confidence: Confidence | None = None

    def add_confidence(self, known: Sequence[Judged], tested: Sequence[Judged]) -> None:
        """Calibrates probabilities on some answers and tests them on others."""
        log_p, right = ([getattr(j, name) for j in known] for name in ("log_p", "right"))
        self.calibration = reliability.fit(log_p, right)
        if self.calibration is None:
            return
        p = self.calibration([answer.log_p for answer in tested])
        self.confidence = Confidence.of(p, np.asarray([answer.right for answer in tested]))
        self.metrics["truth.calibration_error"] = self.confidence.error
        self.metrics["truth.right_of_surest_half"] = self.confidence.of_surest_half

    def add(self, other: "Findings") -> None:
        """Merges in the metrics and predictions of `other`."""
        self.metrics.update(other.metrics)
        self.predictions += other.predictions


def evaluate(
    config: ConfigDict,
    datasets: Datasets,
    trained: Assistant,
    untrained: Assistant,
    statistics: Statistics,
    progress: Callable[[str], None],
) -> Findings:
    """Computes all metrics of an assistant on the test split.

    Args:
      trained, untrained: the assistant after and before its stage.
      statistics: those of `image_statistics`.
      progress: called with the name of each step.
    """
    test = TestSplit.of(config, datasets)
    views, names = _views(config), datasets.class_names
    controls = _controls(trained, untrained, test, views)
    found = Findings({})
    for control in controls:
        progress(f"test split{control[0].replace('_', ', ', 1).replace('_', ' ')}")
        scores = _answer(found, test, names, *control)
        if control[1] is trained and control[2] is None:
            alone, right = scores, predictions(scores) == test.labels(test.class_rows)
            found.confusion = confusion_matrix(
                test.labels(test.class_rows), predictions(scores), len(names)
            )
    for task, chosen in test.text_rows.items():
        asked = [test.data.instructions[row] for row in chosen]
        answers = blind_answers(asked, datasets.train.instructions)
        found.metrics.update(_told(task, test, chosen, answers, "_blind"))
        if task == "vqa":
            found.metrics.update(_consistent(test, chosen, answers, "_blind"))
    if test.few_shot_rows and len(views) > 1:  # prompts with examples are scored on one view
        alone = class_scores(trained, test, test.class_rows)
    for count in test.few_shot_rows:
        progress(f"few-shot classification, {count} example(s)")
        found.metrics.update(_few_shot(trained, test, count, alone, names))
    judged: list[Judged] = []
    if (questions := FactQuestions.of(config, datasets, test)) is not None:
        progress("facts")
        stating = [(n, a, shown is not None) for n, a, shown, _ in controls if a is not untrained]
        judged = _state_facts(found, questions, datasets, stating, statistics)
    progress("ranks, experts and examples")
    found.metrics.update(_generated_class(trained, test))
    known = {trained.rank: found.metrics["classification.top1"]} if len(views) == 1 else {}
    found.rank_scores = _ranks(trained, test, known)
    for name, scores in zip(("top1", "nats_per_token"), found.rank_scores.values(), strict=True):
        found.metrics.update({f"rank_{rank}.{name}": value for rank, value in scores.items()})
    found.experts = _experts(trained, test)
    found.examples = _examples(trained, test, right, questions, judged)
    return found


def _controls(trained: Assistant, untrained: Assistant, test: TestSplit, views) -> list[tuple]:
    """(suffix, assistant, images shown instead of the right ones, views) of each control."""
    controls = [
        ("", trained, None, views),
        ("_shuffled", trained, test.mismatched, (UPRIGHT,)),
        ("_untrained", untrained, None, (UPRIGHT,)),
    ]
    if trained.model.adapter is not None:
        zero_b = dataclasses.replace(trained, variables=with_zero_b(trained.variables))
        controls.insert(2, ("_zero_b", zero_b, None, views))
    return controls


def _answer(
    found: Findings, test: TestSplit, names, control: str, assistant: Assistant, shown, views
) -> np.ndarray:
    """Adds what one control answers; returns its class scores float32[n, classes]."""
    scores = class_scores(assistant, test, test.class_rows, shown, views=views)
    labels = test.labels(test.class_rows)
    found.metrics.update(tasks.classification(labels, scores, names, control))
    keys = [test.data.images.keys[i] for i in test.data.targets[test.class_rows]]
    found.predictions += _predictions(control, keys, labels, scores, names)
    lost = losses(assistant, test, test.scored_rows, shown)
    found.metrics.update(tasks.language_modelling(lost, control))
    if lost.match is not None:
        found.metrics.update(tasks.matching(lost, control))
    for task, chosen in test.text_rows.items():
        answers = written(assistant, test, chosen, shown)
        found.metrics.update(_told(task, test, chosen, answers, control))
        if task == "vqa":
            found.metrics.update(_consistent(test, chosen, answers, control))
    return scores


def _state_facts(
    found: Findings, questions: FactQuestions, datasets: Datasets, controls, statistics: Statistics
) -> list[Judged]:
    """Adds what is said about facts, and how sure; returns the assistant's answers."""
    checked = check_facts(questions, datasets, controls, statistics)
    found.metrics.update(checked.metrics)
    test = questions.test
    held_out = FactQuestions.of(test.config, datasets, test, datasets.validation)
    if checked.judged and held_out is not None:
        found.add_confidence(judged_answers(held_out, controls[0][1]), checked.judged)
    return checked.judged


def _predictions(control: str, keys, labels, scores, names) -> Iterator[tuple]:
    for key, label, row in zip(keys, labels.tolist(), scores.tolist(), strict=True):
        yield (control.lstrip("_"), key, names[label], *row)


def with_zero_b(variables: dict) -> dict:
    """The variables with every adapter's B set to zero, which gives the frozen model."""

    def zero(path, leaf):
        return jnp.zeros_like(leaf) if path[-1].key == "lora_b" else leaf

    return jax.tree_util.tree_map_with_path(zero, variables)


def _views(config) -> Sequence[Symmetry]:
    """The symmetries under which each test image is classified."""
    if not config.evaluation.test_time_augmentation:
        return (UPRIGHT,)
    return symmetries(config.image.augmentation.flips, config.image.augmentation.turns)


def _told(task, test, rows, answers, control) -> Iterator[tuple[str, float]]:
    """Text scores; for VQA also separately for short and detailed answers (section 4.6)."""
    truths = test.truths(rows)
    yield from tasks.texts(task, truths, answers, control)
    if task == "vqa" and not control:
        for style in STYLES:
            own = [i for i, row in enumerate(rows) if test.data.instructions[row].style == style]
            if own:
                pairs = [truths[i] for i in own], [answers[i] for i in own]
                yield from tasks.texts(f"vqa_{style}", *pairs)


def _consistent(test: TestSplit, rows, answers, control: str) -> Iterator[tuple[str, float]]:
    """What can be checked without a ground truth."""
    images = test.data.targets[rows].tolist()
    widths = [Scale.of(test.data.images.facts[image]).width_nm for image in images]
    for name, value in consistency(answers, test.truths(rows), images, widths).items():
        yield f"consistency{control}.{name}", value


def _few_shot(assistant, test, count: int, alone, names) -> Iterator[tuple[str, float]]:
    """Few-shot classification against no examples, the examples' majority and permuted names."""
    rows, data = test.few_shot_rows[count], test.data
    scores = {
        "": class_scores(assistant, test, rows),
        "_permuted": class_scores(assistant, test, test.permuted_rows[count]),
        "_zero_shot": alone,
    }
    shots = data.images.labels[data.image_rows[rows][:, :count]]
    yield from tasks.few_shot(test.labels(rows), scores, shots, names)


def _generated_class(assistant, test) -> Iterator[tuple[str, float]]:
    """Accuracy of the freely generated class name."""
    answers = written(assistant, test, test.class_rows)
    truths = test.truths(test.class_rows)
    right = [truth == answer for truth, answer in zip(truths, answers, strict=True)]
    yield "classification_generated.top1", float(np.mean(right))


def _ranks(assistant, test, top1: dict[int, float]) -> dict[str, dict[int, float]]:
    """Scores by rank, without test-time augmentation. `top1` holds accuracies already known."""
    adapter = assistant.model.adapter
    if adapter is None:
        return {"Top-1 accuracy": {}, "Answer loss (nats/token)": {}}
    standing = (adapter.r_min, (adapter.r_min + adapter.r_max) // 2, adapter.r_max)
    ranks = sorted({*(test.config.evaluation.ranks or standing)})
    labels = test.labels(test.class_rows)
    top1, nats = dict(top1), {}
    for rank in ranks:
        if rank not in top1:
            scores = class_scores(assistant, test, test.class_rows, rank=rank)
            top1[rank] = float(np.mean(predictions(scores) == labels))
        lost = losses(assistant, test, test.told_rows, None, rank)
        nats[rank] = dict(tasks.language_modelling(lost))["lm.nats_per_token"]
    top1 = {rank: top1[rank] for rank in ranks}
    return {"Top-1 accuracy": top1, "Answer loss (nats/token)": nats}


def _experts(assistant, test) -> dict[str, np.ndarray]:
    """Mean gate of each expert over the tokens of `test.told_rows`, by projection."""
    model, rank = assistant.model, jnp.int32(assistant.rank)
    if not model.adapted or model.adapter.experts == 1:
        return {}
    total = tokens = 0
    for batch in test.batches(test.told_rows):
        counted = (batch["index"] >= 0).astype(np.float32)
        prompt = assistant.prompt(batch)
        if len(prompt.tokens) < len(counted):  # one text for all images
            counted = counted.sum(keepdims=True)
        gates, number = decode.gate_use(model, assistant.variables, prompt, counted, rank)
        total, tokens = total + np.asarray(gates), tokens + float(number)
    mean = total / tokens
    return {f"{name} projection": mean[:, i] for i, name in enumerate("qkvo")}


def _examples(
    assistant, test, class_right: np.ndarray, questions: FactQuestions | None, judged
) -> list[ReportExample]:
    """Captions, classes and facts (or other questions), right answers beside wrong ones."""
    wanted = test.config.evaluation.examples
    of_facts, of_captions, of_classes = ((wanted + 2 - kind) // 3 for kind in range(3))
    named = dict(zip(test.class_rows.tolist(), class_right.tolist(), strict=True))
    facts: dict[int, bool] = {}
    for answer in judged:  # a question may ask for two facts
        facts[answer.row] = facts.get(answer.row, True) and answer.right
    out = []
    if facts:
        rows = _right_and_wrong(facts, of_facts)
        out += _shown(assistant, questions.test, rows, facts)
    pools = () if facts else ((test.vqa_rows, of_facts),)
    for pool, number in (*pools, (test.caption_rows, of_captions)):
        out += _shown(assistant, test, [pool[i] for i in evenly(len(pool), number)], {})
    return out + _shown(assistant, test, _right_and_wrong(named, of_classes), named)


def _right_and_wrong(right: Mapping[int, bool], most: int) -> list[int]:
    """At most `most` rows, spread evenly, half of them wrong if there are so many."""
    pools = [[row for row, is_right in right.items() if is_right == kind] for kind in (False, True)]
    wrong = min(len(pools[0]), max(most // 2, most - len(pools[1])))
    counts = (wrong, most - wrong)
    chosen = (
        [pool[i] for i in evenly(len(pool), n)] for pool, n in zip(pools, counts, strict=True)
    )
    return sorted(row for rows in chosen for row in rows)


def _shown(assistant, test, rows: Sequence[int], right: Mapping[int, bool]) -> list[ReportExample]:
    if not len(rows):
        return []
    data, rows = test.data, np.asarray(rows)
    answers = written(assistant, test, rows)
    mismatched = written(assistant, test, rows, test.mismatched)
    out = []
    for row, answer, other in zip(rows.tolist(), answers, mismatched, strict=True):
        item, shown = data.instructions[row], int(data.targets[row])
        known = answer == item.answer if item.task == "classification" else right.get(row)
        out.append(
            ReportExample(
                item.target, item.question.replace("<image>", "").strip(), item.answer, answer,
                data.images.encoded(shown), item.category, other,
                data.images.category(int(test.mismatched[row])), known,
            )
        )  # fmt: skip
    return out


def evaluate_vision(config, stage, params: dict, datasets: Datasets) -> Findings:
    """`classification_vit.*`: the ViT classifier alone, on the test split."""
    split, model, names = datasets.test, stage.objective.model, datasets.class_names
    variables = variables_of(params, stage.held)
    classes = len(names)
    apply = jax.jit(lambda images: model.apply(variables, images)[:, :classes])
    labels, log_p = split.images.labels, []
    for symmetry in _views(config):
        view = SymmetricView(split.cache, symmetry)
        source = VisionEvaluation(split.images, view, stage.config.batch_size)
        logits = np.concatenate([np.asarray(apply(batch["images"])) for batch in source])
        log_p.append(np.asarray(jax.nn.log_softmax(logits[: len(labels)])))
    scores = log_mean(log_p)
    metrics = dict(tasks.classification(labels, scores, names, "_vit"))
    rows = list(_predictions("_vit", split.images.keys, labels, scores, names))
    return Findings(metrics, predictions=rows)


def image_statistics(datasets: Datasets) -> Statistics:
    """The image statistics that the classical baselines are fitted and tested on."""
    train, test = datasets.train, datasets.test
    fitted = np.asarray(evenly(len(train.images), _CLASSICAL_IMAGES))
    pixels = [train.pixels[i] for i in fitted]
    rows = features([*pixels, *(test.pixels[i] for i in range(len(test.images)))])
    return Statistics(fitted, rows[: len(fitted)], rows[len(fitted) :])


def classical_metrics(datasets: Datasets, statistics: Statistics) -> dict[str, float]:
    """`classification_classical.*` and `classification_majority.*`, on the test split."""
    known, labels = datasets.train.images.labels, datasets.test.images.labels
    names, seen = datasets.class_names, known[statistics.fitted]
    scores = class_probabilities(statistics.train, seen, statistics.test, len(names))
    metrics = dict(tasks.classification(labels, scores, names, "_classical"))
    majority = np.tile(np.bincount(known, minlength=len(names)).astype(float), (len(labels), 1))
    return {**metrics, **dict(tasks.classification(labels, majority, names, "_majority"))}
