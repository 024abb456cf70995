"""An assistant that starts from converted weights: an int8 Llama and a ViT of another library's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_models import tiny_folder, tiny_vit
from tiny_run import get_config

from slava_jax.config import ConfigError, check
from slava_jax.convert.huggingface import read_folder
from slava_jax.convert.peft import Lora, write_peft
from slava_jax.convert.pretrained import load, write
from slava_jax.convert.rules import ConvertError
from slava_jax.inference.assistant import Assistant, load_assistant
from slava_jax.train import stages
from slava_jax.train.loop import run
from slava_jax.train.materials import prepare
from slava_jax.train.start import base_place, pretrained, pretrained_encoder


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Two folders of converted weights."""
    folder = tmp_path_factory.mktemp("weights")
    write(tiny_vit(), folder / "vit")
    write(read_folder(tiny_folder(folder / "theirs")), folder / "llama", quantized=True)
    return folder


@pytest.fixture(scope="module")
def config(converted):
    """A config that describes them, as a file in configs/ would."""
    config = get_config()
    config.stages = ("assistant",)
    config.start_from.update(vision=str(converted / "vit"), language=str(converted / "llama"))
    llama = dataclasses.asdict(load(converted / "llama").config)
    del llama["vocab_size"]
    config.llama.update(llama)
    config.vit.update(dataclasses.asdict(load(converted / "vit").config))
    return config


@pytest.fixture(scope="module")
def start(config, tmp_path_factory):
    check(config)
    workdir = tmp_path_factory.mktemp("run")
    materials = prepare(config, workdir)
    encoder = pretrained_encoder(config)
    language = pretrained(config, "language", len(materials.tokenizer))
    return materials, stages.assistant_start(config, materials, {"vit": encoder[0]}, language)


def test_the_weights_are_those_that_were_converted(start, converted):
    """int8 kernels as they are on disk, the ViT to train on; the adapters are new."""
    _, held = start
    wanted = load(converted / "llama").tree["llama"]["blocks"]["attention"]["q"]
    found = held.frozen["llama"]["blocks"]["attention"]["q"]
    np.testing.assert_array_equal(found["kernel"], wanted["kernel"])
    np.testing.assert_array_equal(found["scale"], wanted["scale"])
    assert found["kernel"].dtype == jnp.int8 and "lora_a" in found
    wanted = load(converted / "vit").tree["vit"]
    jax.tree.map(np.testing.assert_array_equal, dict(held.params["vit"]), wanted)


def test_it_speaks_the_models_own_tokens(start):
    """The tokenizer came along, and an untrained assistant answers with it."""
    materials, held = start
    assert len(materials.tokenizer) == held.model.config.llama.vocab_size == 270
    variables = {"params": held.params, "frozen": held.frozen}
    assistant = Assistant(held.model, variables, materials.tokenizer)
    image = np.zeros((32, 32, 3), np.uint8)
    memory = assistant.remember(assistant.prompts([[image]], ["What is this?"]))
    assert isinstance(assistant.answers(memory, 4)[0], str)


def test_a_whole_run_ends_with_its_report(config, tmp_path):
    """Trains, evaluates beside the untrained assistant, and writes what ask reads."""
    metrics = run(config, tmp_path / "run")
    assert "classification_untrained.top1" in metrics
    assert "classification_vit.top1" not in metrics  # a pretrained encoder has no classifier
    assert (tmp_path / "run" / "report.html").exists()
    assert load_assistant(tmp_path / "run").model.config.llama.vocab_size == 270


def test_a_config_of_another_model_is_refused(config, start):
    """Every setting that differs is named; int8 weights are no float weights."""
    other = config.copy_and_resolve_references()
    other.unlock()
    other.llama.update(rope_theta=5.0, mlp_width=40)
    other.quantized = False
    with pytest.raises(ConfigError) as error:
        pretrained(other, "language", 270)
    text = str(error.value)
    assert "llama.rope_theta: 10000.0 in start_from.language, 5.0 in the config" in text
    assert "llama.mlp_width: 48" in text and "quantized: False" in text
    other.start_from.vision = other.start_from.language
    with pytest.raises(ConfigError, match="holds a LlamaConfig, not a vit"):
        pretrained(other, "vision", 270)


def test_the_base_stays_where_it_was_converted(config, converted):
    """Unless the run itself makes it int8, or trains it."""
    assert base_place(config) == str(converted / "llama")
    other = config.copy_and_resolve_references()
    other.quantized = False
    assert base_place(other) is None
    other.update(quantized=True, stages=("language", "assistant"))
    assert base_place(other) is None


def test_a_lora_of_peft_is_where_the_adapters_start(config, start, tmp_path):
    """As the first expert, its A in the place of the one that was drawn."""
    materials, held = start
    size, rng = held.model.config, np.random.default_rng(0)
    attention = held.params["llama"]["blocks"]["attention"]
    shapes = {name: attention[name]["lora_b"].shape for name in "qkvo"}
    frozen = held.frozen["llama"]["blocks"]["attention"]
    a = {n: rng.normal(size=frozen[n]["lora_a"].shape).astype(np.float32) for n in "qkvo"}
    b = {n: rng.normal(size=(s[0], *s[2:])).astype(np.float32) for n, s in shapes.items()}
    write_peft(Lora(size.adapter.r_max, size.adapter.alpha, a, b), size.llama, tmp_path / "lora")
    other = config.copy_and_resolve_references()
    other.start_from.adapter = str(tmp_path / "lora")
    language = pretrained(other, "language", 270)
    found = stages.assistant_start(other, materials, None, language)
    for n in "qkvo":
        trained = found.params["llama"]["blocks"]["attention"][n]["lora_b"]
        kept = found.frozen["llama"]["blocks"]["attention"][n]
        np.testing.assert_array_equal(kept["lora_a"], a[n])
        np.testing.assert_array_equal(kept["kernel"], frozen[n]["kernel"])
        np.testing.assert_allclose(trained[:, 0], b[n], rtol=1e-6)
        assert not np.any(trained[:, 1:])


def test_a_lora_that_does_not_fit_is_refused_before_anything_is_written(config, tmp_path):
    """And not after hours of other stages."""
    other = config.copy_and_resolve_references()
    other.start_from.adapter = str(tmp_path / "lora")
    with pytest.raises(ConvertError, match=r"adapter_config\.json: is not there"):
        run(other, tmp_path / "run")
    assert not (tmp_path / "run").exists()
