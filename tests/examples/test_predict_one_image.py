import importlib.util
import shutil
from pathlib import Path

from PIL import Image

from occloom.cli import prepare
from occloom.data.depth_cache import depth_entry
from occloom.data.kitti_files import KittiFrame

EXAMPLE = Path(__file__).parents[2] / "examples" / "predict_one_image.py"


def test_the_example_of_the_readme_draws_a_prediction(tiny_town, tmp_path, capsys):
    sequence = tiny_town / "sequences" / "01"
    shutil.copytree(sequence, tmp_path / "town" / "sequences" / "01")
    prepare.depth(root=tmp_path / "town", workers=1)
    assert (tmp_path / "town/depth/stereo-sgbm" / depth_entry(KittiFrame(tmp_path / "town", "01", "000000"))).is_file()
    spec = importlib.util.spec_from_file_location("predict_one_image", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main(frame=tmp_path / "town/sequences/01", out=tmp_path / "prediction.png")
    assert Image.open(tmp_path / "prediction.png").width > 600
    assert "voxels are filled" in capsys.readouterr().out
