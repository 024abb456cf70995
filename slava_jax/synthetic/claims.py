"""Reads an answer's claims back from its text: the inverse of phrases.Writer.

Reading goes by the wording of `answers` and `phrases`, wherever it stands, so that the sentences
of a model are read as well as those of the teacher. What an answer does not say is left out.
"""

import re
from collections.abc import Callable

from slava_jax.synthetic.phrases import MATERIALS

_NUMBER = r"(\d[\d,]*(?:\.\d+)?)"
_LENGTH = rf"about {_NUMBER} (nm|µm)"
_NM = {"nm": 1.0, "µm": 1000.0}
_VISIBLE = r"(?:shows?|visible) ((?:(?:charging|drift|shading|noise)(?:, | and )?)+)"


def _nm(match: re.Match) -> float:
    return _number(match) * _NM[match[2]]


def _number(match: re.Match) -> float:
    return float(match[1].replace(",", ""))


def _count(match: re.Match) -> int:
    words = {"no": 0, "a single": 1}
    return words[match[1]] if match[1] in words else int(float(match[2].replace(",", "")))


# Fact -> (pattern, how to read the match) in order of preference; the first that is found counts.
_NUMBERS: dict[str, tuple[tuple[str, Callable[[re.Match], float]], ...]] = {
    "mean_size_nm": ((rf"{_LENGTH} in \w", _nm),),
    "spacing_nm": (
        (rf"from one to the next is {_LENGTH}", _nm),
        (rf"{_LENGTH} from one to the next", _nm),
    ),
    "count": (
        (rf"(?:^The image shows|One can count) (no|a single|(?:about )?{_NUMBER})\b", _count),
    ),
    "coverage": (
        (r"about (\d+) percent", lambda match: int(match[1]) / 100),
        (r"less than 5 percent", lambda match: 0.025),  # the middle of what it leaves open
    ),
    "magnification": ((rf"magnified {_NUMBER} times", _number),),
    "nm_per_pixel": ((rf"pixel of the image corresponds to {_NUMBER} (nm|µm)", _nm),),
}
# Fact -> value -> pattern.
_WORDS: dict[str, dict[str | bool, str]] = {
    "category": {name: rf"\b{phrase}\b" for name, phrase in MATERIALS.items()},
    "coverage_level": {
        "low": r"\blow\b",
        "moderate": r"\bmoderate\b",
        "high": r"\bhigh\b",
    },
    "uniformity": {
        "uniform": "uniform in size",
        "varied": "varied in size",
        "broad": "of very different sizes",
    },
    "packing": {"dense": "densely packed", "loose": "loosely packed", "sparse": "far apart"},
    "order": {
        "partly ordered": "partly ordered",
        "ordered": r"\bordered",
        "random": "randomly arranged",
    },
    "alignment": {
        "partly aligned": "partly aligned",
        "aligned": r"\baligned\b",
        "random": "randomly oriented",
    },
    "direction": {
        "horizontal": r"\bhorizontal\b",
        "vertical": r"\bvertical\b",
        "rising": "rising to the right",
        "falling": "falling to the right",
    },
    "aggregation": {
        "isolated": r"\bisolated\b",
        "touching": r"\btouch(es)?\b",
        "clustered": r"\bclusters?\b",
        "continuous": r"\bcontinuous\b",
    },
    "texture": {"smooth": r"\bsmooth\b", "grainy": r"\bgrainy\b", "rough": r"\brough\b"},
    "composition": {
        "uniform": r"\bhomogeneous\b",
        "bright second phase": "bright second phase",
    },
    "has_defects": {
        False: r"without visible defects|free of defects|[Nn]o (visible )?defects",
        True: r"^Yes, the image shows|In addition, .* can be seen|^The surface is \S+ and shows",
    },
    "has_artefacts": {
        False: r"without visible artefacts|shows no artefacts",
        True: _VISIBLE,
    },
    "artefact_charging": {
        False: r"free of charging",
        True: r"charging is visible",
    },
}


def claims_of(answer: str) -> dict[str, str | float | bool]:
    """What an answer in the teacher's words says: fact name (facts.facts) -> value.

    Lengths are in nm. A number that was said with 'about' is the number that was said. If an
    answer contradicts itself, its first value counts.
    """
    claims: dict[str, str | float | bool] = {}
    for name, forms in _NUMBERS.items():
        for pattern, read in forms:
            if match := re.search(pattern, answer):
                claims[name] = read(match)
                break
    for name, values in _WORDS.items():
        found = {v: match.start() for v, p in values.items() if (match := re.search(p, answer))}
        if found:
            claims[name] = min(found, key=found.__getitem__)  # dict order among equals
    if match := re.search(_VISIBLE, answer):
        for artefact in re.findall(r"\w+", match[1].replace(" and ", " ")):
            claims[f"artefact_{artefact}"] = True
    return claims
