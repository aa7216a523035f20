"""Peers that behave as a test wants: each is the peer and, run by -m, its side process."""
