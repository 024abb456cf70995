"""The ten question groups of section 4.3, with their questions and answers."""

import dataclasses
from collections.abc import Callable

from slava_jax.synthetic import answers
from slava_jax.synthetic.phrases import Writer

Answer = Callable[[Writer], str]


@dataclasses.dataclass(frozen=True)
class Group:
    """One group of questions.

    `questions` are wordings of the open question, answered by `short` and `detailed`. `asks` are
    narrower questions with their own answers, which may replace the short one. An `ask` is skipped
    if the record lacks the fact it needs.
    """

    questions: tuple[str, ...]
    short: Answer
    detailed: Answer
    asks: tuple[tuple[str, str, Answer], ...] = ()  # (question, required fact, answer)


CLASS_QUESTIONS = (
    "Which class of material does this image show?",
    "What is the class of the material in this image?",
    "To which class does this micrograph belong?",
)
CAPTION_QUESTIONS = (
    "Write a caption for this image.",
    "Describe this image in one sentence.",
    "What does this micrograph show?",
)

GROUPS: dict[str, Group] = {
    "basics": Group(
        (
            "What type of material is shown, and at what scale?",
            "What kind of sample is this, and how large is it?",
        ),
        answers.basics_short,
        answers.basics_detailed,
    ),
    "morphology": Group(
        (
            "What is the shape and structure of the material?",
            "How can the overall morphology be described?",
        ),
        answers.morphology_short,
        answers.morphology_detailed,
        (
            ("Are the features aligned with each other?", "alignment", answers.aligned),
            ("In which direction do the features run?", "direction", answers.direction),
        ),
    ),
    "size": Group(
        (
            "How large are the features, and how are they distributed?",
            "What is the approximate size of the single features?",
        ),
        answers.size_short,
        answers.size_detailed,
        (
            ("How many features can be seen in the image?", "count", answers.count),
            ("How far apart are the features?", "packing", answers.packing),
        ),
    ),
    "surface": Group(
        (
            "What is the surface texture, and are there defects?",
            "How does the surface look, and is it damaged?",
        ),
        answers.surface_short,
        answers.surface_detailed,
        (
            ("Are any defects or irregularities visible?", "has_defects", answers.defects),
            ("Is the surface of the features rough?", "texture", answers.rough),
        ),
    ),
    "composition": Group(
        (
            "Is there any sign of different components in the image?",
            "Does the contrast point to more than one material?",
        ),
        answers.composition_short,
        answers.composition_detailed,
        (("Is a bright second phase visible?", "composition", answers.second_phase),),
    ),
    "interactions": Group(
        (
            "How do the features interact, and are the boundaries clear?",
            "Are the features separate, touching or fused together?",
        ),
        answers.interactions_short,
        answers.interactions_detailed,
        (("Do the features touch each other?", "aggregation", answers.touching),),
    ),
    "environment": Group(
        (
            "How much of the area do the features cover?",
            "What surrounds the features in this image?",
        ),
        answers.environment_short,
        answers.environment_detailed,
        (("Is the coverage of the area low?", "coverage_level", answers.low_coverage),),
    ),
    "technique": Group(
        (
            "Which imaging technique was used, and are there artefacts?",
            "How was this image taken, and is it modified?",
        ),
        answers.technique_short,
        answers.technique_detailed,
        (("Does the image show any charging?", "artefact_charging", answers.charging),),
    ),
    "function": Group(
        (
            "Which functional elements can be seen in the image?",
            "What is the function of the features shown?",
        ),
        answers.function_short,
        answers.function_detailed,
    ),
    "context": Group(
        (
            "What is the intended use of this material?",
            "In which application is such a material used?",
        ),
        answers.context_short,
        answers.context_detailed,
    ),
}

# Narrow questions whose answers are checked against the ground truth: (group, question, the facts
# it asks for, answer). The first fact is the one that must be known for the question to be asked.
FACT_QUESTIONS: tuple[tuple[str, str, tuple[str, ...], Answer], ...] = (
    ("size", GROUPS["size"].questions[1], ("mean_size_nm",), answers.size_short),
    ("environment", GROUPS["environment"].questions[0], ("coverage",), answers.environment_short),
    *(
        (name, question, (fact, "spacing_nm") if fact == "packing" else (fact,), answer)
        for name, group in GROUPS.items()
        for question, fact, answer in group.asks
    ),
)
