from paste_wspbus.hosts.mod_wsgi import application_from
application = application_from('site.ini')
