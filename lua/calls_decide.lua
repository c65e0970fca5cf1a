-- Decides a batch of what is said of calls: starts, answers, ends, returns, of any number of accounts, in the order sent
-- for each account, all at one instant of the shard's clock. An engine that has no memory left refuses it: it is sent
-- again with the flag allow-oom then, without the calls that would be new.
--
-- KEYS   for each section: the shard's meta, calls, ended, overtaken, leases, alarms, records, notices;
--        then for each of its accounts: pool, order, phase, members
-- ARGV   number of sections, call id memory (ms), lease (ms), grace (ms), late return (ms), until when to decide (real
--        ms; 0 whenever); for each section: its number of accounts, its number of calls, and the calls ("<account>/<call id>") that its operations name, in their order;
--        for each account: its id, a letter for each operation, the number of members that its starts name, each once
--        ("s/<staff>", "c/<channel>"), and these; then the operations' arguments, the first of those marked * the
--        connection that says it (0 none):
--          S* start: "<staff>/<device>|<channel>|<to>", "s/<staff>"
--          C* start from a channel: the same, and "c/<channel>"
--          D* start to an invalid destination: the same as C, the channel '' for none
--          E* emergency start, which names two calls, the second by its fresh id: "<staff>/<device>|<channel>|<to>",
--             admitted at (ms; '' now), the start of the cycle that this is in (ms; '' not known)
--          A* answered: "<staff>/<device>|" of the asker ('' the administrator), how long ago (ms)
--          X* end, now: the asker, when the call was answered, as far as the gateway noted it (0 not)
--          Y* end: the same, how long ago (ms), what SQL has of the call: its value ('' nothing)
--          R* resume: the asker, what SQL or a receipt has of the call: its value ('' nothing), the epoch in which SQL was
--             asked (0 any)
--          P  reap: nothing
--          T  a settlement told again, which names two calls, the second as an earlier call of its id
--             ("<account>/<call id>/<admitted at>"): the call's value, 1 if SQL has its record, what an older record
--             billed that SQL has in its place, the epoch in which SQL was asked (0 any)
--          F a x y  the same as E A X Y, of an account that SQL does not know (R30)
--          r p t    the same as R P T, of such an account
--        A section is one shard, and names no call twice: what comes later of the same call stands in a later section.
-- Reply  a flat array; for each operation its code (lib/codes.lua), then
--          S C D  admitted at, remaining seconds, start of its cycle
--          E F  the same, 1 if it goes by the fresh id
--          X Y P x y p  the ended call's value (lib/call.lua), remaining seconds
--          R r  the call's value, in progress
--        R and T are answered by ACCOUNT_UNREAD where SQL was asked in another epoch than this: nothing was decided.
--        SHARD_MISSING, SHARD_MOVED, TOO_LATE, POOL_MISSING and CYCLES_MISSING answer all operations of an account alike:
--        nothing was decided, and the gateway has to supply what is missing. So does POOL_UNREADABLE, of an account whose pool,
--        or a call named here, is not what it should be. Behind them, which run of an engine this is, and for
--        each section its epoch and seq.
-- Rules  R1-R10, R12-R17, R19, R20, R26, R28-R30
-- @include shard
-- @include billing
-- @include call
-- @include records
-- @include pool
-- @include order
-- @include live_use
-- @include keys
-- @include thresholds
-- @include alarm
-- @include codes
-- @include open_pool
-- @include reply
-- @include decide_settings
-- @include leases
-- @include writes
-- @include account
-- @include start
-- @include settle
-- @include resume

local ARGUMENTS = { S = 3, C = 4, D = 4, E = 4, F = 4, A = 3, a = 3, X = 3, x = 3, Y = 5, y = 5, R = 4, r = 4, P = 0, p = 0,
  T = 4, t = 4 }

local START = 83 -- S
local START_FROM_CHANNEL = 67 -- C
local START_INVALID = 68 -- D
local EMERGENCY = 69 -- E
local EMERGENCY_WITHOUT_POOL = 70 -- F
local ANSWERED = 65 -- A
local END = 88 -- X
local END_AGO = 89 -- Y
local RESUME = 82 -- R
local REAP = 80 -- P
local RETELL = 84 -- T
local LOWER = 32 -- from a letter to the same one without a pool

local argument_at = 7

-- The section's calls: the one that is next, as an index of ARGV, and of the values. `broken` are the accounts of those
-- whose value is none, nil for none.
local call_at, values_read, value_at, broken

