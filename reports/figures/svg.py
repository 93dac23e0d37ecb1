"""matplotlib's SVG made small, accessible and fit for inlining."""

import io
import re
import warnings
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
FONT = "system-ui, sans-serif"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_FAMILY = re.compile(r"(font(?:-family)?:[^;]*?)'DejaVu Sans'[^;]*")
_HEX = re.compile(r"#[0-9a-f]{6}\b")
# matplotlib's settings under which a figure is to be made: text is text, and the same figure gives the same bytes.
TEXT_STAYS_TEXT = {
    "svg.fonttype": "none",
    "svg.hashsalt": "neural-bridge",
    "font.family": "DejaVu Sans",
    "text.parse_math": False,
}


def drawn(figure: "Figure", name: str, title: str, description: str) -> str:
    """A figure as `accessible` SVG."""
    buffer = io.StringIO()
    with warnings.catch_warnings():  # text stays text: a glyph that the measuring font lacks is the reader's to draw
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return accessible(buffer.getvalue(), name, title, description)


def accessible(source: str, name: str, title: str, description: str) -> str:
    """The SVG `source` as one image with a title and a description for a screen reader.

    Ids are prefixed with `name`, so that several figures can share a page; ids that nothing refers to, the metadata and
    superfluous digits are left out.
    """
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    root = ET.fromstring(source)  # noqa: S314 - written by matplotlib in this process
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    used = _referred(root)
    for element in root.iter():
        _rewrite(element, name, used)
    root.attrib.pop("version", None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        child = ET.Element(f"{{{SVG}}}{tag}", {"id": f"{name}-{tag}"})
        child.text = text
        child.tail = "\n"
        root.insert(position, child)
    return ET.tostring(root, encoding="unicode") + "\n"


def _referred(root: ET.Element) -> set[str]:
    used: set[str] = set()
    for element in root.iter():
        for attribute, value in element.attrib.items():
            used.update(_REFERENCE.findall(value))
            if attribute in ("href", f"{{{XLINK}}}href") and value.startswith("#"):
                used.add(value[1:])
    return used


def _rewrite(element: ET.Element, name: str, used: set[str]) -> None:
    for attribute, value in list(element.attrib.items()):
        if attribute == "id":
            if value in used:
                element.set("id", f"{name}-{value}")
            else:
                del element.attrib["id"]
        elif attribute in ("href", f"{{{XLINK}}}href") and value.startswith("#"):
            element.set(attribute, f"#{name}-{value[1:]}")
        else:
            text = _REFERENCE.sub(rf"url(#{name}-\1)", value)
            if attribute == "style":
                text = _FAMILY.sub(rf"\1{FONT}", text)
            if "url(#" not in text:
                text = _LONG_NUMBER.sub(lambda match: f"{float(match.group()):.2f}".rstrip("0").rstrip("."), text)
            element.set(attribute, text)


def themed(source: str, variables: dict[str, str]) -> str:
    """`source` with its colours as CSS variables (hex → variable name), the literal colour as the fallback."""
    return _HEX.sub(
        lambda match: f"var({variables[match[0]]}, {match[0]})" if match[0] in variables else match[0], source
    )
