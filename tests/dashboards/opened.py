"""A page of the app as Streamlit runs it without a browser, and what stands on it."""

from collections.abc import Callable

from streamlit.testing.v1 import AppTest

from dashboards import app_pages

PAGES = [name for name, _ in app_pages.PAGES]
Open = Callable[..., AppTest]


def text(page: AppTest) -> str:
    """All that the page says."""
    parts = [getattr(element, "value", None) or getattr(element, "body", "") for element in page.main]
    parts += [element.proto.body for element in page.get("html")]
    parts += [element.label for element in page.expander]
    return " ".join(str(part) for part in parts)


def subheadings(page: AppTest) -> list[str]:
    return [heading.value for heading in page.subheader]


def figures(page: AppTest) -> int:
    return len(page.get("vega_lite_chart"))


def specs(page: AppTest) -> str:
    return "".join(chart.proto.spec for chart in page.get("vega_lite_chart"))


def warnings(page: AppTest) -> str:
    return " ".join(warning.value for warning in page.warning)
