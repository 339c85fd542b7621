from sqlite3 import connect


def pool(bus, global_conf):
    db = connect('shop.db', check_same_thread=False)
    bus.log('shop.db is open')  # at start, before the server accepts
    yield db  # bus.resources['pool'] while the site runs
    db.close()
    bus.log('shop.db is closed')  # at stop, after the last response
