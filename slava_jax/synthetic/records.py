"""The ground truth of a micrograph: its contents and how it was taken.

A `GroundTruth` is created by the code that draws or annotates an image and read by the procedural
teacher. Lengths are in nanometres, angles in degrees counter-clockwise from the horizontal.
"""

import dataclasses
import json

# The ten folder names of the SEM data set (Aversa et al., 2018).
CATEGORIES = (
    "Biological",
    "Fibres",
    "Films_Coated_Surface",
    "MEMS_devices_and_electrodes",
    "Nanowires",
    "Particles",
    "Patterned_surface",
    "Porous_Sponge",
    "Powder",
    "Tips",
)


@dataclasses.dataclass(frozen=True)
class SizeDistribution:
    """Sizes of the countable features, nm; `kind` is the measured quantity (e.g. 'diameter')."""

    kind: str
    mean: float
    std: float
    minimum: float
    maximum: float


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """The contents of an image. `None` means that a field does not apply to this image."""

    category: str
    # Acquisition.
    width_px: int  # of the recorded image
    nm_per_pixel: float
    magnification: int
    kv: float
    working_distance_mm: float
    detector: str  # 'SE2', 'InLens', 'ETD' or 'BSE'
    # Contents.
    feature: str  # the counted object: 'particle', 'fibre', 'wire', 'pore', 'line', 'tip', ...
    shape: str  # 'spherical', 'faceted', 'irregular', 'cylindrical', 'conical', 'rectangular' ...
    count: int | None
    size_nm: SizeDistribution | None
    spacing_nm: float | None  # mean distance between neighbouring centres, or a pattern's pitch
    order: str  # 'ordered', 'partly ordered' or 'random'
    orientation_deg: float | None  # [0, 180), for aligned features
    alignment: str | None  # 'aligned', 'partly aligned' or 'random'
    aggregation: str  # 'isolated', 'touching', 'clustered' or 'continuous'
    texture: str  # 'smooth', 'grainy' or 'rough'
    coverage: float  # fraction of the picture covered by features, 0 to 1
    composition: str  # 'uniform' or 'bright second phase'
    defects: dict[str, int]  # kind -> number, e.g. {'crack': 2}
    artefacts: tuple[str, ...]  # any of 'charging', 'shading', 'noise'

    def to_json(self) -> str:
        """Returns one line of JSON, which `from_json` turns back into an equal object."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_dict(cls, fields: dict) -> "GroundTruth":
        """Builds a record from its JSON values."""
        fields = dict(fields)
        if fields["size_nm"] is not None:
            fields["size_nm"] = SizeDistribution(**fields["size_nm"])
        fields["artefacts"] = tuple(fields["artefacts"])
        return cls(**fields)

    @classmethod
    def from_json(cls, text: str) -> "GroundTruth":
        """Parses a record written by `to_json`."""
        return cls.from_dict(json.loads(text))
