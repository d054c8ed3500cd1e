"""Tools that make voxel labels out of labelled scans."""
