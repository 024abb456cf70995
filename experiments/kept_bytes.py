"""How many bytes per token does a block of the text encoder keep for the backward pass?

    python -m experiments.kept_bytes      # a minute; nothing is allocated

One block of Llama-2-7b's shape in bfloat16, adapters on q, k, v, o (K = 4, R = 16, dropout on).
`jax.vjp` is traced by shape for one and for two examples. The difference in residual bytes is the
cost of the tokens, the rest are weights. "Frozen only" is the block without adapters, whose input
still needs a gradient. LoRA also trains A. Writes `experiments/kept_bytes.json` and the table of
docs/scale.md.
"""

import dataclasses
import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.results_page import replaced, table
from slava_jax.models.decoder import BlockInputs, DecoderBlock, DecoderConfig, DecoderMode
from slava_jax.nn.adapters import AdapterCall, AdapterConfig, joined, split_base
from slava_jax.nn.stack import REMAT, stack
from slava_jax.train.workdir import environment, write_atomically

RESULT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
MARKERS = ("<!-- kept:begin -->", "<!-- kept:end -->")
SHAPE = DecoderConfig()  # Llama-2-7b
TOKENS = 128
ADAPTERS = {
    "frozen only": None,
    "LoRA": AdapterConfig(experts=1, top_k=1),
    "LoRA-FA": AdapterConfig(experts=1, top_k=1),
    "DyA-MoQPE, projected router": AdapterConfig(),
    "DyA-MoQPE, hidden-state router": AdapterConfig(router="hidden"),
}


@dataclasses.dataclass(frozen=True)
class Kept:
    """Residual bytes of one block: per token, and for the kernels' weights."""

    token: float
    weights: int


def kept(name: str, quantized: bool, remat: str = "none") -> Kept:
    """The figure of one row of ADAPTERS."""
    one, two = (_residuals(name, quantized, remat, batch) for batch in (1, 2))
    return Kept((two - one) / TOKENS, 2 * one - two)


def _residuals(name: str, quantized: bool, remat: str, batch: int) -> int:
    mode = DecoderMode(True, quantized, ADAPTERS[name], dtype=jnp.bfloat16, remat=remat)
    block = stack(DecoderBlock, 1, (0, nn.broadcast), remat)(SHAPE, mode)
    order = jnp.zeros((batch, TOKENS), jnp.int32)
    call = AdapterCall(jnp.int32(16), jnp.zeros(batch, jnp.uint32))

    def run(variables, x):
        keys = {"dropout": jax.random.key(1)}
        return block.apply(variables, x, None, BlockInputs(order, order, call), rngs=keys)[0]

    x = jax.ShapeDtypeStruct((batch, TOKENS, SHAPE.width), jnp.bfloat16)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    init = lambda x: block.init(keys, x, None, BlockInputs(order, order, call))  # noqa: E731
    variables = jax.eval_shape(init, x)

    def pull(variables, x):
        params, frozen = variables.get("params", {}), variables["frozen"]
        base, lora_a = split_base(frozen)
        trained = {"params": params, "A": lora_a if name == "LoRA" else {}}

        def forward(trained, x):
            held = joined(joined(base, lora_a), trained["A"])
            return run({"params": trained["params"], "frozen": held}, x)

        return jax.vjp(forward, trained, x)[1]

    leaves = jax.tree.leaves(jax.eval_shape(pull, variables, x))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def measure() -> list[dict]:
    """All rows, with bfloat16 and int8 kernels and every rematerialization policy."""
    rows = []
    for name in ADAPTERS:
        for form, quantized in (("bfloat16", False), ("int8", True)):
            for remat in REMAT:
                found = dataclasses.asdict(kept(name, quantized, remat))
                rows.append({"adapters": name, "kernels": form, "remat": remat, **found})
    return rows


def results(rows: list[dict]) -> str:
    """Markdown: a row for each kind of adapter, a column for each rematerialization policy."""
    held = {(r["adapters"], r["kernels"], r["remat"]): r for r in rows}
    lines = []
    for name in ADAPTERS:
        for form in ("bfloat16", "int8"):
            tokens = [held[name, form, remat]["token"] for remat in REMAT]
            more = tokens[0] / held["frozen only", form, "none"]["token"] - 1
            megabytes = held[name, form, "none"]["weights"] / 1e6
            cells = (f"{token / 1e3:.1f}" for token in tokens)
            lines.append((f"{name}, {form} kernels", *cells, f"{more:+.2%}", f"{megabytes:.0f}"))
    columns = (f"kB per token, remat `{remat}`" for remat in REMAT)
    header = ("", *columns, "over frozen only", "MB of weights kept")
    return table(header, lines)


def main() -> None:
    """Measures, prints and writes the result file and the page."""
    rows = measure()
    result = {
        "question": __doc__.splitlines()[0],
        "shape": dataclasses.asdict(SHAPE),
        "tokens": TOKENS,
        "bytes": rows,
        "seed": "shapes alone: nothing is drawn",
        "environment": environment(),
    }
    write_atomically(RESULT, json.dumps(result, indent=1) + "\n")
    write_atomically(PAGE, replaced(PAGE.read_text(), results(rows), *MARKERS))
    print(results(rows))


if __name__ == "__main__":
    main()
