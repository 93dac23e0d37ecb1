"""The Streamlit app: `nbridge dashboard` runs this file."""

import streamlit as st

from dashboards import links, taken
from dashboards.app_pages import PAGES

# The emoji is drawn by the browser; an icon by name would be fetched from elsewhere.
st.set_page_config(page_title="Neural Bridge", page_icon="🌉", layout="wide")

page = st.navigation(
    [
        st.Page(
            f"screens/{name}/page.py",
            title=title,
            url_path=None if name == "overview" else name,
            default=name == "overview",
        )
        for name, title in PAGES
    ],
    position="top",
)
links.tab(page.title)
links.arrive(page.url_path)
asked, above = links.asked_for(), st.container()
taken.begin()
page.run()
taken.offered(page.url_path)
with above:
    for key, shown in links.refused(asked).items():
        links.complain(key, asked[key], shown)
links.arrived(page.url_path)
# Whoever waits for a page to be whole (tests, the measuring) looks for its end.
st.html(f'<span class="nb-end" data-page="{page.url_path}"></span>')
