"""The Choose page: `page` is run by Streamlit, `view` is pure, `charts` draws."""
