"""An alignment's document → one HTML page that opens offline, and the same as Markdown."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from alignment.errors import StorageError

_MEASURES = {
    "cosine": "Centred cosine",
    "top1": "Top-1 retrieval",
    "explained_variance": "Explained variance",
}
_BAR_PX, _ROW_PX, _LABEL_PX = 420, 26, 190
_NAMES = {
    "procrustes": "Procrustes (rotation)",
    "whitened": "Whitened Procrustes",
    "cca": "CCA (whitened, shrunk)",
    "ridge": "Ridge (any linear map)",
    "mean vector": "baseline: mean vector",
    "random rotation": "baseline: random rotation",
}


def label(name: str) -> str:
    """What a method or a baseline is called in tables."""
    return _NAMES.get(name, name)


def shown(measure: dict[str, float]) -> str:
    """A value with its interval: "0.883 [0.874, 0.891]"."""
    return f"{measure['value']:.3f} [{measure['low']:.3f}, {measure['high']:.3f}]"


def side(one: dict[str, Any]) -> str:
    """One side of a map in words: model, layers, pooling, width."""
    if one["approximation"]:
        return f"{one['model']}, vectors of an embeddings API (no hidden states), width {one['width']}"
    layers = ", ".join(map(str, one["layers"]))
    blocks = f" of {one['num_layers']} blocks" if one["num_layers"] else ""
    several = f", {'averaged' if one['combine'] == 'mean' else 'side by side'}" if len(one["layers"]) > 1 else ""
    return f"{one['model']}, after layer {layers}{blocks}{several}, pooling {one['pooling']}, width {one['width']}"


def headline(document: dict[str, Any]) -> str:
    """The result in one sentence: the best rotation beside the unconstrained map."""
    by_name = {row["name"]: row for row in document["methods"]}
    best = by_name[document["best_on_validation"]]
    text = (
        f"On {best['prompts']} held-out prompts the map chosen on the validation prompts, {label(best['name'])}, "
        f"reaches a centred cosine of {shown(best['cosine'])}, finds the right prompt for "
        f"{best['top1']['value']:.1%} of them (chance: {document['chance_top1']:.2%}) and explains "
        f"{best['explained_variance']['value']:.1%} of the variance."
    )
    rotation = by_name.get("procrustes")
    if rotation is not None and rotation is not best:
        text += f" A rotation alone reaches {shown(rotation['cosine'])}."
    return text


def bars(document: dict[str, Any], measure: str) -> list[dict[str, Any]]:
    """Bars of one measure in pixels, methods first; values below 0 have none."""
    rows = document["methods"] + document["baselines"]
    found = []
    for place, row in enumerate(rows):
        value = row[measure]
        ends = {name: _LABEL_PX + _BAR_PX * min(max(value[name], 0.0), 1.0) for name in ("value", "low", "high")}
        found.append(
            {
                "label": label(row["name"]),
                "y": place * _ROW_PX,
                "is_baseline": place >= len(document["methods"]),
                "text": f"{value['value']:.3f}",
                **ends,
            }
        )
    return found


def write(document: dict[str, Any], directory: Path) -> list[Path]:
    """Write report.html and report.md into a directory. Raises StorageError."""
    environment = Environment(
        loader=PackageLoader("alignment"),
        autoescape=select_autoescape(["html.j2"], default_for_string=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        lstrip_blocks=True,
    )
    rows = document["methods"] + document["baselines"]
    context = {
        "document": document,
        "rows": rows,
        "measures": _MEASURES,
        "headline": headline(document),
        "sources": [side(one) for one in document["sources"]],
        "target": side(document["target"]),
        "bars": {measure: bars(document, measure) for measure in _MEASURES},
        "height": len(rows) * _ROW_PX,
        "left": _LABEL_PX,
        "width": _LABEL_PX + _BAR_PX + 60,
        "label": label,
        "shown": shown,
    }
    written = []
    for name in ("report.html", "report.md"):
        path = directory / name
        try:
            path.write_text(environment.get_template(f"{name}.j2").render(context), encoding="utf-8")
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error}.") from error
        written.append(path)
    return written
