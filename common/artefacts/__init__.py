"""Models on disk: content stored once by its digest, artefacts made of it, and their publication."""
