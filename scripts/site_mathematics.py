"""A hook of mkdocs: equations between $$ become MathML, which browsers draw without a script."""

import re

from latex2mathml.converter import convert

_DISPLAYED = re.compile(r"^\$\$\n(.+?)\n\$\$$", re.DOTALL | re.MULTILINE)


def on_page_markdown(markdown: str, **kwargs: object) -> str:
    """Return the page with its displayed equations as MathML."""
    return _DISPLAYED.sub(lambda found: convert(found[1], display="block"), markdown)
