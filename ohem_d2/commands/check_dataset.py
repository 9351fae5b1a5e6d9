"""
List what is wrong with the annotations and images of datasets.

    ohem-d2 check coco:annotations.json:images
    ohem-d2 check voc:VOC2007:trainval my_dataset --import my_datasets

Training and all other commands stop at the first error in annotations, but do not decode the images
before.
"""

import sys

from tqdm import tqdm

from ..data.dataset_findings import find_in_dataset
from ..engine import import_module
from ..engine.input_checks import check_registered
from .command_line import add_import_argument, exit_on_error, make_parser

MAX_LISTED = 1000


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help="registered, or their files")
    parser.add_argument(
        "--annotations-only", action="store_true", help="do not decode the images, which takes long"
    )
    add_import_argument(parser)
    args = parser.parse_args()
    num_errors = num_listed = 0
    with exit_on_error():
        import_module(args.module)
        for dataset in args.datasets:
            check_registered(dataset, "the command line")
        for dataset in args.datasets:
            for finding in find_in_dataset(dataset, not args.annotations_only):
                num_errors += finding.is_error
                num_listed += 1
                if num_listed <= MAX_LISTED:
                    tqdm.write(("" if finding.is_error else "harmless: ") + finding.text)
    if num_listed > MAX_LISTED:
        print(f"and {num_listed - MAX_LISTED} more")
    harmless = num_listed - num_errors
    print(f"{num_errors} errors, and {harmless} findings that training gets along with.")
    if num_errors:
        sys.exit(1)
