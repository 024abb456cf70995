"""Experiments that take hours: the metrics they read exist, and their output is right."""

import hashlib
import json
import os
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import adapters, architectures, elpv_pretrained, kills, limber, results
from experiments.ablations import __main__ as ablations
from experiments.claims import __main__ as claims
from experiments.claims import shift, styles
from experiments.tables import specs
from experiments.tables.table import metric_names
from slava_jax.data.instructions import STYLES, Instruction, read_jsonl, write_jsonl
from slava_jax.eval import tasks
from slava_jax.eval.text_metrics import SCORE_NAMES
from slava_jax.synthetic.records import CATEGORIES
from slava_jax.teacher.multi_image import CHALLENGES
from slava_jax.train.settings import check
from slava_jax.train.stages import check_trainable


def measured() -> set[str]:
    """Names of the metrics of a run with several images per prompt."""
    labels, scores = np.arange(10), np.eye(10)
    one, yes = np.ones(10), np.ones(10, bool)
    losses = tasks.Losses(["class"] * 10, one, one, one, one - 1, yes)
    found = {"run.seconds.assistant", "run.peak_memory_gib", "run.wall_seconds"}
    for rank in (4, 8, 12, 16):
        found |= {f"rank_{rank}.top1", f"rank_{rank}.nats_per_token"}
    few = dict.fromkeys(("", "_permuted", "_zero_shot"), scores)
    found |= dict(tasks.few_shot(labels, few, np.zeros((10, 4), int), CATEGORIES)).keys()
    for control in ("", "_shuffled", "_zero_b", "_untrained", "_vit", "_classical", "_majority"):
        found |= dict(tasks.classification(labels, scores, CATEGORIES, control)).keys()
        found |= dict(tasks.language_modelling(losses, control)).keys()
        found |= dict(tasks.matching(losses, control)).keys()
        for task in ("caption", "vqa", *CHALLENGES):
            found |= {f"{task}{control}.{name}" for name in ("n", *SCORE_NAMES)}
    for task in ("caption", "vqa", *CHALLENGES):
        found |= {f"{task}_blind.{name}" for name in ("n", *SCORE_NAMES)}
    return found


def test_every_number_that_a_table_reads_is_measured():
    for spec in specs.SPECS.values():
        assert not set(metric_names(spec)) - measured()
    assert not {*specs.PAIRED_ERRORS.values()} - measured()
    assert not {metric for _, _, metric, *_ in specs.HEADLINES} - measured()


def test_every_number_that_an_ablation_keeps_is_measured():
    assert not set(ablations.KEPT) - measured()


def test_every_number_of_the_architectures_is_measured():
    assert not {*architectures.KEPT, *limber.KEPT} - measured()


def test_each_architecture_is_a_config_that_can_be_used():
    for model in architectures.MODELS:
        config = architectures.config_of(2, model)
        assert config.seed == 2
        check(config)
        check_trainable(config)
    assert architectures.config_of(0, "LLaVA, connector alone").adapter.experts == 0
    for variant in adapters.VARIANTS:
        config = adapters.config_of(1, variant)
        config.start_from.vision = config.start_from.language = ""
        config.stages = ("vision", "language", "alignment", "assistant")
        config.vit.frozen_layers = 0
        check(config)
        check_trainable(config)
    for encoder in limber.ENCODERS:
        config = limber.config_of(encoder)
        config.stages = ("assistant",)
        config.start_from.vision = "somewhere"
        check(config)
        check_trainable(config)


def test_adapters_are_compared_with_equal_numbers_of_weights():
    """In a Llama with SmolLM2-135M's attention; the connector's weights are equal anyway."""
    counts = {}
    for variant in adapters.VARIANTS:
        config = adapters.config_of(0, variant)
        config.start_from.vision = config.start_from.language = ""
        config.vit.frozen_layers = 0
        config.language_model.update(width=576, heads=9, kv_heads=3, head_width=64)
        counts[variant] = adapters.trained_weights(config)
    least = counts.pop(adapters.ALONE)
    added = {variant: count - least for variant, count in counts.items()}
    assert max(added.values()) < 1.02 * min(added.values()), added


