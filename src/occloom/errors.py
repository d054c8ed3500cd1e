"""The one error a user can cause, and how the operating system's become one."""

from pathlib import Path


class InputError(ValueError):
    """Input that occloom cannot use: says what is wrong, in which file, by which rule, and what to do.

    The command line prints it as one line and exits with code 2.
    """

    def __init__(self, what: str, *, where: Path | str | None = None, rule: str = "", remedy: str = "") -> None:
        """Join the parts into one line.

        Args:
            what: What is wrong, with the value that came.
            where: The file or folder it was found in.
            rule: What was expected.
            remedy: What the user can do about it.
        """
        self.what = what
        self.where = where
        self.rule = rule
        self.remedy = remedy
        parts = [f"{where}: {what}" if where is not None else what]
        parts += [part for part in (rule, remedy) if part]
        super().__init__("; ".join(part.rstrip(".") for part in parts) + ".")


def refused_by_system(error: OSError) -> InputError:
    """What the operating system refused, as an error of one line that names the file."""
    reason = error.strerror or str(error)
    if error.filename is None:
        return InputError(reason)
    remedy = "check its permissions"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        remedy = "check the path"
    elif isinstance(error, FileExistsError | IsADirectoryError):
        remedy = "name another path"
    return InputError(reason.lower(), where=error.filename, remedy=remedy)
