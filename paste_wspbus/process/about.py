"""The part of a report that describes the site: its versions and its settings."""

from __future__ import annotations

import contextlib
import platform
from importlib.metadata import PackageNotFoundError, version

from paste_wspbus.ini.factories import SERVER
from paste_wspbus.ini.masking import masked_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.process.process import Process

#: From modules to their distributions, if these have another name.
_DISTRIBUTIONS = {'paste': 'Paste'}


def about(process: Process) -> dict[str, Any]:
    """Return the ``versions`` and the ``settings`` of a site; secrets are masked.

    ``versions`` has Python's, the system's, and those of the distributions that are known
    to serve: {name: version}. ``settings`` is {section: {key: value}}.
    """
    config, options = process.config, process.options
    names = ['paste_wspbus', 'PasteDeploy', *_names_of_server(process)]
    versions = {'Python': platform.python_version(), 'system': platform.platform()}
    for name in dict.fromkeys(names):
        with contextlib.suppress(PackageNotFoundError, ValueError):
            versions[name] = version(name)
    return {
        'ini': config.file,
        'versions': versions,
        'settings': masked_settings(config, options.server_name),
    }


def _names_of_server(process: Process) -> list[str]:
    """Return names that may be those of the distribution of the site's server."""
    config, options = process.config, process.options
    factory = config.loader.factory_name(SERVER, options.server_name) or ''
    module, _, function = factory.partition(':')
    top = module.partition('.')[0]
    # egg:paste_wspbus#cheroot is paste_wspbus.servers:cheroot_server.
    return [
        _DISTRIBUTIONS.get(top, top),
        function.removesuffix('_server') if top == 'paste_wspbus' else top,
    ]
