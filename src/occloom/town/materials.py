"""The surfaces the town is made of; the renderer gives each its texture and its way of shining."""

from enum import IntEnum


class Material(IntEnum):
    """Index stored per face in `Mesh.material`."""

    MATTE = 0
    ASPHALT = 1
    MARKING = 2
    PAVING = 3
    KERB = 4
    COBBLE = 5
    GRAVEL = 6
    GRASS = 7
    SOIL = 8
    PLASTER = 9
    BRICK = 10
    CONCRETE = 11
    WOOD = 12
    TILES = 13
    METAL = 14
    GLASS = 15
    LIT_GLASS = 16
    PAINT = 17
    RUBBER = 18
    CLOTH = 19
    SKIN = 20
    BARK = 21
    LEAF = 22
    HEAD_LIGHT = 23
    TAIL_LIGHT = 24
    LAMP = 25
    SIGN = 26
    STONE = 27
