"""Checkpoints and folders: bitwise round trips, whole under SIGKILL, one writer."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from slava_jax import checkpoint
from slava_jax.checkpoint import (
    CheckpointError,
    Checkpoints,
    atomic_folder,
    content_hash,
    load_tree,
    newest,
    save_tree,
)


def state(seed: int = 0) -> dict:
    """A training state: int8, bfloat16, keys, optimizer tuples, numpy and empty arrays."""
    draw = np.random.default_rng(seed)
    params = {
        "dense": {"kernel": jnp.asarray(draw.normal(size=(3, 4)), jnp.float32)},
        "quantized": jnp.asarray(draw.integers(-127, 128, size=(5,)), jnp.int8),
        "half": jnp.asarray(draw.normal(size=(2, 2)), jnp.bfloat16),
    }
    return {
        "params": params,
        "optimizer": optax.adam(1e-3).init({"w": params["dense"]["kernel"]}),
        "key": jax.random.key(seed),
        "keys": jax.random.split(jax.random.key(seed, impl="rbg"), 3),
        "counts": draw.normal(size=3),
        "host_half": draw.normal(size=2).astype(ml_dtypes.bfloat16),
        "pair": [np.int64(seed), jnp.zeros((0, 4))],
        "nothing": None,
    }


def bits(leaf) -> bytes:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def assert_same(left, right) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert isinstance(a, jax.Array) == isinstance(b, jax.Array)
        assert bits(a) == bits(b)


def test_a_restored_state_is_the_saved_one_bit_for_bit(tmp_path):
    facts = {"iterator": {"position": 2**70, "seed": [1, 2]}, "best": 0.1, "none": None}
    Checkpoints(tmp_path / "run").save(7, state(1), facts)
    step, restored, read_facts = Checkpoints(tmp_path / "run").restore(state(2))
    assert step == 7
    assert read_facts == facts
    assert_same(restored, state(1))


def test_shapes_alone_are_template_enough(tmp_path):
    saved = {"a": jnp.arange(6.0).reshape(2, 3), "key": jax.random.key(4)}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, saved, {})
    _, restored, _ = checkpoints.restore(jax.eval_shape(lambda: saved))
    assert_same(restored, saved)


def test_only_the_newest_is_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None and newest(tmp_path) is None
    for step in (3, 9, 10):
        checkpoints.save(step, {"x": jnp.full(2, step)}, {"step": step})
    assert checkpoints.latest() == 10
    assert [path.name for path in tmp_path.iterdir()] == ["10"]
    assert newest(tmp_path) == tmp_path / "10" and newest(tmp_path / "absent") is None
    step, arrays, facts = checkpoints.restore({"x": jnp.zeros(2, jnp.int32)})
    assert (step, facts, arrays["x"].tolist()) == (10, {"step": 10}, [10, 10])
    with pytest.raises(CheckpointError, match="step 10 already exists"):
        checkpoints.save(10, {"x": jnp.zeros(2)}, {})


def test_an_empty_directory_has_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint found"):
        Checkpoints(tmp_path).restore({"x": jnp.zeros(2)})


def test_every_difference_from_the_template_is_listed(tmp_path):
    save_tree(
        tmp_path / "t", {"a": {"w": jnp.zeros((2, 3))}, "b": jnp.zeros(4), "c": jnp.ones(1)}, {}
    )
    template = {"a": {"w": jnp.zeros((2, 5))}, "b": jnp.zeros(4, jnp.bfloat16), "d": jnp.ones(1)}
    with pytest.raises(CheckpointError) as caught:
        load_tree(tmp_path / "t", template)
    assert str(caught.value).split("\n")[1:] == [
        "  a/w: stored float32[2, 3], expected float32[2, 5]",
        "  b: stored float32[4], expected bfloat16[4]",
        "  d: not stored, expected float32[1]",
        "  c: stored float32[1], not expected",
    ]


def test_two_writers_of_one_folder(tmp_path):
    """The second says so; the first is not disturbed."""
    script = """
import sys
from slava_jax.checkpoint import CheckpointError, atomic_folder
try:
    with atomic_folder(sys.argv[1]):
        pass
except CheckpointError as error:
    print(error)
