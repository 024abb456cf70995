"""Bad input ends in one error that names the file or key and the remedy."""

import json

import numpy as np
import pytest
from convert_errors import change, fails, shard
from gguf_files import write_gguf
from reference_models import PIXELS, TINY_VIT, tiny_folder
from safetensors.numpy import load_file, save_file

from slava_jax.convert.gguf import read_gguf
from slava_jax.convert.pretrained import load, write
from slava_jax.convert.reading import read
from slava_jax.convert.rules import ConvertError
from slava_jax.convert.vision import vit


@pytest.fixture
def folder(tmp_path):
    return tiny_folder(tmp_path / "theirs")


def test_a_setting_that_is_given_twice(folder, capsys):
    path = folder / "config.json"
    path.write_text('{"hidden_size": 8, ' + path.read_text().lstrip()[1:])
    fails(folder, capsys, "config.json: cannot be read as JSON", "'hidden_size'", "twice")


def test_shards_that_are_whole_convert(folder, tmp_path):
    """Ensures that the cases below fail for the stated reason."""
    shard(folder)
    write(read(folder), tmp_path / "ours")
    assert load(tmp_path / "ours").configs["language_model"].layers == 3


def test_a_shard_that_is_not_there(folder, capsys):
    """The index lists it."""
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    fails(folder, capsys, "model-00002-of-00002.safetensors", "index.json", "download")


def test_a_shard_that_the_index_does_not_name(folder, capsys):
    """Its tensors would be missing, or belong to another model."""
    weight_map = {n: f for n, f in shard(folder).items() if "00001" in f}
    change(folder / "model.safetensors.index.json", weight_map=weight_map)
    fails(folder, capsys, "does not list model-00002-of-00002.safetensors")


def test_a_tensor_that_the_index_puts_elsewhere(folder, capsys):
    """Index and shard come from different downloads."""
    weight_map = shard(folder)
    weight_map["model.norm.weight"] = "model-00001-of-00002.safetensors"
    change(folder / "model.safetensors.index.json", weight_map=weight_map)
    fails(folder, capsys, "00001-of-00002.safetensors", "model.norm.weight")


def test_a_file_cut_short(folder, capsys):
    """As after an interrupted download."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    fails(folder, capsys, "model.safetensors: damaged or truncated", "again")


def test_a_tensor_of_the_wrong_shape(folder, capsys):
    """The config has a different MLP width."""
    change(folder / "config.json", intermediate_size=50)
    fails(folder, capsys, "model.layers.0.mlp.gate_proj.weight: is [48, 32], must be [50, 32]")


def test_tensors_of_another_model(folder, capsys):
    """An attention bias that the config does not mention, and a missing head."""
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    tensors["model.layers.1.self_attn.q_proj.bias"] = np.zeros(32, np.float32)
    save_file(tensors, folder / "model.safetensors")
    fails(folder, capsys, "lm_head.weight", "model.layers.1.self_attn.q_proj.bias", "missing")


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"model_type": "mistral"}, ("config.json", "'mistral'", "llama")),
        ({"model_type": None}, ("config.json", "None")),
        ({"attention_bias": True}, ("attention_bias",)),
        ({"mlp_bias": True}, ("mlp_bias",)),
        ({"hidden_act": "gelu"}, ("hidden_act",)),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, ("rope type",)),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, ("low_freq_factor",)),
        ({"num_key_value_heads": 3}, ("kv_heads must divide",)),
        ({"hidden_size": None}, ("hidden_size", "incomplete")),
        ({"hidden_size": "32"}, ("config.json: hidden_size", "'32'")),
        ({"hidden_size": 4}, ("head_dim", "even")),
        ({"num_attention_heads": 0}, ("num_attention_heads", "1 or more")),
        ({"rope_scaling": "linear"}, ("rope_scaling", "'linear'")),
        (
            {"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": {"type": "linear"}},
            ("rope type",),
        ),
        ({"rope_parameters": {"rope_theta": "x"}}, ("rope_theta", "'x'")),
        (
            {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"rope_type": "llama3"}},
            ("rope_type: given twice with different values",),
        ),
        (
            {
                "rope_parameters": {"original_max_position_embeddings": 64},
                "original_max_position_embeddings": 32,
            },
            ("original_max_position_embeddings: given twice",),
        ),
        ({"tie_word_embeddings": True}, ("lm_head.weight differs from it", "tie_word_embeddings")),
        ({"rms_norm_eps": 0}, ("rms_norm_eps", "above 0")),
        ({"rms_norm_eps": 10**29}, ("rms_norm_eps", "below 1")),
        ({"quantization_config": {"bits": 4}}, ("already quantised",)),
    ],
)
def test_a_config_of_another_architecture(folder, capsys, settings, parts):
    """Or of a Llama with an unsupported setting."""
    change(folder / "config.json", **settings)
    fails(folder, capsys, *parts)


@pytest.mark.parametrize(
    ("name", "settings", "parts"),
    [
        ("config.json", {"hidden_act": "relu"}, ("hidden_act", "'relu'")),
        ("config.json", {"image_size": [32, 64]}, ("image_size", "squares")),
        ("config.json", {"image_size": 36}, ("multiple of vit.patch",)),
        ("config.json", {"model_type": "dinov2", "use_swiglu_ffn": True}, ("use_swiglu_ffn",)),
        ("preprocessor_config.json", {"image_mean": None}, ("preprocessor_config", "image_mean")),
        ("config.json", {"num_attention_heads": 0}, ("num_attention_heads",)),
        ("config.json", {"qkv_bias": False}, ("qkv_bias",)),
        ("config.json", {"model_type": "clip", "vision_config": 3}, ("vision_config",)),
        ("preprocessor_config.json", {"rescale_factor": 1.0}, ("rescale_factor",)),
        ("preprocessor_config.json", {"rescale_factor": "a"}, ("rescale_factor", "'a'")),
        ("preprocessor_config.json", {"image_mean": 0.5}, ("image_mean", "list of numbers")),
        ("preprocessor_config.json", {"image_std": [0.5, 0, 0.5]}, ("image_std", "above 0")),
    ],
)
def test_a_vision_encoder_that_ours_cannot_be(tmp_path, capsys, name, settings, parts):
    """The error names each setting."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "vit", **TINY_VIT}))
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    save_file({"layernorm.bias": np.zeros(16, np.float32)}, folder / "model.safetensors")
    fails(folder, capsys, "missing from the file")
    change(folder / name, **settings)
    fails(folder, capsys, *parts)


