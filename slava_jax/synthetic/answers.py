"""Short and detailed answers to the ten question groups of section 4.3, captions and class names.

Every answer is a function of a `Writer`. All statements about the image go through the writer,
which records the claims.
"""

from slava_jax.synthetic.phrases import APPLICATIONS, FUNCTIONS, Writer, readable


def basics_short(w: Writer) -> str:
    if w.has("mean_size_nm"):
        return w.pick(
            lambda: f"This is {w.material()} with {w.some()} {w.size()}.",
            lambda: f"It shows {w.material()}; the {w.noun} {w.verb('measure')} {w.size()}.",
        )
    return w.pick(
        lambda: f"This is {w.material()} with {w.some('texture')}.",
        lambda: f"It shows {w.material()} made of {w.some('texture')}.",
    )


def basics_detailed(w: Writer) -> str:
    start = w.pick(
        lambda: f"The image shows {w.material()} with {w.some('shape')}.",
        lambda: f"This is {w.material()} whose {w.noun} {w.are} {w.say('shape')}.",
    )
    size = f" The {w.noun} {w.are} {w.size()}." if w.has("mean_size_nm") else ""
    return f"{start}{size} One pixel of the image corresponds to {w.pixel()}."


def morphology_short(w: Writer) -> str:
    if w.has("uniformity") and not w.single:
        return w.pick(
            lambda: f"{w.the} {w.are} {w.say('shape')} and {w.say('uniformity')}.",
            lambda: f"{w.the}, {w.say('uniformity')}, {w.are} {w.say('shape')}.",
        )
    return f"{w.the} {w.are} {w.say('shape')} and {w.say('texture')}."


def morphology_detailed(w: Writer) -> str:
    parts = [f"{w.the} {w.are} {w.say('shape')} with {w.a('texture')} surface."]
    if w.has("uniformity") and not w.single:
        parts.append(f"They are {w.say('uniformity')}.")
    if w.has("alignment"):
        subject = "It is" if w.single else "They are"
        if w.has("direction"):
            parts.append(f"{subject} {w.say('alignment')} and {w.say('direction')}.")
        else:
            parts.append(f"{subject} {w.say('alignment')}.")
    parts.append(f"{w.the} {w.aggregation()}. The material is {w.say('composition')}.")
    return " ".join(parts)


def aligned(w: Writer) -> str:
    start = {"aligned": "Yes", "random": "No"}.get(w.facts["alignment"], "In part")
    return f"{start}, the {w.noun} {w.are} {w.say('alignment')}."


def direction(w: Writer) -> str:
    return f"{w.the} {w.are} {w.say('direction')} in the image."


def size_short(w: Writer) -> str:
    if w.has("mean_size_nm"):
        return w.pick(
            lambda: f"{w.the} {w.are} {w.size()}.",
            lambda: f"{w.the} {w.verb('measure')} {w.size()}.",
        )
    return f"{w.the} {w.aggregation()} with {w.say('coverage_level')} coverage."


def size_detailed(w: Writer) -> str:
    parts = []
    if w.has("mean_size_nm"):
        parts.append(f"{w.the} {w.are} {w.size()}.")
        if not w.single:
            parts.append(f"They are {w.say('uniformity')} and {w.say('order')}.")
    else:
        parts.append(f"{w.the} {w.verb('cover')} {w.coverage()} of the image area.")
        if not w.single:
            parts.append(f"They are {w.say('order')}.")
    if w.has("spacing_nm") and not w.single:
        parts.append(f"The distance from one to the next is {w.length('spacing')}.")
    parts.append(f"{w.the} {w.aggregation()}.")
    return " ".join(parts)


def count(w: Writer) -> str:
    return w.pick(
        lambda: f"The image shows {w.amount()}.",
        lambda: f"One can count {w.amount()} in the image.",
    )


def packing(w: Writer) -> str:
    return f"{w.the} are {w.say('packing')}, {w.length('spacing')} from one to the next."


def surface_short(w: Writer) -> str:
    if w.facts["has_defects"]:
        return f"The surface is {w.say('texture')} and shows {w.defects(1)}."
    w.claim("has_defects")
    return w.pick(
        lambda: f"The surface is {w.say('texture')}, without visible defects.",
        lambda: f"The surface is {w.say('texture')} and free of defects.",
    )


def surface_detailed(w: Writer) -> str:
    start = w.pick(
        lambda: f"{w.the} {'has' if w.single else 'have'} {w.a('texture')} surface",
        lambda: f"The surface of the {w.noun} is {w.say('texture')}",
    )
    if w.facts["has_defects"]:
        return f"{start}. In addition, {w.defects(2)} can be seen in the image."
    w.claim("has_defects")
    return f"{start}. No defects such as cracks or scratches can be seen in the image."


def defects(w: Writer) -> str:
    if w.facts["has_defects"]:
        return f"Yes, the image shows {w.defects(2)}."
    w.claim("has_defects")
    return f"No, the {w.noun} {w.verb('show')} no visible defects."


def rough(w: Writer) -> str:
    start = "Yes" if w.facts["texture"] == "rough" else "No"
    return f"{start}, the surface of the {w.noun} is {w.say('texture')}."


def composition_short(w: Writer) -> str:
    return w.pick(
        lambda: f"The {w.noun} {w.verb('look')} {w.say('composition')}.",
        lambda: f"The composition of the {w.noun} is {w.say('composition')}.",
    )


