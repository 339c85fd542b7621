"""Routes configuration"""

from routes import Mapper


def make_map(config):
    """Create, configure and return the routes Mapper"""
    map = Mapper(
        directory=config['pylons.paths']['controllers'], always_scan=config['debug']
    )
    map.minimization = False
    map.explicit = False

    # The ErrorController route (handles 404/500 error pages); it should
    # likely stay at the top, ensuring it can always be resolved
    map.connect('/error/{action}', controller='error')
    map.connect('/error/{action}/{id}', controller='error')

    map.connect('letter', '/letters/{number}', controller='page', action='letter')
    map.connect('/{action}', controller='page')
    map.connect('/', controller='page', action='index')
    return map
