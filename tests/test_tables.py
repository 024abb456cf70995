"""The paper's tables with our results: source, data, n, seeds and meaning of ±."""

import json
from pathlib import Path

import pytest
from test_readme import ENVIRONMENT, RESULTS

from experiments.results_page import replaced
from experiments.tables import __main__ as tables
from experiments.tables import remarks, runs, specs, texts
from experiments.tables.table import build
from slava_jax.eval.paper_tables import TABLES, PrintedRow
from slava_jax.eval.report import write_report
from slava_jax.eval.text_metrics import SCORE_NAMES

TASKS = (specs.CAPTION, specs.VQA, specs.INTRA_CLASS, specs.INTER_CLASS, specs.HETEROGENEITY)
CLASSES = ("Tips", "Gravel")  # one in the paper, one not
RUN = {
    "run.wall_seconds": 512.4,
    "run.matmul_gflops": 123.4,
    "data.train_images": 70.0,
    "data.test_images": 20.0,
}


def made_up(top1: float = 0.5) -> dict[str, float]:
    """Metrics of a run that measured everything; texts have 0.75, and in the controls 0.5, 0.7."""
    metrics = dict(RUN)
    for task in TASKS:
        for prefix, score in ((task, 0.75), (f"{task}_shuffled", 0.5), (f"{task}_blind", 0.7)):
            metrics[f"{prefix}.n"] = 48.0
            for name in SCORE_NAMES:
                metrics |= {f"{prefix}.{name}": score, f"{prefix}.{name}_std": 0.125}
    zero, few = specs.ZERO_SHOT, specs.FEW_SHOT
    shares = {zero: top1, few: top1 + 0.25, f"{few}_permuted": 0.25, f"{few}_majority": 0.375}
    shares[f"{few}_zero_shot"] = top1
    shares |= {f"{zero}_{control}": 0.25 for control in ("shuffled", "vit", "classical")}
    for prefix, value in shares.items():
        metrics[f"{prefix}.n"] = 64.0
        metrics |= {f"{prefix}.{name}": value for name in ("top1", "top5", "macro_f1")}
    for prefix in (zero, few):
        for name in ("precision", "recall", "f1"):
            metrics |= {f"{prefix}.{name}.{c}": shares[prefix] for c in CLASSES}
    return metrics


@pytest.fixture
def finish(tmp_path):
    """Writes a finished run with made-up metrics, and returns its work directory."""

    def leave(data: str = "procedural", seed: int = 0, metrics=None, **settings) -> Path:
        workdir = tmp_path / f"{data}-seed{seed}"
        workdir.mkdir()
        metrics = made_up() if metrics is None else metrics
        config = {"seed": seed, "data": {"name": data, "seed": 3}, **settings}
        (workdir / "metrics.json").write_text(json.dumps(metrics))
        (workdir / "config.json").write_text(json.dumps(config))
        write_report(workdir / "report.html", metrics, environment=ENVIRONMENT)
        return workdir

    return leave


def printed(number: int, *workdirs: Path) -> str:
    return build(number, runs.read(workdirs)).markdown()


@pytest.mark.parametrize("number", sorted(specs.SPECS))
def test_every_table_shows_ours_and_all_of_the_papers(number, finish):
    lines = [line for line in printed(number, finish()).splitlines() if line.startswith("| ")]
    paper = [line for line in lines if "paper" in line]
    assert len(paper) == len(TABLES[number].rows)
    assert all("| not stated | not stated |" in line for line in paper)
    shown = {f" {mean:.3f} " for row in TABLES[number].rows for mean, _ in row.values}
    assert not {value for value in shown if not any(value in line for line in paper)}
    ours = [line for line in lines if "| synthetic | 0 | " in line]
    assert len(ours) >= 2 and all("| 0 | 48 |" in x or "| 0 | 64 |" in x for x in ours)


def test_a_table_of_texts_says_of_what_everything_is(finish):
    text = printed(5, finish())
    scores = " | ".join(["0.750 ± 0.125"] * 6)
    for part in (
        "## Table 5: VQA on inter-class similarity",
        "**Not the paper's data (ours: synthetic; the paper's: SEM). ",
        f"| slava_jax | synthetic | 0 | 48 | {scores} |",
        "| paper: sLAVA | SEM | not stated | not stated | 0.771 ± 0.085 | 0.704 ± 0.105 |",
        "Our ±: the standard deviation over the n answers of one run, not over runs.",
        "The paper does not state what its ± measures.",
        "| no image: most common training answer | synthetic | 0 | 48 | 0.700 ± 0.125 |",
        "ROUGE-L, gain over an image of another category: +0.250; supported (bound 0.1).",
        "ROUGE-L, gain over no image: +0.050; **not** supported (bound 0.1).",
    ):
        assert part in text


