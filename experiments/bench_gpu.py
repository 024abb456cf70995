"""How fast do training and decoding run on one GPU, compared with transformers + peft?

    python -m experiments.bench_gpu            # six minutes on an H200; ends in one line of JSON
    python -m experiments.bench_gpu --tiny     # the same code with a small shape, on any machine
    python -m experiments.bench_gpu --page     # only the tables of docs/scale.md

Llama-2-7b's shape with random weights. Training: 4 sequences of 2,048 tokens, next-token loss, rank
16 on q, k, v, o, Adam: ours with K = 4 experts as in `main`, against peft's LoRA in bfloat16 with
and without gradient checkpointing, and on bitsandbytes int8 if installed. Decoding: the assistant's
`llama` decoder with and without adapters, against transformers' `generate`. Each measurement runs
in its own process. FLOP/s count 4 operations per frozen parameter and token, 6 with full
rematerialization. The bandwidth share counts the bytes of frozen weights read per token. Writes
`experiments/bench_gpu.json` after each measurement.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import statistics
import subprocess
import sys
import time
import zlib
from pathlib import Path

from slava_jax.train.workdir import environment, write_atomically

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
MARKERS = ("<!-- gpu:begin -->", "<!-- gpu:end -->")
RESULT = Path(__file__).with_suffix(".json")
LLAMA_2_7B = {}  # DecoderConfig's defaults
TINY = {"vocab_size": 512, "width": 64, "layers": 2, "heads": 4, "kv_heads": 4, "head_width": 16,
        "mlp_width": 128}  # fmt: skip
BATCH, LENGTH, RANK = 4, 2048, 16
MEMORY = 128  # tokens a decoder attends to, besides its own answer of 128 tokens
# A measurement is the median of this many groups of steps; each group ends by reading the loss.
GROUPS, STEPS = 3, 5
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
ENVIRONMENT = "environment"
GENERATED = ("peft generate, batch 1", "peft generate, batch 32")
# Published for each card: dense bfloat16 and int8 operations/s, memory bandwidth in bytes/s.
CARDS = {
    "NVIDIA H200": {"bfloat16": 989e12, "int8": 1979e12, "bytes": 4.8e12},
    "NVIDIA H100 80GB HBM3": {"bfloat16": 989e12, "int8": 1979e12, "bytes": 3.35e12},
}
AIMS = {
    "ours, bfloat16 arithmetic": {"tokens_a_second": 17_000},
    "ours, int8 x int8": {"tokens_a_second": 25_000},
    "ours, bfloat16 arithmetic, full remat": {"tokens_a_second": 13_000, "peak_gib": 14.0},
    "decode, batch 1, adapted": {"of_bandwidth": 0.75},
}


def train_ours(name: str, tiny: bool) -> dict:
    """Tokens/s and peak memory of our step."""
    import jax.numpy as jnp
    import numpy as np

    from experiments.plain_model import PlainModel, plain_batch, shapes_of, stepper
    from experiments.random_llama import multiplied
    from slava_jax.models.decoder import DecoderConfig, DecoderMode
    from slava_jax.nn.adapters import AdapterConfig

    remat, int8_activations = TRAINED[name]
    config = DecoderConfig(**(TINY if tiny else LLAMA_2_7B))
    mode = DecoderMode(True, True, AdapterConfig(), False, jnp.bfloat16, int8_activations, remat)
    length = 64 if tiny else LENGTH
    ids = np.random.default_rng(0).integers(1, config.vocab_size, (BATCH, length))
    model, batch = PlainModel(config, mode), plain_batch(ids.astype(np.int32))
    step = stepper(model, on_device(shapes_of(model, batch)), batch)
    row = timed(step, BATCH * length)
    operations = (6 if remat == "full" else 4) * multiplied(config)
    return {**row, "flops": operations * row["tokens_a_second"], "peak_gib": peak_gib()}


def on_device(shapes: dict) -> dict:
    """Random weights created on the device, not copied from the host."""
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


def timed(step, tokens: int, steps: int = STEPS) -> dict:
    """Seconds per step and tokens/s, after a warm-up group that compiles.

    `step` returns a number that may still be computing, as in training: no step waits for its loss.
    """
    seconds = []
    for group in range(1 + GROUPS):
        start = time.perf_counter()
        for _ in range(steps):
            last = step()
        float(last)
        if group:
            seconds.append((time.perf_counter() - start) / steps)
    return {"seconds": seconds, "tokens_a_second": tokens / statistics.median(seconds)}


def peak_gib() -> float | None:
    """Peak memory of JAX's allocator; `None` if the device does not report it."""
    import jax

    stats = jax.devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] / 2**30 if stats else None


