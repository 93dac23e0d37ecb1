"""The figures of a report: what they show (captions, pareto, memory_bars), and their drawing as SVG."""
