"""The metrics of a run that belong to each table of the paper, by their names in metrics.json.

A score is the prefix, a dot and a column's name: `vqa.rougeL`. There are also the number of
examples (`vqa.n`) and, for texts, the standard deviation over them (`vqa.rougeL_std`).
"""

import dataclasses

from slava_jax.eval.targets import Target
from slava_jax.eval.text_metrics import SCORE_NAMES

# Prefixes. Suffixes name the controls: `_shuffled` shows an image of another category; `_blind`
# answers from the training answers, without an image (eval/blind.py); `_permuted` permutes the
# labels of the examples; `_majority` answers the most common label of the examples; `_zero_shot`
# uses the same images without examples.
CAPTION, VQA = "caption", "vqa"
SHOTS = 4  # examples of the few-shot rows; one of data.shots in configs/tables.py
ZERO_SHOT, FEW_SHOT = "classification", f"classification_few_shot_{SHOTS}"
INTRA_CLASS, INTER_CLASS, HETEROGENEITY = "intra_class", "inter_class", "heterogeneity"


@dataclasses.dataclass(frozen=True)
class Ours:
    """One of our rows.

    Attributes:
      label: the method.
      prefix: of its metrics.
      columns: number of the table's columns it fills, from the first.
      always: False if the row is omitted for runs without its metrics.
      truth: the share of its statements that are true, '' if that is not measured.
    """

    label: str
    prefix: str
    columns: int = 6
    always: bool = True
    truth: str = ""


@dataclasses.dataclass(frozen=True)
class Spec:
    """Our part of one table.

    Attributes:
      names: a metric's name for each column; for Table 9 without the class suffix.
      ours: our rows, the claimed ones before the controls.
      claims: the paper's conclusions from the table, as tests of our numbers.
      needs: settings a run needs to measure these metrics.
      layout: 'methods' (a row per method), 'classes' (a row per class and method), or 'data' (a
        column per data set).
      note: further remarks, '' for none.
      true: what the share of true statements is of, '' if no row has one.
    """

    names: tuple[str, ...]
    ours: tuple[Ours, ...]
    claims: tuple[Target, ...]
    needs: str
    layout: str = "methods"
    note: str = ""
    true: str = ""


def _texts(task: str, asked: str, truth: str = "", true: str = "") -> Spec:
    """Text answers with the right image, with a mismatched one, and without any.

    `truth`: prefix of the share of true statements, '' if it is not measured; `true`: as in Spec.
    """
    controls = {
        f"{task}_shuffled": "an image of another category",
        f"{task}_blind": "no image",
    }
    looks = tuple(
        Target(f"ROUGE-L, gain over {what}", f"{task}.rougeL", 0.10, minus=f"{prefix}.rougeL")
        for prefix, what in controls.items()
    )
    ours = tuple(
        Ours(label, f"{task}{control}", truth=truth and f"{truth}{control}.right")
        for label, control in (
            ("slava_jax", ""),
            ("– image of another category", "_shuffled"),
            ("no image: most common training answer", "_blind"),
        )
    )
    needs = f"{asked} in its instructions and its evaluation"
    return Spec(SCORE_NAMES, ours, looks, needs, true=true)


_NEEDS_CLASSES = "the class questions with and without examples in its evaluation"
_CLASSIFIERS = (
    Ours("slava_jax, zero-shot", ZERO_SHOT),
    Ours("slava_jax, few-shot", FEW_SHOT),
    Ours("– few-shot, labels of the examples permuted", f"{FEW_SHOT}_permuted", 1),
    Ours("– few-shot, most common label of the examples", f"{FEW_SHOT}_majority", 1),
    Ours("– zero-shot, image of another category", f"{ZERO_SHOT}_shuffled"),
    Ours("the vision classifier alone", f"{ZERO_SHOT}_vit", always=False),  # not if pretrained
    Ours("logistic regression on image statistics", f"{ZERO_SHOT}_classical"),
)
_SHOTS_HELP = tuple(
    Target(
        f"Few-shot top-1, gain over {what}",
        f"{FEW_SHOT}.top1",
        0.001,
        minus=f"{FEW_SHOT}{control}.top1",
    )
    for what, control in (
        ("zero-shot", "_zero_shot"),  # of the same images
        ("the most common label of the examples", "_majority"),
        ("permuted labels", "_permuted"),
    )
)
# {subtrahend of a claim: the standard error of that difference, paired by image}
PAIRED_ERRORS = {
    f"{FEW_SHOT}{control}.top1": f"{FEW_SHOT}.minus{control}_error"
    for control in ("_zero_shot", "_majority", "_permuted")
}
_CLASSIFICATION = Spec(("top1", "top5"), _CLASSIFIERS, _SHOTS_HELP, _NEEDS_CLASSES)
_UNKNOWN_SHOTS = "The paper does not state whether its prompts contained examples."
_CLASSES = Spec(
    ("precision", "recall", "f1"),
    _CLASSIFIERS[:2],
    (),
    _NEEDS_CLASSES,
    "classes",
    _UNKNOWN_SHOTS,
)
_DATA_SETS = Spec(("top1",), _CLASSIFIERS, _SHOTS_HELP[:1], _NEEDS_CLASSES, "data", _UNKNOWN_SHOTS)

_QUESTIONS = _texts(
    VQA, "questions of the task 'vqa'", "truth", "answers to questions about single facts"
)

SPECS: dict[int, Spec] = {
    1: _texts(CAPTION, "captions", "truth_captions", "statements in captions"),
    3: _QUESTIONS,
    4: _texts(INTRA_CLASS, "intra-class questions"),
    5: _texts(INTER_CLASS, "inter-class questions"),
    6: _texts(HETEROGENEITY, "questions on heterogeneity"),
    7: _CLASSIFICATION,
    8: _CLASSIFICATION,
    9: _CLASSES,
    21: _QUESTIONS,
    22: _DATA_SETS,
}

# The overview: (table, quantity, our metric, the paper's row, its column).
HEADLINES = (
    (1, "captions, ROUGE-L", f"{CAPTION}.rougeL", "sLAVA", "ROUGE-L"),
    (3, "VQA, ROUGE-L", f"{VQA}.rougeL", "sLAVA", "ROUGE-L"),
    (4, "intra-class VQA, ROUGE-L", f"{INTRA_CLASS}.rougeL", "sLAVA", "ROUGE-L"),
    (5, "inter-class VQA, ROUGE-L", f"{INTER_CLASS}.rougeL", "sLAVA", "ROUGE-L"),
    (6, "heterogeneity VQA, ROUGE-L", f"{HETEROGENEITY}.rougeL", "sLAVA", "ROUGE-L"),
    (7, "zero-shot top-1", f"{ZERO_SHOT}.top1", "zero-shot", "Top-1"),
    (7, "few-shot top-1", f"{FEW_SHOT}.top1", "few-shot", "Top-1"),
)
