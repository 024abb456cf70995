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

from slava_jax.eval.text_metrics import (
    SCORE_NAMES,
    UNICODE_NAMES,
    beyond_ascii,
    caption_scores,
    mean_scores,
    unicode_scores,
    unicode_words,
)

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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Το σύρμα, λεπτό.", ["το", "σύρμα", "λεπτό"]),
        ("GRO\u0308SSE", ["grösse"]),
        ("größe", ["grösse"]),
        ("纳米线 40 纳米", ["纳", "米", "线", "40", "纳", "米"]),
        ("ナノ線", ["ナ", "ノ", "線"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("5 \u00b5m, 5 \u03bcm", ["5", "\u03bcm", "5", "\u03bcm"]),
        ("Fe₂O₃-wires, it's", ["fe2o3", "wires", "it", "s"]),
        ("—", []),
    ],
)
def test_words_of_any_script(text, words):
    assert unicode_words(text) == words


def test_scores_outside_ascii():
    greek = "Το σύρμα είναι λεπτό"
    assert caption_scores(greek, greek)["rougeL"] == 0  # as in the paper; the report says so
    same = unicode_scores(greek, greek)
    assert tuple(same) == UNICODE_NAMES
    assert same.pop("meteor_unicode") > 0.99 and set(same.values()) == {1.0}
    assert caption_scores("größe", "grüße")["rougeL"] == 1
    assert set(unicode_scores("größe", "grüße").values()) == {0.0}
    unspaced = unicode_scores("纳米线直径约40纳米", "纳米线直径约50纳米")
    assert unspaced["rougeL_unicode"] == pytest.approx(8 / 9)
    assert set(unicode_scores("—", "—").values()) == {0.0}


@settings(max_examples=40, deadline=None)
@given(TEXTS, TEXTS)
def test_rouge_of_ascii_is_the_same_over_unicode_words(reference, candidate):
    scores, over = caption_scores(reference, candidate), unicode_scores(reference, candidate)
    for name in ("rouge1", "rouge2", "rougeL"):
        assert scores[name] == over[f"{name}_unicode"]


def test_the_share_of_words_beyond_ascii_leaves_out_units():
    assert beyond_ascii(["5 µm wide", "40 μm × 2 Fe₂O₃"]) == 0
    assert beyond_ascii(["Το σύρμα", "two words"]) == 0.5
    assert beyond_ascii(["— 40"]) == beyond_ascii([]) == 0


@pytest.mark.parametrize("text", ["a-" * 500_000, "y" * 10**6, "s" * 10**6, "é" * 10**6])
def test_a_long_text_takes_no_time(text):
    """ROUGE reads the first 1000 words; a MB was hours."""
    start = time.process_time()
    for scores in (caption_scores, unicode_scores):
        assert all(0 <= score <= 1 for score in scores(text, f"{text} x").values())
    assert time.process_time() - start < 20


def test_the_mean_and_the_deviation_are_over_examples():
    pairs = [("a b c d e", "a b c d e"), ("a b c d e", "")]
    mean, deviation = mean_scores(pairs)["bleu4"]
    assert (mean, deviation) == (0.5, 0.5)
    with pytest.raises(ValueError, match="empty"):
        mean_scores([])
    greek = [("Το σύρμα", "Το σύρμα"), ("Το σύρμα", "x")]
    assert mean_scores(greek, unicode_scores)["rougeL_unicode"] == (0.5, 0.5)


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
