-- Lists the calls in progress of one device.
--
-- KEYS   calls, devices
-- ARGV   account, "<staff>/<device>", how many at most
-- Reply  id and packed call of each
-- @include shard
-- @include billing
-- @include call

local prefix, device, limit = ARGV[1] .. '/', ARGV[2] .. '\0', tonumber(ARGV[3])
-- The number by which `devices` sorts a device's calls: the first 48 bits of a hash (gateway/pool/keys.py). Another
-- device may have the same one, so each call is asked whose it is.
local number = text(tonumber(sub(redis.sha1hex(prefix .. ARGV[2]), 1, 12), 16))
local fields, reply = call('ZRANGEBYSCORE', KEYS[2], number, number), {}
for i = 1, #fields do
  if #reply >= 2 * limit then break end
  local blob = sub(fields[i], 1, #prefix) == prefix and call('HGET', KEYS[1], fields[i])
  if blob and is_callers(blob, device) then
    reply[#reply + 1] = sub(fields[i], #prefix + 1)
    reply[#reply + 1] = blob
  end
end
return reply
