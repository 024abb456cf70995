"""Cached states of the vision encoder's frozen layers equal states computed every time."""

import csv
import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_models import tiny_folder, tiny_vit
from tiny_run import get_config

from slava_jax.config import ConfigError
from slava_jax.convert.huggingface import read_folder
from slava_jax.convert.pretrained import load, write
from slava_jax.data.datasets.base import DataError
from slava_jax.data.images import symmetric
from slava_jax.data.pipeline import Augmentation, stream
from slava_jax.inference.assistant import load_assistant
from slava_jax.models.presets import hashable
from slava_jax.models.vit import Vit, VitConfig, split_stem
from slava_jax.nn.adapters import split_frozen
from slava_jax.train import frozen_states, stages
from slava_jax.train.datasets import prepare, with_frozen_states
from slava_jax.train.evaluation import evaluate_vision
from slava_jax.train.fit import device_fields
from slava_jax.train.loop import run
from slava_jax.train.settings import check
from slava_jax.train.start import pretrained, pretrained_encoder, with_pretrained_shapes


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A run that trains the last layer of a converted encoder, with a converted Llama."""
    folder = tmp_path_factory.mktemp("weights")
    write(tiny_vit(), folder / "vit")
    write(read_folder(tiny_folder(folder / "theirs")), folder / "llama", quantized=True)
    config = get_config()
    config.stages = ("vision", "assistant")
    config.start_from.update(vision=str(folder / "vit"), language=str(folder / "llama"))
    config = with_pretrained_shapes(config)
    config.vit.frozen_layers = config.vit.layers - 1
    config.image.states = str(folder / "states")
    config.image.augmentation.update(flips=True, turns=2, shift=0)
    check(config)
    return config


def whole_encoder(config):
    """The encoder without frozen layers: module and weights."""
    vit = dataclasses.replace(VitConfig(**hashable(config.vit)), frozen_layers=0)
    return Vit(vit), load(config.start_from.vision).tree["vit"]


@pytest.fixture(scope="module")
def datasets(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    held = prepare(config, workdir)
    stem = pretrained_encoder(config)[1]["stem"]
    return with_frozen_states(config, held, stem, workdir)


@pytest.mark.parametrize("layers", [1, 2])
def test_frozen_layers_change_no_token(config, layers):
    """Splitting the weights into frozen and trained does not change the function."""
    model, weights = whole_encoder(config)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    split = dataclasses.replace(model.config, frozen_layers=layers)
    params, frozen = split_stem(weights, split)
    got = Vit(split).apply({"params": params, "frozen": frozen}, images)
    np.testing.assert_allclose(got, model.apply({"params": weights}, images), atol=1e-5)


def test_an_initialised_model_has_the_shapes_of_a_split_one(config):
    model, weights = whole_encoder(config)
    split = dataclasses.replace(model.config, frozen_layers=1)
    variables = Vit(split).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.uint8))
    shapes = jax.tree.map(jnp.shape, dict(variables))
    params, frozen = split_stem(weights, split)
    assert shapes == jax.tree.map(np.shape, {"params": params, "frozen": frozen})


def test_states_are_of_the_image_and_symmetry_that_was_drawn(config, datasets):
    """The last layers on cached states equal the whole encoder on the augmented image."""
    model, weights = whole_encoder(config)
    vit = VitConfig(**hashable(config.vit))
    params, frozen = pretrained_encoder(config)
    change = Augmentation(**config.image.augmentation)
    seen = set()
    for i in range(8):
        states = datasets.train.cache.augmented(i, stream(0, i), change)
        pixels = datasets.train.pixels.augmented(i, stream(0, i), change)
        got = Vit(vit).apply({"params": params, "frozen": frozen}, states[None])
        want = model.apply({"params": weights}, np.ascontiguousarray(pixels)[None])
        np.testing.assert_allclose(got, want, atol=0.02)  # float16 on the way
        plain = datasets.train.pixels[i]
        names = [(m, q) for m in (0, 1) for q in (0, 2)]
        seen |= {n for n in names if np.array_equal(symmetric(plain, *n), pixels)}
    assert len(seen) > 1
    assert datasets.test.cache[0].shape == (vit.tokens, vit.width)


def test_what_is_there_is_not_computed_again(config, datasets, monkeypatch):
    """Not again by another run, and after a kill only the missing ones."""
    states = datasets.train.cache
    change = Augmentation(**config.image.augmentation)
    files = sorted(states._folder.iterdir())
    assert len(files) == sum(
        len(split.images) * count
        for split, count in ((datasets.train, 4), (datasets.validation, 1), (datasets.test, 1))
    )
    before = {file: file.stat().st_mtime_ns for file in files}
    lost = files[0]
    content = lost.read_bytes()
    os.remove(lost)
    for split in (datasets.train, datasets.validation, datasets.test):
        split.cache.compute(change if split is datasets.train else frozen_states.UNCHANGED)
    assert lost.read_bytes() == content
    after = {file: file.stat().st_mtime_ns for file in files}
    assert [file for file in files if after[file] != before[file]] == [lost]


def test_a_flipped_bit_of_a_state_is_noticed(datasets):
    file = datasets.test.cache._path(0, (0, 0))
    content = file.read_bytes()
    try:
        file.write_bytes(content[:-9] + bytes([content[-9] ^ 16]) + content[-8:])
        with pytest.raises(DataError, match=rf"{file.name}: damaged; delete it"):
            datasets.test.cache[0]
        file.write_bytes(b"")
        with pytest.raises(DataError, match="damaged"):
            datasets.test.cache[0]
    finally:
        file.write_bytes(content)


def test_test_time_augmentation_averages_what_the_whole_encoder_says(config, tmp_path):
    """Views under each symmetry of the training augmentation; without it, only one."""
    config = config.copy_and_resolve_references()
    config.evaluation.test_time_augmentation = True
    encoder = pretrained_encoder(config)
    held = with_frozen_states(config, prepare(config, tmp_path), encoder[1]["stem"], tmp_path)
    stage = stages.vision_stage(config, held, encoder)
    model, weights = whole_encoder(config)
    head, pixels = stage.params["head"], held.test.pixels

    def probabilities(symmetry):
        images = [symmetric(pixels[i], *symmetry) for i in range(len(held.test.images))]
        cls = model.apply({"params": weights}, np.stack(images))[:, 0]
        outputs = cls @ head["kernel"] + head["bias"]
        return jax.nn.softmax(outputs[:, : len(held.class_names)])  # facts come after the classes

    views = [probabilities((mirrored, quarters)) for mirrored in (0, 1) for quarters in (0, 2)]
    for averaged, want in ((True, np.mean(views, axis=0)), (False, views[0])):
        config.evaluation.test_time_augmentation = averaged
        found = evaluate_vision(config, stage, stage.params, held)
        got = np.exp([row[3:] for row in found.predictions])
        np.testing.assert_allclose(got, want, atol=5e-3)  # float16 on the way
    assert np.abs(views[0] - np.mean(views, axis=0)).max() > 2e-2


def test_states_beyond_float16_stop_the_run(config, datasets, tmp_path):
    """The error names the image."""
    vit = VitConfig(**hashable(config.vit))
    stem = jax.tree.map(lambda a: a * 1e4, pretrained_encoder(config)[1]["stem"])
    split = datasets.test
    states = frozen_states.FrozenStates(tmp_path, vit, stem, split.images, split.pixels)
    with pytest.raises(DataError, match=r"test split.*image .*too large for float16"):
        states.compute(frozen_states.UNCHANGED)


@pytest.mark.slow
def test_a_run_trains_its_last_layers_and_leaves_a_whole_assistant(config, tmp_path):
    """The frozen layers are unchanged; ask needs no states; scores are on disk."""
    metrics = run(config, tmp_path / "run")
    assert "classification_vit.top1" in metrics
    held = load_assistant(tmp_path / "run")
    params, frozen = pretrained_encoder(config)
    kept = split_frozen(held.variables["frozen"])[1]["vit"]
    jax.tree.map(np.testing.assert_array_equal, kept, frozen)
    moved = jax.tree.map(
        lambda a, b: not np.array_equal(a, b), held.variables["params"]["vit"], params
    )
    assert all(jax.tree.leaves(moved))
    image = np.zeros((32, 32, 3), np.uint8)
    assert isinstance(held.answers(held.prompts([[image]], ["What is this?"]), 4)[0], str)
    with open(tmp_path / "run" / "predictions.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["control"] == ""]
    names = list(held.class_names)
    right = [
        names[np.argmax([float(row[f"log p {name}"]) for name in names])] == row["class"]
        for row in rows
    ]
    assert np.mean(right) == pytest.approx(metrics["classification.top1"])


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is(config, tmp_path):
    """Its metrics are returned, and its clock does not advance."""
    first = config.copy_and_resolve_references()
    first.stages = ("vision",)
    metrics = run(first, tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    assert run(first, tmp_path / "run") == metrics
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before


@pytest.mark.slow
def test_what_no_pattern_chooses_is_held(config, datasets):
    """They are not in the state, have no moments, and the loss is that of the whole model."""
    other = config.copy_and_resolve_references()
    encoder = pretrained_encoder(other)
    language = pretrained(other.start_from.language, "language_model")
    start = stages.assistant_start(other, datasets, {"vit": encoder[0]}, language, encoder)
    free = stages.assistant_stage(other, datasets, start)
    other.assistant.update(trainable=("**", "!vit/**"), rates=())
    held = stages.assistant_stage(other, datasets, start)
    assert "vit" in free.params and "vit" not in held.params
    jax.tree.map(np.testing.assert_array_equal, stages.whole(held.params, held), start.params)
    batch = device_fields(free.batches[0])
    losses = [
        jax.jit(stage.objective.loss)(
            stage.params, stage.held, batch, stage.objective.counts(batch), None, jnp.int32(2)
        )[0]
        for stage in (free, held)
    ]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_an_assistant_can_start_from_the_encoder_of_another_run(config, tmp_path):
    """Its frozen layers are those that run started from."""
    first = config.copy_and_resolve_references()
    first.stages = ("vision",)
    run(first, tmp_path / "vision")
    second = config.copy_and_resolve_references()
    second.stages = ("assistant",)
    second.start_from.vision = str(tmp_path / "vision")
    second.text_encoder = "embeddings"
    metrics = run(second, tmp_path / "run")
    wanted = split_stem(
        load(config.start_from.vision).tree["vit"], VitConfig(**hashable(config.vit))
    )
    jax.tree.map(np.testing.assert_array_equal, pretrained_encoder(second), wanted)
    # Without a language model between question and answer, its adapters have no effect.
    for name in ("top1", "macro_f1"):
        assert metrics[f"classification_zero_b.{name}"] == metrics[f"classification.{name}"]


def test_a_config_that_cannot_be_is_refused(config, tmp_path):
    """Shifts of states, a missing encoder, more layers than exist."""
    other = config.copy_and_resolve_references()
    other.image.augmentation.shift = 4
    with pytest.raises(ConfigError, match=r"image\.augmentation\.shift: must be 0"):
        check(other)
    other = config.copy_and_resolve_references()
    other.start_from.vision = ""
    with pytest.raises(ConfigError, match=r"start_from\.vision: must be converted weights"):
        check(other)
    other = config.copy_and_resolve_references()
    other.vit.frozen_layers = 99
    with pytest.raises(ConfigError, match=r"vit\.frozen_layers must be in 0\.\.vit\.layers"):
        check(other)
    plain = get_config()
    plain.stages = ("vision",)
    run(plain, tmp_path / "plain")
    other = config.copy_and_resolve_references()
    other.start_from.vision = str(tmp_path / "plain")
    with pytest.raises(ConfigError, match="neither is nor starts from any"):
        pretrained_encoder(other)
