-- ARGV: now, me, fence, turn, message id, body, size, 1 if complete, time of the commit, term in
-- which the node entered the session, then input and output tokens, 1 if estimated, cached, cache
-- writes, reasoning (or empty).
local tokens = {'ui', 'uo', 'ue', 'uc', 'uw', 'ur'}
local fields =
  redis.call('HMGET', s, 'x', 'u', 'o', 'f', 'st', 'si', 'w', 'og', 'X', unpack(tokens))
if tonumber(fields[1] or 0) <= now then return {'GONE'} end
if ARGV[10] ~= term() then return {'UNSETTLED'} end
local log, turn = base .. 'l:' .. id, tonumber(ARGV[4])
local waiting = fields[2] or ''
local function lease() return fields[3] == me and waiting ~= '' and fields[4] or '' end
if not place_of(waiting, u32(turn), 4) then
  local seq, entry = reply_to(turn)
  if not seq then return {'NONE'} end
  return {'DUP', seq, entry, fields[1], lease()}
end
if fields[3] ~= me or fields[4] ~= ARGV[3] then return {'LOST'} end
local stopped = fields[5] or ''
if ARGV[8] == '1' and place_of(stopped, u32(turn), 4) then return {'STOP'} end
local subject = fields[9] and redis.call('HGET', base .. 'x:' .. id, 'su') or ''
local entry = header('\2', ARGV[5], tonumber(ARGV[9]), turn, tonumber(ARGV[7])) .. ARGV[6]
local seq = redis.call('RPUSH', log, entry)
redis.call('HDEL', base .. 'c:' .. id, turn)
waiting = without(waiting, u32(turn))
local changed = {'h', seq, 'si', (fields[6] or 0) + ARGV[7]}
for place, field in ipairs(tokens) do
  local used = ARGV[10 + place]
  if used and used ~= '' then
    changed[#changed + 1] = field
    changed[#changed + 1] = string.format('%.0f', (fields[9 + place] or 0) + used)
  end
end
local owner = me
if waiting == '' then
  owner = no_node
  redis.call('HDEL', s, 'u', 'o')
  redis.call('SREM', base .. 'o:' .. me, id)
else
  changed[#changed + 1] = 'u'
  changed[#changed + 1] = waiting
end
redis.call('HSET', s, unpack(changed))
if stopped ~= '' then put('st', without(stopped, u32(turn))) end
tell_watchers_of(fields[7], nil, me, note_of_entry(seq, owner, entry))
return {'OK', seq, '', fields[1], lease(), subject, fields[8] or ''}
