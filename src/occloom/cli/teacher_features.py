"""`occloom prepare teacher-features`: what a trained teacher holds in occupied voxels, computed once."""

from dataclasses import replace
from pathlib import Path

import torch

from occloom.cache import create_cache
from occloom.data.kitti_files import KittiFrame
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.data.teacher_feature_cache import (
    save_teacher_features,
    teacher_feature_entry,
    teacher_feature_inputs,
    teacher_feature_origin,
)
from occloom.engine.logs import progress_bar
from occloom.errors import InputError
from occloom.inference import find_checkpoint, load_model, load_recipe
from occloom.models.monoocc_distillation import occupied_blocks, teacher_weights
from occloom.models.monoocc_teacher import MonoOccTeacher
from occloom.scene import collate


def teacher_features(*, checkpoint: Path, root: Path | None = None, out: Path | None = None) -> None:
    """Prepare a teacher's features of the training frames as float16, one `.npz` a frame; an interrupted run goes on.

    Args:
        checkpoint: A run folder or checkpoint of monoocc-teacher-*.
        root: Folder that holds `sequences`; the one it was trained on unless given.
        out: Folder to write; <root>/teacher_features/<the run folder's name> unless given.
    """
    folder, recipe = find_checkpoint(checkpoint), load_recipe(checkpoint)
    model, data = load_model(folder), recipe.data
    if not isinstance(model, MonoOccTeacher) or not isinstance(data, SemanticKittiConfig):
        raise InputError(
            f"{recipe.name} is no teacher on SemanticKITTI's layout",
            where=folder,
            rule="features of MonoOcc's privileged branch are prepared",
            remedy="name a checkpoint of monoocc-teacher-*",
        )
    data = data if root is None else replace(data, root=root)
    dataset = data.build("train", replace(model.needs, image_labels=False))
    name = folder.parent.name if folder.name.startswith("step-") else folder.name
    target_folder = out or data.root / "teacher_features" / name
    cache = create_cache(target_folder, teacher_feature_origin(teacher_weights(folder)))
    factors = model.config.branch.base.volume_coarsening
    with progress_bar() as bar:
        task = bar.add_task("teacher features", total=len(dataset))
        for index, token in enumerate(dataset.tokens):
            frame = KittiFrame(data.root, *token.split("/"))
            if not cache.done(teacher_feature_entry(frame), teacher_feature_inputs(frame)):
                sample = collate([dataset.sample(index)])
                assert sample.target is not None, "the training split is labelled"
                with torch.no_grad():
                    volume = model(sample.scene).volume
                where = occupied_blocks(sample.target, factors, model.label_space.empty)
                save_teacher_features(cache, frame, volume[0], where[0])
            bar.advance(task)
    size = sum(
        cache.path(teacher_feature_entry(KittiFrame(data.root, *t.split("/")))).stat().st_size for t in dataset.tokens
    )
    print(f"Features of {len(dataset)} frames, {size / len(dataset):,.0f} bytes each, lie in {target_folder}")
