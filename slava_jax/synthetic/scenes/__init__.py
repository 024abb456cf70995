"""The drawing functions of the categories."""

from slava_jax.synthetic.scenes import biological, devices, fabricated, fibres, films, grains
from slava_jax.synthetic.scenes.geometry import Canvas
from slava_jax.synthetic.scenes.measure import Scene, litter

_DRAW = {
    "Biological": biological.biological,
    "Fibres": fibres.fibres,
    "Films_Coated_Surface": films.films,
    "MEMS_devices_and_electrodes": devices.mems,
    "Nanowires": fibres.nanowires,
    "Particles": grains.particles,
    "Patterned_surface": fabricated.patterned,
    "Porous_Sponge": films.sponge,
    "Powder": grains.powder,
    "Tips": fibres.tips,
}


def draw_scene(category: str, canvas: Canvas) -> Scene:
    """Draws a random scene of the category, sometimes with debris on it."""
    scene = _DRAW[category](canvas)
    litter(canvas, scene)
    return scene