def composition_detailed(w: Writer) -> str:
    start = f"The {w.say('texture')} {w.noun} {w.verb('look')} {w.say('composition')}."
    if w.facts["composition"] == "uniform":
        return f"{start} The contrast comes from the relief only; no label names an element."
    return f"{start} The brighter parts point to another material; no label names an element."


def second_phase(w: Writer) -> str:
    start = "No" if w.facts["composition"] == "uniform" else "Yes"
    return f"{start}, the {w.noun} {w.verb('look')} {w.say('composition')}."


def interactions_short(w: Writer) -> str:
    if w.single:
        return f"{w.the} {w.aggregation()} in this image."
    return f"{w.the} {w.aggregation()} and are {w.say('order')}."


def interactions_detailed(w: Writer) -> str:
    start = f"{w.the} {w.aggregation()}."
    borders = {
        "isolated": "There is free space around, so that every border is clear",
        "touching": "There are contacts, but the borders can still be seen",
        "clustered": "There are many contacts, and some borders are hidden",
        "continuous": "There are no gaps, and the borders are hard to see",
    }.get(w.facts["aggregation"], "The borders can be seen in part")
    if w.single:
        return f"{start} {borders}."
    if w.has("packing"):
        return f"{start} {borders}. They are {w.say('packing')} and {w.say('order')}."
    return f"{start} {borders}. They are {w.say('order')}."


def touching(w: Writer) -> str:
    start = "No" if w.facts["aggregation"] == "isolated" else "Yes"
    return f"{start}, the {w.noun} {w.aggregation()}."


def environment_short(w: Writer) -> str:
    return w.pick(
        lambda: f"{w.the} {w.verb('cover')} {w.coverage()} of the image area.",
        lambda: f"The coverage by the {w.noun} is {w.say('coverage_level')}, {w.coverage()}.",
    )


def environment_detailed(w: Writer) -> str:
    start = (
        f"{w.the} {w.verb('cover')} {w.coverage()} of the image area, "
        f"{w.a('coverage_level')} coverage."
    )
    rest = "The rest of the area is free"
    if w.facts["coverage"] >= 0.95:
        rest = "Almost no free area is left"
    if w.facts.get("main_defect") == "debris":
        w.claim("main_defect")
        return f"{start} {rest}, but some foreign debris can be seen."
    return f"{start} {rest}, and no solvent or liquid can be seen."


def low_coverage(w: Writer) -> str:
    start = "Yes" if w.facts["coverage_level"] == "low" else "No"
    return f"{start}, the coverage is {w.say('coverage_level')}, {w.coverage()}."


def technique_short(w: Writer) -> str:
    w.claim("has_artefacts")
    if w.facts["has_artefacts"]:
        return f"A scanning electron micrograph with visible {w.artefacts()}."
    return "A clean scanning electron micrograph without visible artefacts."


def technique_detailed(w: Writer) -> str:
    start = f"This is a scanning electron micrograph of {w.material()}, {w.magnification()}."
    w.claim("has_artefacts")
    if w.facts["has_artefacts"]:
        return f"{start} It is grey and not coloured, and shows {w.artefacts()}."
    return f"{start} It is grey and not coloured, and shows no artefacts."


def charging(w: Writer) -> str:
    if w.claim("artefact_charging"):
        return "Yes, bright charging is visible in the image."
    return "No, the image is free of charging."


def _function_of(w: Writer) -> str:
    return FUNCTIONS.get(w.claim("category"), "serve the sample")


def function_short(w: Writer) -> str:
    return w.pick(
        lambda: f"The {w.noun} here {w.are} made to {_function_of(w)}.",
        lambda: f"{_active(w)} the {w.noun}, made to {_function_of(w)}.",
    )


def function_detailed(w: Writer) -> str:
    return (
        f"This is {w.material()}. {_active(w)} the {w.say('shape')} {w.noun}, made to "
        f"{_function_of(w)}. The image is static; no process is under way."
    )


def _active(w: Writer) -> str:
    """Starts a sentence about the features: 'The active parts are'."""
    return "The active part is" if w.single else "The active parts are"


def _uses(w: Writer, number: int) -> list[str]:
    known = APPLICATIONS.get(w.claim("category"), ("materials research", "teaching"))
    return w.rng.sample(known, number)


def context_short(w: Writer) -> str:
    return w.pick(
        lambda: f"It is {w.material()}, used for example in {_uses(w, 1)[0]}.",
        lambda: f"A typical use of {w.material()} is in {_uses(w, 1)[0]}.",
    )


def context_detailed(w: Writer) -> str:
    first, second = _uses(w, 2)
    return (
        f"The image shows {w.material()} with {w.some('shape')}. "
        f"Such material is used in {first} and {second}. It looks like a physical sample."
    )


def caption_short(w: Writer) -> str:
    """One sentence in the style of Table 2."""
    show = w.pick("shows", "displays")
    return w.pick(
        lambda: (
            f"This SEM image {show} {w.material()} with {w.some('texture', 'shape')}, "
            f"{w.magnification()}."
        ),
        lambda: (
            f"This SEM image {show} {w.material()} with {w.say('coverage_level')} coverage by "
            f"{w.some('shape')}, {w.magnification()}."
        ),
    )


def caption_detailed(w: Writer) -> str:
    """Two sentences: the contents and how they are grouped."""
    size = f" {w.size()}," if w.has("mean_size_nm") else ""
    return (
        f"This SEM image shows {w.material()} with {w.some('texture', 'shape')},"
        f"{size} {w.magnification()}. {w.the} {w.aggregation()}."
    )


def class_name(w: Writer) -> str:
    """The answer to the classification question: only the class name."""
    return readable(w.claim("category"))
