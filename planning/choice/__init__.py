"""Which model to take: candidates, requirements, and the reason for every rejection."""
