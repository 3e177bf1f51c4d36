"""The site has the repository's own paths, so that a relative link works in both.

Pages are what the navigation names and all below docs/; of other files, those that a page links to.
"""

import logging
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from posixpath import join, normpath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:  # the tests have no mkdocs
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[2]
LINK = re.compile(r'\]\(([^)#\s]+)|(?:src|srcset|href)="([^"#\s]+)')
LOADED = {'script': 'src', 'link': 'href', 'img': 'src', 'source': 'srcset', 'iframe': 'src'}
log = logging.getLogger('mkdocs.hooks')


def on_files(files: 'Files', config: 'MkDocsConfig') -> 'Files':
    """Put the repository's files in the place of those of docs/."""
    from mkdocs.structure.files import File

    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)
    pages = {path.relative_to(ROOT).as_posix() for path in Path(config.docs_dir).rglob('*.md')}
    pages |= {page for page in named(config.nav) if (ROOT / page).is_file()}
    theme = {*config.extra_css, *config.extra['polyfills']}
    for path in sorted(pages | linked(pages) | theme):
        if (ROOT / path).is_file():
            file = File(path, str(ROOT), config.site_dir, use_directory_urls=False)
            if path.endswith('.py'):  # browsers would save it, not show it
                file.dest_uri += '.txt'
            files.append(file)
    return files


def named(nav: object) -> Iterator[str]:
    """The files of a navigation, however deep."""
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from named(part)


def linked(pages: set[str]) -> set[str]:
    """The files that pages link to, as paths from the repository's root."""
    found = set()
    for page in pages:
        for links in LINK.findall((ROOT / page).read_text()):
            found.add(normpath(join(page, '..', unquote(''.join(links)))))
    return {path for path in found if not path.endswith('.md') and not path.startswith('..')}


class Links(HTMLParser):
    """What a built page loads, links to, and can be linked by."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded, self.links, self.ids = [], [], {''}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids |= {given.get('id'), given.get('name')}
        if target := given.get(LOADED.get(tag)):
            self.loaded.append(target)
        if tag == 'a' and given.get('href'):
            self.links.append(given['href'])


def on_post_build(config: 'MkDocsConfig') -> None:
    """Warn of links without a target, those of HTML too, and of what a network would bring."""
    site = Path(config.site_dir)
    pages = {path: Links(path.read_text()) for path in site.rglob('*.html')}
    for path, page in pages.items():
        if path.name == '404.html':  # its links are from the root
            continue
        where = path.relative_to(site)
        for target in page.loaded:
            if urlsplit(target).netloc:
                log.warning(f'{where} loads {target}, which needs a network')
        for target in page.loaded + page.links:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            other = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not other.exists():
                log.warning(f'{where} links to {target}, which is not there')
            elif other in pages and unquote(parts.fragment) not in pages[other].ids:
                log.warning(f'{where} links to {target}, which has no such place')
