"""The fixed front end: its invariances, and what it preserves."""

import jax.numpy as jnp
import numpy as np

from slava_jax.models.gradients import CELL, gradient_cells


def picture(seed=0):
    """A smooth random image, float32[1, 64, 64, 1]."""
    rng = np.random.default_rng(seed)
    waves = rng.normal(size=(5, 4))
    y, x = np.mgrid[:64, :64] / 64 * 2 * np.pi
    image = sum(np.sin(a * 2 * x + b * 2 * y + c * 9) for a, b, c, _ in waves)
    return jnp.asarray(image, jnp.float32)[None, :, :, None] / 8


def test_brightness_and_contrast_do_not_count():
    """They are random in every micrograph and say nothing about the specimen."""
    image = picture()
    changed = 0.3 * image + 0.4
    # To 2 %: the guard against zero deviation matters more at low contrast.
    cells = gradient_cells(image)
    np.testing.assert_allclose(gradient_cells(changed), cells, rtol=0.02, atol=0.02)


def test_polarity_changes_only_the_signed_statistics():
    """A bright line on dark and a dark line on bright have the same strength and orientation."""
    cells, inverted = gradient_cells(picture()), gradient_cells(-picture())
    for scale in range(3):
        start = 10 * scale
        oriented = slice(start, start + 5)
        np.testing.assert_allclose(inverted[..., oriented], cells[..., oriented], atol=1e-4)
        ridge, pit = cells[..., start + 5], cells[..., start + 6]
        np.testing.assert_allclose(inverted[..., start + 5], pit, atol=1e-4)
        assert np.abs(ridge - pit).max() > 0.1
        signed = slice(start + 7, start + 10)
        np.testing.assert_allclose(inverted[..., signed], -cells[..., signed], atol=1e-4)


def test_a_quarter_turn_turns_the_orientation():
    """cos 2a and sin 2a change sign, strength and the second harmonic's cosine do not."""
    image = picture(1)
    cells = gradient_cells(image)
    turned = gradient_cells(jnp.rot90(image, axes=(1, 2)))
    back = jnp.rot90(turned, -1, axes=(1, 2))
    for channel, sign in ((0, 1), (1, -1), (2, -1), (3, 1), (4, 1)):
        np.testing.assert_allclose(back[..., channel], sign * cells[..., channel], atol=1e-3)


def test_a_uniform_picture_gives_finite_cells():
    """No division by a deviation of zero."""
    cells = gradient_cells(jnp.full((2, 32, 32, 3), 0.5))
    assert cells.shape == (2, 32 // CELL, 32 // CELL, 30)
    assert np.isfinite(cells).all() and np.abs(cells).max() < 0.1
