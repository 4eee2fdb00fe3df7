"""Small drawings. Each icon is a path in a square of 16 by 16, drawn in lines of the text's colour."""

from collections.abc import Mapping

ICONS: Mapping[str, str] = {
    "queued": "M8 2.5a5.5 5.5 0 1 0 0 11a5.5 5.5 0 1 0 0-11M8 5v3.2l2 1.3",
    "downloading": "M8 2.5v7.5M4.8 7L8 10.2L11.2 7M3 13.5h10",
    "converting": "M13 6.5A5.2 5.2 0 0 0 3.6 5M3 9.5A5.2 5.2 0 0 0 12.4 11M3.4 2.3V5h2.7M12.6 13.7V11H9.9",
    "completed": "M8 2.5a5.5 5.5 0 1 0 0 11a5.5 5.5 0 1 0 0-11M5.6 8.2l1.7 1.7l3.2-3.6",
    "failed": "M8 2.2l6.2 11H1.8zM8 6.3v3.2M8 11.4v.2",
    "canceled": "M8 2.5a5.5 5.5 0 1 0 0 11a5.5 5.5 0 1 0 0-11M4.2 11.8l7.6-7.6",
    "ok": "M3.2 8.4l3.2 3.2l6.4-7",
    "warning": "M8 2.2l6.2 11H1.8zM8 6.3v3.2M8 11.4v.2",
    "info": "M8 2.5a5.5 5.5 0 1 0 0 11a5.5 5.5 0 1 0 0-11M8 7.4v3.4M8 5.1v.2",
    "lock": "M4 7.5h8v6H4zM5.5 7.5V5.6a2.5 2.5 0 0 1 5 0v1.9",
    "open": "M8 2.5a5.5 5.5 0 1 0 0 11a5.5 5.5 0 1 0 0-11M5.6 8.2l1.7 1.7l3.2-3.6",
    "closed": "M8 2.5a5.5 5.5 0 1 0 0 11a5.5 5.5 0 1 0 0-11M5 8h6",
    "pause": "M5.5 3.5v9M10.5 3.5v9",
    "retry": "M12.8 8a4.8 4.8 0 1 1-1.5-3.5M12.9 2.5v2.6h-2.6",
    "plus": "M8 3v10M3 8h10",
    "overview": "M2.5 2.5h4.5v6H2.5zM9 2.5h4.5v3.5H9zM9 8h4.5v5.5H9zM2.5 10.5h4.5v3H2.5z",
    "jobs": "M5.5 4h8M5.5 8h8M5.5 12h8M2.5 4h.2M2.5 8h.2M2.5 12h.2",
    "models": "M8 1.8l5.6 3.1v6.2L8 14.2l-5.6-3.1V4.9zM2.4 4.9L8 8l5.6-3.1M8 8v6.2",
    "gates": "M3 13.5v-8a5 5 0 0 1 10 0v8M1.5 13.5h13M8 .8v12.7",
    "plugins": "M6 2v3M10 2v3M4 5h8v3a4 4 0 0 1-8 0zM8 12v2.5",
    "workers": "M2.5 3h11v4h-11zM2.5 9h11v4h-11zM5 5h.2M5 11h.2",
    "webhooks": (
        "M6.6 9.4a3 3 0 0 1 0-4.2l1.6-1.6a3 3 0 0 1 4.2 4.2l-1 1M9.4 6.6a3 3 0 0 1 0 4.2l-1.6 1.6a3 3 0 0 1-4.2-4.2l1-1"
    ),
    "limits": "M2.5 12.5a6 6 0 1 1 11 0M8 11l3-4",
    "copy": "M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3",
    "book": (
        "M3 2.5h4a1.5 1.5 0 0 1 1 1.4v9.6a1.5 1.5 0 0 0-1-1H3zM13 2.5H9a1.5 1.5 0 0 0-1 1.4v9.6a1.5 1.5 0 0 1 1-1h4z"
    ),
    "search": "M7 2.8a4.2 4.2 0 1 0 0 8.4a4.2 4.2 0 1 0 0-8.4M10.2 10.2l3.3 3.3",
    "file": "M4 1.8h5l3.2 3.2v9.2H4zM9 1.8V5h3.2",
    "next": "M6 3.5L10.5 8L6 12.5",
}
