"""Training of one model: recipe, text, loop, checkpoints, run folders."""
