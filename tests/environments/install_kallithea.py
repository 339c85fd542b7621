"""Finishes the environment 'kallithea' (see environments.py).

Its own upper bounds shut out what there is for Python 3.11, where it runs as it is with
the packages that the recipe names. So it is installed without them.
"""

import subprocess
import sys

pip = [sys.executable, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check']
subprocess.run([*pip, '--no-deps', 'Kallithea==0.7.0'], check=True)
