"""Films and sponges: surfaces that fill the picture, dense or full of holes."""

import math

import numpy as np
from scipy import ndimage

from slava_jax.synthetic.scenes.geometry import Canvas, Outline, grains, mosaic
from slava_jax.synthetic.scenes.measure import Scene, neighbours, roughen, seen


def films(canvas: Canvas) -> Scene:
    """A coating: granular, cracked, wrinkled, with pinholes, or ending at a step."""
    kind = canvas.choice(
        ("granular", "cracked", "wrinkled", "pinholes", "step", "smooth"), (4, 3, 2.5, 3, 2, 1.5)
    )
    draw = {
        "granular": _granular,
        "cracked": _cracked,
        "wrinkled": _wrinkled,
        "pinholes": _pinholes,
        "step": _step,
        "smooth": _smooth,
    }[kind]
    scene = draw(canvas)
    scene.aggregation = "continuous"
    film = ~scene.mask if kind in ("pinholes", "smooth") else scene.mask
    roughen(canvas, scene, film, (4, 3, 1))
    return scene


def _film(canvas: Canvas, height, mask, feature, shape) -> Scene:
    material = canvas.zeros() + canvas.noise(60) * np.float32(0.06)
    return Scene(height.astype(np.float32), material, mask, feature, shape)


def _granular(canvas: Canvas) -> Scene:
    """Flat intergrown grains, seen from above."""
    pitch = canvas.log_uniform(5, 26)
    warp = np.float32(0.25 * pitch)
    x, y = canvas.x + warp * canvas.noise(pitch), canvas.y + warp * canvas.noise(pitch)
    cells = mosaic(canvas.rng, x, y, pitch, 0.95)
    tall = canvas.rng.normal(0, canvas.uniform(0.02, 0.2) * pitch, len(cells.seeds))
    dome = 1 - np.exp(-cells.wall / np.float32(canvas.uniform(0.08, 0.35) * pitch))
    height = dome * canvas.uniform(0.12, 0.45) * pitch + tall.astype(np.float32)[cells.ident]
    height += canvas.noise(60)
    scene = _film(canvas, height, np.ones(height.shape, bool), "grain", "polygonal")
    return _measure_cells(canvas, scene, cells)


def _measure_cells(canvas: Canvas, scene: Scene, cells) -> Scene:
    """Counts the cells whose centre is in the frame and measures their size by area."""
    area = np.bincount(cells.ident.ravel(), minlength=len(cells.seeds)) / canvas.scale**2
    inside = area > 6
    x, y = cells.seeds.T
    inside &= (x > 0) & (x < canvas.width) & (y > 0) & (y < canvas.height)
    scene.count = int(inside.sum())
    scene.kind = "equivalent diameter"
    scene.sizes = np.sqrt(area[inside] * 4 / math.pi)
    scene.spacing, scene.order = neighbours(cells.seeds[inside])
    return scene


def _cracked(canvas: Canvas) -> Scene:
    """Mud cracks: plates with curled edges, separated by gaps of varying width."""
    pitch = canvas.log_uniform(30, 150)
    warp = np.float32(0.12 * pitch)
    x, y = canvas.x + warp * canvas.noise(pitch / 3), canvas.y + warp * canvas.noise(pitch / 3)
    x, y = x + canvas.noise(5) * np.float32(0.8), y + canvas.noise(5) * np.float32(0.8)
    cells = mosaic(canvas.rng, x, y, pitch, 1.0)
    width = canvas.log_uniform(0.8, 4.5) * (1 + 0.4 * canvas.noise(40))
    plate = cells.wall > width
    depth = canvas.uniform(3, 12)
    curl = np.exp(-np.maximum(cells.wall - width, 0) / np.float32(6)) * canvas.uniform(0, 2)
    fine = canvas.noise(canvas.uniform(3, 30)) * np.float32(canvas.uniform(0.1, 0.7))
    height = np.where(plate, curl + fine, -depth + 2 * fine)
    scene = _film(canvas, height, plate, "plate", "polygonal")
    _measure_cells(canvas, scene, cells)
    labels, gaps = ndimage.label(~plate[::2, ::2])
    big = np.bincount(labels.ravel())[1:] > 8 * canvas.scale**2
    scene.defects["crack"] = int(big.sum()) if gaps else 0
    return scene


