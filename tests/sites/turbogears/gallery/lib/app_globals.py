"""The application's Globals object"""

import os

import tg

from gallery.model import database


class UnawareGlobals:
    """As TurboGears' template has it."""


class Globals:
    def __init__(self):
        bus, path = tg.config['wspbus'].bus, tg.config['cache_dir']

        @bus.lifespan
        def pictures():
            with database(os.path.join(path, 'pictures.db')) as self.pictures:
                yield self.pictures


class SlottedGlobals:
    __slots__ = ('dotted_filename_finder',)


class OwnGlobals:
    bus = 'number 12 to the harbour'