def test_the_share_of_true_statements_stands_beside_the_scores(finish):
    """Where there is a ground truth; the paper has none."""
    shares = {"truth.right": 0.625, "truth_blind.right": 0.375, "truth_shuffled.right": 0.25}
    text = printed(3, finish(metrics=made_up() | shares))
    lines = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}
    assert "| true |" in text
    assert lines["| slava_jax"].endswith("| 0.625 |")
    assert lines["| – image of another category"].endswith("| 0.250 |")
    assert lines["| no image: most common training answer"].endswith("| 0.375 |")
    assert lines["| paper: sLAVA"].endswith("| – |")
    assert "answers to questions about single facts that is right" in text
    assert "true" not in printed(5, finish(seed=1))


def test_over_several_seeds_it_is_the_spread_of_the_runs(finish):
    workdirs = [finish(seed=seed, metrics=made_up(top1)) for seed, top1 in ((4, 0.5), (2, 0.25))]
    text = printed(7, *workdirs)
    scores = "0.375 ± 0.177 | 0.375 ± 0.177"
    assert f"| slava_jax, zero-shot | synthetic | 2, 4 | 64 | {scores} |" in text
    assert "standard deviation over 2 runs, one per seed" in text
    assert "Few-shot top-1, gain over zero-shot: +0.250; supported" in text


def test_one_run_has_no_deviation_of_a_share_but_a_bound_on_its_error(finish):
    text = printed(8, finish())
    assert "| slava_jax, few-shot | synthetic | 0 | 64 | 0.750 | 0.750 |" in text
    assert "labels of the examples permuted | synthetic | 0 | 64 | 0.250 | – |" in text
    assert "a proportion of n = 64 has a standard error of at most 0.062" in text
    assert "The paper gives no ±." in text


def test_a_claim_without_support_is_reported_as_such(finish):
    metrics = made_up() | {f"{specs.FEW_SHOT}.top1": 0.25, "vqa_shuffled.rougeL": 0.7}
    workdir = finish(metrics=metrics)
    assert "gain over zero-shot: -0.250; **not** supported" in printed(7, workdir)
    wrong = "an image of another category: +0.050; **not** supported (bound 0.1)"
    assert wrong in printed(3, workdir)


def test_a_difference_paired_by_image_has_its_standard_error(finish):
    few = specs.FEW_SHOT
    errors = {f"{few}.minus_zero_shot_error": 0.1, f"{few}.minus_majority_error": 0.2}
    text = printed(7, finish(metrics=made_up() | errors))
    assert "zero-shot: +0.250; supported (bound 0.001, standard error over images 0.100)." in text
    assert "supported (bound 0.001, standard error over images 0.200, within chance" in text
    assert "permuted labels: +0.500; supported (bound 0.001)." in text  # not measured


def test_on_the_papers_data_nothing_warns_and_other_runs_stay_out(finish):
    text = printed(4, finish("procedural"), finish("sem"))
    assert "Not the paper's data" not in text and "procedural" not in text
    assert "| slava_jax | SEM | 0 | 48 |" in text


def test_a_column_a_data_set(finish):
    text = printed(22, finish("kth_tips"), finish("neu"))
    assert "| n | NEU-SDD | CMI | KTH-TIPS |" in text
    row = "| slava_jax, zero-shot | KTH-TIPS, NEU-SDD | 0 | 64, 64 | 0.500 | – | 0.500 |"
    assert row in text
    other = printed(22, finish("elpv"))
    assert "| n | ELPV (solar cells) | NEU-SDD | CMI | KTH-TIPS |" in other
    assert "| 0 | 64 | 0.500 | – | – | – |" in other and "**Not the paper's data (ours" in other


def test_several_data_sets_have_a_row_each(finish):
    text = printed(21, finish("kth_tips"), finish("cmi"))
    assert "| slava_jax | KTH-TIPS | 0 | 48 | 0.750" in text
    assert "| slava_jax | CMI | 0 | 48 | 0.750" in text


