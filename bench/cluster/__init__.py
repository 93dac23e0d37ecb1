"""A sweep on a Ray cluster: engines go where Ray has room, and what they measured comes home into one run folder."""
