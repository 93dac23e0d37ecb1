"""The Measure page: `page` is run by Streamlit, `plans` and `progress` are pure, `jobs` starts and ends processes."""
