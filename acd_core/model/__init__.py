"""A frozen model and its tokenizer: found, checked, loaded, told from others, and read while it runs."""
