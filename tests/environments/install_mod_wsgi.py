"""Finishes the environment 'mod_wsgi' (see environments.py): FOLDER/debian, for Apache.

Debian's mod_wsgi runs Debian's Python, and PyPI's is built for the Python that it is
installed by, so this is a virtual environment of /usr/bin/python3. Nothing is taken from
pip's cache: a mod_wsgi there may have been built for another Python of the same version,
which names it alike. Takes apache2-dev: .ci/apache.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(sys.argv[1], 'debian')

subprocess.run(['/usr/bin/python3', '-m', 'venv', '--clear', str(FOLDER)], check=True)
pip = [FOLDER / 'bin' / 'python', '-m', 'pip', 'install', '--quiet', '--no-cache-dir']
pip += ['--disable-pip-version-check']
pip += ['mod_wsgi>=6', '--editable', ROOT]
subprocess.run([str(word) for word in pip], check=True)
