"""Sizes, lengths and names in foreign files are checked before anything of them is made."""

import json

import numpy as np
import pytest
from convert_errors import change, fails, shard
from gguf_files import write_gguf
from reference_models import PIXELS, TINY_VIT, tiny_folder
from safetensors.numpy import save_file

from slava_jax.convert.reading import read
from slava_jax.convert.vision import vit


@pytest.fixture
def folder(tmp_path):
    return tiny_folder(tmp_path / "theirs")


@pytest.mark.parametrize(
    "shard_name",
    ["../other/model.safetensors", "/model.safetensors", "a/b.safetensors", "..", "",
     ".safetensors", "C:\\model.safetensors", "model.bin", "a\0.safetensors",
     "n" * 300 + ".safetensors"],
)  # fmt: skip
def test_an_index_that_leads_elsewhere(folder, capsys, shard_name):
    """Only files of the folder are opened, whatever the index says."""
    weight_map = shard(folder)
    (folder.parent / "other").mkdir()
    (folder / "model-00001-of-00002.safetensors").rename(
        folder.parent / "other" / "model.safetensors"
    )
    for held in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        changed = {n: shard_name if f == held else f for n, f in weight_map.items()}
        change(folder / "model.safetensors.index.json", weight_map=changed)
        fails(folder, capsys, "index.json: weight_map", "not the name of a .safetensors file")


def test_shards_that_are_links(folder, tmp_path):
    """As in Hugging Face's cache, whose links lead out of the folder."""
    shard(folder)
    (tmp_path / "blobs").mkdir()
    for path in sorted(folder.glob("*.safetensors")):
        blob = path.rename(tmp_path / "blobs" / path.stem)
        path.symlink_to(blob)
    assert read(folder).configs["language_model"].layers == 3


@pytest.mark.parametrize(
    "key",
    ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
     "num_key_value_heads", "head_dim"],
)  # fmt: skip
@pytest.mark.parametrize("size", [10**7, 2**31 - 1, 10**29, 10**400])
def test_a_size_beyond_the_file(folder, capsys, key, size):
    """Nothing of that size is made: neither a table nor a vocabulary."""
    change(folder / "config.json", **{key: size})
    fails(folder, capsys, f"config.json: {key}")


@pytest.mark.parametrize(
    ("key", "size"),
    [("image_size", 10**6), ("image_size", 10**29), ("num_hidden_layers", 10**9),
     ("patch_size", 10**9), ("num_channels", 10**9)],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["dinov2", "clip_vision_model"])
def test_a_size_beyond_a_vision_encoder(tmp_path, capsys, key, size, kind):
    folder = tmp_path / "theirs"
    folder.mkdir()
    settings = {"model_type": kind, **TINY_VIT, key: size}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    save_file({"layernorm.bias": np.zeros(16, np.float32)}, folder / "model.safetensors")
    fails(folder, capsys, key)


def test_an_image_size_without_end(tmp_path):
    """Of the command: the positions would fill the memory."""
    with pytest.raises(ValueError, match="--image_size: must be 1 or more and at most 256 patches"):
        vit(TINY_VIT, PIXELS, [], 10**6)


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"],
)
def test_nesting_without_end(folder, capsys, name):
    """An error like any other."""
    if "index" in name:
        shard(folder)
    (folder / name).write_text('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}")
    fails(folder, capsys, str(folder))


@pytest.mark.parametrize("token", ["", "</S>", 3, ["</s>"], {}])
@pytest.mark.parametrize("name", ["eos_token", "unk_token", "bos_token"])
def test_a_special_token_that_is_none(folder, capsys, name, token):
    """transformers takes another id for it, or a row that was never trained."""
    change(folder / "tokenizer_config.json", **{name: token})
    fails(folder, capsys, "theirs", name)


@pytest.mark.parametrize("of", [2, 3])
def test_a_part_of_a_split_gguf(tmp_path, capsys, of):
    """The first, which has all fields but few tensors, is recognised as well."""
    path = write_gguf(tmp_path / "model-00001-of-00002.gguf", "F16", fields={"split.count": of})
    fails(path, capsys, f"model-00001-of-00002.gguf: one of {of} parts", "llama-gguf-split --merge")


@pytest.mark.parametrize("length", [2**23, 2**40, 2**63, 2**64 - 1])
@pytest.mark.parametrize("name", ["tokens", "token_type"])
def test_a_gguf_list_without_end(tmp_path, capsys, name, length):
    """Its length is compared with the file before it is read."""
    path = write_gguf(tmp_path / "model.gguf", "F16")
    raw = path.read_bytes()
    at = raw.index(key := f"tokenizer.ggml.{name}".encode()) + len(key) + 8  # two types, uint32
    path.write_bytes(raw[:at] + length.to_bytes(8, "little") + raw[at + 8 :])
    fails(path, capsys, "model.gguf: not a GGUF file, or truncated", f"a list of {length} entries")


@pytest.mark.parametrize(
    ("name", "value"),
    [("block_count", 2**31 - 1), ("embedding_length", 2**30), ("feed_forward_length", 2**30),
     ("attention.head_count", 2**30), ("attention.head_count", 0), ("block_count", 0.5),
     ("rope.freq_base", float("nan")), ("attention.layer_norm_rms_epsilon", -1.0)],
)  # fmt: skip
def test_a_gguf_size_beyond_the_file(tmp_path, capsys, name, value):
    path = write_gguf(tmp_path / "model.gguf", "F16", fields={f"llama.{name}": value})
    fails(path, capsys, f"model.gguf: a field has an invalid value: llama.{name}")
