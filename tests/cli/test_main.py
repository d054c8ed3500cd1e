import re
import subprocess
import sys
from importlib import import_module, metadata
from importlib.util import find_spec

import pytest

from occloom.cli import main as module
from occloom.cli.main import COMMANDS, run
from occloom.errors import InputError
from occloom.recipes import TOWN_TRAIN, TOWN_VAL


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_the_help_teaches_in_a_screen(capsys, words):
    assert run(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 100
    assert all(any(line.strip().startswith(name) for line in lines) for name in COMMANDS)


def test_the_first_steps_make_every_sequence_that_they_train_on(capsys):
    assert run([]) == 0
    (made,) = re.findall(r"occloom town town --sequences (\d+)", capsys.readouterr().out)
    assert {*TOWN_TRAIN, *TOWN_VAL} == {f"{sequence:02d}" for sequence in range(int(made))}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_module_and_a_help(capsys, name):
    assert find_spec(f"occloom.cli.{name}") is not None
    assert run([name, "--help"]) == 0
    assert "usage: occloom" in capsys.readouterr().out.replace("\x1b[1m", "").replace("\x1b[0m", "")


def test_a_command_is_a_main_or_a_function_of_its_name():
    for name in COMMANDS:
        command = import_module(f"occloom.cli.{name}")
        assert callable(getattr(command, "main", None) or getattr(command, name))


def test_the_installed_program_is_this_one():
    (entry,) = (e for e in metadata.entry_points(group="console_scripts") if e.name == "occloom")
    assert entry.load() is module.main


def one_line(capsys) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_a_mistyped_command_is_answered_by_the_nearest(capsys):
    assert run(["trian"]) == 2
    assert "perhaps you meant train" in one_line(capsys)


def test_a_mistyped_option_is_answered_by_the_nearest(capsys):
    assert run(["train", "tiny_recipes:tiny", "--train.stepz", "3"]) == 2
    assert "perhaps you meant --train.steps; run `occloom train" in one_line(capsys)


def raising(error):
    def command(arguments):
        raise error

    return command


def failing(monkeypatch, error):
    from occloom.cli import train

    monkeypatch.setattr(train, "main", raising(error))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (InputError("3 bytes", where="a.bin", rule="four\nbytes", remedy="fetch it"), "a.bin: 3 bytes; four bytes"),
        (FileNotFoundError(2, "No such file or directory", "x/y"), "x/y: no such file or directory; check the path."),
        (PermissionError(13, "Permission denied", "x/y"), "x/y: permission denied; check its permissions."),
        (NotADirectoryError(20, "Not a directory", "x/y"), "x/y: not a directory; check the path."),
        (IsADirectoryError(21, "Is a directory", "x/y"), "x/y: is a directory; name another path."),
        (FileExistsError(17, "File exists", "x/y"), "x/y: file exists; name another path."),
        (OSError("disk"), "disk."),
    ],
)
def test_what_a_user_can_cause_is_one_line_and_code_2(monkeypatch, capsys, error, words):
    failing(monkeypatch, error)
    assert run(["train", "anything"]) == 2
    assert words in one_line(capsys)


@pytest.mark.parametrize("words", [["--debug", "train", "x"], ["train", "x", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(monkeypatch, capsys, words):
    failing(monkeypatch, InputError("wrong"))
    assert run(words) == 2
    assert "Traceback" in capsys.readouterr().err


def test_debug_can_be_an_environment_variable(monkeypatch, capsys):
    failing(monkeypatch, InputError("wrong"))
    monkeypatch.setenv("OCCLOOM_DEBUG", "1")
    assert run(["train", "x"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    failing(monkeypatch, KeyError("oops"))
    with pytest.raises(KeyError):
        run(["train", "x"])


def test_an_interruption_has_its_own_code(monkeypatch, capsys):
    failing(monkeypatch, KeyboardInterrupt())
    assert run(["train", "x"]) == 130
    assert "interrupted" in one_line(capsys)


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["trian"], 2), (["train", "no-such-recipe"], 2)])
def test_the_process_leaves_with_the_code(words, code):
    done = subprocess.run([sys.executable, "-m", "occloom", *words], capture_output=True, timeout=60, check=False)
    assert done.returncode == code
