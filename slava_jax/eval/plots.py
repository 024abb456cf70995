"""The report's plots as self-contained inline SVG, with text kept as text."""

import html
import io
import re
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK, MUTED, RULE = "#1f2933", "#66727f", "#d8dee4"
STRONG, SOFT = "#0b5f8a", "#8fb8cf"
_SHADES = LinearSegmentedColormap.from_list("shades", ["#f5f7f9", "#bcd7e5", "#0b5f8a"])
_EXPERTS = ["#0b5f8a", "#5b9bbd", "#b3d0df", "#e0b36a", "#c97b3d", "#8a5a83", "#6b8f71", "#9aa5b1"]
_STYLE = {
    "svg.fonttype": "none",  # keeps text: small, searchable, in the page's own font
    "text.parse_math": False,  # a class name may contain a dollar sign
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
}


def loss_curve(stage: str, entries: Sequence[Mapping[str, float]], points: int = 300) -> str:
    """Training and validation loss of one stage against the step.

    entries: [{'step', 'loss', 'val_loss', ...}]; an entry may lack any loss. Other keys ending in
    'loss' become thin lines. More than `points` values are averaged in groups.
    """
    names = dict.fromkeys(k for entry in entries for k in entry if k.endswith("loss"))
    with matplotlib.rc_context(_STYLE):
        figure, axes = _panel(stage, 4.0, 2.5)
        for name in names:
            pairs = [(e["step"], e[name]) for e in entries if e.get(name) is not None]
            steps, values = _thin(np.asarray(pairs, np.float64), points).T
            axes.plot(steps, values, label=name.replace("val_", "validation "), **_look(name))
        axes.set_xlabel("step")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        if names:
            axes.legend(frameon=False, fontsize=8)
        return _svg(figure, f"loss {stage}")


def confusion_plot(confusion: np.ndarray, class_names: Sequence[str]) -> str:
    """Counts int[n, n], rows are the true classes; the shade is the share of the row."""
    n = len(class_names)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    names = [name.replace("_", " ") for name in class_names]
    with matplotlib.rc_context(_STYLE):
        size = 2.2 + 0.42 * n
        figure, axes = _panel("", size + 0.8, size)
        # Vector squares with white gaps: imshow would embed a bitmap.
        axes.pcolormesh(shares, cmap=_SHADES, vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
        axes.invert_yaxis()
        axes.set_aspect("equal")
        centres = np.arange(n) + 0.5
        axes.set_xticks(centres, names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(centres, names)
        axes.set_xlabel("predicted category")
        axes.set_ylabel("true category")
        axes.tick_params(length=0, labelcolor=INK)
        axes.spines[:].set_visible(False)
        for row in range(n):
            for column in range(n):
                if confusion[row, column]:
                    color = "white" if shares[row, column] > 0.6 else INK
                    count = str(confusion[row, column])
                    axes.text(
                        column + 0.5, row + 0.5, count, ha="center", va="center", fontsize=8,
                        color=color,
                    )  # fmt: skip
        return _svg(figure, "confusion")


def reliability_plot(bins: Sequence[tuple[float, float, int]]) -> str:
    """Share of right answers against their stated probability, see reliability.bins."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _panel("Stated probability and truth", 4.0, 3.2)
        axes.plot([0, 1], [0, 1], color=RULE, linewidth=1)
        said, right = zip(*((p, share) for p, share, _ in bins), strict=True)
        axes.plot(said, right, color=STRONG, marker="o", markersize=4, linewidth=1.6)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("stated probability")
        axes.set_ylabel("share right")
        return _svg(figure, "reliability")


def answering_plot(points: Sequence[tuple[float, float]]) -> str:
    """Share of right answers against the share answered, see reliability.right_when_answering."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _panel("Answering only when sure", 4.0, 3.2)
        answered, right = zip(*points, strict=True)
        axes.plot(answered, right, color=STRONG, linewidth=1.8)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("share of questions answered")
        axes.set_ylabel("share right")
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        return _svg(figure, "answering")


def rank_plot(label: str, scores: Mapping[int, float], lower_is_better: bool = False) -> str:
    """One score at every adapter rank: {rank: score}."""
    ranks = sorted(scores)
    values = [scores[rank] for rank in ranks]
    with matplotlib.rc_context(_STYLE):
        figure, axes = _panel(label + " (lower is better)" * lower_is_better, 4.0, 2.3)
        axes.plot(ranks, values, color=STRONG, marker="o", markersize=4, linewidth=1.6)
        low, high = min(values), max(values)
        margin = max(0.25 * (high - low), 0.02)  # so that a flat line looks flat
        axes.set_ylim(low - margin, high + margin)
        axes.set_xlabel("rank")
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        return _svg(figure, f"rank {label}")


def expert_plot(name: str, use: np.ndarray) -> str:
    """Each expert's share of the gate mass, float[layers, experts]; one bar per layer."""
    layers, experts = use.shape
    with matplotlib.rc_context(_STYLE):
        figure, axes = _panel(name, 4.0, 0.9 + 0.3 * layers)
        left = np.zeros(layers)
        for expert in range(experts):
            color = _EXPERTS[expert % len(_EXPERTS)]
            axes.barh(range(layers), use[:, expert], left=left, color=color, height=0.72)
            for layer in range(layers):
                if use[layer, expert] >= 0.1:
                    axes.text(
                        left[layer] + use[layer, expert] / 2, layer,
                        f"{use[layer, expert]:.2f}", ha="center", va="center", fontsize=7.5,
                        color=_readable_on(color),
                    )  # fmt: skip
            left = left + use[:, expert]
        axes.set_xlim(0, max(1.0, left.max()))
        axes.set_yticks(range(layers), [f"layer {layer + 1}" for layer in range(layers)])
        axes.invert_yaxis()
        axes.tick_params(length=0)
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
        return _svg(figure, f"experts {name}")


def _panel(title: str, width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    return figure, axes


def _look(name: str) -> dict[str, object]:
    if name == "loss":
        return {"color": SOFT, "linewidth": 1.2}
    if name == "val_loss":
        return {"color": STRONG, "linewidth": 1.8, "marker": "o", "markersize": 3}
    return {"linewidth": 0.8, "linestyle": "--"}


def _thin(pairs: np.ndarray, points: int) -> np.ndarray:
    """float[n, 2] averaged in groups of equal size, leaving at most `points` rows."""
    group = -(-len(pairs) // points)
    if group <= 1:
        return pairs
    starts = np.arange(0, len(pairs), group)
    counts = np.diff(np.append(starts, len(pairs)))
    return np.add.reduceat(pairs, starts, axis=0) / counts[:, None]


def _readable_on(color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


def _svg(figure: Figure, name: str) -> str:
    """The bare <svg> element. `name` keeps ids unique among the plots of a page."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Inside HTML an <svg> needs no namespace, and the page sets its size.
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(xmlns(:\w+)?|width|height|version)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{html.escape(name)}">{rest}'
