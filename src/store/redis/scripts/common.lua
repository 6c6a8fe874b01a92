-- Every script begins with this text. KEYS[1] is the key of a session; all other keys lie in its
-- partition. `now` is ARGV[1], in milliseconds, and `me` is ARGV[2], the node that calls.
local s = KEYS[1]
local at = string.find(s, '}:s:', 1, true)
local base, id = string.sub(s, 1, at + 1), string.sub(s, at + 4)
local now, me = tonumber(ARGV[1]), ARGV[2]

local function u32(number) return struct.pack('>I4', number) end

-- Returns true if the session exists and its deadline has not passed.
local function is_live()
  local x = redis.call('HGET', s, 'x')
  return x and tonumber(x) > now
end

-- The number of the server process that the partition is used with.
local function term() return redis.call('HGET', base .. 'term', 'n') or '1' end

-- Returns true if a node has entered the session since the server was restarted or replaced.
local function is_settled() return (redis.call('HGET', s, 't') or '1') == term() end

-- Fails if the key is being moved to another server of a cluster. Called before the first write for
-- keys that the caller could not name.
local function reach(key) redis.call('EXISTS', key) end

-- Returns the fields of the session: those of the main hash, and those of the second hash, which only
-- sessions with a title, metadata or a subject have.
local function session()
  local fields = redis.call('HGETALL', s)
  local extra = {}
  if redis.call('HEXISTS', s, 'X') == 1 then extra = redis.call('HGETALL', base .. 'x:' .. id) end
  return fields, extra
end

-- Returns the subject of the session and the hash of the address that created it. Each may be empty.
local function share()
  local subject = redis.call('HGET', base .. 'x:' .. id, 'su')
  return subject or '', redis.call('HGET', s, 'og') or ''
end

-- The sets of numbers and nodes are strings of fixed-width items.
local function place_of(items, item, width)
  for place = 1, #items, width do
    if string.sub(items, place, place + width - 1) == item then return place end
  end
end

local function without(items, item)
  local place = place_of(items, item, #item)
  if not place then return items end
  return string.sub(items, 1, place - 1) .. string.sub(items, place + #item)
end

local function put(field, value)
  if value == '' then redis.call('HDEL', s, field) else redis.call('HSET', s, field, value) end
end

-- Sends a note to a node. Returns false if the node does not listen.
local function tell(node, note)
  return redis.call('SPUBLISH', base .. 'n:' .. node, string.sub(note, 1, 1) .. id .. string.sub(note, 2)) > 0
end

-- Sends a note to each node that watches the session and to the one that answers it, except one. A
-- node that does not listen is removed from the watchers.
local function tell_watchers_of(watchers, owner, except, note)
  watchers = watchers or ''
  local left = watchers
  for place = 1, #watchers, 8 do
    local node = string.sub(watchers, place, place + 7)
    if node ~= except and not tell(node, note) then left = without(left, node) end
  end
  if left ~= watchers then put('w', left) end
  if owner and owner ~= except and not place_of(watchers, owner, 8) then tell(owner, note) end
end

local function tell_watchers(except, note)
  local fields = redis.call('HMGET', s, 'w', 'o')
  tell_watchers_of(fields[1], fields[2], except, note)
end

-- Notes carry entries up to this size. Larger ones are read from the log.
local max_note = 8192

local function note_of_entry(seq, owner, entry)
  if #entry > max_note then entry = '' end
  return 'A' .. u32(seq) .. owner .. entry
end

local no_node = string.rep('\0', 8)

-- Returns the header of an entry of the log: kind, id, time, link, size.
local function header(kind, message, millis, link, size)
  local high = math.floor(millis / 4294967296)
  return kind .. message .. struct.pack('>I2I4I4I4', high, millis % 4294967296, link, size)
end

local function link_of(entry) return (struct.unpack('>I4', entry, 24)) end

-- Returns the number and the entry of the reply to a turn.
local function reply_to(turn)
  local from = turn
  while true do
    local entries = redis.call('LRANGE', base .. 'l:' .. id, from, from + 15)
    for place, entry in ipairs(entries) do
      if string.byte(entry) == 2 and link_of(entry) == turn then return from + place, entry end
    end
    if #entries < 16 then return end
    from = from + 16
  end
end

-- Makes a node the owner of the waiting turns. Returns the new fence.
local function grant(node)
  local before = redis.call('HGET', s, 'o')
  if before then redis.call('SREM', base .. 'o:' .. before, id) end
  local fence = redis.call('HINCRBY', s, 'f', 1)
  redis.call('HSET', s, 'o', node)
  redis.call('SADD', base .. 'o:' .. node, id)
  return fence
end

-- Ends the ownership of a node.
local function release(node)
  redis.call('HDEL', s, 'o')
  redis.call('SREM', base .. 'o:' .. node, id)
end

-- Returns three values for each waiting turn: its number, its entry in the log, its checkpoint.
local function waiting_turns()
  local waiting = redis.call('HGET', s, 'u') or ''
  local turns = {}
  for place = 1, #waiting, 4 do
    local seq = struct.unpack('>I4', waiting, place)
    turns[#turns + 1] = seq
    turns[#turns + 1] = redis.call('LINDEX', base .. 'l:' .. id, seq - 1)
    turns[#turns + 1] = redis.call('HGET', base .. 'c:' .. id, seq) or ''
  end
  return turns
end

-- Returns the key and the value of a token.
local function find_token(token)
  local hashes = redis.call('HGET', s, 'k') or ''
  for place = 1, #hashes, 32 do
    local key = base .. 't:' .. string.sub(hashes, place, place + 31)
    local value = redis.call('GET', key)
    if value and string.sub(value, 17, 32) == token then return key, value end
  end
end

-- Moves the idle deadline of a token that has one of its own. Returns that deadline, if there is one,
-- and the value of the token. Returns nothing if the token does not exist or has expired.
local function renew_token(key, value, expires)
  if not value then return end
  local high, low, end_high, end_low = struct.unpack('>I4I4I4I4', value, 33)
  local current, ends = high * 4294967296 + low, end_high * 4294967296 + end_low
  if ends == 0 then return nil, value end
  if current <= now then return end
  local moved = math.min(math.max(current, expires), ends)
  if moved ~= current then
    local bytes = struct.pack('>I4I4', math.floor(moved / 4294967296), moved % 4294967296)
    value = string.sub(value, 1, 32) .. bytes .. string.sub(value, 41)
    redis.call('SET', key, value)
  end
  return moved, value
end

-- Deletes the session and everything about it.
local function delete_session()
  local owner = redis.call('HGET', s, 'o')
  if owner then reach(base .. 'o:' .. owner) end
  local hashes = redis.call('HGET', s, 'k') or ''
  for place = 1, #hashes, 32 do reach(base .. 't:' .. string.sub(hashes, place, place + 31)) end
  if owner then
    redis.call('SREM', base .. 'o:' .. owner, id)
  end
  tell_watchers(me, 'E')
  for place = 1, #hashes, 32 do
    redis.call('UNLINK', base .. 't:' .. string.sub(hashes, place, place + 31))
  end
  redis.call('UNLINK', s, base .. 'x:' .. id, base .. 'l:' .. id, base .. 'i:' .. id, base .. 'c:' .. id)
  redis.call('ZREM', base .. 'due', id)
end
