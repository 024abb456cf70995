"""The ten question groups of section 4.3: what is asked, and the short and detailed answers.

Every answer is a function of a `Writer`; whatever it says about the image goes through the writer,
which notes the claim.
"""

import dataclasses
from collections.abc import Callable

from slava_jax.teacher.phrases import APPLICATIONS, FUNCTIONS, Writer, readable

Answer = Callable[[Writer], str]


@dataclasses.dataclass(frozen=True)
class Group:
    """One kind of question.

    `questions` are wordings of the open question, answered by `short` and `detailed`; `asks` are
    narrower questions with an answer of their own, which may take the short one's place. An `ask`
    without a `needs` fact in the record is not asked.
    """

    questions: tuple[str, ...]
    short: Answer
    detailed: Answer
    asks: tuple[tuple[str, str, Answer], ...] = ()  # (question, fact it needs, answer)


def _basics_short(w: Writer) -> str:
    if w.has('mean_size_nm'):
        return w.pick(
            lambda: f'This is {w.material()} with {w.noun} {w.size()}.',
            lambda: f'It shows {w.material()}; the {w.noun} {w.verb("measure")} {w.size()}.',
        )
    return w.pick(
        lambda: f'This is {w.material()} with {w.say("texture")} {w.noun}.',
        lambda: f'It shows {w.material()} made of {w.say("texture")} {w.noun}.',
    )


def _basics_detailed(w: Writer) -> str:
    start = w.pick(
        lambda: f'The image shows {w.material()} with {w.say("shape")} {w.noun}.',
        lambda: f'This is {w.material()} whose {w.noun} {w.are} {w.say("shape")}.',
    )
    size = f' The {w.noun} {w.are} {w.size()}.' if w.has('mean_size_nm') else ''
    return f'{start}{size} One pixel of the image corresponds to {w.pixel()}.'


def _morphology_short(w: Writer) -> str:
    if w.has('uniformity') and not w.single:
        return w.pick(
            lambda: f'{w.the} {w.are} {w.say("shape")} and {w.say("uniformity")}.',
            lambda: f'The shape is {w.say("shape")}, and the {w.noun} are {w.say("uniformity")}.',
        )
    return f'{w.the} {w.are} {w.say("shape")} and {w.say("texture")}.'


def _morphology_detailed(w: Writer) -> str:
    parts = [f'{w.the} {w.are} {w.say("shape")} with {w.a("texture")} surface.']
    if w.has('uniformity') and not w.single:
        parts.append(f'They are {w.say("uniformity")}.')
    if w.has('alignment'):
        subject = 'It is' if w.single else 'They are'
        if w.has('direction'):
            parts.append(f'{subject} {w.say("alignment")} and {w.say("direction")}.')
        else:
            parts.append(f'{subject} {w.say("alignment")}.')
    parts.append(f'{w.the} {w.aggregation()}. The material is {w.say("composition")}.')
    return ' '.join(parts)


def _aligned(w: Writer) -> str:
    start = {'aligned': 'Yes', 'random': 'No'}.get(w.facts['alignment'], 'In part')
    return f'{start}, the {w.noun} {w.are} {w.say("alignment")}.'


def _direction(w: Writer) -> str:
    return f'{w.the} {w.are} {w.say("direction")} in the image.'


def _size_short(w: Writer) -> str:
    if w.has('mean_size_nm'):
        return w.pick(
            lambda: f'{w.the} {w.are} {w.size()}.',
            lambda: f'{w.the} {w.verb("measure")} {w.size()}.',
        )
    return f'{w.the} {w.aggregation()} with {w.say("coverage_level")} coverage.'


def _size_detailed(w: Writer) -> str:
    parts = []
    if w.has('mean_size_nm'):
        parts.append(f'{w.the} {w.are} {w.say("size_scale")}, {w.size()}.')
        if not w.single:
            parts.append(f'They are {w.say("uniformity")} and {w.say("order")}.')
    else:
        parts.append(f'{w.the} {w.are} {w.say("order")}, with {w.a("coverage_level")} coverage.')
    if w.has('spacing_nm') and not w.single:
        parts.append(f'The distance from one to the next is {w.length("spacing")}.')
    parts.append(f'{w.the} {w.aggregation()}.')
    return ' '.join(parts)


def _count(w: Writer) -> str:
    return w.pick(
        lambda: f'The image shows {w.amount()}.',
        lambda: f'One can count {w.amount()} in the image.',
    )


def _packing(w: Writer) -> str:
    return f'{w.the} are {w.say("packing")}, {w.length("spacing")} from one to the next.'


def _surface_short(w: Writer) -> str:
    if w.facts['has_defects']:
        return f'The surface is {w.say("texture")} and shows {w.defects(1)}.'
    w.claim('has_defects')
    return w.pick(
        lambda: f'The surface is {w.say("texture")}, without visible defects.',
        lambda: f'The surface is {w.say("texture")} and free of defects.',
    )


