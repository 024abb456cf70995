"""LLaVA's two stages as a whole run with tiny models."""

import shutil

import numpy as np
import pytest
from gguf_files import write_gguf
from reference_models import VOCABULARY, tiny_llava
from tiny_run import get_config

from slava_jax.checkpoint import Checkpoints, load_tree
from slava_jax.config import ConfigError
from slava_jax.convert.reading import convert_weights
from slava_jax.data.datasets.base import DataError
from slava_jax.data.pipeline import PipelineError
from slava_jax.data.tokenizer import save_tokenizer, train_tokenizer
from slava_jax.inference.assistant import load_assistant
from slava_jax.train.datasets import prepare
from slava_jax.train.loop import run
from slava_jax.train.start import with_pretrained_shapes
from slava_jax.train.trainable import TrainableError, leaf_paths

ADAPTED = ("connector/**", "**/lora_b", "**/router")


def config():
    c = get_config()
    c.model, c.template = "inline", "vicuna_v1"
    c.stages = ("vision", "language", "alignment", "assistant")
    for name in ("batch_size", "microbatches", "pair_block", "steps", "eval_every", "warmup"):
        c.alignment[name] = c.assistant[name]
    c.language.trainable = ("**", "!language_model/embedding")  # the rest is held, and stays
    c.alignment.update(trainable=("connector/**",), validation_batches=1, per_image=1, always=())
    c.assistant.update(trainable=ADAPTED, rates=(), buckets=((500, 256, 1),), turns=3)
    return c


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("llava")
    return workdir, run(config(), workdir)


def test_questions_about_an_image_share_a_text(tmp_path):
    """Each example of the training split is the conversation of its row, its image shown once."""
    c = config()
    datasets = prepare(c, tmp_path)
    data, _ = _training_batches(c, datasets, "assistant")
    assert {len(item.turns) for item in data.instructions} == {0, 1, 2}
    for item, example in zip(data.instructions, data.examples, strict=True):
        assert len(example.spans) == 1
        assert len(example.answers) == len(item.turns) + 1
        said = decode_text(datasets.tokenizer, example.answer_ids)
        assert in_shares(item, scale_of(datasets.train.images, item)).answer in said


def best(directory):
    return load_tree(directory / str(Checkpoints(directory).latest()))[0]


def test_each_stage_trains_what_its_patterns_choose(finished):
    """First only the connector, then connector and adapters; the encoder never changes."""
    workdir, _ = finished
    aligned = set(leaf_paths(best(workdir / "alignment/best")))
    assert aligned == {"connector/first/kernel", "connector/first/bias"}
    trained = {path.split("/")[-1] for path in leaf_paths(best(workdir / "assistant/best"))}
    assert trained == {"kernel", "bias", "lora_b", "router"}
    held = load_assistant(workdir)
    vision = best(workdir / "vision/best")["vit"]
    for path, ours in zip(
        leaf_paths(vision), _leaves(held.variables["params"]["vit"]), strict=True
    ):
        np.testing.assert_array_equal(ours, _at(vision, path))


def _leaves(tree):
    return [_at(tree, path) for path in leaf_paths(tree)]


def _at(tree, path):
    for name in path.split("/"):
        tree = tree[name]
    return np.asarray(tree)


def test_it_is_evaluated_with_every_control_but_matching(finished):
    """A model without match logits has no AUC, but all other metrics."""
    workdir, metrics = finished
    for control in ("", "_shuffled", "_zero_b", "_untrained"):
        assert f"classification{control}.top1" in metrics
        assert np.isfinite(metrics[f"lm.nats_per_token{control}"])
    assert not [name for name in metrics if name.startswith("itm")]
    assert (workdir / "report.html").exists()


def test_it_can_be_asked(finished):
    held = load_assistant(finished[0])
    image = np.zeros((32, 32, 1), np.uint8)
    answer = held.answers(held.prompts([[image]], ["What is this?"]), 4)[0]
    assert isinstance(answer, str)


def test_a_pattern_without_a_parameter_stops_the_run(tmp_path):
    c = config()
    c.assistant.trainable = ("conector/**",)
    c.stages = ("vision", "language", "assistant")
    for name in ("vision", "language"):
        c[name].update(steps=2, warmup=1, eval_every=2)
    with pytest.raises(TrainableError, match=r"assistant\.trainable: 'conector/\*\*' matches no"):
        run(c, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("stage", "settings", "message"),
    [
        ("vision", {"trainable": ("heads/**",)}, r"vision\.trainable: 'heads/\*\*' matches no"),
        ("language", {"trainable": ()}, r"language\.trainable: .* leave nothing to train"),
        ("assistant", {"rates": (("vit/**", 0.1),)}, r"assistant\.rates: 'vit/\*\*' matches no"),
    ],
)
def test_patterns_of_every_stage_are_checked_first(stage, settings, message, tmp_path):
    c = config()
    c[stage].update(settings)
    with pytest.raises(TrainableError, match=message):
        run(c, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_stage_without_a_whole_batch_is_named_before_training(tmp_path):
    c = config()
    c.alignment.update(batch_size=4096, microbatches=1)
    with pytest.raises(PipelineError, match=r"alignment: .* do not fill one batch of 4096"):
        run(c, tmp_path / "run")
    assert not (tmp_path / "run/vision").exists()


def test_a_connector_of_other_widths_is_refused(tmp_path):
    convert_weights(tiny_llava(tmp_path / "theirs"), tmp_path / "llava")
    c = config()
    c.start_from.connector = str(tmp_path / "llava")
    with pytest.raises(ConfigError, match=r"start_from\.connector: .* is for a vit of width 16"):
        run(c, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_tokenizer_is_that_of_the_language_model(tmp_path):
    """A work directory with another one, as of a run before, would train on senseless ids."""
    convert_weights(write_gguf(tmp_path / "m.gguf", "Q8_0"), tmp_path / "converted")
    c = config()
    c.start_from.language = str(tmp_path / "converted")
    c.stages = ("vision", "assistant")
    place = tmp_path / "run/data/tokenizer"
    save_tokenizer(train_tokenizer(["other text"] * 3, 270), place)
    with pytest.raises(DataError, match=r"tokenizer: not the tokenizer of start_from\.language"):
        prepare(with_pretrained_shapes(c), tmp_path / "run")
    shutil.rmtree(place)
    assert len(prepare(with_pretrained_shapes(c), tmp_path / "run").tokenizer) == VOCABULARY


def test_a_connector_that_is_not_there_is_refused(tmp_path):
    c = config()
    c.start_from.connector = str(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"start_from\.connector: .* is not a converted"):
        run(c, tmp_path / "run")
    assert not (tmp_path / "run").exists()
