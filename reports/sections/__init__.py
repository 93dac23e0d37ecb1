"""The parts of a report: setting, trust, problems, and those that need a GPU or a price."""
