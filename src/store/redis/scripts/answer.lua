-- ARGV: now, me, fence, turn, message id, body, size, 1 if complete, time of the commit, term in
-- which the node entered the session, then input and output tokens, 1 if estimated, cached, cache writes, reasoning (or empty).
if not is_live() then return {'GONE'} end
if ARGV[10] ~= term() then return {'UNSETTLED'} end
local log, turn = base .. 'l:' .. id, tonumber(ARGV[4])
local fields = redis.call('HMGET', s, 'u', 'o', 'f', 'st', 'si', 'x')
local waiting = fields[1] or ''
local function lease() return fields[2] == me and waiting ~= '' and fields[3] or '' end
if not place_of(waiting, u32(turn), 4) then
  local seq, entry = reply_to(turn)
  if not seq then return {'NONE'} end
  return {'DUP', seq, entry, fields[6], lease()}
end
if fields[2] ~= me or fields[3] ~= ARGV[3] then return {'LOST'} end
local stopped = fields[4] or ''
if ARGV[8] == '1' and place_of(stopped, u32(turn), 4) then return {'STOP'} end
local entry = header('\2', ARGV[5], tonumber(ARGV[9]), turn, tonumber(ARGV[7])) .. ARGV[6]
local seq = redis.call('RPUSH', log, entry)
redis.call('HDEL', base .. 'c:' .. id, turn)
waiting = without(waiting, u32(turn))
put('u', waiting)
if stopped ~= '' then put('st', without(stopped, u32(turn))) end
redis.call('HSET', s, 'h', seq, 'si', (fields[5] or 0) + ARGV[7])
for place, field in ipairs({'ui', 'uo', 'ue', 'uc', 'uw', 'ur'}) do
  local tokens = ARGV[10 + place]
  if tokens and tokens ~= '' then redis.call('HINCRBY', s, field, tokens) end
end
local owner = me
if waiting == '' then
  release(me)
  owner = no_node
end
tell_watchers(me, note_of_entry(seq, owner, entry))
local subject, origin = share()
return {'OK', seq, '', fields[6], lease(), subject, origin}
