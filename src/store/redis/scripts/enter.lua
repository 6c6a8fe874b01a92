-- ARGV: now, me, epoch and number of the newest message that the node knows (or empty), a new epoch.
-- Registers the node as a watcher, and returns the state of the session.
if not is_live() then return {} end
local length = redis.call('LLEN', base .. 'l:' .. id)
local known, seq = ARGV[3], tonumber(ARGV[4]) or 0
local lost = 0
if not is_settled() then
  local epoch = redis.call('HGET', s, 'e')
  if known ~= epoch or seq > length then
    -- No node has confirmed that the log is whole.
    redis.call('HSET', s, 'e', ARGV[5], 'pe', epoch, 'ph', length, 'pl', length)
  end
  redis.call('HSET', s, 't', term())
end
if known ~= '' then
  local earlier = redis.call('HMGET', s, 'pe', 'pl')
  if known == earlier[1] and seq > tonumber(earlier[2]) then
    lost = seq - earlier[2]
    redis.call('HSET', s, 'pl', seq)
  end
end
local watchers = redis.call('HGET', s, 'w') or ''
if not place_of(watchers, me, 8) then put('w', watchers .. me) end
local fields, extra = session()
local waiting = redis.call('HGET', s, 'u') or ''
local turns = {}
for place = 1, #waiting, 4 do
  local seq = struct.unpack('>I4', waiting, place)
  turns[#turns + 1] = seq
  turns[#turns + 1] = string.sub(redis.call('LINDEX', base .. 'l:' .. id, seq - 1), 2, 17)
end
return {fields, extra, length, turns, lost}
