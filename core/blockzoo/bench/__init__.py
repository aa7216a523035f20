"""`blockzoo bench`: how fast a model decodes, reads a prompt, loads and trains, beside the machine's roof and peers."""
