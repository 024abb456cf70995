"""Generates instructions for a data set with an API teacher: dry run, requests, output files.

The output depends only on the plan and the journal, so writing it again needs no requests.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from tqdm import tqdm

from slava_jax.data.datasets.base import ImageSet
from slava_jax.data.instructions import IMAGE_TOKEN, Instruction, new_file, write_jsonl
from slava_jax.teacher.asking import Outcome, ask_all, cost_at_most, exceeded, money
from slava_jax.teacher.journal import Cost, Journal, Ledger, read_journal
from slava_jax.teacher.plan import KINDS, Request, known_scale, requests
from slava_jax.teacher.procedural import DETAIL_REQUEST, label_instructions
from slava_jax.teacher.prompt_sets import load_set
from slava_jax.teacher.replies import Answer, Slot, is_directional, read_replies
from slava_jax.teacher.settings import TeacherError, check
from slava_jax.teacher.sources import read_contexts, read_groups

_TOKENS_PER_QUESTION = 150  # for a short and a detailed answer of the requested length, as JSON


@dataclasses.dataclass(frozen=True)
class Job:
    """The input of a teacher's run.

    `seed` chooses wordings and images; `question` is the classification question, '' for that of
    the prompt set or a general one.
    """

    settings: Mapping[str, Any]
    sets: Mapping[str, ImageSet]
    workdir: Path
    seed: int = 0
    question: str = ""

    @property
    def journal(self) -> Path:
        return self.workdir / "teacher" / "journal.jsonl"

    @property
    def rejected(self) -> Path:
        return self.workdir / "teacher" / "rejected.jsonl"

    def instructions(self, split: str) -> Path:
        """The path from which a run reads the instructions of a split."""
        return self.workdir / "data" / "instructions" / f"{split}.jsonl"

    def plan(self) -> list[Request]:
        """All requests. Raises TeacherError for invalid settings and files."""
        check(self.settings)
        contexts = read_contexts(self.settings["contexts"], self.sets)
        groups = read_groups(self.settings["groups"], self.sets, KINDS)
        return requests(self.settings, self.sets, contexts, groups, self.seed)


def dry_run(job: Job) -> str:
    """An example of every kind of prompt, and the expected cost. Sends and writes nothing."""
    plan, ledger = job.plan(), read_journal(job.journal)
    examples = {tuple(request.names): request for request in reversed(plan)}
    parts = [_example(request) for request in reversed(examples.values())]
    return "\n\n".join([*parts, _bill(job, plan, ledger)])


def teach(job: Job, again: bool = False) -> str:
    """Sends the unanswered requests, and writes instructions and rejected answers.

    Args:
      again: ask again for answers that were refused or malformed.

    Returns:
      A summary of a few lines.

    Raises:
      TeacherError: settings, files or journal are invalid, the existing instructions are not the
        teacher's, the server is broken, requests are unanswered at the end (interrupted, over the
        budget, failed), or not one answer is valid. All answers so far are in the journal and the
        files; the message ends with the summary.
    """
    _check_free(job)
    plan = job.plan()
    with Journal(job.journal) as journal:
        ledger = journal.ledger
        todo = [request for request in plan if _is_open(job, ledger, request, again)]
        bar = tqdm(
            total=len(plan), initial=len(plan) - len(todo), desc="teacher", unit="req",
            mininterval=1, disable=not todo,
        )  # fmt: skip
        problems = Counter()

        def answered(request: Request) -> None:
            problems.update(p.status for p in _read(job, ledger, request)[1].values())
            counts = [f"{problems[status]} {status}" for status in sorted(problems)]
            bar.set_postfix_str(", ".join([_spent(job, ledger.spent), *counts]), refresh=False)
            bar.update()

        with bar:
            outcome = ask_all(todo, journal, job.settings, answered) if todo else Outcome()
        report = _write(job, plan, ledger)
    text = "\n".join([*report, *_ending(job, ledger, outcome)])
    left = sum(_is_open(job, ledger, request, False) for request in plan)
    if outcome.broken or left:
        unanswered = f"{left} of {len(plan)} requests are unanswered"
        reason = f"{outcome.stopped}; {unanswered}" if outcome.stopped else unanswered
        raise TeacherError(f"{reason}; the same command continues with them\n{text}")
    if plan and not any(_read(job, ledger, request)[0] for request in plan):
        raise TeacherError(f"no answer is valid; {job.rejected} says why\n{text}")
    return text


def _check_free(job: Job) -> None:
    if (job.workdir / "config.json").exists():
        raise TeacherError(
            f"{job.workdir}: a run has already started with these instructions; give another "
            "--workdir"
        )
    for split in job.settings["splits"]:
        path = job.instructions(split)
        if path.exists() and not job.journal.exists():
            raise TeacherError(
                f"{path}: not written by the teacher; move it, or give another --workdir"
            )


def _is_open(job: Job, ledger: Ledger, request: Request, again: bool) -> bool:
    if not ledger.replies.get(request.id):
        return True
    return again and bool(_read(job, ledger, request)[1])


def _read(job: Job, ledger: Ledger, request: Request) -> tuple[dict[Slot, Answer], dict]:
    replies = ledger.replies.get(request.id, [])
    return read_replies(replies, request.items, job.settings["longest_answer"])


def _write(job: Job, plan: list[Request], ledger: Ledger) -> list[str]:
    lines, rejected, counts = [], [], Counter()
    items = {split: _class_instructions(job, split) for split in job.settings["splits"]}
    for request in plan:
        good, bad = _read(job, ledger, request)
        items[request.split] += _instructions(job, request, good)
        reasons: dict[tuple[str, str], list[Slot]] = {}
        for slot, problem in bad.items():
            reasons.setdefault((problem.status, problem.reason), []).append(slot)
            counts[problem.status] += 1
        for (status, reason), slots in reasons.items():
            rejected.append(
                {
                    "status": status,
                    "reason": reason,
                    "images": request.keys,
                    "answers": ["/".join(slot) for slot in slots],
                    "text": ledger.replies[request.id][-1].text,
                }
            )
    with new_file(job.rejected) as file:
        file.writelines(json.dumps(line).encode() + b"\n" for line in rejected)
    for split, written in items.items():
        path = job.instructions(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(path, written)
        lines.append(f"{path}: {len(written)} instructions")
    said = ", ".join(f"{counts[status]} {status}" for status in sorted(counts))
    return [*lines, f"{job.rejected}: {said or 'no'} answers"]


def _class_instructions(job: Job, split: str) -> list[Instruction]:
    """The class question of every image, answered from its label without the teacher."""
    images, prompts = job.sets[split], load_set(job.settings["prompts"])
    asked = job.question or prompts.class_question or None
    items = []
    for row, key in enumerate(images.keys):
        scale = known_scale(images.facts[row])
        items.append(label_instructions(key, images.category(row), {}, job.seed, asked, scale)[0])
    return items


def _instructions(job: Job, request: Request, good: Mapping[Slot, Answer]) -> list[Instruction]:
    target, keys = request.pictures[-1], request.keys
    supplements = [picture.shown.supplement for picture in request.pictures]
    supplement, group = supplements[0], ""
    if len(keys) > 1:
        group = f"-{hashlib.sha256('/'.join(keys).encode()).hexdigest()[:8]}"
        known = [f"Image {i}: {text}" for i, text in enumerate(supplements, start=1) if text]
        supplement = " ".join(known)
    items = []
    for item in request.items:
        name = item.question.name
        for style in ("short", "detailed"):
            if (name, style) not in good:
                continue
            answer = good[name, style]
            detail = f" {DETAIL_REQUEST}" if style == "detailed" else ""
            items.append(
                Instruction(
                    id=f"{target.key}/{name}{group}/{style}",
                    images=keys,
                    question=f"{f'{IMAGE_TOKEN} ' * len(keys)}{answer.question}{detail}",
                    answer=answer.text,
                    task=item.question.task,
                    style=style,
                    category=target.category,
                    metadata={
                        "question_type": name,
                        "supplement": supplement,
                        "directional": is_directional(f"{answer.question} {answer.text}"),
                        "teacher": _model_name(job.settings["model"]),
                    },
                )
            )
    return items


def _model_name(model: str) -> str:
    """The model's name; for a path only its last part, to hide the machine's folders."""
    model = model.removeprefix("file://")
    windows = "\\" in model or PureWindowsPath(model).drive
    path = PureWindowsPath(model) if windows else PurePosixPath(model)
    return path.name if path.is_absolute() or model.startswith(("~", ".")) else model


def _example(request: Request) -> str:
    system, text = request.texts()
    images = [
        f"[image {i}: {len(picture.read()):,} bytes of PNG]"
        for i, picture in enumerate(request.pictures, start=1)
        if request.with_images
    ]
    return "\n".join([f"--- {', '.join(request.names)}", f"system: {system}", *images, text])


def _bill(job: Job, plan: list[Request], ledger: Ledger) -> str:
    settings = job.settings
    todo = [request for request in plan if not ledger.replies.get(request.id)]
    at_most = sum((cost_at_most(request, ledger, settings) for request in todo), Cost())
    said = _TOKENS_PER_QUESTION * sum(len(request.items) for request in todo)
    likely = dataclasses.replace(at_most, output=min(said, at_most.output))
    lines = [
        f"{len(plan)} requests, {len(plan) - len(todo)} answered",
        f"spent: {_spent(job, ledger.spent)}",
        f"remaining: about {_spent(job, likely)}",
        f"  and at most {_spent(job, at_most)}",
    ]
    if over := exceeded(ledger.spent + likely, settings):
        lines.append(f"the budget would stop the run before the end: {over}")
    return "\n".join(lines)


def _spent(job: Job, cost: Cost) -> str:
    text = f"{cost.requests:,} requests, {cost.input:,} + {cost.output:,} tokens"
    prices = job.settings["prices"]
    return f"{text}, cost {money(cost, prices):,.4g}" if any(prices.values()) else text


def _ending(job: Job, ledger: Ledger, outcome: Outcome) -> list[str]:
    lines = [f"{job.journal}: {_spent(job, ledger.spent)}"]
    failed = outcome.failed.items()
    return lines + [f"{count} requests failed: {reason}" for reason, count in failed]
