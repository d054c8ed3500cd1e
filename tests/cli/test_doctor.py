import platform
from importlib import metadata

import pytest
import torch

from occloom.cli.main import run


def test_versions_hardware_and_extras_are_told(capsys):
    assert run(["doctor"]) == 0
    told = {line[:18].strip(): line[18:].strip() for line in capsys.readouterr().out.splitlines()}
    assert told["torch"] == torch.__version__
    assert told["pytest"].startswith("found")
    assert f"{torch.get_num_threads()} threads" in told["cpu"]


def test_data_is_found_or_not_at_the_folder_asked_about(capsys, tmp_path):
    voxels = tmp_path / "semantickitti" / "sequences" / "08" / "voxels"
    voxels.mkdir(parents=True)
    (voxels / "000000.label").write_bytes(b"")
    assert run(["doctor", "--data", str(tmp_path)]) == 0
    lines = capsys.readouterr().out
    assert f"{tmp_path / 'semantickitti'}: 1 sequences, 1 labelled frames" in lines


def test_data_that_is_not_there_is_told_with_the_option(capsys, tmp_path):
    assert run(["doctor", "--data", str(tmp_path / "nowhere")]) == 0
    assert f"not found at {tmp_path / 'nowhere'}: name a folder by --data" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("machine", "told"),
    [("x86_64", "MISSING: pip install embreex"), ("aarch64", "none for Linux on Arm: towns cannot be made here")],
)
def test_without_embreex_the_remedy_is_the_machines_own(monkeypatch, capsys, machine, told):
    def version(name: str) -> str:
        if name == "embreex":
            raise metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert run(["doctor"]) == 0
    assert f"{'embreex':<18} {told}" in capsys.readouterr().out
