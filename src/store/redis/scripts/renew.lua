-- ARGV: now, me, token id, new deadline. Returns the session and the value of the token.
if not is_live() then return {} end
local key, found = find_token(ARGV[3])
local own, value = renew_token(key, found, tonumber(ARGV[4]))
if not value then return {} end
if not own then
  local fields = redis.call('HMGET', s, 'x', 'm')
  local moved = math.min(math.max(tonumber(fields[1]), tonumber(ARGV[4])), tonumber(fields[2]))
  redis.call('HSET', s, 'x', string.format('%.0f', moved))
end
local fields, extra = session()
return {fields, extra, value}
