"""Measures how safe a method is and at what cost: sets, judges with known error, runs, and the page."""
