"""What does similarity sampling (section 4.4) choose? A picture to look at.

    python -m experiments.neighbours_sheet --to sheet.png      # a minute

Draws micrographs, and takes the statistics of the classical yardstick for embeddings, so that no
trained encoder is needed. One image of the test split a category is a query; the pool is the
training split.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from slava_jax.data.datasets.base import ImageSet
from slava_jax.data.datasets.procedural import Procedural
from slava_jax.data.datasets.store import image_sets
from slava_jax.data.images import encode_png, read_image
from slava_jax.data.neighbours import neighbours
from slava_jax.eval import yardstick
from slava_jax.eval.contact_sheet import contact_sheet

SIZE = 256
HEADINGS = {
    "few_shot": "most similar of the training set (few-shot)",
    "inter_class": "most similar of other categories (inter-class)",
    "intra_class": "least similar of its own category (intra-class)",
}


def statistics(images: ImageSet) -> np.ndarray:
    """float32[n, F], the yardstick's features."""
    pixels = [read_image(images.encoded(i), SIZE, 1) for i in range(len(images))]
    return yardstick.features(pixels)


def main() -> None:
    """Draw, choose, and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, required=True, help="a PNG file")
    parser.add_argument("--each", type=int, default=40, help="micrographs a category")
    parser.add_argument("--count", type=int, default=3, help="neighbours in each relation")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        sets = image_sets(Procedural(place, args.each, SIZE, args.seed))
        train, test = sets["train"], sets["test"]
        pool, queries = statistics(train), statistics(test)
        mean, spread = pool.mean(0), pool.std(0) + 1e-6
        _, rows = np.unique(test.labels, return_index=True)
        chosen = {
            heading: neighbours(
                ((queries - mean) / spread)[rows],
                (pool - mean) / spread,
                args.count,
                relation,
                test.labels[rows],
                train.labels,
                np.full(len(rows), -1),
            )
            for relation, heading in HEADINGS.items()
        }
        sheet = contact_sheet(test, rows.tolist(), train, chosen)
    args.to.write_bytes(encode_png(np.asarray(sheet)))
    few = chosen[HEADINGS["few_shot"]][0]
    right = float((train.labels[few] == test.labels[rows][:, None]).mean())
    print(json.dumps({"queries": len(rows), "pool": len(train), "few_shot_of_own_category": right}))


if __name__ == "__main__":
    main()
