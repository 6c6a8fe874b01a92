-- ARGV: now, me. Returns the session, expired or not, the number of its messages, the last of them, and
-- its waiting turns.
if redis.call('EXISTS', s) == 0 then return {} end
local main, extra = session()
local log = base .. 'l:' .. id
return {main, extra, redis.call('LLEN', log), redis.call('LINDEX', log, -1) or '', waiting_turns()}
