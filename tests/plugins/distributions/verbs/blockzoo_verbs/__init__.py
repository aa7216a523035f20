"""Verbs of a third party."""
