-- ARGV: now, me, fence, next owner.
if not is_live() then return -1 end
local fields = redis.call('HMGET', s, 'u', 'o', 'f')
if not fields[1] or fields[2] ~= me or fields[3] ~= ARGV[3] then return 0 end
reach(base .. 'o:' .. ARGV[4])
grant(ARGV[4])
local watchers = redis.call('HGET', s, 'w') or ''
for place = 1, #watchers, 8 do
  local node = string.sub(watchers, place, place + 7)
  if node ~= me and node ~= ARGV[4] then tell(node, 'O' .. ARGV[4]) end
end
tell(ARGV[4], 'H')
return 1
