"""Which well-known licence a text is."""

# The first that fits: a licence that quotes another comes before it.
_MARKS = (
    ("apache-2.0", ("apache license", "version 2.0")),
    ("agpl-3.0", ("gnu affero general public license", "version 3")),
    ("lgpl-3.0", ("gnu lesser general public license", "version 3")),
    ("gpl-3.0", ("gnu general public license", "version 3")),
    ("bsd-3-clause", ("redistribution and use in source and binary forms", "neither the name of")),
    ("bsd-2-clause", ("redistribution and use in source and binary forms",)),
    ("mit", ("permission is hereby granted, free of charge", 'provided "as is"')),
)
_START_CHARS = 4000


def kind_of(text: str) -> str | None:
    """The usual short name of a licence; None where it is not known here."""
    start = " ".join(text[:_START_CHARS].lower().split()).replace("``as is''", '"as is"')
    start = start.replace("software is provided", "provided")
    for kind, marks in _MARKS:
        if all(mark in start for mark in marks):
            return kind
    return None
