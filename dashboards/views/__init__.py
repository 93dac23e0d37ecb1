"""What each page shows, as plain values: pure functions without Streamlit, so that tests can work them by hand."""
