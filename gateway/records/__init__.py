"""What outlives everything, in SQL: plans, accounts, call records and statements, and what fills them."""
