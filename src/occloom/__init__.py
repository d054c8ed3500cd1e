"""occloom: 3D semantic occupancy prediction."""
