"""The shape of a street: a smooth map from street coordinates to the world, and courses along it.

Street coordinates are `s` (along the street, metres), `d` (to the left of the centre line, metres) and `h` (above the
road surface, metres). The world frame has z up, metres.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Street:
    """A centre line y = bends(x) with road height rises(x), both sums of sines, and banks beside it.

    Attributes:
        bends: rows (amplitude m, wave number rad/m, phase rad) of the lateral course.
        rises: rows of the height profile, in the same form.
        banks: rise of the ground far to the right and far to the left of the street, metres.
    """

    bends: Float[np.ndarray, "K 3"]
    rises: Float[np.ndarray, "M 3"]
    banks: Float[np.ndarray, "2"]

    def points(
        self, s: Float[np.ndarray, "N"], d: Float[np.ndarray, "N"], h: Float[np.ndarray, "N"]
    ) -> Float[np.ndarray, "N 3"]:
        """Maps street coordinates to world points, banks included."""
        slope = _waves(self.bends, s, derivative=1)
        length = np.sqrt(1.0 + slope**2)
        x = s - d * slope / length
        y = _waves(self.bends, s) + d / length
        z = _waves(self.rises, s) + self.bank(s, d) + h
        return np.stack([x, y, z], axis=-1)

    def bank(self, s: Float[np.ndarray, "N"], d: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
        """Height of the ground over the road level: zero up to 14 m from the centre line, then a smooth rise."""
        t = np.clip((np.abs(d) - 14.0) / 50.0, 0.0, 1.0)
        rise = np.where(d < 0, self.banks[0], self.banks[1])
        return rise * t * t * (3.0 - 2.0 * t) * (0.8 + 0.2 * np.sin(0.05 * s + 0.04 * d))

    def frame(self, s: float, d: float, h: float, *, along: float = 1.0, across: float = 0.0) -> np.ndarray:
        """Pose (4, 4) of something standing on the street: x points to (along, across), z is the road's normal."""
        slope, bend = float(_waves(self.bends, s, derivative=1)), float(_waves(self.bends, s, derivative=2))
        length = np.sqrt(1.0 + slope**2)
        tangent = np.array([1.0 - d * bend / length**3, slope - d * slope * bend / length**3, 0.0])
        tangent[2] = float(_waves(self.rises, s, derivative=1))
        left = np.array([-slope, 1.0, 0.0]) / length
        up = np.cross(tangent, left)
        up /= np.linalg.norm(up)
        forward = along * tangent + across * left
        forward /= np.linalg.norm(forward)
        pose = np.eye(4)
        pose[:3, 0], pose[:3, 1], pose[:3, 2] = forward, np.cross(up, forward), up
        pose[:3, 3] = self.points(np.array([s]), np.array([d]), np.array([h]))[0]
        return pose

    def upright(self, s: float, d: float, h: float, yaw: float = 0.0) -> np.ndarray:
        """Pose (4, 4) of something that stays vertical on a slope, turned by `yaw` from the street's direction."""
        angle = np.arctan(float(_waves(self.bends, s, derivative=1))) + yaw
        pose = np.eye(4)
        pose[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        pose[:3, 3] = self.points(np.array([s]), np.array([d]), np.array([h]))[0]
        return pose


@dataclass(frozen=True)
class Course:
    """Motion on a street in closed form: s = s0 + speed t + sway sin(rate t + phase), d = d0 + drift t.

    Attributes:
        street: the street moved on.
        start: (s0, d0, h) at the phase's zero, metres.
        speed, drift: mean velocity along and across the street, m/s.
        sway, rate, phase: amplitude (m), angular rate (rad/s) and phase (rad) of the variation of speed.
    """

    street: Street
    start: tuple[float, float, float]
    speed: float
    drift: float = 0.0
    sway: float = 0.0
    rate: float = 1.0
    phase: float = 0.0

    def place(self, time: float) -> tuple[float, float]:
        """Street coordinates (s, d) at `time` seconds."""
        s = self.start[0] + self.speed * time + self.sway * np.sin(self.rate * time + self.phase)
        return float(s), float(self.start[1] + self.drift * time)

    def pose(self, time: float) -> Float[np.ndarray, "4 4"]:
        """world_from_object at `time` seconds: x along the velocity, z along the road's normal."""
        s, d = self.place(time)
        along = self.speed + self.sway * self.rate * np.cos(self.rate * time + self.phase)
        return self.street.frame(s, d, self.start[2], along=along, across=self.drift)


def _waves(rows: np.ndarray, s: np.ndarray | float, derivative: int = 0) -> np.ndarray:
    amplitude, number, phase = rows.T
    angle = np.asarray(s)[..., None] * number + phase + derivative * (np.pi / 2)
    return np.asarray((amplitude * number**derivative * np.sin(angle)).sum(axis=-1))
