"""How the bundled test model was made: the grammar it is trained from, and the scripts that train and measure it."""
