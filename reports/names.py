"""Names in a sentence or a figure: listed, shortened, kept apart."""


def listing(names: list[str], limit: int = 6) -> str:
    """Names as an English enumeration; beyond `limit` the rest is counted: “a, b and 14 more”."""
    shown = list(names)
    if len(names) > limit:
        shown = [*names[: limit - 1], f"{len(names) - limit + 1} more"]
    if len(shown) < 2:
        return "".join(shown)
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def shortened(name: str, limit: int) -> str:
    """`name` with its middle left out when it is longer than `limit` characters."""
    flat = " ".join(name.split())
    if len(flat) <= limit:
        return flat
    head = (limit - 1) * 2 // 3
    return f"{flat[:head]}…{flat[len(flat) - (limit - 1 - head) :]}"


def short_names(names: tuple[str, ...], limit: int = 30) -> dict[str, str]:
    """A short, distinct name for each of `names`; those that would collide are numbered."""
    short = {name: shortened(name, limit) for name in names}
    taken = list(short.values())
    return {
        name: text if taken.count(text) == 1 else f"{index + 1}: {shortened(name, limit - 4)}"
        for index, (name, text) in enumerate(short.items())
    }
