"""The tables: names, revisions and paths that nobody should ask for, and answers that no honest hub gives."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Mapping

from tests.hostile.raw import Play, Visit

MARKER = "pwned"
"""What every shell command among the attacks would leave, if one were ever run."""

SHELL = {
    "separator": f"x;touch {MARKER};echo",
    "pipe": f"x|touch {MARKER}",
    "and": f"x&&touch {MARKER}",
    "background": f"x&touch {MARKER}&",
    "substitution": f"$(touch {MARKER})",
    "backticks": f"`touch {MARKER}`",
    "newline": f"x\ntouch {MARKER}\n",
    "carriage-return": f"x\rtouch {MARKER}\r",
    "redirect": f"x>{MARKER}",
    "quote": f"x';touch {MARKER};'",
    "double-quote": f'x";touch {MARKER};"',
    "variable": "${HOME}/x",
    "brace": f"{{touch,{MARKER}}}",
    "glob": "*",
    "home": "~root/x",
    "python-format": "{0.__class__}",
    "percent-format": "%(name)s%n%s",
    "template": "{{7*7}}${7*7}",
}

PATHS = {
    "empty": "",
    "dot": ".",
    "dots": "..",
    "parent": "../x",
    "parent-inside": "x/../../y",
    "parent-at-end": "x/..",
    "absolute": "/etc/passwd",
    "two-slashes": "//evil.example/x",
    "empty-part": "x//y",
    "slash-at-end": "x/",
    "slash": "/",
    "backslash": "..\\x",
    "drive": "C:\\windows",
    "unc": "\\\\evil\\share",
    "file-url": "file:///etc/passwd",
    "nul": "x\0y",
    "nul-suffix": "model\0.safetensors",
    "bell": "x\x07y",
    "escape": "x\x1b[2Jy",
    "delete": "x\x7fy",
    "c1": "x\x85y",
    "tab": "x\ty",
    "percent-dots": "%2e%2e/x",
    "percent-slash": "..%2fx",
    "percent-twice": "%252e%252e%252fx",
    "percent-nul": "x%00y",
    "overlong-utf8": "%c0%ae%c0%ae/x",
    "fullwidth-dots": "\uff0e\uff0e/x",
    "fullwidth-slash": "..\uff0fx",
    "one-dot-leader": "\u2024\u2024/x",
    "two-dot-leader": "\u2025/x",
    "division-slash": "..\u2215x",
    "fraction-slash": "..\u2044x",
    "right-to-left": "x\u202ey",
    "zero-width": "x\u200by",
    "byte-order-mark": "\ufeffx",
    "decomposed": "cafe\u0301",
    "compatibility": "\ufb01le",
    "cyrillic": "m\u043edel",
    "kelvin": "\u212aelvin",
    "lone-surrogate": "x\ud800y",
    "over-long": "x" * 300,
    "over-long-part": "x/" + "y" * 300,
    "over-long-in-all": "x/" * 600 + "y",
    "leading-dash": "-rf",
    "leading-dashes": "--upload-pack=touch",
    "leading-dash-part": "x/-rf",
    "leading-dot": ".git",
    "ours": ".modelferry",
    "ours-inside": "x/.modelferry.json",
    "question": "x?y=z",
    "fragment": "x#y",
    "at": "x@evil.example",
    "login": "user:password@evil.example/x",
    "colon": "x:y:z",
    "port": "127.0.0.1:80/x/y",
    "space": " ",
    "space-inside": "x y",
    "comma-parent": "x,../y",
    "semicolon": "x;y",
}

NAMES: Mapping[str, str] = {**SHELL, **PATHS}
"""As model names, as revisions, as download paths, and as values of a config."""

FLAGS: Mapping[str, dict[str, object]] = {
    "repository-path": {"--model_repository_path": f"/tmp/{MARKER}"},
    "config-path": {"--config_file_path": f"/tmp/{MARKER}"},
    "bare-flag": {"model_repository_path": "../../x"},
    "quantization": {"extra_quantization_params": f"--task x; touch {MARKER}"},
    "quantization-substitution": {"extra_quantization_params": f"$(touch {MARKER})"},
    "draft": {"draft_source_model": f"x;touch {MARKER}"},
    "vocoder": {"vocoder": f"x;touch {MARKER}"},
    "trust": {"trust_remote_code": True, "trust-remote-code": "true"},
    "unknown-with-shell": {f"x;touch {MARKER}": f";touch {MARKER}"},
    "dunder": {"__class__": {"__init__": {"__globals__": 1}}},
    "prototype": {"__proto__": {"admin": True}},
    "cache-dir": {"cache_dir": "/etc"},
    "destination": {"download_path": "../../x", "destination": "/etc", "output_dir": "/etc"},
    "endpoint": {"HF_ENDPOINT": "http://169.254.169.254", "OMZ_CATALOGUE": "/etc/passwd", "OLLAMA_HOST": "evil"},
    "deep": {"x": [[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]},
    "huge-number": {"x": 10**400},
    "nul": {"x\0y": "\0"},
    "surrogate-like": {"x": "\ufffd\ufffe"},
    "long-key": {"k" * 5000: 1},
}
"""Configs that try to reach a command line, or settings that are the operator's."""

