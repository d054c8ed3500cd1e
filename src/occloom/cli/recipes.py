"""`occloom recipes`: what can be trained."""

from occloom.engine.train import build_model_without_memory
from occloom.recipes import RECIPES


def recipes() -> None:
    """List the recipes: name, parameters, image size, grid, and what each is."""
    width = max(map(len, RECIPES))
    print(f"{'recipe':<{width}} {'parameters':>10}  {'image':<9} {'grid':<11} {'voxel':<5}  what")
    for name, function in RECIPES.items():
        recipe = function()
        model = build_model_without_memory(recipe)
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        image = "x".join(str(n) for n in recipe.data.image_size)
        grid = "x".join(str(n) for n in recipe.data.grid.shape)
        summary = (function.__doc__ or "").strip().splitlines()[0]
        size = f"{recipe.data.grid.voxel_size[0]:g} m"
        print(f"{name:<{width}} {millions:>8.2f} M  {image:<9} {grid:<11} {size:<5}  {summary}")
