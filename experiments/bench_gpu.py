"""Llama-2-7b's shape on one GPU: training and decoding, beside transformers + peft in the same run.

    python -m experiments.bench_gpu            # ten minutes on an H200; ends in one line of JSON
    python -m experiments.bench_gpu --tiny     # the same code on a small shape, on anything

Random weights. Training: 4 sequences of 2,048 tokens, next-token loss, rank 16 on q, k, v, o, Adam:
ours with K = 4 experts as `main` trains, beside peft's LoRA in bfloat16 with and without gradient
checkpointing, and on bitsandbytes int8 where it is installed. Decoding: the assistant's `llama`
decoder, with its adapters and without. Each measurement is a process of its own. FLOP/s count 4
operations a frozen parameter and token, 6 with full rematerialisation; what stands against
bandwidth are the bytes of the frozen weights. Writes `experiments/bench_gpu.json`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import zlib
from pathlib import Path

RESULT = Path(__file__).with_suffix(".json")
LLAMA_2_7B = {}  # LlamaConfig's defaults
TINY = {"vocab_size": 512, "width": 64, "layers": 2, "heads": 4, "kv_heads": 4, "head_width": 16,
        "mlp_width": 128}  # fmt: skip
BATCH, LENGTH, RANK, STEPS = 4, 2048, 16, 5
# (remat, int8 activations) of ours.
TRAINED = {
    "ours, bfloat16 arithmetic": ("none", False),
    "ours, int8 x int8": ("none", True),
    "ours, bfloat16 arithmetic, full remat": ("full", False),
    "ours, int8 x int8, full remat": ("full", True),
}
PEFT = ("peft LoRA", "peft LoRA, gradient checkpointing", "peft LoRA on bitsandbytes int8")
DECODED = tuple(
    f"decode, batch {batch}, {adapters}" for batch in (1, 32) for adapters in ("adapted", "bare")
)
AIMS = {
    "ours, bfloat16 arithmetic": {"tokens_a_second": 17_000},
    "ours, int8 x int8": {"tokens_a_second": 25_000},
    "ours, bfloat16 arithmetic, full remat": {"tokens_a_second": 13_000, "peak_gib": 14.0},
}


def train_ours(name: str, tiny: bool) -> dict:
    """Tokens a second and peak memory of our step."""
    import jax.numpy as jnp
    import numpy as np

    from experiments.plain_model import PlainModel, plain_batch, shapes_of, stepper
    from slava_jax.models.llama import LlamaConfig, LlamaMode
    from slava_jax.nn.adapters import AdapterConfig

    remat, int8_activations = TRAINED[name]
    config = LlamaConfig(**(TINY if tiny else LLAMA_2_7B))
    mode = LlamaMode(True, True, AdapterConfig(), False, jnp.bfloat16, int8_activations, remat)
    length = 64 if tiny else LENGTH
    ids = np.random.default_rng(0).integers(1, config.vocab_size, (BATCH, length))
    model, batch = PlainModel(config, mode), plain_batch(ids.astype(np.int32))
    step = stepper(model, on_device(shapes_of(model, batch)), batch)
    row = timed(step, BATCH * length)
    operations = (6 if remat == "full" else 4) * parameters(config)
    return {**row, "flops": operations * row["tokens_a_second"], "peak_gib": peak_gib()}


def on_device(shapes: dict) -> dict:
    """Random weights made where they will be, without passing through the host."""
    import jax
    import jax.numpy as jnp

    def leaf(path, shape):
        name, key = path[-1].key, jax.random.key(zlib.crc32(jax.tree_util.keystr(path).encode()))
        if shape.dtype == jnp.int8:
            return jax.random.randint(key, shape.shape, -127, 128, jnp.int8)
        if name == "scale":
            # Of a norm, or of int8 kernels: about 1 / (73 sqrt(D_in)), 73 their deviation.
            size = 1.0 if "norm" in jax.tree_util.keystr(path) else 2e-4
            return jnp.full(shape.shape, size, shape.dtype)
        return 0.02 * jax.random.normal(key, shape.shape, shape.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def parameters(config) -> int:
    """Entries of the frozen kernels that a token is multiplied by."""
    block = config.width * config.head_width * (2 * config.heads + 2 * config.kv_heads)
    block += 3 * config.width * config.mlp_width
    return config.layers * block + config.vocab_size * config.width


def timed(step, tokens: int) -> dict:
    """Median seconds of a step after two that compile and warm up."""
    seconds = []
    for i in range(2 + STEPS):
        start = time.perf_counter()
        step()
        if i >= 2:
            seconds.append(time.perf_counter() - start)
    middle = statistics.median(seconds)
    return {"seconds": seconds, "tokens_a_second": tokens / middle}


def peak_gib() -> float | None:
    """The most that JAX's allocator held; `None` where a device does not say."""
    import jax

    stats = jax.devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] / 2**30 if stats else None


