"""The whole of sLAVA on procedural micrographs: data, three stages, evaluation, report.

    python -m slava_jax.main --config configs/quickstart.py --workdir runs/quickstart

Hardware: 2 CPU cores, 4 GiB. Time: under 10 minutes. See README.md for the scores to expect.
"""

from ml_collections import ConfigDict


def stage(**changes) -> ConfigDict:
    """What every stage sets; `changes` are its own settings."""
    settings = ConfigDict(
        {
            "steps": 1000,
            "batch_size": 32,
            "learning_rate": 1e-3,
            "warmup": 50,
            "schedule": "cosine",  # or 'constant', which leaves it to the plateau rule
            "weight_decay": 0.0,
            "grad_clip": 1.0,
            "eval_every": 250,  # steps between two validations, which stand for epochs
            "patience": 5,  # flat validations until the rate is halved
            "stop_patience": 10,  # flat validations until training stops early
            "strategy": "pmap",  # or 'mesh'
            "mesh_model": 1,  # devices along the model axis of the mesh
            "microbatches": 1,  # gradient accumulation inside the step
        }
    )
    settings.update(changes)
    return settings


def get_config() -> ConfigDict:
    """The configuration."""
    config = ConfigDict()
    config.seed = 0
    config.stages = ("vision", "language", "assistant")
    config.dtype = "float32"  # 'bfloat16' on accelerators that have it

    config.data = ConfigDict(
        {
            "name": "procedural",  # 'elpv', or 'folder' for images of one's own
            "folder": "",
            "images_per_category": 400,
            "size": 256,
            "seed": 0,
            "question": "",  # the classification question; '' for the teacher's wordings
        }
    )
    config.image = ConfigDict(
        {
            "cache_mb": 1024,
            "augmentation": {"flips": True, "turns": True, "shift": 16},
        }
    )
    config.tokenizer = ConfigDict({"vocab_size": 1024})

    config.vit = ConfigDict(
        {
            "image_size": 224,
            "channels": 1,
            "patch": 32,
            "width": 64,
            "layers": 3,
            "heads": 4,
            "head_width": 32,
            "mlp_width": 256,
        }
    )
    config.llama = ConfigDict(
        {
            "width": 128,
            "layers": 2,
            "heads": 4,
            "kv_heads": 2,
            "head_width": 32,
            "mlp_width": 256,
            "rope_theta": 10_000.0,
            "norm_eps": 1e-5,
            "tie_embeddings": True,
        }
    )
    config.grounded = ConfigDict(
        {
            "width": 128,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "heads": 4,
            "head_width": 32,
            "mlp_width": 256,
        }
    )
    config.adapter = ConfigDict(
        {
            "experts": 4,
            "top_k": 2,
            "r_min": 4,
            "r_max": 16,
            "alpha": 1.0,
            "dropout": 0.05,
            "router": "projected",
        }
    )
    config.decoder = "transformer"  # or 'llama'
    config.quantized = True
    config.image_memory = True

    config.vision = stage(
        steps=1500, learning_rate=1e-3, weight_decay=0.05, smoothing=0.1, eval_every=150
    )
    config.language = stage(steps=300, length=96, validation_batches=8, eval_every=100)
    config.assistant = stage(
        steps=1000,
        microbatches=2,
        pair_block=8,
        per_image=4,
        always=("class",),
        buckets=((48, 16), (64, 32), (96, 48), (128, 80)),
        validation_batches=12,
        eval_every=250,
    )

    config.evaluation = ConfigDict(
        {
            "batch_size": 32,
            "pair_block": 8,
            "classification": 800,  # test questions of each task, at most
            "captions": 160,
            "answers": 320,
            "examples": 12,
        }
    )
    return config
