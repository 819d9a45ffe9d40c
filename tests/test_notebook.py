"""The tour runs, and its outputs are committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import HAS_NEW_API_STACK
from nbclient import NotebookClient

TOUR = Path(__file__).parent.parent / "notebooks" / "tour.ipynb"


def said(notebook: Any) -> list[str]:
    """What the cells printed and returned, and the kinds of their pictures."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output.get("text") or "".join(output["data"]) + output["data"]["text/plain"] for output in outputs]


def return_of(notebook: Any, name: str) -> float:
    (line,) = (line for text in said(notebook) for line in text.splitlines() if line.strip().startswith(f"{name}: "))
    return float(line.split()[1])


@pytest.mark.skipif(not HAS_NEW_API_STACK, reason="needs a Ray whose new API stack this project supports")
def test_the_tour_runs_and_its_team_hears(tmp_path: Path) -> None:
    notebook = nbformat.read(TOUR, 4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert return_of(notebook, "team") > return_of(notebook, "cut") > 0


def test_the_tour_was_committed_with_its_outputs() -> None:
    notebook = nbformat.read(TOUR, 4)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert sum("image/png" in text for text in said(notebook)) == 2
    assert return_of(notebook, "team") > return_of(notebook, "cut")
    assert not any(output.get("name") == "stderr" for cell in notebook.cells for output in cell.get("outputs", []))
