"""How much memory and time does it take to convert a Llama-2-7b to int8?

    python -m experiments.convert_7b --workdir DIR     # 21 GB free in DIR, emptied afterwards

Writes a folder of Llama-2-7b's shape with random float16 weights (13.5 GB in shards, as Hugging
Face lays it out), converts it in a process of its own and samples that process's memory: anonymous
(what it holds itself) and total resident (with the pages of files it has mapped, which the system
may drop at any time). Then some layers are read back and compared with what they were made from.
Writes `experiments/convert_7b.json`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from slava_jax.checkpoint import load_facts
from slava_jax.convert.decoders import decoder_config, huggingface_table
from slava_jax.convert.huggingface import Safetensors
from slava_jax.convert.pretrained import part_place
from slava_jax.convert.rules import Row
from slava_jax.data.tokenizer import save_tokenizer, train_tokenizer
from slava_jax.nn.quantized import quantize
from slava_jax.train.workdir import environment, machine_metrics

RESULT = Path(__file__).with_suffix(".json")
LIMIT_GIB = 3.0  # anonymous memory
SEED = 0
LLAMA_2_7B = {
    "model_type": "llama",
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
}
CHECKED = ("blocks/attention/q", "blocks/down")  # kernels read back
LAYERS_CHECKED = (0, 17, 31)


def make_folder(folder: Path, settings: dict) -> int:
    """Writes a Llama folder of random float16 weights, a shard per layer; returns their number."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(settings))
    model = decoder_config(settings, folder)
    rows = [row for row in huggingface_table(model) if isinstance(row, Row)]
    rng, index, count = np.random.default_rng(SEED), {}, 0
    for layer in range(-1, model.layers):  # -1: weights outside the layers
        names = {r.source.format(layer): r for r in rows if ("{}" in r.source) == (layer >= 0)}
        shard = f"model-{layer + 2:05d}-of-{model.layers + 1:05d}.safetensors"
        arrays = {name: _random(rng, row.shape) for name, row in names.items()}
        save_file(arrays, folder / shard)
        index.update(dict.fromkeys(arrays, shard))
        count += sum(array.size for array in arrays.values())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    save_tokenizer(train_tokenizer(["the film is thin"], 300), folder)
    return count


def _random(rng, shape) -> np.ndarray:
    if len(shape) == 1:
        return np.ones(shape, np.float16)
    return (0.02 * rng.standard_normal(shape, np.float32)).astype(np.float16)


def convert(source: Path, target: Path) -> dict[str, float]:
    """Runs the command and samples its memory every 20 ms."""
    command = [sys.executable, "-m", "slava_jax", "convert", "--from", str(source), "--to"]
    start = time.monotonic()
    process = subprocess.Popen([*command, str(target), "--quantize", "int8"])
    peaks = {"RssAnon": 0, "VmRSS": 0}
    while process.poll() is None:
        for name, kib in _memory(process.pid).items():
            peaks[name] = max(peaks[name], kib)
        time.sleep(0.02)
    if process.returncode:
        sys.exit(f"the conversion failed with {process.returncode}")
    return {
        "seconds": round(time.monotonic() - start, 1),
        "peak_anonymous_gib": round(peaks["RssAnon"] / 2**20, 3),
        "peak_resident_gib": round(peaks["VmRSS"] / 2**20, 3),
    }


def _memory(pid: int) -> dict[str, int]:
    """Memory in KiB; empty once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    found = (line.split() for line in lines if line.startswith(("RssAnon", "VmRSS")))
    return {name.rstrip(":"): int(kib) for name, kib, _ in found}


def check(source: Path, target: Path) -> int:
    """Compares some int8 layers with the source; returns their number, exits if any differs."""
    # One array of the tree at a time, since the whole is 6.7 GB.
    import tensorstore

    tensors = Safetensors(source)
    model = decoder_config(json.loads((source / "config.json").read_text()), source)
    rows = {row.path: row for row in huggingface_table(model) if isinstance(row, Row)}
    count = 0
    for path in CHECKED:
        name = f"language_model/{path}/kernel".replace("/", ".")
        base = {"driver": "file", "path": f"{part_place(target, 'language_model')}/state/"}
        store = {"driver": "ocdbt", "base": base, "path": name}
        stored = tensorstore.open({"driver": "zarr3", "kvstore": store}).result()
        for layer in LAYERS_CHECKED:
            row = rows[f"{path}/kernel"]
            kernel, _ = quantize(row.change(tensors.read(row.source.format(layer))))
            if not np.array_equal(stored[layer].read().result(), np.asarray(kernel)):
                sys.exit(f"{name}, layer {layer}: differs from its source")
            count += 1
    return count


def size_gb(folder: Path) -> float:
    """The size of all files in it, in 10^9 bytes."""
    return round(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e9, 2)


def main() -> None:
    """Writes the weights, converts and checks them, and reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="needs 21 GB of free space")
    parser.add_argument("--layers", type=int, default=32, help="fewer to try the script")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    source, target = args.workdir / "theirs", args.workdir / "ours"
    try:
        settings = {**LLAMA_2_7B, "num_hidden_layers": args.layers}
        parameters = make_folder(source, settings)
        measured = convert(source, target)
        facts = load_facts(part_place(target, "language_model"))
        result = {
            "question": __doc__.splitlines()[0],
            "parameters": parameters,
            "source_gb": size_gb(source),
            "result_gb": size_gb(target),
            **measured,
            "anonymous_limit_gib": LIMIT_GIB,
            "quantized": facts["quantized"],
            "layers_checked_equal": check(source, target) if args.layers == 32 else 0,
            "runs": 1,
            "seed": SEED,
            "cores": len(os.sched_getaffinity(0)),
            "matmul_gflops": round(machine_metrics()["run.matmul_gflops"], 1),
            "environment": environment(),
        }
    finally:
        shutil.rmtree(source, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, value in result.items():
        print(f"{name:24s} {value}")
    print(json.dumps(result))
    if measured["peak_anonymous_gib"] > LIMIT_GIB:
        sys.exit("more anonymous memory than allowed")


if __name__ == "__main__":
    main()
