"""Prompts of the user's own: what their file holds, and the requests that it becomes."""
