"""Turns facts into words; the writer records everything it says as a claim."""

import random
from collections.abc import Callable, Mapping
from typing import Any

from slava_jax.synthetic import facts as fact_rules

# Replacements for values that read badly; all other values are used unchanged.
TERMS = {
    ("uniformity", "uniform"): "uniform in size",
    ("uniformity", "varied"): "varied in size",
    ("uniformity", "broad"): "of very different sizes",
    ("packing", "dense"): "densely packed",
    ("packing", "loose"): "loosely packed",
    ("packing", "sparse"): "far apart",
    ("order", "random"): "randomly arranged",
    ("alignment", "random"): "randomly oriented",
    ("direction", "rising"): "rising to the right",
    ("direction", "falling"): "falling to the right",
    ("shape", "flake"): "flake-like",
    ("shape", "ridge"): "ridge-like",
    ("composition", "uniform"): "homogeneous",
    ("composition", "bright second phase"): "mixed, with a bright second phase",
}

MATERIALS = {
    "Biological": "a biological sample",
    "Fibres": "a fibrous material",
    "Films_Coated_Surface": "a coated film",
    "MEMS_devices_and_electrodes": "a MEMS device",
    "Nanowires": "a nanowire sample",
    "Particles": "a particle sample",
    "Patterned_surface": "a patterned surface",
    "Porous_Sponge": "a porous sponge",
    "Powder": "a powder",
    "Tips": "a sharp tip sample",
}

# Function and applications of each class of material: general knowledge, the same for every image
# of the class.
FUNCTIONS = {
    "Biological": "keep the organism alive",
    "Fibres": "carry load along their length",
    "Films_Coated_Surface": "protect the material below",
    "MEMS_devices_and_electrodes": "move or carry current",
    "Nanowires": "conduct current along their length",
    "Particles": "offer an active surface",
    "Patterned_surface": "steer light or liquid",
    "Porous_Sponge": "let fluid pass through",
    "Powder": "react over a large surface",
    "Tips": "probe a surface at the apex",
}
APPLICATIONS = {
    "Biological": ("medical research", "drug tests", "biomaterials"),
    "Fibres": ("filters", "textiles", "composites"),
    "Films_Coated_Surface": ("protective coatings", "optical layers", "mirrors"),
    "MEMS_devices_and_electrodes": ("motion sensors", "switches", "microchips"),
    "Nanowires": ("gas sensors", "nanoelectronics", "light emitters"),
    "Particles": ("catalysts", "drug delivery", "inks"),
    "Patterned_surface": ("photonics", "lithography", "microfluidics"),
    "Porous_Sponge": ("membranes", "thermal insulation", "battery electrodes"),
    "Powder": ("sintering", "ceramics", "pigments"),
    "Tips": ("probe microscopy", "field emission", "nanoindentation"),
}
# How features are grouped, in the plural and in the singular.
AGGREGATIONS = {
    "isolated": ("are isolated from each other", "stands isolated"),
    "touching": ("touch each other", "touches what is around it"),
    "clustered": ("form clusters", "belongs to a cluster"),
    "continuous": ("merge into a continuous layer", "is continuous"),
}
_UNCOUNTABLE = ("debris", "dust", "contamination", "residue", "delamination", "corrosion")
_PLURALS = {"hypha": "hyphae", "stoma": "stomata"}
_EXACT_COUNT = 6  # counts up to this number are given exactly

_UNLIMITED = 1e12


