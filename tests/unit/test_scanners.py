"""What the security scanners do not see: docs/adr/0019-security-scanners.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from common.catalog.remote_url import REMOTE_URL

ROOT = Path(__file__).parent.parent.parent


def fetching(source: str) -> list[int]:
    """The lines that load a model or a part of one, and would fetch it where it is not there."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "from_pretrained"
        and not any(_is_local(keyword) for keyword in node.keywords)
    ]


def _is_local(keyword: ast.keyword) -> bool:
    if keyword.arg is not None:
        return keyword.arg == "local_files_only" and ast.unparse(keyword.value) == "True"
    return ast.unparse(keyword.value).endswith(".local")


@pytest.mark.parametrize("folder", ["worker", "scripts"])
def test_no_model_is_fetched_by_a_library_behind_our_back(folder: str) -> None:
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in (ROOT / folder).rglob("*.py")
        for line in fetching(path.read_text(encoding="utf-8"))
    }
    assert found == set()


def test_the_search_finds_what_it_looks_for() -> None:
    assert fetching("AutoModel.from_pretrained(name)") == [1]
    assert fetching("AutoModel.from_pretrained(name, local_files_only=False)") == [1]
    assert fetching("AutoModel.from_pretrained(name, local_files_only=True)") == []
    assert fetching("AutoModel.from_pretrained(name, **subject.local)") == []


def test_bandit_still_looks(tmp_path: Path) -> None:
    """With the rules that are off, and so with all others on."""
    (tmp_path / "bad.py").write_text("import subprocess\nsubprocess.run('ls', shell=True)\n")
    command = [sys.executable, "-m", "bandit", "--quiet", "-c", str(ROOT / "pyproject.toml"), "-r", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 1
    assert "B602" in ran.stdout


@pytest.mark.parametrize("login", ["me:password@", "me@", "me:@", ":password@", "@", "a%40b:c@"])
def test_the_login_of_a_source_is_not_kept(login: str) -> None:
    """It would be written into a job, for all to see. The hub still sees that there was one, and refuses it."""
    for address in (
        f"https://{login}host/x.tar",
        f"https://{login}[::1]/x.tar",
        f"//{login}host/x",
        f"https://{login}[bad",
    ):
        kept = REMOTE_URL.bind({"url": address}).url
        assert "***@" in kept
        assert login == "@" or login not in kept
    assert REMOTE_URL.bind({"url": "https://host/a@b.tar?c=d@e"}).url == "https://host/a@b.tar?c=d@e"