-- Carries out the operation of that letter, whose arguments stand at `i`.
local function carry_out(a, letter, i)
  local field, blob = ARGV[call_at], values_read[value_at]
  call_at, value_at = call_at + 1, value_at + 1
  local connection = ARGV[i]
  if letter == START then
    start(a, field, blob, ARGV[i + 1], ARGV[i + 2], '', true, connection)
    return i + 3
  elseif letter == END or letter == END + LOWER then
    end_call(a, field, blob, ARGV[i + 1], tonumber(ARGV[i + 2]), 0, connection, '')
    return i + 3
  elseif letter == START_FROM_CHANNEL or letter == START_INVALID then
    start(a, field, blob, ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], letter == START_FROM_CHANNEL, connection)
    return i + 4
  elseif letter == ANSWERED or letter == ANSWERED + LOWER then
    note_answer(a, field, blob, ARGV[i + 1], tonumber(ARGV[i + 2]), connection)
    return i + 3
  elseif letter == END_AGO or letter == END_AGO + LOWER then
    end_call(a, field, blob, ARGV[i + 1], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3]), connection, ARGV[i + 4])
    return i + 5
  elseif letter == EMERGENCY or letter == EMERGENCY_WITHOUT_POOL then
    start_emergency(a, field, blob, ARGV[call_at], values_read[value_at], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3],
      connection)
    call_at, value_at = call_at + 1, value_at + 1
    return i + 4
  elseif letter == RESUME or letter == RESUME + LOWER then
    resume(a, field, blob, ARGV[i + 1], connection, ARGV[i + 2], tonumber(ARGV[i + 3]))
    return i + 4
  elseif letter == RETELL or letter == RETELL + LOWER then
    retell(a, field, blob, ARGV[call_at], values_read[value_at], ARGV[i], ARGV[i + 1] == '1', tonumber(ARGV[i + 2]),
      tonumber(ARGV[i + 3]))
    call_at, value_at = call_at + 1, value_at + 1
    return i + 4
  elseif letter == REAP or letter == REAP + LOWER then
    reap(a, field, blob)
    return i
  end
  error('no operation goes by the number ' .. letter)
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
    local calls = find('EFTt', letter, 1, true) and 2 or 1
    call_at, value_at, i = call_at + calls, value_at + calls, i + ARGUMENTS[letter]
  end
  return i
end

local function read_account(m, account, shard_keys, keys, members_at, members_named)
  local p, missing = open_pool(m, account, shard_keys, keys, items, notices)
  return p, missing, look_up_members(keys[MEMBERS_KEY], members_at, members_named)
end

-- One account's part, at `argument_at`. `m` is nil where the shard is not there, which `missing` says. What is read breaks
-- down here, if at all: when this account's calls are carried out, others' pools are written, and their calls are not.
local function run_account(m, shard_keys, missing)
  local keys, account, letters = take_keys(ACCOUNT_KEYS), ARGV[argument_at], ARGV[argument_at + 1]
  local members_named, i = tonumber(ARGV[argument_at + 2]), argument_at + 3
  local operations_at = i + members_named
  local p, members
  if broken and broken[account] then
    missing = POOL_UNREADABLE
  elseif m then
    local is_read
    is_read, p, missing, members = pcall(read_account, m, account, shard_keys, keys, i, members_named)
    if not is_read then p, missing = nil, POOL_UNREADABLE end
  end
  if not p and (missing ~= POOL_MISSING or find(letters, '[SCDEAXYRPT]')) then
    argument_at = answer_undecided(letters, operations_at, missing)
    return
  end
  local a = open_account(m, account, p, keys, members)
  i = operations_at
  for k = 1, #letters do i = carry_out(a, byte(letters, k), i) end
  argument_at = i
  write_account(keys)
  if p then close_pool(m, account, p, shard_keys, keys, p.allocated_seconds - a.left) end
end

-- A call that cannot be decoded must not break this down when others' pools are written and their calls are not.
local function find_broken()
  local found
  for k = 1, #values_read do
    local blob = values_read[k]
    if blob and not is_whole(blob) then
      found = found or {}
      found[string.match(ARGV[call_at + k - 1], '^[^/]*')] = true
    end
  end
  return found
end

local function run_section()
  local keys, accounts, calls = take_keys(SHARD_KEYS), tonumber(ARGV[argument_at]), tonumber(ARGV[argument_at + 1])
  local m, missing = open_shard(keys[META_KEY])
  if is_too_late(until_ms) then m, missing = nil, TOO_LATE end
  call_at, value_at = argument_at + 2, 1
  argument_at = call_at + calls
  broken = nil
  if m then
    values_read = call('HMGET', keys[CALLS_KEY], unpack(ARGV, call_at, argument_at - 1))
    broken = find_broken()
  end
  for _ = 1, accounts do run_account(m, keys, missing) end
  if not m then return 0, 0 end
  write_section(m, keys)
  if m.written then save_shard(m) end
  return m.epoch, m.seq
end

local sections, shards = tonumber(ARGV[1]), {}
for i = 1, sections do shards[2 * i - 1], shards[2 * i] = run_section() end
reply[replied + 1] = run
for i = 1, 2 * sections do reply[replied + 1 + i] = shards[i] end
return reply
