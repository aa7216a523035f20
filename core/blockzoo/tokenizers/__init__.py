"""Tokenizers: text <-> token ids. All are byte-level, so every text can be encoded and every id stands for known bytes.

``load_tokenizer`` takes "bytes", the name of a tiktoken encoding, a folder (tokenizer.json, or vocab.json and
merges.txt, or a checkpoint that names its tokenizer), the name of a shipped model, or a hub reference.
"""

from blockzoo.tokenizers.finding import load_tokenizer, tokenizer_name
from blockzoo.tokenizers.kinds import BYTE_OF, BytePairTokenizer, ByteTokenizer, TiktokenTokenizer, Tokenizer
from blockzoo.tokenizers.writing import tokenizer_files

__all__ = [
    "BYTE_OF",
    "BytePairTokenizer",
    "ByteTokenizer",
    "TiktokenTokenizer",
    "Tokenizer",
    "load_tokenizer",
    "tokenizer_files",
    "tokenizer_name",
]