def _surface_detailed(w: Writer) -> str:
    start = w.pick(
        lambda: f'{w.the} {"has" if w.single else "have"} {w.a("texture")} surface',
        lambda: f'The surface of the {w.noun} is {w.say("texture")}',
    )
    if w.facts['has_defects']:
        return f'{start}. There are defects on it: {w.defects(2)} can be seen in the image.'
    w.claim('has_defects')
    return f'{start}. No defects such as cracks or scratches can be seen in the image.'


def _defects(w: Writer) -> str:
    if w.facts['has_defects']:
        return f'Yes, the image shows {w.defects(2)}.'
    w.claim('has_defects')
    return f'No, the {w.noun} {w.verb("show")} no visible defects.'


def _rough(w: Writer) -> str:
    start = 'Yes' if w.facts['texture'] == 'rough' else 'No'
    return f'{start}, the surface of the {w.noun} is {w.say("texture")}.'


def _composition_short(w: Writer) -> str:
    return w.pick(
        lambda: f'The {w.noun} {w.verb("look")} {w.say("composition")}.',
        lambda: f'The composition of the {w.noun} is {w.say("composition")}.',
    )


def _composition_detailed(w: Writer) -> str:
    start = f'The {w.say("texture")} {w.noun} {w.verb("look")} {w.say("composition")}.'
    if w.facts['composition'] == 'uniform':
        return f'{start} The contrast comes from the relief only; no label names an element.'
    return f'{start} The brighter parts point to another material; no label names an element.'


def _second_phase(w: Writer) -> str:
    start = 'No' if w.facts['composition'] == 'uniform' else 'Yes'
    return f'{start}, the {w.noun} {w.verb("look")} {w.say("composition")}.'


def _interactions_short(w: Writer) -> str:
    if w.single:
        return f'{w.the} {w.aggregation()} in this image.'
    return f'{w.the} {w.aggregation()} and are {w.say("order")}.'


def _interactions_detailed(w: Writer) -> str:
    start = f'{w.the} {w.aggregation()}.'
    borders = {
        'isolated': 'There is free space around, so that every border is clear',
        'touching': 'There are contacts, but the borders can still be seen',
        'clustered': 'There are many contacts, and some borders are hidden',
        'continuous': 'There are no gaps, and the borders are hard to see',
    }.get(w.facts['aggregation'], 'The borders can be seen in part')
    if w.has('packing') and not w.single:
        return f'{start} {borders}. They are {w.say("packing")} and {w.say("order")}.'
    return f'{start} {borders}. The arrangement is {w.say("order")}.'


def _touching(w: Writer) -> str:
    start = 'No' if w.facts['aggregation'] == 'isolated' else 'Yes'
    return f'{start}, the {w.noun} {w.aggregation()}.'


def _environment_short(w: Writer) -> str:
    return w.pick(
        lambda: f'{w.the} {w.verb("cover")} {w.coverage()} of the image area.',
        lambda: f'The coverage by {w.noun} is {w.say("coverage_level")}, {w.coverage()}.',
    )


def _environment_detailed(w: Writer) -> str:
    start = (
        f'{w.the} {w.verb("cover")} {w.coverage()} of the image area, '
        f'{w.a("coverage_level")} coverage.'
    )
    rest = f'The rest is free of {w.noun}'
    if w.facts['coverage'] >= 0.95:
        rest = 'Almost no free area is left'
    if w.facts.get('main_defect') == 'debris':
        w.claim('main_defect')
        return f'{start} {rest}, but foreign debris can be seen.'
    return f'{start} {rest}, and no solvent or liquid can be seen.'


def _low_coverage(w: Writer) -> str:
    start = 'Yes' if w.facts['coverage_level'] == 'low' else 'No'
    return f'{start}, the coverage is {w.say("coverage_level")}, {w.coverage()}.'


def _technique_short(w: Writer) -> str:
    w.claim('has_artefacts')
    if w.facts['has_artefacts']:
        return f'A scanning electron micrograph with visible {w.artefacts()}.'
    return 'A clean scanning electron micrograph without visible artefacts.'


def _technique_detailed(w: Writer) -> str:
    start = f'This is a scanning electron micrograph of {w.material()}, {w.magnification()}.'
    w.claim('has_artefacts')
    if w.facts['has_artefacts']:
        return f'{start} It is grey and not coloured, and shows {w.artefacts()}.'
    return f'{start} It is grey and not coloured, and shows no artefacts.'


def _charging(w: Writer) -> str:
    if w.claim('artefact_charging'):
        return 'Yes, bright charging is visible in the image.'
    return 'No, the image is free of charging.'


def _function_of(w: Writer) -> str:
    return FUNCTIONS.get(w.claim('category'), 'serve the sample')


def _function_short(w: Writer) -> str:
    return w.pick(
        lambda: f'The {w.noun} here {w.are} made to {_function_of(w)}.',
        lambda: f'{_active(w)} the {w.noun}, made to {_function_of(w)}.',
    )