def test_a_class_has_rows_where_it_was_seen(finish):
    text = printed(9, finish())
    data = "synthetic | 0 | 64"
    for part in (
        f"| Tips: slava_jax, zero-shot | {data} | 0.500 | 0.500 | 0.500 |\n"
        f"| Tips: slava_jax, few-shot | {data} | 0.750 | 0.750 | 0.750 |\n"
        "| Tips: paper | SEM | not stated | not stated | 0.954 ± 0.005 | 0.967 ± 0.008 | 0.964 ±",
        f"| Gravel: slava_jax, zero-shot | {data} | 0.500",
        "Nanowires (0.995 above 0.9840)",
    ):
        assert part in text
    assert "Gravel: paper" not in text and "Powder: slava_jax" not in text


def test_a_pretrained_encoder_has_no_row_of_its_own(finish):
    metrics = {name: v for name, v in made_up().items() if "_vit." not in name}
    assert "vision classifier" not in printed(7, finish(metrics=metrics))


def test_what_was_not_measured_is_named_with_what_to_run(finish):
    few = f"{specs.FEW_SHOT}."
    whole = finish(seed=0)
    workdir = finish(seed=1, metrics={n: v for n, v in made_up().items() if not n.startswith(few)})
    with pytest.raises(runs.TablesError) as caught:
        printed(7, whole, workdir)
    assert str(caught.value).count(f"{few}top1") == 1
    for part in (
        str(workdir / "metrics.json"), "Table 7", f"{few}top1", "with and without examples",
        "python -m slava_jax.main --config configs/tables.py --workdir",
    ):  # fmt: skip
        assert part in str(caught.value)


@pytest.mark.parametrize("missing", ["metrics.json", "report.html"])
def test_a_run_that_is_not_finished_is_named_with_what_to_run(finish, missing):
    workdir = finish()
    (workdir / missing).unlink()
    with pytest.raises(SystemExit) as caught:
        tables.main(["1", "--runs", str(workdir)])
    assert missing in caught.value.code
    assert f"--config configs/tables.py --workdir {workdir}" in caught.value.code


def test_runs_of_one_table_differ_in_their_seed_alone(finish):
    first, second = finish(seed=0), finish(seed=1, decoder="llama")
    with pytest.raises(runs.TablesError, match="more than the seed"):
        runs.read([first, second])
    with pytest.raises(runs.TablesError, match="twice"):
        runs.read([first, first])


