"""The agent beside HAProxy: looks after every server, judges it, and answers HAProxy's agent checks."""
