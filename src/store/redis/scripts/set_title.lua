-- ARGV: now, me, title. An empty title removes it.
if not is_live() then return {} end
if ARGV[3] == '' then
  redis.call('HDEL', base .. 'x:' .. id, 'ti')
  if redis.call('EXISTS', base .. 'x:' .. id) == 0 then redis.call('HDEL', s, 'X') end
else
  redis.call('HSET', base .. 'x:' .. id, 'ti', ARGV[3])
  redis.call('HSET', s, 'X', 1)
end
local fields, extra = session()
return {fields, extra}
