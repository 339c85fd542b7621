"""Pylons environment configuration"""

import os

from mako.lookup import TemplateLookup
from pylons.configuration import PylonsConfig
from pylons.error import handle_mako_error

import archive.lib.helpers
from archive.config.routing import make_map
from archive.lib import app_globals


def load_environment(global_conf, app_conf):
    """Configure the Pylons environment via the ``pylons.config`` object"""
    config = PylonsConfig()

    # Pylons paths
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    paths = dict(
        root=root,
        controllers=os.path.join(root, 'controllers'),
        static_files=os.path.join(root, 'public'),
        templates=[os.path.join(root, 'templates')],
    )

    # Initialize config with the basic options
    config.init_app(global_conf, app_conf, package='archive', paths=paths)

    config['routes.map'] = make_map(config)
    make_globals = getattr(app_globals, app_conf.get('globals', 'Globals'))
    config['pylons.app_globals'] = make_globals(config)
    config['pylons.h'] = archive.lib.helpers

    # Setup cache object as early as possible
    import pylons

    pylons.cache._push_object(config['pylons.app_globals'].cache)

    # Create the Mako TemplateLookup, with the default auto-escaping
    config['pylons.app_globals'].mako_lookup = TemplateLookup(
        directories=paths['templates'],
        error_handler=handle_mako_error,
        module_directory=os.path.join(app_conf['cache_dir'], 'templates'),
        input_encoding='utf-8',
        default_filters=['escape'],
        imports=['from markupsafe import escape'],
    )
    return config
