"""All that runs inside Locust: users, and the files that the sweep and Locust exchange."""
