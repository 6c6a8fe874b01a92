-- ARGV: now, me, token hash, token value, first deadline, most tokens.
if not is_live() then return 'GONE' end
reach(base .. 't:' .. ARGV[3])
local hashes = redis.call('HGET', s, 'k') or ''
local kept, valid = '', 0
for place = 1, #hashes, 32 do
  local hash = string.sub(hashes, place, place + 31)
  local value = redis.call('GET', base .. 't:' .. hash)
  if value then
    local high, low, end_high, end_low = struct.unpack('>I4I4I4I4', value, 33)
    local own = end_high + end_low > 0
    if own and high * 4294967296 + low <= now then
      redis.call('UNLINK', base .. 't:' .. hash)
    else
      kept, valid = kept .. hash, valid + 1
    end
  end
end
if valid >= tonumber(ARGV[6]) then
  put('k', kept)
  return 'FULL'
end
put('k', kept .. ARGV[3])
redis.call('SET', base .. 't:' .. ARGV[3], ARGV[4])
redis.call('ZADD', base .. 'due', 'LT', ARGV[5], id)
return 'OK'
