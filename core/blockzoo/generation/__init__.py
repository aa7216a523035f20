"""Generation: sampling, the loop over the cache, one prompt or several, and text as it comes."""

from blockzoo.generation.loop import decode, never
from blockzoo.generation.prompts import check_prompt
from blockzoo.generation.run import generate, generate_batch
from blockzoo.generation.sampling import Sampler, generator_for
from blockzoo.generation.text import TextStream, TokenBytes

__all__ = [
    "Sampler",
    "TextStream",
    "TokenBytes",
    "check_prompt",
    "decode",
    "generate",
    "generate_batch",
    "generator_for",
    "never",
]
