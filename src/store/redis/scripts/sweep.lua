-- ARGV: now, me. Deletes the session if its deadline has passed, and tokens whose own has. Returns
-- the session if it was deleted.
-- A node whose clock is ahead deletes nothing early.
local time = redis.call('TIME')
now = math.min(now, time[1] * 1000 + 2000)
local x = redis.call('HGET', s, 'x')
if not x then
  redis.call('ZREM', base .. 'due', id)
  return {}
end
if tonumber(x) <= now then
  local fields, extra = session()
  delete_session()
  return {fields, extra}
end
local next_at = tonumber(x)
local hashes = redis.call('HGET', s, 'k') or ''
for place = 1, #hashes, 32 do reach(base .. 't:' .. string.sub(hashes, place, place + 31)) end
for place = 1, #hashes, 32 do
  local hash = string.sub(hashes, place, place + 31)
  local value = redis.call('GET', base .. 't:' .. hash)
  if value then
    local high, low, end_high, end_low = struct.unpack('>I4I4I4I4', value, 33)
    if end_high + end_low > 0 then
      local expires = high * 4294967296 + low
      if expires <= now then
        redis.call('UNLINK', base .. 't:' .. hash)
        put('k', without(redis.call('HGET', s, 'k') or '', hash))
      else
        next_at = math.min(next_at, expires)
      end
    end
  end
end
redis.call('ZADD', base .. 'due', string.format('%.0f', next_at), id)
return {}
