"""What people look at: the Streamlit app over pure view functions, and Grafana boards as code."""
