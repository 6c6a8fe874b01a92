-- ARGV: now, me, fence, turn, value.
if not is_live() then return 'GONE' end
local fields = redis.call('HMGET', s, 'u', 'o', 'f')
if not place_of(fields[1] or '', u32(tonumber(ARGV[4])), 4) then return 'OK' end
if fields[2] ~= me or fields[3] ~= ARGV[3] then return 'LOST' end
redis.call('HSET', base .. 'c:' .. id, ARGV[4], ARGV[5])
return 'OK'
