"""LLaVA folders without torch: import and export of parts, and unsupported folders."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from reference_models import TINY_LLAVA, tiny_folder, tiny_llava, tiny_vit
from safetensors.numpy import load_file, save_file

from slava_jax.checkpoint import CheckpointError
from slava_jax.config import ConfigError, default_config
from slava_jax.convert import export, export_llava, exporting
from slava_jax.convert.huggingface import read_folder
from slava_jax.convert.pretrained import described, load, write
from slava_jax.convert.reading import read
from slava_jax.convert.rules import ConvertError
from slava_jax.models.connectors import ConnectorConfig
from slava_jax.train.start import pretrained, pretrained_connector, with_pretrained_shapes

TEXT = TINY_LLAVA["text_config"]


def converted(folder, to):
    write(read(folder), to)
    return load(to)


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize("settings", [{}, {"text_config": {"model_type": "qwen2"}}])
def test_three_parts_come_in_and_go_out(settings, tmp_path):
    """Every number; `<image>` becomes part of the vocabulary."""
    text = {**TINY_LLAVA["text_config"], **settings.get("text_config", {})}
    folder = tiny_llava(tmp_path / "theirs", **{**settings, "text_config": text})
    first = converted(folder, tmp_path / "first")
    assert first.configs["vit"].layers == 2 and first.configs["connector"].kind == "mlp"
    tensors = load_file(folder / "model.safetensors")
    kernel = first.tree["connector"]["second"]["kernel"]
    np.testing.assert_array_equal(kernel, tensors["multi_modal_projector.linear_2.weight"].T)
    exporting.write_converted(tmp_path / "first", tmp_path / "out")
    second = converted(tmp_path / "out", tmp_path / "second")
    for part in ("vit", "connector"):
        assert second.configs[part] == first.configs[part]
        assert_same(second.tree[part], first.tree[part])
    blocks = [of.tree["language_model"]["blocks"] for of in (first, second)]
    assert_same(*blocks)
    exporting.write_converted(tmp_path / "second", tmp_path / "again")  # now it has an <image>
    third = converted(tmp_path / "again", tmp_path / "third")
    assert third.configs == second.configs and third.image_token == second.image_token == 270
    assert_same(third.tree, second.tree)


def test_a_projector_of_one_layer(tmp_path):
    """With the identity as second layer, as exported, or without; others are refused."""
    folder = tiny_llava(tmp_path / "theirs", projector_hidden_act="linear")
    first = converted(folder, tmp_path / "first")
    assert first.configs["connector"] == ConnectorConfig("linear")
    exporting.write_converted(tmp_path / "first", tmp_path / "out")
    path = tmp_path / "out/model.safetensors"
    tensors = load_file(path)
    name = "multi_modal_projector.linear_2.weight"
    np.testing.assert_array_equal(tensors[name], np.eye(32))
    assert_same(
        converted(tmp_path / "out", tmp_path / "second").tree["connector"], first.tree["connector"]
    )
    save_file({**tensors, name: 2 * tensors[name]}, path)
    with pytest.raises(ConvertError, match="linear_2 is not the identity"):
        read_folder(tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"vision_feature_layer": [-2, -1]}, "vision_feature_layer"),
        ({"vision_feature_layer": 0}, "not the output of any of 3 layers"),
        ({"vision_feature_layer": -5}, "not the output of any of 3 layers"),
        ({"vision_feature_select_strategy": "cls"}, "must be 'default' or 'full'"),
        (
            {"projector_hidden_act": "relu"},
            "projector_hidden_act: must be 'gelu' or 'linear', is 'relu'",
        ),
        ({"multimodal_projector_bias": False}, "multimodal_projector_bias"),
        (
            {"vision_config": {"model_type": "siglip_vision_model"}},
            "'clip_vision_model' is supported",
        ),
        ({"vision_config": None}, "'clip_vision_model' is supported"),
        ({"text_config": {"model_type": "mistral"}}, "'mistral' is not supported"),
        ({"text_config": {"model_type": "llama"}}, "[270, 32], must be [32000, 4096]"),
        ({"text_config": {"model_type": ["llama"]}}, "['llama'] is not supported"),
        ({"text_config": {**TEXT, "layer_types": 5}}, "layer_types"),
        ({"text_config": {**TEXT, "layer_types": [["full_attention"]]}}, "layer_types"),
        ({"text_config": {**TEXT, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"text_config": {**TEXT, "quantization_config": {"bits": 4}}}, "quantization_config"),
        (
            {"text_config": {**TEXT, "rope_scaling": {"type": "linear", "rope_type": "default"}}},
            "type, rope_type: given twice",
        ),
        (
            {
                "text_config": {
                    **TEXT,
                    "rope_scaling": {"type": "linear", "factor": 2.0},
                    "rope_parameters": {"rope_type": "default"},
                }
            },
            "rope_type: given twice",
        ),
        ({"image_token_id": 265}, "image_token_id, image_token_index: must be the same"),
        ({"vision_feature_layer": -1}, "vision_tower.encoder.layers.2.layer_norm1.weight"),
    ],
)
def test_a_llava_that_ours_cannot_be(settings, part, tmp_path):
    """The error names each setting; sizes missing from text_config are transformers' defaults."""
    folder = tiny_llava(tmp_path / "theirs")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    if part.startswith("vision_tower"):
        tensors = load_file(folder / "model.safetensors")
        del tensors[part]
        save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ConvertError) as error:
        converted(folder, tmp_path / "ours")
    assert part in str(error.value), error.value
    assert not (tmp_path / "ours").exists()


