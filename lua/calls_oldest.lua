-- Tells when the oldest call in progress of each account was admitted: a statement closes only when none is left that
-- belongs to its cycle (R27). A call sorts by its answer where that counts: still within its own cycle.
--
-- KEYS   order of each account
-- ARGV   none
-- Reply  for each account the earliest such instant (ms; 0 none)
-- @flags allow-oom
-- @include shard
-- @include codes
-- @include order

local function first_of(key, from, to, base)
  local found = call('ZRANGEBYSCORE', key, from, to, 'WITHSCORES', 'LIMIT', 0, 1)
  return found[2] and tonumber(found[2]) - base
end

local reply = {}
for i = 1, #KEYS do
  local oldest
  for _, instant in pairs({
    first_of(KEYS[i], '-inf', '(' .. text(UNANSWERED_BASE), 0) or false,
    first_of(KEYS[i], text(UNANSWERED_BASE), '(' .. text(EMERGENCY_BASE), UNANSWERED_BASE) or false,
    first_of(KEYS[i], text(EMERGENCY_BASE), '+inf', EMERGENCY_BASE) or false,
  }) do
    if instant and (not oldest or instant < oldest) then oldest = instant end
  end
  reply[i] = oldest or 0
end
return reply
