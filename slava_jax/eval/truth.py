"""Are the answers true? What an answer says of an image, against the image's ground truth.

Every fact is scored as it is asked for: a number by how often it is close, a word by its balanced
accuracy. An answer without the fact that was asked for counts as wrong. `skill` sums it all up: 0
for the best answers that can be given without looking, 1 for perfect ones.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

# Facts (synthetic.facts) whose answers are scored.
NUMBERS = ("mean_size_nm", "spacing_nm", "count", "coverage")
WORDS = (
    "alignment",
    "direction",
    "packing",
    "has_defects",
    "texture",
    "composition",
    "aggregation",
    "coverage_level",
    "artefact_charging",
)
LENGTHS = ("mean_size_nm", "spacing_nm")
CLOSE = 1.25  # a number is right within 25 %
_ROUNDED = 0.05  # and a coverage, which is said in tens of percent, within 5 percentage points
_FIELDS = 2**0.5  # no feature is longer than the diagonal of a square image, in widths
BLIND = ("constant", "blind")  # controls that see no image
_FAR = 99.0  # stands for an infinite error
_DRAWS = 400  # of the bootstrap
# Smaller trees than the default, at a higher rate: a third of the time.
_BOOSTING = {"max_iter": 60, "max_leaf_nodes": 12, "learning_rate": 0.15, "random_state": 0}


@dataclasses.dataclass(frozen=True)
class Asked:
    """One fact asked about n images.

    Attributes:
      true: n values. said: n values read from the answers, None where nothing was said.
    """

    true: Sequence[Any]
    said: Sequence[Any]


def fact_scores(fact: str, asked: Asked) -> dict[str, float]:
    """The scores of one fact: `score` is the share within 25 %, or the balanced accuracy.

    Returns:
      `score`, `missing` (share of answers without the fact) and `n`; for numbers also
      `within_factor_2` and `median_log2_error` (over the answers that say something).
    """
    missing = np.asarray([said is None for said in asked.said])
    out = {"score": _score(*_right(fact, asked)), "missing": float(missing.mean())}
    out["n"] = float(len(missing))
    if fact in NUMBERS:
        error = log2_errors(asked)
        out["within_factor_2"] = float((error <= 1).mean())
        if not missing.all():
            out["median_log2_error"] = float(min(np.median(error[~missing]), _FAR))
    return out


def log2_errors(asked: Asked) -> np.ndarray:
    """float[n], |log2(said / true)|; infinite where nothing was said or only one of them is 0."""
    error = np.full(len(asked.true), np.inf)
    for i, (true, said) in enumerate(zip(asked.true, asked.said, strict=True)):
        if said == true:
            error[i] = 0
        elif said is not None and said > 0 and true > 0:
            error[i] = abs(np.log2(said / true))
    return error


def _right(fact: str, asked: Asked) -> tuple[np.ndarray, np.ndarray]:
    """bool[n], which answers are right, and int[n], the group over whose means it is averaged."""
    if fact in NUMBERS:
        near = log2_errors(asked) <= np.log2(CLOSE)
        if fact == "coverage":
            pairs = zip(asked.said, asked.true, strict=True)
            near |= [s is not None and abs(s - t) <= _ROUNDED + 1e-9 for s, t in pairs]
        return near, np.zeros(len(asked.true), int)
    names = sorted(set(asked.true), key=str)
    same = [said == true for said, true in zip(asked.said, asked.true, strict=True)]
    return np.asarray(same), np.asarray([names.index(true) for true in asked.true])


def _score(right: np.ndarray, group: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The share of right answers, averaged over the groups; images may be weighted."""
    weights = np.ones(len(right)) if weights is None else weights
    total = np.bincount(group, weights)
    shown = total > 0
    return float((np.bincount(group, right * weights)[shown] / total[shown]).mean())


def share_impossible(fact: str, asked: Asked, scales: Sequence[tuple[float, float]]) -> float:
    """The share of the stated numbers that no image can show; 0 if nothing is stated.

    A length below a tenth of a pixel or above the image's diagonal, and a coverage above 1.

    Args:
      scales: (nm per pixel, width in nm) of each image.
    """
    found = []
    for said, (pixel, width) in zip(asked.said, scales, strict=True):
        if said is not None and fact in LENGTHS:
            found.append(not pixel / 10 <= said <= _FIELDS * width)
        elif said is not None:
            found.append(fact == "coverage" and said > 1)
    return float(np.mean(found)) if found else 0.0


def skill(scores: Mapping[str, Mapping[str, float]], subject: str = "") -> float:
    """The mean over facts of (score - best blind score) / (1 - best blind score).

    Args:
      scores: {control: {fact: score}}; '' is the assistant, and 'constant' and 'blind' are the
        blind ones, as far as there are any.
      subject: the control whose skill it is.

    A fact on which a blind answer is always right is left out, and no fact counts less than -1. NaN
    if none is left.
    """
    parts = []
    for fact, score in scores[subject].items():
        blind = max((scores[name][fact] for name in BLIND if name in scores), default=0.0)
        if blind < 1:
            parts.append(max((score - blind) / (1 - blind), -1.0))
    return float(np.mean(parts)) if parts else np.nan


