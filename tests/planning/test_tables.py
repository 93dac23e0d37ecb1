import re

import pytest
from rich.console import Console

from planning import tables

ROWS = [
    ("qwen2.5-7b w4a16 on 1 × rtx-4090", "80.9 ms", "1,062", "0.548", "by its bounds alone, never measured"),
    ("deepseek-v2 w4a16 on 8 × rtx-4090", "31.5 ms", "690", "", "measured"),
]


def shown(width: int) -> str:
    table = tables.table()
    table.add_column("candidate")
    for name in ("TTFT", "tok/s", "$/M out"):
        table.add_column(name, justify="right")
    table.add_column("speeds")
    for row in ROWS:
        table.add_row(*row)
    console = Console(width=width, highlight=False, record=True)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


@pytest.mark.parametrize("width", range(36, 140, 4))
def test_no_figure_is_cut_at_any_width(width):
    text = shown(width)
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= width
    for figure in ("1,062", "690", "0.548"):
        assert re.search(rf"(?<![\d,.]){re.escape(figure)}(?![\d,])", text)


def test_columns_stand_side_by_side_where_they_fit():
    wide = shown(120).splitlines()
    assert len(wide) == 3
    assert wide[1].split()[-8:] == ["1,062", "0.548", "by", "its", "bounds", "alone,", "never", "measured"]
    # Words may be wrapped while figures stay whole.
    assert len(shown(85).splitlines()) == 5


def test_a_row_becomes_a_paragraph_where_they_do_not_and_says_nothing_of_an_empty_cell():
    lines = shown(50).splitlines()
    assert lines[0].strip() == ROWS[0][0]
    assert lines[1].strip() == "TTFT 80.9 ms · tok/s 1,062 · $/M out 0.548 ·"
    assert lines[-1].strip() == "TTFT 31.5 ms · tok/s 690 · speeds measured"
