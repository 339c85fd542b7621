from tg import TGController, expose, request


class ErrorController(TGController):
    """Generates error documents as and when they are required."""

    @expose('gallery.templates.error')
    def document(self, *args, **kwargs):
        """Render the error document"""
        response = request.environ.get('tg.original_response')
        return {'code': response.status_int if response else 400}
