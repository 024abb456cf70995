"""A training step beside transformers + peft, on the same CPU: tokens a second and peak memory.

    make reference
    python -m experiments.bench_peft      # half an hour, two idle cores, 13 GB; killed, it goes on

SmolLM2-135M's shape with random weights, as a plain language model with its tied head: next-token
loss on the same 4 x 128 random tokens, rank 16 on q, k, v, o, Adam. PEFT's LoRA and LoRA-FA in
float32, without dropout (its default); ours with K = 4 experts, dynamic rank and dropout, as `main`
trains (train/step.py), the frozen weights in float32, int8, and int8 with int8 activations; and
each of the three with the adapters removed and one embedding row trained, for what adapters cost.
Ours have their memory in large pages, and give it back behind a compilation, as in `main`
(slava_jax/pages.py); PEFT's LoRA runs with large pages and without.
Each is a process of its own, so that its peak resident memory is its own, and imports nothing but
what it steps: PEFT's has no JAX in it, ours no torch. The processes of a repetition step in turn,
one at a time, and a ratio is that of two steps of one turn: a machine that is shared with others
drifts by more than the differences sought. Writes `experiments/bench_peft.json`, by processor, and
its tables in docs/scale.md.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

# Nothing of ours is imported up here: a repetition's memory would have it in.

RESULT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
MARKERS = ("<!-- peft:begin -->", "<!-- peft:end -->")
PARTS = Path("runs/bench_peft")  # a file a repetition
BATCH, LENGTH, RANK = 4, 128, 16
SHAPE = {
    "vocab_size": 49_152,
    "width": 576,
    "layers": 30,
    "heads": 9,
    "kv_heads": 3,
    "head_width": 64,
    "mlp_width": 1536,
    "rope_theta": 1e5,
    "tie_embeddings": True,
}
# (quantized, int8_activations) of ours.
OURS = {"float32": (False, False), "int8": (True, False), "int8 x int8": (True, True)}
BARE = "{}, no adapters"
PAGES = "peft LoRA, large pages"
# In the order of their turns: beside each of ours the one without adapters.
PAIRS = [name for form in OURS for name in (form, BARE.format(form))]
NAMES = ("peft LoRA", PAGES, "peft LoRA-FA", *PAIRS)
WARM, TURNS, REPETITIONS, THREADS = 2, 6, 5, 2
AIMS = {"speed": 1.4, "memory": 0.6, "adapters": 1.10}


def token_ids():
    """int32[4, 128], the same on both sides."""
    import numpy as np

    ids = np.random.default_rng(0).integers(1, SHAPE["vocab_size"], (BATCH, LENGTH))
    return ids.astype(np.int32)


def peft_step(name: str):
    """A function that makes one update of transformers + peft and returns its loss."""
    import torch
    from peft.optimizers import create_lorafa_optimizer
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=SHAPE["vocab_size"],
            hidden_size=SHAPE["width"],
            intermediate_size=SHAPE["mlp_width"],
            num_hidden_layers=SHAPE["layers"],
            num_attention_heads=SHAPE["heads"],
            num_key_value_heads=SHAPE["kv_heads"],
            rope_theta=SHAPE["rope_theta"],
            tie_word_embeddings=True,
        )
    )
    model = with_lora(model)
    if name == "peft LoRA-FA":
        optimizer = create_lorafa_optimizer(model, r=RANK, lora_alpha=RANK, lr=1e-3)
    else:
        optimizer = adam(model)
    return torch_step(model, optimizer, torch.from_numpy(token_ids()).long())


def with_lora(model):
    """A model of transformers with peft's LoRA on q, k, v, o."""
    from peft import LoraConfig, get_peft_model

    adapted = ["q_proj", "k_proj", "v_proj", "o_proj"]
    lora = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=adapted, task_type="CAUSAL_LM")
    return get_peft_model(model, lora)


def adam(model):
    """Adam over what is trained."""
    import torch

    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)


def torch_step(model, optimizer, ids):
    """A function that makes one update on next tokens and returns its loss, a tensor."""

    def step():
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def our_step(name: str):
    """The same of ours: the step that `main` runs."""
    from experiments.plain_model import PlainModel, plain_batch, shapes_of, stepper
    from experiments.random_llama import random_weights
    from slava_jax.models.decoder import DecoderConfig, DecoderMode
    from slava_jax.nn.adapters import AdapterConfig
    from slava_jax.pages import trim_after_compiling

    trim_after_compiling()
    form = name.removesuffix(BARE.format(""))
    quantized, int8_activations = OURS[form]
    adapter = AdapterConfig() if form == name else None
    mode = DecoderMode(True, quantized, adapter, int8_activations=int8_activations)
    model, batch = PlainModel(DecoderConfig(**SHAPE), mode), plain_batch(token_ids())
    return stepper(model, random_weights(shapes_of(model, batch)), batch)


def one(name: str) -> None:
    """One repetition, in this process: a timed step for each line of stdin, a line of JSON each.

    The line holds the step's seconds, and the peak of resident memory in GiB so far.
    """
    # Both sides the same cores; JAX has no setting of its own for the number of threads.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    step = peft_step(name) if name.startswith("peft") else our_step(name)
    stranger = "jax" if name.startswith("peft") else "torch"
    if stranger in sys.modules:
        raise RuntimeError(f"{name}: its process holds {stranger}, which would count as its memory")
    for _ in range(WARM):
        float(step())
    print("warm", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        float(step())
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "peak_gib": peak}), flush=True)


