"""The paper's caption and answer scores: BLEU, ROUGE and METEOR (Tables 1 to 6, 10, 21, 29 to 31).

The paper does not name its implementations, but its printed examples identify them to three
decimals: NLTK's sentence BLEU without smoothing and NLTK's METEOR, both on whitespace tokens
(punctuation stays attached, BLEU is case-sensitive, METEOR is not), and rouge_score's F-measure
without stemming, with its own tokenizer.
"""

import sys
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache

import nltk
import numpy as np
from nltk.corpus import wordnet
from nltk.corpus.reader.wordnet import Synset
from nltk.stem.porter import PorterStemmer
from nltk.translate.bleu_score import Fraction, sentence_bleu
from nltk.translate.meteor_score import single_meteor_score
from rouge_score.rouge_scorer import RougeScorer

from slava_jax.eval.wordnet import COMMAND, WordNetError

SCORE_NAMES = ("bleu2", "bleu4", "rouge1", "rouge2", "rougeL", "meteor")

_BLEU_WEIGHTS = [(1 / 2,) * 2, (1 / 4,) * 4]


def caption_scores(reference: str, candidate: str) -> dict[str, float]:
    """The six scores of one candidate text, each in [0, 1], keyed by `SCORE_NAMES`.

    An empty candidate scores 0. BLEU is 0 without a common n-gram of every order up to 2 (or 4):
    "Powder." against "Powder." has a bleu2 of 0, as in the paper.

    Raises ValueError for an empty reference and WordNetError if METEOR has no WordNet.
    """
    reference_tokens, candidate_tokens = reference.split(), candidate.split()
    if not reference_tokens:
        raise ValueError(f"empty reference: nothing to compare {candidate!r} to")
    synonyms = _wordnet()
    if not candidate_tokens:
        return dict.fromkeys(SCORE_NAMES, 0.0)
    # A list of weights gives both orders at once, or a plain 0 if nothing matches.
    bleu2, bleu4 = sentence_bleu(
        [reference_tokens], candidate_tokens, _BLEU_WEIGHTS, smoothing_function=_no_smoothing
    )
    rouge = _rouge().score(reference, candidate)
    meteor = single_meteor_score(
        reference_tokens, candidate_tokens, stemmer=_stemmer(), wordnet=synonyms
    )
    return {
        "bleu2": _zero_if_tiny(bleu2),
        "bleu4": _zero_if_tiny(bleu4),
        "rouge1": float(rouge["rouge1"].fmeasure),
        "rouge2": float(rouge["rouge2"].fmeasure),
        "rougeL": float(rouge["rougeL"].fmeasure),
        "meteor": float(meteor),
    }


def mean_scores(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of every score over (reference, candidate) pairs.

    The deviation is over examples (population form, divided by n), not over training runs.

    Raises ValueError if there is no pair.
    """
    rows = [list(caption_scores(*pair).values()) for pair in pairs]
    if not rows:
        raise ValueError("no (reference, candidate) pairs to score: the split or the task is empty")
    values = np.asarray(rows, np.float64)
    means, deviations = values.mean(axis=0), values.std(axis=0)
    return {
        name: (float(mean), float(deviation))
        for name, mean, deviation in zip(SCORE_NAMES, means, deviations, strict=True)
    }


def _no_smoothing(precisions: list[Fraction], **_: object) -> list[Fraction | float]:
    """NLTK's default without its warning: a tiny number for zero, since BLEU takes logarithms."""
    return [p if p.numerator else sys.float_info.min for p in precisions]


def _zero_if_tiny(bleu: float) -> float:
    return 0.0 if bleu < sys.float_info.epsilon else float(bleu)


@cache
def _rouge() -> RougeScorer:
    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)


class _CachedSynonyms:
    """WordNet with each word looked up once: answers repeat a small vocabulary."""

    @lru_cache(maxsize=100_000)  # noqa: B019  (one instance for the life of the process)
    def synsets(self, word: str) -> Sequence[Synset]:
        return wordnet.synsets(word)


class _CachedStemmer(PorterStemmer):
    @lru_cache(maxsize=100_000)  # noqa: B019  (one instance for the life of the process)
    def stem(self, word: str) -> str:
        return super().stem(word)


@cache
def _stemmer() -> _CachedStemmer:
    return _CachedStemmer()


@cache
def _wordnet() -> _CachedSynonyms:
    try:
        wordnet.ensure_loaded()
    except (LookupError, OSError) as error:
        raise WordNetError(
            f"METEOR needs WordNet 3.0, but NLTK cannot read it from any of "
            f"{', '.join(nltk.data.path)}. Run `{COMMAND}` (or `make wordnet`) once to install "
            "WordNet into this Python environment; it does not need root."
        ) from error
    return _CachedSynonyms()
