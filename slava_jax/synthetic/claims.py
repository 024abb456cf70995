"""Reads an answer's claims back from its text: the inverse of phrases.Writer.

Reading goes by the wording of `answers` and `phrases`, wherever it stands, so that the sentences
of a model are read as well as those of the teacher. A fact that an answer does not state, denies,
or states in two ways is left out.
"""

import re
from collections.abc import Callable

from slava_jax.synthetic.phrases import MATERIALS

_NUMBER = r"(\d{1,3}(?:,\d{3}){1,3}|\d{1,7}(?:\.\d{1,6})?)"
_LENGTH = rf"about {_NUMBER} ?(nm|[uµμ]m)"
_VISIBLE = r"(?:shows?|visible) ((?:(?:charging|shading|noise)(?:, | and )?)+)"
_ARTEFACT = r"(?:charging|shading|noise)"
# A word within three words behind one of these is denied.
_DENIAL = re.compile(
    r"(?:\b(?:not|no|neither|nor|without|never)\b|n't\b|\brather than\b)(?:\W+\w+){0,2}\W+$", re.I
)
_LONGEST = 4000  # characters of an answer that are read; no assistant writes more
_NO_FEATURE = r"(?!visible|defects?\b|artefacts?\b|signs?\b|charging|shading|noise)"


def _nm(match: re.Match) -> float:
    return _number(match) * (1.0 if match[2] == "nm" else 1000.0)


def _number(match: re.Match) -> float:
    return float(match[1].replace(",", ""))


def _count(match: re.Match) -> int:
    words = {"no": 0, "a single": 1}
    return words[match[1]] if match[1] in words else int(float(match[2].replace(",", "")))


# Fact -> (pattern, how to read the match).
_NUMBERS: dict[str, tuple[tuple[str, Callable[[re.Match], float]], ...]] = {
    "mean_size_nm": ((rf"{_LENGTH} in (?!spacing|the\b|total)\w", _nm),),
    "spacing_nm": (
        (rf"from one to the next is {_LENGTH}", _nm),
        (rf"{_LENGTH} from one to the next", _nm),
    ),
    "count": (
        (
            rf"(?:^The image shows|One can count) (no|a single|(?:about )?{_NUMBER}) {_NO_FEATURE}",
            _count,
        ),
    ),
    "coverage": (
        (r"about (\d{1,3}) ?(?:percent|%)", lambda match: int(match[1]) / 100),
        # The middle of what it leaves open.
        (r"less than 5 ?(?:percent|%)", lambda match: 0.025),
    ),
    "magnification": ((rf"magnified {_NUMBER} times", _number),),
    "nm_per_pixel": ((rf"pixel of the image corresponds to {_NUMBER} (nm|[uµμ]m)", _nm),),
}
# Fact -> pattern -> value. Longer patterns stand before those that they contain.
_WORDS: dict[str, dict[str, str | bool]] = {
    "category": {rf"\b{phrase}\b": name for name, phrase in MATERIALS.items()},
    "coverage_level": {r"\blow\b": "low", r"\bmoderate\b": "moderate", r"\bhigh\b": "high"},
    "uniformity": {
        "uniform in size": "uniform",
        "varied in size": "varied",
        "of very different sizes": "broad",
    },
    "packing": {"densely packed": "dense", "loosely packed": "loose", "far apart": "sparse"},
    "order": {
        "partly ordered": "partly ordered",
        r"\bordered": "ordered",
        "randomly arranged": "random",
    },
    "alignment": {
        "partly aligned": "partly aligned",
        r"(?<!randomly )\baligned\b": "aligned",
        "randomly oriented": "random",
    },
    "direction": {
        r"\bhorizontal\b": "horizontal",
        r"\bvertical\b": "vertical",
        "rising to the right": "rising",
        "falling to the right": "falling",
    },
    "aggregation": {
        r"\bisolated\b": "isolated",
        r"\btouch(es)?\b": "touching",
        r"\bclusters?\b": "clustered",
        r"\bcontinuous\b": "continuous",
    },
    "texture": {r"\bsmooth\b": "smooth", r"\bgrainy\b": "grainy", r"\brough\b": "rough"},
    "composition": {r"\bhomogeneous\b": "uniform", "bright second phase": "bright second phase"},
}
# Fact -> (what denies it, what states it); what is denied is not stated.
_FLAWS = {
    "has_defects": (
        r"without visible defects|free of defects|\bno (?:visible )?defects|\bno cracks",
        rf"^Yes, the image shows (?!no\b|{_ARTEFACT})|In addition, .* can be seen"
        rf"|^The surface is \S+ and shows (?!{_ARTEFACT})",
    ),
    "has_artefacts": (r"without visible artefacts|shows? no artefacts", _VISIBLE),
    "artefact_charging": (
        r"free of charging|\bno (?:\w+ )?charging|charging is not",
        r"charging is visible",
    ),
}
# What an answer that begins with yes or no says of a fact; any other value contradicts itself.
_YES = {
    "alignment": ("aligned",),
    "texture": ("rough",),
    "composition": ("bright second phase",),
    "aggregation": ("touching", "clustered", "continuous"),
    "coverage_level": ("low",),
    "has_defects": (True,),
    "artefact_charging": (True,),
}


def claims_of(answer: str) -> dict[str, str | float | bool]:
    """What an answer in the teacher's words says: fact name (facts.facts) -> value.

    Lengths are in nm. A number that was said with 'about' is the number that was said. Only the
    first 4000 characters are read.
    """
    answer = answer[:_LONGEST]
    claims: dict[str, str | float | bool] = {}
    for name, forms in _NUMBERS.items():
        said = {read(match) for pattern, read in forms for match in re.finditer(pattern, answer)}
        if len(said) == 1:
            claims[name] = said.pop()
    for name, patterns in _WORDS.items():
        said = _words_said(patterns, answer)
        if len(said) == 1:
            claims[name] = said.pop()
    for name, (denied, stated) in _FLAWS.items():
        if re.search(denied, answer, re.I):
            claims[name] = False
        elif re.search(stated, answer):
            claims[name] = True
    if (match := re.search(_VISIBLE, answer)) and not _denied(answer, match.start(1)):
        for artefact in re.findall(_ARTEFACT, match[1]):
            claims.setdefault(f"artefact_{artefact}", True)
    return {name: value for name, value in claims.items() if not _contradicts(answer, name, value)}


def _words_said(patterns: dict[str, str | bool], answer: str) -> set[str | bool]:
    """The values whose words occur in the answer and are not denied there."""
    said, left = set(), answer
    for pattern, value in patterns.items():
        for match in re.finditer(pattern, left):
            if not _denied(left, match.start()):
                said.add(value)
        left = re.sub(pattern, lambda match: "_" * len(match[0]), left)
    return said


def _denied(answer: str, start: int) -> bool:
    """Whether a denial stands before this place, in the same clause."""
    clause = re.split(r"[.;,:]", answer[:start])[-1]
    return _DENIAL.search(f"{clause}") is not None


def _contradicts(answer: str, name: str, value: str | float | bool) -> bool:
    begins = re.match(r"(Yes|No)\b", answer)
    if begins is None or name not in _YES:
        return False
    return (begins[1] == "Yes") != (value in _YES[name])
