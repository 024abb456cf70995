"""Plans the requests to a teacher, about single images and groups of images."""

import base64
import dataclasses
import hashlib
import itertools
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from slava_jax.data.datasets.base import ImageSet
from slava_jax.synthetic.facts import supplement_text
from slava_jax.synthetic.phrases import readable
from slava_jax.teacher.prompt_sets import CHALLENGES, Item, Question, Shown, load_set
from slava_jax.teacher.prompt_sets import messages as rendered
from slava_jax.teacher.sources import Context, Group

KINDS = ("intra_class", "inter_class", "heterogeneity")  # the questions of challenges.toml
# A token of English has about 4 bytes; with numbers and names fewer.
_BYTES_PER_TOKEN = 3


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image in a request. `read` returns its PNG, which is not kept in memory."""

    key: str
    category: str  # the class name
    shown: Shown
    read: Callable[[], bytes]


@dataclasses.dataclass(frozen=True)
class Request:
    """Questions about one image, or one question about several, the target image last.

    Attributes:
      id: a hash of model, texts and pixels, so that answered requests are not sent again.
      guess: expected tokens of the message.
    """

    split: str
    pictures: tuple[Picture, ...]
    items: tuple[Item, ...]
    about: str
    with_images: bool
    id: str = ""
    guess: int = 0

    @property
    def keys(self) -> tuple[str, ...]:
        """The image keys."""
        return tuple(picture.key for picture in self.pictures)

    @property
    def names(self) -> list[str]:
        """The names of the questions."""
        return [item.question.name for item in self.items]

    def texts(self) -> tuple[str, str]:
        """System message and request, without the images."""
        return rendered(self.about, self.items, [picture.shown for picture in self.pictures])

    def messages(self) -> list[dict[str, Any]]:
        """The messages in the format of the API, including the images."""
        system, text = self.texts()
        content = text
        if self.with_images:
            content = [part for i in range(len(self.pictures)) for part in self._image_parts(i)]
            content.append({"type": "text", "text": text})
        return [{"role": "system", "content": system}, {"role": "user", "content": content}]

    def _image_parts(self, i: int) -> Iterator[dict[str, Any]]:
        if len(self.pictures) > 1:
            yield {"type": "text", "text": f"Image {i + 1}:"}
        data = base64.b64encode(self.pictures[i].read()).decode()
        yield {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def requests(
    settings: Mapping[str, Any],
    sets: Mapping[str, ImageSet],
    contexts: Mapping[str, Context],
    groups: Sequence[Group],
    seed: int,
) -> list[Request]:
    """All requests in order: image by image, groups last.

    Args:
      sets: split -> images. contexts: by image key.
      groups: the user's groups; groups_per_category, unless 0, limits their number for each kind
        and category of the target. Without any, that number of random groups is made.
      seed: chooses images, wordings and random groups.
    """
    plan, prompts = [], load_set(settings["prompts"])
    for split in settings["splits"]:
        for row in chosen_rows(sets[split], settings["images_per_category"], seed):
            picture = _picture(sets[split], row, contexts)
            for questions in _batches(prompts.questions, settings["questions_per_request"]):
                plan.append(_request(settings, split, (picture,), prompts.about, questions, seed))
    if groups:
        groups = _some(groups, sets, settings["groups_per_category"], seed)
    else:
        groups = [
            group
            for split in settings["splits"]
            for group in random_groups(
                sets[split], split, settings["groups_per_category"], settings["images_per_group"],
                seed,
            )
        ]  # fmt: skip
    by_kind = {question.name: question for question in load_set(CHALLENGES).questions}
    homes = {key: images for images in sets.values() for key in images.index}
    for group in groups:
        if group.split in settings["splits"]:
            pictures = tuple(
                _picture(homes[key], homes[key].index[key], contexts) for key in group.images
            )
            asked = (by_kind[group.kind],)
            plan.append(_request(settings, group.split, pictures, prompts.about, asked, seed))
    return plan


def chosen_rows(images: ImageSet, per_category: int, seed: int) -> list[int]:
    """Rows of the images to ask about; a larger number keeps the rows of a smaller one."""
    if not per_category:
        return list(range(len(images)))
    ranked = sorted(range(len(images)), key=lambda row: _digest(f"{seed}/{images.keys[row]}"))
    taken: dict[int, list[int]] = {}
    for row in ranked:
        taken.setdefault(int(images.labels[row]), []).append(row)
    return sorted(row for rows in taken.values() for row in rows[:per_category])


def random_groups(
    images: ImageSet, split: str, per_category: int, size: int, seed: int
) -> Iterator[Group]:
    """Random groups of every kind and category, regardless of similarity.

    `intra_class` and `heterogeneity` use one category (with two or more images), `inter_class`
    different ones. At most `size` images, the target image last. No group is repeated, so small
    categories have fewer.
    """
    rows: dict[int, list[int]] = {}
    for row, label in enumerate(images.labels.tolist()):
        rows.setdefault(label, []).append(row)
    for kind in KINDS:
        for label in sorted(rows):
            rng, seen = random.Random(f"{seed}/{split}/{kind}/{label}"), set()
            for _ in range(per_category):
                if kind == "inter_class":
                    others = rng.sample(sorted(rows.keys() - {label}), min(size, len(rows)) - 1)
                    drawn = [rng.choice(rows[other]) for other in (*others, label)]
                else:
                    drawn = rng.sample(rows[label], min(size, len(rows[label])))
                if len(drawn) > 1 and tuple(drawn) not in seen:
                    seen.add(tuple(drawn))
                    yield Group(tuple(images.keys[row] for row in drawn), kind, split)


def _some(
    groups: Sequence[Group], sets: Mapping[str, ImageSet], per_category: int, seed: int
) -> list[Group]:
    """At most `per_category` groups of each split, kind and category, in order; 0 for all."""
    if not per_category:
        return list(groups)
    kept: dict[tuple, list[Group]] = {}
    for group in sorted(groups, key=lambda group: _digest(f"{seed}/{group.kind}/{group.images}")):
        images = sets[group.split]
        category = int(images.labels[images.index[group.images[-1]]])
        kept.setdefault((group.split, group.kind, category), []).append(group)
    chosen = {group for many in kept.values() for group in many[:per_category]}
    return [group for group in groups if group in chosen]


def known_scale(facts: Mapping[str, Any]) -> str:
    """Pixel size and magnification of an image as text, if known."""
    return supplement_text(facts.get("nm_per_pixel"), facts.get("magnification"))


def _batches(questions: Sequence[Question], most: int) -> Iterator[Sequence[Question]]:
    """Splits into as few parts as possible, of nearly equal size."""
    parts = math.ceil(len(questions) / most)
    bounds = [round(i * len(questions) / parts) for i in range(parts + 1)]
    return (questions[a:b] for a, b in itertools.pairwise(bounds))


def _picture(images: ImageSet, row: int, contexts: Mapping[str, Context]) -> Picture:
    key = images.keys[row]
    context = contexts.get(key, Context())
    shown = Shown(
        readable(images.category(row)),
        known_scale(images.facts[row]),
        context.caption,
        context.paragraphs,
    )
    return Picture(key, images.category(row), shown, lambda: images.encoded(row))


def _request(
    settings: Mapping[str, Any],
    split: str,
    pictures: tuple[Picture, ...],
    about: str,
    questions: Sequence[Question],
    seed: int,
) -> Request:
    def wording(question: Question) -> str:
        if not question.wordings:
            return ""
        keys = "/".join(picture.key for picture in pictures)
        return random.Random(f"{seed}/{keys}/{question.name}").choice(question.wordings)

    items = tuple(Item(question, wording(question)) for question in questions)
    request = Request(split, pictures, items, about, settings["send_images"])
    texts = request.texts()
    pixels = [_digest(picture.read()) for picture in pictures] if request.with_images else []
    identity = _digest(json.dumps([settings["model"], *texts, request.keys, pixels]))
    guess = math.ceil(sum(len(text.encode()) for text in texts) / _BYTES_PER_TOKEN)
    guess += settings["image_tokens"] * len(pixels)
    return dataclasses.replace(request, id=identity[:32], guess=guess)


def _digest(data: str | bytes) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()
