"""Which samples meet in which step, and how they come into memory.

Nothing here has a state that a checkpoint would have to hold: the order of samples is a pure function of
(seed, epoch), each sample's randomness of (seed, epoch, index).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch.utils.data import DataLoader, Dataset, Sampler

from occloom.errors import InputError, refused_by_system
from occloom.interfaces import SceneDataset
from occloom.scene import Sample, collate

Draw = tuple[int, int]
"""Epoch and index of a sample."""


def epoch_order(num_samples: int, seed: int, epoch: int) -> Int64[np.ndarray, " N"]:
    """The order of the samples in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(num_samples).astype(np.int64)


@dataclass(frozen=True)
class BatchOrder(Sampler[list[Draw]]):
    """This process's part of every step's batch, from a step on.

    The samples of all epochs form one stream, cut into batches; a batch may span two epochs, so none is left out.
    """

    num_samples: int
    batch_size: int
    """Over all processes and parts together."""
    parts: int
    """Into which each process cuts its share."""
    first_step: int
    last_step: int
    """Exclusive."""
    seed: int
    rank: int = 0
    world: int = 1

    def __iter__(self) -> Iterator[list[Draw]]:
        """`parts` lists of samples a step."""
        size = self.batch_size // (self.world * self.parts)
        epoch, order = -1, np.zeros(0, np.int64)
        for step in range(self.first_step, self.last_step):
            for part in range(self.parts):
                first = step * self.batch_size + (part * self.world + self.rank) * size
                draws: list[Draw] = []
                for number in range(first, first + size):
                    if number // self.num_samples != epoch:
                        epoch = number // self.num_samples
                        order = epoch_order(self.num_samples, self.seed, epoch)
                    draws.append((epoch, int(order[number % self.num_samples])))
                yield draws

    def __len__(self) -> int:
        """Number of lists."""
        return (self.last_step - self.first_step) * self.parts


@dataclass(frozen=True)
class AugmentedSamples(Dataset[Sample | InputError]):
    """Samples by (epoch, index), each augmented by a generator of its own."""

    samples: SceneDataset
    seed: int

    def __getitem__(self, draw: Draw) -> Sample | InputError:
        """An error is handed over as a value: a worker process would wrap it in a traceback."""
        epoch, index = draw
        try:
            return self.samples.sample(index, np.random.default_rng([self.seed, epoch, index]))
        except InputError as error:
            return error
        except OSError as error:
            return refused_by_system(error)


@dataclass(frozen=True)
class ExactSamples(Dataset[Sample | InputError]):
    """Samples as they are; `scene_of` names for each the sample whose scene it shows."""

    samples: SceneDataset
    scene_of: Sequence[int] | None = None

    def __getitem__(self, index: int) -> Sample | InputError:
        """The sample, with its own truth and name."""
        try:
            sample = self.samples.sample(index)
            if self.scene_of is None:
                return sample
            other = self.samples.sample(self.scene_of[index])
            return Sample(scene=other.scene, target=sample.target, tokens=sample.tokens)
        except InputError as error:
            return error
        except OSError as error:
            return refused_by_system(error)


def training_batches(
    samples: SceneDataset, order: BatchOrder, *, workers: int, pin_memory: bool = False
) -> Iterator[Sample]:
    """The batches of `order`, augmented.

    Raises:
        InputError: If a sample cannot be read.
    """
    loader = DataLoader(
        AugmentedSamples(samples, order.seed),
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin_memory,
        generator=torch.Generator(),
    )
    return _raising(loader)


def exact_batches(
    samples: SceneDataset,
    indices: Sequence[int],
    *,
    batch_size: int = 1,
    workers: int = 0,
    scene_of: Sequence[int] | None = None,
) -> Iterator[Sample]:
    """The samples of `indices` in that order, not augmented, none twice.

    Raises:
        InputError: If a sample cannot be read.
    """
    batches = [list(indices[first : first + batch_size]) for first in range(0, len(indices), batch_size)]
    loader = DataLoader(
        ExactSamples(samples, scene_of),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_collate,
        generator=torch.Generator(),
    )
    return _raising(loader)


def _collate(samples: Sequence[Sample | InputError]) -> Sample | InputError:
    """One batch, or the first error."""
    errors = [sample for sample in samples if isinstance(sample, InputError)]
    return errors[0] if errors else collate([sample for sample in samples if isinstance(sample, Sample)])


def _raising(loader: DataLoader[Sample | InputError]) -> Iterator[Sample]:
    """The batches; an error that came as a value is raised."""
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch
