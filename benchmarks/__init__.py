"""
The measurements behind docs/results.md. Each is run as a module from the root of the repository and
explains itself with --help:

    python -m benchmarks.sampling.compare   what OHEM does to the AP of a detector
    python -m benchmarks.step_time.run      what OHEM costs in a training step
    python -m benchmarks.report             docs/results.md from both
    python -m benchmarks.gpu.run            all that needs a GPU
"""
