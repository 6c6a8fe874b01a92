-- ARGV: now, me. Returns the waiting turns, if the node is their owner.
if not is_live() then return {} end
local fields, extra = session()
local owned = redis.call('HGET', s, 'o') == me
return {fields, extra, redis.call('HGET', s, 'f') or '0', owned and waiting_turns() or {}}
