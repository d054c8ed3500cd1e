import re
import subprocess
from importlib import metadata
from pathlib import Path

from occloom.engine.provenance import commit, version


def test_the_version_is_that_of_the_distribution():
    assert version() == metadata.version("occloom")


def test_the_commit_is_gits_own_answer_or_unknown():
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        assert commit() == "unknown"
        return
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?", commit())
    assert head.startswith(commit().removesuffix("-dirty"))