def _function_detailed(w: Writer) -> str:
    return (
        f'This is {w.material()}. {_active(w)} the {w.say("shape")} {w.noun}, made to '
        f'{_function_of(w)}. The image is static; no process is under way.'
    )


def _active(w: Writer) -> str:
    """'The active parts are': the start of a sentence about the features."""
    return 'The active part is' if w.single else 'The active parts are'


def _uses(w: Writer, number: int) -> list[str]:
    known = APPLICATIONS.get(w.claim('category'), ('materials research', 'teaching'))
    return w.rng.sample(known, number)


def _context_short(w: Writer) -> str:
    return w.pick(
        lambda: f'It is {w.material()}, used for example in {_uses(w, 1)[0]}.',
        lambda: f'A typical use of {w.material()} is in {_uses(w, 1)[0]}.',
    )


def _context_detailed(w: Writer) -> str:
    first, second = _uses(w, 2)
    return (
        f'The image shows {w.material()} with {w.say("shape")} {w.noun}. '
        f'Such material is used in {first} and {second}. It looks like a physical sample.'
    )


def caption_short(w: Writer) -> str:
    """One sentence in the manner of Table 2."""
    show = w.pick('shows', 'displays')
    return w.pick(
        lambda: (
            f'This SEM image {show} {w.material()} with {w.say("texture")}, {w.say("shape")} '
            f'{w.noun}, {w.magnification()}.'
        ),
        lambda: (
            f'This SEM image {show} {w.material()} with {w.say("coverage_level")} coverage by '
            f'{w.say("shape")} {w.noun}, {w.magnification()}.'
        ),
    )


def caption_detailed(w: Writer) -> str:
    """Two sentences: what is there, and how it lies together."""
    size = f' {w.size()},' if w.has('mean_size_nm') else ''
    return (
        f'This SEM image shows {w.material()} with {w.say("texture")}, {w.say("shape")} '
        f'{w.noun},{size} {w.magnification()}. {w.the} {w.aggregation()}.'
    )


def class_name(w: Writer) -> str:
    """The answer to the classification question: the class name and nothing else."""
    return readable(w.claim('category'))


CLASS_QUESTIONS = (
    'Which class of material does this image show?',
    'What is the class of the material in this image?',
    'To which class does this micrograph belong?',
)
CAPTION_QUESTIONS = (
    'Write a caption for this image.',
    'Describe this image in one sentence.',
    'What does this micrograph show?',
)

GROUPS: dict[str, Group] = {
    'basics': Group(
        (
            'What type of material is shown, and at what scale?',
            'What kind of sample is this, and how large is it?',
        ),
        _basics_short,
        _basics_detailed,
    ),
    'morphology': Group(
        (
            'What is the shape and structure of the material?',
            'How can the overall morphology be described?',
        ),
        _morphology_short,
        _morphology_detailed,
        (
            ('Are the features aligned with each other?', 'alignment', _aligned),
            ('In which direction do the features run?', 'direction', _direction),
        ),
    ),
    'size': Group(
        (
            'How large are the features, and how are they distributed?',
            'What is the approximate size of the single features?',
        ),
        _size_short,
        _size_detailed,
        (
            ('How many features can be seen in the image?', 'count', _count),
            ('How far apart are the features?', 'packing', _packing),
        ),
    ),
    'surface': Group(
        (
            'What is the surface texture, and are there defects?',
            'How does the surface look, and is it damaged?',
        ),
        _surface_short,
        _surface_detailed,
        (
            ('Are any defects visible on the surface?', 'has_defects', _defects),
            ('Is the surface of the features rough?', 'texture', _rough),
        ),
    ),
    'composition': Group(
        (
            'Is there any sign of different components in the image?',
            'Does the contrast point to more than one material?',
        ),
        _composition_short,
        _composition_detailed,
        (('Is a bright second phase visible?', 'composition', _second_phase),),
    ),
    'interactions': Group(
        (
            'How do the features interact, and are the boundaries clear?',
            'Are the features separate, touching or fused together?',
        ),
        _interactions_short,
        _interactions_detailed,
        (('Do the features touch each other?', 'aggregation', _touching),),
    ),
    'environment': Group(
        (
            'How much of the area do the features cover?',
            'What surrounds the features in this image?',
        ),
        _environment_short,
        _environment_detailed,
        (('Is the coverage of the area low?', 'coverage_level', _low_coverage),),
    ),
    'technique': Group(
        (
            'Which imaging technique was used, and are there artefacts?',
            'How was this image taken, and is it modified?',
        ),
        _technique_short,
        _technique_detailed,
        (('Does the image show any charging?', 'artefact_charging', _charging),),
    ),
    'function': Group(
        (
            'Which functional elements can be seen in the image?',
            'What is the function of the features shown?',
        ),
        _function_short,
        _function_detailed,
    ),
    'context': Group(
        (
            'What is the intended use of this material?',
            'In which application is such a material used?',
        ),
        _context_short,
        _context_detailed,
    ),
}
