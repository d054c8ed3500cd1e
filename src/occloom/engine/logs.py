"""What a run tells: CSV files, TensorBoard where it is installed, and a progress bar."""

import csv
import importlib.util
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from occloom.errors import InputError


class CsvLog:
    """A table with a step a row, that after a resume holds every step once.

    Floats are written so that they read back exactly: two runs are equal if their files are.
    """

    def __init__(self, path: Path, *, first_step: int) -> None:
        """Go on with a file, dropping what lies at or after `first_step` (rows count steps that are done from 1).

        Raises:
            InputError: If the file is no such table.
        """
        self.path = path
        try:
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            whole = [line for line in lines if line.endswith("\n")]
            kept = whole[:1] + [line for line in whole[1:] if int(line.split(",")[0]) <= first_step]
        except ValueError as error:
            raise InputError(
                f"not a log of a run ({error})",
                where=path,
                rule="each row begins with its step",
                remedy="remove the file",
            ) from None
        # A process killed here leaves the old rows or the new ones.
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text("".join(kept) if len(kept) > 1 else "")
        unfinished.replace(path)
        self._file = path.open("a", newline="")
        self._has_header = len(kept) > 1

    def add(self, step: int, values: dict[str, float]) -> None:
        """Append a row; a killed process loses none that was added."""
        writer = csv.writer(self._file, lineterminator="\n")
        if not self._has_header:
            writer.writerow(["step", *values])
            self._has_header = True
        writer.writerow([step, *values.values()])
        self._file.flush()

    def sync(self) -> None:
        """Wait until all rows are on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class RunLog:
    """All logs of a run, on the first process."""

    def __init__(self, run: Path, *, first_step: int, steps: int) -> None:
        """Open the logs in the run's folder."""
        run.mkdir(parents=True, exist_ok=True)
        self.losses = CsvLog(run / "losses.csv", first_step=first_step)
        self.scores = CsvLog(run / "validation.csv", first_step=first_step)
        self.board = _tensorboard(run / "tensorboard", first_step)
        self.progress = progress_bar("loss {task.fields[loss]:.4f}", "lr {task.fields[rate]:.1e}")
        self.task = self.progress.add_task("training", total=steps, completed=first_step, loss=float("nan"), rate=0.0)

    def __enter__(self) -> "RunLog":
        """Show the progress bar."""
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the progress bar and close the files."""
        self.progress.__exit__(kind, error, trace)
        self.losses.close()
        self.scores.close()
        if self.board is not None:
            self.board.close()

    def add_losses(self, step: int, terms: dict[str, float], *, rate: float, norm: float) -> None:
        """Write the loss, its terms, the learning rate and the norm of the gradient; move the progress bar."""
        values = {"loss": sum(terms.values()), **terms, "learning_rate": rate, "gradient_norm": norm}
        self.losses.add(step, values)
        self._add_to_board("train", step, values)
        self.progress.update(self.task, completed=step, loss=values["loss"], rate=rate)

    def add_scores(self, step: int, values: dict[str, float], protocol: str) -> None:
        """Write a row of validation scores, and print it with the protocol's title."""
        self.scores.add(step, values)
        self._add_to_board("validation", step, values)
        text = "  ".join(f"{name} {100 * value:.2f}" for name, value in values.items())
        self.progress.console.print(f"step {step}: {text}  (percent; {protocol})", highlight=False)

    def sync(self) -> None:
        """Wait until all rows are on the disk."""
        self.losses.sync()
        self.scores.sync()

    def _add_to_board(self, group: str, step: int, values: dict[str, float]) -> None:
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(f"{group}/{name}", value, step)


class _Bar(Progress):
    """A progress bar that vanishes where an error ends it: the error's line then stands alone."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            self.live.transient = True
            self.live.stop()
        else:
            self.stop()


def progress_bar(*columns: str) -> Progress:
    """A progress bar on stderr, with more columns of text; standard output stays for results."""
    return _Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *(TextColumn(column) for column in columns),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _tensorboard(folder: Path, first_step: int) -> Any:
    """A TensorBoard writer that forgets what lies after `first_step`, or None where TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter  # an extra, and slow to import

    return SummaryWriter(str(folder), purge_step=first_step + 1)
