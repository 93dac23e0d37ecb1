"""What can go wrong in `reports`, as a person reads it.

ReportError                the report cannot be made from what the run folder holds      exit code 4
└── ReportWriteError       … or cannot be written (read-only folder, disk full)          exit code 4

Errors of reading the run folder itself are bench.errors.RunFolderError and pass through.
"""


class ReportError(Exception):
    exit_code = 4


class ReportWriteError(ReportError):
    pass
