-- KEYS[1] is the key of a token. ARGV: now. Returns the token and its session.
local value = redis.call('GET', KEYS[1])
if not value then return {} end
-- The token of a session in another partition.
if #value == 16 then return {value} end
local at = string.find(KEYS[1], '}:t:', 1, true)
local base, id = string.sub(KEYS[1], 1, at + 1), string.sub(value, 1, 16)
local s = base .. 's:' .. id
local x = redis.call('HGET', s, 'x')
if not x or tonumber(x) <= tonumber(ARGV[1]) then return {} end
local extra = {}
if redis.call('HEXISTS', s, 'X') == 1 then extra = redis.call('HGETALL', base .. 'x:' .. id) end
return {value, redis.call('HGETALL', s), extra}
