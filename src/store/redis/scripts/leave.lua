-- ARGV: now, me.
local watchers = redis.call('HGET', s, 'w')
if watchers then put('w', without(watchers, me)) end
return 1
