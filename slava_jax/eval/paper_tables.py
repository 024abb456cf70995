"""The paper's printed results, as data. What its `±` is a deviation of, it never says."""

from slava_jax.eval.text_metrics import SCORE_NAMES

# {method: ((mean, deviation) for each of SCORE_NAMES)}
Scores = dict[str, tuple[tuple[float, float], ...]]


def _scores(rows: dict[str, str]) -> Scores:
    """Rows as the paper prints them, 'mean deviation' six times."""
    table = {}
    for method, text in rows.items():
        numbers = [float(number) for number in text.split()]
        pairs = tuple(zip(numbers[::2], numbers[1::2], strict=True))
        if len(pairs) != len(SCORE_NAMES):
            raise ValueError(f"{method}: {len(pairs)} scores, expected {len(SCORE_NAMES)}")
        table[method] = pairs
    return table


CAPTION_TABLE_1 = _scores(
    {
        "sLAVA": "0.819 0.089 0.727 0.115 0.939 0.041 0.876 0.016 0.880 0.054 0.906 0.062",
        "MiniGPT-4": "0.776 0.086 0.686 0.100 0.839 0.035 0.795 0.014 0.827 0.047 0.864 0.052",
        "LLaVA": "0.715 0.035 0.671 0.043 0.822 0.016 0.757 0.005 0.816 0.021 0.837 0.023",
        "InstructBLIP": "0.711 0.032 0.660 0.039 0.824 0.016 0.746 0.005 0.814 0.021 0.845 0.024",
    }
)

VQA_TABLE_3 = _scores(
    {
        "sLAVA": "0.830 0.085 0.757 0.105 0.936 0.036 0.813 0.014 0.864 0.050 0.914 0.055",
        "MiniGPT-4": "0.746 0.075 0.607 0.090 0.836 0.033 0.737 0.012 0.792 0.043 0.855 0.047",
        "LLaVA": "0.722 0.070 0.588 0.085 0.821 0.032 0.724 0.011 0.779 0.042 0.836 0.046",
        "InstructBLIP": "0.715 0.063 0.580 0.078 0.820 0.032 0.721 0.011 0.777 0.042 0.835 0.048",
    }
)

# {(family, method): (top-1, top-5)}; the best of each family, VanillaViT, and the paper's own rows.
# In the text copy the VSL block's columns have slipped by one; the numbers are clear.
CLASSIFICATION_TABLE_7: dict[tuple[str, str], tuple[float, float]] = {
    ("sLAVA", "few-shot"): (0.987, 0.994),
    ("sLAVA", "zero-shot"): (0.839, 0.878),
    ("vision transformer", "T2TViT"): (0.749, 0.992),
    ("vision transformer", "VanillaViT"): (0.655, 0.970),
    ("convolutional network", "GoogleNet"): (0.609, 0.969),
    ("self-supervised", "SimSiam"): (0.188, 0.535),
}

# {category of the SEM set: ((precision, deviation), (recall, deviation), (F1, deviation))}
PER_CLASS_TABLE_9: dict[str, tuple[tuple[float, float], ...]] = {
    "Biological": ((0.971, 0.009), (0.993, 0.007), (0.983, 0.013)),
    "Tips": ((0.954, 0.005), (0.967, 0.008), (0.964, 0.011)),
    "Fibres": ((0.995, 0.007), (1.000, 0.000), (1.000, 0.000)),
    "Porous_Sponge": ((0.971, 0.014), (0.981, 0.013), (0.965, 0.010)),
    "Films_Coated_Surface": ((0.979, 0.005), (0.979, 0.009), (0.988, 0.008)),
    "Patterned_surface": ((0.988, 0.016), (0.983, 0.006), (0.982, 0.014)),
    "Nanowires": ((0.979, 0.012), (0.989, 0.007), (0.995, 0.011)),
    "Particles": ((0.982, 0.006), (0.978, 0.011), (0.968, 0.023)),
    "MEMS_devices_and_electrodes": ((0.983, 0.011), (0.970, 0.008), (0.966, 0.009)),
    "Powder": ((0.985, 0.014), (0.971, 0.009), (0.955, 0.011)),
}