def test_what_cannot_be_run_is_refused_before_anything_runs():
    with pytest.raises(SystemExit, match="configs/atlantis"):
        tables.main(["1", "--data", "atlantis=/there"])
    with pytest.raises(SystemExit, match=r"--sedes: unknown; .* --config\.KEY=VALUE"):
        tables.main(["1", "--sedes"])
    with pytest.raises(SystemExit, match=r"no such table: \[99\]"):
        tables.main(["99"])


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Where everything is written, a results page with an old block among it."""
    (tmp_path / "results.md").write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    monkeypatch.setattr(tables, "PAGE", tmp_path / "tables.md")
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "procedural.json")
    monkeypatch.setattr(tables, "RESULTS_PAGE", tmp_path / "results.md")
    monkeypatch.setattr(tables, "RUNS", tmp_path / "runs")
    return tmp_path


def test_all_tables_are_a_page_a_result_file_and_a_block_of_the_results(places, finish, capsys):
    tables.main(["--runs", str(finish())])
    page, readme = ((places / name).read_text() for name in ("tables.md", "results.md"))
    for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 21, 22, 29, 30, 31):
        assert f"\n## Table {number}: " in page
    assert "`procedural-seed0`: synthetic, seed 0 (data: 3), 70 images to train on" in page
    assert "512 s on Fast & Co, 2 cores (reference matmul 123 GFLOP/s)" in page
    assert max(map(len, page.splitlines())) < 300 and "Missing" not in page
    assert readme.startswith("before\n") and readme.endswith("\nafter\n") and "old" not in readme
    assert "| 7 | few-shot top-1 | 0.750 (synthetic) | 0.987 (SEM) |" in readme
    held = json.loads((places / "procedural.json").read_text())
    row = held["tables"]["5"][0]
    assert (row["who"], row["n"], row["ROUGE-L"]) == ("slava_jax", "48", [0.75, 0.125])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["tables"] == tables.ALL


def test_one_table_that_cannot_be_made_spares_the_others(places, finish):
    workdir = finish(metrics={n: v for n, v in made_up().items() if "inter_class" not in n})
    with pytest.raises(SystemExit, match=r"inter_class\.rougeL"):
        tables.main(["--runs", str(workdir)])
    page = (places / "tables.md").read_text()
    assert "Missing, because no run measured them: Tables 5." in page
    assert "## Table 6: " in page and "## Table 5: " not in page
    assert "| 5 | inter-class VQA, ROUGE-L | not measured (" in (places / "results.md").read_text()


def test_other_data_stay_in_runs(places, finish):
    tables.main(["--runs", str(finish("sem"))])
    assert "## Table 9: " in (places / "runs" / "sem.md").read_text()
    assert "1" in json.loads((places / "runs" / "sem.json").read_text())["tables"]
    assert not (places / "tables.md").exists() and "old" in (places / "results.md").read_text()


def test_the_readme_has_its_markers():
    replaced(RESULTS, "", tables.BEGIN, tables.END)


def test_one_factor_is_found_only_where_there_is_one():
    base = PrintedRow("a", "", ((0.830, None), (0.757, None), (0.936, None)))
    scaled = tuple((round(0.93 * mean, 3), None) for mean, _ in base.values)
    assert remarks.factor(PrintedRow("b", "", scaled), base) == pytest.approx(0.93, abs=5e-4)
    other = (scaled[0], scaled[1], (scaled[2][0] + 0.004, None))
    assert remarks.factor(PrintedRow("b", "", other), base) is None


def test_what_the_printed_numbers_say_of_each_other():
    assert "sLAVA 0.914" in remarks.remarks(4)[0] and "number for number" in remarks.remarks(4)[1]
    assert "sLAVA 0.930" in remarks.remarks(5)[0] and "number for number" in remarks.remarks(5)[1]
    assert "sLAVA 0.872" in remarks.remarks(6)[0] and len(remarks.remarks(6)) == 1
    found = {name for name, *_ in remarks.impossible_f1()}
    assert found == {"Tips", "Fibres", "Films_Coated_Surface", "Nanowires"}
    assert remarks.remarks(21) == []


def test_the_disagreements_of_the_texts_are_those_that_are_marked():
    pairs = texts.scored()
    found = [(row["table"], row["row"], score) for row, score in texts.disagreements(pairs)]
    marked = [(row["table"], row["row"], score) for row in pairs for score in row["misprinted"]]
    assert sorted(found) == sorted(marked) and len(found) == 9


def test_a_recomputed_table_lists_each_disagreement_and_whose_number_it_is():
    pairs = texts.scored()
    text = texts.markdown(2, pairs)
    assert "28 of 30 printed scores are reproduced to three decimals." in text
    assert "Row 9, ROUGE-L: printed 0.735, recomputed " in text
    assert "; the score of Table 2, row 8." in text
    assert "Row 1: scored with the candidate's final full stop restored." in text
    alone = texts.markdown(10, pairs)
    assert "| row | BLEU-2, recomputed | ROUGE-L, recomputed | METEOR, recomputed |" in alone
    assert "lacks the printed scores" in alone and "| mean | 0." in alone


@pytest.mark.slow
def test_runs_that_are_missing_are_run_and_finished_ones_are_not_repeated(tmp_path, monkeypatch):
    tests = Path(__file__).parent
    monkeypatch.setattr(runs, "RUNS", tmp_path / "the runs")
    monkeypatch.setattr(runs, "CONFIGS", tmp_path)
    (tmp_path / "tables.py").write_text((tests / "tiny_run.py").read_text())
    (measured,) = runs.run_all({"procedural": ""}, [5], ["--config.assistant.steps=6"])
    assert measured.seeds == [5] and measured.runs[0].config["assistant"]["steps"] == 6
    place = measured.workdirs[0] / "metrics.json"
    before = place.stat().st_mtime_ns
    runs.run_all({"procedural": ""}, [5], ["--config.assistant.steps=6"])
    assert place.stat().st_mtime_ns == before
    with pytest.raises(runs.TablesError, match="failed with status 1"):  # of another config
        runs.run_all({"procedural": ""}, [5])
    assert "| slava_jax | synthetic | 5 | 8 |" in build(1, [measured]).markdown()
