"""Does a run that is killed again and again end with the bits of one that is not?

    python -m experiments.kills      # 50 kills, about 20 minutes on an idle core

The smallest whole run (tests/tiny_run.py: data, three stages, evaluation, report) is done once
undisturbed. Then it is started, killed by SIGKILL at a random moment and started again, until it
ends; its checkpoints, optimizer states, assistant, logs and metrics are compared with those of
the first, bit by bit. Half of the moments are drawn in time, between a second and the length of the
undisturbed run, uniform in the logarithm, because later starts need not compile and are faster.
The other half come shortly after the start of a save: once a random number of temporary files and
folders has appeared. The seeds fix what is drawn, not where in a run it falls, which depends on
the speed of the machine.

Such rounds are added to `experiments/kills.json` until all kills are done; the same command
continues an interrupted experiment. Processes are forked from one that has loaded the libraries,
because that takes longer than all else in a start.
"""

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import jax

from experiments import results
from slava_jax.checkpoint import load_tree
from slava_jax.train.loop import run
from slava_jax.train.workdir import REPORT, environment
from tests.tiny_run import get_config

RESULT = Path(__file__).with_suffix(".json")
RUNS = RESULT.parent.parent / "runs" / "kills"
STAGES = ("vision", "language", "assistant")
KEPT = {"best": 1, "last": 2}  # checkpoints of a stage
POLL = 0.005  # seconds
# Names while something is written: of checkpoints, of other folders, and of files.
TEMPORARY = re.compile(
    r"\.(unfinished|deleted|orbax-checkpoint-tmp|slava-tmp|incomplete)|^\..+\.new$"
)


def draw(rng: random.Random, seconds: float) -> dict:
    """A moment for a kill in a run of so many seconds: `after` seconds of its `saves`-th save.

    With 0 saves, seconds are those since the start.
    """
    if rng.random() < 0.5:
        return {"saves": 0, "after": math.exp(rng.uniform(0, math.log(seconds)))}
    return {"saves": rng.randint(1, 12), "after": rng.uniform(0, 0.05)}


def temporaries(workdir: Path) -> set[str]:
    """The temporary files and folders of a run, without those inside of other temporary ones."""
    found = set()
    for folder, folders, names in os.walk(workdir):
        found |= {os.path.join(folder, name) for name in folders + names if TEMPORARY.search(name)}
        # A numbered folder is a complete checkpoint.
        folders[:] = [name for name in folders if not (TEMPORARY.search(name) or name.isdecimal())]
    return found


def kill(process, workdir: Path, moment: dict) -> dict | None:
    """Starts a process and kills it at a moment; returns what happened, `None` if it ended before.

    `saving` says whether something was left half written. Exits if the process fails.
    """
    left = seen = temporaries(workdir)
    start = due = time.monotonic()
    process.start()
    saves, began = 0, moment["saves"] == 0
    while process.is_alive() and not (began and time.monotonic() - due >= moment["after"]):
        found = temporaries(workdir)
        saves += len(found - seen)
        left, seen = left & found, found  # a later file may have the name of a removed one
        if not began and saves >= moment["saves"]:
            began, due = True, time.monotonic()
        time.sleep(POLL)
    process.kill()
    seconds = time.monotonic() - start
    process.join()
    if process.exitcode == 0:
        return None
    if process.exitcode != -signal.SIGKILL:
        sys.exit(f"error: the run in {workdir} failed: see {_log(workdir)}")
    return {**moment, "seconds": round(seconds, 3), "saving": bool(temporaries(workdir) - left)}


def outcome(workdir: Path) -> dict[str, bytes]:
    """All that a finished run leaves except times, memory and speed, by name."""
    metrics = json.loads((workdir / "metrics.json").read_text())
    out = {name: _text(value) for name, value in metrics.items() if not name.startswith("run.")}
    for stage in STAGES:
        for kind, count in KEPT.items():
            steps = sorted(int(p.name) for p in (workdir / stage / kind).iterdir() if _is_step(p))
            out[f"{stage}/{kind}"] = _text(steps[-count:])
            for step in steps[-count:]:
                out |= _contents(workdir, f"{stage}/{kind}/{step}")
    for part in ("adapters", "base"):
        out |= _contents(workdir, f"assistant/model/{part}")
    names = ["predictions.csv", "inputs.json", *(f"{stage}/history.jsonl" for stage in STAGES)]
    folders = ("data/instructions", "data/tokenizer", "assistant/model")
    files = [workdir / name for name in names]
    files += [p for name in folders for p in (workdir / name).glob("*.json*")]
    return out | {str(path.relative_to(workdir)): path.read_bytes() for path in files}