def test_null_is_no_value(folder, tmp_path, capsys):
    """Refused, with its key, where a number is needed; optional settings may be null."""
    path = folder / "config.json"
    held = json.loads(path.read_text())
    for key in ("hidden_size", "rms_norm_eps"):
        path.write_text(json.dumps({**held, key: None}))
        fails(folder, capsys, f"config.json: {key}", "None")
    path.write_text(json.dumps({**held, "rope_parameters": None, "rope_theta": None}))
    fails(folder, capsys, "config.json: rope_theta", "None")
    path.write_text(json.dumps({**held, "quantization_config": None, "head_dim": None}))
    assert read(folder).configs["language_model"].head_width == 8


@pytest.mark.parametrize("text", ["{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_names_no_files(folder, capsys, text):
    """Empty, a list, a number instead of a name."""
    shard(folder)
    (folder / "model.safetensors.index.json").write_text(text)
    fails(folder, capsys, "model.safetensors.index.json", "weight_map")


def test_an_image_size_that_cannot_be(folder, tmp_path):
    """Below 1 for a vision encoder; any for a language model."""
    gguf = write_gguf(tmp_path / "model.gguf", "F16")
    for path, size in ((folder, 0), (folder, -8), (folder, 32), (gguf, 32)):
        with pytest.raises(ConvertError, match="--image_size"):
            read(path, size)
    for size in (0, -8):
        with pytest.raises(ValueError, match="--image_size"):
            vit(TINY_VIT, PIXELS, [], size)


def test_pixels_that_are_not_rescaled():
    """(x - 127.5) / 127.5 is (x / 255 - 0.5) / 0.5, and x is (x / 255 - 0) / (1 / 255)."""
    pixels = {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3}
    config, _ = vit(TINY_VIT, pixels, [], None)
    assert config.mean == config.deviation == (0.5, 0.5, 0.5)
    config, _ = vit(TINY_VIT, {"do_rescale": False, "do_normalize": False}, [], None)
    assert (config.mean, config.deviation) == ((0.0,), (1 / 255,))


@pytest.mark.parametrize("text", ["{", "[]", None])
def test_a_config_that_cannot_be_read(folder, capsys, text):
    """Truncated, not an object, missing."""
    (folder / "config.json").unlink()
    if text:
        (folder / "config.json").write_text(text)
    fails(folder, capsys, "config.json")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_never_opened(folder, capsys, name):
    """In a folder or alone; the error says how to convert them to safetensors."""
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"never read")
    for path in (folder, folder / name):
        fails(path, capsys, name, "pickle", "save_pretrained", "safetensors")


def test_among_pickles_the_weights_are_named(folder, capsys):
    (folder / "model.safetensors").unlink()
    for name in ("optimizer.bin", "optimizer.pt", "pytorch_model-00001-of-00002.bin"):
        (folder / name).write_bytes(b"never read")
    fails(folder, capsys, "pytorch_model-00001-of-00002.bin", "Copy the tokenizer")


def test_weights_as_meta_gave_them_out(folder, capsys):
    (folder / "config.json").unlink()
    (folder / "params.json").write_text("{}")
    (folder / "consolidated.00.pth").write_bytes(b"never read")
    fails(folder, capsys, "Meta", "Hugging Face folder")


def test_a_quantised_tensor_is_named(folder, capsys):
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].astype(np.int8)
    save_file(tensors, folder / "model.safetensors")
    fails(folder, capsys, f"{name}: is I8, not one of F32, F16, BF16")


