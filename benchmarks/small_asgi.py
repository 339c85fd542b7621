"""The small site as an ASGI application, for uvicorn."""

import a2wsgi
import small_site

app = a2wsgi.WSGIMiddleware(small_site.app, workers=4)
