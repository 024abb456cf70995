"""Two hosts in one work directory, whose run one process can resume alone."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from tiny_run import get_config

from slava_jax.train.logging import read_history
from slava_jax.train.loop import run

ROOT = Path(__file__).parents[2]
HOSTS, DEVICES = 2, 2  # devices per host


@contextlib.contextmanager
def two_hosts(workdir: Path, settings: dict, logs: Path) -> Iterator[list[subprocess.Popen]]:
    """The command of two hosts, both on this machine; killed at the end."""
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "slava_jax.main", "--distributed", f"--workdir={workdir}"]
    command += [f"--config={ROOT / 'tests/tiny_run.py'}", *flags]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_NUM_CPU_DEVICES": str(DEVICES),
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(HOSTS),
    }
    hosts = []
    for i in range(HOSTS):
        own = {**environment, "JAX_PROCESS_ID": str(i)}
        with log(logs, i).open("w") as file:
            hosts.append(subprocess.Popen(command, cwd=ROOT, env=own, stderr=file))
    try:
        yield hosts
    finally:
        for host in hosts:
            host.kill()
        for host in hosts:
            host.wait()


def log(logs: Path, host: int) -> Path:
    return logs / f"host{host}.log"


def saved(workdir: Path, stage: str) -> list[int]:
    """Steps of the complete checkpoints; the folder may be written to meanwhile."""
    return [int(p.name) for p in (workdir / stage / "last").glob("*") if p.name.isdecimal()]


def kill_hosts_in(stage: str, workdir: Path, settings: dict, logs: Path) -> None:
    """Trains on two hosts until `stage` has a checkpoint, and kills both."""
    with two_hosts(workdir, settings, logs) as hosts:
        while not saved(workdir, stage):
            for i, host in enumerate(hosts):
                assert host.poll() is None, log(logs, i).read_text()
            time.sleep(0.005)
    codes = [host.returncode for host in hosts]
    assert codes == [-signal.SIGKILL] * HOSTS, "over before they could be killed"


def outcome(workdir: Path) -> dict:
    """All metrics of a run except times, memory and speed, by name."""
    metrics = json.loads((workdir / "metrics.json").read_text())
    out = {name: value for name, value in metrics.items() if not name.startswith("run.")}
    for stage in json.loads((workdir / "config.json").read_text())["stages"]:
        for entry in read_history(workdir / stage):
            names = [name for name in entry if "loss" in name or name.endswith(("lm", "itm"))]
            assert f"{stage} {entry['step']} loss" not in out, "written twice"
            out.update({f"{stage} {entry['step']} {name}": entry[name] for name in names})
    return out


@pytest.mark.parametrize(
    ("stages", "killed_in"),
    [
        (("vision",), "vision"),
        pytest.param(
            ("vision", "language", "assistant"), "assistant", marks=pytest.mark.timeout(1500)
        ),
    ],
)
@pytest.mark.slow
def test_one_process_goes_on_with_what_two_hosts_began(tmp_path, stages, killed_in):
    """Losses within 1e-6 of one process with four devices; only one host writes."""
    settings = {"stages": stages}
    config = get_config()
    config.stages = stages
    both, whole = tmp_path / "both", tmp_path / "whole"

    kill_hosts_in(killed_in, both, settings, tmp_path)
    (step,) = saved(both, killed_in)
    assert 0 < step < config[killed_in].steps
    for stage in stages:
        assert len(list((both / stage).glob("events*"))) == 1
    assert jax.device_count() == HOSTS * DEVICES
    run(config, both)
    run(config, whole)

    assert outcome(both) == pytest.approx(outcome(whole), rel=0, abs=1e-6)


@pytest.mark.slow
def test_hosts_meet_the_same_error_and_end(tmp_path):
    """The first host fails while the others wait for it."""
    settings = {"data.name": "folder", "data.folder": tmp_path / "nowhere", "stages": ("vision",)}
    with two_hosts(tmp_path / "run", settings, tmp_path) as hosts:
        assert [host.wait(240) for host in hosts] == [1] * HOSTS
    for i in range(HOSTS):
        last = log(tmp_path, i).read_text().splitlines()[-1]
        assert last.startswith("error: ") and str(tmp_path / "nowhere") in last
    assert not (tmp_path / "run" / "config.json").exists()


def test_no_address_is_one_clear_error(tmp_path):
    """Without a cluster manager the command names the variables to set."""
    config = ROOT / "tests/tiny_run.py"
    command = [sys.executable, "-m", "slava_jax.main", "--distributed", f"--config={config}"]
    environment = {**os.environ, "JAX_NUM_PROCESSES": "2"}
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'run'}"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: --distributed: found no supported cluster manager")
    assert "JAX_COORDINATOR_ADDRESS=HOST:PORT" in done.stderr
    assert not (tmp_path / "run").exists()
