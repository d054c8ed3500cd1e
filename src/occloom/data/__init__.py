"""Benchmarks on disk, read as samples."""