def test_architectures_are_a_row_each_with_a_spread_over_seeds():
    found = {
        architectures.name_of(seed, "LLaVA"): {
            "metrics": dict.fromkeys(architectures.KEPT, 60 * (seed + 1.0))
        }
        for seed in (0, 1)
    }
    found[architectures.name_of(0, "LLaVA, connector alone")] = {
        "metrics": {key: 60.0 for key in architectures.KEPT if "zero_b" not in key}
    }
    full, alone = architectures.rows(found)
    assert full[:3] == ("LLaVA", "2", "90.000 ± 42.426") and full[-1] == "1.5 ± 0.7"
    assert alone[:5] == ("LLaVA, connector alone", "1", "60.000", "", "60.000")


def test_a_result_of_another_config_is_not_taken(tmp_path):
    path, config = tmp_path / "results.json", architectures.config_of(0, "LLaVA")
    settings = results.settings_of(config)
    assert not results.measured(path, "one", settings)
    results.add(path, "one", {"settings": settings})
    assert results.measured(path, "one", settings)
    config.assistant.steps += 1
    with pytest.raises(SystemExit, match="'one' was measured with another config"):
        results.measured(path, "one", results.settings_of(config))


def ablated(seeds=(0, 1)):
    """Results of every variant with both decoders."""
    return {
        ablations.name_of(seed, decoder, variant): {
            "metrics": dict.fromkeys(ablations.KEPT, i + seed / 2)
        }
        for seed in seeds
        for decoder in ablations.DECODERS
        for i, variant in enumerate(ablations.VARIANTS)
    }


def test_ablations_are_a_mean_over_seeds_and_their_spread():
    of_two, of_three = ablated(), ablated(seeds=(0, 1, 2))
    mean, deviation, seeds = ablations.spreads(of_two, "llama", "one expert")["classification.top1"]
    assert (mean, seeds) == (2.25, 2) and deviation == pytest.approx(0.354, abs=1e-3)
    top1 = ablations.spreads(of_three, "llama", "full")["classification.top1"]
    assert top1 == [0.5, 0.5, 3]
    spread = "2.250 ± 0.354"
    cells = " | ".join([spread, "+2.0000 ± 0.0000", *[spread] * 8])  # the difference is by seed
    assert ablations.tables(of_two).count(f"| one expert | 2 | {cells} |") == 2


def test_an_ablation_of_one_seed_has_no_spread():
    assert "| full | 1 | 0.500 |  | 0.500 |" in ablations.tables(ablated(seeds=(1,)))


def test_a_difference_is_to_the_same_seed_where_both_were_run():
    found = ablated()
    del found[ablations.name_of(1, "llama", "full")]
    assert ablations.differences(found, "llama", "fixed rank") == {0: 4}
    assert ablations.differences(found, "transformer", "fixed rank") == {0: 4, 1: 4}
    tables = ablations.tables(found)
    assert "| fixed rank | 2 | 4.250 ± 0.354 | +4.0000 | 4.250 ± 0.354 |" in tables


def test_a_variant_stands_in_its_own_line_of_the_plot_whatever_was_run(tmp_path):
    found = ablated(seeds=(0, 1, 2))
    del found[ablations.name_of(0, "llama", "two experts")]
    del found[ablations.name_of(1, "llama", "full")]
    figure = ablations.plot(found, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").stat().st_size > 1000
    names = ["every B at zero", *list(ablations.VARIANTS)[1:]]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]  # of both decoders
    for axes, counts in zip(figure.axes, ((7, 7, 7), (6, 0, 7)), strict=True):
        _, *seeds = axes.lines  # the first is the line of `full`
        assert tuple(len(points.get_xdata()) for points in seeds) == counts
        for points in seeds:
            for x, y in zip(points.get_xdata(), points.get_ydata(), strict=True):
                assert labels[y] == names[round(x)]