def test_neither_folder_nor_file_that_is_known(folder, capsys):
    """Missing, without weights, or another kind of file."""
    fails(folder / "nowhere", capsys, "nowhere")
    fails(folder / "config.json", capsys, ".gguf")
    (folder / "model.safetensors").unlink()
    fails(folder, capsys, "neither model.safetensors nor model.safetensors.index.json")


def test_a_tokenizer_without_an_end_token(folder, capsys):
    """In a folder, where the error names the setting, and in a GGUF file."""
    change(folder / "tokenizer_config.json", eos_token=None)
    fails(folder, capsys, "no end token", "eos_token", "tokenizer_config.json")
    path = write_gguf(folder.parent / "model.gguf", "F16", drop=("eos",))
    fails(path, capsys, "model.gguf", "no end token")


def test_a_tokenizer_that_does_not_fit_the_table(folder, capsys):
    """More tokens than rows; no tokenizer."""
    change(folder / "tokenizer_config.json", extra_special_tokens=[f"<{i}>" for i in range(9)])
    fails(folder, capsys, "tokenizer has 273 tokens", "270 rows")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    fails(folder, capsys, "tokenizer", "tokenizer.json")


def test_a_token_that_is_called_as_a_row_without_one(folder, capsys):
    """Two rows would share a token, and the assistant's tokens would land on rows of the table."""
    path = folder / "tokenizer.json"
    held = json.loads(path.read_text())
    count = len(held["model"]["vocab"])
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    token = {"id": count, "content": f"<unused_{count + 1}>", "special": True, **flags}
    change(path, added_tokens=[*held["added_tokens"], token])
    fails(folder, capsys, "ids are not 0 to 269", "<unused_N>")


def test_a_gguf_of_another_architecture(tmp_path, capsys):
    """With its own tensor names and fields."""
    path = write_gguf(tmp_path / "model.gguf", "F16", architecture="qwen2")
    fails(path, capsys, "model.gguf", "'qwen2'", "'llama'")


@pytest.mark.parametrize("kept", [0, 3, 100, 10_000, -100])
def test_a_gguf_cut_short(tmp_path, capsys, kept):
    """Truncated anywhere: header, fields, tensor list, tensors."""
    path = write_gguf(tmp_path / "model.gguf", "Q8_0")
    path.write_bytes(path.read_bytes()[:kept])
    fails(path, capsys, "model.gguf", "truncated", "again")


def test_a_gguf_that_lacks_a_tensor(tmp_path, capsys):
    """The head may be missing (it is then tied); anything else is an error."""
    path = write_gguf(tmp_path / "tied.gguf", "F16", drop=("output.weight",))
    assert read_gguf(path).configs["language_model"].tie_embeddings
    path = write_gguf(tmp_path / "model.gguf", "F16", drop=("blk.1.ffn_up.weight",))
    fails(path, capsys, "missing from the file (1):\n  blk.1.ffn_up.weight")


def test_an_onnx_file_without_the_model(tmp_path, capsys):
    """Not ONNX, or the package onnx is missing: one error either way."""
    (tmp_path / "model.onnx").write_bytes(b"no protocol buffer")
    fails(tmp_path / "model.onnx", capsys, "model.onnx")


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window"),
        ({"model_type": "qwen3", "layer_types": ["sliding_attention"]}, "layer_types"),
        ({"model_type": "qwen3", "attention_bias": True}, "attention_bias"),
        ({"model_type": "qwen2", "rope_scaling": {"type": "mrope"}}, "rope type"),
        ({"model_type": "qwen2", "rope_scaling": {"mrope_section": [2, 1, 1]}}, "mrope_section"),
        ({"model_type": "qwen2_moe"}, "'qwen2_moe'"),
        # The biases that the config implies are not in the file.
        ({"model_type": "qwen2"}, "model.layers.0.self_attn.q_proj.bias"),
        ({"model_type": "qwen3", "head_dim": 8}, "model.layers.0.self_attn.q_norm.weight"),
        ({"model_type": "qwen3"}, "must be [512, 32]"),  # head_dim is 128 by default
    ],
)
def test_a_qwen_that_ours_cannot_be(folder, capsys, settings, part):
    change(folder / "config.json", **settings)
    fails(folder, capsys, part)
