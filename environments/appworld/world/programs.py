"""Programmes as lists of Python blocks: the macros in which scenarios write them, spelt out.

``@login venmo phone``            logs in and binds the access tokens to the names ``venmo`` and ``phone``
``@pages rows = apis.app.api(..)`` reads every page of a list into ``rows``
``@page rows = apis.app.api(..)``  reads the first page only, as a careless programme does
"""

from __future__ import annotations

import re

_PAGES = """{name} = []
for page in range(1000):
    part = {call}, page_index=page, page_limit=20)
    {name} += part
    if len(part) < 20:
        break"""

_LOGIN = """passwords = {row["account_name"]: row["password"] for row in apis.supervisor.show_account_passwords()}
profile = apis.supervisor.show_profile()"""


def blocks(program: str) -> list[str]:
    """The programme's blocks with their macros spelt out."""
    return [_expand(block.strip("\n")) for block in re.split(r"^---$", program, flags=re.MULTILINE) if block.strip()]


def apis_used(program: list[str]) -> list[str]:
    """The APIs that the blocks call, as ``app.api``, sorted."""
    return sorted(set(re.findall(r"\bapis\.(\w+\.\w+)\(", "\n".join(program))))


def _expand(block: str) -> str:
    return "\n".join(_expand_line(line) for line in block.splitlines())


def _expand_line(line: str) -> str:
    indent = line[: len(line) - len(line.lstrip())]
    words = line.split()
    if not words or not words[0].startswith("@"):
        return line
    if words[0] == "@login":
        text = "\n".join([_LOGIN, *(_login(app) for app in words[1:])])
    elif words[0] in ("@pages", "@page"):
        name, call = line.strip().removeprefix(words[0]).strip().split(" = ", 1)
        text = _PAGES.format(name=name, call=call.removesuffix(")")) if words[0] == "@pages" else f"{name} = {call}"
    else:
        raise ValueError(f"no macro {words[0]!r} (macros: @login, @pages, @page)")
    return "\n".join(indent + part for part in text.splitlines())


def _login(app: str) -> str:
    account = "phone_number" if app == "phone" else "email"
    return f'{app} = apis.{app}.login(username=profile["{account}"], password=passwords["{app}"])["access_token"]'