"""
    with atomic_folder(tmp_path / "folder") as place:
        place.mkdir()
        (place / "file").write_text("all of it")
        message = run_python(script, str(tmp_path / "folder")).communicate(timeout=120)[0]
    assert message.startswith(f"{tmp_path / 'folder'}: another process is writing it")
    assert (tmp_path / "folder" / "file").read_text() == "all of it"


def test_without_a_template_a_tree_comes_back_as_nested_dicts_of_numpy(tmp_path):
    tree = {
        "a": {"w": jnp.ones((2, 3), jnp.bfloat16)},
        "list": [jnp.int8(3)],
        "none": np.zeros((0, 2)),
    }
    save_tree(tmp_path / "t", tree, {"name": "x"})
    read, facts = load_tree(tmp_path / "t")
    assert facts == {"name": "x"}
    assert read["a"]["w"].dtype == ml_dtypes.bfloat16
    assert read["list"]["0"] == 3
    assert read["none"].shape == (0, 2)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(read))


def test_a_tree_of_no_arrays_keeps_its_facts(tmp_path):
    save_tree(tmp_path / "t", {}, {"a": 1})
    assert load_tree(tmp_path / "t") == ({}, {"a": 1})


def test_an_existing_folder_is_not_overwritten(tmp_path):
    save_tree(tmp_path / "t", {"x": jnp.zeros(2)}, {})
    with pytest.raises(CheckpointError, match="already exists"):
        save_tree(tmp_path / "t", {"x": jnp.ones(2)}, {})
    assert load_tree(tmp_path / "t")[0]["x"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("arrays", "facts", "message"),
    [
        ({"a": 3.0}, {}, "a is float, not an array"),
        ({"a.b": jnp.zeros(1)}, {}, "'a.b' is not a valid array name"),
        ({"a": {"": jnp.zeros(1)}}, {}, "'a/' is not a valid array name"),
        ({"a": jnp.zeros(1)}, {"x": jnp.zeros(1)}, "must be JSON-serializable"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_writing(tmp_path, arrays, facts, message):
    with pytest.raises(CheckpointError, match=message):
        Checkpoints(tmp_path).save(1, arrays, facts)
    assert list(tmp_path.iterdir()) == []


def run_python(script: str, *arguments: str, **environment: str) -> subprocess.Popen:
    """A new process with this source tree, connected by stdin and stdout."""
    root = Path(checkpoint.__file__).parent.parent
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )


# Imports once, then forks one child per line read, so that starts are cheap. A child saves without
# pause; its arrays are a function of the step, so any mixture of two saves is detected.
SAVE_FOREVER = """
import os, sys
import numpy as np
from slava_jax.checkpoint import Checkpoints
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        checkpoints = Checkpoints(sys.argv[1])
        step = checkpoints.latest() or 0
        while True:
            step += 1
            draws = [np.random.default_rng([step, i]) for i in range(8)]
            arrays = {f"a{i}": draw.normal(size=20_000) for i, draw in enumerate(draws)}
            checkpoints.save(step, arrays, {"step": step})
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    """SIGKILL at random times in a process that only saves, nine times."""
    draw = random.Random(0)
    half_written, last = 0, 0
    with run_python(SAVE_FOREVER, str(tmp_path)) as process:
        try:
            for kill in range(9):
                process.stdin.write("\n")
                process.stdin.flush()
                child = int(process.stdout.readline())
                deadline = time.monotonic() + 60
                while kill == 0 and not any(p.name.isdecimal() for p in tmp_path.iterdir()):
                    assert time.monotonic() < deadline, "the child saved nothing"
                    time.sleep(0.01)
                time.sleep(draw.uniform(0.0, 0.5))
                os.kill(child, signal.SIGKILL)
                assert process.stdout.readline() == "gone\n"
                half_written += any("tmp" in p.name for p in tmp_path.iterdir())

                checkpoints = Checkpoints(tmp_path)
                assert all(p.name.isdecimal() for p in tmp_path.iterdir()), "leftovers stayed"
                template = {f"a{i}": np.zeros(20_000) for i in range(8)}
                step, arrays, facts = checkpoints.restore(template)
                assert step >= last
                assert facts == {"step": step}
                for i in range(8):
                    expected = np.random.default_rng([step, i]).normal(size=20_000)
                    assert arrays[f"a{i}"].tobytes() == expected.tobytes()
                last = step
        finally:
            process.kill()
    assert half_written > 0, "no kill met a save: the test has lost its point"
    assert last > 1


SAVE_WITH_LITTLE_ROOM = """
import resource, sys
import numpy as np
from slava_jax.checkpoint import CheckpointError, Checkpoints
checkpoints = Checkpoints(sys.argv[1])
small = {"x": np.arange(100.0)}
checkpoints.save(1, small, {})
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
try:
    checkpoints.save(2, {"x": np.random.default_rng(0).normal(size=100_000)}, {})
except CheckpointError as error:
    print(error)
assert checkpoints.restore(small)[0] == 1
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
checkpoints.save(2, {"x": np.random.default_rng(0).normal(size=100_000)}, {})
print(checkpoints.latest())
"""


