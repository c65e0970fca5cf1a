-- Decides a batch of what devices say of their calls: starts, answers and ends, of any number of accounts, in the
-- order sent for each account, all at one instant of the shard's clock.
--
-- KEYS   for each section: the shard's meta, calls, ended, overtaken, leases, alarms, records;
--        then for each of its accounts: pool, order, phase, members
-- ARGV   number of sections, call id memory (ms), lease (ms); for each section: its number of accounts, its number of
--        calls, and the calls ("<account>/<call id>") that its operations name, in their order; for each account: its
--        id, a letter for each operation, the number of members that its starts name, each once ("s/<staff>",
--        "c/<channel>"), and these; then the operations' arguments:
--          S  start: "<staff>/<device>|<channel>|<to>", "s/<staff>"
--          C  start from a channel: the same, and "c/<channel>"
--          D  start to an invalid destination: the same as C, the channel '' for none
--          E  emergency start, which names two calls, the second by its fresh id: "<staff>/<device>|<channel>|<to>",
--             admitted at (ms; '' now)
--          F  the same, of an account that SQL does not know (R30)
--          A  answered: "<staff>/<device>|" of the asker ('' the administrator), how long ago (ms)
--          X  end, now: the asker
--          Y  end: the same as A
--          a x y  the same as A, X and Y, of an account that SQL does not know
--        A section is one shard, and names no call twice: what comes later of the same call stands in a later section.
-- Reply  a flat array; for each operation its code (lib/codes.lua), then
--          S C D  admitted at, remaining seconds
--          E F  admitted at, remaining seconds, 1 if it goes by the fresh id
--          X Y x y  the ended call's value (lib/call.lua), remaining seconds
--        SHARD_MISSING, POOL_MISSING and CYCLES_MISSING answer all operations of an account alike: nothing was
--        decided, and the gateway has to supply what is missing.
-- Rules  R1-R10, R16, R17, R19, R20, R30
-- @include shard
-- @include billing
-- @include call
-- @include records
-- @include pool
-- @include order
-- @include live_use
-- @include keys
-- @include codes
-- @include open_pool
-- @include reply
-- @include decide_settings
-- @include account
-- @include writes
-- @include start
-- @include settle

local ARGUMENTS = { S = 2, C = 3, D = 3, E = 2, F = 2, A = 2, a = 2, X = 1, x = 1, Y = 2, y = 2 }

local START = 83 -- S
local START_FROM_CHANNEL = 67 -- C
local START_INVALID = 68 -- D
local EMERGENCY = 69 -- E
local EMERGENCY_WITHOUT_POOL = 70 -- F
local END = 88 -- X
local END_WITHOUT_POOL = 120 -- x
local END_AGO = 89 -- Y
local END_AGO_WITHOUT_POOL = 121 -- y

local argument_at = 4

-- The section's calls: the one that is next, as an index of ARGV, and of the values.
local call_at, values_read, value_at

-- Carries out the operation of that letter, whose arguments stand at `i`.
local function carry_out(a, letter, i)
  local field, blob = ARGV[call_at], values_read[value_at]
  call_at, value_at = call_at + 1, value_at + 1
  if letter == START then
    start(a, field, blob, ARGV[i], ARGV[i + 1], '', true)
    return i + 2
  elseif letter == END or letter == END_WITHOUT_POOL then
    end_call(a, field, blob, ARGV[i], 0)
    return i + 1
  elseif letter == START_FROM_CHANNEL or letter == START_INVALID then
    start(a, field, blob, ARGV[i], ARGV[i + 1], ARGV[i + 2], letter == START_FROM_CHANNEL)
    return i + 3
  elseif letter == END_AGO or letter == END_AGO_WITHOUT_POOL then
    end_call(a, field, blob, ARGV[i], tonumber(ARGV[i + 1]))
    return i + 2
  elseif letter == EMERGENCY or letter == EMERGENCY_WITHOUT_POOL then
    start_emergency(a, field, blob, ARGV[call_at], values_read[value_at], ARGV[i], ARGV[i + 1])
    call_at, value_at = call_at + 1, value_at + 1
    return i + 2
  end
  note_answer(a, field, blob, ARGV[i], tonumber(ARGV[i + 1]))
  return i + 2
end

-- Which of the `count` members named at `first` the account has.
local function look_up_members(key, first, count)
  local members = {}
  if count == 0 then return members end
  local found = call('SMISMEMBER', key, unpack(ARGV, first, first + count - 1))
  for k = 1, count do members[ARGV[first + k - 1]] = found[k] == 1 end
  return members
end

local function answer_undecided(letters, i, code)
  for k = 1, #letters do
    local letter = sub(letters, k, k)
    answer_nothing(letter, code)
    local calls = ANSWERS[letter] == ANSWERS.E and 2 or 1
    call_at, value_at, i = call_at + calls, value_at + calls, i + ARGUMENTS[letter]
  end
  return i
end

-- One account's part, at `argument_at`. `m` is nil where the shard is missing.
local function run_account(m, shard_keys)
  local keys, account, letters = take_keys(ACCOUNT_KEYS), ARGV[argument_at], ARGV[argument_at + 1]
  local members_named, i = tonumber(ARGV[argument_at + 2]), argument_at + 3
  local operations_at = i + members_named
  local p, missing = nil, SHARD_MISSING
  if m then p, missing = open_pool(m, account, shard_keys, keys, items) end
  if not p and (missing ~= POOL_MISSING or find(letters, '[SCDEAXY]')) then
    argument_at = answer_undecided(letters, operations_at, missing)
    return
  end
  local a = open_account(m, p, keys, look_up_members(keys[MEMBERS_KEY], i, members_named))
  i = operations_at
  for k = 1, #letters do i = carry_out(a, byte(letters, k), i) end
  argument_at = i
  write_account(keys)
  if p then close_pool(m, p, keys) end
end

local function run_section()
  local keys, accounts, calls = take_keys(SHARD_KEYS), tonumber(ARGV[argument_at]), tonumber(ARGV[argument_at + 1])
  local m = open_shard(keys[META_KEY])
  call_at, value_at = argument_at + 2, 1
  argument_at = call_at + calls
  if m then values_read = call('HMGET', keys[CALLS_KEY], unpack(ARGV, call_at, argument_at - 1)) end
  for _ = 1, accounts do run_account(m, keys) end
  if not m then return end
  write_section(m, keys, lease_until_ms)
  if m.written then save_shard(m) end
end

for _ = 1, tonumber(ARGV[1]) do run_section() end
return reply
