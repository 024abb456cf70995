"""The facts of a micrograph: its ground truth as numbers and as adjectives derived from them.

Answers are built only from facts, so checking an answer against an image is a comparison of facts
(`data.instructions.claims_hold`).
"""

import math

from slava_jax.synthetic.records import GroundTruth

# Exclusive upper bounds; the last adjective has none.
COVERAGE_LEVELS = ((0.3, "low"), (0.6, "moderate"), (math.inf, "high"))
UNIFORMITIES = ((0.15, "uniform"), (0.35, "varied"), (math.inf, "broad"))  # std / mean
PACKINGS = ((1.5, "dense"), (3.0, "loose"), (math.inf, "sparse"))  # spacing / mean size
ARTEFACTS = ("charging", "shading", "noise")
# Facts that the instrument reports and no pixel shows.
ACQUISITION = (
    "width_px",
    "nm_per_pixel",
    "magnification",
    "kv",
    "working_distance_mm",
    "detector",
)
DIRECTIONAL = ("direction", "orientation_deg")  # change when an image is turned or mirrored
DIRECTIONS = ("horizontal", "rising", "vertical", "falling")  # every 45 degrees, counter-clockwise

# Steps are at most a third apart, so rounding a number to one is off by less than 16 %.
_STEPS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


def facts(truth: GroundTruth) -> dict[str, str | float | int | bool]:
    """Returns the flat table of facts of one image; facts that do not apply are left out.

    Lengths are given in nm (`mean_size_nm`) and in pixels of the recorded image (`mean_size_px`);
    only the latter are visible in the picture itself.

    Raises:
      ValueError: a number in the record is out of range or a word is blank; names the field.
    """
    _check(truth)
    table = {
        "category": truth.category,
        "feature": truth.feature,
        "shape": truth.shape,
        "order": truth.order,
        "aggregation": truth.aggregation,
        "texture": truth.texture,
        "composition": truth.composition,
        "coverage": truth.coverage,
        "coverage_level": level(truth.coverage, COVERAGE_LEVELS),
        "width_px": truth.width_px,
        "nm_per_pixel": truth.nm_per_pixel,
        "magnification": truth.magnification,
        "kv": truth.kv,
        "working_distance_mm": truth.working_distance_mm,
        "detector": truth.detector,
    }
    table.update(_size_facts(truth))
    if truth.count is not None:
        table["count"] = truth.count
    if truth.alignment is not None:
        table["alignment"] = truth.alignment
    if truth.orientation_deg is not None and truth.alignment != "random":
        table["orientation_deg"] = truth.orientation_deg
        table["direction"] = direction(truth.orientation_deg)
    table.update(_flaw_facts(truth))
    return table


def _size_facts(truth: GroundTruth) -> dict[str, str | float]:
    table = {}
    size = truth.size_nm
    if size is not None:
        lengths = {"mean": size.mean, "min": size.minimum, "max": size.maximum, "std": size.std}
        for name, value in lengths.items():
            table[f"{name}_size_nm"] = value
            table[f"{name}_size_px"] = value / truth.nm_per_pixel
        table["size_kind"] = size.kind
        table["uniformity"] = level(size.std / size.mean, UNIFORMITIES)
    if truth.spacing_nm is not None:
        table["spacing_nm"] = truth.spacing_nm
        table["spacing_px"] = truth.spacing_nm / truth.nm_per_pixel
        if size is not None:
            table["packing"] = level(truth.spacing_nm / size.mean, PACKINGS)
    return table


def _flaw_facts(truth: GroundTruth) -> dict[str, str | int | bool]:
    defects = {kind: number for kind, number in truth.defects.items() if number > 0}
    table = {"has_defects": bool(defects), "total_defects": sum(defects.values())}
    for kind, number in defects.items():
        table[f"defect_{kind}"] = number
    if defects:
        table["main_defect"] = max(defects, key=lambda kind: (defects[kind], kind))
    table["has_artefacts"] = bool(truth.artefacts)
    for name in (*ARTEFACTS, *truth.artefacts):
        table[f"artefact_{name}"] = name in truth.artefacts
    return table


def supplement(truth: GroundTruth) -> str:
    """Returns pixel size and magnification as text for the prompt's supplement."""
    return supplement_text(truth.nm_per_pixel, truth.magnification)


def supplement_text(nm_per_pixel: float | None, magnification: float | None) -> str:
    """Returns the supplement for the known values, '' if both are None."""
    parts = []
    if nm_per_pixel is not None:
        parts.append(f"pixel size {length_text(round_digits(nm_per_pixel))}")
    if magnification is not None:
        parts.append(f"magnification {magnification_text(magnification)}x")
    text = ", ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def level(value: float, levels: tuple[tuple[float, str], ...]) -> str:
    """Returns the adjective of the first bound above `value`."""
    return next(word for bound, word in levels if value < bound)


def direction(degrees: float) -> str:
    """Names an angle in the image plane (counter-clockwise from horizontal), to 45 degrees."""
    return DIRECTIONS[round((degrees % 180) / 45) % 4]


def direction_under(name: str, mirrored: int, quarters: int) -> str:
    """What `direction` becomes in an image under `images.symmetric(image, mirrored, quarters)`."""
    place = DIRECTIONS.index(name)
    return DIRECTIONS[((-place if mirrored else place) + 2 * quarters) % 4]


def about(value: float) -> float:
    """Rounds to 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6 or 8 times a power of ten (nearest in log)."""
    power = 10.0 ** math.floor(math.log10(value))
    step = min(_STEPS, key=lambda s: abs(math.log(value / power / s)))
    return float(f"{step * power:.3g}")


def round_digits(value: float, digits: int = 2) -> float:
    """Rounds `value` to `digits` significant digits."""
    return float(f"{value:.{digits}g}")


def length_text(nm: float) -> str:
    """Formats a length with its unit, e.g. '40 nm' or '1.2 µm'."""
    return f"{_plain(nm)} nm" if nm < 1000 else f"{_plain(nm / 1000)} µm"


def magnification_text(magnification: float) -> str:
    """Formats two significant digits with thousands separators, e.g. '25,000'."""
    return f"{round_digits(magnification):,.0f}"


def _plain(value: float) -> str:
    return f"{round_digits(value, 3):.12g}"


_WORDS = ("category", "feature", "shape", "order", "aggregation", "texture", "composition")


def _check(truth: GroundTruth) -> None:
    positive = {
        "width_px": truth.width_px,
        "nm_per_pixel": truth.nm_per_pixel,
        "magnification": truth.magnification,
    }
    if truth.size_nm is not None:
        positive["size_nm.mean"] = truth.size_nm.mean
        for name in ("std", "minimum", "maximum"):
            value = getattr(truth.size_nm, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"size_nm.{name} must be 0 or more, is {value}")
    if truth.spacing_nm is not None:
        positive["spacing_nm"] = truth.spacing_nm
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be above 0, is {value}")
    if not 0 <= truth.coverage <= 1:
        raise ValueError(f"coverage must be between 0 and 1, is {truth.coverage}")
    for name in _WORDS:
        if not getattr(truth, name).replace("_", " ").strip():
            raise ValueError(f"{name} must not be blank, is {getattr(truth, name)!r}")
