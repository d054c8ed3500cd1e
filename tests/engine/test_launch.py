import subprocess
import sys
import time

import pytest
import torch

from occloom.engine.launch import launch

ENDING = """
import sys, torch
from occloom.engine.launch import end, launch
fabric = launch()
total = fabric.all_reduce(torch.tensor(fabric.global_rank + 1.0), reduce_op="sum")
if fabric.is_global_zero:
    print(int(total), fabric.world_size)
end(int(sys.argv[1]))
"""


def test_one_process_runs_deterministically_without_a_group():
    fabric = launch()
    assert (fabric.world_size, fabric.global_rank) == (1, 0)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.distributed.is_initialized()


@pytest.mark.multiprocess
@pytest.mark.timeout(120)
def test_two_processes_sum_and_end_cleanly(tmp_path):
    script = tmp_path / "ending.py"
    script.write_text(ENDING)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run([*command, "0"], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", "2"]
    assert "terminate called" not in done.stderr


@pytest.mark.parametrize("code", [0, 2])
def test_a_single_process_leaves_with_its_code(tmp_path, code):
    script = tmp_path / "ending.py"
    script.write_text(ENDING)
    started = time.monotonic()
    done = subprocess.run([sys.executable, str(script), str(code)], capture_output=True, timeout=100, check=False)
    assert done.returncode == code
    assert time.monotonic() - started < 60
