"""One cell: one load against one running server, sent by Locust, and what was recorded brought home and judged."""
