"""docs/security.md is complete, and the tests that it names are there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| ")]
THREATS = [row for row in ROWS if row[0] != "threat"]

KNOWN = [f"H-S{number}" for number in range(1, 15)]
"""The weaknesses of the service before, by their numbers."""
CALLERS = [
    "guessing a key", "a forged token", "an identity provider's description that leads elsewhere", "asking without end",
    "DNS rebinding", "a page of another port of this machine that uses a session",
    "lying about the address (`X-Forwarded-For`) to be let in by it", "rewriting the audit trail",
    "filling the audit trail with refusals",
]  # fmt: skip
"""What callers and pages in their browsers can try."""
HUBS = [
    "SSRF", "token leak", "names", "archives", "pickles", "trust_remote_code", "parsers", "decompression on the wire",
    "resource abuse", "TOCTOU",
]  # fmt: skip
"""What hubs can try, as the study of them has it."""


def test_every_threat_has_one_line() -> None:
    assert [row[0].partition(":")[0] for row in THREATS] == KNOWN + CALLERS + HUBS


@pytest.mark.parametrize("row", THREATS, ids=[row[0].partition(":")[0] for row in THREATS])
def test_the_test_that_shows_it_is_there(row: list[str]) -> None:
    threat, answer, test = row
    assert threat
    assert answer
    found = re.fullmatch(r"`(tests/[\w/]+\.py)((?:::\w+)*)`", test)
    assert found is not None, test
    inside: ast.AST = ast.parse((ROOT / found[1]).read_text(encoding="utf-8"))
    for name in found[2].split("::")[1:]:
        held = {
            node.name: node for node in getattr(inside, "body", []) if isinstance(node, ast.ClassDef | ast.FunctionDef)
        }
        assert name in held, f"{found[1]} has no {name}"
        inside = held[name]


def test_nothing_is_run_that_was_fetched() -> None:
    """No module starts a shell, or turns text into code."""
    for folder in ("api", "common", "worker", "migrations"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    called = ast.unparse(node.func)
                    assert called not in {"eval", "exec", "os.system", "os.popen", "subprocess.getoutput"}, file
                    assert not any(word.arg == "shell" for word in node.keywords), file
