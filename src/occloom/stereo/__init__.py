"""Matching the two pictures of a stereo pair by a network."""
