"""All that runs inside Locust: users, the streaming client, and the files that the sweep and Locust exchange."""
