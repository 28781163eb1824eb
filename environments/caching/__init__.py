"""A cache for slow but deterministic environments: transitions on disk, live worlds in memory."""
