"""Who gets a request: what a prompt is like, which model it goes to, which server. Pure."""
