"""Every control of the evaluation, tested with an assistant that only looks at the image."""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import get_config

from slava_jax.eval.blind import blind_answers
from slava_jax.inference import decode
from slava_jax.train.datasets import prepare
from slava_jax.train.evaluation import evaluate, image_statistics, with_zero_b
from slava_jax.train.test_split import TestSplit


@dataclasses.dataclass(frozen=True)
class Seer:
    """Answers the class of its image to any question; with B at zero class 0.

    A fake assistant; `seen` {pixels: class}.
    """

    seen: dict[bytes, int]
    names: list[str]
    variables: dict
    rank: int = 4
    model = SimpleNamespace(
        adapter=SimpleNamespace(r_min=2, r_max=4, experts=1), adapted=True, matches=True
    )

    def classes(self, batch):
        shown = targets(batch["images"], batch["image_index"])
        return [self.seen[image.tobytes()] * looks(self.variables) for image in shown]

    def candidate_scores(self, batch, answers, rank=None):
        return np.log(np.eye(len(answers), dtype=np.float32)[self.classes(batch)] + 1e-3)

    def scored_answers(self, batch, length):
        names = [self.names[label] for label in self.classes(batch)]
        return names, np.zeros(len(names))


def targets(images, image_index):
    """The target image of each row, the last one in its text."""
    images = np.asarray(images)
    return images[np.arange(len(images)), np.asarray(image_index).max(axis=1)]


def looks(variables) -> bool:
    """Whether the adapters' B is nonzero and everything else unchanged."""
    layer = variables["frozen"]["q"]
    assert float(layer["lora_a"].sum()) == 2
    return float(layer["lora_b"].sum()) > 0


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    config = get_config()
    config.evaluation.update(classification=20, captions=8, answers=8, examples=3)
    return config, prepare(config, tmp_path_factory.mktemp("run"))


@pytest.fixture
def metrics(held, monkeypatch):
    """Metrics of one that looks, with a blind one as the untrained assistant."""
    config, datasets = held
    seen = {
        split.cache[i].tobytes(): int(split.images.labels[i])
        for split in (datasets.validation, datasets.test)  # facts are asked of both
        for i in range(len(split.images))
    }

    def score_batch(model, variables, batch, rank):
        """An answer costs the number of the shown class, or 100 if blind."""
        shown = targets(batch.prompt.images, batch.prompt.image_index)
        label = np.asarray([seen[image.tobytes()] for image in shown], float)
        nats, one = label if looks(variables) else label + 100, np.ones_like(label)
        return {"nats": nats, "tokens": one, "match": one, "match_mismatched": 0 * one}

    monkeypatch.setattr(decode, "score_batch", score_batch)
    weights = {"frozen": {"q": {"lora_a": jnp.ones(2), "lora_b": jnp.ones(2)}}}
    seer = Seer(seen, datasets.class_answers, weights)
    blind = dataclasses.replace(seer, variables=with_zero_b(weights))
    statistics = image_statistics(datasets)
    return evaluate(config, datasets, seer, blind, statistics, lambda text: None).metrics


def test_each_control_shows_what_it_takes_away(held, metrics):
    test = TestSplit.of(*held)
    labels, rows = test.labels(test.class_rows), test.class_rows
    mismatched = test.data.images.labels[test.mismatched[rows]]
    assert metrics["classification.top1"] == metrics["classification_generated.top1"] == 1
    assert metrics["classification_shuffled.top1"] == 0
    chance = np.mean(labels == 0)
    assert metrics["classification_zero_b.top1"] == chance < 0.5
    assert metrics["classification_untrained.top1"] == chance
    for control, cost in (("", labels), ("_shuffled", mismatched), ("_zero_b", labels + 100)):
        assert metrics[f"lm.nats_per_token{control}.class"] == pytest.approx(cost.mean())


def test_a_classification_of_anything_but_the_class_is_asked_in_words(held):
    config, datasets = held
    items = datasets.test.instructions
    row = next(i for i, item in enumerate(items) if item.task == "classification")
    config = config.copy_and_resolve_references()
    config.evaluation.update(classification=1000, answers=10000)

    def classified(answer, question_type):
        kept = {"question_type": question_type}
        changed = dataclasses.replace(items[row], answer=answer, metadata=kept)
        split = [*items[:row], changed, *items[row + 1 :]]
        split = dataclasses.replace(datasets.test, instructions=split)
        test = TestSplit.of(config, dataclasses.replace(datasets, test=split))
        assert (row in test.class_rows) != (row in test.vqa_rows)
        return row in test.class_rows

    name = items[row].category
    assert classified(items[row].answer, "classification") and classified(name, "classification")
    assert classified(f"{name.upper()}.", "classification")
    assert not classified("No.", "classification")
    assert classified("No.", "class")  # every image has one, regardless of its answer


def test_without_an_image_the_training_answers_are_all_there_is(held, metrics):
    _, datasets = held
    test = TestSplit.of(*held)
    for task, rows in test.text_rows.items():
        asked = [test.data.instructions[row] for row in rows]
        told = blind_answers(asked, datasets.train.instructions)
        right = np.mean([item.answer == answer for item, answer in zip(asked, told, strict=True)])
        assert metrics[f"{task}_blind.exact"] == right
        assert metrics[f"{task}_blind.n"] == len(rows) == 8
    assert metrics["caption_blind.rougeL"] > metrics["caption.rougeL"]  # which only gives the class
