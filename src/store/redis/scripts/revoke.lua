-- ARGV: now, me, 1 if an expired session is deleted as well. Returns the session that was deleted.
if not is_live() and (ARGV[3] ~= '1' or redis.call('EXISTS', s) == 0) then return {} end
local fields, extra = session()
delete_session()
return {fields, extra}
