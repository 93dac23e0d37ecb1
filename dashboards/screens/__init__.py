"""The pages of the app: scripts that Streamlit runs, thin over dashboards.views."""
