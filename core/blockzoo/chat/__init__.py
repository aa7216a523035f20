"""Talking to a model in the format it was trained on. A family brings the format; the loop is the same for all."""
