-- KEYS[1] is the sorted set of nodes, scored by the time of the last heartbeat. KEYS[2] is the set of
-- draining nodes. ARGV: node, 1 if it drains, prefix of the inbox channels. Returns four values for each
-- node: the node, milliseconds since its last heartbeat, number of listeners, 1 if it drains.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call(ARGV[2] == '1' and 'SADD' or 'SREM', KEYS[2], ARGV[1])
local nodes = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
local answer = {}
for place = 1, #nodes, 2 do
  local node = nodes[place]
  answer[#answer + 1] = node
  answer[#answer + 1] = math.max(0, now - nodes[place + 1])
  answer[#answer + 1] = redis.call('PUBSUB', 'SHARDNUMSUB', ARGV[3] .. node)[2]
  answer[#answer + 1] = redis.call('SISMEMBER', KEYS[2], node)
end
return answer
