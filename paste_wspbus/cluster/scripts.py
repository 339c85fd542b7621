"""The scripts that Redis or Valkey runs: each is one step that no other command interrupts."""

from __future__ import annotations

#: The run of the engine. It changes with each start, when a replica becomes the master
#: (the first part, which is empty where INFO is forbidden), and when the engine has lost
#: its data (the second part). KEYS[1] has that one, ARGV[1] is a random number.
_EPOCH = """
local function field(section, name)
  local said = redis.pcall('INFO', section)
  if type(said) ~= 'string' then return '' end
  return string.match(said, name .. ':(%w+)') or ''
end
local epoch = field('server', 'run_id') .. string.sub(field('replication', 'master_replid'), 1, 8)
local memory = redis.call('GET', KEYS[1])
if not memory then
  memory = ARGV[1]
  redis.call('SET', KEYS[1], memory)
end
epoch = epoch..':'..string.sub(memory, 1, 16)
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function whole(number) return string.format('%.0f', number) end
"""

#: What another program has written into a lease is no record, and its fence is none.
_VALID = """
local most = 9007199254740992
local function count(text)
  return text and #text <= 16 and string.match(text, '^%d+$') and tonumber(text) < most
end
local function fence_of(key)
  local stored = redis.call('GET', key)
  return count(stored) and tonumber(stored) or 0
end
local function valid(had)
  for _, place in ipairs({2, 3, 5, 6}) do
    if not count(had[place]) then return false end
  end
  local ttl = tonumber(string.match(had[8] or '', '^[%d.]+$') or '')
  if not ttl or ttl > 3600 then return false end
  return had[1] and had[4] and had[7] and #had[1] + #had[4] + #had[7] < 2000
end
"""

#: Returns the number of members that have reported in time. It first forgets those that were
#: silent for too long. All times are in milliseconds.
_MEMBERS = """
local function count_members(members, seen, facts, now, silent, forgotten)
  local gone = redis.call('ZRANGEBYSCORE', seen, '-inf', now - forgotten)
  for _, id in ipairs(gone) do
    redis.call('HDEL', members, id)
    redis.call('HDEL', facts, id)
    redis.call('ZREM', seen, id)
  end
  return redis.call('ZCOUNT', seen, now - silent, '+inf')
end
"""

#: KEYS: epoch, lease, fence, members, seen, facts. ARGV: random, act, member, machine, version,
#: fence, ttl, note, milliseconds after which a member counts as silent, and after which it is
#: forgotten. It returns {granted, epoch, now, members} and, if there is a record, {holder,
#: fence, renewals, epoch, at, since, machine, ttl, note, entered}; all numbers are texts, for
#: Lua's would lose their digits. A member that has joined is not silent then: its heartbeat
#: needs no command of its own.
LEASE = (
    _EPOCH
    + _VALID
    + _MEMBERS
    + """
local act, member, machine = ARGV[2], ARGV[3], ARGV[4]
local version, fence, ttl, note = ARGV[5], tonumber(ARGV[6]), ARGV[7], ARGV[8]
local ms, known = math.floor(now / 1000), 0
redis.call('ZADD', KEYS[5], 'XX', ms, member)
if redis.call('ZSCORE', KEYS[5], member) and redis.call('HEXISTS', KEYS[4], member) == 1
    and redis.call('HEXISTS', KEYS[6], member) == 1 then
  known = count_members(KEYS[4], KEYS[5], KEYS[6], ms, tonumber(ARGV[9]), tonumber(ARGV[10]))
end
local names = {'holder', 'fence', 'renewals', 'epoch', 'at', 'since', 'machine', 'ttl', 'note',
  'entered'}
local had = redis.call('HMGET', KEYS[2], unpack(names))
local there = valid(had)
for place = 9, 10 do
  if not had[place] or #had[place] > 32000 then had[place] = '' end
end
if note == '' and act ~= 'take' then note = had[9] end
local current = '@'..epoch
if there then current = had[1]..' '..had[2]..' '..had[3]..' '..had[4]..current end
local granted = 0
local function write(holder, fence, renewals, since, machine, entered)
  had = {holder, whole(fence), whole(renewals), epoch, whole(now), since, machine, ttl, note,
    entered}
  redis.call('HSET', KEYS[2], 'holder', had[1], 'fence', had[2], 'renewals', had[3],
    'epoch', had[4], 'at', had[5], 'since', had[6], 'machine', had[7], 'ttl', ttl,
    'note', note, 'entered', entered)
  there, granted = true, 1
end
if act == 'take' and version == current then
  local new = math.max(fence_of(KEYS[3]) + 1, now, fence + 1)
  if new >= most then return redis.error_reply('FENCE no number is higher') end
  redis.call('SET', KEYS[3], whole(new))
  write(member, new, 0, whole(now), machine, '')
elseif act == 'renew' then
  if there and had[1] == member and tonumber(had[2]) == fence then
    write(member, fence, tonumber(had[3]) + 1, had[6], machine, had[10])
  elseif not there or (had[4] ~= epoch and tonumber(had[2]) < fence) then
    -- The engine has lost its last writes. Nobody else takes the lease within a ttl.
    redis.call('SET', KEYS[3], whole(math.max(fence_of(KEYS[3]), fence)))
    write(member, fence, 0, whole(now), machine, '')
  end
elseif act == 'free' and there and had[1] == member and tonumber(had[2]) == fence then
  write('', fence, tonumber(had[3]) + 1, whole(now), '', had[10])
elseif act == 'enter' and there and had[1] ~= '' and had[4] == epoch
    and tonumber(had[2]) == fence and now - tonumber(had[5]) <= tonumber(had[8]) * 1000000 then
  redis.call('HSET', KEYS[2], 'entered', member)
  had[10], granted = member, 1
end
local said = {tostring(granted), epoch, whole(now), tostring(known)}
if not there then return said end
for _, one in ipairs(had) do table.insert(said, one) end
return said
"""
)

