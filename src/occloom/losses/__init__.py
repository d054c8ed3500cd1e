"""Losses: plain functions of logits and truth."""
