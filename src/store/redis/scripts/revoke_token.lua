-- ARGV: now, me, token id. Returns the number of tokens that are left.
if not is_live() then return -1 end
local hashes = redis.call('HGET', s, 'k') or ''
for place = 1, #hashes, 32 do
  local hash = string.sub(hashes, place, place + 31)
  local value = redis.call('GET', base .. 't:' .. hash)
  if value and string.sub(value, 17, 32) == ARGV[3] then
    redis.call('UNLINK', base .. 't:' .. hash)
    put('k', without(hashes, hash))
    tell_watchers(me, 'R' .. ARGV[3])
    return #hashes / 32 - 1
  end
end
return -1
