"""Writes llama.npz and clip.npz: inputs, and what transformers makes of them.

    .venv/bin/python tests/golden/make.py      # make reference installs torch

The weights are not in them. Each tensor is drawn by a generator of its own, see `weight`, so that
neither the order of the tensors nor how many there are matters. The versions stand in the files.
"""

import zlib
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
LLAMA = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-5,
    "rope_theta": 500.0, "tie_word_embeddings": False,
}  # fmt: skip
CLIP = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 32, "patch_size": 8, "num_channels": 3, "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}  # fmt: skip
PIXELS = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of that name in transformers' files, float32: the same for ever.

    Normal numbers from `default_rng` seeded by the CRC-32 of the name, by a deviation of
    1 / sqrt(the last axis), 0.1 for vectors; scales of norms are 1 more.
    """
    deviation = shape[-1] ** -0.5 if len(shape) > 1 else 0.1
    drawn = deviation * np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)
    is_scale = "norm" in name and name.endswith("weight")
    return (drawn + is_scale).astype(np.float32)


def main() -> None:
    """Both files."""
    import torch
    import transformers

    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"

    def filled(model):
        weights = {n: weight(n, tuple(t.shape)) for n, t in model.named_parameters()}
        model.load_state_dict({n: torch.from_numpy(a) for n, a in weights.items()}, strict=False)
        return model.eval()

    rng = np.random.default_rng(0)
    tokens = rng.integers(0, LLAMA["vocab_size"], (2, 12), dtype=np.int32)
    rope = {"rope_type": "default", "rope_theta": LLAMA["rope_theta"]}
    settings = {name: LLAMA[name] for name in LLAMA if name != "rope_theta"}
    llama = filled(
        transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings, rope_parameters=rope))
    )
    images = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    mean, deviation = (np.asarray(PIXELS[name]) for name in ("image_mean", "image_std"))
    pixels = ((images / 255 - mean) / deviation).transpose(0, 3, 1, 2).astype(np.float32)
    clip = filled(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**CLIP)))
    with torch.no_grad():
        logits = llama(torch.from_numpy(tokens).long()).logits.numpy()
        states = clip(torch.from_numpy(pixels)).last_hidden_state
        # The model norms <cls> alone; ours norms every token.
        normed = clip.get_submodule("post_layernorm")(states).numpy()
    np.savez(FOLDER / "llama.npz", tokens=tokens, logits=logits, versions=versions)
    np.savez(FOLDER / "clip.npz", images=images, states=normed, versions=versions)


if __name__ == "__main__":
    main()
