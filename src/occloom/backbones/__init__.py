"""Image trunks and necks."""
