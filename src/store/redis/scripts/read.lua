-- ARGV: now, me, after (or empty: the newest), until, limit, most bytes. Returns the session, the
-- number of the last message of the log, and the page up to the message that exceeds the bytes.
if not is_live() then return {} end
local fields, extra = session()
local log = base .. 'l:' .. id
local head = redis.call('LLEN', log)
local until_seq, limit, max = math.min(head, tonumber(ARGV[4])), tonumber(ARGV[5]), tonumber(ARGV[6])
local forward = ARGV[3] ~= ''
local next_seq = forward and tonumber(ARGV[3]) + 1 or until_seq
local messages, size, step = {}, 0, 16
while #messages < limit and size <= max do
  local count = math.min(step, limit - #messages)
  local from, to
  if forward then
    if next_seq > until_seq then break end
    from, to = next_seq, math.min(next_seq + count - 1, until_seq)
    next_seq = to + 1
  else
    if next_seq < 1 then break end
    from, to = math.max(next_seq - count + 1, 1), next_seq
    next_seq = from - 1
  end
  local entries = redis.call('LRANGE', log, from - 1, to - 1)
  for place = 1, #entries do
    local entry = entries[forward and place or #entries + 1 - place]
    messages[#messages + 1] = entry
    size = size + (struct.unpack('>I4', entry, 28))
    if size > max then break end
  end
  step = math.min(step * 2, 256)
end
return {fields, extra, head, messages}
