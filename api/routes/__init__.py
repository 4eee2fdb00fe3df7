"""HTTP routes: each decodes, calls a use case, and views what came of it."""
