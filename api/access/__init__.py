"""Who may ask what: callers are recognised, held against what a route needs, counted, and noted."""
