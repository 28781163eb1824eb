"""The folder of a fidelity measurement: its records, its table and its plots."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from harness.core.provenance import provenance
from harness.core.records import SCHEMA, line_of, write_json, write_whole
from harness.evaluation.fidelity.measure import Measurement
from harness.report.fidelity import Judged, build, csv_text, example_pair, markdown
from harness.report.fidelity_plots import dots, examples
from harness.report.plots import write_plot


def write(measurement: Measurement, folder: Path) -> Judged:
    """Everything a fidelity folder holds but its notes."""
    judged = build(measurement)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "facts.json", measurement.facts | {"methods": measurement.methods})
    rows = ({"schema": SCHEMA, "kind": "fidelity"}, *measurement.episodes)
    write_whole(
        folder / "episodes.jsonl.gz", gzip.compress("".join(line_of(row) + "\n" for row in rows).encode(), mtime=0)
    )
    write_json(folder / "provenance.json", provenance())
    write_whole(folder / "table.md", markdown(judged))
    write_whole(folder / "table.csv", csv_text(judged))
    write_plot(dots(judged), folder / "fidelity")
    if (pair := example_pair(measurement.episodes)) is not None:
        write_plot(examples(judged, pair), folder / "example")
    return judged


def read(folder: Path) -> Measurement:
    """The measurement recorded in a folder."""
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    lines = gzip.decompress((folder / "episodes.jsonl.gz").read_bytes()).decode().splitlines()
    return Measurement(
        {k: v for k, v in facts.items() if k != "methods"}, facts["methods"], [json.loads(line) for line in lines[1:]]
    )
