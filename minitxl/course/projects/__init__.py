"""Coursework that is more than functions."""
