"""A finished site is read from a folder, without a network: a page that loads anything from elsewhere is a warning."""

import re
from pathlib import Path

from sphinx.util import logging

log = logging.getLogger(__name__)
LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed|link(?=[^>]*\brel="(?:stylesheet|icon|preload|preconnect|prefetch)"))\b
    [^>]*\b(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)""",
    re.VERBOSE | re.IGNORECASE,
)
LOADED_BY_A_STYLE = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""")


def from_elsewhere(path):
    """The addresses outside the site that a page or a style sheet loads; a link that a reader follows is not one."""
    text = path.read_text(encoding="utf-8")
    loaded = LOADED_BY_A_STYLE if path.suffix == ".css" else LOADED
    return sorted(set(loaded.findall(text)))


def check(app, failure):
    """Warn about every file of a site that needs the network."""
    if failure is None and app.builder.format == "html":
        for path in sorted(file for kind in ("*.html", "*.css") for file in Path(app.outdir).rglob(kind)):
            for address in from_elsewhere(path):
                log.warning("%s loads %s", path.relative_to(app.outdir), address)


def setup(app):
    app.connect("build-finished", check)
    return {"parallel_read_safe": True}