def train_peft(name: str, tiny: bool) -> dict:
    """Tokens/s and peak memory of transformers + peft."""
    import torch

    from experiments.bench_peft import adam, torch_step

    model = peft_model("bitsandbytes" in name, "checkpointing" in name, tiny).train()
    length = 64 if tiny else LENGTH
    ids = torch.randint(1, model.config.vocab_size, (BATCH, length), device=model.device)
    row = timed(torch_step(model, adam(model), ids), BATCH * length)
    on_card = model.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_card else None
    return {**row, "peak_gib": peak, **versions()}


def peft_model(int8: bool, checkpointing: bool, tiny: bool):
    """A Llama of transformers in bfloat16 on the card, with peft's LoRA on q, k, v, o."""
    import torch
    from peft import prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    from experiments.bench_peft import with_lora

    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 4, "vocab_size": 512} if tiny else {}  # fmt: skip
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(LlamaConfig(**shape)).to(torch.bfloat16)
    if int8:
        place = Path("runs/bench_gpu/llama")
        model.save_pretrained(place)
        del model
        quantized = BitsAndBytesConfig(load_in_8bit=True)
        model = LlamaForCausalLM.from_pretrained(place, quantization_config=quantized)
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    return with_lora(model)


def versions() -> dict[str, dict[str, str]]:
    """Package versions of the reference."""
    names = ("torch", "transformers", "peft")
    return {"versions": {name: importlib.metadata.version(name) for name in names}}


def decode_peft(name: str, tiny: bool) -> dict:
    """Tokens/s of transformers' `generate`, after a prompt as long as our memory."""
    import torch

    model, batch = peft_model(False, False, tiny).eval(), int(name.split("batch ")[1])
    ids = torch.randint(1, model.config.vocab_size, (batch, MEMORY), device=model.device)
    length = 16 if tiny else 128
    asked = {"max_new_tokens": length, "min_new_tokens": length, "do_sample": False}

    @torch.no_grad()
    def step():
        return model.generate(input_ids=ids, **asked)[0, -1]

    row = timed(step, batch * length, 1)
    steps = row["tokens_a_second"] / batch
    read = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
    read -= model.get_input_embeddings().weight.nbytes
    rates = {"weight_bytes_a_second": read * steps, "milliseconds_a_token": 1e3 / steps}
    return {**row, **rates, **versions()}


def decode_ours(name: str, tiny: bool) -> dict:
    """Tokens/s of generation by the `llama` decoder, after a question and its image."""
    import dataclasses

    import jax
    import jax.numpy as jnp

    from slava_jax.inference.decode import generate, prefill
    from slava_jax.models.decoder import DecoderConfig
    from slava_jax.models.interface import Prompt
    from slava_jax.models.presets import PAPER, variable_shapes
    from slava_jax.models.slava import Slava
    from slava_jax.nn.adapters import split_base

    batch = int(name.split("batch ")[1].split(",")[0])
    llama = DecoderConfig(**(TINY if tiny else LLAMA_2_7B))
    adapter = PAPER.adapter if name.endswith("adapted") else None
    config = dataclasses.replace(PAPER, language_model=llama, adapter=adapter, decoder="llama")
    model = Slava(config, jnp.bfloat16)
    variables = on_device(variable_shapes(model))
    length = 16 if tiny else 128
    side, text = config.vit.image_size, MEMORY - config.vit.tokens - 1  # and `<Encode>`
    prompt = Prompt(
        jnp.zeros((batch, 1, side, side, config.vit.channels), jnp.uint8),
        jnp.ones((batch, text), jnp.int32),
        jnp.full((batch, text), -1, jnp.int32).at[:, 0].set(0),
        jnp.full(batch, text, jnp.int32),
    )
    state = prefill(model, variables, prompt, jnp.int32(RANK), room=length)

    def step():
        # A stop token that is never chosen, so every answer has full length.
        answers = generate(
            model, variables, state, jnp.int32(RANK), jax.random.key(0),
            stop=-1, length=length,
        )  # fmt: skip
        return answers[0, 0]

    base, _ = split_base(variables["frozen"]["language_model"])
    read = {name: part for name, part in base.items() if name != "embedding"}
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(read))
    row = timed(step, batch * length, 1)
    steps = row["tokens_a_second"] / batch
    return {**row, "weight_bytes_a_second": weights * steps, "milliseconds_a_token": 1e3 / steps}


def one(name: str, tiny: bool) -> dict:
    """Makes one measurement in this process."""
    if name == ENVIRONMENT:
        return environment()
    if name in TRAINED:
        return train_ours(name, tiny)
    if name in GENERATED:
        return decode_peft(name, tiny)
    return train_peft(name, tiny) if name in PEFT else decode_ours(name, tiny)