def _is_step(path: Path) -> bool:
    return path.name.isdecimal()


def _text(value) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _contents(workdir: Path, name: str) -> dict[str, bytes]:
    """The arrays and facts of a checkpoint."""
    arrays, facts = load_tree(workdir / name)
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    out = {f"{name}{jax.tree_util.keystr(key)}": leaf.tobytes() for key, leaf in leaves}
    return out | {f"{name} facts": _text(facts)}


def different_bits(one: dict[str, bytes], other: dict[str, bytes]) -> dict[str, int]:
    """The number of different bits of each entry that differs.

    Where lengths differ or an entry is missing, all bits of the longer one are different.
    """
    found = {}
    for name in sorted({*one, *other}):
        a, b = one.get(name), other.get(name)
        if a is None or b is None or len(a) != len(b):
            found[name] = 8 * max(len(a or b""), len(b or b""), 1)
        elif a != b:
            found[name] = (int.from_bytes(a) ^ int.from_bytes(b)).bit_count()
    return found


def _log(workdir: Path) -> Path:
    return workdir.with_suffix(".log")


def train(workdir: Path) -> None:
    """Does or resumes the run, in a process of its own; prints into a file beside `workdir`."""
    with (
        _log(workdir).open("a") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        os.dup2(log.fileno(), 2)  # also the traceback of an error
        run(get_config(), workdir)


def undisturbed(processes, workdir: Path) -> float:
    """Does the run without a kill, unless it has been done; returns its seconds."""
    if not (workdir / REPORT).exists():
        shutil.rmtree(workdir, ignore_errors=True)
        process = processes.Process(target=train, args=(workdir,))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"error: the run in {workdir} failed: see {_log(workdir)}")
    return json.loads((workdir / "metrics.json").read_text())["run.wall_seconds"]


def killed_run(processes, workdir: Path, seed: int, most: int, seconds: float) -> list[dict]:
    """Starts and kills a run, at `most` so many times, until it ends; returns the kills."""
    rng, kills = random.Random(seed), []
    shutil.rmtree(workdir, ignore_errors=True)
    while True:
        # After the last kill, one more start that has all the time it needs.
        moment = draw(rng, seconds) if len(kills) < most else {"saves": 0, "after": float("inf")}
        process = processes.Process(target=train, args=(workdir,))
        happened = kill(process, workdir, moment)
        if happened is None:
            return kills
        kills.append(happened)


def summary(rounds: list[dict]) -> dict:
    """The sums over all rounds, and where they were measured."""
    kills = [kill for one in rounds for kill in one["kills"]]
    return {
        "question": __doc__.splitlines()[0],
        "kills": len(kills),
        "kills_while_saving": sum(kill["saving"] for kill in kills),
        "runs_compared": len(rounds),
        "bits_compared": sum(one["bits"] for one in rounds),
        "bits_different": sum(sum(one["different"].values()) for one in rounds),
        "environment": environment(),
    }


def main() -> None:
    """Does what is missing, writes the result file after every round, prints the sums."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="number of kills")
    wanted = parser.parse_args().kills
    RUNS.mkdir(parents=True, exist_ok=True)
    os.environ.pop("XLA_FLAGS", None)  # one device
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(RUNS / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    jax.config.update("jax_platforms", "cpu")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["slava_jax.train.loop"])
    settings = results.settings_of(get_config())
    seconds = undisturbed(processes, RUNS / "whole")
    whole = outcome(RUNS / "whole")
    rounds = []
    while (missing := wanted - sum(len(one["kills"]) for one in rounds)) > 0:
        seed = len(rounds)
        name = f"round {seed:02}"
        if not results.measured(RESULT, name, settings):
            workdir = RUNS / f"killed-{seed}"
            kills = killed_run(processes, workdir, seed, missing, seconds)
            found = {
                "settings": settings,
                "seed": seed,
                "kills": kills,
                "bits": sum(8 * len(held) for held in whole.values()),
                "different": different_bits(whole, outcome(workdir)),
            }
            results.add(RESULT, name, found)
        rounds.append(results.read(RESULT)[name])
        results.add(RESULT, "summary", summary(rounds))
    print(json.dumps(summary(rounds), indent=1))


if __name__ == "__main__":
    main()
