"""The pages of the documentation: their blocks of code, their links and their anchors."""

import functools
import re
from pathlib import Path
from typing import NamedTuple

from tests.kit.places import DOCS, ROOT

#: All pages that users read, and those of the site.
PAGES = sorted(
    [
        *(ROOT / name for name in ('README.md', 'CHANGES.md', 'CONTRIBUTING.md')),
        *(ROOT / name for name in ('SECURITY.md', 'tests/README.md')),
        ROOT / 'benchmarks/README.md',
        *DOCS.rglob('*.md'),
    ]
)


class Block(NamedTuple):
    """A block of code: its page, the line where it begins, its language, its text."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self):
        return f'{self.page.relative_to(ROOT)}:{self.line}'


#: A block of code.
FENCE = re.compile(r'^( *)```([^\n`]*)\n(.*?)^\1```$', re.S | re.M)


@functools.cache
def blocks(page):
    """The blocks of a page, without the indentation that lists give them."""
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        indent, language, code = match.groups()
        code = re.sub(rf'^{indent}', '', code, flags=re.M)
        line = text.count('\n', 0, match.start()) + 1
        found.append(Block(page, line, language, code))
    return found


def blocks_of(language):
    return [one for page in PAGES for one in blocks(page) if one.language == language]


@functools.cache
def prose(page):
    """The text of a page without its blocks of code."""
    return FENCE.sub('', page.read_text())


@functools.cache
def anchors(page):
    """The anchors of the titles of a page, as code hosts and MyST make them."""
    found, seen = set(), {}
    for title in re.findall(r'^#+ (.*)$', prose(page), re.M):
        title = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', title.replace('\\', ''))
        slug = re.sub(r'[^\w\- ]', '', title.strip().lower()).replace(' ', '-')
        count = seen[slug] = seen.get(slug, -1) + 1
        found.add(f'{slug}-{count}' if count else slug)
    return found


def links(page):
    """(path, anchor) of each link of a page that leads into the checkout."""
    text = re.sub(r'`[^`\n]*`', '', prose(page))
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if not re.match(r'\w+:', target):
            path, _, anchor = target.partition('#')
            yield path, anchor
