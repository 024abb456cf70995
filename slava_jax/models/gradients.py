"""Local gradient statistics: a fixed, parameter-free front end for a small vision encoder.

A linear patch embedding must learn from examples that an edge is an edge at any position, polarity
and contrast, which takes more than a few thousand micrographs and a few minutes. So the image is
standardised, and over cells of 8 pixels the strength and orientation of its gradients are averaged
at three scales, as the structure tensor and its second harmonic. Ridges and pits (the signed
Laplacian), the grey value and the signed gradient are added.
"""

import jax
import jax.numpy as jnp

CELL = 8  # pixels
_SCALES = (2, 4, 8)  # pixels averaged before taking the gradient; 1 is mostly shot noise
_GAIN = 2.0  # brings the mean strengths close to 1


def gradient_cells(images):
    """float[B, P, P, channels] -> float[B, P/8, P/8, 30]; P is a multiple of 8."""
    grey = images.mean(axis=-1)
    deviation = grey.std(axis=(1, 2), keepdims=True)
    grey = (grey - grey.mean(axis=(1, 2), keepdims=True)) / (deviation + 1e-3)
    # Pool each statistic before stacking: the full-size stack would be ten images.
    cells = [_pool(x, CELL // s) for s in _SCALES for x in _statistics(_pool(grey, s))]
    return jnp.stack(cells, axis=-1) * _GAIN


def _pool(x, side: int):
    """Means over cells of `side x side`, a power of two: [B, h, w] -> [B, h/side, w/side]."""
    while side > 1:  # slices: reductions over two axes are several times slower on CPUs
        x = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
        side //= 2
    return x


def _statistics(grey):
    """The ten statistics, [B, h, w] each."""
    padded = jnp.pad(grey, ((0, 0), (1, 1), (1, 1)), mode="edge")
    left, right = padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]
    above, below = padded[:, :-2, 1:-1], padded[:, 2:, 1:-1]
    gx, gy = (right - left) / 2, (below - above) / 2
    square = gx * gx + gy * gy + 1e-6
    inverse = jax.lax.rsqrt(square)
    # Strength times cosine and sine of twice the angle (opposite gradients have the same
    # orientation) and of four times the angle.
    cos2, sin2 = (gx * gx - gy * gy) * inverse, 2 * gx * gy * inverse
    cos4, sin4 = (cos2 * cos2 - sin2 * sin2) * inverse, 2 * cos2 * sin2 * inverse
    laplacian = left + right + above + below - 4 * grey
    oriented = [square * inverse, cos2, sin2, cos4, sin4]
    ridges = [jnp.maximum(laplacian, 0), jnp.maximum(-laplacian, 0)]
    return [*oriented, *ridges, grey, gx, gy]
