"""Networks on voxel volumes."""
