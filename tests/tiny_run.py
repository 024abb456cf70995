"""A config as small as a whole run can be: seconds a stage, most of them compilation."""

from ml_collections import ConfigDict

from configs.quickstart import get_config as quickstart


def get_config() -> ConfigDict:
    """The configuration."""
    config = quickstart()
    config.data.update(images_per_category=6, size=64)
    config.tokenizer.vocab_size = 300
    config.vit.update(
        image_size=32, patch=16, width=8, layers=1, heads=2, head_width=4, mlp_width=8
    )
    config.language_model.update(
        width=16, layers=1, heads=2, kv_heads=1, head_width=8, mlp_width=16
    )
    config.grounded.update(
        width=16, encoder_layers=1, decoder_layers=1, heads=2, head_width=8, mlp_width=16
    )
    config.adapter.update(experts=2, r_min=2, r_max=4)
    for name in ("vision", "language", "assistant"):
        config[name].update(steps=8, warmup=2, eval_every=2, batch_size=8)
    config.language.validation_batches = 1
    config.assistant.update(
        buckets=((320, 256, 1),),
        per_image=2,
        validation_batches=1,
        batch_size=16,
        microbatches=2,
        pair_block=2,  # what each of four devices has of a microbatch
    )
    config.evaluation.update(
        batch_size=8, classification=8, captions=8, answers=8, truth=4, examples=3
    )
    return config
