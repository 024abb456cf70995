"""Text scores: the paper's printed examples, and properties of any pair."""

import json
import math
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.meteor_score import single_meteor_score

from slava_jax.eval.text_metrics import SCORE_NAMES, caption_scores, mean_scores

# The file says where the rows come from and what was put back in them. Some print no scores.
ROWS = json.loads((Path(__file__).parent / "paper_text_scores.json").read_text())["rows"]
PRINTED = [row for row in ROWS if row["meteor"] is not None]
TEXTS = st.lists(
    st.sampled_from(["the", "particles", "are", "round", "small", "little", "wire,", "wires."]),
    min_size=1,
    max_size=12,
).map(" ".join)


@pytest.mark.parametrize("row", PRINTED, ids=lambda r: f"table{r['table']}_row{r['row']}")
def test_the_papers_printed_scores_come_out_to_three_decimals(row):
    scores = caption_scores(row["reference"], row["candidate"])
    for name in ("bleu2", "rougeL", "meteor"):
        if name in row["misprinted"]:
            continue
        assert abs(scores[name] - row[name]) < 5.1e-4, name


def test_the_two_misprints_of_table_2_are_the_only_ones_there_and_in_table_29():
    missing = [(r["table"], r["row"], r["misprinted"]) for r in PRINTED if r["table"] != 30]
    assert len(missing) == 16
    assert [m for m in missing if m[2]] == [(2, 9, ["rougeL"]), (2, 10, ["rougeL"])]


@pytest.mark.parametrize("candidate", ["", "   ", "\n"])
def test_an_empty_candidate_scores_zero_without_a_warning(candidate):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert caption_scores("round particles", candidate) == dict.fromkeys(SCORE_NAMES, 0.0)


def test_no_common_word_scores_zero_and_one_common_word_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(caption_scores("round particles", "xyzzy").values()) == {0.0}
        one_word = caption_scores("Powder.", "Powder.")
    assert (one_word["bleu2"], one_word["bleu4"], one_word["rougeL"]) == (0.0, 0.0, 1.0)


def test_an_empty_reference_is_refused_and_quotes_the_candidate():
    with pytest.raises(ValueError, match="nanowires"):
        caption_scores("", "nanowires")


@settings(max_examples=40, deadline=None)
@given(TEXTS, TEXTS)
def test_scores_are_fractions_and_cached_lookups_change_nothing(reference, candidate):
    scores = caption_scores(reference, candidate)
    assert tuple(scores) == SCORE_NAMES
    assert all(0.0 <= score <= 1.0 + 1e-12 for score in scores.values())
    assert scores["meteor"] == single_meteor_score(reference.split(), candidate.split())


def test_the_mean_and_the_deviation_are_over_examples():
    pairs = [("a b c d e", "a b c d e"), ("a b c d e", "")]
    mean, deviation = mean_scores(pairs)["bleu4"]
    assert (mean, deviation) == (0.5, 0.5)
    with pytest.raises(ValueError, match="empty"):
        mean_scores([])


def test_fifteen_hundred_pairs_take_seconds():
    references = [row["reference"] for row in PRINTED]
    pairs = [(references[i % 26], references[(i * 7 + i // 5) % 26]) for i in range(1500)]
    start = time.process_time()
    scores = mean_scores(pairs)
    assert time.process_time() - start < 15
    assert all(math.isfinite(x) for pair in scores.values() for x in pair)


def test_without_wordnet_the_error_names_the_command(tmp_path):
    code = (
        f"import nltk; nltk.data.path[:] = [{str(tmp_path)!r}]\n"
        "from slava_jax.eval.text_metrics import caption_scores\n"
        "caption_scores('a', 'b')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    last_line = done.stderr.strip().splitlines()[-1]
    assert "slava wordnet" in last_line
    assert str(tmp_path) in last_line
