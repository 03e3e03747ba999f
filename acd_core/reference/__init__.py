"""The bundled reference model (`model/`), the grammar it is trained from, and the scripts that train and measure it."""
