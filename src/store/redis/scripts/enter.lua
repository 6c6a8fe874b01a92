-- ARGV: now, me. Registers the node as a watcher, and returns the state of the session.
if not is_live() then return {} end
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
return {fields, extra, redis.call('LLEN', base .. 'l:' .. id), turns}
