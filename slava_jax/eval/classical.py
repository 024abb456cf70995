"""The classical baseline: a linear classifier on simple image statistics.

It shows how hard a data set is without learned features. Every report prints it next to the
models' scores.
"""

import functools
import os
from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from slava_jax.data.processes import map_in_processes

BINS = 32  # of the histogram
SCALES = (0.0, 1.5, 3.0)  # pixels, sigma of the blur before gradients are taken
BANDS = 11  # of the radial power spectrum
_MANY = 500  # images from which worker processes pay off


def features(images: Sequence[np.ndarray]) -> np.ndarray:
    """float32[n, F]: histogram, gradient statistics and radial power spectrum of each image.

    images: n of uint8[P, P], or of uint8[P, P, ch], whose channels are averaged.
    """
    shape = np.shape(images[0]) if len(images) else ()
    if len(shape) not in (2, 3):
        raise ValueError(
            f"images have shape {(len(images), *shape)}; expected [n, P, P] with n of 1 or more"
        )
    workers = len(os.sched_getaffinity(0)) if len(images) >= _MANY else 1
    return np.stack(list(map_in_processes(_features, images, workers))).astype(np.float32)


def _features(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image, np.float32)
    if image.ndim == 3:
        image = image.mean(2)
    image = image / 255
    histogram = np.histogram(image, BINS, (0, 1))[0] / image.size
    contrast = image.std() + 1e-3
    image = (image - image.mean()) / contrast
    square = image * image
    skew, tails = (square * image).mean(), (square * square).mean()
    moments = [np.log(contrast), np.clip(skew, -5, 5), np.log(tails + 1)]
    slopes = [_gradients(image, blur) for blur in SCALES]
    return np.concatenate([histogram, moments, *slopes, _spectrum(image)])


def _gradients(image: np.ndarray, blur: float) -> np.ndarray:
    """Gradient magnitude, its spread, and the distribution of directions, global and local."""
    if blur:
        step = int(blur)
        image = ndimage.gaussian_filter(image, blur, truncate=3)[::step, ::step]
    gy, gx = np.gradient(image)
    square = gx * gx + gy * gy + np.float32(1e-9)
    steep = np.sqrt(square)
    quantiles = np.quantile(steep[::2, ::2], (0.1, 0.25, 0.5, 0.75, 0.9, 0.98))
    bins = (np.arctan2(gy, gx) * np.float32(8 / np.pi)).astype(np.int32) % 8
    turned = np.bincount(bins.ravel(), steep.ravel(), 8) / steep.sum()
    # The structure tensor's coherence: 1 where all gradients point along one line.
    along, across = gx * gx - gy * gy, 2 * gx * gy
    whole = np.hypot(along.mean(), across.mean()) / square.mean()
    near = np.hypot(ndimage.uniform_filter(along, 17), ndimage.uniform_filter(across, 17))
    local = (near / np.maximum(ndimage.uniform_filter(square, 17), 1e-6)).mean()
    levels = np.log([steep.mean(), steep.std() + 1e-3, *(quantiles + 1e-3)])
    return np.concatenate([levels, turned, np.sort(turned), [whole, local]])


def _spectrum(image: np.ndarray) -> np.ndarray:
    """Log power in `BANDS` rings of equal width in log frequency."""
    power = np.abs(np.fft.rfft2((image - image.mean()) * _window(*image.shape))) ** 2
    ring, inside = _rings(*image.shape)
    total = np.bincount(ring[inside], power.ravel()[inside], BANDS)
    return np.log(total / np.maximum(np.bincount(ring[inside], minlength=BANDS), 1) + 1e-3)


@functools.lru_cache
def _window(rows: int, columns: int) -> np.ndarray:
    return np.outer(np.hanning(rows), np.hanning(columns))


@functools.lru_cache
def _rings(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Ring of each frequency of a half spectrum, flattened, and whether it lies in any ring."""
    away = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None])
    edges = np.geomspace(1.0 / max(rows, columns), 0.5, BANDS + 1)
    ring = np.digitize(away.ravel(), edges) - 1
    return ring, (ring >= 0) & (ring < BANDS)


def class_probabilities(train, train_labels, test, classes: int) -> np.ndarray:
    """Class probabilities of the test rows, float[n_test, classes].

    train, test: `features`, float[n, F]. train_labels: int[n]. Classes without training images get
    probability 0.
    """
    _, of_seen = fit_predict_rows(train, train_labels, test)
    scores = np.zeros((len(test), classes))
    scores[:, np.unique(train_labels)] = of_seen
    return scores


def fit_predict_rows(train, train_labels, test) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regression on standardised rows float[n, F].

    Returns predictions int[n_test] and probabilities with one column per label seen in training,
    in order.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, C=0.3))
    model.fit(train, np.asarray(train_labels))
    return model.predict(test).astype(int), model.predict_proba(test)
