"""The wire contract of the service that Modelferry replaces: its requests, and how it refuses them."""