def repetition() -> dict[str, list[dict]]:
    """The steps of every name, turn by turn."""
    found: dict[str, list[dict]] = {name: [] for name in NAMES}
    with contextlib.ExitStack() as stack:
        running = {name: stack.enter_context(_started(name)) for name in NAMES}
        for turn in range(TURNS):
            # There and back, so that no one gains by what changes steadily.
            for name in NAMES if turn % 2 == 0 else reversed(NAMES):
                running[name].stdin.write("\n")
                running[name].stdin.flush()
                found[name].append(json.loads(_answer(name, running[name])))
    return found


@contextlib.contextmanager
def _started(name: str):
    """The warm process of a name; it ends with the block."""
    command = [sys.executable, "-m", "experiments.bench_peft", "--one", name]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=_environment(name), **pipes) as process:
        try:
            while _answer(name, process) != "warm\n":
                pass  # What a library prints.
            yield process
        finally:
            process.kill()


def _answer(name: str, process) -> str:
    line = process.stdout.readline()
    if not line:
        sys.exit(f"{name}: its process ended; what it said stands above")
    return line


def measure() -> list[dict[str, list[dict]]]:
    """All repetitions; one that is there already is not repeated."""
    from slava_jax.train.workdir import write_atomically

    PARTS.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(REPETITIONS):
        path = PARTS / f"{number}.json"
        if not path.exists():
            write_atomically(path, json.dumps(repetition()))
        found.append(json.loads(path.read_text()))
        print(path, summary(found[-1:])["rows"], flush=True)
    return found


def _environment(name: str) -> dict[str, str]:
    """Of a repetition: with large pages or without, whatever this process has."""
    kept = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    small = name.startswith("peft") and name != PAGES
    return kept if small else {**kept, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def summary(found: list[dict[str, list[dict]]]) -> dict:
    """Medians over the turns of all repetitions, and the ratios that the aims speak of."""
    steps = {name: [step for part in found for step in part[name]] for name in NAMES}
    seconds = {name: [step["seconds"] for step in steps[name]] for name in NAMES}
    memory = {n: statistics.median(part[n][-1]["peak_gib"] for part in found) for n in NAMES}

    def ratio(one, other):
        turns = zip(seconds[one], seconds[other], strict=True)
        return statistics.median(a / b for a, b in turns)

    rows = {}
    for name in NAMES:
        step = statistics.median(seconds[name])
        rows[name] = {
            "seconds_a_step": step,
            "tokens_a_second": BATCH * LENGTH / step,
            "peak_gib": memory[name],
            "speed_of_peft": ratio("peft LoRA", name),
            "memory_of_peft": memory[name] / memory["peft LoRA"],
        }
        if name in OURS:
            rows[name]["time_of_no_adapters"] = ratio(name, BARE.format(name))
    best = rows["int8 x int8"]
    reached = {
        "speed": best["speed_of_peft"] >= AIMS["speed"],
        "memory": best["memory_of_peft"] <= AIMS["memory"],
        "adapters": max(rows[name]["time_of_no_adapters"] for name in OURS) <= AIMS["adapters"],
    }
    return {"rows": rows, "aims": AIMS, "reached": reached}


def int8_instructions() -> list[str]:
    """Those of this processor that sum products of int8, of which its speed at them depends."""
    known = {"amx_int8", "avx512_vnni", "avx_vnni"}
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return sorted(known & set(flags.split()))


def shown(found: dict[str, dict]) -> str:
    """The tables of docs/scale.md, one for each processor."""
    parts = []
    for processor, result in found.items():
        instructions = ", ".join(result["int8_instructions"]) or "none"
        parts.append(f"**{processor}**, int8 instructions: {instructions}")
        parts.append(_table(result["rows"]))
    return "\n\n".join(parts)


def _table(rows: dict[str, dict]) -> str:
    from experiments.results_page import table

    header = ("", "tokens/s", "peak GiB", "speed of PEFT", "memory of PEFT", "time of no adapters")
    ratios = ("speed_of_peft", "memory_of_peft", "time_of_no_adapters")
    body = [
        (
            name,
            f"{row['tokens_a_second']:.0f}",
            f"{row['peak_gib']:.2f}",
            *(f"{row[ratio]:.2f}" if ratio in row else "" for ratio in ratios),
        )
        for name, row in rows.items()
    ]
    return table(header, body)


def main() -> None:
    """Measures, writes the result file and the page, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", choices=NAMES)
    asked = parser.parse_args()
    if asked.one:
        one(asked.one)
        return
    import peft
    import torch
    import transformers

    from experiments import results
    from experiments.results_page import replaced
    from slava_jax.train.workdir import environment, machine_metrics, write_atomically

    versions = {m.__name__: m.__version__ for m in (torch, transformers, peft)}
    result = {
        "batch": [BATCH, LENGTH],
        "threads": THREADS,
        "repetitions": REPETITIONS,
        "timed_steps": TURNS,
        "seed": 0,
        **summary(measure()),
        "matmul_gflops": round(machine_metrics()["run.matmul_gflops"], 1),
        "int8_instructions": int8_instructions(),
        "environment": {**environment(), **versions},
    }
    results.add(RESULT, result["environment"]["processor"], result)
    tables = shown(results.read(RESULT))
    write_atomically(PAGE, replaced(PAGE.read_text(encoding="utf-8"), tables, *MARKERS))
    shutil.rmtree(PARTS)  # the next run is a new one
    print(tables)


if __name__ == "__main__":
    main()
