"""The documentation as a site: `make docs` builds it with Sphinx, MyST and furo.

The pages are Markdown that a code host shows as it is. The root of the checkout is the
source folder, so that links from docs/ to README.md, to samples and to code work in both.
"""

import json
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS))

import from_code  # noqa: E402

project = 'paste_wspbus'
author = 'the paste_wspbus developers'
copyright = f'2026, {author}'
extensions = ['myst_parser', 'sphinx.ext.autodoc']
root_doc = 'docs/index'
include_patterns = [
    'docs/**.md',
    *('README.md', 'CHANGES.md', 'CONTRIBUTING.md', 'SECURITY.md'),
    *('tests/README.md', 'benchmarks/README.md', 'sample_ini/cluster/README.md'),
]
exclude_patterns = ['.*', 'build', 'dist', 'paste_wspbus', '*.egg-info']

myst_heading_anchors = 6
#: What docstrings have in single backticks.
default_role = 'py:obj'
autodoc_typehints = 'signature'
autodoc_member_order = 'bysource'
autodoc_class_signature = 'mixed'

html_theme = 'furo'
html_title = 'paste_wspbus'
html_extra_path = ['site']
html_static_path = ['static']
html_css_files = ['phone.css']
html_search_scorer = str(DOCS / 'scorer.js')
html_copy_source = False
html_show_sphinx = False
html_last_updated_fmt = None
#: Makes the same files from the same sources.
html_theme_options = {'navigation_with_keys': True}
linkcheck_ignore = [r'http://(127\.0\.0\.1|localhost)']

#: A link to a folder of the checkout, which the site does not have.
FOLDER = re.compile(r'\[([^\]]*)\]\((?!\w+:)([^)#\s]+/)\)')

#: A link of a list of the index to another page.
ENTRY = re.compile(r'^- \[((?:\\.|[^\]\\])*)\]\(([^)#:]+\.md)\)', re.M)

#: A row of the page of questions, and a link in it to a page.
ROW = re.compile(r'^\| (.*?) \| (.*) \|$', re.M)
LINK = re.compile(r'\[((?:\\.|[^\]\\])*)\]\(([^)#:]+)\.md(?:#([^)]*))?\)')


def without_folders(text, folder):
    """Return a page without links to folders; those with a README lead there."""

    def linked(found):
        text, path = found.groups()
        if (folder / path / 'README.md').exists():
            return f'[{text}]({path}README.md)'
        return text

    return FOLDER.sub(linked, text)


def with_contents(text):
    """Return the index with a hidden table of contents for the list of each section."""
    parts = [text]
    for section in re.split(r'^## ', text, flags=re.M)[1:]:
        entries = [
            f'{title.replace(chr(92), "")} <{path.removesuffix(".md")}>'
            for title, path in ENTRY.findall(section)
        ]
        caption = section.partition('\n')[0]
        options = f':hidden:\n:caption: "{caption}"\n\n'
        parts.append('\n'.join(['```{toctree}', options + '\n'.join(entries), '```']))
    return '\n\n'.join(parts)


def prepare(app, docname, source):
    """Put what the code says into a page, and make it fit for the site."""
    text = from_code.filled(source[0])
    if docname == root_doc:
        text = with_contents(text)
    source[0] = without_folders(text, (ROOT / docname).parent)


def questions():
    """Yield (its words, page, anchor) for each link of a question in docs/README.md."""
    for question, answer in ROW.findall((DOCS / 'README.md').read_text()):
        for text, path, anchor in LINK.findall(answer):
            page = (DOCS / path).resolve().relative_to(ROOT).as_posix()
            yield f'{question} {text}', page, anchor


def ask_questions(app, pagename, templatename, context, doctree):
    """Give scorer.js the questions, in the page of the search."""
    if pagename == 'search':
        app.add_js_file(None, body=f'const QUESTIONS = {json.dumps([*questions()])};')


def setup(app):
    """Connect what prepares the pages."""
    app.connect('source-read', prepare)
    app.connect('html-page-context', ask_questions)
