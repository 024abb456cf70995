"""LlavaForConditionalGeneration against transformers: import, cache, int8, export."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from reference_models import PIXELS, VOCABULARY, randomise, save_tiny_tokenizer
from safetensors.numpy import load_file, save_file
from tiny_model import random_variables

from slava_jax.convert import exporting, routing
from slava_jax.convert.huggingface import read_folder
from slava_jax.convert.peft import lora_of, read_peft
from slava_jax.convert.pretrained import load, write
from slava_jax.data.tokenizer import train_tokenizer
from slava_jax.models.connectors import ConnectorConfig
from slava_jax.models.decoder import DecoderConfig
from slava_jax.models.inline import Inline, InlineConfig
from slava_jax.models.interface import Prompt
from slava_jax.models.vit import VitConfig
from slava_jax.nn.adapters import AdapterCall, AdapterConfig, split_frozen

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

IMAGE, M = 266, 16  # the image token's id, and the tokens of an image
VISION = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8, "intermediate_size": 24,
}  # fmt: skip
TEXT = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
TEXTS = {
    "llama": lambda: transformers.LlamaConfig(**TEXT),
    "qwen2": lambda: transformers.Qwen2Config(**TEXT, tie_word_embeddings=True),
    "qwen3": lambda: transformers.Qwen3Config(**TEXT, head_dim=16),
}


def theirs(kind="llama", **settings):
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION), text_config=TEXTS[kind](),
        image_token_index=IMAGE, attn_implementation="eager", **settings,
    )  # fmt: skip
    return randomise(transformers.LlavaForConditionalGeneration(config), 0.2)


def save(model, folder: Path) -> Path:
    model.save_pretrained(folder)
    save_tiny_tokenizer(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    return folder


def convert(folder: Path, to: Path, quantized=False):
    write(read_folder(folder), to, quantized)
    return load(to)


def ours(loaded, template="plain"):
    """The model of converted weights, without adapters, and its variables."""
    quantized = loaded.quantized
    config = InlineConfig(**loaded.configs, adapter=None, quantized=quantized, template=template)
    if not quantized:
        return Inline(config), {"params": loaded.tree}
    params = {name: part for name, part in loaded.tree.items() if name != "language_model"}
    frozen = {"language_model": loaded.tree["language_model"]}
    return Inline(config), {"params": params, "frozen": frozen}


def prompt(images=1, channels=3, rows=2, size=M) -> Prompt:
    """Texts of equal length with images of `size` tokens at different places in each row."""
    rng = np.random.default_rng(1)
    length = 10 + images * size
    tokens = rng.integers(4, 260, (rows, length), dtype=np.int32)
    index = np.full((rows, length), -1, np.int32)
    for row in range(rows):
        for image in range(images):
            start = 1 + row + image * (size + 2)
            index[row, start : start + size] = image * size + np.arange(size)
    tokens[index >= 0] = IMAGE
    pixels = rng.integers(0, 256, (rows, images, 32, 32, channels), dtype=np.uint8)
    return Prompt(pixels, tokens, index, np.full(rows, length, np.int32))


def wanted(model, p: Prompt, mean, deviation):
    """Logits of transformers, float32[B, T, V]."""
    values = (p.images.reshape(-1, 32, 32, p.images.shape[-1]) / 255 - mean) / deviation
    ids, values = torch.from_numpy(p.tokens).long(), values.transpose(0, 3, 1, 2)
    with torch.no_grad():
        pixels = torch.from_numpy(values.astype(np.float32))
        return model(input_ids=ids, pixel_values=pixels).logits.numpy()


def logits(model, variables, p: Prompt, rank=0):
    apply = jax.jit(functools.partial(model.apply, method="next_token_logits"))
    return np.asarray(apply(variables, p, AdapterCall(jnp.int32(rank))))


def cached_logits(model, variables, p: Prompt, split: int):
    """Logits from token `split` on: earlier ones are prefilled, the rest decoded in two steps."""
    call = AdapterCall(jnp.int32(0))
    length = np.full(len(p.tokens), split + 1, np.int32)
    rest = p.tokens[:, split:]
    before = Prompt(p.images, p.tokens[:, : split + 1], p.image_index[:, : split + 1], length)
    state = model.apply(variables, before, rest.shape[1], call, method="prefill")
    found = []
    for piece in (rest[:, :2], rest[:, 2:]):
        out, state = model.apply(variables, piece, state, call, method="decode")
        found.append(np.asarray(out))
    return np.concatenate(found, axis=1)


MEAN, DEVIATION = (np.asarray(PIXELS[name]) for name in ("image_mean", "image_std"))


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("kind", TEXTS)
def test_the_logits_of_transformers(kind, images, tmp_path):
    """In one pass and with a cache; the vocabulary is unchanged."""
    model, p = theirs(kind), prompt(images)
    loaded = convert(save(model, tmp_path / "theirs"), tmp_path / "ours")
    assert loaded.image_token == IMAGE and len(loaded.tokenizer) == VOCABULARY
    assert set(loaded.tree) == set(loaded.configs) == {"vit", "connector", "language_model"}
    reference = wanted(model, p, MEAN, DEVIATION)
    assert reference.std() > 0.3
    mine = ours(loaded)
    np.testing.assert_allclose(logits(*mine, p), reference, atol=1e-4)
    split = p.tokens.shape[1] - 5
    np.testing.assert_allclose(cached_logits(*mine, p, split), reference[:, split:], atol=1e-4)
    black = p.replace(images=np.zeros_like(p.images))
    assert np.abs(logits(*mine, black) - reference).max() > 1e-2  # the images matter


@pytest.mark.parametrize(("layer", "layers"), [(-2, 2), (-1, 3), (-3, 1), (2, 2), (3, 3)])
def test_the_layer_that_is_read(layer, layers, tmp_path):
    """Counted from either end; the norm after the last one is never read."""
    model, p = theirs(vision_feature_layer=layer), prompt()
    loaded = convert(save(model, tmp_path / "theirs"), tmp_path / "ours")
    vit = loaded.configs["vit"]
    assert vit.layers == layers and not vit.final_norm and "norm" not in loaded.tree["vit"]
    found = logits(*ours(loaded), p)
    np.testing.assert_allclose(found, wanted(model, p, MEAN, DEVIATION), atol=1e-4)


@pytest.mark.parametrize("images", [1, 2])
def test_the_cls_token_is_read_where_the_strategy_is_full(images, tmp_path):
    """Import and export: it precedes the patches of its image."""
    model = theirs(vision_feature_select_strategy="full")
    p = prompt(images, size=M + 1)
    loaded = convert(save(model, tmp_path / "theirs"), tmp_path / "ours")
    assert loaded.configs["connector"].cls
    reference = wanted(model, p, MEAN, DEVIATION)
    np.testing.assert_allclose(logits(*ours(loaded), p), reference, atol=1e-4)
    assert ours(loaded)[0].text_form(2).image_tokens == M + 1
    exporting.write_converted(tmp_path / "ours", tmp_path / "out")
    again = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    out = p.replace(tokens=np.where(p.tokens == IMAGE, 270, p.tokens))
    found = wanted(again, out, MEAN, DEVIATION)
    np.testing.assert_allclose(found[..., :270], reference, atol=1e-4)
    assert again.config.image_seq_length == M + 1
    processor = json.loads((tmp_path / "out" / "processor_config.json").read_text())
    assert processor["vision_feature_select_strategy"] == "full"


LAYOUTS = {
    "transformers 4": {"vision_tower.": "vision_tower.vision_model."},
    "module names": {
        "vision_tower.": "model.vision_tower.",
        "multi_modal_projector.": "model.multi_modal_projector.",
        "language_model.model.": "model.language_model.",
        "language_model.lm_head.": "lm_head.",
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tensors_under_other_names(layout, tmp_path):
    model, p = theirs(), prompt()
    folder = save(model, tmp_path / "theirs")
    tensors = load_file(folder / "model.safetensors")
    renamed = {}
    for name, array in tensors.items():
        (prefix,) = [old for old in LAYOUTS[layout] if name.startswith(old)] or [""]
        renamed[LAYOUTS[layout].get(prefix, "") + name.removeprefix(prefix)] = array
    assert set(renamed) != set(tensors)
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    loaded = convert(folder, tmp_path / "ours")
    found = logits(*ours(loaded), p)
    np.testing.assert_allclose(found, wanted(model, p, MEAN, DEVIATION), atol=1e-4)


def test_int8_is_the_language_models_alone(tmp_path):
    model, p = theirs("qwen2"), prompt()
    loaded = convert(save(model, tmp_path / "theirs"), tmp_path / "ours", quantized=True)
    assert loaded.quantized
    kernels = {
        name: loaded.tree[name][path]["kernel"].dtype
        for name, path in (("vit", "patch_embedding"), ("connector", "first"))
    }
    assert set(kernels.values()) == {np.dtype(np.float32)}
    assert loaded.tree["language_model"]["blocks"]["up"]["kernel"].dtype == np.int8
    reference = wanted(model, p, MEAN, DEVIATION)
    difference = np.abs(logits(*ours(loaded), p) - reference)
    assert difference.max() > 1e-4 and difference.mean() < 0.05 * reference.std()


def test_parts_are_read_one_by_one(tmp_path):
    convert(save(theirs(), tmp_path / "theirs"), tmp_path / "ours")
    vit = load(tmp_path / "ours", "vit")
    assert set(vit.tree) == {"vit"} and vit.tokenizer is None
    assert load(tmp_path / "ours", "language_model").tokenizer is not None


def test_what_came_in_goes_out_the_same(tmp_path):
    """Export gives a LLaVA that transformers loads, and importing it again is bitwise equal."""
    model, p = theirs("qwen3"), prompt()
    loaded = convert(save(model, tmp_path / "theirs"), tmp_path / "ours")
    exporting.write_converted(tmp_path / "ours", tmp_path / "out")
    again = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    assert again.config.vision_config.num_hidden_layers == 2
    found = wanted(
        again, p.replace(tokens=np.where(p.tokens == IMAGE, 270, p.tokens)), MEAN, DEVIATION
    )
    np.testing.assert_allclose(found[..., :270], wanted(model, p, MEAN, DEVIATION), atol=1e-4)
    back = convert(tmp_path / "out", tmp_path / "back")
    assert back.configs["vit"] == loaded.configs["vit"]
    jax.tree.map(np.testing.assert_array_equal, back.tree["vit"], loaded.tree["vit"])
    jax.tree.map(np.testing.assert_array_equal, back.tree["connector"], loaded.tree["connector"])
    blocks = [of.tree["language_model"]["blocks"] for of in (back, loaded)]
    jax.tree.map(np.testing.assert_array_equal, *blocks)


CLIP = VitConfig(
    32, 3, 8, 16, 3, 2, 8, 24, activation="quick_gelu", pre_norm=True, patch_bias=False,
    final_norm=False, norm_eps=1e-5, mean=(0.4, 0.5, 0.6), deviation=(0.2, 0.3, 0.4),
)  # fmt: skip


@functools.cache
def tokenizer():
    """264 tokens; shared, do not modify."""
    return train_tokenizer(["the film is thin"] * 3, 264)


def assistant(kind="mlp", experts=1, vit=CLIP, **shape):
    """An assistant with noise in every leaf."""
    config = InlineConfig(
        vit, ConnectorConfig(kind), DecoderConfig(264, 32, 2, 4, 2, 8, 48, **shape),
        AdapterConfig(experts=experts, r_min=2, r_max=6), template="plain",
    )  # fmt: skip
    model = Inline(config)
    return model, random_variables(model)


def exported_prompt(vit=CLIP):
    """For transformers, whose image token follows the vocabulary, and for ours."""
    p = prompt(channels=vit.channels)
    return p.replace(tokens=np.where(p.tokens == IMAGE, 264, p.tokens)), p.replace(
        tokens=np.where(p.tokens == IMAGE, 0, p.tokens)
    )


def their_logits(folder, p, vit=CLIP):
    model = transformers.LlavaForConditionalGeneration.from_pretrained(folder).eval()
    return wanted(model, p, np.asarray(vit.mean), np.asarray(vit.deviation))[..., :264]


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("mlp", {}), ("linear", {"qkv_bias": True}), ("mlp", {"qk_norm": True})],
)
def test_an_assistant_leaves_as_a_llava(kind, shape, tmp_path):
    """With adapters merged and int8 dequantised; it can be imported again."""
    model, variables = assistant(kind, **shape)
    said = exporting.write_adapted(
        "huggingface", model, variables, tokenizer(), 4, tmp_path / "out"
    )
    assert "a LLaVA with its adapters of rank 4" in said
    asked, p = exported_prompt()
    reference = logits(model, variables, p, 4)
    assert reference.std() > 0.3
    np.testing.assert_allclose(their_logits(tmp_path / "out", asked), reference, atol=1e-4)
    assert np.abs(logits(model, variables, p, 6) - reference).max() > 1e-2
    back = convert(tmp_path / "out", tmp_path / "back")
    assert back.configs["vit"] == CLIP and back.configs["connector"].kind == kind
    assert back.tokenizer.convert_tokens_to_ids("<image>") == back.image_token == 264
    np.testing.assert_allclose(logits(*ours(back), p)[..., :264], reference, atol=1e-4)


def test_several_experts_leave_merged(tmp_path):
    model, variables = assistant(experts=4)
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "<image>is the film thin?"}\n{"text": "nm?"}\n')
    said = exporting.write_adapted(
        "huggingface", model, variables, tokenizer(), 6, tmp_path / "out", texts
    )
    assert "KL" in said
    batches = routing.prompts(
        routing.read_texts(texts), tokenizer(), model.text_form(tokenizer().eos_token_id)
    )
    merged = routing.merged_at_mean(model, variables, batches, 6)
    asked, p = exported_prompt()
    found = their_logits(tmp_path / "out", asked)
    np.testing.assert_allclose(found, logits(*merged, p, 6), atol=1e-4)


def test_grey_images_become_coloured_ones(tmp_path):
    """The kernel is weighted by luminance, so grey images give the same result."""
    vit = dataclasses.replace(CLIP, channels=1, mean=(0.4,), deviation=(0.2,))
    model, variables = assistant(vit=vit)
    exporting.write_base(model, variables, tokenizer(), tmp_path / "out")
    asked, p = exported_prompt(vit)
    asked = asked.replace(images=np.repeat(asked.images, 3, axis=-1))
    reference = logits(*_without_adapters(model, variables), p)
    np.testing.assert_allclose(their_logits(tmp_path / "out", asked, vit), reference, atol=1e-4)


def test_frozen_layers_leave_with_the_others(tmp_path):
    vit = dataclasses.replace(CLIP, frozen_layers=2)
    model, variables = assistant(vit=vit)
    exporting.write_base(model, variables, tokenizer(), tmp_path / "out")
    asked, p = exported_prompt(vit)
    reference = logits(*_without_adapters(model, variables), p)
    np.testing.assert_allclose(their_logits(tmp_path / "out", asked), reference, atol=1e-4)


def _without_adapters(model, variables):
    base, own = split_frozen(variables["frozen"])
    config = dataclasses.replace(model.config, adapter=None)
    params = {name: part for name, part in variables["params"].items() if name != "language_model"}
    beside = {name: part for name, part in own.items() if name != "language_model"}
    return Inline(config), {"params": params, "frozen": {**base, **beside}}


def test_adapters_leave_for_peft(tmp_path):
    """On the LLaVA without adapters; its encoder has projections of the same names, untouched."""
    peft = pytest.importorskip("peft")
    model, variables = assistant()
    exporting.write_base(model, variables, tokenizer(), tmp_path / "base")
    exporting.write_adapted("peft", model, variables, tokenizer(), 6, tmp_path / "adapter")
    base = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "base").eval()
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert sum("lora_A" in name for name, _ in adapted.named_parameters()) == 2 * 4
    asked, p = exported_prompt()
    reference = logits(model, variables, p, 6)
    found = wanted(adapted, asked, np.asarray(CLIP.mean), np.asarray(CLIP.deviation))[..., :264]
    np.testing.assert_allclose(found, reference, atol=1e-4)
    plain = their_logits(tmp_path / "base", asked)
    assert np.abs(plain - reference).max() > 1e-2
    lora = read_peft(tmp_path / "adapter", model.config.language_model, model.adapter)
    held = lora_of(model, variables)
    for name, b in held.b.items():
        np.testing.assert_allclose(lora.b[name], b, atol=1e-6)


def test_the_processor_of_transformers_reads_the_folder(tmp_path):
    """It inserts as many image tokens as the model expects; pixels equal ours."""
    model, variables = assistant()
    exporting.write_base(model, variables, tokenizer(), tmp_path / "out")
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "out")
    p = prompt()
    picture = p.images[0, 0]
    made = processor(images=Image.fromarray(picture), text="<image>thin?", return_tensors="pt")
    assert int((made["input_ids"] == 264).sum()) == M
    values = (picture / 255 - np.asarray(CLIP.mean)) / np.asarray(CLIP.deviation)
    found = made["pixel_values"][0].numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(found, values, atol=1e-5)
