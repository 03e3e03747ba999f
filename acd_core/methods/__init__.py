"""The decoding methods as data, the rules that join their streams, and how a token is drawn."""
