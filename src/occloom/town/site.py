"""The ground to build on: collects what stands along a street and gives vehicles and people their numbers."""

import numpy as np

from occloom.town.assets_plants import bush, conifer, tree
from occloom.town.materials import Material
from occloom.town.mesh import Mesh, concatenate
from occloom.town.shapes import Colour, surface
from occloom.town.street import Street

ROAD, PARKING, SIDEWALK, OTHER_GROUND, MARKING, TERRAIN = 40, 44, 48, 49, 60, 72
KERB_HEIGHT = 0.12


class Site:
    """A street under construction.

    Attributes:
        street: the map from street coordinates to the world.
        rng: the one source of chance for the whole world.
        half: half the width of the road, metres.
        lamps: positions of street lamps so far.
    """

    def __init__(self, street: Street, rng: np.random.Generator, *, half: float) -> None:
        self.street, self.rng, self.half = street, rng, half
        self.lamps: list[np.ndarray] = []
        self._meshes: list[Mesh] = []
        self._instances = 0
        self._trees, self._far_trees = (
            [
                tree(rng, height=float(rng.uniform(6.0, 11.0)), slim=bool(rng.uniform() < 0.25), fine=fine)
                for _ in range(6)
            ]
            for fine in (True, False)
        )
        self._conifers = [conifer(rng, height=float(rng.uniform(6.0, 10.0))) for _ in range(2)]
        self._bushes = [
            bush(rng, radius=float(rng.uniform(0.6, 1.3)), height=float(rng.uniform(0.8, 1.9))) for _ in range(7)
        ]

    def mesh(self) -> Mesh:
        """Everything so far, world frame."""
        return concatenate(self._meshes)

    def number(self) -> int:
        """A new instance number."""
        self._instances += 1
        return self._instances

    def ground(
        self,
        s: tuple[float, float],
        d: tuple[float, float],
        label: int,
        material: Material,
        colour: Colour,
        *,
        height: float = KERB_HEIGHT,
        step: float = 3.0,
        rough: float = 0.0,
    ) -> None:
        """A patch of ground between two values of s and of d, at `height` over the road, `rough` metres uneven."""
        if s[1] - s[0] < 0.05 or abs(d[1] - d[0]) < 0.05:
            return
        rows = np.linspace(*s, max(1, round((s[1] - s[0]) / step)) + 1)
        wide = abs(d[1] - d[0])
        columns = np.linspace(
            min(d), max(d), max(1, round(wide / (step if wide < 25 else 2 * step))) + 1 if wide > 6 else 2
        )
        grid_s, grid_d = (g.ravel() for g in np.meshgrid(rows, columns, indexing="ij"))
        lift = height + rough * (np.sin(1.3 * grid_s) * np.sin(0.9 * grid_d + 0.5 * grid_s) - 0.6)
        points = self.street.points(grid_s, grid_d, lift)
        width = len(columns)
        corner = (np.arange(len(rows) - 1)[:, None] * width + np.arange(width - 1)).ravel()
        faces = np.concatenate(
            [
                np.stack([corner, corner + width, corner + width + 1], -1),
                np.stack([corner, corner + width + 1, corner + 1], -1),
            ]
        )
        self._meshes.append(surface(points, faces, material, colour).named(label, 0))

    def kerb(self, s: tuple[float, float], d: tuple[float, float]) -> None:
        """The upright side of a kerb along a line of constant s or constant d."""
        count = max(1, round((abs(s[1] - s[0]) + abs(d[1] - d[0])) / 3.0)) + 1
        line_s, line_d = np.linspace(*s, count), np.linspace(*d, count)
        low = self.street.points(line_s, line_d, np.full(count, -0.05))
        high = self.street.points(line_s, line_d, np.full(count, KERB_HEIGHT))
        i = np.arange(count - 1)
        faces = np.concatenate([np.stack([i, i + 1, count + i + 1], -1), np.stack([i, count + i + 1, count + i], -1)])
        self._meshes.append(
            surface(np.concatenate([low, high]), faces, Material.KERB, (0.36, 0.36, 0.34)).named(SIDEWALK, 0)
        )

    def upright(
        self, mesh: Mesh, s: float, d: float, *, height: float = KERB_HEIGHT, yaw: float = 0.0, size: float = 1.0
    ) -> None:
        """Stands a labelled mesh vertically on the street, turned by `yaw`."""
        pose = self.street.upright(s, d, height, yaw)
        pose[:3, :3] *= size
        self._meshes.append(mesh.placed(pose))

    def along(self, mesh: Mesh, s: float, d: float, *, height: float = KERB_HEIGHT) -> None:
        """Lays a labelled mesh (x along the street from 0) on the street, bent and sloped with it."""
        x, y, z = mesh.vertices.T.astype(float)
        bent = self.street.points(s + x, d + y, height + z).astype(np.float32)
        self._meshes.append(Mesh(bent, mesh.faces, mesh.label, mesh.instance, mesh.material, mesh.colour))

    def across(self, mesh: Mesh, s: float, d: tuple[float, float], *, height: float = KERB_HEIGHT) -> None:
        """Lays a labelled mesh (x from 0) across the street, from d[0] towards d[1]."""
        x, y, z = mesh.vertices.T.astype(float)
        way = np.sign(d[1] - d[0])
        bent = self.street.points(s - way * y, d[0] + way * x, height + z).astype(np.float32)
        self._meshes.append(Mesh(bent, mesh.faces, mesh.label, mesh.instance, mesh.material, mesh.colour))

    def park(
        self,
        mesh: Mesh,
        label: int,
        s: float,
        d: float,
        *,
        height: float = 0.0,
        along: float = 1.0,
        across: float = 0.0,
    ) -> None:
        """Puts one more instance on the ground, following the slope and facing (along, across)."""
        pose = self.street.frame(s, d, height, along=along, across=across)
        pose[2, 3] -= 0.005  # tyres and soles touch the ground
        self._meshes.append(mesh.named(label, self.number()).placed(pose))

    def tree(self, s: float, d: float, *, size: float = 1.0, wild: bool = False) -> None:
        """A tree of one of the kinds of this town; `wild` ones may be conifers."""
        kinds = (self._trees if abs(d) < 17.0 else self._far_trees) + (self._conifers * 2 if wild else [])
        kind = kinds[int(self.rng.integers(len(kinds)))]
        self.upright(
            kind, s, d, height=0.05, yaw=float(self.rng.uniform(0, 6.3)), size=size * float(self.rng.uniform(0.8, 1.2))
        )

    def bush(self, s: float, d: float, *, size: float = 1.0) -> None:
        """A bush of one of the kinds of this town."""
        kind = self._bushes[int(self.rng.integers(len(self._bushes)))]
        self.upright(
            kind, s, d, height=0.05, yaw=float(self.rng.uniform(0, 6.3)), size=size * float(self.rng.uniform(0.7, 1.25))
        )
