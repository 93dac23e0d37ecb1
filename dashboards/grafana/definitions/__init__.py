"""What each board shows: one module a board, of panels."""
