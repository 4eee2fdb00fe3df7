"""Requests made up from the API's own description, against a running service."""
