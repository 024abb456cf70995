"""Hooks of the documentation site (mkdocs.yml).

The site holds docs/ alone, so a link to another file of the repository becomes the file's path.
"""

import re

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)\s#]+)(?:#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page, **_) -> str:
    """The page without its links to files outside docs/."""
    if "/" in page.file.src_uri:  # from a folder of docs/, `..` is docs/ itself
        return markdown
    return _OUTSIDE.sub(_path, markdown)


def _path(link: re.Match) -> str:
    text, path = link[1].strip("`"), link[2]
    return f"`{path}`" if path.endswith(text) else f"{text} (`{path}`)"
