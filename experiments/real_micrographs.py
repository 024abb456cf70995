"""Is what an assistant says about a real micrograph true? Nanoporous gold, with known pores.

    make real
    python -m experiments.real_micrographs --checkpoint runs/quickstart

The image of the package aquami (Zeiss, InLens, 0.543 nm per pixel) is cut into squares of three
sizes. Pores are measured in each: Otsu's threshold, then a watershed of the distance transform. The
assistant is asked for their size, number and covered area; as a control, of a plain grey square.
Writes `experiments/real_micrographs.json`. It is one image: the squares are not independent.
"""

import argparse
import json
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage import feature, filters, measure, segmentation

from slava_jax.data.bar import picture_rows
from slava_jax.eval.truth import Asked, fact_scores
from slava_jax.inference.assistant import load_assistant
from slava_jax.synthetic.claims import claims_of
from slava_jax.synthetic.groups import FACT_QUESTIONS
from slava_jax.train.workdir import environment, write_atomically

RESULT = Path(__file__).with_suffix(".json")
NM_PER_PIXEL = 0.543  # from the file's Zeiss metadata
SIDES = (690, 345, 230)  # pixels
FACTS = ("mean_size_nm", "count", "coverage")
_LEAST = 20  # pixels of a pore; smaller ones are noise of the threshold


def gold() -> np.ndarray:
    """The micrograph without its data bar, uint8[rows, columns]."""
    folder = find_spec("aquami").submodule_search_locations[0]  # without importing it
    sample = Path(folder) / "micrographs" / "Sample.tif"
    with Image.open(sample, formats=("TIFF",)) as image:
        grey = np.asarray(image.convert("L"))
    first, last = picture_rows(grey)
    return grey[first:last]


def squares(image: np.ndarray) -> list[np.ndarray]:
    """As many whole squares of each size as fit side by side."""
    return [
        image[row : row + side, column : column + side]
        for side in SIDES
        for row in range(0, image.shape[0] - side + 1, side)
        for column in range(0, image.shape[1] - side + 1, side)
    ]


def measured(square: np.ndarray) -> dict[str, float]:
    """Mean equivalent diameter in nm, number and area fraction of the pores."""
    smooth = filters.gaussian(square, 1)
    dark = smooth < filters.threshold_otsu(smooth)
    depth = ndimage.distance_transform_edt(dark)
    hearts = feature.peak_local_max(depth, min_distance=6, labels=measure.label(dark))
    seeds = np.zeros(dark.shape, int)
    seeds[tuple(hearts.T)] = np.arange(1, len(hearts) + 1)
    pores = measure.regionprops(segmentation.watershed(-depth, seeds, mask=dark))
    diameters = [pore.equivalent_diameter_area for pore in pores if pore.area >= _LEAST]
    return {
        "mean_size_nm": float(np.mean(diameters)) * NM_PER_PIXEL,
        "count": len(diameters),
        "coverage": float(dark.mean()),
    }


def asked(assistant, picture: np.ndarray, folder: Path) -> dict[str, str]:
    """What the assistant answers about each fact."""
    path = folder / "square.png"
    Image.fromarray(picture).save(path)
    questions = {facts[0]: question for _, question, facts, _ in FACT_QUESTIONS}
    return {fact: assistant.ask(path, questions[fact], pixel_size=NM_PER_PIXEL) for fact in FACTS}


def main() -> None:
    """Asks, compares and writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    checkpoint = parser.parse_args().checkpoint
    assistant = load_assistant(checkpoint)
    tiles = squares(gold())
    truths = [measured(tile) for tile in tiles]
    with tempfile.TemporaryDirectory() as folder:
        answers = [asked(assistant, tile, Path(folder)) for tile in tiles]
        grey = [asked(assistant, np.full_like(tile, 128), Path(folder)) for tile in tiles]
    scores = {}
    for fact in FACTS:
        true = [truth[fact] for truth in truths]
        for name, said in (("assistant", answers), ("grey square", grey)):
            values = [claims_of(each[fact]).get(fact) for each in said]
            scores.setdefault(fact, {})[name] = fact_scores(fact, Asked(true, values))
    rows = [
        {"side_px": len(tile), "measured": truth, "answers": said}
        for tile, truth, said in zip(tiles, truths, answers, strict=True)
    ]
    result = {"scores": scores, "squares": rows, "environment": environment()}
    write_atomically(RESULT, json.dumps(result, indent=1) + "\n")
    print(json.dumps(scores, indent=1))


if __name__ == "__main__":
    main()