def _wrinkled(canvas: Canvas) -> Scene:
    """Buckled folds, straight or labyrinthine."""
    pitch = canvas.log_uniform(7, 40)
    angle = canvas.uniform(0, math.pi)
    u, _ = canvas.turned(angle)
    wander = canvas.choice((0.15, 0.5, 1.2)) * pitch
    coarse = canvas.noise(2.2 * pitch) + 0.5 * canvas.noise(pitch)
    phase = 2 * math.pi * (u + np.float32(wander) * coarse) / np.float32(pitch)
    fold = np.sin(phase) if canvas.chance(0.5) else 1 - 2 * np.abs(np.sin(phase / 2))
    strength = np.clip(0.8 + 0.5 * canvas.noise(50), 0.1, 1.5)
    height = fold * strength * np.float32(canvas.uniform(0.06, 0.2) * pitch)
    height += canvas.noise(4) * np.float32(0.15)
    scene = _film(canvas, height, np.ones(height.shape, bool), "wrinkle", "ridge")
    scene.spacing = pitch
    if wander < 0.3 * pitch:
        scene.orientation = round((90 - math.degrees(angle)) % 180, 1) % 180
        scene.alignment, scene.order = "aligned", "partly ordered"
    else:
        scene.alignment = "random"
    return scene


def _pinholes(canvas: Canvas) -> Scene:
    """A flat film with few or many round holes, which cover less of the area than in a sponge."""
    radius = canvas.log_uniform(2.2, 11)
    cover = canvas.log_uniform(0.008, 0.14)
    number = int(np.clip(cover * 256 * 233 / (math.pi * radius**2), 3, 160))
    centres = canvas.scatter(number)
    radii = (radius * np.exp(canvas.rng.normal(0, 0.3, number))).astype(np.float32)
    outline = Outline(lobes=canvas.choice((0.0, 0.04, 0.1)), power=canvas.choice((0.15, 0.35)))
    floor = canvas.zeros()
    bump, ident = grains(canvas, centres, radii, np.zeros(number), outline, floor)
    hole = ident >= 0
    height = -np.minimum(bump, canvas.uniform(4, 12)) * canvas.uniform(0.7, 1.5)
    height += canvas.fractal(canvas.uniform(8, 40), 3) * np.float32(canvas.uniform(0.1, 0.6))
    scene = _film(canvas, height, hole, "pinhole", "round")
    visible = seen(ident, 5 * canvas.scale**2)
    scene.count = len(visible)
    scene.sizes = 2 * radii[visible]
    scene.spacing, scene.order = neighbours(centres[visible])
    scene.defects["pinhole"] = len(visible)
    return scene


def _step(canvas: Canvas) -> Scene:
    """The edge of a film, or its cross-section on the substrate."""
    angle = canvas.uniform(-0.25, 0.25) if canvas.chance(0.5) else canvas.uniform(0, math.pi)
    _, v = canvas.turned(angle)
    rough = canvas.log_uniform(0.3, 5)
    edge = v - canvas.uniform(-45, 45) + rough * canvas.noise(canvas.uniform(4, 40))
    on = edge > 0
    step = canvas.uniform(4, 20)
    slope = np.clip(edge / np.float32(canvas.uniform(0.5, 6)), 0, 1)
    pitch = canvas.log_uniform(3.5, 14)
    cells = mosaic(canvas.rng, canvas.x, canvas.y, pitch, 0.9)
    grain = np.minimum(cells.wall, 0.3 * pitch) * np.float32(canvas.uniform(0.1, 0.8))
    height = slope * (step + grain) + canvas.noise(30) * 0.3
    thickness = canvas.width
    if canvas.chance(0.5):  # a layer of this thickness in cross-section
        thickness = canvas.uniform(18, 90)
        on &= edge < thickness
        columns = 0.5 * np.sin((canvas.turned(angle)[0] + canvas.noise(12)) * np.float32(1.2))
        height = np.where(edge > thickness, -step * 0.5 + canvas.noise(8) * 0.3, height)
        height += np.where(on, columns, 0)
    scene = _film(canvas, height, on, "layer", "layered")
    scene.material += np.where(on, np.float32(canvas.uniform(0.1, 0.9)), 0)
    scene.count, scene.kind = 1, "thickness"
    scene.sizes = np.array([thickness]) if thickness < canvas.width else None
    scene.orientation = round(-math.degrees(angle) % 180, 1) % 180
    scene.alignment = "aligned"
    return scene


