"""Our Llama and ViT blocks against transformers', with the same random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slava_jax.models.decoder import DecoderConfig, LanguageModel
from slava_jax.models.vit import Vit, VitConfig

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow


def stacked(state, names, layers, transpose):
    """{our path: array with a layer axis} from {our path: their name with {} for the layer}."""
    out = {}
    for path, name in names.items():
        arrays = [state[name.format(i)].numpy() for i in range(layers)]
        arrays = [a.T if transpose and a.ndim == 2 else a for a in arrays]
        out[path] = jnp.asarray(np.stack(arrays))
    return out


def nested(flat):
    """A tree from {"a/b": leaf}."""
    tree: dict = {}
    for path, leaf in flat.items():
        *folders, last = path.split("/")
        functools.reduce(lambda node, key: node.setdefault(key, {}), folders, tree)[last] = leaf
    return tree


def randomise(model):
    """Moves every weight away from its initial zero or one, from one seed."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return {name: tensor.detach() for name, tensor in model.eval().state_dict().items()}


LLAMA_NAMES = {
    **{f"attention/{n}/kernel": f"model.layers.{{}}.self_attn.{n}_proj.weight" for n in "qkvo"},
    **{f"{n}/kernel": f"model.layers.{{}}.mlp.{n}_proj.weight" for n in ("gate", "up", "down")},
    "attention_norm/scale": "model.layers.{}.input_layernorm.weight",
    "mlp_norm/scale": "model.layers.{}.post_attention_layernorm.weight",
}


@pytest.mark.parametrize("tied", [False, True])
def test_llama_gives_the_logits_of_transformers(tied):
    """Grouped heads, rotary halves, SwiGLU, RMSNorm; separate and tied heads."""
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-5,
            rope_theta=10_000.0, tie_word_embeddings=tied, attn_implementation="eager",
        )
    )  # fmt: skip
    state = randomise(theirs)
    llama = nested({f"blocks/{k}": v for k, v in stacked(state, LLAMA_NAMES, 3, True).items()})
    llama["embedding"] = jnp.asarray(state["model.embed_tokens.weight"].numpy())
    llama["norm"] = {"scale": jnp.asarray(state["model.norm.weight"].numpy())}
    if not tied:
        llama["head"] = {"kernel": jnp.asarray(state["lm_head.weight"].numpy().T)}
    model = LanguageModel(DecoderConfig(50, 32, 3, 4, 2, 8, 48, tie_embeddings=tied))
    tokens = np.random.default_rng(0).integers(0, 50, (2, 20), dtype=np.int32)
    order = np.broadcast_to(np.arange(20, dtype=np.int32), tokens.shape)
    ours = jax.jit(model.apply)({"params": {"language_model": llama}}, tokens, order)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(tokens).long()).logits.numpy()
    assert wanted.std() > 0.3
    np.testing.assert_allclose(ours, wanted, atol=1e-4)


VIT_LAYERS = {
    **{f"attention/{n}": f"layers.{{}}.attention.{n}_proj" for n in "qkvo"},
    "mlp/up": "layers.{}.mlp.fc1",
    "mlp/down": "layers.{}.mlp.fc2",
    "attention_norm": "layers.{}.layernorm_before",
    "mlp_norm": "layers.{}.layernorm_after",
}


def vit_weights(state, layers):
    """A transformers ViT as our tree; its key bias has no counterpart."""
    names = {}
    for ours, theirs in VIT_LAYERS.items():
        names[f"{ours}/{'scale' if 'norm' in ours else 'kernel'}"] = f"{theirs}.weight"
        if ours != "attention/k":
            names[f"{ours}/bias"] = f"{theirs}.bias"
    tree = nested({f"blocks/{k}": v for k, v in stacked(state, names, layers, True).items()})
    array = lambda name: jnp.asarray(state[name].numpy())  # noqa: E731
    embeddings = "embeddings.patch_embeddings.projection"
    kernel = array(f"{embeddings}.weight")  # [D, channels, patch, patch]; ours is [p * p * c, D]
    kernel = kernel.transpose(2, 3, 1, 0).reshape(-1, kernel.shape[0])
    tree["patch_embedding"] = {"kernel": kernel, "bias": array(f"{embeddings}.bias")}
    tree["cls"] = array("embeddings.cls_token")
    tree["positions"] = array("embeddings.position_embeddings")[0]
    tree["norm"] = {"scale": array("layernorm.weight"), "bias": array("layernorm.bias")}
    return tree


def test_vit_gives_the_tokens_of_transformers():
    """Without a key bias, to which softmax is invariant; tanh GELU and flax's eps."""
    theirs = transformers.ViTModel(
        transformers.ViTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
            image_size=32, patch_size=16, num_channels=3, layer_norm_eps=1e-6,
            hidden_act="gelu_pytorch_tanh", hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, attn_implementation="eager",
        ),
        add_pooling_layer=False,
    )  # fmt: skip
    state = randomise(theirs)
    model = Vit(VitConfig(32, 3, 16, 32, 2, 4, 8, 64))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    ours = jax.jit(model.apply)({"params": vit_weights(state, 2)}, images)
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
    with torch.no_grad():
        wanted = theirs(pixels).last_hidden_state.numpy()
    assert any("k_proj.bias" in name and tensor.abs().max() > 0.1 for name, tensor in state.items())
    np.testing.assert_allclose(ours, wanted, atol=1e-4)
