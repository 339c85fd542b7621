"""Pylons, WebError and WebHelpers for Python 3, in the site-packages of an environment.

Run with the Python of an environment where pip installed them as they are on
PyPI, for Python 2. fissix does what is mechanical; EVERYWHERE and EDITS do the rest.
"""

import compileall
import logging
import re
import sysconfig
import warnings
from pathlib import Path

from fissix.refactor import RefactoringTool, get_fixers_from_package

PACKAGES = ('pylons', 'weberror', 'webhelpers')

#: (what, by what), as re.sub takes them, in all files.
EVERYWHERE = [
    (r'\bimport cgi$', 'import html as cgi'),  # of which only escape() is used
    ("'im_func'", "'__func__'"),
    (r'inspect\.getargspec', 'inspect.getfullargspec'),
    ('from UserDict import', 'from collections import UserDict as'),
    (r'from email\.MIME(Text|Multipart) import', lambda m: _mime(m[1])),
    # Source lines and messages are text already.
    (r"\.decode\(\s*(self\.|last_)?frame\.source_encoding, 'replace'\)", ''),
    (r"\.encode\('latin1', 'htmlentityreplace'\)", ''),
    (r"\.encode\('ascii',\s*'xmlcharrefreplace'\)", ''),
    (r'\bnext = next\(debug_counter\)', 'count = next(debug_counter)'),
]

#: {file: [(old text, new text)]}: each must be there.
EDITS = {
    'pylons/controllers/core.py': [
        (
            'if isinstance(response, str):\n                if log_debug:\n'
            '                    log.debug("Controller returned a string "',
            'if isinstance(response, bytes):\n                if log_debug:\n'
            '                    log.debug("Controller returned a string "',
        )
    ],
    'pylons/controllers/util.py': [
        ("location=url.encode('utf-8')", 'location=url'),
    ],
    'pylons/wsgiapp.py': [('.load(False)', '.resolve()')],
    'pylons/i18n/translation.py': [
        ('pylons.translator.ugettext(', 'pylons.translator.gettext('),
        ('pylons.translator.ungettext(', 'pylons.translator.ngettext('),
    ],
    'weberror/evalexception.py': [
        (
            "debug_count'] = next\n        environ",
            "debug_count'] = count\n        environ",
        ),
        (
            "debug_count'] = next\n        return next",
            "debug_count'] = count\n        return count",
        ),
        ('return [page]', "return [page.encode('utf-8')]"),
        ('res.body = input_form', 'res.text = input_form'),
        (
            'filename(error_template_filename)',
            "filename(error_template_filename, encoding='utf-8')",
        ),
    ],
    'weberror/formatter.py': [
        ("return s.encode('utf8')", 'return s'),
        # A requirement repoze.lru is met by what is installed as repoze-lru.
        (
            'if proj.key in circ_check:',
            'if proj.key not in working_set.by_key.keys() - circ_check:',
        ),
    ],
    'weberror/reporter.py': [("v = v.encode('utf8')", 'pass')],
    'weberror/util/security.py': [
        ('hmac.new(secret, expiry_ts,', 'hmac.new(secret, expiry_ts.encode(),'),
    ],
    'weberror/util/serial_number_generator.py': [
        ('hasher(str(s))', 'hasher(s)'),
        ('ord(c)', 'c'),
    ],
}


def _mime(name):
    return f'from email.mime.{name.lower()} import'


def convert(site_packages):
    warnings.simplefilter('ignore')
    logging.disable(logging.WARNING)  # fissix tells of each file
    tool = RefactoringTool(get_fixers_from_package('fissix.fixes'))
    for package in PACKAGES:
        tool.refactor_dir(str(site_packages / package), write=True)
        for file in (site_packages / package).rglob('*.py'):
            edit(file, file.relative_to(site_packages).as_posix())
        # Not at the first request, with warnings of what newer Pythons frown upon.
        compileall.compile_dir(site_packages / package, quiet=2)


def edit(file, name):
    text = file.read_text('utf-8')
    for old, new in EVERYWHERE:
        text = re.sub(old, new, text, flags=re.M)
    for old, new in EDITS.get(name, []):
        if old not in text:
            raise SystemExit(f'{name} is another one: {old!r} is not there')
        text = text.replace(old, new)
    file.write_text(text, 'utf-8')


if __name__ == '__main__':
    convert(Path(sysconfig.get_path('purelib')))
