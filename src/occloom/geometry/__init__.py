"""Pure functions between frames, images and voxels; they keep the caller's precision, with any leading dimensions."""
