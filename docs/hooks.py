"""Hooks of the documentation site (mkdocs.yml): where it reads Markdown differently from GitHub."""

import re

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)\s#]+)(?:#[^)\s]*)?\)")
_CODE_SPAN = re.compile(r"`[^`\n]+`")


def on_page_markdown(markdown: str, page, **_) -> str:
    """Replaces links to files outside docs/, which the site lacks, by the files' paths.

    It also takes the backslash from `|` in code spans, which GitHub needs in tables.
    """
    if "/" in page.file.src_uri:  # in a folder of docs/, `..` is docs/ itself
        return markdown
    markdown = _CODE_SPAN.sub(lambda span: span[0].replace("\\|", "|"), markdown)
    return _OUTSIDE.sub(_path, markdown)


def _path(link: re.Match) -> str:
    text, path = link[1].strip("`"), link[2]
    return f"`{path}`" if path.endswith(text) else f"{text} (`{path}`)"
