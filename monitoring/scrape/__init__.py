"""Asking a server: one HTTP exchange with a deadline, its metrics page, several of them over time, the canary."""
