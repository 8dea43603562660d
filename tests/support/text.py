"""Text of all characters, for hypothesis.

`hypothesis.strategies.text` sorts all of Unicode into categories before its first example, which
takes 1.5 s here and 100 s on an emulated processor.
"""

from __future__ import annotations

from hypothesis import strategies as st


def texts(least: int = 0) -> st.SearchStrategy[str]:
    """Text of at least so many characters, all of which UTF-8 can encode, and without NUL."""
    characters = st.integers(1, 0x7F) | st.integers(1, 0xD7FF) | st.integers(0xE000, 0x10FFFF)
    return st.lists(characters.map(chr), min_size=least).map("".join)
