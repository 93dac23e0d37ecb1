"""Our client beside others on the golden server: what a chunk costs, and how far what is reported is from the truth."""
