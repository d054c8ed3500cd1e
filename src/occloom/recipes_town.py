"""The sequences of the town in SemanticKITTI's layout, as recipes split them, and what short runs on them share."""

from occloom.engine.config import OneCycle, TrainConfig

TOWN_TRAIN = tuple(f"{sequence:02d}" for sequence in range(32))
"""Sequences 00 to 31 of the town are trained on."""
TOWN_VAL = tuple(f"{sequence:02d}" for sequence in range(32, 36))
"""Sequences 32 to 35 are validated on; 90 to 99 stay unseen, for `occloom demo`."""

SHORT_RUN = TrainConfig(
    steps=400,
    batch_size=2,
    learning_rate=1.5e-3,
    weight_decay=0.01,
    schedule=OneCycle(warmup=0.05),
    clip_norm=10.0,
    ema_decay=0.98,
    validate_every=200,
    save_every=100,
)
"""Of small twins with one camera, which begin with the trunk of road-pretrain-town: minutes of one thread."""
