-- Lists the calls in progress of one device.
--
-- KEYS   calls, devices
-- ARGV   account, "<staff>/<device>", how many at most
-- Reply  id and packed call of each
-- @include shard

local prefix = ARGV[1] .. '/' .. ARGV[2] .. '\0'
-- 0xff is in no id: the range ends behind every member that has the prefix.
local found = call('ZRANGEBYLEX', KEYS[2], '[' .. prefix, '[' .. prefix .. '\255', 'LIMIT', 0, tonumber(ARGV[3]))
local reply = {}
for i = 1, #found do
  local id = string.sub(found[i], #prefix + 1)
  local blob = call('HGET', KEYS[1], ARGV[1] .. '/' .. id)
  if blob then
    reply[#reply + 1] = id
    reply[#reply + 1] = blob
  end
end
return reply
