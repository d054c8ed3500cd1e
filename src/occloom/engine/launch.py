"""Where processes begin and end: Fabric under torchrun, and one ending for all."""

import os
import sys
from typing import Literal

import torch
from lightning_fabric import Fabric


def launch(precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true") -> Fabric:
    """Join the processes that torchrun started, or be the only one; one process a device.

    Deterministic algorithms are switched on: without them the backward pass of an indexed tensor differs between runs
    on several threads (docs/training.md). On a GPU a few operations have no deterministic form; they warn.
    """
    cuda = torch.cuda.is_available()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=cuda)
    # Nothing reads memory that it did not write: filling it with NaN first takes a tenth of a small model's step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu",
        strategy="ddp" if world > 1 else "auto",
        devices=local_world,
        num_nodes=world // local_world,
        precision=precision,
    )
    fabric.launch()
    return fabric


def end(code: int) -> None:
    """End this process; the last thing that a command does.

    With gloo, several processes that leave through the interpreter sometimes abort or hang after all work is done;
    leaving at once after the group is destroyed does not. A process that failed does not wait for the others.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        sys.exit(code)
    if code == 0:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
