from reports.figures.labels import Box, along, columns_that_fit, place
from reports.figures.memory_bars import Stack
from reports.figures.pareto import Point, efficient
from reports.measured.loads import Load
from reports.sections.setting import lengths

LOAD = Load("c1", "s", "closed", 1.0, "1 concurrent request", "1")


def test_labels_keep_off_markers_lines_frame_and_each_other() -> None:
    points = [(50.0, 50.0), (58.0, 52.0), (95.0, 95.0)]
    frame = Box(0, 0, 100, 100)
    obstacles = along(points)
    centres = place(points, ["16", "16", "16"], frame, obstacles=obstacles, size=8, radius=5)
    boxes = [Box(x - 5.12, y - 4, x + 5.12, y + 4) for x, y in centres]
    for index, box in enumerate(boxes):
        assert box.overlap(frame) == box.area
        assert all(box.overlap(other) == 0 for other in boxes[index + 1 :])
        assert sum(box.overlap(other) for other in obstacles) < 1  # square points


def test_boxes_overlap_by_their_common_area() -> None:
    assert Box(0, 0, 2, 2).overlap(Box(1, 1, 3, 3)) == 1
    assert Box(0, 0, 1, 1).overlap(Box(1, 0, 2, 1)) == 0


def test_legend_columns_are_as_many_as_fit() -> None:
    assert columns_that_fit([1.0, 1.0, 1.0], 3.0) == 3
    assert columns_that_fit([1.0, 1.0, 1.0], 2.5) == 2
    assert columns_that_fit([9.0, 1.0], 2.5) == 1


def test_pareto_efficient_points_are_beaten_by_none() -> None:
    def point(latency_s: float, tok_s: float) -> Point:
        return Point("e", LOAD, latency_s, tok_s, ())

    fast, high, beaten, twin = point(0.1, 40), point(0.9, 224), point(1.0, 100), point(0.1, 40)
    assert efficient([fast, high, beaten, twin]) == [fast, high, twin]


def test_the_rest_of_the_memory_needs_all_parts() -> None:
    assert Stack("e", 100.0, 50.0, 180.0, "Server memory").rest_bytes == 30.0
    assert Stack("e", None, 50.0, 180.0, "Server memory").rest_bytes is None
    below = Stack("e", 100.0, 50.0, 120.0, "Server memory")
    assert below.rest_bytes is None
    assert below.reserved_only
    assert below.extent_bytes == 150.0


def test_token_lengths_in_words() -> None:
    assert lengths({"kind": "fixed", "mean": 64}) == "64 each"
    assert lengths({"kind": "lognormal", "mean": 64, "sd": 20}) == "lognormal (mean 64, sd 20)"
    assert lengths(None) == ""