class Writer:
    """Puts facts into words and records what the words assert.

    Attributes:
      claims: fact name -> value or [lo, hi], the statements about the material.
      seen_claims: the same as visible in a picture of known pixel size: lengths in pixels, and
        nothing that the prompt's supplement already says.
      directional: whether a direction in the image plane was named.
    """

    def __init__(self, facts: Mapping[str, Any], rng: random.Random):
        self.facts = facts
        self.rng = rng
        self.claims: dict[str, Any] = {}
        self.seen_claims: dict[str, Any] = {}
        self.directional = False

    def pick(self, *options: str | Callable[[], str]) -> str:
        """Picks one of several wordings; only that one is evaluated and makes claims."""
        option = self.rng.choice(options)
        return option if isinstance(option, str) else option()

    def has(self, *names: str) -> bool:
        return all(name in self.facts for name in names)

    def claim(self, name: str) -> Any:
        """Records that the answer asserts this fact; returns its value."""
        self.claims[name] = self.facts[name]
        self.seen_claims[name] = self.facts[name]
        return self.facts[name]

    def say(self, name: str) -> str:
        """Returns the fact as an adjective or noun."""
        value = self.claim(name)
        if name == "direction":
            self.directional = True
        return TERMS.get((name, value), value)

    def material(self) -> str:
        """Returns the class of material as a noun with its article."""
        category = self.claim("category")
        return MATERIALS.get(category, f"a sample of {readable(category)}")

    @property
    def single(self) -> bool:
        return self.facts.get("count") == 1

    @property
    def noun(self) -> str:
        """The feature as a noun, in the plural unless there is only one."""
        feature = self.claim("feature")
        if not self.single:
            return plural(feature)
        self.claim("count")
        return feature

    def a(self, name: str) -> str:
        """Returns the fact as an adjective with its article: 'a rough', 'an etched'."""
        return _with_article(self.say(name))

    def some(self, *names: str) -> str:
        """Returns the feature with adjectives: 'rough, faceted grains', 'a rough, conical tip'."""
        phrase = f"{', '.join(self.say(name) for name in names)} {self.noun}".strip()
        return _with_article(phrase) if self.single else phrase

    @property
    def the(self) -> str:
        return f"The {self.noun}"

    @property
    def are(self) -> str:
        return "is" if self.single else "are"

    def verb(self, stem: str) -> str:
        """Inflects a verb for the number of features: 'touch' -> 'touch' or 'touches'."""
        return plural(stem) if self.single else stem

    def length(self, name: str) -> str:
        """Returns e.g. 'about 43 nm' for the fact `{name}_nm` and claims it within 20 %.

        The length is rounded as a share of the image's width, which is what a model reads
        (data.units), and then written with two digits.
        """
        scale = self.facts["nm_per_pixel"]
        width = scale * self.facts["width_px"]
        said = fact_rules.about(100 * self.facts[f"{name}_nm"] / width) / 100 * width
        self.claims[f"{name}_nm"] = _interval(0.8 * said, 1.2 * said)
        self.seen_claims[f"{name}_px"] = _interval(0.8 * said / scale, 1.2 * said / scale)
        return f"about {fact_rules.length_text(fact_rules.round_digits(said))}"

    def size(self) -> str:
        """Returns e.g. 'about 40 nm in diameter'; requires `mean_size_nm`."""
        return f"{self.length('mean_size')} in {self.say('size_kind')}"

    def aggregation(self) -> str:
        """Returns the predicate for how the features are grouped, e.g. 'touch each other'."""
        value = self.claim("aggregation")
        several, one = AGGREGATIONS.get(value, (f"are {value}", f"is {value}"))
        return one if self.single else several

    def coverage(self) -> str:
        """Returns the coverage to the nearest ten percent, e.g. 'about 40 percent'."""
        said = 10 * round(10 * self.facts["coverage"])
        if said == 0:
            self._between("coverage", 0.0, 0.05)
            return "less than 5 percent"
        self._between("coverage", max(0.0, said / 100 - 0.1), min(1.0, said / 100 + 0.1))
        return f"about {said} percent"

    def amount(self) -> str:
        """Returns '5 pores', 'about 40 pores', 'a single pore', or 'pores' if not counted."""
        noun = self.noun
        number = self.facts.get("count")
        if number is None:
            return noun
        if number == 0:
            self.claim("count")
            return f"no {noun}"
        if self.single:
            return f"a single {noun}"
        return f"{self._number('count', number)} {noun}"

    def defects(self, kinds: int) -> str:
        """Returns the `kinds` most frequent defects, e.g. '2 cracks and 1 scratch'; requires
        `has_defects`.
        """
        found = {
            name.removeprefix("defect_"): number
            for name, number in self.facts.items()
            if name.startswith("defect_")
        }
        self.claim("has_defects")
        ranked = sorted(found, key=lambda kind: (found[kind], kind), reverse=True)
        parts = []
        for kind in ranked[:kinds]:
            if kind in _UNCOUNTABLE:
                self._between(f"defect_{kind}", 1, _UNLIMITED)
                parts.append(kind)
            else:
                noun = kind if found[kind] == 1 else plural(kind)
                parts.append(f"{self._number(f'defect_{kind}', found[kind])} {noun}")
        return " and ".join(parts)

    def artefacts(self) -> str:
        """Returns all artefacts, e.g. 'charging and noise'."""
        names = [
            name.removeprefix("artefact_")
            for name, there in self.facts.items()
            if name.startswith("artefact_") and there
        ]
        for name in names:
            self.claim(f"artefact_{name}")
        return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]

    def magnification(self) -> str:
        """Returns e.g. 'magnified 25,000 times'. Not a seen claim, since the prompt states it."""
        value = self.facts["magnification"]
        self.claims["magnification"] = _interval(0.9 * value, 1.1 * value)
        return f"magnified {fact_rules.magnification_text(value)} times"

    def pixel(self) -> str:
        """Returns the pixel size as in the prompt's supplement."""
        value = self.facts["nm_per_pixel"]
        self.claims["nm_per_pixel"] = _interval(0.9 * value, 1.1 * value)
        return fact_rules.length_text(fact_rules.round_digits(value))

    def metadata(self, question_type: str, supplement: str) -> dict[str, Any]:
        return {
            "question_type": question_type,
            "supplement": supplement,
            "claims": self.claims,
            "seen_claims": self.seen_claims,
            "directional": self.directional,
        }

    def _number(self, name: str, number: int) -> str:
        if number <= _EXACT_COUNT:
            self._between(name, number, number)
            return str(number)
        said = round(fact_rules.about(number))
        self._between(name, 0.8 * said, 1.2 * said)
        return f"about {said}"

    def _between(self, name: str, low: float, high: float) -> None:
        self.claims[name] = self.seen_claims[name] = _interval(low, high)


def _interval(low: float, high: float) -> list[float]:
    """Rounds bounds to six digits, ample for such wide intervals and easier to read."""
    return [float(f"{low:.6g}"), float(f"{high:.6g}")]


def _with_article(phrase: str) -> str:
    return f"an {phrase}" if phrase.startswith(tuple("aeiou")) else f"a {phrase}"


def plural(noun: str) -> str:
    """Returns the plural of a regular noun (or the third person singular of a regular verb)."""
    if noun in _UNCOUNTABLE:
        return noun
    if noun in _PLURALS:
        return _PLURALS[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def readable(category: str) -> str:
    """Returns a folder name as words."""
    return " ".join(category.replace("_", " ").split())
