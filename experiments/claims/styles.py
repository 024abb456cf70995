"""Short, detailed or mixed answers in training: which serves which question best? (section 4.6)

With one vision stage per seed, each variant trains on the same images and questions, but only with
their short answers, their detailed answers, or both. All are tested on the same n short and
detailed questions and 400 class questions, and share a tokenizer trained on both kinds of answers.
"""

from pathlib import Path

from configs.quickstart import get_config
from slava_jax.data.instructions import read_jsonl, write_jsonl
from slava_jax.train.loop import run

VARIANTS = {
    "short answers": ("short",),
    "detailed answers": ("detailed",),
    "mixed": ("short", "detailed"),
}


def measure(seed: int, variant: str, runs: Path) -> dict[str, float]:
    """ROUGE-L of short and of detailed answers to the VQA questions of the test split."""
    before = runs / f"styles-seed{seed}"
    config = get_config()
    config.seed, config.stages = seed, ("vision",)
    run(config, before)
    workdir = runs / f"styles-seed{seed}-{variant.replace(' ', '_')}"
    config.stages = ("language", "assistant")
    config.start_from.vision = str(before)
    written = _written(before, VARIANTS[variant], runs / f"{workdir.name}.jsonl")
    config.data.instructions = str(written)
    (workdir / "data").mkdir(parents=True, exist_ok=True)
    # A tokenizer trained only on short answers would split detailed ones into too many tokens.
    for shared in ("procedural", "tokenizer"):
        if not (workdir / "data" / shared).exists():
            (workdir / "data" / shared).symlink_to((before / "data" / shared).absolute())
    config.evaluation.update(classification=400, captions=0, answers=512)
    metrics = run(config, workdir)
    return {
        "short, ROUGE-L": metrics["vqa_short.rougeL"],
        "detailed, ROUGE-L": metrics["vqa_detailed.rougeL"],
        "top-1": metrics["classification.top1"],
        "n": metrics["vqa.n"],
    }


def _written(before: Path, styles: tuple[str, ...], place: Path) -> Path:
    """The instructions of a finished run; for training and validation, only these styles."""
    items = []
    for split in ("train", "validation", "test"):
        held = read_jsonl(before / "data" / "instructions" / f"{split}.jsonl")
        # The class answer is always short.
        items += [
            item
            for item in held
            if split == "test" or item.question_type == "class" or item.style in styles
        ]
    write_jsonl(place, items)
    return place
