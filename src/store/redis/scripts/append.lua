-- ARGV: now, me, message id, client message id, body, parent (or empty: the newest turn), newest turn
-- that is expected (or empty: any), time of the commit, new deadline, new time of deletion, most
-- waiting turns, most messages, budget, 1 if a new turn is refused, size, token id, 1 if the call is
-- repeated, the term in which the node entered the session.
local fields = redis.call('HMGET', s, 'x', 'm', 'd', 'nt', 'u', 'o', 'f', 'si', 'ui', 'uo', 'w', 'og', 'X')
local expires = tonumber(fields[1] or 0)
if expires <= now then return {'GONE'} end
if ARGV[18] ~= term() then return {'UNSETTLED'} end
local log, keys = base .. 'l:' .. id, base .. 'i:' .. id
local waiting, owner = fields[5] or '', fields[6]
local head = redis.call('LLEN', log)
local function lease() return owner == me and fields[7] or '' end
local function before(seq, entry)
  local reply = ''
  if not place_of(waiting, u32(seq), 4) then reply = reply_to(seq) or '' end
  return {'DUP', seq, entry, reply, fields[1], lease()}
end
if ARGV[4] ~= '' then
  local seq = redis.call('HGET', keys, ARGV[4])
  if seq then return before(tonumber(seq), redis.call('LINDEX', log, seq - 1)) end
end
-- The same call again: its answer was lost.
if ARGV[17] == '1' then
  for seq = head, math.max(1, head - 31), -1 do
    local entry = redis.call('LINDEX', log, seq - 1)
    if string.sub(entry, 2, 17) == ARGV[3] then
      return {'AGAIN', seq, entry, '', fields[1], lease()}
    end
  end
end
local newest = fields[4] or '0'
if ARGV[7] ~= '' and ARGV[7] ~= newest then return {'MOVED'} end
local spent = tonumber(fields[9] or 0) + tonumber(fields[10] or 0)
local budget = tonumber(ARGV[13])
if ARGV[14] == '1' or #waiting / 4 >= tonumber(ARGV[11])
  or head + #waiting / 4 + 2 > tonumber(ARGV[12]) or (budget > 0 and spent >= budget) then
  return {'REFUSED', #waiting / 4, head, string.format('%.0f', spent)}
end
local subject = fields[13] and redis.call('HGET', base .. 'x:' .. id, 'su') or ''
local token, token_value
if subject ~= '' then token, token_value = find_token(ARGV[16]) end
local seq = head + 1
local parent = ARGV[6] == '' and tonumber(newest) or tonumber(ARGV[6])
local entry = header('\1', ARGV[3], tonumber(ARGV[8]), parent, tonumber(ARGV[15])) .. ARGV[5]
redis.call('RPUSH', log, entry)
if ARGV[4] ~= '' then redis.call('HSET', keys, ARGV[4], seq) end
local own
local changed = {'nt', seq, 'u', waiting .. u32(seq), 'h', seq, 'si', (fields[8] or 0) + ARGV[15]}
local function change(field, value)
  changed[#changed + 1] = field
  changed[#changed + 1] = value
end
if subject ~= '' then
  if fields[3] then
    expires = math.max(tonumber(fields[3]), tonumber(ARGV[10]))
    change('d', string.format('%.0f', expires))
  end
  own = renew_token(token, token_value, tonumber(ARGV[9]))
else
  expires = math.min(math.max(expires, tonumber(ARGV[9])), tonumber(fields[2]))
end
local x = string.format('%.0f', expires)
change('x', x)
if not owner then
  owner, fields[7] = me, string.format('%.0f', (fields[7] or 0) + 1)
  change('o', me)
  change('f', fields[7])
  redis.call('SADD', base .. 'o:' .. me, id)
end
redis.call('HSET', s, unpack(changed))
tell_watchers_of(fields[11], owner, me, note_of_entry(seq, owner, entry))
return {'OK', seq, parent, own and string.format('%.0f', own) or '', x, lease(), subject, fields[12] or ''}
