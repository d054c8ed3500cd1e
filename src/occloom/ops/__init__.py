"""Numerical operations that carry no parameters."""
