"""Figures of architectures: what stands in them (figure), where it stands (layout) and the SVG (svg)."""
