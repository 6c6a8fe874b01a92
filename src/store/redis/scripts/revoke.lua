-- ARGV: now, me. Returns the session that was deleted.
if not is_live() then return {} end
local fields, extra = session()
delete_session()
return {fields, extra}
