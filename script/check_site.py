"""Checks the built site, as a hook of mkdocs: every internal link has its target, and no page loads from another host.

mkdocs itself checks the links of the Markdown pages; this also sees what its extensions wrote. Links that a reader
follows may lead anywhere. What a browser fetches by itself may not.
"""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError

FETCHED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("video", "src"), ("link", "href")}
FOLLOWED = {("a", "href")}
NOT_FETCHED = {"canonical", "next", "prev", "alternate"}  # values of a link's `rel`

# Hosts that scripts name in messages to people and as namespaces of XML.
NAMED_HOSTS = {"www.w3.org", "github.com", "chevrotain.io", "langium.org", "en.wikipedia.org", "bit.ly"}
# Addresses that the theme's script would fetch, and why it never does.
NEVER_FETCHED = {
    "https://unpkg.com/mermaid@11/dist/mermaid.min.js": "only where no mermaid is there; every page brings its own",
    "https://unpkg.com/resize-observer-polyfill": "only in browsers older than 2020",
    "https://api.github.com/repos/": "only where mkdocs.yml has a repo_url",
    "https://api.github.com/users/": "only where mkdocs.yml has a repo_url",
}


class Page(HTMLParser):
    """What a page fetches, where its links lead, and the places in it that a link can lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.followed: list[str] = []
        self.anchors: set[str] = {"", "__comments"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the addresses and names of one element."""
        values = {name: value or "" for name, value in attrs}
        self.anchors.update(values[name] for name in ("id", "name") if name in values)
        for name, value in values.items():
            if (tag, name) in FOLLOWED:
                self.followed.append(value)
            elif (tag, name) in FETCHED and not (tag == "link" and values.get("rel") in NOT_FETCHED):
                self.fetched.append(value)


def on_post_build(config: MkDocsConfig) -> None:
    """Fail where the site that mkdocs has just written has a dead link or fetches something from elsewhere."""
    site = Path(config.site_dir)
    pages = {file: Page(file.read_text(encoding="utf-8")) for file in sorted(site.rglob("*.html"))}
    problems = [(file, found) for file in pages for found in dead_links(file, site, pages)]
    problems += [(file, f"loads {url}") for file, page in pages.items() for url in page.fetched if urlsplit(url).netloc]
    problems += [(file, f"loads {url}") for file in site.rglob("*.css") for url in foreign_styles(file)]
    problems += [(file, f"names {url}") for file in site.rglob("*.js") for url in foreign_scripts(file)]
    if problems:
        lines = [f"{file.relative_to(site)} {what}" for file, what in problems]
        raise PluginError("\n".join(["the site is not as it should be:", *lines]))
    links, place = sum(len(page.followed) for page in pages.values()), os.path.relpath(site)
    print(f"docs: {len(pages)} pages in {place}, {links} links checked, nothing loads from another host")


def dead_links(file: Path, site: Path, pages: dict[Path, Page]) -> list[str]:
    """The internal links of a page that lead to no file, or to no place in it."""
    found = []
    for url in pages[file].followed + pages[file].fetched:
        parts = urlsplit(url)
        if parts.scheme or parts.netloc:
            continue
        path = unquote(parts.path)  # from the site's root in 404.html
        target = (site / path[1:] if path.startswith("/") else file.parent / path).resolve() if path else file
        if target.is_dir():
            target /= "index.html"
        if not target.is_file():
            found.append(f"links to {url}, which is no file")
        elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
            found.append(f"links to {url}, which is no heading of {target.name}")
    return found


def foreign_styles(file: Path) -> list[str]:
    """What a style sheet fetches from other hosts."""
    return re.findall(r"""(?:@import\s*|url\()\s*["']?((?:https?:)?//[^"')]+)""", file.read_text(encoding="utf-8"))


def foreign_scripts(file: Path) -> list[str]:
    """The addresses in a script, comments aside, that are neither mere names nor known to be never fetched."""
    script = re.sub(r"/\*.*?\*/|^\s*//.*?$", "", file.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    urls = re.findall(r"https?://[\w.-]+\.\w+[\w./@-]*", script)
    return [url for url in urls if urlsplit(url).hostname not in NAMED_HOSTS and url not in NEVER_FETCHED]