#: KEYS: members, seen, facts, and one fence for each ARGV behind the fifth.
#: ARGV: id, JSON of the member, milliseconds after which a silent member is forgotten,
#: JSON of its facts or '', milliseconds after which a member counts as silent.
#: It returns the number of members that are not silent.
JOIN = (
    _MEMBERS
    + """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], now, ARGV[1])
if ARGV[4] ~= '' then redis.call('HSET', KEYS[3], ARGV[1], ARGV[4]) end
for number = 6, #ARGV do
  local key = KEYS[number - 2]
  local stored = tonumber(redis.call('GET', key) or '0') or 0
  if tonumber(ARGV[number]) > stored then redis.call('SET', key, ARGV[number]) end
end
return count_members(KEYS[1], KEYS[2], KEYS[3], now, tonumber(ARGV[5]), tonumber(ARGV[3]))
"""
)

#: KEYS: messages, stream. ARGV: milliseconds for which messages are kept, how many of how many
#: bytes are kept at most, a random number, and the messages. Each message is kept with its
#: number in the stream, so that who reads it sees whether others before it were dropped. The
#: stream has, beside the messages: the number of their bytes, the number of the last one, the
#: id of the last one that was dropped, and a random number by which the members see that its
#: data were lost.
SEND = """
local keep, most, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local found = redis.call('HMGET', KEYS[2], 'size', 'count')
local size, count = tonumber(found[1] or '') or 0, tonumber(found[2] or '') or 0
local old, new = redis.call('XLEN', KEYS[1]), #ARGV - 4
if old == 0 then size = 0 end
for number = 5, #ARGV do size = size + #ARGV[number] end
local time = redis.call('TIME')
local oldest = time[1] * 1000 + math.floor(time[2] / 1000) - keep
local dropped
for _ = 1, 1000 + new do
  if old == 0 then break end
  local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  local at = tonumber(string.match(first[1], '^%d+'))
  if at >= oldest and old + new <= most and size <= most_bytes then break end
  redis.call('XDEL', KEYS[1], first[1])
  size, old, dropped = size - #(first[2][2] or ''), old - 1, first[1]
end
for number = 5, #ARGV do
  count = count + 1
  redis.call('XADD', KEYS[1], '*', 'm', ARGV[number], 'n', string.format('%.0f', count))
end
redis.call('HSET', KEYS[2], 'size', string.format('%.0f', math.max(size, 0)),
  'count', string.format('%.0f', count))
if dropped then redis.call('HSET', KEYS[2], 'dropped', dropped) end
redis.call('HSETNX', KEYS[2], 'run', ARGV[4])
"""

#: KEYS: messages, stream. ARGV: a random number. It returns the random number of the stream,
#: the id of the newest message, that of the last one that was dropped ('' if there is
#: none), the time in ms, and the number of the newest message.
WHERE = """
redis.call('HSETNX', KEYS[2], 'run', ARGV[1])
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local found = redis.call('HMGET', KEYS[2], 'run', 'dropped', 'count')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return {found[1], newest and newest[1] or '', found[2] or '', string.format('%.0f', now),
  found[3] or '0'}
"""

#: KEYS: members, seen, facts. It returns {now in ms, id, JSON, JSON of facts, ms, …}.
MEMBERS = """
local time = redis.call('TIME')
local found = {time[1] * 1000 + math.floor(time[2] / 1000)}
local seen = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
for number = 1, #seen, 2 do
  local id = seen[number]
  table.insert(found, redis.call('HGET', KEYS[1], id) or '')
  table.insert(found, redis.call('HGET', KEYS[3], id) or '')
  table.insert(found, seen[number + 1])
end
return found
"""