def train_peft(name: str, tiny: bool) -> dict:
    """The same of transformers + peft."""
    import torch
    from peft import prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    from experiments.bench_peft import adam, torch_step, with_lora

    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 4, "vocab_size": 512} if tiny else {}  # fmt: skip
    config = LlamaConfig(**shape, torch_dtype=torch.bfloat16)
    with torch.device(device):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    if "bitsandbytes" in name:
        place = Path("runs/bench_gpu/llama")
        model.save_pretrained(place)
        del model
        quantized = BitsAndBytesConfig(load_in_8bit=True)
        model = LlamaForCausalLM.from_pretrained(place, quantization_config=quantized)
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if "checkpointing" in name:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model = with_lora(model)
    model.train()
    length = 64 if tiny else LENGTH
    ids = torch.randint(1, config.vocab_size, (BATCH, length), device=device)
    row = timed(torch_step(model, adam(model), ids), BATCH * length)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
    return {**row, "peak_gib": peak}


def decode_ours(name: str, tiny: bool) -> dict:
    """Tokens a second of generation by the `llama` decoder, over a memory of random states."""
    import dataclasses

    import jax
    import jax.numpy as jnp

    from experiments.random_llama import batch_shapes
    from slava_jax.inference.decode import generate
    from slava_jax.models.llama import LlamaConfig
    from slava_jax.models.presets import PAPER
    from slava_jax.models.slava import Memory, Slava
    from slava_jax.nn.adapters import AdapterCall

    batch = int(name.split("batch ")[1].split(",")[0])
    llama = LlamaConfig(**(TINY if tiny else LLAMA_2_7B))
    adapter = PAPER.adapter if name.endswith("adapted") else None
    config = dataclasses.replace(PAPER, llama=llama, adapter=adapter, decoder="llama")
    model = Slava(config, jnp.bfloat16)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    shaped = batch_shapes(2, 64, config.vit)
    shapes = jax.eval_shape(lambda b: model.init(keys, b, AdapterCall(jnp.int32(1))), shaped)
    variables = on_device({name: shapes[name] for name in ("params", "frozen")})
    values = jax.random.normal(keys["params"], (batch, 128, config.grounded.width), jnp.bfloat16)
    memory = Memory(values, jnp.zeros((batch, 128), jnp.int32))
    length = 16 if tiny else 128

    def step():
        # A stop that is never chosen: every answer has its full length.
        answers = generate(
            model, variables, memory, jnp.int32(RANK), jax.random.key(0),
            start=2, stop=-1, length=length,
        )  # fmt: skip
        answers.block_until_ready()

    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(variables["frozen"]["llama"]["blocks"]))
    row = timed(step, batch * length)
    steps = row["tokens_a_second"] / batch
    return {**row, "weight_bytes_a_second": weights * steps, "milliseconds_a_token": 1e3 / steps}


def one(name: str, tiny: bool) -> dict:
    """One measurement, in this process."""
    if name in TRAINED:
        return train_ours(name, tiny)
    return train_peft(name, tiny) if name in PEFT else decode_ours(name, tiny)


def main() -> None:
    """Measures all, writes the result file, prints it as one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", choices=(*TRAINED, *PEFT, *DECODED))
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(asked.one, asked.tiny)))
        return
    rows = {}
    for name in (*TRAINED, *PEFT, *DECODED):
        command = [sys.executable, "-m", "experiments.bench_gpu", "--one", name]
        command += ["--tiny"] * asked.tiny
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        failed = {"failed": done.stderr.strip().splitlines()[-1:]}
        rows[name] = failed if done.returncode else json.loads(done.stdout.splitlines()[-1])
        print(name, rows[name], file=sys.stderr, flush=True)
    from slava_jax.train.workdir import environment, write_atomically

    result = {
        "question": __doc__.splitlines()[0],
        "shape": "tiny" if asked.tiny else "Llama-2-7b",
        "batch": [BATCH, LENGTH],
        "rows": rows,
        "aims": AIMS,
        "seed": 0,
        "environment": environment(),
    }
    if not asked.tiny:
        write_atomically(RESULT, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
