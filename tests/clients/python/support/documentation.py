"""Reads the examples of docs/OPERATIONS.md."""

import re

from support.gateway import REPOSITORY


def blocks(heading: str, language: str) -> list[str]:
    """The code blocks of one language below a heading."""
    text = (REPOSITORY / "docs" / "OPERATIONS.md").read_text()
    section = re.split(r"\n##+ ", text.split(f"# {heading}\n")[1])[0]
    found = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found, f"no {language} below {heading}"
    return found


def flags(heading: str, **replaced: str) -> list[str]:
    """The settings below a heading as flags, with other values for some variables."""
    lines = [line for line in blocks(heading, "ini")[0].splitlines() if not line.startswith("#")]
    settings = dict(line.split("=", 1) for line in lines)
    assert replaced.keys() <= settings.keys()
    values = (settings | replaced).items()
    names = ((name.removeprefix("DUOLOGUE_").lower().replace("_", "-"), value) for name, value in values)
    return [part for name, value in names for part in (f"--{name}", value)]
