-- ARGV: now, me, earlier owner. Makes this node the owner, and returns the waiting turns.
if not is_live() then return {} end
reach(base .. 'o:' .. ARGV[3])
if redis.call('HGET', s, 'o') ~= ARGV[3] then
  redis.call('SREM', base .. 'o:' .. ARGV[3], id)
  return {}
end
local fence = grant(me)
tell_watchers(me, 'O' .. me)
local fields, extra = session()
return {fields, extra, tostring(fence), waiting_turns()}