def test_claims_are_a_table_each():
    found = {
        claims.name_of("shift", seed, "mixed"): {
            "scores": {"top-1 within": top1, "top-1 outside": 0.25, "n": 200.0}
        }
        for seed, top1 in ((0, 0.5), (2, 0.75))
    }
    page = claims.page(found)
    assert page.count("Not measured yet.") == 2
    assert "| trained on | seeds | n | top-1 within | top-1 outside |" in page
    assert "| mixed | 2 | 200 | 0.625 ± 0.177 | 0.250 ± 0.000 |" in page and "| shifted" not in page


def test_results_grow_and_what_is_there_is_not_measured_again(tmp_path, monkeypatch):
    measured = []

    def measure(seed, variant, runs):
        measured.append((seed, variant))
        return {"n": 5.0}

    path = tmp_path / "results.json"
    monkeypatch.setattr(claims, "RESULTS", path)
    monkeypatch.setattr(claims.CLAIMS["turns"], "measure", measure)
    for seed in (1, 0, 1):
        claims.do("turns", seed, "flips and turns")
    assert measured == [(1, "flips and turns"), (0, "flips and turns")]
    held = json.loads(path.read_text())
    assert list(held) == [f"turns-seed{seed}-flips and turns" for seed in (0, 1)]
    assert held["turns-seed1-flips and turns"]["scores"] == {"n": 5.0}


def test_a_result_of_other_settings_is_not_taken_for_one_of_these(tmp_path, monkeypatch):
    def run(config, workdir):
        ran.append(str(workdir))
        raise KeyboardInterrupt

    ran = []
    monkeypatch.setattr(elpv_pretrained, "run", run)
    monkeypatch.setattr(elpv_pretrained, "RESULTS", tmp_path)
    (tmp_path / "split1-llama.json").write_text(json.dumps({"settings": "of yesterday"}))
    with pytest.raises(SystemExit, match=r"split1-llama\.json: from another config; delete it"):
        elpv_pretrained.do(1, "llama")
    with pytest.raises(KeyboardInterrupt):
        elpv_pretrained.do(0, "llama")
    assert ran == ["runs/elpv_pretrained/split0-transformer"]  # whose vision stage it starts from
    config = elpv_pretrained.config_of(0, "transformer").to_json(sort_keys=True)
    settings = hashlib.sha256(config.encode()).hexdigest()[:16]
    (tmp_path / "split0-transformer.json").write_text(json.dumps({"settings": settings}))
    elpv_pretrained.do(0, "transformer")  # exists
    assert len(ran) == 1


def test_shifted_and_mixed_are_trained_on_other_images_than_both_are_asked_about(monkeypatch):
    def truths(drawings):
        return [
            SimpleNamespace(magnification=1 if n % 4 else 10**6, detector="SE2", artefacts=())
            for _, n in drawings
        ]

    monkeypatch.setattr(shift, "truths", truths)
    taken, within, outside = shift._drawings(seed=1)
    assert len(set(within)) == len(set(outside)) == 20 * len(CATEGORIES)
    assert all(n % 4 for _, n in within + taken["shifted"]) and not any(n % 4 for _, n in outside)
    for variant in shift.VARIANTS:
        assert Counter(category for category, _ in taken[variant]) == dict.fromkeys(CATEGORIES, 120)
        assert not {*taken[variant]} & {*within, *outside}
    assert np.mean([n % 4 > 0 for _, n in taken["mixed"]]) == 0.75


def test_answers_of_every_style_are_told_by_one_tokenizer(tmp_path, monkeypatch):
    def run(config, workdir):
        """Writes the files of a run, or reads what a run would read."""
        place = Path(workdir) / "data"
        if config.stages == ("vision",):
            for name in ("procedural", "tokenizer", "instructions"):
                (place / name).mkdir(parents=True)
            for split in ("train", "validation", "test"):
                item = Instruction("-", (split,), "<image> What?", "That.", "vqa", "short", "Tips")
                items = [replace(item, id=split + style, style=style) for style in STYLES]
                write_jsonl(place / "instructions" / f"{split}.jsonl", items)
        seen.append((config.stages, [i.style for i in own(config)], sorted(os.listdir(place))))
        return dict.fromkeys(("vqa_short.rougeL", "vqa_detailed.rougeL"), 0.5) | {
            "classification.top1": 0.5, "vqa.n": 512.0,
        }  # fmt: skip

    def own(config):
        return read_jsonl(config.data.instructions) if config.data.instructions else []

    seen = []
    monkeypatch.setattr(styles, "run", run)
    assert styles.measure(0, "detailed answers", tmp_path / "runs")["n"] == 512
    assert seen[1] == (
        ("language", "assistant"),
        ["detailed", "detailed", "short", "detailed"],  # of training, validation, and all of test
        ["procedural", "tokenizer"],
    )


