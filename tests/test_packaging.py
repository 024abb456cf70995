"""The shape of the project: layers, sizes, configs, make targets, pins."""

import ast
import configparser
import importlib.util
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from tools import locked

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "slava_jax"
SOURCES = sorted(PACKAGE.rglob("*.py"))
CONFIGS = sorted(p for p in (ROOT / "configs").glob("*.py") if p.name != "__init__.py")

# From the bottom. `checkpoint` is not a layer: only the rooms of USES_CHECKPOINT may import it.
LAYERS = (
    "bottom",
    "synthetic",
    "data",
    "nn",
    "models",
    "convert",
    "teacher",
    "eval",
    "inference",
    "config",
    "train",
    "top",
)
SINGLE_MODULES = {
    "errors": "bottom", "pages": "bottom", "files": "bottom",
    "checkpoint": "checkpoint", "streaming": "checkpoint", "hosts": "checkpoint",
    "layout": "checkpoint", "leaves": "checkpoint",
    "config": "config",
    "facts": "bottom",
    "commands": "top", "main": "top", "__main__": "top",
}  # fmt: skip
FORBIDDEN = {"eval": {"nn", "models", "convert"}, "teacher": {"nn", "models", "convert"}}
USES_CHECKPOINT = {"convert", "inference", "train", "top"}
# Not shown to users: the teacher retries, and reports the failures itself.
CAUGHT_INSIDE = {"AttemptError", "RedirectError", "RenderingError", "TooLargeError"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room(parts: tuple[str, ...]) -> str:
    """The room of a module, given its path below slava_jax.

    Raises KeyError for a module outside all rooms.
    """
    first = parts[0]
    return first if (PACKAGE / first).is_dir() and first in LAYERS else SINGLE_MODULES[first]


def imported_rooms(tree: ast.AST) -> set[str]:
    modules = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide the layer"
            # `from slava_jax import checkpoint` has the module name after `import`.
            bare = node.module == "slava_jax"
            modules += [f"slava_jax.{a.name}" for a in node.names] if bare else [node.module]
    return {room(tuple(m.split(".")[1:])) for m in modules if m.startswith("slava_jax.")}


def broken_layers(room_name: str, imports: set[str]) -> set[str]:
    """Those of `imports` that a module of `room_name` may not have."""
    if room_name == "checkpoint":
        return imports - {"checkpoint", "bottom"}
    allowed = set(LAYERS[: LAYERS.index(room_name) + 1]) - FORBIDDEN.get(room_name, set())
    if room_name in USES_CHECKPOINT:
        allowed.add("checkpoint")
    return imports - allowed


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_imports_go_down_only(path):
    imports = imported_rooms(ast.parse(path.read_text()))
    if path == PACKAGE / "__init__.py":  # loaded before every module below; its names come later
        assert not imports
        return
    here = room(path.relative_to(PACKAGE).with_suffix("").parts)
    assert not broken_layers(here, imports), f"{name(path)} ({here}) imports from above"


def test_every_folder_and_file_is_a_room_and_every_room_is_there():
    own = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert own - {"__init__"} == {*LAYERS, *SINGLE_MODULES} - {"bottom", "top"}
    with pytest.raises(KeyError, match="helpers"):
        room(("helpers", "misc"))


def test_contributing_lists_the_rooms_from_the_top():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    block = re.search(r"^Imports go down only.*?\n\n(.*?)\n\n", text, re.M | re.S)[1]
    listed = [re.findall(r"[a-z]+", line[:24].replace(",", " ")) for line in block.splitlines()]
    rooms = [SINGLE_MODULES.get(names[0], names[0]) for names in listed]
    assert rooms == list(reversed(LAYERS))


def test_an_import_from_above_would_be_seen():
    tree = ast.parse("import slava_jax.train.step\nfrom slava_jax import checkpoint\n")
    assert broken_layers("models", imported_rooms(tree)) == {"train", "checkpoint"}
    assert broken_layers("top", imported_rooms(tree)) == set()
    tree = ast.parse("def f():\n  from slava_jax.models.vit import Vit\n")
    assert broken_layers("eval", imported_rooms(tree)) == {"models"}
    tree = ast.parse("from slava_jax import errors, main\nfrom slava_jax.commands import cli\n")
    assert broken_layers("train", imported_rooms(tree)) == {"top"}
    assert broken_layers("bottom", imported_rooms(tree)) == {"top"}
    tree = ast.parse("from slava_jax.data import images")
    assert broken_layers("synthetic", imported_rooms(tree)) == {"data"}
    assert broken_layers("checkpoint", imported_rooms(tree)) == {"data"}


def test_the_base_of_errors_imports_nothing_of_the_package():
    tree = ast.parse((PACKAGE / "errors.py").read_text())
    assert not imported_rooms(tree)


def own_errors() -> dict[str, set[str]]:
    """Name and bases of every class of the package that derives from an error."""
    found = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).split(".")[-1] for base in node.bases}
                if any(base.endswith(("Error", "Exception")) for base in bases):
                    found[node.name] = bases
    return found


