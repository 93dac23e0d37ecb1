"""How near to the truth `nbridge capacity` comes: on simulated servers, and on golden ones."""
