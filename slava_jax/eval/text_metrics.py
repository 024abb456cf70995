"""The paper's caption and answer scores: BLEU, ROUGE and METEOR (Tables 1 to 6, 10, 21, 29 to 31).

The paper does not name its implementations, but its printed examples identify them to three
decimals: NLTK's sentence BLEU without smoothing and NLTK's METEOR, both on whitespace tokens
(punctuation stays attached, BLEU is case-sensitive, METEOR is not), and rouge_score's F-measure
without stemming, with its own tokenizer.

Two of them know English only: ROUGE's tokenizer sees the letters a to z and digits, so that a Greek
sentence has no words and "größe" is "gr" and "e"; METEOR's stems and synonyms are English. For
other languages the same scores are also computed over Unicode words (`unicode_scores`).
"""

import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache

import nltk
import numpy as np
import regex
from nltk.corpus import wordnet
from nltk.corpus.reader.wordnet import Synset
from nltk.stem.porter import PorterStemmer
from nltk.translate.bleu_score import Fraction, sentence_bleu
from nltk.translate.meteor_score import single_meteor_score
from rouge_score import tokenize
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer

from slava_jax.eval.wordnet import COMMAND, WordNetError

SCORE_TITLES = {
    "bleu2": "BLEU-2",
    "bleu4": "BLEU-4",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "meteor": "METEOR",
}
SCORE_NAMES = tuple(SCORE_TITLES)
UNICODE = "_unicode"  # ends the names of the scores over Unicode words
UNICODE_NAMES = tuple(name + UNICODE for name in SCORE_NAMES)

_BLEU_WEIGHTS = [(1 / 2,) * 2, (1 / 4,) * 4]
_ROUGE_NAMES = ("rouge1", "rouge2", "rougeL")
_MOST_WORDS = 1000  # of a text for ROUGE, whose time grows with the square
# A run of letters, marks and digits, or one letter of a script that puts no blanks between words.
_SCRIPTS = ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")
_UNSPACED = "[" + "".join(rf"\p{{{script}}}" for script in _SCRIPTS) + r"]&&\p{L}"
_WORD = regex.compile(rf"[{_UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{N}}\p{{M}}]--[{_UNSPACED}]]+", regex.V1)


def caption_scores(reference: str, candidate: str) -> dict[str, float]:
    """The six scores of one candidate text, each in [0, 1], keyed by `SCORE_NAMES`.

    An empty candidate scores 0. BLEU is 0 without a common n-gram of every order up to 2 (or 4):
    "Powder." against "Powder." has a bleu2 of 0, as in the paper. ROUGE reads the first 1000 words.

    Raises ValueError for an empty reference and WordNetError if METEOR has no WordNet.
    """
    reference_tokens, candidate_tokens = reference.split(), candidate.split()
    if not reference_tokens:
        raise ValueError(f"empty reference: nothing to compare {candidate!r} to")
    english = (_stemmer(), _wordnet())
    if not candidate_tokens:
        return dict.fromkeys(SCORE_NAMES, 0.0)
    rouge = _rouge(_EnglishWords).score(reference, candidate)
    return _scores(reference_tokens, candidate_tokens, rouge, *english)


def unicode_scores(reference: str, candidate: str) -> dict[str, float]:
    """The same six scores over words of any script, keyed by `UNICODE_NAMES`.

    Words are compared in lower case, without punctuation and without compatibility differences
    (NFKC); every letter of a script without blanks between words counts as one. METEOR has no
    stems and no synonyms. A text without words scores 0; of a long one the first 1000 words count.
    """
    texts = [" ".join(unicode_words(text)[:_MOST_WORDS]) for text in (reference, candidate)]
    if not all(texts):
        return dict.fromkeys(UNICODE_NAMES, 0.0)
    rouge = _rouge(_SplitWords).score(*texts)
    scores = _scores(*(text.split() for text in texts), rouge, _SameWord(), _SameWord())
    return {name + UNICODE: score for name, score in scores.items()}


def unicode_words(text: str) -> list[str]:
    """The words of a text in lower case, as `unicode_scores` compares them."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def beyond_ascii(texts: Iterable[str]) -> float:
    """The share of words with letters outside ASCII, other than the µ of units; 0 without words."""
    words = [word for text in texts for word in unicode_words(text)]
    others = sum(any(a.isalpha() and a > "\x7f" and a != "\u03bc" for a in w) for w in words)
    return others / max(1, len(words))


def _scores(reference: list[str], candidate: list[str], rouge, stemmer, synonyms):
    # A list of weights gives both orders at once, or a plain 0 if nothing matches.
    bleu2, bleu4 = sentence_bleu(
        [reference], candidate, _BLEU_WEIGHTS, smoothing_function=_no_smoothing
    )
    meteor = single_meteor_score(reference, candidate, stemmer=stemmer, wordnet=synonyms)
    return {
        "bleu2": _zero_if_tiny(bleu2),
        "bleu4": _zero_if_tiny(bleu4),
        **{name: float(rouge[name].fmeasure) for name in _ROUGE_NAMES},
        "meteor": float(meteor),
    }


def mean_scores(
    pairs: Iterable[tuple[str, str]],
    scores: Callable[[str, str], dict[str, float]] = caption_scores,
) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of every score over (reference, candidate) pairs.

    The deviation is over examples (population form, divided by n), not over training runs.

    Args:
      scores: of one pair, `caption_scores` or `unicode_scores`.

    Raises ValueError if there is no pair.
    """
    rows = [scores(*pair) for pair in pairs]
    if not rows:
        raise ValueError("no (reference, candidate) pairs to score: the split or the task is empty")
    values = np.asarray([list(row.values()) for row in rows], np.float64)
    means, deviations = values.mean(axis=0), values.std(axis=0)
    return {
        name: (float(mean), float(deviation))
        for name, mean, deviation in zip(rows[0], means, deviations, strict=True)
    }


def _no_smoothing(precisions: list[Fraction], **_: object) -> list[Fraction | float]:
    """NLTK's default without its warning: a tiny number for zero, since BLEU takes logarithms."""
    return [p if p.numerator else sys.float_info.min for p in precisions]


def _zero_if_tiny(bleu: float) -> float:
    return 0.0 if bleu < sys.float_info.epsilon else float(bleu)


@cache
def _rouge(words: type[Tokenizer]) -> RougeScorer:
    return RougeScorer(_ROUGE_NAMES, tokenizer=words())


class _EnglishWords(Tokenizer):
    def tokenize(self, text: str) -> list[str]:
        return tokenize.tokenize(text, stemmer=None)[:_MOST_WORDS]


class _SplitWords(Tokenizer):
    def tokenize(self, text: str) -> list[str]:
        return text.split()


class _SameWord:
    """Neither stems nor synonyms, for languages of which METEOR knows none."""

    def stem(self, word: str) -> str:
        return word

    def synsets(self, word: str) -> Sequence[Synset]:
        return ()


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
