"""HAProxy as the one that carries the bytes: its configuration rendered, its program found, its runtime asked."""
