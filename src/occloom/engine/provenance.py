"""Where a result comes from: the version and the commit of the code."""

import subprocess
from importlib import metadata
from pathlib import Path


def version() -> str:
    """The version of the installed package."""
    return metadata.version("occloom")


def commit() -> str:
    """The commit of the code, with "-dirty" where files differ from it; "unknown" outside a git checkout."""
    checkout = Path(__file__).parents[3]
    if not (checkout / ".git").exists():
        return "unknown"
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        answer = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip()
