"""From voxel features to class scores."""
