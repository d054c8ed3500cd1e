import inspect
from pathlib import Path
from typing import Any

import pytest

from occloom.cli.town import shares_table, town
from occloom.data.label_spaces import SEMANTIC_KITTI
from occloom.errors import InputError
from occloom.town.shares import class_shares
from occloom.town.surround_write import write_surround_town
from occloom.town.write import write_town


def test_the_command_offers_what_the_writer_takes() -> None:
    command = set(inspect.signature(town).parameters)
    taken = {name for writer in (write_town, write_surround_town) for name in inspect.signature(writer).parameters}
    assert command - {"out"} == taken - {"root", "progress"}


def test_the_command_writes_a_town_and_prints_its_shares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    town(tmp_path / "town", sequences=1, frames=1, image_size=(16, 48), following_scans=1, workers=1)
    captured = capsys.readouterr()
    assert captured.out.startswith("made 1 frames")
    assert "making streets" in captured.err
    assert (tmp_path / "town" / "sequences" / "00" / "voxels" / "000000.label").is_file()
    town(tmp_path / "town", sequences=1, frames=1, image_size=(16, 48), following_scans=1, workers=1)
    printed = capsys.readouterr().out
    assert "kept 1 sequences" in printed
    assert "made" not in printed


def test_the_table_has_a_row_a_class(tiny_town: Path) -> None:
    table = shares_table(class_shares(tiny_town))
    assert list(table.columns[0].cells) == [SEMANTIC_KITTI.names[k] for k in SEMANTIC_KITTI.occupied]
    assert all(ratio for ratio in table.columns[4].cells)


@pytest.mark.parametrize(
    "wrong", [{"layout": "nuscenes", "following_scans": 3}, {"val_sequences": 1}, {"sweeps": "all"}]
)
def test_options_of_the_other_kind_of_layout_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="options of"):
        town(tmp_path / "town", **wrong)