def test_a_save_that_finds_no_room_says_so_and_keeps_the_earlier_one(tmp_path):
    """A file size limit replaces the full disk, because it needs no privileges."""
    process = run_python(SAVE_WITH_LITTLE_ROOM, str(tmp_path))
    message, latest = process.communicate(timeout=120)[0].strip().rsplit("\n", 1)
    assert process.returncode == 0
    assert message.startswith("checkpoint of step 2 (step 1 is kept): cannot be written to")
    assert f"{tmp_path} (" in message
    assert "MiB free, up to 0.8 MiB needed): " in message
    assert "File too large" in message
    assert latest == "2"  # with room again, the same step can be saved by the same process


SAVE_ON_FOUR_DEVICES = """
import sys
import jax, numpy as np
from slava_jax.checkpoint import save_tree
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
rows = jax.NamedSharding(mesh, jax.P("data"))
save_tree(sys.argv[1], {"x": jax.device_put(np.arange(8.0, dtype=np.float32), rows)}, {})
"""


def test_what_four_devices_saved_one_device_restores(tmp_path):
    process = run_python(
        SAVE_ON_FOUR_DEVICES,
        str(tmp_path / "t"),
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )
    process.communicate(timeout=120)
    assert process.returncode == 0
    expected = {"x": jnp.arange(8.0)}
    assert_same(load_tree(tmp_path / "t", expected)[0], expected)
    assert_same(load_tree(tmp_path / "t")[0], {"x": np.arange(8.0, dtype=np.float32)})


def test_what_a_killed_save_of_a_folder_left_is_replaced(tmp_path):
    leftover = tmp_path / "t.orbax-checkpoint-tmp"
    (leftover / "state").mkdir(parents=True)
    (leftover / "state" / "junk").write_text("half")
    (tmp_path / "another.orbax-checkpoint-tmp").mkdir()
    save_tree(tmp_path / "t", {"x": jnp.ones(2)}, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["another.orbax-checkpoint-tmp", "t"]
    assert not list((tmp_path / "t").rglob("junk"))
    assert load_tree(tmp_path / "t")[0]["x"].tolist() == [1, 1]


def test_a_content_hash_is_of_names_dtypes_shapes_and_bytes():
    """The same for numpy and jax in any order; different after any change."""
    tree = {"b": {"w": np.arange(6, dtype=np.int8).reshape(2, 3)}, "a": np.float32([[1, 2]])}
    wanted = content_hash(tree)
    assert wanted == content_hash(
        {"a": jnp.float32([[1, 2]]), "b": {"w": jnp.asarray(tree["b"]["w"])}}
    )
    assert wanted == content_hash({**tree, "a": np.asfortranarray(tree["a"].T).T})
    others = [
        {**tree, "a": tree["a"] + 1},
        {**tree, "a": tree["a"].T},
        {**tree, "a": tree["a"].view(np.int32)},
        {"b": tree["b"], "c": tree["a"]},
        {"b": tree["b"]},
        {**tree, "a": tree["a"].astype(ml_dtypes.bfloat16)},
    ]
    assert len({wanted, *map(content_hash, others)}) == 1 + len(others)


def test_the_content_hash_of_yesterday():
    """A golden value, from hashlib and the formula; a saved assistant identifies its base by it."""
    tree = {"x": {"w": np.float32([1.5, -2])}, "x-1": np.asarray(3, np.int32)}
    text = (
        b'["x-1", "int32", []]\x03\x00\x00\x00["x/w", "float32", [2]]\x00\x00\xc0?\x00\x00\x00\xc0'
    )
    assert content_hash(tree) == hashlib.sha256(text).hexdigest()


def test_a_folder_appears_when_it_is_whole(tmp_path):
    """Not while it is written, and not if writing fails."""
    with atomic_folder(tmp_path / "folder") as place:
        place.mkdir()
        (place / "file").write_text("all of it")
        assert not (tmp_path / "folder").exists()
    assert (tmp_path / "folder" / "file").read_text() == "all of it"
    refused = pytest.raises(CheckpointError, match="cannot be written: no room")
    with refused, atomic_folder(tmp_path / "other") as place:
        place.mkdir()
        raise OSError("no room")
    with pytest.raises(CheckpointError, match="already exists"), atomic_folder(tmp_path / "folder"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_a_killed_writer_left_does_not_take_its_own_room(tmp_path, monkeypatch):
    left = tmp_path / ".folder.slava-tmp"
    left.mkdir()
    (left / "half").write_text("of it")
    free = lambda _: SimpleNamespace(free=5 - (left / "half").exists())  # noqa: E731
    monkeypatch.setattr(shutil, "disk_usage", free)
    with atomic_folder(tmp_path / "folder", size=5) as place:
        place.mkdir()
    with (
        pytest.raises(CheckpointError, match="GiB needed"),
        atomic_folder(tmp_path / "other", size=6),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
