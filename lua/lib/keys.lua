-- Where a shard's and an account's keys stand in KEYS; gateway/pool/keys.py lays them out in the same order.

local SHARD_KEYS = 8
local META_KEY = 1
local CALLS_KEY = 2
local ENDED_KEY = 3
local OVERTAKEN_KEY = 4
local LEASES_KEY = 5
local ALARMS_KEY = 6
local RECORDS_KEY = 7
local NOTICES_KEY = 8

local ACCOUNT_KEYS = 4
local POOL_KEY = 1
local ORDER_KEY = 2
local PHASE_KEY = 3
local MEMBERS_KEY = 4

local keys_taken = 0

local function take_keys(count)
  local keys = {}
  for i = 1, count do keys[i] = KEYS[keys_taken + i] end
  keys_taken = keys_taken + count
  return keys
end
