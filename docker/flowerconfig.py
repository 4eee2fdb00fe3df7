"""What Flower reads in a container (`--conf`): who may look, from a file, so that it is in no argument or variable."""

from pathlib import Path

basic_auth = [Path("/run/secrets/flower_login").read_text(encoding="utf-8").strip()]
