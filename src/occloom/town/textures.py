"""Procedural surfaces: albedo as a function of the place on the surface, at several scales and free of aliasing.

Two pictures of one moment agree on every surface, since nothing but the place decides its albedo. Noise comes from one
tile of fractal value noise with a mip pyramid, and from integer hashes of cells (a brick, a slab, a tile).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float32, Int, Int32, UInt8, UInt32

from occloom.town.materials import Material

TILE = 512  # texels a side of the noise tile
LUMPS = 8  # of the coarsest octave along a side


@dataclass(frozen=True)
class Surface:
    """Places on surfaces, each in the frame of the thing it belongs to, so that texture travels with what moves.

    Attributes:
        s, t: metres along the surface: east and north on the ground, along and up on what is steep.
        height: z of the place, metres.
        colour: linear RGB albedo of the face.
        footprint: width of the pixel on the surface, metres; finer detail is averaged.
    """

    s: Float32[np.ndarray, "N"]
    t: Float32[np.ndarray, "N"]
    height: Float32[np.ndarray, "N"]
    colour: Float32[np.ndarray, "N 3"]
    footprint: Float32[np.ndarray, "N"]

    def part(self, index: Int[np.ndarray, "M"]) -> "Surface":
        """The places of `index`."""
        return Surface(self.s[index], self.t[index], self.height[index], self.colour[index], self.footprint[index])


def surface_at(
    point: Float32[np.ndarray, "N 3"],
    normal: Float32[np.ndarray, "N 3"],
    colour: Float32[np.ndarray, "N 3"],
    footprint: Float32[np.ndarray, "N"],
) -> Surface:
    """Lays coordinates on surfaces: plan coordinates where flat, else along the level line and up the slope."""
    nx, ny, nz = normal.T
    flat = np.abs(nz) > 0.9
    run = np.where(flat, 1.0, np.sqrt(nx * nx + ny * ny)).astype(np.float32)
    ax, ay = np.where(flat, 1.0, -ny / run), np.where(flat, 0.0, nx / run)
    x, y, z = point.T
    s = ax * x + ay * y
    t = np.where(flat, y, -nz * ay * x + nz * ax * y + run * z)
    return Surface(s.astype(np.float32), t.astype(np.float32), z, colour, footprint)


def albedo(material: UInt8[np.ndarray, "N"], surface: Surface) -> Float32[np.ndarray, "N 3"]:
    """Linear RGB albedo of each place: the colour of its face under the texture of its material."""
    answer = surface.colour.copy()
    for kind in np.unique(material):
        index = np.flatnonzero(material == kind)
        answer[index] = _TEXTURES[Material(int(kind))](surface.part(index))
    return np.clip(answer, 0.0, 1.0)


def cell_hash(i: Int32[np.ndarray, "N"], j: Int32[np.ndarray, "N"] | int, salt: int) -> Float32[np.ndarray, "N"]:
    """A number in [0, 1) for each pair of whole numbers; neighbours are unrelated."""
    mixed = i.astype(np.uint32) * np.uint32(0x9E3779B1) + np.asarray(j).astype(np.uint32) * np.uint32(0x85EBCA77)
    mixed = _scramble(mixed ^ np.uint32(salt * 0x27D4EB2F & 0xFFFFFFFF))
    return (mixed >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def noise(
    s: Float32[np.ndarray, "N"],
    t: Float32[np.ndarray, "N"],
    scale: float,
    footprint: Float32[np.ndarray, "N"],
) -> Float32[np.ndarray, "N"]:
    """Fractal noise in [0, 1] with lumps of `scale` metres down to 1/32 of it; even in distribution where sharp."""
    texels, first = _pyramid()
    texel = scale * LUMPS / TILE
    levels = len(first) - 1
    level = np.clip(np.log2(np.maximum(footprint, 1e-6) / texel) + 0.5, 0, levels).astype(np.int32)
    size = np.right_shift(TILE, level)
    turned = 0.8 * s - 0.6 * t, 0.6 * s + 0.8 * t  # so that repeats lie along no wall, joint or picture row
    x, y = (axis / texel * size / TILE - 0.5 for axis in turned)
    i, j = np.floor(x), np.floor(y)
    fx, fy = (x - i).astype(np.float32), (y - j).astype(np.float32)
    mask = size - 1
    i0, j0 = i.astype(np.int32) & mask, j.astype(np.int32) & mask
    i1, row0, row1 = (i0 + 1) & mask, first[level] + j0 * size, first[level] + ((j0 + 1) & mask) * size
    low = texels[row0 + i0] * (1 - fx) + texels[row0 + i1] * fx
    high = texels[row1 + i0] * (1 - fx) + texels[row1 + i1] * fx
    return low * (1 - fy) + high * fy


def _scramble(bits: UInt32[np.ndarray, "N"]) -> UInt32[np.ndarray, "N"]:
    bits = (bits ^ (bits >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    bits = (bits ^ (bits >> np.uint32(12))) * np.uint32(0x297A2D39)
    return bits ^ (bits >> np.uint32(15))


@cache
def _pyramid() -> tuple[np.ndarray, np.ndarray]:
    """The tile and its halved versions as one flat array, and where each begins."""
    rng = np.random.default_rng(20)
    total = np.zeros((TILE, TILE))
    for octave in range(6):
        count = LUMPS << octave
        grid = np.fft.fft2(rng.normal(size=(count, count)))
        full = np.zeros((TILE, TILE), complex)
        wave = np.fft.fftfreq(count, 1 / count).astype(int)
        full[np.ix_(wave, wave)] = grid * np.exp(-((wave[:, None] ** 2 + wave**2) / (0.16 * count**2)))
        layer = np.fft.ifft2(full).real
        total += layer / layer.std() * 0.7**octave
    ranks = np.empty(TILE * TILE)
    ranks[np.argsort(total, axis=None, kind="stable")] = np.arange(TILE * TILE) / (TILE * TILE - 1)
    level, levels = ranks.reshape(TILE, TILE), []
    while level.size > 1:
        levels.append(level)
        level = 0.25 * (level[::2, ::2] + level[1::2, ::2] + level[::2, 1::2] + level[1::2, 1::2])
    levels.append(level)
    starts = np.cumsum([0] + [part.size for part in levels[:-1]]).astype(np.int32)
    return np.concatenate([part.ravel() for part in levels]).astype(np.float32), starts


@dataclass(frozen=True)
class _Cells:
    """What bonded cells give each place.

    Attributes:
        tint: a number in [-1, 1) for each cell, faded where cells are too small to see.
        edge: metres to the next joint.
        joint: share of the pixel that is joint.
    """

    tint: np.ndarray
    edge: np.ndarray
    joint: np.ndarray


def _cells(p: Surface, length: float, height: float, *, shift: float, joint: float, salt: int) -> _Cells:
    """Cells of `length` x `height` metres, each row moved on by the share `shift`, with joints `joint` metres wide."""
    across = p.t / height
    row = np.floor(across)
    along = p.s / length + row * shift
    column = np.floor(along)
    u, v = along - column, across - row
    edge = np.minimum(np.minimum(u, 1 - u) * length, np.minimum(v, 1 - v) * height)
    seen = np.clip(1.5 - p.footprint / height, 0, 1)
    tint = 2 * cell_hash(column.astype(np.int32), row.astype(np.int32), salt) - 1
    mean = 1 - (1 - joint / length) * (1 - joint / height)
    return _Cells(tint * seen, edge, mean + (_line(edge, joint, p.footprint) - mean) * seen)


def _line(edge: np.ndarray, width: float, footprint: np.ndarray) -> np.ndarray:
    """Share of the pixel in a line of `width` metres around distance 0, 0 to 1."""
    blur = np.maximum(footprint, 1e-3)
    return np.clip((0.5 * width + 0.5 * blur - edge) / blur, 0, 1) * np.minimum(1.0, width / blur)


def _lumps(surface: Surface, scale: float, contrast: float, *, stretch: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """A factor around 1 from noise; `stretch` draws it out along t."""
    value = noise(surface.s + shift, surface.t / stretch + 1.7 * shift, scale, surface.footprint)
    return 1 + contrast * (2 * value - 1)


def _grey(surface: Surface, factor: np.ndarray) -> np.ndarray:
    return surface.colour * factor[:, None]


def _mixed(one: np.ndarray, other: np.ndarray | tuple[float, float, float], share: np.ndarray) -> np.ndarray:
    return one + (np.asarray(other, np.float32) - one) * share[:, None]


def _matte(p: Surface) -> np.ndarray:
    return _grey(p, _lumps(p, 0.6, 0.2))


def _asphalt(p: Surface) -> np.ndarray:
    grain = _lumps(p, 0.1, 0.3) * _lumps(p, 0.43, 0.14, shift=0.3)
    stains = _lumps(p, 9.0, 0.11, shift=3.1)
    cells = _cells(p, 5.3, 2.3, shift=0.37, joint=0.02, salt=1)
    mended = (cells.tint > 0.86) * np.clip(cells.edge / 0.1, 0, 1)
    path = noise(p.s, p.t, 2.6, 0 * p.footprint)
    cracks = _line(np.abs(path - 0.5) * 1.5, 0.02, p.footprint) * (stains < 0.98)
    return _grey(p, grain * stains * (1 - 0.35 * mended) * (1 - 0.55 * cracks))


def _marking(p: Surface) -> np.ndarray:
    worn = np.clip(6 * (noise(p.s, p.t, 0.5, p.footprint) - 0.8), 0, 0.75)
    return _mixed(_grey(p, _lumps(p, 0.1, 0.12)), (0.09, 0.09, 0.09), worn)


def _paving(p: Surface) -> np.ndarray:
    cells = _cells(p, 0.5, 0.5, shift=0.5, joint=0.025, salt=2)
    return _grey(p, (1 + 0.2 * cells.tint) * _lumps(p, 0.2, 0.25) * _lumps(p, 3.5, 0.25) * (1 - 0.6 * cells.joint))


def _stone(p: Surface) -> np.ndarray:
    cells = _cells(p, 1.0, 0.6, shift=0.5, joint=0.02, salt=3)
    return _grey(p, (1 + 0.12 * cells.tint) * _lumps(p, 0.15, 0.3) * _lumps(p, 1.5, 0.2) * (1 - 0.5 * cells.joint))


def _cobble(p: Surface) -> np.ndarray:
    cells = _cells(p, 0.14, 0.11, shift=0.5, joint=0.02, salt=4)
    dome = np.where(p.footprint < 0.08, np.clip(cells.edge / 0.03, 0.25, 1), 0.8)
    return _grey(p, (1 + 0.4 * cells.tint) * dome * _lumps(p, 2.0, 0.3))


def _gravel(p: Surface) -> np.ndarray:
    cells = _cells(p, 0.05, 0.05, shift=0.5, joint=0.02, salt=5)
    return _grey(p, (1 + 0.5 * cells.tint) * _lumps(p, 0.4, 0.45) * _lumps(p, 3.0, 0.25))


def _grass(p: Surface) -> np.ndarray:
    blades = _lumps(p, 0.18, 0.55) * _lumps(p, 1.3, 0.35, shift=2.2)
    dry = np.clip(2.2 * noise(p.s, p.t, 6.0, p.footprint) - 1.2, 0, 0.7)
    brown = np.array([1.7, 1.05, 0.75], np.float32) * p.colour
    return _mixed(p.colour, brown, dry) * blades[:, None]


def _soil(p: Surface) -> np.ndarray:
    return _grey(p, _lumps(p, 0.25, 0.5) * _lumps(p, 2.5, 0.35, shift=1.0))


def _plaster(p: Surface) -> np.ndarray:
    streaks = np.clip(2.5 * noise(p.s, p.t / 7, 0.7, p.footprint) - 1.6, 0, 1) * noise(p.s, p.t, 5.0, p.footprint)
    damp = np.clip(1 - p.height / 1.2, 0, 1) * noise(p.s, p.t, 1.0, p.footprint)
    return _grey(p, _lumps(p, 2.6, 0.16) * _lumps(p, 0.18, 0.15) * (1 - 0.28 * streaks) * (1 - 0.3 * damp))


def _brick(p: Surface) -> np.ndarray:
    cells = _cells(p, 0.25, 0.083, shift=0.5, joint=0.014, salt=6)
    body = _grey(p, (1 + 0.35 * cells.tint) * _lumps(p, 0.1, 0.2) * _lumps(p, 4.0, 0.2))
    return _mixed(body, (0.42, 0.4, 0.36), 0.85 * cells.joint)


def _concrete(p: Surface) -> np.ndarray:
    cells = _cells(p, 2.5, 1.25, shift=0.0, joint=0.025, salt=7)
    run = np.clip(2 * noise(p.s, p.t / 8, 0.9, p.footprint) - 1.1, 0, 1)
    return _grey(
        p,
        (1 + 0.07 * cells.tint)
        * _lumps(p, 0.8, 0.2)
        * _lumps(p, 0.12, 0.15)
        * (1 - 0.3 * run)
        * (1 - 0.6 * cells.joint),
    )


def _wood(p: Surface) -> np.ndarray:
    cells = _cells(p, 0.14, 3.0, shift=0.3, joint=0.01, salt=8)
    return _grey(p, (1 + 0.22 * cells.tint) * _lumps(p, 0.08, 0.25, stretch=9.0) * (1 - 0.5 * cells.joint))


def _tiles(p: Surface) -> np.ndarray:
    cells = _cells(p, 0.24, 0.34, shift=0.5, joint=0.025, salt=9)
    phase = p.t / 0.34
    lap = np.clip(1.4 - p.footprint / 0.2, 0, 1) * (phase - np.floor(phase) - 0.5)
    moss = np.clip(3 * noise(p.s, p.t, 2.5, p.footprint) - 2.0, 0, 0.6)
    body = _grey(p, (1 + 0.28 * cells.tint) * (1 - 0.5 * lap) * _lumps(p, 0.2, 0.2) * (1 - 0.55 * cells.joint))
    return _mixed(body, (0.1, 0.11, 0.07), moss)


def _metal(p: Surface) -> np.ndarray:
    return _grey(p, _lumps(p, 0.5, 0.22, stretch=5.0))


def _paint(p: Surface) -> np.ndarray:
    dust = noise(p.s, p.t, 1.2, p.footprint) * np.clip(0.9 - p.height, 0, 0.5)
    return _mixed(_grey(p, _lumps(p, 0.9, 0.06)), (0.25, 0.22, 0.18), 0.7 * dust)


def _glass(p: Surface) -> np.ndarray:
    return _grey(p, _lumps(p, 1.4, 0.5))


def _cloth(p: Surface) -> np.ndarray:
    return _grey(p, _lumps(p, 0.22, 0.4))


def _bark(p: Surface) -> np.ndarray:
    return _grey(p, _lumps(p, 0.12, 0.65, stretch=6.0) * _lumps(p, 1.0, 0.25))


def _leaf(p: Surface) -> np.ndarray:
    cells = _cells(p, 0.07, 0.05, shift=0.5, joint=0.012, salt=10)
    gap = cells.joint
    return _grey(p, (1 + 0.45 * cells.tint) * (1 - 0.5 * gap) * _lumps(p, 0.6, 0.3)) * (
        1 + 0.2 * cells.tint[:, None] * _LEAF_HUE
    )


def _plain(p: Surface) -> np.ndarray:
    return p.colour


_LEAF_HUE = np.array([1.0, 0.2, -0.8], np.float32)
_TEXTURES: dict[Material, Callable[[Surface], np.ndarray]] = {
    Material.MATTE: _matte,
    Material.ASPHALT: _asphalt,
    Material.MARKING: _marking,
    Material.PAVING: _paving,
    Material.KERB: _stone,
    Material.COBBLE: _cobble,
    Material.GRAVEL: _gravel,
    Material.GRASS: _grass,
    Material.SOIL: _soil,
    Material.PLASTER: _plaster,
    Material.BRICK: _brick,
    Material.CONCRETE: _concrete,
    Material.WOOD: _wood,
    Material.TILES: _tiles,
    Material.METAL: _metal,
    Material.GLASS: _glass,
    Material.LIT_GLASS: _glass,
    Material.PAINT: _paint,
    Material.RUBBER: _matte,
    Material.CLOTH: _cloth,
    Material.SKIN: _plain,
    Material.BARK: _bark,
    Material.LEAF: _leaf,
    Material.HEAD_LIGHT: _plain,
    Material.TAIL_LIGHT: _plain,
    Material.LAMP: _plain,
    Material.SIGN: _plain,
    Material.STONE: _stone,
}
