"""What a run establishes, in sentences: the headline, every statement, and what they are made of."""
