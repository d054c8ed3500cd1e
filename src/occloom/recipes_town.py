"""The sequences of the town in SemanticKITTI's layout, as recipes split them."""

TOWN_TRAIN = tuple(f"{sequence:02d}" for sequence in range(32))
"""Sequences 00 to 31 of the town are trained on."""
TOWN_VAL = tuple(f"{sequence:02d}" for sequence in range(32, 36))
"""Sequences 32 to 35 are validated on; 90 to 99 stay unseen, for `occloom demo`."""
