"""Serves the small site with cheroot or Paste#http alone: python alone.py SERVER PORT."""

import sys

import small_site


def main():
    server, port = sys.argv[1], int(sys.argv[2])
    if server == 'cheroot':
        from cheroot.wsgi import Server

        # wspserve's backlog; cheroot's own is 5.
        Server(('127.0.0.1', port), small_site.app, request_queue_size=128).start()
    else:
        from paste.httpserver import serve

        serve(small_site.app, '127.0.0.1', port, request_queue_size=128)


if __name__ == '__main__':
    main()
