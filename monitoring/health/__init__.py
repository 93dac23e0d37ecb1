"""Is a server well? Observed from outside, put into figures, judged with reasons."""
