"""The embedded demo models: trained here, cached."""
