"""The pages that people see: made on the server, of the same views that the routes answer with."""
