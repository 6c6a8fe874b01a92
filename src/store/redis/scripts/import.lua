-- ARGV: now, me, number of values of the main hash, of the second hash, of tokens (hash and value each),
-- of messages, of client ids (id and number each), of waiting turns (number and checkpoint each), ids of
-- nodes that may answer them, then these values. Returns 'OK', or 'DIFFERS' if the session or one of the tokens exists.
local place, nodes = 9, ARGV[9]
local function take(count)
  local values = {}
  for index = 1, tonumber(count) do values[index] = ARGV[place + index] end
  place = place + tonumber(count)
  return values
end
local main, extra, tokens = take(ARGV[3]), take(ARGV[4]), take(ARGV[5])
local messages, client_ids, turns = take(ARGV[6]), take(ARGV[7]), take(ARGV[8])
if redis.call('EXISTS', s) == 1 then return 'DIFFERS' end
local hashes = ''
for index = 1, #tokens, 2 do
  if redis.call('EXISTS', base .. 't:' .. tokens[index]) == 1 then return 'DIFFERS' end
  hashes = hashes .. tokens[index]
end
reach(base .. 'o:' .. no_node)
for index = 1, #nodes, 8 do reach(base .. 'o:' .. string.sub(nodes, index, index + 7)) end
for index = 1, #main, 2 do redis.call('HSET', s, main[index], main[index + 1]) end
redis.call('HSET', s, 'k', hashes)
local process = term()
if process ~= '1' then redis.call('HSET', s, 't', process) end
for index = 1, #extra, 2 do
  redis.call('HSET', s, 'X', 1)
  redis.call('HSET', base .. 'x:' .. id, extra[index], extra[index + 1])
end
for index = 1, #tokens, 2 do redis.call('SET', base .. 't:' .. tokens[index], tokens[index + 1]) end
for _, entry in ipairs(messages) do redis.call('RPUSH', base .. 'l:' .. id, entry) end
for index = 1, #client_ids, 2 do
  redis.call('HSET', base .. 'i:' .. id, client_ids[index], client_ids[index + 1])
end
local waiting = ''
for index = 1, #turns, 2 do
  waiting = waiting .. u32(tonumber(turns[index]))
  if turns[index + 1] ~= '' then
    redis.call('HSET', base .. 'c:' .. id, turns[index], turns[index + 1])
  end
end
if waiting ~= '' then
  put('u', waiting)
  local owner = no_node
  for index = 1, #nodes, 8 do
    local node = string.sub(nodes, index, index + 7)
    if owner == no_node and tell(node, 'H') then owner = node end
  end
  -- Without a node that listens, the next one that starts takes them over.
  grant(owner)
end
redis.call('ZADD', base .. 'due', redis.call('HGET', s, 'x'), id)
return 'OK'
