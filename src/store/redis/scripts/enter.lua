-- ARGV: now, me; epoch, number and id of the newest message that the node knows (or empty); a new
-- epoch; 1 if the node does not wait for other nodes. Registers the node as a watcher, and returns the state
-- of the session.
if not is_live() then return {} end
local log = base .. 'l:' .. id
local length = redis.call('LLEN', log)
local known, seq = ARGV[3], tonumber(ARGV[4]) or 0
local fields = redis.call('HMGET', s, 'e', 'w', 'tl')
local epoch, watchers = fields[1], fields[2] or ''
local is_whole = known == epoch
  and (seq == 0 or string.sub(redis.call('LINDEX', log, seq - 1) or '', 2, 17) == ARGV[5])
local kept
if not is_settled() then
  -- Another node may know that the log is whole.
  if known == '' and ARGV[7] ~= '1' and without(watchers, me) ~= '' then return {'WAIT'} end
  if not is_whole then kept = length end
  redis.call('HSET', s, 't', term(), 'tl', length)
elseif known == epoch and not is_whole then
  -- Another node did not know of the messages that are lost.
  kept = tonumber(fields[3] or length)
end
if kept then redis.call('HSET', s, 'e', ARGV[6], 'pe', epoch, 'ph', kept, 'pl', kept) end
local lost = 0
if known ~= '' then
  local earlier = redis.call('HMGET', s, 'pe', 'pl')
  if known == earlier[1] and seq > tonumber(earlier[2]) then
    lost = seq - earlier[2]
    redis.call('HSET', s, 'pl', seq)
  end
end
if not place_of(watchers, me, 8) then put('w', watchers .. me) end
local main, extra = session()
local head = length > 0 and string.sub(redis.call('LINDEX', log, -1), 2, 17) or ''
local waiting = redis.call('HGET', s, 'u') or ''
local turns = {}
for place = 1, #waiting, 4 do
  local turn = struct.unpack('>I4', waiting, place)
  turns[#turns + 1] = turn
  turns[#turns + 1] = string.sub(redis.call('LINDEX', log, turn - 1), 2, 17)
end
return {main, extra, length, head, turns, lost, term()}
