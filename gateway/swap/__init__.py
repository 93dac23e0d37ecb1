"""One server exchanged for another under load, in steps that are taken back when it does not hold."""
