"""`python -m dashboards.grafana` writes every board's JSON anew; `tests/dashboards` fails while they differ."""

import sys

from dashboards.grafana.boards import BOARDS, json_path
from dashboards.grafana.foundation import to_json

for board in BOARDS:
    json_path(board).write_text(to_json(board), encoding="utf-8")
    sys.stdout.write(f"{json_path(board)}\n")
