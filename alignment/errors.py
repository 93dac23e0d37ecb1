"""What can go wrong between two models' states and a W-matrix.

AlignmentError                 the work itself failed                                        exit code 4
├── BadInput                   prompts, states or options that cannot be used                exit code 2
│   ├── TooFewPrompts          not enough distinct prompts to fit and to test                exit code 2
│   └── OutputExists           a file or folder is there already, and --force is not         exit code 2
├── Mismatch                   states of another model, layer, pooling or width than fitted  exit code 2
└── StorageError               a file cannot be read or written                              exit code 4
"""


class AlignmentError(Exception):
    exit_code = 4


class BadInput(AlignmentError):
    exit_code = 2


class TooFewPrompts(BadInput):
    pass


class OutputExists(BadInput):
    pass


class Mismatch(AlignmentError):
    exit_code = 2


class StorageError(AlignmentError):
    pass
