"""The program `slava`: its commands, their output, and that the documents name them."""

import configparser
import importlib.metadata
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slava_jax.commands import cli
from slava_jax.errors import UserError, reported

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("third_party/*.md"),
    *ROOT.glob("configs/*.py"), ROOT / "Makefile",
]  # fmt: skip
MOVED = re.compile(r"-m slava_jax\.(?:ask|convert|teacher|data\.formats|eval\.wordnet|main)\b")


def slava(*arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "slava_jax", *arguments]
    options = {"cwd": ROOT, "timeout": 60, **options}
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_help_has_a_line_for_each_command():
    done = slava("--help")
    assert (done.returncode, done.stderr) == (0, "")
    named = dict(re.findall(r"^  (\w+) +(\S.*)$", done.stdout, re.MULTILINE))
    assert named.keys() == cli.COMMANDS.keys()
    assert len(set(named.values())) == len(named)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_each_commands_help_says_how_it_is_called(command):
    done = slava(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"slava {command} " in done.stdout
    assert done.stdout == slava(command, "-h").stdout


@pytest.mark.parametrize(("command", "flag"), [("train", "--config"), ("teach", "--workdir")])
def test_help_shows_the_flags_of_a_config(command, flag):
    assert f"\n  {flag}: " in slava(command, "--help").stdout


@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
def test_help_loads_neither_jax_nor_transformers(command):
    """They take seconds to load; checking the modules is more reliable than timing."""
    code = (
        "import sys\n"
        "from slava_jax.commands.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "loaded = {'jax', 'transformers', 'nltk', 'grain', 'openai'} & sys.modules.keys()\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)\n"
    )
    arguments = [command, "--help"] if command else ["--help"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_help_answers_at_once():
    slava("ask", "--help")  # compiles the modules, once per installation
    started = time.perf_counter()
    slava("ask", "--help")
    assert time.perf_counter() - started < 5  # 0.1 s; the room is for a machine that is busy


def test_an_unknown_command_is_answered_with_the_nearest_or_with_all():
    done = slava("trian", "--config", "x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown command 'trian'; did you mean 'train'?\n"
    done = slava("xyz")
    assert done.returncode == 2 and ", ".join(cli.COMMANDS) in done.stderr


def test_without_a_command_the_usage_goes_to_stderr():
    done = slava()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == cli.usage() + "\n"


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (("ask",), 2, "--checkpoint"),
        (("convert", "--from", "none", "--to", "nowhere"), 1, "error: none: does not exist"),
        (("reformat", "--from", "none"), 1, "error: [Errno 2]"),
        (("wordnet", "--check", "none"), 1, "error: NLTK finds no WordNet in none"),
        (("train", "--workdir", "w"), 1, "--config is missing"),
        (("train", "--config", "none.py", "--workdir", "w"), 1, "none.py"),
        (("teach", "--config", "none.py", "--workdir", "w"), 1, "none.py"),
        (
            ("teach", f"--config={ROOT / 'configs/folder.py'}", "--workdir", "w"),
            1,
            "no group '",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_is_wrong_is_said_without_a_traceback(tmp_path, arguments, status, part):
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = slava(*arguments, cwd=tmp_path, env=path)
    assert (done.returncode, done.stdout) == (status, "")
    assert part in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_config_may_import_another_from_the_folder_of_the_call(tmp_path):
    """Unlike python -m, a console script does not search that folder by itself."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own/first.py").write_text("from configs.quickstart import get_config\n")
    (tmp_path / "own/second.py").write_text("from own.first import get_config\n")
    command = "from slava_jax.commands.cli import main; main()"
    flags = ["--config=own/second.py", "--config.no_such=1", f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", command, "train", *flags], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "GLIBC_TUNABLES": ""},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no setting 'no_such'" in done.stderr  # so the config was read


def test_the_console_script_is_that_program():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    scripts = setup["options.entry_points"]["console_scripts"].strip().splitlines()
    assert len(scripts) == 1
    name, value = scripts[0].split(" = ")
    assert name == "slava"
    entry = importlib.metadata.EntryPoint(name, value, "console_scripts")
    assert entry.load() is cli.main


def test_every_module_of_commands_is_a_command_or_serves_them():
    """No unreachable modules, and a file for each command."""
    files = {path.stem for path in (ROOT / "slava_jax/commands").glob("*.py")}
    named = {module.split(".")[-1] for module, _ in cli.COMMANDS.values()} - {"main"}
    assert files - named == {"__init__", "cli"} and named <= files


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_commands_that_there_are(path):
    text = path.read_text(encoding="utf-8")
    assert not MOVED.findall(text)
    named = re.findall(r"(?:`|^ {4,}|bin/|\d )slava ([\w-]+)", text, re.MULTILINE)
    assert set(named) <= cli.COMMANDS.keys()


def test_documents_name_every_command():
    text = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    assert not [name for name in cli.COMMANDS if f"slava {name}" not in text]


def ending(error: Exception, resume: str | None = None) -> str:
    with pytest.raises(SystemExit) as caught, reported(resume):
        raise error
    return caught.value.code


def test_errors_that_a_user_can_mend_end_in_one_line():
    class OwnError(UserError, ValueError):
        pass

    assert ending(OwnError("a.png: is torn")) == "error: a.png: is torn"
    missing = FileNotFoundError(2, "No such file or directory", "a.png")
    assert ending(missing) == "error: [Errno 2] No such file or directory: 'a.png'"


def test_faults_of_ours_keep_their_traceback():
    for error, resume in (
        (ValueError("shape"), None),
        (ValueError("shape"), "again"),
        (FileNotFoundError(2, "No such file or directory"), "again"),
    ):
        with pytest.raises(type(error)), reported(resume):
            raise error


def test_a_full_disk_is_no_fault_of_ours_and_the_run_can_go_on():
    full = OSError(28, "No space left on device", "x")
    assert ending(full, "The same command goes on") == (
        "error: [Errno 28] No space left on device: 'x'\nThe same command goes on"
    )


def test_messages_are_bounded_and_do_not_control_the_terminal():
    told = str(UserError(f"a.json:3: field 'x': is {'y' * 100_000!r}; correct it"))
    assert len(told) <= 800 and " ... " in told
    assert told.startswith("a.json:3: field 'x'") and told.endswith("y'; correct it")
    assert str(UserError("a\x1b[2J\x9b\u202e\udcff\r\tb é 日本")) == (
        "a\\x1b[2J\\x9b\\u202e\\udcff\\r\tb é 日本"
    )
    many = str(UserError("\n".join(["first", *["x" * 900] * 200, "last"])))
    assert many.startswith("first\nxx") and many.endswith("\n... and 163 more lines\nlast")
    assert len(many) < 5000
    listed = "\n".join(["line " * 40] * 20)  # many problems at once are not shortened
    assert str(UserError(listed)) == listed
