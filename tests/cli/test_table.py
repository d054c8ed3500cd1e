from occloom.cli.main import run

FILE = """
[shared]
"train.steps" = 2
[[row]]
name = "tiny"
recipe = "tiny_recipes:tiny"
[[row]]
name = "wide"
recipe = "tiny_recipes:tiny_wide"
"""


def test_a_file_becomes_a_markdown_table(tmp_path, capsys):
    file = tmp_path / "width.toml"
    file.write_text(FILE)
    out = tmp_path / "out"
    assert run(["table", str(file), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows] == ["row", "---", "tiny", "wide"]
    assert len({row.count("|") for row in rows}) == 1
    assert (out / "table.md").read_text().strip() == printed.strip()


def test_a_missing_file_is_one_line(tmp_path, capsys):
    assert run(["table", str(tmp_path / "no.toml")]) == 2
    assert "no.toml: no such file or directory" in capsys.readouterr().err
