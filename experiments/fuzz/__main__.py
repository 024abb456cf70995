"""Is anything read wrongly, or with a traceback, when its bytes are damaged?

    python -m experiments.fuzz                        # 20,000 inputs of each kind, 30 minutes
    python -m experiments.fuzz --inputs 300 --kinds CSV GGUF

Seeded inputs of every kind that is read from outside or from disk: each is read as the library
reads it, and compared with another reading of the same bytes where there is a cheap one. Only
documented errors (`UserError`) and right values are allowed. A kind that is in
`experiments/fuzz.json` with as many inputs is not repeated; delete its entry to do so.
"""

import argparse
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from experiments import results
from experiments.fuzz.chunks import outcomes
from experiments.fuzz.kinds import KINDS
from experiments.fuzz.trial import FAULTS
from experiments.results_page import table
from slava_jax.train.workdir import environment, machine_metrics

RESULTS = Path(__file__).parents[1] / "fuzz.json"
_CHUNK = 5000  # inputs that one process reads
_SHOWN = 5  # faults of one kind that are listed
_COLUMNS = ("n", "documented_errors", "accepted", *FAULTS, "growth_mib", "seconds")


def _measured(name: str, seeds: range) -> dict:
    start, counts, faults, growth = time.monotonic(), Counter(), [], 0
    for seed, what, detail, grown in outcomes(name, seeds):
        counts[what] += 1
        growth = max(growth, grown)
        if what in FAULTS:
            faults.append({"seed": seed, "what": what, "detail": detail})
    return {"counts": counts, "faults": faults, "growth_mib": growth,
            "seconds": time.monotonic() - start}  # fmt: skip


def _summary(inputs: int, parts: list[dict]) -> dict:
    counts = sum((part["counts"] for part in parts), Counter())
    faults = [fault for part in parts for fault in part["faults"]]
    return {
        "n": inputs,
        **{what: counts[what] for what in ("documented_errors", "accepted", *FAULTS)},
        "growth_mib": max(part["growth_mib"] for part in parts),
        "seconds": round(sum(part["seconds"] for part in parts)),
        "first_faults": faults[:_SHOWN],
    }


def measure(names: list[str], inputs: int | None, workers: int) -> None:
    """Reads what is missing in the result file, which is extended after every kind."""
    held, wanted = results.read(RESULTS), {}
    for name in names:
        n = KINDS[name].full if inputs is None else inputs
        if held.get(name, {}).get("n") != n:
            wanted[name] = n
    machine = {**environment(), "matmul_gflops": round(machine_metrics()["run.matmul_gflops"])}
    with ThreadPoolExecutor(workers) as pool:
        running = {
            name: [pool.submit(_measured, name, range(start, min(n, start + _CHUNK)))
                   for start in range(0, n, _CHUNK)]
            for name, n in wanted.items()
        }  # fmt: skip
        for name, chunks in running.items():
            parts = []
            for number, chunk in enumerate(chunks, start=1):
                parts.append(chunk.result())
                faults = sum(len(part["faults"]) for part in parts)
                print(f"{name}: {number} of {len(chunks)} parts, {faults} faults", flush=True)
            results.add(RESULTS, name, {**_summary(wanted[name], parts), "environment": machine})


def main() -> None:
    """Measures and prints; the exit status is 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, help="of each kind; by default as many as it has")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS])
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    measure(args.kinds, args.inputs, args.workers)
    found = results.read(RESULTS)
    print(table(("kind", *_COLUMNS), [
        (name, *(str(found[name][column]) for column in _COLUMNS)) for name in args.kinds
    ]))  # fmt: skip
    faults = sum(found[name][what] for name in args.kinds for what in FAULTS)
    print(json.dumps({"faults": faults, "inputs": sum(found[name]["n"] for name in args.kinds)}))
    raise SystemExit(faults > 0)


if __name__ == "__main__":
    main()
