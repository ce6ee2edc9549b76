"""The parallel beam: projections of a volume, and the volume of projections whose poses are known."""
