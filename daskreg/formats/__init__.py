"""Files: transforms of daskreg and of other tools."""
