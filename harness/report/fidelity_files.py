"""The folder of a fidelity measurement: its records, its table and its plots."""

from __future__ import annotations

from pathlib import Path

from harness.core.provenance import provenance
from harness.core.records import read as records_of
from harness.core.records import read_json, write_json, write_rows, write_whole
from harness.core.sums import require_whole
from harness.evaluation.fidelity.measure import Measurement
from harness.report.fidelity import Judged, build, csv_text, example_pair, markdown
from harness.report.fidelity_plots import dots, examples
from harness.report.files import RENDERED, seal_results, sealable
from harness.report.plots import write_plot
from harness.runs.plan import code_of_plug, code_revision

FACTS, EPISODES = "facts.json", "episodes.jsonl.gz"


def write(measurement: Measurement, folder: Path) -> Judged:
    """Everything a fidelity folder holds but its notes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FACTS, measurement.facts | {"methods": measurement.methods})
    write_rows(folder / EPISODES, measurement.episodes, "fidelity")
    write_json(folder / "provenance.json", provenance())
    judged = _write_renderings(measurement, folder)
    seal_results(folder, sealable(folder))
    return judged


def render(folder: Path) -> Judged:
    """Write a fidelity folder's table and plots anew from its records."""
    judged = _write_renderings(read(folder), folder)
    seal_results(folder, [name for name in sealable(folder) if Path(name).suffix in RENDERED])
    return judged


def _write_renderings(measurement: Measurement, folder: Path) -> Judged:
    judged = build(measurement, historical(measurement))
    write_whole(folder / "table.md", markdown(judged))
    write_whole(folder / "table.csv", csv_text(judged))
    write_plot(dots(judged), folder / "fidelity")
    if (pair := example_pair(measurement.episodes)) is not None:
        write_plot(examples(judged, pair), folder / "example")
    return judged


def historical(measurement: Measurement) -> str | None:
    """The code revision that recorded a measurement, where its code (or a measured method's) is another today; None
    where it is current. Empty for records that do not name it."""
    facts, methods = measurement.facts, measurement.methods
    sources = facts.get("sources") or ()
    unchanged = all(code_of_plug(method["plug"]) == method.get("code") for method in methods)
    current = sources and code_revision(sources) == facts["code"] and unchanged
    return None if current else str(facts.get("code", ""))


def read(folder: Path) -> Measurement:
    """The measurement recorded in a folder."""
    remedy = f"take it back from where the folder came from, or measure anew with: harness fidelity {folder}/spec.toml"
    require_whole(folder, remedy, [FACTS, EPISODES])
    facts = read_json(folder / FACTS)
    known = {key: value for key, value in facts.items() if key != "methods"}
    return Measurement(known, facts["methods"], records_of(folder / EPISODES).strict())
