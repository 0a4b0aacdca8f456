"""Text of datasets for terminals: what a stranger wrote must not move the cursor, set a title or hide what was printed.

Decides nothing else. Before it: documents, keys and errors, as they are; after it: the tables of its neighbours, and `cli.py`.
"""

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text with � for each control character (C0 but tab and line feed, C1) and each that turns text around."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
