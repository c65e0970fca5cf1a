-- Where calls sort in `order` that bill nothing by their age: behind every instant, each kind in a range of its own.

local UNANSWERED_BASE = 4503599627370496 -- 2^52
local EMERGENCY_BASE = 6755399441055744 -- 2^52 + 2^51
