"""The streaming client: requests out, a time stamp per read, and what the answers say. No Locust in here."""
