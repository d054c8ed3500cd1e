"""From image features to voxel features."""
