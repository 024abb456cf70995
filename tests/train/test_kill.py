"""A whole run killed with SIGKILL repeatedly ends with the results of an uninterrupted run."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.kills import STAGES, different_bits, outcome

ROOT = Path(__file__).parents[2]
SAVING = "*.orbax-checkpoint-tmp*"


def command(workdir: Path) -> list[str]:
    config = ROOT / "tests/tiny_run.py"
    return [sys.executable, "-m", "slava_jax.main", "--config", str(config), "--workdir", workdir]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One device, and a compilation cache shared by the processes."""
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    cache = str(tmp_path_factory.mktemp("compiled"))
    every = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
    return {**kept, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": cache, every: "0"}


def run(workdir: Path, environment: dict) -> None:
    done = subprocess.run(
        command(workdir), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory, environment):
    """The results of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole")
    run(workdir, environment)
    return outcome(workdir)


def kill_when(workdir: Path, environment: dict, happens, delay: float = 0.0) -> None:
    """Starts the run, and kills it `delay` seconds after `happens()` is true."""
    process = subprocess.Popen(
        command(workdir), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        end = time.monotonic() + 300
        while not happens():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < end, "never happened"
            time.sleep(0.001)
        time.sleep(delay)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, "it was over before it could be killed"


def assert_same(whole: dict, killed: dict) -> None:
    assert different_bits(whole, killed) == {}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_at_any_moment_it_ends_with_the_same_numbers(tmp_path, environment, whole):
    killed = tmp_path / "killed"
    rng = random.Random(0)
    kill_when(killed, environment, (killed / "data").exists, rng.uniform(0, 0.5))
    caught = 0
    for stage in STAGES:
        for folder in ("best", "last"):

            def saving(path=killed / stage / folder):
                return any(path.glob(SAVING))

            kill_when(killed, environment, saving)
            caught += saving()  # still partly written when killed
    assert caught >= 3
    kill_when(killed, environment, (killed / "assistant/model").exists, rng.uniform(0, 2))
    run(killed, environment)

    assert_same(whole, outcome(killed))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_at_random_moments(tmp_path, environment, whole):
    """Seeded moments after a stage began or wrote its first checkpoint."""
    killed = tmp_path / "killed"
    rng = random.Random(1)
    for stage in STAGES:
        kill_when(killed, environment, (killed / stage).exists, rng.uniform(0, 1.5))
    run(killed, environment)
    assert_same(whole, outcome(killed))
