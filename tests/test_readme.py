"""The README: what it names exists, its tree is complete, and its numbers come from a run."""

import json
import re
from pathlib import Path

import pytest

from experiments import readme_results
from slava_jax.eval.report import write_report

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ENVIRONMENT = {"device": "1 x cpu (cpu)", "processor": "Fast & Co", "cores": 2, "jax": "0.10.2"}


def test_the_tree_names_every_room_of_the_package():
    block = re.search(r"^## The tree\n.*?^```\n(.*?)^```", README, re.M | re.S)[1]
    named = {line.split()[0].rstrip("/") for line in block.splitlines() if line.startswith("  ")}
    package = ROOT / "slava_jax"
    rooms = {p.name for p in package.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert named == {*rooms, "main.py"}


def test_every_target_config_module_and_link_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"(?:^|`|\n {4})make ([a-z-]+)", README))
    assert targets >= {"quickstart", "test", "elpv"}
    assert not {t for t in targets if not re.search(rf"^{t}:", makefile, re.M)}
    configs = set(re.findall(r"configs/\w+\.py", README))
    assert configs >= {"configs/quickstart.py", "configs/folder.py", "configs/elpv.py"}
    assert not {c for c in configs if not (ROOT / c).is_file()}
    modules = set(re.findall(r"python -m ([\w.]+)", README))
    files = {
        m: (f"{m.replace('.', '/')}.py", f"{m.replace('.', '/')}/__main__.py") for m in modules
    }
    assert not {m for m, names in files.items() if not any((ROOT / n).is_file() for n in names)}
    links = re.findall(r"(?<!!)\[[^\]]*\]\(([^)#:]+)\)", README)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_its_lines_are_not_too_long():
    assert max(map(len, README.splitlines())) < 300


@pytest.fixture
def metrics_file(tmp_path):
    workdir = tmp_path / "quickstart"
    workdir.mkdir()
    metrics = {
        "classification.top1": 0.875,
        "classification_shuffled.top1": 0.0625,
        "classification_vit.top1": 0.75,
        "run.wall_seconds": 512.4,
        "run.peak_memory_gib": 2.5,
        "run.matmul_gflops": 123.4,
        "data.test_images": 800.0,
        "data.train_images": 2800.0,
        "data.validation_images": 400.0,
    }
    config = {"seed": 7, "data": {"name": "procedural", "seed": 3}}
    (workdir / "metrics.json").write_text(json.dumps(metrics))
    (workdir / "config.json").write_text(json.dumps(config))
    write_report(workdir / "report.html", metrics, environment=ENVIRONMENT)
    return workdir / "metrics.json"


def readme(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "README.md"
    path.write_text(text)
    return path


def test_results_are_those_of_the_run(tmp_path, metrics_file):
    begin, end = readme_results.BEGIN, readme_results.END
    path = readme(tmp_path, f"before\n{begin}\nold\n{end}\nafter\n")
    command = [str(metrics_file), "--readme", str(path)]
    readme_results.main(command)
    text = path.read_text()
    assert text.startswith(f"before\n{begin}\n") and text.endswith(f"\n{end}\nafter\n")
    assert "old" not in text
    for part in (
        "| Top-1 accuracy | 0.875 | at least 0.85: reached |",
        "| Top-1 above the classical baseline | – | at least 0.10: no value |",
        "| Wall clock | 512 s | at most 600 s: reached |",
        "| Assistant, image of another category | 0.062 |",
        "| ViT classifier alone | 0.750 |",
        "800 test images",
        "seed 7 (data: 3)",
        "2.50 GiB",
        "123 GFLOP/s",
        "Hardware: Fast & Co, 2 cores; 1 x cpu (cpu); jax 0.10.2.",
    ):
        assert part in text
    readme_results.main(command)
    assert path.read_text() == text


def test_targets_are_only_those_of_procedural_images(metrics_file):
    config = json.loads(metrics_file.with_name("config.json").read_text())
    config["data"]["name"] = "elpv"
    metrics_file.with_name("config.json").write_text(json.dumps(config))
    text = readme_results.block([readme_results.read_run(metrics_file)])
    assert "at least" not in text
    assert "| Top-1 accuracy | 0.875 |  |" in text


@pytest.mark.parametrize("missing", ["metrics.json", "config.json", "report.html"])
def test_an_unfinished_run_leaves_the_readme_alone(tmp_path, metrics_file, missing):
    metrics_file.with_name(missing).unlink()
    path = readme(tmp_path, f"{readme_results.BEGIN}\n{readme_results.END}\n")
    before = path.read_text()
    with pytest.raises(SystemExit, match=missing):
        readme_results.main([str(metrics_file), "--readme", str(path)])
    assert path.read_text() == before


@pytest.mark.parametrize("text", ["", f"{readme_results.END} {readme_results.BEGIN}"])
def test_markers_must_be_there(text):
    with pytest.raises(readme_results.ResultsError, match="once each"):
        readme_results.replaced(text, "")


def test_the_readme_has_the_markers():
    readme_results.replaced(README, "")
