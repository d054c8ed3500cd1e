from pathlib import Path

import pytest

from occloom.errors import InputError, refused_by_system


def test_all_parts_stand_in_one_line_in_their_order():
    error = InputError(
        "it holds 7 bytes", where=Path("a") / "b.bin", rule="a scan has 16 bytes a point.", remedy="fetch it again"
    )
    assert str(error) == f"{Path('a') / 'b.bin'}: it holds 7 bytes; a scan has 16 bytes a point; fetch it again."
    assert (error.what, error.rule) == ("it holds 7 bytes", "a scan has 16 bytes a point.")


def test_only_what_is_needed():
    assert str(InputError("no recipe is called x.")) == "no recipe is called x."


def test_callers_may_catch_it_as_a_value_error():
    with pytest.raises(ValueError, match="too large"):
        raise InputError("too large")


def test_what_the_operating_system_refuses_is_named_with_its_file(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        (tmp_path / "nothing").read_text()
    refused = refused_by_system(error.value)
    assert str(refused) == f"{tmp_path / 'nothing'}: no such file or directory; check the path."
    assert str(refused_by_system(OSError("disk full"))) == "disk full."
