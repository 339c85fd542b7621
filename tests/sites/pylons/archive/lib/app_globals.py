"""The application's Globals object"""

import os

from beaker.cache import CacheManager
from beaker.util import parse_cache_config_options

from archive.model import database


class UnawareGlobals:
    """As Pylons' template has it."""

    def __init__(self, config):
        self.cache = CacheManager(**parse_cache_config_options(config))


class Globals(UnawareGlobals):
    def __init__(self, config):
        super().__init__(config)
        bus, path = config['wspbus'].bus, config['pylons.cache_dir']

        @bus.lifespan
        def letters():
            with database(os.path.join(path, 'letters.db')) as self.letters:
                yield self.letters


class SlottedGlobals:
    __slots__ = ('cache', 'mako_lookup')

    def __init__(self, config):
        self.cache = CacheManager(**parse_cache_config_options(config))


class OwnGlobals(UnawareGlobals):
    bus = 'number 12 to the harbour'
