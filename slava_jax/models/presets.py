"""Model configurations: the paper's, and the one that a run's config describes."""

from collections.abc import Mapping

from slava_jax.models.grounded import GroundedConfig
from slava_jax.models.llama import LlamaConfig
from slava_jax.models.slava import SlavaConfig
from slava_jax.models.vit import VitConfig
from slava_jax.nn.adapters import AdapterConfig

PAPER = SlavaConfig()  # ViT 224/32 of width 64 and Llama-2-7b (section 4.7)


def model_config(config: Mapping, vocab_size: int) -> SlavaConfig:
    """The model of a run's config (see configs/quickstart.py).

    Args:
      config: has vit, llama, grounded, adapter, decoder, quantized and image_memory.
      vocab_size: of its tokenizer, without the special tokens of the assistant.
    """
    return SlavaConfig(
        # JSON, in which a checkpoint keeps its config, has lists only; a model must be hashable.
        VitConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in config["vit"].items()}),
        LlamaConfig(vocab_size=vocab_size, **config["llama"]),
        GroundedConfig(**config["grounded"]),
        AdapterConfig(**config["adapter"]),
        config["decoder"],
        config["quantized"],
        config["image_memory"],
    )
