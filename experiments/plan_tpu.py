"""Which assistants with Llama-2-7b fit a TPU? Planned by the TPU compiler, without a TPU.

    make tpu-plan      # 30 minutes; every plan is saved, an interrupted run resumes

Compiles the training step of `main` (train/step.py on a mesh: K = 4 on q, k, v, o, both losses with
the mismatched pairs, Adam) for chips described by libtpu. The peak is the memory the compiler
reserves on one chip. Bytes of collectives are counted in the compiled program, once per iteration
for loops. A result is stored with a hash of its program, and measured again if that changes. Writes
`experiments/plan_tpu.json` and the tables of docs/scale.md.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the chips are only described

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from experiments.collectives import Traffic, traffic
from experiments.random_llama import batch_shapes, multiplied
from experiments.results_page import replaced, table
from slava_jax.config import default_config
from slava_jax.models.presets import PAPER, variable_shapes
from slava_jax.models.slava import Slava
from slava_jax.train.optim import make_optimizer
from slava_jax.train.parallel import Mesh
from slava_jax.train.recipes import Assistant
from slava_jax.train.step import TrainState
from slava_jax.train.workdir import environment, write_atomically

RESULT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
MARKERS = ("<!-- plan:begin -->", "<!-- plan:end -->")
GIB = 2**30
# Published for each chip: bfloat16 operations/s, and bytes/s over all its links.
CHIPS = {
    "v5e": {"bfloat16": 197e12, "links": 200e9},
    "v5p": {"bfloat16": 459e12, "links": 600e9},
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """One program: `tokens` of text and a quarter of that for the answer, `rows` per weight copy.

    Uses `chips` of the topology (None: all); `model` chips share a copy of the weights.
    """

    topology: str
    rows: int
    tokens: int
    remat: str
    decoder: str = "transformer"
    chips: int | None = None
    model: int = 1
    aim: float | None = None  # GiB

    @property
    def name(self) -> str:
        """The key of its result."""
        own = dataclasses.asdict(self)
        del own["aim"]
        return ", ".join(f"{key} {value}" for key, value in own.items())


ASKED = [
    Plan("v5e:2x4", 1, 2048, "full", aim=8.3),
    Plan("v5e:2x4", 1, 512, "none", aim=10.0),
    Plan("v5e:2x4", 32, 512, "full", chips=1, aim=15.75),
    Plan("v5e:2x4", 1, 2048, "full", "llama"),
    Plan("v5e:2x4", 1, 512, "none", "llama"),
    Plan("v5e:2x4", 32, 512, "full", "llama", chips=1),
]
SHARED = [
    Plan("v5e:16x16", 1, 2048, "full", model=1),
    Plan("v5e:16x16", 4, 2048, "full", model=4),
    Plan("v5e:16x16", 16, 2048, "full", model=16),
    Plan("v5p:2x2x1", 4, 2048, "full", model=1),
    Plan("v5p:2x2x1", 16, 2048, "full", model=4),
]
# Plans on one chip with room for all of them; the table of cards is extrapolated from them. With
# full remat and few sequences the peak is elsewhere, so both sizes must be larger.
SIZES = [
    Plan("v5p:2x2x1", rows, tokens, remat, chips=1)
    for remat, tokens, pair in (
        ("full", 512, (16, 64)),
        ("full", 2048, (4, 16)),
        ("none", 512, (1, 8)),
        ("none", 2048, (1, 8)),
    )
    for rows in pair
]
CARDS = (12, 16, 24, 40, 80)  # GiB
SPARE = 1.0  # GiB of a card for context, libraries and fragmentation


def lowered(plan: Plan):
    """The lowered program of a plan, and its number of chips."""
    platform = topologies.get_topology_desc(platform="tpu", topology_name=plan.topology)
    devices = platform.devices[: plan.chips]
    config = dataclasses.replace(PAPER, decoder=plan.decoder, remat=plan.remat)
    model = Slava(config, jnp.bfloat16)
    shapes = variable_shapes(model)
    optimizer = make_optimizer(default_config().assistant)
    state = jax.eval_shape(lambda p: TrainState.create(p, optimizer), shapes["params"])
    mesh = Mesh(Assistant(model), optimizer, model_axis=plan.model, devices=devices)
    batch = batch_shapes(plan.rows * len(devices) // plan.model, plan.tokens, config.vit)
    return mesh.lower(state, {"frozen": shapes["frozen"]}, batch), len(devices)


def measure(plan: Plan, held: dict | None) -> dict:
    """Peak memory of a chip and link traffic per step, or the compiler's error.

    Compiles again only if the program differs from that of `held`.
    """
    source, chips = lowered(plan)
    digest = hashlib.sha256(source.as_text().encode()).hexdigest()[:16]
    if held and held.get("program") == digest:
        return held
    try:
        program = source.compile({"exec_time_optimization_effort": -1.0})
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        why = str(error).splitlines()[0]
        return {"plan": dataclasses.asdict(plan), "program": digest, "does_not_fit": why}
    return {
        "plan": dataclasses.asdict(plan),
        "program": digest,
        "chips": chips,
        "peak_gib": program.memory_analysis().peak_memory_in_bytes / GIB,
        "traffic": dataclasses.asdict(traffic(program.as_text())),
    }


def efficiency(result: dict) -> float:
    """Fraction of a step in which the chips compute, if no communication is overlapped."""
    plan = Plan(**result["plan"])
    chip = CHIPS[plan.topology.split(":")[0]]
    tokens = plan.rows * plan.tokens / plan.model  # of one chip
    factor = 4 if plan.remat == "none" else 6
    frozen = multiplied(PAPER.language_model, head=plan.decoder == "llama")
    computing = factor * frozen * tokens / chip["bfloat16"]
    moving = Traffic(**result["traffic"]).ring_bytes / chip["links"]
    return computing / (computing + moving)


def tables(results: dict[str, dict]) -> str:
    """Markdown of the finished plans for docs/scale.md."""
    asked = [
        (
            f"{p.rows} x {p.tokens} a chip, {p.chips or 'all'} of {p.topology}, remat {p.remat},"
            f" decoder `{p.decoder}`",
            _peak(results[p.name]),
            "" if p.aim is None else _against(results[p.name], p.aim),
        )
        for p in ASKED
        if p.name in results
    ]
    shared = [
        (
            f"{p.topology}, {p.model} chip{'s' * (p.model > 1)} per copy, "
            f"{p.rows} x {p.tokens} tokens per copy",
            _peak(results[p.name]),
            f"{results[p.name]['traffic']['payload_bytes'] / GIB:.2f}",
            f"{results[p.name]['traffic']['ring_bytes'] / GIB:.2f}",
            f"{efficiency(results[p.name]):.0%}",
        )
        for p in SHARED
        if "traffic" in results.get(p.name, {})
    ]
    parts = [table(("step", "peak, GiB per chip", "aim"), asked)]
    if shared:
        header = ("mesh", "peak, GiB per chip", "collectives, GiB per step", "over links, GiB",
                  "efficiency, nothing hidden")  # fmt: skip
        parts.append(table(header, shared))
    if all("peak_gib" in results.get(p.name, {}) for p in SIZES):
        parts.append(_cards(results))
    return "\n\n".join(parts)


def _peak(result: dict) -> str:
    return f"{result['peak_gib']:.2f}" if "peak_gib" in result else "does not fit"


def _against(result: dict, aim: float) -> str:
    reached = result.get("peak_gib", float("inf")) <= aim
    return f"at most {aim}: {'reached' if reached else 'missed'}"


def _cards(results: dict[str, dict]) -> str:
    rows = []
    for few, many in zip(SIZES[::2], SIZES[1::2], strict=True):
        low, high = (results[p.name]["peak_gib"] for p in (few, many))
        each = (high - low) / (many.rows - few.rows)
        fits = [math.floor(few.rows + (card - SPARE - low) / each) for card in CARDS]
        rows.append(
            (
                f"{few.tokens} tokens, remat {few.remat}",
                f"{few.rows}: {low:.2f}",
                f"{many.rows}: {high:.2f}",
                *(str(n) if n >= few.rows else f"< {few.rows}" for n in fits),
            )
        )
    header = ("sequences of", "compiled, GiB", "compiled, GiB", *(f"{n} GB" for n in CARDS))
    return table(header, rows)


def _write(results: dict[str, dict]) -> None:
    result = {
        "question": __doc__.splitlines()[0],
        "results": results,
        "chips": CHIPS,
        "seed": "shapes alone: nothing is drawn",
        "environment": {**environment(), "libtpu": importlib.metadata.version("libtpu")},
    }
    write_atomically(RESULT, json.dumps(result, indent=1) + "\n")


def main() -> None:
    """Measures the missing and changed programs, writes the result file and the page."""
    held = json.loads(RESULT.read_text())["results"] if RESULT.exists() else {}
    plans = (*ASKED, *SHARED, *SIZES)
    results = {plan.name: held[plan.name] for plan in plans if plan.name in held}
    for plan in plans:
        results[plan.name] = measure(plan, results.get(plan.name))
        print(plan.name, json.dumps(results[plan.name]), flush=True)
        _write(results)
    write_atomically(PAGE, replaced(PAGE.read_text(), tables(results), *MARKERS))


if __name__ == "__main__":
    main()
