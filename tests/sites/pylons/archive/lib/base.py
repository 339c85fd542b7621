"""The base Controller API"""

from pylons.controllers import WSGIController
from pylons.templating import render_mako as render

__all__ = ['BaseController', 'render']


class BaseController(WSGIController):
    def __call__(self, environ, start_response):
        """Invoke the Controller"""
        return WSGIController.__call__(self, environ, start_response)
