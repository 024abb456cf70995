"""Model configurations: the paper's, and the one that a run's config describes."""

from collections.abc import Mapping

from slava_jax.models.decoder import LlamaConfig
from slava_jax.models.grounded import GroundedConfig
from slava_jax.models.slava import SlavaConfig
from slava_jax.models.vit import VitConfig
from slava_jax.nn.adapters import AdapterConfig

PAPER = SlavaConfig()  # ViT 224/32 of width 64 and Llama-2-7b (section 4.7)


def model_config(config: Mapping, vocab_size: int) -> SlavaConfig:
    """The model of a run's config (see configs/quickstart.py).

    Args:
      config: has vit, llama, grounded, adapter and the single settings of SlavaConfig.
      vocab_size: of its tokenizer, without the special tokens of the assistant.
    """
    return SlavaConfig(
        VitConfig(**hashable(config["vit"])),
        LlamaConfig(vocab_size=vocab_size, **hashable(config["llama"])),
        GroundedConfig(**config["grounded"]),
        AdapterConfig(**config["adapter"]),
        config["decoder"],
        config["quantized"],
        config["image_memory"],
        config["text_encoder"],
        config["int8_activations"],
        config["remat"],
    )


def hashable(settings: Mapping) -> dict:
    """Settings as a config class wants them: JSON has lists where a model must have tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
