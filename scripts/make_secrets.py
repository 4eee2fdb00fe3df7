"""Makes the secrets of compose.yaml: random passwords and keys, a file for each. What is there already stays.

    python3 scripts/make_secrets.py [folder]

The folder is for its owner alone. The files in it are readable for all, because Compose mounts each into containers as
it is, and the users there have no account on this machine; who cannot enter the folder cannot read them.
"""

import base64
import hashlib
import os
import secrets
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "secrets"
TOKENS = ("hf_token", "geti_token")
"""What nobody can make up: their files are empty until somebody writes a token into them."""


def main(arguments: list[str]) -> None:
    os.umask(0o077)
    folder = Path(arguments[0]) if arguments else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    made = [name for name, text in values(folder).items() if write(folder / name, text)]
    made += [f"{name} (empty)" for name in TOKENS if write(folder / name, "")]
    print(f"secrets: made in {folder}: {', '.join(made)}" if made else f"secrets: all are in {folder} already")


def values(folder: Path) -> dict[str, str]:
    """Name -> content. What belongs together is made of the same password, also where only a part is missing."""
    postgres = kept(folder / "postgres_password") or secrets.token_urlsafe(32)
    redis = password_in(kept(folder / "redis_url")) or secrets.token_urlsafe(32)
    digest = hashlib.sha256(redis.encode()).hexdigest()
    return {
        "postgres_password": postgres,
        "database_url": f"postgresql+psycopg://modelferry:{postgres}@postgres:5432/modelferry",
        "redis_url": f"redis://:{redis}@redis:6379/0",
        # Redis needs the digest only. Its user `health` may ask whether it is there, and nothing else.
        "redis_users": f"user default on #{digest} ~* &* +@all\nuser health on nopass resetchannels -@all +ping",
        "admin_key": secrets.token_urlsafe(32),
        "secret_key": base64.b64encode(secrets.token_bytes(32)).decode(),
        "flower_login": f"modelferry:{secrets.token_urlsafe(24)}",
        "grafana_password": secrets.token_urlsafe(24),
    }


def kept(path: Path) -> str:
    """What a file holds, or nothing."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def password_in(url: str) -> str:
    return url.partition("://:")[2].partition("@")[0]


def write(path: Path, text: str) -> bool:
    """Write a new file. False, and nothing, where there is one."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(f"{text}\n" if text else "")
            os.fchmod(file.fileno(), 0o444)
    except FileExistsError:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
