"""A few tiny images with instructions, and batches of them, for the tests of the pipeline."""

import numpy as np

from slava_jax.data.assistant_batches import AssistantBatches
from slava_jax.data.assistant_data import AssistantData
from slava_jax.data.chat import TextForm, encode_examples
from slava_jax.data.datasets.base import ImageSet
from slava_jax.data.images import encode_png
from slava_jax.data.instructions import Instruction
from slava_jax.data.pipeline import Augmentation, ImageCache
from slava_jax.data.tokenizer import train_tokenizer

CLASSES = ["Fibres", "Powder", "Tips"]
IMAGES, SIZE = 24, 8
BUCKETS = [(24, 6, 1), (32, 12, 1), (64, 40, 1)]
TOKENIZER = train_tokenizer(["What is it? How many? It shows fibres, powder, tips."] * 9, 300)
FORM = TextForm("plain", 1, len(TOKENIZER), len(TOKENIZER) + 3)  # sLAVA's


def make_images(count=IMAGES):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, SIZE, SIZE), np.uint8)
    facts = [{"category": CLASSES[i % 3], "count": i} for i in range(count)]
    names = [f"k{i}" for i in range(count)]
    return ImageSet(names, np.arange(count) % 3, CLASSES, [encode_png(p) for p in pixels], facts)


def ask(name, image, question_type, answer, claims=None, **metadata):
    metadata |= {"question_type": question_type, "claims": claims or {}}
    category = CLASSES[int(image[1:]) % 3]
    question = f"<image> {question_type}?"
    return Instruction(name, (image,), question, answer, "vqa", "short", category, metadata)


def make_instructions(claims=True):
    items = []
    for i in range(IMAGES):
        key, category = f"k{i}", CLASSES[i % 3]
        class_claim = {"category": category} if claims else None
        count_claim = {"count": [i - 2, i + 2]} if claims else None
        items.append(ask(f"{i}c", key, "class", category, class_claim))
        items.append(ask(f"{i}n", key, "size", f"{i // 8} of eight", count_claim))
        items.append(ask(f"{i}w", key, "texture", "rough " * (1 + 2 * (i % 3)), None))
        items.append(ask(f"{i}d", key, "direction", "to the left", class_claim, directional=True))
    return items


def make_data(items=None, images=None, buckets=BUCKETS, cache_mb=1):
    images = images or make_images()
    cache = ImageCache(images, SIZE, 1, cache_mb)
    items = items or make_instructions()
    examples = encode_examples(items, TOKENIZER, FORM)
    return AssistantData(items, examples, images, cache, FORM, buckets)


def make_batches(data=None, **changes):
    options = {"batch_size": 8, "pair_block": 4, "seed": 1, "epochs": 3, "per_image": 2}
    options |= {"always": ("class",), "augmentation": Augmentation(shift=2)}
    return AssistantBatches(data or make_data(), **(options | changes))


def equal(first, second):
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.dtype == second[name].dtype, name
        assert np.array_equal(array, second[name]), name