HOSTILE_VALUES: Mapping[str, object] = {
    "negative": -1,
    "huge": 10**30,
    "float": 1.5,
    "true": True,
    "null": None,
    "word": "12",
    "empty": "",
    "parent": "../../../pwned",
    "absolute": "/tmp/pwned",
    "control": "x\0\n\x1b[2J\u202e",
    "surrogate": "\ud800",
    "long": "A" * 100_000,
    "upper-hex": "AB" * 32,
    "list": [["x"], 1, None],
    "object": {"../x": {"y": "z"}},
    "file-url": "file:///etc/passwd",
    "metadata-url": "http://169.254.169.254/latest/meta-data",
}
"""What each field of each document of a hub is replaced with, one at a time."""


_OK = "HTTP/1.1 200 OK"
_PAGE = b"<!DOCTYPE html><html><body>Please log in to this network</body></html>"
_MB = 1024 * 1024


def _says(*lines: str, body: bytes = b"") -> Play:
    return lambda visit: visit.send(*lines, body=body)


def _page(visit: Visit) -> None:
    visit.send(_OK, "Content-Type: text/html", f"Content-Length: {len(_PAGE)}", body=_PAGE)


def _json(body: bytes, *headers: str) -> Play:
    return _says(_OK, "Content-Type: application/json", f"Content-Length: {len(body)}", *headers, body=body)


def _redirects(location: str, status: int = 302) -> Play:
    def play(visit: Visit) -> None:
        visit.send(f"HTTP/1.1 {status} Found", f"Location: {location}", "Content-Length: 0")

    return play


def _redirects_to_itself(visit: Visit) -> None:
    visit.send("HTTP/1.1 302 Found", f"Location: {visit.url}{visit.target}", "Content-Length: 0")


def _without_end(visit: Visit) -> None:
    visit.send(_OK, "Content-Type: application/json", body=b'{"x":"')
    visit.pour(b"y" * 65536, 1024 * _MB)


def _chunks_without_end(visit: Visit) -> None:
    visit.send(_OK, "Transfer-Encoding: chunked", body=b"")
    visit.pour(b"10000\r\n" + b"y" * 65536 + b"\r\n", 1024 * _MB)


def _headers_without_end(visit: Visit) -> None:
    visit.connection.sendall(f"{_OK}\r\n".encode())
    visit.pour(b"X-More: and more\r\n", 64 * _MB)


def _continues_for_ever(visit: Visit) -> None:
    _for_a_while(visit, b"HTTP/1.1 100 Continue\r\n\r\n")


def _trailers_without_end(visit: Visit) -> None:
    visit.send(_OK, "Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\n")
    _for_a_while(visit, b"X-Trailer: more\r\n")


