"""Servers of different make under the same loads, one at a time: `make bench-servers`."""
