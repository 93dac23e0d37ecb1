"""Hidden states of two models → a W-matrix that maps one to the other, and how good it is on held-out prompts."""
