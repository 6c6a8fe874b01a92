-- KEYS[1] holds the process of the server that the partition is used with, and counts the processes.
-- ARGV: the process. Returns the count.
if redis.call('HGET', KEYS[1], 'r') == ARGV[1] then return redis.call('HGET', KEYS[1], 'n') end
redis.call('HSET', KEYS[1], 'r', ARGV[1])
return tostring(redis.call('HINCRBY', KEYS[1], 'n', 1))
