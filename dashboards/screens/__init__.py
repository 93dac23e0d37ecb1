"""The pages of the app, one room each: `page` is the script that Streamlit runs, `view` is pure, `charts` draws."""
