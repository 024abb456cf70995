"""Counts the bytes a compiled program sends between devices, from its HLO text."""

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence

_BITS = {"pred": 8, "s8": 8, "u8": 8, "bf16": 16, "f16": 16, "s16": 16, "u16": 16, "f64": 64}
_BITS |= {"s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "s4": 4, "u4": 4}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(
    r"= (.+?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|while)"
    r"(?:-start)?\("
)
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_COMPARED = re.compile(r"ROOT .* compare\(%?([\w.-]+), %?([\w.-]+)\), direction=LT")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SHAPE = re.compile(r"([a-z]+\d*)\[([\d,]*)\]")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_COUNTED = re.compile(r"replica_groups=\[\d+,(\d+)\]")
_NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\S+)? \{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Bytes per step and device: `payload`, the arrays; `ring`, the traffic on a ring of links."""

    payload_bytes: float = 0.0
    ring_bytes: float = 0.0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.payload_bytes + other.payload_bytes, self.ring_bytes + other.ring_bytes)

    def times(self, count: int) -> "Traffic":
        """The traffic of a loop."""
        return Traffic(self.payload_bytes * count, self.ring_bytes * count)


def traffic(program: str) -> Traffic:
    """Counts the traffic in `compiled.as_text()`; a loop's body counts once per iteration.

    Raises:
      ValueError: the number of iterations of a loop with traffic is unknown.
    """
    entry, computations = _computations(program)
    held: dict[str, Traffic] = {}

    def of(name: str) -> Traffic:
        if name not in held:
            lines = computations[name]
            found = sum((line_of(line, lines) for line in lines), Traffic())
            # A TPU runs such a fusion (an all-reduce of which each device keeps its part) as a
            # reduce-scatter, with half the traffic.
            scattered = name.startswith("all-reduce-scatter")
            held[name] = Traffic(found.payload_bytes, found.ring_bytes / (1 + scattered))
        return held[name]

    def line_of(line: str, beside: list[str]) -> Traffic:
        instruction = _INSTRUCTION.search(line)
        kind = instruction[2] if instruction else ""
        if kind and kind != "while":
            return _of_collective(line, instruction[1], kind)
        below = sum((of(name) for name in _called(line)), Traffic())
        if kind == "while" and below != Traffic():
            return below.times(_turns(line, beside, computations))
        return below

    return of(entry)


def _computations(program: str) -> tuple[str, dict[str, list[str]]]:
    entry, name, found = "", "", {}
    for line in program.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            name = head[2]
            found[name] = []
            entry = name if head[1] else entry
        elif name:
            found[name].append(line)
    return entry, found


def _turns(line: str, beside: list[str], computations: dict[str, list[str]]) -> int:
    """The iterations of a `while`, from its annotation or the bound of its counter from 0."""
    said = _TRIPS.search(line)
    if said:
        return int(said[1])
    condition = computations[re.search(r"condition=%?([\w.-]+)", line)[1]]
    root = next((_COMPARED.search(each) for each in condition if _COMPARED.search(each)), None)
    if root:
        carried = re.search(r"while\(%?([\w.-]+)\)", line)[1]
        counter, bound = (_number(name, condition, carried, beside) for name in root.groups())
        if counter == 0 and bound is not None:
            return bound
    raise ValueError(f"a loop with an unknown number of iterations: {line[:200]}")


def _number(name: str, lines: list[str], carried: str = "", beside: Sequence[str] = ()):
    """The constant value of an instruction, which may come from the loop's initial state."""
    for line in lines:
        found = re.match(rf"\s*(?:ROOT )?%?{re.escape(name)} = \S+ (.*)", line)
        if found is None:
            continue
        constant = re.match(r"constant\((-?\d+)\)", found[1])
        copied = re.match(r"copy\(%?([\w.-]+)\)", found[1])
        taken = re.search(r"^get-tuple-element\(.*index=(\d+)", found[1])
        if constant:
            return int(constant[1])
        if copied:
            return _number(copied[1], lines)
        if taken and carried:
            start = next(each for each in beside if re.match(rf"\s*%?{re.escape(carried)} =", each))
            parts = re.sub(r"/\*.*?\*/", "", re.search(r" tuple\((.*?)\)", start)[1]).split(",")
            return _number(parts[int(taken[1])].strip(" %"), list(beside))
    return None


def _called(line: str) -> Iterator[str]:
    yield from _CALLED.findall(line)
    for names in _BRANCHES.findall(line):
        yield from (name.strip(" %") for name in names.split(","))


def _of_collective(line: str, shapes: str, kind: str) -> Traffic:
    sizes = [_bytes(*shape) for shape in _SHAPE.findall(shapes)]
    # Asynchronous starts return input and output.
    started = f"{kind}-start(" in line
    size = max(sizes) if started and kind != "all-reduce" else sum(sizes)
    many = _devices(line)
    if kind == "reduce-scatter" and not started:
        size *= many
    share = 1.0 if kind == "collective-permute" else (many - 1) / many
    return Traffic(size, size * share * (2 if kind == "all-reduce" else 1))


def _bytes(kind: str, sizes: str) -> float:
    count = 1
    for size in filter(None, sizes.split(",")):
        count *= int(size)
    return count * _BITS[kind] / 8


def _devices(line: str) -> int:
    """The number of devices in a group, in each of XLA's notations."""
    counted, listed, named = (p.search(line) for p in (_COUNTED, _LISTED, _NAMED))
    if counted:
        return int(counted[1])
    if listed:
        return len(listed[1].split(","))
    if named is None:
        if "collective-permute" in line:
            return 1  # pairs, not groups
        raise ValueError(f"a collective with unreadable groups: {line[:200]}")
    sizes = {name: int(size) for name, size in re.findall(r"('\w+')=(\d+)", named[1])}
    axes = re.findall(r"('\w+')(?::\(\d+\)(\d+))?", named[2])
    return math.prod(int(part) if part else sizes[name] for name, part in axes)
