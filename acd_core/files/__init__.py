"""Files read as what they claim to be or refused, and replaced in one step or not at all."""
