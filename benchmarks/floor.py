"""The floor of a start: Python, PasteDeploy and waitress, and nothing of wspserve.

It imports even less than ten_lines.py: neither `importlib.metadata` nor `inspect`, as
paste_wspbus/ini/pastedeploy.py does.
"""

import importlib
import sys
from types import ModuleType


class StandIn(ModuleType):
    def __getattr__(self, name):
        return None


for name in ('importlib.metadata', 'inspect'):
    sys.modules[name] = StandIn(name)
importlib.metadata = sys.modules['importlib.metadata']

import waitress  # noqa: E402
from paste.deploy import loadapp  # noqa: E402

if __name__ == '__main__':
    app = loadapp(f'config:{sys.argv[1]}')
    waitress.serve(app, host='127.0.0.1', port=int(sys.argv[2]), threads=4)
