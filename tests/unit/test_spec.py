"""Names and digests from outside are checked before anything is joined to a path."""

import unicodedata
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import SourceUnsafe
from common.log import redact
from common.spec import Digest, check_distinct, check_file_path
from common.vocabulary import DigestAlgorithm

HOSTILE = [
    "", "/etc/passwd", "../x", "a/../../x", "a/./b", "a//b", "a/", "a\\b", "a\0b", "a\nb", "x" * 256, "\ud800",
    "a/" * 600 + "b", ".modelferry/blobs", ".cache/huggingface/x", "sub/.modelferry.json", ".modelferry.json",
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE)
def test_a_dangerous_name_is_refused(path: str) -> None:
    with pytest.raises(SourceUnsafe):
        check_file_path(path)


@pytest.mark.parametrize("path", ["config.json", "1_Pooling/config.json", ".gitattributes", "ünïcode/模型.bin", "a b"])
def test_an_ordinary_name_passes(path: str) -> None:
    assert check_file_path(path) == path


@given(st.text(max_size=40))
def test_no_name_that_passes_can_leave_its_folder(path: str) -> None:
    try:
        check_file_path(path)
    except SourceUnsafe:
        return
    pure = PurePosixPath(path)
    assert not pure.is_absolute()
    assert ".." not in pure.parts
    assert not any(unicodedata.category(char) == "Cc" for char in path)


@pytest.mark.parametrize(
    "paths", [["a", "a"], ["Model.bin", "model.bin"], ["caf\u00e9", "cafe\u0301"], ["a", "a/b"], ["A", "a/b"]]
)
def test_two_names_that_could_be_one_file_are_refused(paths: list[str]) -> None:
    with pytest.raises(SourceUnsafe):
        check_distinct(paths)


def test_distinct_names_pass() -> None:
    check_distinct(["a", "b/a", "b/c"])


@pytest.mark.parametrize("value", ["", "../../x", "AB" * 32, "a" * 63, "g" * 64])
def test_a_digest_is_hex_of_its_own_length(value: str) -> None:
    with pytest.raises(SourceUnsafe):
        Digest(algorithm=DigestAlgorithm.SHA256, value=value)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("token hf_abcdefghijklmnop refused", "hf_abcdefghijklmnop"),
        ("Authorization: Bearer abc.def-123456", "abc.def-123456"),
        ("redis://user:secret@host:1/0", "secret"),
        ("GET https://cdn/x?Expires=1&Signature=abcd1234&Key=2 failed", "abcd1234"),
    ],
)
def test_secrets_are_blotted_out_of_logs(text: str, secret: str) -> None:
    assert secret not in redact(text)
    assert "***" in redact(text)
