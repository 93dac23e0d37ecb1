"""The Cost page: `page` is run by Streamlit, `view` is pure, `charts` draws."""
