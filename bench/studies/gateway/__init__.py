"""The gateway measured beside others: how long it holds up, what it adds, what it carries."""
