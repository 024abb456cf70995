"""The classical yardstick: what a linear classifier makes of an image's plain statistics.

It says how hard a data set is without any learning of features. Every report prints it beside
the models' scores.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

BINS = 32  # of the histograms
BANDS = 11  # of the radial power spectrum


def features(images: np.ndarray) -> np.ndarray:
    """float32[n, F]: histogram, gradient statistics and radial power spectrum of each image.

    images: uint8[n, S, S], or [n, S, S, ch] of which the channels are averaged.
    """
    images = np.asarray(images)
    if images.ndim not in (3, 4) or not len(images):
        raise ValueError(
            f"images have shape {images.shape}; expected [n, S, S] with n of 1 or more"
        )
    return np.stack([_features(image) for image in images]).astype(np.float32)


def _features(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image, np.float32)
    if image.ndim == 3:
        image = image.mean(2)
    image = image / 255
    histogram = np.histogram(image, BINS, (0, 1))[0] / image.size
    gy, gx = np.gradient(image)
    steep = np.hypot(gx, gy)
    slopes = np.histogram(steep, BINS // 2, (0, 0.5))[0] / image.size
    angle = np.arctan2(gy, gx)
    directions = np.histogram(angle % np.pi, 8, (0, np.pi), weights=steep)[0]
    directions = directions / (steep.sum() + 1e-6)
    moments = [
        image.mean(),
        image.std(),
        steep.mean(),
        steep.std(),
        *np.quantile(steep, (0.5, 0.9)),
    ]
    return np.concatenate([histogram, slopes, directions, moments, _spectrum(image)])


def _spectrum(image: np.ndarray) -> np.ndarray:
    """Log power in `BANDS` rings, equally wide in the logarithm of the frequency."""
    rows, columns = image.shape
    window = np.outer(np.hanning(rows), np.hanning(columns))
    power = np.abs(np.fft.rfft2((image - image.mean()) * window)) ** 2
    away = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None])
    edges = np.geomspace(1.0 / max(rows, columns), 0.5, BANDS + 1)
    ring = np.digitize(away.ravel(), edges) - 1
    inside = (ring >= 0) & (ring < BANDS)
    total = np.bincount(ring[inside], power.ravel()[inside], BANDS)
    return np.log(total / np.maximum(np.bincount(ring[inside], minlength=BANDS), 1) + 1e-6)


def fit_predict(train_images, train_labels, test_images) -> tuple[np.ndarray, np.ndarray]:
    """Fit on labelled images and classify others by their `features`.

    Images are uint8[n, S, S], labels int[n]. Returns int[n_test] and float[n_test, classes], the
    probabilities, in the order of the sorted labels seen in training.
    """
    return fit_predict_rows(features(train_images), train_labels, features(test_images))


def fit_predict_rows(train, train_labels, test) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regression on standardised rows float[n, F]; returns as `fit_predict` does."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, C=1.0))
    model.fit(train, np.asarray(train_labels))
    return model.predict(test).astype(int), model.predict_proba(test)
