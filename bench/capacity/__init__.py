"""The highest load that meets an SLO, found by measuring: which load comes next, what a point says, what all say."""
