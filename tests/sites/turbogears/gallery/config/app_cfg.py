"""Global configuration file for TG2-specific settings in gallery."""

from tg import FullStackApplicationConfigurator

import gallery
from gallery.lib import app_globals


def configurator(globals):
    """A configurator of its own for each application in this process."""
    base_config = FullStackApplicationConfigurator()
    base_config.update_blueprint(
        {
            'package': gallery,
            'app_globals': getattr(app_globals, globals),
            # Rendering Engines Configuration
            'renderers': ['json', 'mako'],
            'default_renderer': 'mako',
            # Configure Sessions, store data as JSON to avoid pickle security issues
            'session.enabled': True,
            'session.data_serializer': 'json',
            # Disable Ming and SQLAlchemy
            'use_sqlalchemy': False,
            'use_ming': False,
            'tm.enabled': False,
            'auth_backend': None,
        }
    )
    return base_config
