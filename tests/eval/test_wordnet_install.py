"""Installing WordNet: the parts that need no network."""

import subprocess
import sys
from pathlib import Path

import nltk
import pytest
from nltk.corpus import wordnet as reader

from slava_jax.eval import wordnet


def test_lexnames_has_the_45_files_of_lexnames_5wn():
    lines = [line.split("\t") for line in wordnet.lexnames_text().splitlines()]
    assert [int(number) for number, _, _ in lines] == list(range(45))
    assert lines[0] == ["00", "adj.all", "3"]
    assert lines[3] == ["03", "noun.Tops", "1"]
    assert lines[26] == ["26", "noun.state", "1"]
    assert lines[29] == ["29", "verb.body", "2"]
    assert lines[44] == ["44", "adj.ppl", "3"]


def test_lexnames_agrees_with_the_installed_data():
    for word, name in [("dog", "noun.animal"), ("run", "verb.motion"), ("quickly", "adv.all")]:
        assert name in {synset.lexname() for synset in reader.synsets(word)}


def copy_of_wordnet(prefix: Path) -> Path:
    """A copy of the installed WordNet under another prefix."""
    target = prefix / "nltk_data" / "corpora" / "wordnet"
    target.mkdir(parents=True)
    for folder in (target, target.parent, target.parent.parent):
        folder.chmod(0o755)
    source = Path(str(nltk.data.find("corpora/wordnet")))
    # Real copies: NLTK refuses links that might lead out of its data folder.
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
        (target / file.name).chmod(0o644)
    return target


def test_an_installed_wordnet_is_left_alone(tmp_path):
    target = copy_of_wordnet(tmp_path)
    before = {file.name: file.stat().st_mtime_ns for file in target.iterdir()}
    assert "already installed" in wordnet.install(tmp_path)
    assert {file.name: file.stat().st_mtime_ns for file in target.iterdir()} == before


def test_a_damaged_wordnet_is_noticed_and_the_failure_names_both_ways(tmp_path, monkeypatch):
    target = copy_of_wordnet(tmp_path)
    (target / "data.verb").unlink()
    # No program can be found, so both sources fail with or without a network.
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(wordnet.WordNetError) as caught:
        wordnet.install(tmp_path, download_timeout=0.01)
    message = str(caught.value)
    assert "NLTK's own downloader: " in message
    assert "wordnet-base and wordnet-sense-index: apt-get is not installed" in message
    assert str(target) in message
    leftovers = [p for p in (tmp_path / "nltk_data").iterdir() if p.name != "corpora"]
    assert leftovers == []


def test_other_words_in_the_files_fail_the_golden_value(tmp_path):
    target = copy_of_wordnet(tmp_path)
    emptied = target / "index.noun"
    emptied.unlink()
    emptied.write_text("")
    emptied.chmod(0o644)
    reason = wordnet.problem(tmp_path / "nltk_data")
    assert reason is not None and "0.504" in reason


def test_the_command_checks_without_installing(tmp_path):
    command = [sys.executable, "-m", "slava_jax", "wordnet", "--check", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert str(tmp_path) in done.stderr
    assert list(tmp_path.iterdir()) == []
