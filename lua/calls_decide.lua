-- Decides a batch of what devices say of their calls: starts, answers and ends, of any number of accounts, in the
-- order sent for each account, all at one instant of the shard's clock.
--
-- KEYS   for each section: the shard's meta, calls, ended, overtaken, leases, devices, alarms, records;
--        then for each of its accounts: pool, order, phase, members
-- ARGV   number of sections, call id memory (ms), lease (ms); for each section: its number of accounts; for each
--        account: its id, a letter for each operation, then the operations' arguments, a call's id first:
--          S  start: "<staff>/<device>\0", "<channel>\0<to>", "s/<staff>", "c/<channel>" ('' none)
--          D  the same, and its destination is invalid
--          E  emergency start: fresh id, "<staff>/<device>\0", "<channel>\0<to>", admitted at (ms; '' now)
--          F  the same, of an account that SQL does not know (R30)
--          A  answered: "<staff>/<device>\0" of the asker ('' the administrator), how long ago (ms)
--          X  end: the same
--          a x  the same as A and X, of an account that SQL does not know
--        A section is one shard, and names no call twice: what comes later of the same call stands in a later section.
-- Reply  a flat array; for each operation its code (lib/codes.lua), then
--          S D  admitted at, remaining seconds
--          E F  admitted at, remaining seconds, 1 if it goes by the fresh id
--          X x  admitted at, ended at, duration, billed seconds, ended by, revision, flags, remaining seconds
--        SHARD_MISSING, POOL_MISSING and CYCLES_MISSING answer all operations of an account alike: nothing was
--        decided, and the gateway has to supply what is missing.
-- Rules  R1-R10, R16, R17, R19, R20, R30
-- @include shard
-- @include billing
-- @include call
-- @include pool
-- @include live_use
-- @include keys
-- @include codes
-- @include records
-- @include open_pool
-- @include reply
-- @include decide_settings
-- @include account
-- @include writes
-- @include start
-- @include settle

local ARGUMENTS = { S = 5, D = 5, E = 5, F = 5, A = 3, a = 3, X = 3, x = 3 }

local argument_at = 4

-- An operation's call is found at `call_at` of the section's fields, and of their values.
local fields, blobs, call_at

local OPERATIONS = {
  S = function(a, w, i)
    return start(a, w, ARGV[i], fields[call_at], blobs[call_at], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4],
      true)
  end,
  D = function(a, w, i)
    return start(a, w, ARGV[i], fields[call_at], blobs[call_at], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4],
      false)
  end,
  E = function(a, w, i)
    call_at = call_at + 1
    return start_emergency(a, w, ARGV[i], fields[call_at - 1], blobs[call_at - 1], ARGV[i + 1], fields[call_at],
      blobs[call_at], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4])
  end,
  A = function(a, w, i)
    return note_answer(a, w, ARGV[i], fields[call_at], blobs[call_at], ARGV[i + 1], tonumber(ARGV[i + 2]))
  end,
  X = function(a, w, i)
    return end_call(a, w, ARGV[i], fields[call_at], blobs[call_at], ARGV[i + 1], tonumber(ARGV[i + 2]))
  end,
}
OPERATIONS.F, OPERATIONS.a, OPERATIONS.x = OPERATIONS.E, OPERATIONS.A, OPERATIONS.X

-- An account's part of ARGV, not carried out yet. Its calls' fields are appended to the section's; the members that it
-- names are gathered.
local function read_group(account_keys)
  local account, letters = ARGV[argument_at], ARGV[argument_at + 1]
  local i, prefix, to, members = argument_at + 2, account .. '/', #fields, {}
  local g = { account = account, letters = letters, at = i, first = to, keys = account_keys, members = members }
  for k = 1, #letters do
    local letter = sub(letters, k, k)
    to = to + 1
    fields[to] = prefix .. ARGV[i]
    if letter == 'S' or letter == 'D' then
      members[ARGV[i + 3]], members[ARGV[i + 4]] = false, false
    elseif letter == 'E' or letter == 'F' then
      to = to + 1
      fields[to] = prefix .. ARGV[i + 1]
    end
    i = i + ARGUMENTS[letter]
  end
  argument_at = i
  return g
end

local function answer_undecided(g, code)
  for k = 1, #g.letters do answer_nothing(sub(g.letters, k, k), code) end
end

-- Sets true the named members that the account has.
local function look_up_members(key, members)
  local names = {}
  for name in pairs(members) do names[#names + 1] = name end
  if #names == 0 then return end
  local found = call('SMISMEMBER', key, unpack(names))
  for k = 1, #names do members[names[k]] = found[k] == 1 end
end

local function run_group(m, shard_keys, g, w)
  local p, missing = open_pool(m, g.account, shard_keys, g.keys, w.items)
  if not p and (missing ~= POOL_MISSING or find(g.letters, '[SDEAX]')) then
    return answer_undecided(g, missing)
  end
  local a = open_account(m, p, g.account, g.keys)
  look_up_members(g.keys[MEMBERS_KEY], g.members)
  a.members = g.members
  local letters, i = g.letters, g.at
  call_at = g.first
  for k = 1, #letters do
    local letter = sub(letters, k, k)
    call_at = call_at + 1
    OPERATIONS[letter](a, w, i)
    i = i + ARGUMENTS[letter]
  end
  write_account(a)
  if p then close_pool(m, p, g.keys) end
end

local function run_section()
  local keys, groups = take_keys(SHARD_KEYS), {}
  local accounts = tonumber(ARGV[argument_at])
  argument_at, fields = argument_at + 1, {}
  for k = 1, accounts do groups[k] = read_group(take_keys(ACCOUNT_KEYS)) end
  local m = open_shard(keys[META_KEY])
  if not m then
    for k = 1, accounts do answer_undecided(groups[k], SHARD_MISSING) end
    return
  end
  blobs = call('HMGET', keys[CALLS_KEY], unpack(fields))
  local w = new_writes(m, real_now_ms + lease_ms)
  for k = 1, accounts do run_group(m, keys, groups[k], w) end
  write_section(m, keys, w)
  if m.written then save_shard(m) end
end

for _ = 1, tonumber(ARGV[1]) do run_section() end
return reply
