-- First integer of every answer; gateway/pool/codes.py has the same registry, and a test compares them.

local ADMITTED = 1
local REPLAYED = 2
local NOTED = 3
local SETTLED = 4
local SETTLED_BEFORE = 5
local APPLIED = 6
local UNCHANGED = 7
local READ = 8
local RESUMED = 9
local TAKEN_BACK = 10
local NOT_DUE = 11
local RENEWED = 12
local ABSENT = 13

local CALL_ID_USED = 20
local CALL_ID_CONFLICT = 21
local CALL_UNKNOWN = 22

-- Nothing was decided: the gateway has to supply something and ask again.
local SHARD_MISSING = 30
local POOL_MISSING = 31
local CYCLES_MISSING = 32
local CLOCK_BACKWARDS = 33
local SHARD_MOVED = 34
local ACCOUNT_UNREAD = 35
local TOO_LATE = 36
-- Nothing was decided either, and nothing can be supplied: an operator has to see to it.
local POOL_UNREADABLE = 37

-- Refusals, in the order of R8.
local ACCOUNT_SUSPENDED = 42
local STAFF_UNKNOWN = 43
local CHANNEL_UNKNOWN = 44
local NO_CALLING_PLAN = 45
local DESTINATION_INVALID = 46
local TOO_MANY_CALLS = 49
local MINUTES_EXHAUSTED = 50
local MINUTES_HELD = 51
