"""Memory in large pages, and memory returned after a compilation."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
from slava_jax.pages import use_large_pages
print("started", flush=True)
use_large_pages()
import numpy as np
held = np.ones(2**26, np.uint8)
rollup = dict(line.split(":") for line in open("/proc/self/smaps_rollup") if "kB" in line)
print(os.environ["GLIBC_TUNABLES"], sys.argv[1], rollup["AnonHugePages"].split()[0])
"""
COMPILATION = """
import sys
from slava_jax.pages import trim_after_compiling
if sys.argv[1] == "trim":
    trim_after_compiling()
import jax

def long(x):
    for i in range(40):
        x = jax.numpy.tanh(x @ x + i) * x[i % 8]
    return x.sum()

x = jax.numpy.ones((8, 8))
jax.jit(jax.grad(long)).lower(x).compile()
status = dict(line.split(":") for line in open("/proc/self/status") if "kB" in line)
print(status["RssAnon"].split()[0])
"""
SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="large pages are Linux's")


def printed(**environment):
    kept = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", PROGRAM, "an argument"]
    environment = kept | environment
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.splitlines()


def test_a_program_starts_again_once_with_its_arguments_and_gets_large_pages():
    *starts, last = printed()
    assert starts == ["started"] * 2
    setting, *argument, large = last.split()
    assert setting == "glibc.malloc.hugetlb=1" and argument == ["an", "argument"]
    if SWITCH.exists() and "[madvise]" in SWITCH.read_text():
        assert int(large) >= 32 * 1024  # kB of the array's 64 MiB


def test_a_setting_of_the_users_own_is_left_alone():
    *starts, last = printed(GLIBC_TUNABLES="glibc.malloc.check=0")
    assert starts == ["started"]
    assert last.startswith("glibc.malloc.check=0 an argument")


@pytest.mark.slow
def test_what_a_compilation_leaves_free_is_given_back():
    # As for users: with optimizations and without a compilation cache.
    changed = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "GLIBC_TUNABLES")
    plain = {name: value for name, value in os.environ.items() if name not in changed}
    held = {}
    for argument in ("keep", "trim"):
        command = [sys.executable, "-c", COMPILATION, argument]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=plain)
        held[argument] = int(done.stdout) / 1024
    assert held["trim"] < held["keep"] - 20, held  # MiB
