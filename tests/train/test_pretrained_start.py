"""An assistant that starts from converted weights: an int8 Llama and a ViT."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_models import tiny_folder, tiny_vit
from tiny_run import get_config

from slava_jax.config import ConfigError
from slava_jax.convert.huggingface import read_folder
from slava_jax.convert.peft import Lora, write_peft
from slava_jax.convert.pretrained import load, write
from slava_jax.convert.rules import ConvertError
from slava_jax.inference.assistant import Assistant, load_assistant
from slava_jax.train import stages
from slava_jax.train.datasets import prepare
from slava_jax.train.loop import run
from slava_jax.train.settings import check
from slava_jax.train.start import (
    base_place,
    pretrained,
    pretrained_encoder,
    with_pretrained_shapes,
)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Two folders of converted weights."""
    folder = tmp_path_factory.mktemp("weights")
    write(tiny_vit(), folder / "vit")
    write(read_folder(tiny_folder(folder / "theirs")), folder / "llama", quantized=True)
    return folder


@pytest.fixture(scope="module")
def config(converted):
    """A config that starts from them, without repeating their shapes."""
    config = get_config()
    config.stages = ("assistant",)
    config.start_from.update(vision=str(converted / "vit"), language=str(converted / "llama"))
    return with_pretrained_shapes(config)


@pytest.fixture(scope="module")
def start(config, tmp_path_factory):
    check(config)
    workdir = tmp_path_factory.mktemp("run")
    datasets = prepare(config, workdir)
    encoder = pretrained_encoder(config)
    language = pretrained(config.start_from.language, "language_model")
    return datasets, stages.assistant_start(config, datasets, {"vit": encoder[0]}, language)


def test_the_weights_are_those_that_were_converted(start, converted):
    """int8 kernels as on disk, a trainable ViT; the adapters are new."""
    _, held = start
    wanted = load(converted / "llama").tree["language_model"]["blocks"]["attention"]["q"]
    found = held.frozen["language_model"]["blocks"]["attention"]["q"]
    np.testing.assert_array_equal(found["kernel"], wanted["kernel"])
    np.testing.assert_array_equal(found["scale"], wanted["scale"])
    assert found["kernel"].dtype == jnp.int8 and "lora_a" in found
    wanted = load(converted / "vit").tree["vit"]
    jax.tree.map(np.testing.assert_array_equal, dict(held.params["vit"]), wanted)


def test_it_speaks_the_models_own_tokens(start):
    """The tokenizer is included, and an untrained assistant answers with it."""
    datasets, held = start
    assert len(datasets.tokenizer) == held.model.config.language_model.vocab_size == 270
    variables = {"params": held.params, "frozen": held.frozen}
    assistant = Assistant(held.model, variables, datasets.tokenizer)
    image = np.zeros((32, 32, 3), np.uint8)
    prompts = assistant.prompts([[image]], ["What is this?"])
    assert isinstance(assistant.answers(prompts, 4)[0], str)


@pytest.mark.slow
def test_a_whole_run_ends_with_its_report(config, tmp_path):
    """Trains, evaluates with the untrained control, and writes what ask reads."""
    metrics = run(config, tmp_path / "run")
    assert "classification_untrained.top1" in metrics
    assert "classification_vit.top1" not in metrics  # a pretrained encoder has no classifier
    assert (tmp_path / "run" / "report.html").exists()
    assert load_assistant(tmp_path / "run").model.config.language_model.vocab_size == 270


def test_shapes_are_read_from_the_converted_folders(config, converted):
    """Regardless of the config, except for the number of frozen layers."""
    other = config.copy_and_resolve_references()
    other.language_model.update(rope_theta=5.0, mlp_width=40)
    other.vit.update(width=99, frozen_layers=1)
    found = with_pretrained_shapes(other)
    llama = dataclasses.asdict(load(converted / "llama").configs["language_model"])
    assert {**found.language_model, "vocab_size": 270} == llama
    vit = dataclasses.asdict(load(converted / "vit").configs["vit"])
    assert found.vit.to_dict() == {**vit, "frozen_layers": 1}
    own = get_config()  # trains from scratch: nothing is read
    assert with_pretrained_shapes(own) == own


def test_weights_of_another_kind_are_refused(config):
    """A language model instead of a vision encoder, and int8 instead of float weights."""
    other = config.copy_and_resolve_references()
    other.quantized = False
    with pytest.raises(ConfigError, match=r"start_from\.language: the kernels in .* are int8"):
        with_pretrained_shapes(other)
    other = config.copy_and_resolve_references()
    other.start_from.vision = other.start_from.language
    with pytest.raises(ConfigError, match="has no vit, only language_model"):
        with_pretrained_shapes(other)


def test_the_base_stays_where_it_was_converted(config, converted):
    """Unless the run itself quantizes or trains it."""
    assert base_place(config) == str(converted / "llama")
    other = config.copy_and_resolve_references()
    other.quantized = False
    assert base_place(other) is None
    other.update(quantized=True, stages=("language", "assistant"))
    assert base_place(other) is None


def test_a_lora_of_peft_is_where_the_adapters_start(config, start, tmp_path):
    """As the first expert, with its A instead of the random one."""
    datasets, held = start
    size, rng = held.model.config, np.random.default_rng(0)
    attention = held.params["language_model"]["blocks"]["attention"]
    shapes = {name: attention[name]["lora_b"].shape for name in "qkvo"}
    frozen = held.frozen["language_model"]["blocks"]["attention"]
    a = {n: rng.normal(size=frozen[n]["lora_a"].shape).astype(np.float32) for n in "qkvo"}
    b = {n: rng.normal(size=(s[0], *s[2:])).astype(np.float32) for n, s in shapes.items()}
    write_peft(
        Lora(size.adapter.r_max, size.adapter.alpha, a, b), size.language_model, tmp_path / "lora"
    )
    other = config.copy_and_resolve_references()
    other.start_from.adapter = str(tmp_path / "lora")
    language = pretrained(other.start_from.language, "language_model")
    found = stages.assistant_start(other, datasets, None, language)
    for n in "qkvo":
        trained = found.params["language_model"]["blocks"]["attention"][n]["lora_b"]
        kept = found.frozen["language_model"]["blocks"]["attention"][n]
        np.testing.assert_array_equal(kept["lora_a"], a[n])
        np.testing.assert_array_equal(kept["kernel"], frozen[n]["kernel"])
        np.testing.assert_allclose(trained[:, 0], b[n], rtol=1e-6)
        assert not np.any(trained[:, 1:])


def test_a_lora_that_does_not_fit_is_refused_before_anything_is_written(config, tmp_path):
    """Not after hours of other stages."""
    other = config.copy_and_resolve_references()
    other.start_from.adapter = str(tmp_path / "lora")
    with pytest.raises(ConvertError, match=r"adapter_config\.json: does not exist"):
        run(other, tmp_path / "run")
    assert not (tmp_path / "run").exists()
