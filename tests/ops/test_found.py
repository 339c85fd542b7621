"""What plugins yield is checked: with real engines, servers, databases and caches."""

import beaker.cache
import pytest
import redis
import sqlalchemy

from paste_wspbus.ops.found import check_of
from tests.kit.redis_servers import RedisServer


@pytest.mark.parametrize('value', [None, 3, 'text', object(), {}, type])
def test_other_objects_have_no_check(value):
    assert check_of(value) is None


def test_an_engine_of_sqlalchemy_is_asked_for_one(tmp_path):
    engine = sqlalchemy.create_engine(f'sqlite:///{tmp_path}/shop.db')
    assert check_of(engine)() == 'sqlite'
    engine.dispose()
    broken = sqlalchemy.create_engine(f'sqlite:///{tmp_path}/missing/shop.db')
    with pytest.raises(sqlalchemy.exc.OperationalError):
        check_of(broken)()


def test_a_client_of_redis_sends_ping(tmp_path):
    with RedisServer(tmp_path) as server:
        client = redis.Redis.from_url(server.url)
        assert check_of(client)() is None
        client.close()
    gone = redis.Redis.from_url(server.url)
    with pytest.raises(redis.ConnectionError):
        check_of(gone)()
    gone.close()


def test_a_cache_of_beaker_is_written_and_read(tmp_path):
    manager = beaker.cache.CacheManager(type='file', data_dir=str(tmp_path))
    assert check_of(manager)() is None
    lost = beaker.cache.CacheManager(type='memory', expire=-1)
    with pytest.raises((ConnectionError, KeyError)):
        check_of(lost)()
