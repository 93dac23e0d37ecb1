"""All boards, in the order in which a reader meets them."""

from pathlib import Path

from dashboards.grafana.definitions import cost, engine, gateway, gpu, hidden_states, overview, service_level
from dashboards.grafana.panels import Board

BOARDS: tuple[Board, ...] = tuple(
    module.BOARD for module in (overview, service_level, engine, gpu, hidden_states, cost, gateway)
)


def json_path(board: Board) -> Path:
    """Where a board's committed JSON is."""
    return Path(__file__).parent / f"{board.slug}.json"