HANG = "exec sleep 60"
EMPTY = {"kills": [], "bits": 0, "different": {}}


class Shell:
    """A shell command with the methods of a process of multiprocessing."""

    def __init__(self, script: str, folder: Path):
        self.script, self.folder = script, folder

    def start(self):
        self._process = subprocess.Popen(["sh", "-c", self.script], cwd=self.folder)
        self.kill = self._process.kill
        self.join = self._process.wait

    def is_alive(self):
        return self._process.poll() is None

    @property
    def exitcode(self):
        return self._process.returncode


def test_a_kill_meets_the_save_that_it_waits_for(tmp_path):
    save = "mkdir 1.unfinished; sleep 0.2; mv 1.unfinished 1; "
    script = save + "mkdir last; touch last/.a.new; " + HANG
    moment = {"saves": 2, "after": 0.0}
    happened = kills.kill(Shell(script, tmp_path), tmp_path, moment)
    assert happened.pop("seconds") < 30
    assert happened == {**moment, "saving": True}
    # What an earlier kill left does not count.
    waits = Shell(HANG, tmp_path)
    assert not kills.kill(waits, tmp_path, {"saves": 0, "after": 0.05})["saving"]
    again = Shell("rm last/.a.new; sleep 0.2; touch last/.a.new; " + HANG, tmp_path)
    assert kills.kill(again, tmp_path, {"saves": 1, "after": 0.0})["saving"]


def test_a_run_that_ends_before_its_kill_is_no_kill_and_one_that_fails_is_an_error(tmp_path):
    moment = {"saves": 0, "after": 60.0}
    assert kills.kill(Shell("exit 0", tmp_path), tmp_path, moment) is None
    with pytest.raises(SystemExit, match="failed"):
        kills.kill(Shell("exit 3", tmp_path), tmp_path, moment)


def test_a_run_is_killed_so_many_times_and_then_left_to_end(tmp_path):
    saves = "for i in 10 11 12 13 14 15 16 17 18 19 20 21; do touch run/.save$i$s.new; done; "
    script = "mkdir -p run; s=$(ls run | wc -l); touch run/$s$$; [ $s -ge 3 ] && exit 0; s=${s}0; "
    shells = SimpleNamespace(Process=lambda target, args: Shell(script + saves + HANG, tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old").touch()
    happened = kills.killed_run(shells, tmp_path / "run", 0, 3, seconds=1.1)
    assert len(happened) == 3 and len(list((tmp_path / "run").glob("[0-9]*"))) == 4
    rounds = [{"kills": happened, "bits": 9, "different": {"a": 2, "b": 1}}, {**EMPTY, "bits": 9}]
    found = kills.summary(rounds)
    assert (found["kills"], found["runs_compared"], found["bits_compared"]) == (3, 2, 18)
    assert found["bits_different"] == 3
    assert found["kills_while_saving"] == sum(kill["saving"] for kill in happened) > 0


def test_every_different_bit_is_counted():
    one = {"same": b"ab", "two bits": b"\x00\x80", "longer": b"a", "gone": b"", "old": b"abc"}
    other = {"same": b"ab", "two bits": b"\x01\x00", "longer": b"ab", "new": b"x"}
    found = {"two bits": 2, "longer": 16, "gone": 8, "old": 24, "new": 8}
    assert kills.different_bits(one, other) == found
    assert kills.different_bits(one, dict(one)) == {}
