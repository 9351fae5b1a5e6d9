"""
The command `ohem-d2`, also as `python -m ohem_d2`.
"""

import argparse
import sys
from importlib import import_module

from . import __version__

# The module of each command in ohem_d2.commands, and what it does.
COMMANDS = {
    "train": ("train", "train and evaluate a detector"),
    "check": ("check_dataset", "list what is wrong with datasets"),
    "inspect": ("inspect_hard_examples", "show what is hard in a dataset for a trained model"),
    "compare": ("compare_runs", "compare two trainings on a page"),
    "evaluate": ("evaluate_detections", "evaluate detections in files"),
    "ablation": ("ablation", "test with and without multiple scales, regression and voting"),
    "proposals": ("compute_proposals", "compute selective-search boxes"),
    "reproduce": ("reproduce", "train and test what the paper reports"),
    "roi-loss": ("measure_roi_loss", "mean loss over all RoIs for every checkpoint"),
    "convert-weights": ("convert_weights", "make a checkpoint from a classifier's weights"),
    "convert-proposals": ("convert_proposals", "convert the boxes of Fast R-CNN's authors"),
}
# What pip knows a module as, where it has another name.
REQUIREMENTS = {"cv2": '"opencv-python<5"', "yaml": "pyyaml"}


def main() -> None:
    parser = argparse.ArgumentParser(
        "ohem-d2",
        description="Online hard example mining for detectron2.",
        epilog="\n".join(
            [
                "commands:",
                *(f"  {name:<19}{text}" for name, (_, text) in COMMANDS.items()),
                "\n`ohem-d2 COMMAND --help` says more.",
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its arguments")
    args = parser.parse_args()
    module, _ = COMMANDS[args.command]
    # As if it were a program of its own: messages begin with its name.
    sys.argv = [f"{parser.prog} {args.command}", *args.arguments]
    try:
        command = import_module(f"ohem_d2.commands.{module}")
    except ModuleNotFoundError as e:
        if not e.name or e.name.startswith("ohem_d2"):
            raise
        requirement = REQUIREMENTS.get(e.name, e.name)
        sys.exit(f"{sys.argv[0]}: needs {e.name}, which is missing: pip install {requirement}")
    command.main()


if __name__ == "__main__":
    main()