def _smooth(canvas: Canvas) -> Scene:
    """An even film with nodules, scratches and little else."""
    height = canvas.fractal(canvas.uniform(6, 30), 4, 0.6) * np.float32(canvas.uniform(0.05, 0.5))
    number = int(canvas.rng.integers(2, 40))
    centres = canvas.scatter(number)
    radii = (canvas.log_uniform(2, 7) * np.exp(canvas.rng.normal(0, 0.3, number))).astype(
        np.float32
    )
    outline = Outline(flatten=canvas.uniform(0.3, 0.7))
    height, ident = grains(canvas, centres, radii, np.full(number, -0.5), outline, height)
    scratches = int(canvas.rng.integers(0, 5))
    for _ in range(scratches):
        _, v = canvas.turned(canvas.uniform(0, math.pi), tuple(canvas.scatter(1)[0]))
        depth = np.float32(canvas.uniform(0.8, 3))
        height -= depth * np.exp(-np.square(v / np.float32(canvas.uniform(0.6, 1.6))))
    scene = _film(canvas, height, ident >= 0, "nodule", "hemispherical")
    visible = seen(ident, 5 * canvas.scale**2)
    scene.count = len(visible)
    scene.sizes = 2 * radii[visible] if len(visible) else None
    scene.spacing, scene.order = neighbours(centres[visible])
    scene.defects = {"nodule": len(visible), "scratch": scratches}
    return scene


def sponge(canvas: Canvas) -> Scene:
    """A porous body: a network of struts, bubbles, or a honeycomb of thin walls."""
    kind = canvas.choice(("struts", "bubbles", "cells"), (4, 4, 3))
    scene = {"struts": _struts, "bubbles": _bubbles, "cells": _honeycomb}[kind](canvas)
    scene.feature, scene.aggregation = "pore", "continuous"
    roughen(canvas, scene, scene.height > np.median(scene.height[::4, ::4]), (3, 2, 2))
    return scene


def _struts(canvas: Canvas) -> Scene:
    """Two or three layers of a random network; deeper layers are visible through the holes."""
    pitch = canvas.log_uniform(6, 24)
    layers = int(canvas.rng.integers(2, 4))
    porosity = canvas.uniform(0.35, 0.75)
    height = np.float32(-1.4 * pitch * layers) + canvas.noise(pitch)
    top = None
    for layer in range(layers):
        web = np.abs(canvas.noise(pitch) + 0.35 * canvas.noise(pitch / 2))
        width = np.quantile(web[::3, ::3], 1 - porosity * (0.75 + 0.25 * layer / layers))
        strut = np.sqrt(np.maximum(1 - (web / width) ** 2, 0)) * np.float32(0.45 * pitch)
        level = np.float32((layer - layers) * 1.2 * pitch) + 0.3 * pitch * canvas.noise(4 * pitch)
        top = web < width
        height = np.where(top, level + strut, height)
    scene = Scene(height.astype(np.float32), canvas.zeros(), ~top, "pore", "interconnected")
    return _measure_pores(canvas, scene)


