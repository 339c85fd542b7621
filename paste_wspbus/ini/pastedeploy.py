"""Imports PasteDeploy without the modules of Python that most starts do not need.

PasteDeploy imports `importlib.metadata` for ``egg:`` entries only. With Python's parser of
e-mails and zip files, that takes as long as the import of the whole package and more. It
imports `inspect` for an error message. With Python's own parser and disassembler, that
takes a third as long.
"""

from __future__ import annotations

import importlib
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _StandIn(types.ModuleType):
    """What PasteDeploy has as a module: its first use imports the module itself."""

    def __getattr__(self, name: str) -> Any:
        self.remove()  # another thread may import it just now
        return getattr(importlib.import_module(self.__name__), name)

    def put(self) -> None:
        """Take the place of the module, unless the module is imported already."""
        name = self.__name__
        if sys.modules.setdefault(name, self) is self and name == _METADATA:
            importlib.metadata = self  # for other threads, which may import it just now

    def remove(self) -> None:
        """Leave the place to the module itself."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        if vars(importlib).get('metadata') is self:
            del importlib.metadata


_METADATA = 'importlib.metadata'


def _import() -> types.ModuleType:
    """Return `paste.deploy.loadwsgi`."""
    stand_ins = [_StandIn(name) for name in (_METADATA, 'inspect')]
    for one in stand_ins:
        one.put()
    try:
        from paste.deploy import loadwsgi
    finally:
        for one in stand_ins:
            one.remove()
    return loadwsgi  # type: ignore[no-any-return]


loadwsgi: Any = _import()
importlib_metadata: Any = loadwsgi.importlib_metadata
