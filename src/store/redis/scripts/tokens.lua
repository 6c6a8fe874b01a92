-- ARGV: now, me. Returns hashes and values of the tokens.
if not is_live() then return {0} end
local hashes = redis.call('HGET', s, 'k') or ''
local tokens = {1}
for place = 1, #hashes, 32 do
  local hash = string.sub(hashes, place, place + 31)
  local value = redis.call('GET', base .. 't:' .. hash)
  if value then
    tokens[#tokens + 1] = hash
    tokens[#tokens + 1] = value
  end
end
return tokens