def right(fact: str, asked: Asked) -> np.ndarray:
    """bool[n]: which answers are right; a number within 25 %."""
    return _right(fact, asked)[0]


def share_right(asked: Mapping[str, Asked]) -> float:
    """The share of all answers that are right, whichever fact they are about."""
    return float(np.concatenate([right(fact, pair) for fact, pair in asked.items()]).mean())


def skill_gain(
    asked: Mapping[str, Mapping[str, Asked]], images: Mapping[str, np.ndarray], over: str
) -> tuple[float, float]:
    """The 95 % interval of skill('') - skill(over), by bootstrap over the images.

    Args:
      asked: {control: {fact: n answers}}. images: {fact: int[n]}, the image of each.
      over: the control that the assistant is compared with.
    """
    rng = np.random.default_rng(0)
    names = [name for name in asked if name in ("", over, *BLIND)]
    parts = {name: {f: _right(f, a) for f, a in asked[name].items()} for name in names}
    count = 1 + max(int(rows.max()) for rows in images.values())
    shown = np.unique(np.concatenate(list(images.values())))
    gains = []
    for _ in range(_DRAWS):
        weights = np.bincount(rng.choice(shown, len(shown)), minlength=count).astype(float)
        scores = {
            name: {fact: _score(*pair, weights[images[fact]]) for fact, pair in facts.items()}
            for name, facts in parts.items()
        }
        gains.append(skill(scores) - skill(scores, over))
    low, high = np.nanquantile(gains, (0.025, 0.975))
    return float(low), float(high)


def best_constant(fact: str, true: Sequence[Any], everything: Sequence[Any]) -> Any:
    """The answer that scores best when it is always given to images with these true values.

    Args:
      everything: the values of all images. Balanced accuracy counts a word by how rare it is there.
    """
    if fact in WORDS:
        counts, all_counts = Counter(true), Counter(everything)
        return max(counts, key=lambda v: (counts[v] / all_counts[v], counts[v], str(v)))
    tried = np.quantile(np.asarray(true, float), np.linspace(0.05, 0.95, 91))
    near = [fact_scores(fact, Asked(true, [value] * len(true)))["score"] for value in tried]
    return float(tried[int(np.argmax(near))])


def blind_guesses(
    fact: str,
    known: Sequence[Mapping[str, Any]],
    asked: Sequence[Mapping[str, Any]],
    by_class: bool,
) -> list[Any]:
    """The best constant for each image of `asked`; with `by_class` that of its true class.

    Args:
      known, asked: facts of training and test images that have this one. Lengths are guessed as a
        share of the image: the same number of pixels in every image.
    """
    groups: dict[Any, list[Any]] = {}
    for facts in known:
        groups.setdefault(facts["category"] if by_class else None, []).append(_drawn(fact, facts))
    everything = [value for values in groups.values() for value in values]
    guess = {group: best_constant(fact, values, everything) for group, values in groups.items()}
    overall = best_constant(fact, everything, everything)
    return [
        _stated(fact, guess.get(facts["category"] if by_class else None, overall), facts)
        for facts in asked
    ]


def classical_guesses(
    fact: str,
    known: Sequence[Mapping[str, Any]],
    asked: Sequence[Mapping[str, Any]],
    rows: tuple[np.ndarray, np.ndarray],
) -> list[Any]:
    """Gradient boosting from image statistics to the fact.

    Args:
      known, asked: facts of training and test images that have this one.
      rows: their image statistics, float[n, F] each.
    """
    true = [_drawn(fact, facts) for facts in known]
    if fact in NUMBERS:
        model = HistGradientBoostingRegressor(loss="absolute_error", **_BOOSTING)
        model.fit(rows[0], np.log(np.maximum(np.asarray(true, float), 1e-3)))
        said = np.exp(model.predict(rows[1])).tolist()
    else:
        model = HistGradientBoostingClassifier(class_weight="balanced", **_BOOSTING)
        said = model.fit(rows[0], np.asarray(true)).predict(rows[1]).tolist()
    return [_stated(fact, value, facts) for value, facts in zip(said, asked, strict=True)]


def _drawn(fact: str, facts: Mapping[str, Any]) -> Any:
    return facts[fact] / facts["nm_per_pixel"] if fact in LENGTHS else facts[fact]


def _stated(fact: str, value: Any, facts: Mapping[str, Any]) -> Any:
    return value * facts["nm_per_pixel"] if fact in LENGTHS else value


def copied(stated: Sequence[float | None], given: Sequence[float]) -> Iterator[tuple[str, float]]:
    """How often a number of the prompt is repeated, and how often wrongly (by more than 1 %)."""
    said = [(s, g) for s, g in zip(stated, given, strict=True) if s is not None]
    wrong = [abs(s - g) > 0.01 * g for s, g in said]
    yield "stated", len(said) / len(given)
    yield "copied_wrongly", float(np.mean(wrong)) if wrong else 0.0
