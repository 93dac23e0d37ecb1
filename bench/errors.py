"""What can go wrong in `bench`, as a person reads it.

BenchError                 the measuring itself failed                        exit code 4
├── PlanError              a plan, a flag or a prompt file is not usable       exit code 2
├── RunFolderError         a run folder cannot be read                         exit code 2
│   └── NewerFormatError   … because a newer Neural Bridge wrote it
├── TargetError            `--target` does not answer as an OpenAI server      exit code 4
├── ClusterError           Ray does not answer, or all that measured is gone   exit code 4
│   └── NotOnCluster       Ray or a node lacks what the sweep needs             exit code 3
└── StorageError           the run folder cannot be written (disk full …)      exit code 4
"""


class BenchError(Exception):
    exit_code = 4


class PlanError(BenchError):
    exit_code = 2


class RunFolderError(BenchError):
    exit_code = 2


class NewerFormatError(RunFolderError):
    pass


class TargetError(BenchError):
    pass


class StorageError(BenchError):
    pass


class ClusterError(BenchError):
    pass


class NotOnCluster(ClusterError):
    exit_code = 3
