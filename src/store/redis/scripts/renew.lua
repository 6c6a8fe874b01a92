-- ARGV: now, me, token id, new deadline. Returns the session and the token's own deadline.
if not is_live() then return {} end
local own = renew_token(ARGV[3], tonumber(ARGV[4]))
if own == 'expired' or own == 'unknown' then return {} end
if not own then
  local fields = redis.call('HMGET', s, 'x', 'm')
  local moved = math.min(math.max(tonumber(fields[1]), tonumber(ARGV[4])), tonumber(fields[2]))
  redis.call('HSET', s, 'x', string.format('%.0f', moved))
end
local fields, extra = session()
return {fields, extra, own and string.format('%.0f', own) or ''}
