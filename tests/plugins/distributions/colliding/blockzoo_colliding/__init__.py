"""Plugins that take names that are taken."""
