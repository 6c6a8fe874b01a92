-- ARGV: now, me, token hash, token value, first deadline, length n of the main hash, n fields and
-- values of the main hash, then those of the second hash.
local fields, extra = {}, {}
local count = tonumber(ARGV[6])
for place = 1, count do fields[place] = ARGV[6 + place] end
for place = 7 + count, #ARGV do extra[#extra + 1] = ARGV[place] end
reach(base .. 't:' .. ARGV[3])
redis.call('HSET', s, 'k', ARGV[3], unpack(fields))
if #extra > 0 then
  redis.call('HSET', s, 'X', 1)
  redis.call('HSET', base .. 'x:' .. id, unpack(extra))
end
local process = term()
if process ~= '1' then redis.call('HSET', s, 't', process) end
redis.call('SET', base .. 't:' .. ARGV[3], ARGV[4])
redis.call('ZADD', base .. 'due', ARGV[5], id)
return 1
