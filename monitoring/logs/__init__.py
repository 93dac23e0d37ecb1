"""Why a server ended, or did not start, read from its log."""
