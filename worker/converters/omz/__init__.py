"""Makes IR of the public models of Open Model Zoo whose networks are built here."""
