"""The page on backends says what the code says."""

from __future__ import annotations

import importlib.util

from harness import ROOT
from harness.protocols.capabilities import Capability

PLACE = ROOT / "docs" / "write_backends.py"


def test_the_page_is_the_code_of_today() -> None:
    spec = importlib.util.spec_from_file_location("write_backends", PLACE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    committed = (ROOT / "docs" / "backends.md").read_text(encoding="utf-8")
    assert committed == module.text(), "write it again: python docs/write_backends.py"
    assert all(f"| {capability} | {capability.meaning} |" in committed for capability in Capability)
