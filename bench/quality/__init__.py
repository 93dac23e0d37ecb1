"""How well an engine predicts held-out text: the tokens, asking a server for them, one engine after the other."""
