"""Two runs held against each other: may they be compared, what changed, and is the change more than noise."""
