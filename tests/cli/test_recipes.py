from occloom.cli.main import run
from occloom.recipes import RECIPES


def test_every_recipe_is_listed_with_its_sizes(capsys):
    assert run(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, function in RECIPES.items():
        (line,) = (line for line in lines if line.split()[0] == name)
        recipe = function()
        assert "x".join(map(str, recipe.data.image_size)) in line
        assert "x".join(map(str, recipe.data.grid.shape)) in line
        assert (function.__doc__ or "?").splitlines()[0] in line


def test_columns_stand_below_their_heads(capsys):
    assert run(["recipes"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(RECIPES)
    for column in ("image", "grid", "voxel", "what"):
        start = head.index(column)
        assert all(line[start - 1] == " " and line[start] != " " for line in lines), column
