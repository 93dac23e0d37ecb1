"""The golden server: it streams answers whose timing, tokens and faults are known, and logs what it really sent."""
