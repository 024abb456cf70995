"""README and results: what they name exists, and their numbers come from a run."""

import json
import re
from pathlib import Path

import pytest

from experiments import results_page
from slava_jax.eval.report import write_report

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "docs" / "results.md").read_text()
ENVIRONMENT = {"device": "1 x cpu (cpu)", "processor": "Fast & Co", "cores": 2, "jax": "0.10.2"}
TRUTH = {
    "truth.mean_size_nm.score": 0.4,
    "truth.mean_size_nm.missing": 0.02,
    "truth.mean_size_nm.n": 96.0,
    "truth_shuffled.mean_size_nm.score": 0.1,
    "truth_constant.mean_size_nm.score": 0.2,
    "truth_blind.mean_size_nm.score": 0.15,
    "truth_classical.mean_size_nm.score": 0.3,
    "truth.skill": 0.25,
    "truth_shuffled.skill": -0.125,
    "truth_constant.skill": 0.0,
    "truth_blind.skill": -0.05,
    "truth_classical.skill": 0.125,
    "truth.mean_size_nm.within_factor_2": 0.8,
    "truth.mean_size_nm.impossible": 0.01,
    "truth.images": 96.0,
    "truth.right": 0.5,
    "truth.gain_low": 0.05,
    "truth.gain_high": 0.2,
}


def test_the_tree_names_every_folder_of_the_package():
    block = re.search(r"^## The code\n.*?^```\n(.*?)^```", README, re.M | re.S)[1]
    named = {line.split()[0].rstrip("/") for line in block.splitlines() if line.startswith("  ")}
    package = ROOT / "slava_jax"
    assert named == {p.name for p in package.iterdir() if p.is_dir() and p.name != "__pycache__"}


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_command_that_a_page_names_exists(path):
    text = path.read_text()
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"(?:^|`|\n {4})make ([a-z-]+)", text))
    assert not {t for t in targets if not re.search(rf"^{t}:", makefile, re.M)}
    named = set(re.findall(r"configs/\w+\.py", text))
    configs = named - {"configs/X.py", "configs/normed.py"}  # of one's own; a worked example
    assert not {c for c in configs if not (ROOT / c).is_file()}
    modules = set(re.findall(r"python -m ((?:experiments|slava_jax|configs)[\w.]*)", text))
    files = {
        m: (f"{m.replace('.', '/')}.py", f"{m.replace('.', '/')}/__main__.py") for m in modules
    }
    assert not {m for m, names in files.items() if not any((ROOT / n).is_file() for n in names)}


def test_it_is_a_front_door():
    assert len(README.splitlines()) <= 150 and len(README.encode()) <= 10_000


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
        **TRUTH,
        "data.validation_images": 400.0,
    }
    config = {"seed": 7, "data": {"name": "procedural", "seed": 3}}
    (workdir / "metrics.json").write_text(json.dumps(metrics))
    (workdir / "config.json").write_text(json.dumps(config))
    write_report(workdir / "report.html", metrics, environment=ENVIRONMENT)
    return workdir / "metrics.json"


def page(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_results_are_those_of_the_run(tmp_path, metrics_file):
    begin, end = results_page.BEGIN, results_page.END
    short, path = (
        page(tmp_path / name, f"before\n{begin}\nold\n{end}\nafter\n")
        for name in ("README.md", "results.md")
    )
    command = [str(metrics_file), "--readme", str(short), "--page", str(path)]
    results_page.main(command)
    row = "| Class named correctly (10 classes) | 0.88 | 0.06 | – | – |  |"
    size = "| Feature size within 25 % | 0.40 | 0.10 | 0.20 | 0.30 | 96 |"
    assert row in short.read_text() and size in short.read_text()
    assert "Fast & Co, 2 cores, 9 minutes" in short.read_text()
    text = path.read_text()
    assert text.startswith(f"before\n{begin}\n") and text.endswith(f"\n{end}\nafter\n")
    assert "old" not in text
    for part in (
        "| Top-1 accuracy | 0.875 | at least 0.85: reached |",
        "| Top-1 above the classical baseline | – | at least 0.10: no value |",
        "| Wall clock | 512 s | at most 600 s: reached |",
        "| Feature size | 96 | 0.02 | 0.01 | 0.80 | 0.40 | 0.10 | 0.15 | 0.20 | 0.30 |",
        "Its skill at them is 0.25 (0: the best blind answer, 1: always right), better than",
        "| Assistant, image of another category | 0.062 |",
        "| ViT classifier alone | 0.750 |",
        "800 test images",
        "seed 7 (data: 3)",
        "2.50 GiB",
        "123 GFLOP/s",
        "Hardware: Fast & Co, 2 cores; 1 x cpu (cpu); jax 0.10.2.",
    ):
        assert part in text
    results_page.main(command)
    assert path.read_text() == text


def test_targets_are_only_those_of_procedural_images(metrics_file):
    config = json.loads(metrics_file.with_name("config.json").read_text())
    config["data"]["name"] = "elpv"
    metrics_file.with_name("config.json").write_text(json.dumps(config))
    text = results_page.block([results_page.read_run(metrics_file)])
    assert "at least" not in text
    assert "| Top-1 accuracy | 0.875 |  |" in text


@pytest.mark.parametrize("missing", ["metrics.json", "config.json", "report.html"])
def test_an_unfinished_run_leaves_the_readme_alone(tmp_path, metrics_file, missing):
    metrics_file.with_name(missing).unlink()
    path = page(tmp_path / "README.md", f"{results_page.BEGIN}\n{results_page.END}\n")
    before = path.read_text()
    with pytest.raises(SystemExit, match=missing):
        results_page.main([str(metrics_file), "--readme", str(path), "--page", str(path)])
    assert path.read_text() == before


@pytest.mark.parametrize("text", ["", f"{results_page.END} {results_page.BEGIN}"])
def test_markers_must_be_there(text):
    with pytest.raises(results_page.ResultsError, match="once each"):
        results_page.replaced(text, "")


def test_the_pages_have_the_markers():
    for text in (README, RESULTS):
        results_page.replaced(text, "")
