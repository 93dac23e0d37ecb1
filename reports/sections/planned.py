"""The sections that need a GPU or a price: memory, capacity and cost. Without a GPU or API named there are none."""

from planning.catalogs import gpu_of_run, load, measured_on
from planning.errors import PlanningError
from reports.measured.cells import Report
from reports.sections.cost import cost
from reports.sections.memory import memory
from reports.sections.section import Section
from reports.sections.servers import servers


def sections(report: Report) -> tuple[Section, ...]:
    """Every such section that the run has a reason for.

    What stands against a section (a GPU that no catalog knows, a broken catalog) is said in its place.
    """
    priced = cost(report)
    return (*_hardware(report), *((priced,) if priced else ()))


def _hardware(report: Report) -> tuple[Section, ...]:
    """Memory and capacity, where the plan names a GPU or the machine has a known one."""
    try:
        catalog = load()
        gpu = gpu_of_run(report.document, catalog)
        machine = measured_on(report.document, catalog)
    except PlanningError as error:
        return (Section("gpu-memory", "Memory on the GPU", (str(error),)),)
    if gpu is None:
        return ()
    return (memory(report, gpu, machine), servers(report, machine))
