"""A run folder's report: report.html, report.md and figures/*.svg, rebuilt from the records alone."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.run.store import open_run
from reports.content import Content, content
from reports.errors import ReportWriteError
from reports.figures.drawing import Picture
from reports.layout import html, markdown
from reports.measured.cells import Report
from reports.measured.reading import read


@dataclass(frozen=True)
class ReportPaths:
    """The files of a written report."""

    html: Path
    markdown: Path
    figures: tuple[Path, ...]


def write_report(run_dir: Path) -> ReportPaths:
    """Write the report of the run folder `run_dir` into it and return the files' paths.

    Every number is recomputed from the records. Each file is replaced atomically; figures that the run no longer gives
    are removed. The same run folder gives the same bytes. Raises bench.errors.RunFolderError when the folder is none
    or damaged, ReportError when a cell lacks what it is made of, ReportWriteError when a file cannot be written.
    """
    report = read_report(run_dir)
    return write(run_dir.parent if run_dir.name == "run.json" else run_dir, content(report))


def read_report(run_dir: Path) -> Report:
    """The content of the report of `run_dir`, recomputed from its records."""
    return read(open_run(run_dir))


def write(run_dir: Path, made: Content) -> ReportPaths:
    """Write `made` into `run_dir`."""
    searched = (made.capacity,) if made.capacity else ()
    in_sections = [picture for section in (*searched, *made.over_time, *made.sections) for picture in section.pictures]
    pictures: tuple[Picture, ...] = (*made.performance, *made.distributions, *made.memory, *in_sections)
    folder = run_dir / "figures"
    try:
        folder.mkdir(exist_ok=True)
        figures = tuple(_replace(folder / f"{picture.name}.svg", picture.svg) for picture in pictures)
        for stale in set(folder.glob("*.svg")) - set(figures):
            stale.unlink()
        return ReportPaths(
            html=_replace(run_dir / "report.html", html(made)),
            markdown=_replace(run_dir / "report.md", markdown(made)),
            figures=figures,
        )
    except OSError as error:
        raise ReportWriteError(
            f"{error.filename or run_dir}: the report cannot be written ({error.strerror}). The run's records are "
            "untouched. Free some space, or copy the run folder to where you may write, and run `nbridge report` there."
        ) from error


def _replace(path: Path, text: str) -> Path:
    """Replace `path` by `text`, so that a reader sees the old or the new file, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as out:
            out.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
