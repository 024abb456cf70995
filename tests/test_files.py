"""Checksums notice every change; writes are whole; a lock keeps another process out."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from slava_jax import files
from slava_jax.files import SUMS, DamagedError, UsedError, check, locked, seal, without_places

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "f" / "below").mkdir(parents=True)
    (tmp_path / "f" / "a.bin").write_bytes(bytes(range(256)))
    (tmp_path / "f" / "below" / "größe  b.json").write_text("{}")
    seal(tmp_path / "f")
    return tmp_path / "f"


def test_an_unchanged_folder_passes_also_what_the_desktop_adds(folder):
    (folder / ".DS_Store").write_text("")
    os.utime(folder / "a.bin", (1, 1))
    assert check(folder) and check(folder, ["a.bin"])


def test_sha256sum_reads_the_list(folder):
    done = subprocess.run(["sha256sum", "-c", SUMS], cwd=folder, capture_output=True)
    assert done.returncode == 0


@pytest.mark.parametrize("name", ["a.bin", "below/größe  b.json", SUMS])
def test_a_flipped_bit_anywhere_is_noticed(folder, name):
    content = (folder / name).read_bytes()
    for place in range(len(content)):
        (folder / name).write_bytes(
            content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]
        )
        with pytest.raises(DamagedError, match=SUMS if name == SUMS else name):
            check(folder)


def test_a_cut_missing_or_added_file_is_named(folder):
    lines = (folder / SUMS).read_bytes()
    for length in range(len(lines)):
        (folder / SUMS).write_bytes(lines[:length])
        with pytest.raises(DamagedError, match=SUMS):
            check(folder)
    (folder / SUMS).write_bytes(lines)
    (folder / "more").write_text("")
    with pytest.raises(DamagedError, match="more: is not listed"):
        check(folder)
    (folder / "more").unlink()
    (folder / "a.bin").unlink()
    with pytest.raises(DamagedError, match=r"a\.bin: is missing"):
        check(folder)


def test_a_folder_without_checksums_is_not_checked(tmp_path):
    assert not check(tmp_path)


def test_a_text_is_replaced_whole_and_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    files.write_text(tmp_path / "a", "old\n")
    files.write_text(tmp_path / "a", "new\n")
    assert (tmp_path / "a").read_bytes() == b"new\n"
    assert {(tmp_path / "a").stat().st_ino, tmp_path.stat().st_ino} <= {*synced}
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no room")))
    with pytest.raises(OSError, match="no room"):
        files.write_text(tmp_path / "a", "newer\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "new\n"


KILLED = """
import os, signal, sys
from pathlib import Path
from slava_jax.files import replaced
with replaced(Path(sys.argv[1])) as file:
    file.write(b"half of a much longer text")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_write_left_goes_with_the_next_write(tmp_path):
    files.write_text(tmp_path / "a", "old\n")
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a")], cwd=ROOT)
    assert (tmp_path / "a").read_text() == "old\n"
    assert [p.read_bytes() for p in tmp_path.glob(".*")] == [b"half of a much longer text"]
    files.write_text(tmp_path / "a", "new\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "new\n"


def test_two_writers_of_a_file_wait_for_each_other(tmp_path):
    texts = [f"{n}" * 1000 for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            list(pool.map(lambda text: files.write_text(tmp_path / "a", text), texts))
            assert (tmp_path / "a").read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_write_follows_no_link_that_lies_in_its_way(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / ".a.new").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError):
        files.write_text(tmp_path / "a", "new\n")
    assert (tmp_path / "precious").read_text() == "kept"


LOCK = """
import sys
from pathlib import Path
from slava_jax.files import UsedError, locked
try:
    with locked(Path(sys.argv[1])) as held:
        print("held", held)
except UsedError as error:
    print(error)
"""


def other_process(path: Path) -> str:
    command = [sys.executable, "-c", LOCK, str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_a_lock_keeps_another_process_out_until_it_ends(tmp_path):
    with locked(tmp_path / "lock") as held:
        assert held
        assert other_process(tmp_path / "lock") == f"{tmp_path}: another process is using it\n"
    assert other_process(tmp_path / "lock") == "held True\n"


def test_a_disk_without_locks_is_told_apart_from_a_lock_that_is_taken(tmp_path, monkeypatch):
    def refuse(error):
        monkeypatch.setattr(files.fcntl, "lockf", lambda *_: (_ for _ in ()).throw(error))

    refuse(OSError(37, "no locks available"))
    with locked(tmp_path / "lock") as held:
        assert not held
    refuse(BlockingIOError())
    with pytest.raises(UsedError), locked(tmp_path / "lock"):
        pass


def test_places_become_names_at_any_depth():
    held = {"a": "/home/me/data", "b": [("/x/y/", 3)], "c": "runs/x", "d": None, "e": "what? /"}
    assert without_places(held) == {**held, "a": "data", "b": [("y", 3)]}
