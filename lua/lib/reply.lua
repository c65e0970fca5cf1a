-- The flat reply of a batch: for each operation its code and then whole numbers, of a length fixed by its letter.

local ANSWERS = { S = 3, D = 3, E = 4, F = 4, A = 1, a = 1, X = 9, x = 9 }

local reply, replied = {}, 0

local function answer_code(code)
  replied = replied + 1
  reply[replied] = code
end

local function answer_start(code, admitted_at_ms, remaining_seconds)
  reply[replied + 1], reply[replied + 2], reply[replied + 3] = code, admitted_at_ms, remaining_seconds
  replied = replied + 3
end

local function answer_settled(code, admitted_at_ms, ended_at_ms, duration_ms, billed, ended_by, revision, flags,
  remaining_seconds)
  local at = replied
  reply[at + 1], reply[at + 2], reply[at + 3], reply[at + 4] = code, admitted_at_ms, ended_at_ms, duration_ms
  reply[at + 5], reply[at + 6], reply[at + 7], reply[at + 8] = billed, ended_by, revision, flags
  reply[at + 9] = remaining_seconds
  replied = at + 9
end

-- An operation that decided nothing: its code, and zeros up to its length.
local function answer_nothing(letter, code)
  for at = 1, ANSWERS[letter] do reply[replied + at] = at == 1 and code or 0 end
  replied = replied + ANSWERS[letter]
end
