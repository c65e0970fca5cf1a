-- Carries out the steps of a history one after the other, each at an instant of its own: all in one round trip.
--
-- KEYS   keys of the shard and the account, as gateway/pool/keys.py lays them out
-- ARGV   for each step: what to do (a script's name, or a command), its instant (ms), which process of an engine this is,
--        which keys it takes (their numbers in KEYS, with commas), how many arguments it has, and these
-- Reply  for each step what it answered; 'failed' and the error for a script that failed
local scripts, made, replies, chosen, at = {}, {}, {}, {}, 1

-- @scripts

local function keys_of(numbers)
  if not chosen[numbers] then
    local keys = {}
    for number in string.gmatch(numbers, '%d+') do keys[#keys + 1] = KEYS[tonumber(number)] end
    chosen[numbers] = keys
  end
  return chosen[numbers]
end

while ARGV[at] do
  local name, ms, run, count = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 4])
  local keys, arguments = keys_of(ARGV[at + 3]), {}
  for i = 1, count do arguments[i] = ARGV[at + 4 + i] end
  at = at + 5 + count
  if scripts[name] then
    made[name] = made[name] or scripts[name]()
    local is_done, reply = pcall(made[name], keys, arguments, ms, run)
    if not is_done then reply = { 'failed', type(reply) == 'table' and reply.err or tostring(reply) } end
    replies[#replies + 1] = reply
  else
    local command = { name }
    for i = 1, #keys do command[#command + 1] = keys[i] end
    for i = 1, count do command[#command + 1] = arguments[i] end
    replies[#replies + 1] = redis.call(unpack(command))
  end
end
return replies