def _for_a_while(visit: Visit, piece: bytes) -> None:
    """For longer than any of these tests has patience, but not for ever where one should hang."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        visit.connection.sendall(piece * 100)
        time.sleep(0.01)


def _range_of_another_file(visit: Visit) -> None:
    visit.send("HTTP/1.1 206 Partial Content", "Content-Range: bytes 500-504/1000", "Content-Length: 5", body=b"hello")


def _too_long(visit: Visit) -> None:
    visit.send(_OK, "Content-Length: 100", body=b"{" + b"x" * 50)


_BOMB = gzip.compress(bytes(8 * _MB))

WIRE: Mapping[str, Play] = {
    "nothing": lambda _visit: None,
    "garbage": _says("\x16\x03\x01 this is no HTTP at all"),
    "status-of-words": _says("HTTP/1.1 OK fine"),
    "status-99999": _says("HTTP/1.1 99999 Much"),
    "status-negative": _says("HTTP/1.1 -200 OK"),
    "status-101": _says("HTTP/1.1 101 Switching Protocols", "Upgrade: h2c"),
    "status-204": _says("HTTP/1.1 204 No Content"),
    "status-206-alone": _range_of_another_file,
    "status-300": _says("HTTP/1.1 300 Multiple Choices", "Content-Length: 0"),
    "status-302-to-nowhere": _says("HTTP/1.1 302 Found", "Content-Length: 0"),
    "status-304": _says("HTTP/1.1 304 Not Modified"),
    "status-418": _says("HTTP/1.1 418 I'm a teapot", "Content-Length: 0"),
    "status-600": _says("HTTP/1.1 600 Unheard of", "Content-Length: 0"),
    "continue-for-ever": _continues_for_ever,
    "html-with-200": _page,
    "empty-with-200": _says(_OK, "Content-Length: 0"),
    "redirect-to-itself": _redirects_to_itself,
    "redirect-to-file": _redirects("file:///etc/passwd"),
    "redirect-to-gopher": _redirects("gopher://127.0.0.1:6379/_FLUSHALL"),
    "redirect-to-data": _redirects("data:application/json,{}"),
    "redirect-to-metadata": _redirects("http://169.254.169.254/latest/meta-data/"),
    "redirect-to-metadata-in-hex": _redirects("http://0xa9fea9fe/latest"),
    "redirect-to-metadata-as-number": _redirects("http://2852039166/latest"),
    "redirect-to-metadata-in-v6": _redirects("http://[::ffff:169.254.169.254]/"),
    "redirect-to-no-port": _redirects("http://127.0.0.1:99999999/x"),
    "redirect-to-broken-v6": _redirects("http://[::1/x"),
    "redirect-with-newline": _redirects("/x\r\n Injected: y"),
    "redirect-of-1-mb": _redirects("/" + "x" * _MB),
    "headers-10000": _says(_OK, *(f"X-{number}: y" for number in range(10_000)), "Content-Length: 2", body=b"{}"),
    "header-of-1-mb": _says(_OK, "X-Long: " + "y" * _MB, "Content-Length: 2", body=b"{}"),
    "headers-without-end": _headers_without_end,
    "length-too-long": _too_long,
    "length-too-short": _says(_OK, "Content-Length: 1", body=b'{"a": 1}'),
    "length-negative": _says(_OK, "Content-Length: -5", body=b"{"),
    "length-of-words": _says(_OK, "Content-Length: many", body=b"{"),
    "length-of-5000-digits": _says(_OK, "Content-Length: " + "9" * 5000, body=b"{"),
    "length-of-an-exabyte": _says(_OK, "Content-Length: " + "9" * 18, body=b"{"),
    "lengths-that-differ": _says(_OK, "Content-Length: 1", "Content-Length: 7", body=b'{"a":1}'),
    "length-and-chunks": _says(_OK, "Content-Length: 3", "Transfer-Encoding: chunked", body=b"1\r\n{\r\n0\r\n\r\n"),
    "chunk-of-words": _says(_OK, "Transfer-Encoding: chunked", body=b"zz\r\n{}\r\n"),
    "chunk-negative": _says(_OK, "Transfer-Encoding: chunked", body=b"-5\r\n{}\r\n"),
    "chunk-huge": _says(_OK, "Transfer-Encoding: chunked", body=b"f" * 30 + b"\r\n{}\r\n"),
    "trailers-without-end": _trailers_without_end,
    "body-without-end": _without_end,
    "chunks-without-end": _chunks_without_end,
    "gzip": _json(_BOMB, "Content-Encoding: gzip"),
    "brotli": _json(b"{}", "Content-Encoding: br"),
    "encoded-twice": _json(_BOMB, "Content-Encoding: identity, gzip"),
    "json-cut": _json(b'{"a": ['),
    "json-deep": _json(b"[" * 200_000),
    "json-deep-objects": _json(b'{"a":' * 200_000),
    "json-deep-inside": _json(b'{"x":' + b"[" * 200_000),
    "json-no-utf8": _json(b'{"id": "\xff\xfe\xe2\x82"}'),
    "json-utf16": _json('{"id": "x"}'.encode("utf-16")),
    "json-surrogate": _json(b'{"id": "\\ud800"}'),
    "json-twice-the-key": _json(b'{"id": "org/model", "id": "../../x"}'),
    "json-number-of-5000-digits": _json(b'{"id": ' + b"9" * 5000 + b"}"),
    "json-no-number": _json(b'{"id": NaN, "size": Infinity, "x": 1e999}'),
    "json-null": _json(b"null"),
    "json-number": _json(b"17"),
    "json-list": _json(json.dumps([{"a": 1}] * 5).encode()),
    "json-list-of-lists": _json(b"[[[]]]"),
    "etag-that-climbs": _json(b"{}", 'ETag: "../../../pwned"', "X-Linked-Etag: ../../pwned"),
    "etag-of-2-lines": _json(b"{}", 'ETag: "a\r\n b"'),
    "wait-for-ever": _says("HTTP/1.1 429 Slow", "Retry-After: " + "9" * 5000, "Content-Length: 0"),
    "wait-until-a-year": _says(
        "HTTP/1.1 503 Slow", "Retry-After: Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "Content-Length: 0"
    ),
    "wait-of-nonsense": _says(
        "HTTP/1.1 503 No", "Retry-After: \xff\xfe", 'RateLimit: "x";r=0;t=' + "9" * 9000, "Content-Length: 0"
    ),
    "challenge-that-takes-time": _says(
        "HTTP/1.1 401 No", "WWW-Authenticate: Bearer " + "a" * 60_000, "Content-Length: 0"
    ),
    "challenge-elsewhere": _says(
        "HTTP/1.1 401 No", 'WWW-Authenticate: Bearer realm="http://169.254.169.254/token"', "Content-Length: 0"
    ),
    "links-to-itself": lambda visit: visit.send(
        _OK, f'Link: <{visit.url}{visit.target}>; rel="next"', "Content-Length: 2", body=b"[]"
    ),
}
"""Answers that are wrong as HTTP already, that mislead, or that are not what anybody has asked for."""

SLOW = frozenset({"continue-for-ever", "trailers-without-end"})
"""These last for as long as one call may: only a transfer, which notices that nothing arrives, ends them sooner."""

ENDLESS = frozenset({"body-without-end", "chunks-without-end"})


def _announced(visit: Visit) -> None:
    visit.send(_OK, "Content-Type: application/json", f"Content-Length: {1024 * _MB}", body=b"[")
    visit.pour(b"{}," * 20_000, 1024 * _MB)


_ENTRY = {"type": "blob", "path": "f", "oid": "0" * 40, "size": 1, "name": "f", "id": "1", "sha": "0" * 40, "mode": "1"}

GREEDY: Mapping[str, Play] = {
    "nothing": _json(b"{}"),
    "a gigabyte that is sent": _without_end,
    "a gigabyte that is announced": _announced,
    "a million files": _json(b'{"tree":[' + b",".join([json.dumps(_ENTRY).encode()] * 1_000_000) + b"]}"),
    "many small lists": _json(b"[" + b"[]," * (15 * _MB // 3) + b"[]]"),
    "many small lists in an object": _json(b'{"tree":[' + b"[]," * (15 * _MB // 3) + b"[]]}"),
    "many small objects": _json(b"[" + b'{"a":1},' * (15 * _MB // 8) + b"{}]"),
    "many keys": _json(b"{" + b",".join(b'"%x":{}' % number for number in range(1_200_000)) + b"}"),
    "many strings": _json(b"[" + b'"ab",' * (15 * _MB // 5) + b"1]"),
}
"""Answers that would fill the memory: the first does not, the others are as large as may be, or larger."""
