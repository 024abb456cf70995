"""Instructions about several similar images (section 4.4, Figures 5 to 8).

The target image comes last, after images of the training split. Few-shot classification only needs
their labels. The three challenges compare the ground truth of the images; an answer's claims are
about the target, the image that a mismatched pair replaces.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from slava_jax.data.datasets.base import DataError, ImageSet
from slava_jax.data.instructions import IMAGE_TOKEN, STYLES, Instruction
from slava_jax.data.neighbours import available, neighbours
from slava_jax.synthetic.facts import supplement_text
from slava_jax.synthetic.groups import CLASS_QUESTIONS
from slava_jax.synthetic.phrases import Writer
from slava_jax.teacher.procedural import DETAIL_REQUEST, class_answer

FEW_SHOT = "few_shot"
PERMUTED = "few_shot_permuted"  # control: every example has the name of another class
CHALLENGES = ("intra_class", "inter_class", "heterogeneity")
# Fraction of training prompts with permuted class names, among those in which an example shows the
# target's class; the answer is the permuted name. Without them, a model that recognizes the classes
# would not learn to read the names. With more of them, names that contradict the image would nearly
# always be right, and the model would ignore the image when no example shows its class (an eighth
# of the prompts).
_RENAMED = 1 / 12
_TRAINED_NUMBERS = 2  # numbers of examples per training image
# Fraction of 'inter_class' training prompts with the companions of some other image. The nearest
# images of other classes reveal the target's class nearly as well as the target itself, so the
# model would ignore the target. These companions are also similar to each other, so that the two
# cases cannot be told apart.
_SWAPPED = 1 / 2
OTHERS = 2  # images before the target of a challenge
MOST_SHOTS = 8


def setting_problems(data: Mapping) -> Iterator[str]:
    """Problems with the settings for questions about several images."""
    if not all(type(n) is int and 1 <= n <= MOST_SHOTS for n in data["shots"]):
        yield f"shots: must be whole numbers in 1..{MOST_SHOTS}, is {data['shots']!r}"
    if not all(kind in CHALLENGES for kind in data["challenges"]):
        yield f"challenges: must be some of {', '.join(CHALLENGES)}"


_QUESTIONS = {
    "intra_class": (
        "These images are of one class. Which is it, and what is different in the last one?",
        "All of these show one class of material. What do they show, and how does the last differ?",
    ),
    "inter_class": (
        "These images look alike, but their classes differ. What tells the last one apart?",
        "The images are similar and of different classes. What does the last one show?",
    ),
    "heterogeneity": (
        "How do size and arrangement vary within these images?",
        "How heterogeneous are the features in these images?",
    ),
}


def multi_image_instructions(
    images: ImageSet,
    pool: ImageSet,
    embeddings: tuple[np.ndarray, np.ndarray],
    shots: Sequence[int],
    challenges: Sequence[str],
    seed: int,
    question: str = "",
    tested: bool = False,
) -> list[Instruction]:
    """Instructions about each image of a split together with similar training images.

    Args:
      images: the split. pool: the training split, which may be the same set.
      embeddings: float32[n, D] of the split and of the pool.
      shots: numbers of few-shot examples; each image gets two of them.
      challenges: of `CHALLENGES`. Skips images without companions in the pool or without ground
        truth.
      seed: chooses the wording, the numbers of examples, and the permutation of names.
      question: the classification question; '' for the teacher's wordings.
      tested: for the test split. Every image gets the short and the detailed answer to each
        challenge instead of one of them, all numbers of examples, and for each number the control
        with permuted names (`PERMUTED`), whose answer is still the true name. Never train or select
        a model on these; training prompts have their own renaming (`_RENAMED`).

    Raises:
      DataError: embeddings of the wrong shape, or fewer training images than examples.
    """
    company = _Company(images, pool, embeddings)
    items = []
    if shots:
        items += _few_shot_items(images, pool, company, shots, seed, question, tested)
    for kind in challenges:
        items += _challenge_items(kind, images, pool, company, seed, tested)
    return items


def similar_groups(
    images: ImageSet,
    pool: ImageSet,
    embeddings: tuple[np.ndarray, np.ndarray],
    kinds: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """Groups of similar images for an API teacher, in the format of `teacher.groups`.

    Args:
      images, pool, embeddings: as in `multi_image_instructions`. kinds: of `CHALLENGES`. Skips
        images without companions in the pool.

    Yields:
      {"images": [keys, the target last], "kind": one of `kinds`}, one for each image and kind.
    """
    company = _Company(images, pool, embeddings)
    for kind in kinds:
        found = company.of(_relation(kind), OTHERS, np.arange(len(images)))
        for row, others in found.items():
            keys = [*(pool.keys[i] for i in others), images.keys[row]]
            yield {"images": keys, "kind": kind}


class _Company:
    """Chooses the images of the pool that accompany those of a split."""

    def __init__(self, images, pool, embeddings):
        self._images, self._pool = images, pool
        # The row of each image in the pool, -1 if it is not in it.
        self._own_rows = np.arange(len(images)) if images is pool else np.full(len(images), -1)
        self._queries, self._embedded = embeddings

    def of(self, relation: str, count: int, rows: np.ndarray, among=None) -> dict[int, list[int]]:
        """{row of the split: `count` rows of the pool}, for those of `rows` with enough companions.

        `among`: eligible rows of the pool.
        """
        among = np.arange(len(self._pool)) if among is None else among
        place = {row: i for i, row in enumerate(among.tolist())}
        own_rows = np.asarray([place.get(i, -1) for i in self._own_rows[rows].tolist()], int)
        labels = self._images.labels[rows], self._pool.labels[among]
        if relation != FEW_SHOT:
            enough = available(relation, *labels, own_rows) >= count
            rows, own_rows = rows[enough], own_rows[enough]
            labels = self._images.labels[rows], labels[1]
        if not len(rows):
            return {}
        found, _ = neighbours(
            self._queries[rows], self._embedded[among], count, relation, *labels, own_rows
        )
        return dict(zip(rows.tolist(), among[found].tolist(), strict=True))


def _few_shot_items(images, pool, company, shots, seed, question, tested) -> list[Instruction]:
    room = len(pool) - (images is pool)
    if room < max(shots):
        raise DataError(
            f"data.shots: {max(shots)} examples, but only {room} training images; use fewer"
        )
    names = [class_answer(name) for name in pool.class_names]
    turned = _derangement(names, f"{seed}/{PERMUTED}")
    nearest = company.of(FEW_SHOT, max(shots), np.arange(len(images)))
    items = []
    for row, key in enumerate(images.keys):
        rng, label = random.Random(f"{seed}/{key}/{FEW_SHOT}"), images.labels[row]
        asked = question or rng.choice(CLASS_QUESTIONS)
        few = min(_TRAINED_NUMBERS, len(shots))
        for count in shots if tested else rng.sample(list(shots), few):
            # The most similar example is next to the target.
            rows = nearest[row][:count][::-1]
            prompts = [(FEW_SHOT, names, names[label])]
            if tested:
                prompts.append((PERMUTED, turned, names[label]))
            elif label in pool.labels[rows] and rng.random() < _RENAMED:
                own = _derangement(names, f"{seed}/{key}/{count}")
                prompts = [(FEW_SHOT, own, own[label])]
            for kind, called, answer in prompts:
                examples = [(pool.keys[i], called[pool.labels[i]]) for i in rows]
                items.append(_few_shot(kind, images, row, examples, asked, answer))
    return items


def _derangement(names: Sequence[str], seed: str) -> list[str]:
    """A random cyclic permutation of the names, in which none keeps its place."""
    circle = list(range(len(names)))
    random.Random(seed).shuffle(circle)
    after = dict(zip(circle, circle[1:] + circle[:1], strict=True))
    return [names[after[i]] for i in range(len(names))]


def _few_shot(
    kind: str, images: ImageSet, row: int, examples, asked: str, answer: str
) -> Instruction:
    """Figure 5: images with their labels, then the target."""
    shown = "".join(f"{IMAGE_TOKEN} shows {name}. " for _, name in examples)
    metadata = {
        "question_type": kind,
        "shots": len(examples),
        "claims": {"category": images.category(row)},
        "supplement": _scale(images.facts[row]),
    }
    return Instruction(
        id=f"{images.keys[row]}/{kind}/{len(examples)}",
        images=(*(key for key, _ in examples), images.keys[row]),
        question=f"{shown}{IMAGE_TOKEN} {asked}",
        answer=answer,
        task="classification",
        style="short",
        category=images.category(row),
        metadata=metadata,
    )


def _challenge_items(kind, images, pool, company, seed, tested) -> list[Instruction]:
    rows, among = (
        np.flatnonzero([_can_tell(kind, *known) for known in zip(s.records, s.facts, strict=True)])
        for s in (images, pool)
    )
    if not len(rows) or not len(among):
        return []
    items = []
    found = company.of(_relation(kind), OTHERS, rows, among)
    companies = list(found.values())
    for row, others in found.items():
        key, facts = images.keys[row], images.facts[row]
        choices = random.Random(f"{seed}/{key}/{kind}")
        asked = choices.choice(_QUESTIONS[kind])
        if kind == "inter_class" and not tested and choices.random() < _SWAPPED:
            others = _without_class(images.labels[row], companies, pool, choices)
        keys = (*(pool.keys[i] for i in others), key)
        known = [pool.facts[i] for i in others]
        for style in STYLES if tested else [choices.choice(STYLES)]:
            rng = random.Random(f"{seed}/{key}/{kind}/{style}")
            writer = Writer(facts, rng)
            answer = _ANSWERS[kind, style](writer, [Writer(table, rng) for table in known])
            detail = f" {DETAIL_REQUEST}" if style == "detailed" else ""
            items.append(
                Instruction(
                    id=f"{key}/{kind}/{style}",
                    images=keys,
                    question=f"{f'{IMAGE_TOKEN} ' * len(keys)}{asked}{detail}",
                    answer=answer,
                    task="vqa",
                    style=style,
                    category=images.category(row),
                    metadata=writer.metadata(kind, _scale(facts)),
                )
            )
    return items


def _without_class(label: int, companies: list[list[int]], pool, rng) -> list[int]:
    """A random group of companions without this class; there must be one."""
    while True:
        company = rng.choice(companies)
        if label not in pool.labels[company]:
            return company


def _relation(kind: str) -> str:
    """The relation for choosing the companions of a challenge; see data/neighbours.py."""
    return "inter_class" if kind == "inter_class" else "intra_class"


def _scale(facts: Mapping[str, Any]) -> str:
    """The supplement: pixel size and magnification of the target, if known."""
    return supplement_text(facts.get("nm_per_pixel"), facts.get("magnification"))


def _can_tell(kind: str, record: dict | None, facts: Mapping[str, Any]) -> bool:
    """Whether an image has a record and, for heterogeneity, a distribution of sizes."""
    if record is None:
        return False
    return kind != "heterogeneity" or ("uniformity" in facts and facts.get("count") != 1)


def _look(w: Writer) -> str:
    """'rough, faceted grains' or 'a rough, conical tip'."""
    return w.some("texture", "shape")


def _arranged(w: Writer) -> str:
    return "" if w.single else f" that are {w.say('order')}"


def _intra_short(w: Writer, others: Sequence[Writer]) -> str:
    return (
        f"They show {w.material()}. The last one has {_look(w)}{_arranged(w)}, "
        f"the first {_look(others[0])}{_arranged(others[0])}."
    )


def _intra_detailed(w: Writer, others: Sequence[Writer]) -> str:
    size = f", {w.size()}" if w.has("mean_size_nm") else ""
    parts = [f"All images show {w.material()}. The last one has {_look(w)}{size}."]
    parts.append(f"{w.the} {w.verb('cover')} {w.coverage()} of it.")
    for word, other in zip(("first", "second"), others, strict=True):
        parts.append(f"The {word} has {_look(other)} and {other.say('coverage_level')} coverage.")
    return " ".join(parts)


def _inter_short(w: Writer, others: Sequence[Writer]) -> str:
    order = "" if w.single else f", {w.say('order')}"
    return f"It is {w.material()}: {_look(w)} that {w.aggregation()}{order}."


def _inter_detailed(w: Writer, others: Sequence[Writer]) -> str:
    size = f", {w.size()}" if w.has("mean_size_nm") else ""
    unlike = " and ".join(dict.fromkeys(other.material() for other in others))
    return (
        f"Unlike {unlike}, it is {w.material()}: {_look(w)}{size}, that {w.aggregation()} and "
        f"{w.verb('cover')} {w.coverage()} of it."
    )


def _variety_short(w: Writer, others: Sequence[Writer]) -> str:
    return (
        f"{_capital(_look(w))}, {w.say('uniformity')} and {w.say('order')}; "
        f"in the first {others[0].say('uniformity')}."
    )


def _variety_detailed(w: Writer, others: Sequence[Writer]) -> str:
    first, second = (other.say("uniformity") for other in others)
    return (
        f"{_capital(_look(w))}, {w.say('uniformity')}, {w.length('mean_size')} on average. They "
        f"{w.aggregation()}, {w.are} {w.say('order')} and {w.verb('cover')} {w.coverage()} of the "
        f"last image. In the first they are {first}, in the second {second}."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


_ANSWERS = {
    ("intra_class", "short"): _intra_short,
    ("intra_class", "detailed"): _intra_detailed,
    ("inter_class", "short"): _inter_short,
    ("inter_class", "detailed"): _inter_detailed,
    ("heterogeneity", "short"): _variety_short,
    ("heterogeneity", "detailed"): _variety_detailed,
}
