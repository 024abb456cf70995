"""LLaVA on procedural micrographs, the quickstart's tiny parts: image tokens in the decoder.

    slava train --config configs/llava.py --workdir runs/llava

The quickstart's vision encoder and language model, joined by LLaVA's two stages: the connector on
captions, then the connector with DyA-MoQPE in the frozen decoder on all instructions.

Hardware: 2 CPU cores, 4 GiB. Time and scores: not measured yet.
"""

from ml_collections import ConfigDict

from configs.quickstart import get_config as quickstart

ADAPTED = ("connector/**", "**/lora_b", "**/router")


def get_config() -> ConfigDict:
    """The configuration; slava_jax/config.py says what every setting means."""
    config = quickstart()
    config.model = "inline"
    config.connector.kind = "mlp"
    config.template = "plain"
    config.stages = ("vision", "language", "alignment", "assistant")
    shared = {name: config.assistant[name] for name in ("batch_size", "microbatches", "pair_block")}
    config.alignment.update(
        **shared,
        steps=120,
        learning_rate=2e-3,
        warmup=20,
        trainable=("connector/**",),
        always=("caption",),
        per_image=1,
        eval_every=120,
    )
    config.assistant.update(steps=400, eval_every=200, trainable=ADAPTED, rates=())
    return config
