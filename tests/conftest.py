"""What the tests share: real frames where they are at hand, one tiny town a run, one thread a process."""

import fcntl
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """One thread a process: test processes share the cores, and sums keep their order."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real frames; a test that asks for it needs the marker of the same name."""
    root = Path(os.environ.get("OCCLOOM_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (root / "INDEX.json").is_file():
        pytest.skip(f"no real data at {root}; name it in OCCLOOM_REAL_DATA")
    return root.resolve()


@pytest.fixture(scope="session")
def tiny_town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A town of three sequences of two frames in the SemanticKITTI layout, made once a run; do not write into it."""
    from occloom.town.write import write_town

    def write(root: Path) -> None:
        write_town(
            root,
            sequences=3,
            frames=2,
            image_size=(96, 320),
            seed=7,
            following_scans=4,
            labels="scans",
            workers=1,
        )

    return made_once(tmp_path_factory, "tiny_town", write)


@pytest.fixture(scope="session")
def tiny_surround_town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A surround town in the layout of nuScenes, made once a run; do not write into it.

    scene-0000 is of the train split and scene-0001 of the val split; both have two keyframes with pictures of 72x128.
    """
    from occloom.town.surround_write import write_surround_town

    def write(root: Path) -> None:
        write_surround_town(
            root, sequences=1, val_sequences=1, frames=2, image_size=(72, 128), seed=7, label_seconds=0.5
        )

    return made_once(tmp_path_factory, "tiny_surround_town", write)


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, write: Callable[[Path], object]) -> Path:
    """A folder that one test process writes, and that all of a run read."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    place, partial = shared / name, tmp_path_factory.mktemp("partial") / name
    with (shared / f"{name}.lock").open("w") as lock:
        # The first process writes while the others wait here; the lock is freed even if the writer dies.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            write(partial)
            partial.rename(place)
    return place


@pytest.fixture(scope="session")
def town_sets(tiny_town: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures of the town in the layouts of the five sets of labelled pictures; do not write into it."""
    from town_views import town_views, write_sets

    return write_sets(tmp_path_factory.mktemp("town_sets"), town_views(tiny_town))


@pytest.fixture(scope="session")
def made_nuscenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes of three, two and one keyframes in nuScenes' and Occ3D's layout; do not write into it."""
    from made_nuscenes import write_made_nuscenes

    return write_made_nuscenes(tmp_path_factory.mktemp("made_nuscenes"))


@pytest.fixture
def own_nuscenes(made_nuscenes: Path, tmp_path: Path) -> Path:
    """A copy of the made scenes, to be spoilt."""
    return Path(shutil.copytree(made_nuscenes, tmp_path / "own_nuscenes"))


@pytest.fixture
def without_embreex(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine for which embreex has no wheel: it is neither found nor imported."""
    for module in ("embreex", "embreex.mesh_construction", "embreex.rtcore_scene"):
        monkeypatch.setitem(sys.modules, module, None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The marker and the fixture `real_data` go together, or the count of real-data tests would be wrong."""
    for item in items:
        marked = item.get_closest_marker("real_data") is not None
        asks = "real_data" in getattr(item, "fixturenames", ())
        if marked != asks:
            have, lack = ("marker", "fixture") if marked else ("fixture", "marker")
            raise pytest.UsageError(f"{item.nodeid} has the {have} real_data but not the {lack}.")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests saw real data; the CI script reads this line."""

    def count(*outcomes: str) -> int:
        reports = [report for outcome in outcomes for report in terminalreporter.stats.get(outcome, [])]
        return len({report.nodeid for report in reports if "real_data" in report.keywords})

    ran, skipped = count("passed", "failed", "xfailed", "xpassed"), count("skipped")
    terminalreporter.write_line(f"real-data tests: {ran} ran, {skipped} skipped")
