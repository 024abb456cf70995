"""The report has every section and the given numbers, fetches nothing and escapes all markup."""

import io
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from slava_jax.eval.classification import classification_metrics, confusion_matrix, predictions
from slava_jax.eval.paper_tables import CAPTION_TABLE_1, PER_CLASS_TABLE_9
from slava_jax.eval.report import ReportExample, write_report
from slava_jax.eval.targets import QUICKSTART, Target
from slava_jax.eval.text_metrics import SCORE_NAMES
from slava_jax.synthetic.records import CATEGORIES

HOSTILE = "<script>alert('x')</script> & \"quoted\""
SECTIONS = (
    "headline", "controls", "classification", "texts", "matching", "training", "adapters",
    "examples", "setting",
)  # fmt: skip


def micrograph(rng, size=96):
    y, x = np.mgrid[:size, :size]
    field = rng.normal(110, 14, (size, size))
    for _ in range(25):
        cx, cy, r = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(3, 9)
        inside = np.hypot(x - cx, y - cy) < r
        field[inside] = 150 + 60 * np.hypot(x - cx, y - cy)[inside] / r
    buffer = io.BytesIO()
    Image.fromarray(np.clip(field, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def demo_metrics(rng):
    labels = np.repeat(np.arange(10), 40)
    scores = 3.2 * np.eye(10)[labels] + rng.normal(size=(400, 10))
    metrics = {
        f"classification.{name}": value
        for name, value in classification_metrics(labels, scores, CATEGORIES).items()
    }
    for suffix, top1, loss, rouge in (
        ("shuffled", 0.087, 1.493, 0.402), ("zero_b", 0.691, 1.301, 0.455),
        ("untrained", 0.101, 6.211, 0.012), ("vit", 0.842, None, None),
        ("classical", 0.712, None, None),
    ):  # fmt: skip
        metrics[f"classification_{suffix}.top1"] = top1
        metrics[f"classification_{suffix}.macro_f1"] = top1 - 0.013
        if loss is not None:
            metrics[f"lm.nats_per_token_{suffix}"] = loss
            metrics[f"vqa_{suffix}.rougeL"] = rouge
    metrics |= {"lm.nats_per_token": 0.871, "run.wall_seconds": 548.2, "run.peak_memory_gib": 2.61}
    metrics |= {"classification_generated.top1": 0.853, "classification_generated.top5": 0.96}
    for task, base in (("vqa", 0.55), ("caption", 0.48), ("caption_shuffled", 0.31)):
        for i, name in enumerate(SCORE_NAMES):
            metrics[f"{task}.{name}"] = base + 0.031 * i
            metrics[f"{task}.{name}_std"] = 0.211 + 0.003 * i
    auc = {"class": 0.962, "size": 0.731, "surface": 0.702, "basics": 0.884, "composition": 0.551}
    metrics |= {f"itm.auc.{name}": value for name, value in auc.items()}
    metrics["itm.auc_class_question"] = 0.962
    return metrics, confusion_matrix(labels, predictions(scores), 10)


def demo(rng, image=micrograph):
    metrics, confusion = demo_metrics(rng)
    steps = np.arange(10, 610, 10)
    history = {}
    for stage, start in (("vision", 2.3), ("language", 6.1), ("assistant", 4.4)):
        losses = 0.3 * start + 0.7 * start * np.exp(-steps / 140) + rng.normal(0, 0.04, len(steps))
        history[stage] = [
            {"step": int(s), "loss": float(v)}
            | ({"val_loss": float(v) + 0.1} if s % 60 == 0 else {})
            for s, v in zip(steps, losses, strict=True)
        ]
    examples = [
        ReportExample(
            key=f"{name}_{i:04d}", category=name, image=image(rng),
            question="How large are the features, and how far apart do they stand?",
            truth=f"They measure about {rng.integers(20, 400)} nm and stand close together.",
            answer=f"They measure about {rng.integers(20, 400)} nm and stand apart.",
            mismatched_answer="The surface shows parallel lines of even width.",
            mismatched_category=CATEGORIES[(i + 3) % 10],
        )
        for i, name in enumerate(CATEGORIES)
    ]  # fmt: skip
    return {
        "metrics": metrics,
        "title": "Quickstart",
        "description": "Procedural micrographs in ten categories; 400 held-out test images.",
        "targets": QUICKSTART,
        "history": history,
        "confusion": confusion,
        "class_names": CATEGORIES,
        "examples": examples,
        "experts": {n: rng.dirichlet([4, 4, 4, 4], size=4) for n in ("query", "key", "value")},
        "rank_scores": {
            "classification.top1": {r: 0.8 + 0.004 * r for r in range(4, 17)},
            "lm.nats_per_token": {r: 1.1 - 0.01 * r for r in range(4, 17)},
        },
        "config_text": "seed = 0\nstages = vision, language, assistant\n",
        "environment": {"cpu": "2 cores", "jax": "0.10.2", "matrix_product_rate": "71 GFLOP/s"},
    }


class Page(HTMLParser):
    """Ids of sections, all tags with attributes, and the text outside <style>."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.tags, self.text, self._inside = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag in ("section", "header"):
            self.ids.append(attributes.get("id"))
        if tag == "style":
            self._inside.append(tag)

    def handle_endtag(self, tag):
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data):
        if not self._inside:
            self.text.append(data)


@pytest.fixture(scope="module")
def inputs():
    return demo(np.random.default_rng(0))


@pytest.fixture(scope="module")
def text(inputs, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, **inputs)
    assert os.listdir(path.parent) == ["report.html"]
    return path.read_text()


def test_every_section_is_there_once(text):
    assert sorted(Page(text).ids) == sorted(SECTIONS)


def test_the_numbers_are_those_given(inputs, text):
    shown = " ".join(Page(text).text)
    metrics = inputs["metrics"]
    for name, value in metrics.items():
        if not name.startswith(("run.", "classification_generated.top5")):
            assert f"{value:.3f}" in shown, name
    assert "548" in shown and "2.61" in shown
    for pairs in CAPTION_TABLE_1.values():
        assert all(f"{mean:.3f}" in shown and f"± {dev:.3f}" in shown for mean, dev in pairs)
    for count in np.unique(inputs["confusion"][inputs["confusion"] > 0]):
        assert re.search(rf">{count}</text>", text), count


def test_targets_say_reached_missed_or_no_value(tmp_path, inputs):
    metrics = {"a": 0.5, "b": 0.45}
    targets = [
        Target("reached", "a", 0.5),
        Target("missed", "a", 0.1, minus="b"),
        Target("reached at most", "b", 0.45, at_least=False),
        Target("unknown", "c", 0.5),
        Target("not a number", "nan", 0.5),
    ]
    write_report(tmp_path / "r.html", metrics | {"nan": float("nan")}, targets=targets)
    page = (tmp_path / "r.html").read_text()
    states = re.findall(r'<div class="card ([a-z ]+)"', page)
    assert states == ["reached", "missed", "reached", "no value", "missed"]
    assert "2 of 5 targets reached" in page


def test_nothing_is_fetched_from_outside_and_nothing_runs(text):
    page = Page(text)
    assert not re.search(r"https?:|url\(\s*['\"]?(?!#)", text)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "data", "action"):
                assert value.startswith(("#", "data:image/")), (tag, name, value[:60])


def test_hostile_strings_are_shown_and_not_obeyed(tmp_path, inputs):
    example = ReportExample(
        key=HOSTILE, question=HOSTILE, truth=HOSTILE, answer=HOSTILE, category=HOSTILE,
        mismatched_answer=HOSTILE, mismatched_category=HOSTILE, image=inputs["examples"][0].image,
    )  # fmt: skip
    names = [HOSTILE, r"$\frac$"]  # a dollar sign must not start a formula
    write_report(
        tmp_path / "r.html",
        {f"classification.f1.{HOSTILE}": 0.5, f"itm.auc.{HOSTILE}": 0.5, "classification.top1": 1},
        title=HOSTILE, description=HOSTILE, class_names=names, confusion=np.eye(2, dtype=int),
        history={HOSTILE: [{"step": 1, "loss": 1.0, f"{HOSTILE}loss": 1.0}]}, examples=[example],
        experts={HOSTILE: np.ones((1, 1))}, rank_scores={HOSTILE: {4: 0.5}},
        config_text=HOSTILE, environment={HOSTILE: HOSTILE},
    )  # fmt: skip
    text = (tmp_path / "r.html").read_text()
    assert "<script" not in text
    page = Page(text)
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "".join(page.text).count("<script>alert") >= 12


def test_images_that_may_not_be_passed_on_are_not_in_the_file(tmp_path, inputs):
    shown = inputs | {"images_withheld": "for research only"}
    write_report(tmp_path / "r.html", **shown)
    text = (tmp_path / "r.html").read_text()
    assert "data:image" not in text and "<img" not in text
    assert "for research only" in text
    assert inputs["examples"][0].truth in text


def test_what_was_not_measured_is_left_out(tmp_path):
    write_report(tmp_path / "r.html", {"classification.top1": 0.5})
    page = Page((tmp_path / "r.html").read_text())
    assert page.ids == ["headline", "classification"]


def test_where_rouge_is_blind_the_report_says_so_and_shows_unicode_words(tmp_path):
    metrics = {"vqa.rougeL": 0.25, "vqa.rougeL_std": 0.5}
    write_report(tmp_path / "r.html", metrics)
    assert "outside ASCII" not in (tmp_path / "r.html").read_text()
    metrics |= {"vqa.beyond_ascii": 0.42, "vqa.rougeL_unicode": 0.875}
    write_report(tmp_path / "r.html", metrics)
    text = " ".join(Page((tmp_path / "r.html").read_text()).text)
    assert "Up to 42 % of the words of the references have letters outside ASCII" in text
    assert "this run, Unicode words" in text and "0.875" in text


def test_other_data_sets_have_no_paper_columns_by_category(tmp_path):
    metrics = {"classification.top1": 0.5, "classification.f1.cracked": 0.4}
    write_report(tmp_path / "r.html", metrics, class_names=["cracked"])
    assert "cracked" in (tmp_path / "r.html").read_text()
    assert "Reported in the paper" in (tmp_path / "r.html").read_text()  # Table 7 only
    assert (tmp_path / "r.html").read_text().count("Reported in the paper") == 1


def test_the_papers_categories_are_ours():
    assert set(PER_CLASS_TABLE_9) == set(CATEGORIES)


def test_bad_input_is_named_and_an_old_report_survives_it(tmp_path, inputs):
    path = tmp_path / "report.html"
    path.write_text("the old one")
    with pytest.raises(ValueError, match="3 classes"):
        write_report(path, {}, confusion=np.eye(2), class_names=["a", "b", "c"])
    with pytest.raises(ValueError, match="'query'"):
        write_report(path, {}, experts={"query": np.ones(4)})
    tiff = ReportExample(key="k7", question="q", truth="t", answer="a", image=b"II*\0....")
    with pytest.raises(ValueError, match="k7"):
        write_report(path, {}, examples=[tiff])
    assert path.read_text() == "the old one"
    assert os.listdir(tmp_path) == ["report.html"]
