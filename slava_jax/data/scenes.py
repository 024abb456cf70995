"""What each category draws."""

from slava_jax.data import (
    scenes_alive,
    scenes_devices,
    scenes_grains,
    scenes_made,
    scenes_sheets,
    scenes_threads,
)
from slava_jax.data.scenes_geometry import Canvas
from slava_jax.data.scenes_measure import Scene, litter

_DRAW = {
    "Biological": scenes_alive.biological,
    "Fibres": scenes_threads.fibres,
    "Films_Coated_Surface": scenes_sheets.films,
    "MEMS_devices_and_electrodes": scenes_devices.mems,
    "Nanowires": scenes_threads.nanowires,
    "Particles": scenes_grains.particles,
    "Patterned_surface": scenes_made.patterned,
    "Porous_Sponge": scenes_sheets.sponge,
    "Powder": scenes_grains.powder,
    "Tips": scenes_threads.tips,
}


def draw_scene(category: str, canvas: Canvas) -> Scene:
    """A random scene of the category, and sometimes dirt on it."""
    scene = _DRAW[category](canvas)
    litter(canvas, scene)
    return scene
