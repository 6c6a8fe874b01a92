-- ARGV: now, me, turn (or empty: the first). Returns the turn, or 0.
if not is_live() then return -1 end
local fields = redis.call('HMGET', s, 'u', 'o', 'st')
local waiting, stopped = fields[1] or '', fields[3] or ''
if waiting == '' then return 0 end
local turn = ARGV[3] == '' and (struct.unpack('>I4', waiting)) or tonumber(ARGV[3])
if not place_of(waiting, u32(turn), 4) then return 0 end
if not place_of(stopped, u32(turn), 4) then put('st', stopped .. u32(turn)) end
if fields[2] then tell(fields[2], 'S' .. u32(turn)) end
return turn
