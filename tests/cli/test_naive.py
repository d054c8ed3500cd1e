import json
from dataclasses import replace

import numpy as np

from occloom.cli.main import run
from occloom.interfaces import Needs
from occloom.recipes import bevdet4d_town


def test_the_most_frequent_class_of_each_voxel_is_scored_as_a_model_is(tiny_surround_town, tmp_path, capsys):
    out = tmp_path / "naive.json"
    arguments = ["naive", "bevdet4d-town", "--data.root", str(tiny_surround_town), "--out", str(out)]
    assert run(arguments) == 0
    printed, report = capsys.readouterr().out, json.loads(out.read_text())
    assert report["protocol"] == "occ3d"
    assert f"{100 * report['miou']:.2f}" in printed

    data = replace(bevdet4d_town().data, root=tiny_surround_town)
    truths = {split: data.build(split, Needs(images=False)) for split in ("train", "val")}
    seen = [truths["train"].sample(index).target for index in range(len(truths["train"]))]
    votes = np.stack([[np.where(t.observed, t.labels, -1) == c for t in seen] for c in range(18)]).sum((1, 2))
    prior = np.where(votes.sum(0) > 0, votes.argmax(0), data.label_space.empty)
    both = either = 0
    for index in range(len(truths["val"])):
        target = truths["val"].sample(index).target
        assert target is not None
        full, counted = target.labels[0].numpy() != data.label_space.empty, target.observed[0].numpy()
        both += (full & (prior != data.label_space.empty) & counted).sum()
        either += ((full | (prior != data.label_space.empty)) & counted).sum()
    np.testing.assert_allclose(report["iou"], both / either, rtol=1e-12)


def test_a_recipe_that_is_none_is_refused(capsys):
    assert run(["naive", "bevdet4d"]) == 2
    assert "bevdet4d" in capsys.readouterr().err