def test_every_error_is_one_that_commands_print():
    """By the base class, so that no list is needed."""
    found = own_errors()
    assert found.keys() >= {"UserError", "DataError", "WordNetError", *CAUGHT_INSIDE}
    others = found.keys() - {"UserError"} - CAUGHT_INSIDE
    assert not [error for error in sorted(others) if "UserError" not in found[error]]


def test_only_commands_end_the_program():
    """All error output goes through one place."""
    ends, handles = set(), set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("sys.exit", "SystemExit"):
                ends.add(path)
            if isinstance(node, ast.ExceptHandler) and node.type:
                caught = {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)}
                handles |= {path} if "UserError" in caught else set()
    shared = PACKAGE / "errors.py"
    ends -= {shared}
    assert ends and {room(p.relative_to(PACKAGE).with_suffix("").parts) for p in ends} == {"top"}
    assert handles == {shared}


def test_files_and_functions_stay_small():
    large = []
    for path in SOURCES:
        text = path.read_text()
        if len(text.splitlines()) > 400:
            large.append(f"{name(path)}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = node.end_lineno - node.lineno + 1
                if size > 60:
                    large.append(f"{name(path)}:{node.lineno} {node.name}: {size} lines")
    assert not large


def test_every_folder_of_the_package_is_installed():
    """setuptools' find: leaves out folders without __init__.py."""
    missing = {name(p.parent) for p in SOURCES if not (p.parent / "__init__.py").is_file()}
    assert not missing


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_every_config_parses_and_says_how_to_run_it(path):
    specification = importlib.util.spec_from_file_location(f"configs.{path.stem}", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert isinstance(module.get_config(), ConfigDict)
    assert f"--config configs/{path.name}" in module.__doc__


def test_there_are_configs():
    assert (ROOT / "configs" / "quickstart.py") in CONFIGS


def test_make_has_the_documented_targets():
    makefile = (ROOT / "Makefile").read_text()
    rules = set(re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, re.MULTILINE))
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    assert rules == phony
    documented = set()
    for document in ("CONTRIBUTING.md", "README.md", ".ci/run"):
        if (ROOT / document).is_file():
            text = (ROOT / document).read_text()
            uses = re.findall(
                r"(?:^|`|\s{4}|timeout \w+ )make ((?:[A-Z]+=\S+ )*)([a-z-]+)", text, re.M
            )
            documented |= {target for _, target in uses}
    assert documented >= {"test", "test-slow"}
    assert documented <= rules


def requirements() -> dict[str, list[str]]:
    """The requirements of every extra of setup.cfg, and of the package."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = {name: text.split() for name, text in setup["options.extras_require"].items()}
    return {**extras, "package": setup["options"]["install_requires"].split()}


def test_every_requirement_is_pinned_with_hashes_and_no_host_is_named():
    text = (ROOT / "constraints.txt").read_text()
    extras = requirements()
    hashed = set()
    for name, block, _ in locked.blocks(text):
        pin, *rest = block.splitlines()
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+(?: ; [^/:]+)? \\", pin), pin
        sums = [line for line in rest if "--hash" in line]
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?", line) for line in sums)
        assert len(sums) >= 1, name
        hashed.add(name)
    assert "".join(block for _, block, _ in locked.blocks(text)) == text
    assert "://" not in text
    del extras["reference"]  # torch has other files for each kind of device
    assert {locked.normal(r) for wanted in extras.values() for r in wanted} <= hashed


def test_make_builds_with_the_setuptools_that_is_pinned():
    built = re.search(r"^requires = \[(.*)\]", (ROOT / "pyproject.toml").read_text(), re.M)[1]
    assert built.replace('"', "").split(", ") == requirements()["build"]


def test_make_installs_nothing_without_hashes_but_torch():
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", "")
    lines = re.findall(r".*\binstall --.*", makefile)
    others = [line for line in lines if not re.search(r"--require-hashes|--no-deps .*-e \.$", line)]
    assert len(others) == 1 and ".[reference]" in others[0]


PINS = """\
a-b==1 \\
    --hash=sha256:0 \\
    --hash=sha256:1
    # via slava-jax (setup.cfg)
c==2 ; sys_platform == 'linux' \\
    --hash=sha256:2
    # via
    #   a-b
    #   d
c==1 ; sys_platform != 'linux' \\
    --hash=sha256:3
    # via a-b
d==1 \\
    --hash=sha256:4
    # via e
e==1 \\
    --hash=sha256:5
    # via d
f==1 \\
    --hash=sha256:6
"""


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (["package"], ["a-b", "c", "c"]),
        (["test"], ["c", "c", "d", "e"]),  # d and e need each other
        (["f"], ["f"]),  # a package, not an extra
        (["d"], ["d"]),
        (["package", "test"], ["a-b", "c", "c", "d", "e"]),
    ],
)
def test_pins_are_selected_with_what_they_need(wanted, names):
    selected = locked.select(PINS, wanted, {"package": ["A_b>=1"], "test": ["e[x]"]})
    assert [name for name, _, _ in locked.blocks(selected)] == names
    assert all(block in PINS for _, block, _ in locked.blocks(selected))


def test_a_requirement_without_a_pin_is_named():
    with pytest.raises(KeyError, match=r"constraints.txt: new, odd; run make lock"):
        locked.select(PINS, ["test", "odd"], {"test": ["new>=2"]})
