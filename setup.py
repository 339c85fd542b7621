"""What setup.cfg cannot say: the long description is README.md with absolute links."""

import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent


def long_description():
    """Return README.md for a reader who is not in the repository."""
    config = ConfigParser()
    config.read(ROOT / 'setup.cfg', encoding='utf-8')
    source = re.search(r'(?m)^Source = (\S+)$', config['metadata']['project_urls'])[1]

    def absolute(link):
        folder = 'raw' if link[1] else 'blob'  # a picture, or a page
        return f'{link[1]}[{link[2]}]({source}/{folder}/main/{link[3]})'

    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    return re.sub(r'(!?)\[([^\]]*)\]\((?!https?:|#)([^)]+)\)', absolute, text)


setup(
    long_description=long_description(),
    long_description_content_type='text/markdown',
)
