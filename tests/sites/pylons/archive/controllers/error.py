from html import escape

from paste.urlparser import PkgResourcesParser
from pylons.middleware import error_document_template
from webhelpers.html.builder import literal

from archive.lib.base import BaseController


class ErrorController(BaseController):
    """Generates error documents as and when they are required."""

    def document(self):
        """Render the error document"""
        request = self._py_object.request
        resp = request.environ.get('pylons.original_response')
        content = literal(resp.text) or escape(request.GET.get('message', ''))
        page = error_document_template % dict(
            prefix=request.environ.get('SCRIPT_NAME', ''),
            code=escape(request.GET.get('code', str(resp.status_int))),
            message=content,
        )
        return page

    def style(self, id):
        """Serve Pylons' stock stylesheets"""
        return self._serve_file('/'.join(['media/style', id]))

    def _serve_file(self, path):
        request = self._py_object.request
        request.environ['PATH_INFO'] = f'/{path}'
        return PkgResourcesParser('pylons', 'pylons')(
            request.environ, self.start_response
        )