def measured(name: str, tiny: bool) -> dict:
    """Makes one measurement in a new process; returns the error if it fails."""
    if "bitsandbytes" in name and importlib.util.find_spec("bitsandbytes") is None:
        return {"not_measured": "bitsandbytes is not installed"}
    command = [sys.executable, "-m", "experiments.bench_gpu", "--one", name]
    command += ["--tiny"] * tiny
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1:]}
    return json.loads(done.stdout.splitlines()[-1])


def compared(rows: dict[str, dict]) -> dict[str, dict]:
    """The rows with their share of the card's published performance, if known."""
    out = {}
    for name, row in rows.items():
        row, card = dict(row), CARDS.get(_card(row))
        if card and "flops" in row:
            row["of_card"] = row["flops"] / card["int8" if "int8" in name else "bfloat16"]
        if card and "weight_bytes_a_second" in row:
            row["of_bandwidth"] = row["weight_bytes_a_second"] / card["bytes"]
        out[name] = row
    return out


def _card(row: dict) -> str:
    """The short name of the card a row was measured on, '' if not measured."""
    device = row.get("device", "")
    return next((name for name in CARDS if name in device), device)


def tables(rows: dict[str, dict]) -> str:
    """Markdown for docs/scale.md."""
    from experiments.results_page import table

    trained = [
        (
            name,
            _card(row),
            *(_shown(row, key, form) for key, form in
              (("tokens_a_second", ",.0f"), ("of_card", ".0%"), ("peak_gib", ".1f"))),
            _against(name, row),
        )
        for name, row in rows.items() if name in (*TRAINED, *PEFT)
    ]  # fmt: skip
    decoded = [
        (
            name,
            _card(row),
            *(_shown(row, key, form) for key, form in
              (("milliseconds_a_token", ".2f"), ("tokens_a_second", ",.0f"),
               ("of_bandwidth", ".0%"))),
            _against(name, row),
        )
        for name, row in rows.items() if name in (*DECODED, *GENERATED)
    ]  # fmt: skip
    return "\n\n".join(
        [
            table(("training", "card", "tokens/s", "of the card", "peak GiB", "aim"), trained),
            table(("", "card", "ms per token", "tokens/s", "of its bandwidth", "aim"), decoded),
        ]
    )


def _shown(row: dict, key: str, form: str) -> str:
    if row.get(key) is None:
        absent = "failed" if "failed" in row else "not measured"
        return absent if key == "tokens_a_second" else ""
    return format(row[key], form)


def _against(name: str, row: dict) -> str:
    said = []
    for key, aim in AIMS.get(name, {}).items():
        if row.get(key) is not None:
            reached = row[key] <= aim if key == "peak_gib" else row[key] >= aim
            wanted = {"peak_gib": f"{aim:.0f} GiB", "of_bandwidth": f"{aim:.0%}"}
            said.append(f"{wanted.get(key, f'{aim:,}')}: {'reached' if reached else 'missed'}")
    return "; ".join(said)


def write_page() -> None:
    """Writes the tables of the result file into docs/scale.md."""
    from experiments.results_page import replaced

    rows = json.loads(RESULT.read_text())["rows"]
    write_atomically(PAGE, replaced(PAGE.read_text(), tables(rows), *MARKERS))


def main() -> None:
    """Makes all or the chosen measurements, writes the result file, prints it as one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = (*TRAINED, *PEFT, *DECODED, *GENERATED)
    parser.add_argument("--one", choices=(ENVIRONMENT, *names), help="in this process")
    parser.add_argument("--only", choices=names, nargs="*", help="keep the other results")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--page", action="store_true")
    asked = parser.parse_args()
    if asked.page:
        write_page()
        return
    if asked.one:
        print(json.dumps(one(asked.one, asked.tiny)))
        return
    rows = json.loads(RESULT.read_text())["rows"] if asked.only else {}
    about = measured(ENVIRONMENT, asked.tiny)  # in another process, to keep the card free
    if "device" not in about:
        sys.exit(f"error: jax does not run here: {about['failed']}")
    for name in asked.only or names:
        rows[name] = measured(name, asked.tiny)
        if "seconds" in rows[name]:  # with --only, other rows may be from another card or jax
            rows[name] |= {"device": about["device"], "jax": about["jax"]}
        print(name, rows[name], file=sys.stderr, flush=True)
        result = {
            "question": __doc__.splitlines()[0],
            "shape": "tiny" if asked.tiny else "Llama-2-7b",
            "batch": [BATCH, LENGTH],
            "groups": GROUPS,
            "steps_a_group": STEPS,
            "rows": compared(rows),
            "cards": CARDS,
            "aims": AIMS,
            "seed": 0,
            "environment": about,
        }
        if not asked.tiny:
            write_atomically(RESULT, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