def test_a_tensor_that_no_part_needs(tmp_path):
    folder = tiny_llava(tmp_path / "theirs")
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "image_newline": np.zeros(32, np.float32)}, folder / "model.safetensors")
    with pytest.raises(ConvertError, match=r"no row of the table \(1\):\n  image_newline"):
        converted(folder, tmp_path / "ours")


def test_a_run_takes_the_parts_it_names(tmp_path):
    """The shapes of all three parts come from the folder; missing parts are named."""
    converted(tiny_llava(tmp_path / "theirs"), tmp_path / "llava")
    converted(tiny_folder(tmp_path / "llama"), tmp_path / "text")
    config = default_config()
    config.stages = ("assistant",)
    with config.unlocked():
        config.start_from.connector = str(tmp_path / "llava")
    config.start_from.update(vision=str(tmp_path / "llava"), language=str(tmp_path / "llava"))
    config.connector.update(kind="linear", dropout=0.25)
    shapes = with_pretrained_shapes(config)
    assert shapes.vit.layers == 2 and not shapes.vit.final_norm
    assert (shapes.connector.kind, shapes.connector.dropout) == ("mlp", 0.25)
    assert shapes.language_model.width == 32
    assert set(pretrained_connector(config)) == {"first", "second"}
    assert set(pretrained(str(tmp_path / "llava"), "vit")) == {"vit"}
    with pytest.raises(CheckpointError, match="has no connector, only language_model"):
        pretrained(str(tmp_path / "text"), "connector")
    config.start_from.vision = str(tmp_path / "text")
    with pytest.raises(ConfigError, match="has no vit, only language_model"):
        with_pretrained_shapes(config)


def test_an_encoder_that_no_llava_has(tmp_path):
    """The error lists every reason, and nothing is written."""
    write(tiny_vit(), tmp_path / "vit")
    converted(tiny_llava(tmp_path / "theirs"), tmp_path / "llava")
    held, vit = load(tmp_path / "llava"), load(tmp_path / "vit")
    text = export.base_model(held.configs["language_model"], held.tree["language_model"])
    tree = {**held.tree, **vit.tree}
    connector = held.configs["connector"]
    with pytest.raises(ConvertError, match="no pre_norm, patch_bias, final_norm"):
        export_llava.llava_model(
            vit.configs["vit"], connector, text, export.reader(tree), held.tokenizer
        )
    gradients = dataclasses.replace(held.configs["vit"], frontend="gradients")
    with pytest.raises(ConvertError, match="frontend 'gradients'"):
        export_llava.llava_model(gradients, connector, text, export.reader(tree), held.tokenizer)


def test_described_reads_no_array(tmp_path):
    write(read_folder(tiny_llava(tmp_path / "theirs")), tmp_path / "ours", quantized=True)
    configs, quantized = described(tmp_path / "ours")
    assert list(configs) == ["vit", "connector", "language_model"] and quantized
