"""Pictures of voxels."""
