"""Decoding by replay: the calls of a step are noted twice, and from then on made again without the model's code.

A step of decoding does the same work every time, apart from where in the cache it writes and how far it reads. What it
costs beside that work, in modules, dispatch and allocation, is half of a small model's time.
"""

from blockzoo.recording.player import Noted, Player
from blockzoo.recording.steps import Steps

__all__ = ["Noted", "Player", "Steps"]
