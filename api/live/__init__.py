"""Live streams: one look at the table a second for all who listen, and what each of them is sent."""
