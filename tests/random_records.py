"""Random ground truths for property tests."""

from hypothesis import strategies as st

from slava_jax.synthetic.records import CATEGORIES, GroundTruth, SizeDistribution

SHAPES = ("spherical", "faceted", "irregular", "cylindrical", "conical", "rectangular")
FEATURES = ("particle", "fibre", "wire", "pore", "line", "tip", "cell", "cavity", "mesh")
DEFECTS = ("crack", "scratch", "debris", "missing feature")

lengths = st.floats(0.5, 50_000)
fractions = st.floats(0, 1)


@st.composite
def sizes(draw):
    mean = draw(lengths)
    std = mean * draw(st.floats(0, 0.8))
    return SizeDistribution(draw(st.sampled_from(["diameter", "width"])), mean, std, 0.0, 2 * mean)


def truths(words=None):
    """Random records; `words` replaces the known values of the free string fields."""

    def text(*known):
        return words if words is not None else st.sampled_from(known)

    return st.builds(
        GroundTruth,
        category=text(*CATEGORIES),
        width_px=st.integers(64, 4096),
        nm_per_pixel=st.floats(0.1, 5000),
        magnification=st.integers(20, 500_000),
        kv=st.floats(1, 30),
        working_distance_mm=st.floats(1, 20),
        detector=st.sampled_from(["SE2", "InLens", "ETD", "BSE"]),
        feature=text(*FEATURES),
        shape=text(*SHAPES),
        count=st.none() | st.integers(0, 8) | st.integers(0, 3000),
        size_nm=st.none() | sizes(),
        spacing_nm=st.none() | lengths,
        order=text("ordered", "partly ordered", "random"),
        orientation_deg=st.none() | st.floats(0, 180, exclude_max=True),
        alignment=st.none() | text("aligned", "partly aligned", "random"),
        aggregation=text("isolated", "touching", "clustered", "continuous"),
        texture=text("smooth", "grainy", "rough"),
        coverage=fractions,
        composition=text("uniform", "bright second phase"),
        defects=st.dictionaries(text(*DEFECTS), st.integers(0, 40), max_size=3),
        artefacts=st.lists(
            st.sampled_from(["charging", "shading", "noise"]), unique=True
        ).map(tuple),
    )
