"""
The measurements behind docs/results.md. Each is run as a module from the root of the repository and
explains itself with --help:

    python -m benchmarks.laboratory.compare   what mining does to the AP of two detectors
    python -m benchmarks.laboratory.times     how long their training steps take
    python -m benchmarks.step_time.run        what OHEM costs in a training step, and where
    python -m benchmarks.report               docs/results.md from these
    python -m benchmarks.gpu.run              all that needs a GPU
"""
