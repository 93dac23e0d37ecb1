"""A large figure with a link to its evidence."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Tile:
    """A large figure, what it is of, and the page that shows where it comes from."""

    what: str
    value: str
    remark: str
    page: str
    link: str
    query: dict[str, str] = field(default_factory=dict)
