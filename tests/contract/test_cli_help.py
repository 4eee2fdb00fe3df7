"""The help of every command is as docs/cli.md shows it."""

from scripts.dump_cli_help import PAGE, help_of_all, with_help


def test_the_page_has_the_help_as_it_is_now() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_help(page) == page, "run `python -m scripts.dump_cli_help`"


def test_every_command_tells_what_it_does_and_every_option_too() -> None:
    for path, text in help_of_all():
        assert text.splitlines()[2].strip(), f"{path} says nothing"
        assert "\\b" not in text, path
        wordless = [line for line in text.splitlines() if line.startswith("  -") and len(line.split()) < 2]
        assert wordless == [], f"{path} has options without a word: {wordless}"


def test_exit_codes_are_those_of_the_page() -> None:
    from api.cli.exits import Exit

    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    documented = {int(row.split("|")[1]) for row in rows if row.split("|")[1].strip().isdigit()}
    assert documented == set(Exit)
