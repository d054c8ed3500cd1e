"""Confusion counts, scoring protocols and naive predictors."""
