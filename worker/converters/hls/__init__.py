"""Makes the models of the health and life sciences suites, each by a network that its weights fit exactly."""