def _measure_pores(canvas: Canvas, scene: Scene) -> Scene:
    labels, number = ndimage.label(scene.mask[::2, ::2])
    area = 4 * np.bincount(labels.ravel(), minlength=number + 1)[1:] / canvas.scale**2
    big = np.flatnonzero(area > 12)
    if not len(big):
        big = np.arange(number)
    scene.count, scene.kind = len(big), "equivalent diameter"
    scene.sizes = np.sqrt(area[big] * 4 / math.pi) if len(big) else None
    if 1 < len(big) <= 500:
        at = np.array(ndimage.center_of_mass(labels > 0, labels, big + 1)) * 2 / canvas.scale
        scene.spacing, scene.order = neighbours(at)
    return scene


def _bubbles(canvas: Canvas) -> Scene:
    """Round, interconnected pores of many sizes; deeper ones are darker."""
    radius = canvas.log_uniform(5, 22)
    cover = canvas.uniform(0.35, 1.3)
    number = int(np.clip(cover * 256 * 233 / (math.pi * radius**2), 8, 260))
    spread = canvas.uniform(0.15, 0.55)
    centres = canvas.scatter(number, radius)
    radii = np.clip(radius * np.exp(canvas.rng.normal(0, spread, number)), 2.5, 60).astype(
        np.float32
    )
    outline = Outline(lobes=canvas.choice((0.0, 0.05, 0.12)), flatten=canvas.uniform(0.8, 2.0))
    bump, ident = grains(canvas, centres, radii, np.zeros(number), outline, canvas.zeros())
    # Windows between pores, where a second set of smaller holes cuts through the walls.
    inner = canvas.scatter(number)
    deep, _ = grains(
        canvas,
        inner,
        radii * 0.4,
        np.zeros(number),
        Outline(lobes=0.1, flatten=2.5),
        canvas.zeros(),
    )
    pore = ident >= 0
    deep = np.where(pore, deep, 0)
    height = (
        -bump - deep + canvas.noise(canvas.uniform(20, 60)) * np.float32(canvas.uniform(0.5, 4))
    )
    scene = Scene(height.astype(np.float32), canvas.zeros(), pore, "pore", "round")
    visible = seen(ident, 8 * canvas.scale**2)
    scene.count = len(visible)
    scene.sizes = 2 * radii[visible]
    scene.spacing, scene.order = neighbours(centres[visible])
    return scene


def _honeycomb(canvas: Canvas) -> Scene:
    """A foam of polygonal cells with thin walls, sometimes with a second one behind it."""
    pitch = canvas.log_uniform(11, 48)
    warp = np.float32(0.15 * pitch)
    x, y = canvas.x + warp * canvas.noise(pitch), canvas.y + warp * canvas.noise(pitch)
    cells = mosaic(canvas.rng, x, y, pitch, canvas.uniform(0.6, 1.0))
    wall = canvas.uniform(0.04, 0.14) * pitch * (1 + 0.3 * canvas.noise(pitch))
    deep = canvas.uniform(0.4, 1.2) * pitch
    bowl = 1 - np.exp(
        -np.maximum(cells.wall - wall, 0) / np.float32(canvas.uniform(0.04, 0.2) * pitch)
    )
    floor = canvas.rng.uniform(0.5, 1.3, len(cells.seeds)).astype(np.float32)[cells.ident]
    height = -bowl * floor * deep
    if canvas.chance(0.5):
        back = mosaic(canvas.rng, canvas.x, canvas.y, pitch * 0.6, 1.0)
        rib = np.exp(-np.square(back.wall / np.float32(0.12 * pitch)))
        height = np.maximum(height, -deep * (1.1 - 0.5 * rib)) - np.where(bowl > 0.7, 0.2 * deep, 0)
    scene = Scene(height.astype(np.float32), canvas.zeros(), cells.wall > wall, "pore", "polygonal")
    return _measure_cells(canvas, scene, cells)
