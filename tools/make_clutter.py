#!/usr/bin/env python3
"""
Write the synthetic dataset "clutter" of the demo (clutter_voc_* and clutter_coco_*).
"""

import argparse
import os

from ohem_d2.data.datasets.clutter import NUM_IMAGES, generate_clutter


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--root",
        default=os.getenv("DETECTRON2_DATASETS", "datasets"),
        help="folder of all datasets",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes")
    for split, count in NUM_IMAGES.items():
        parser.add_argument(f"--{split}", type=int, default=count, help="number of images")
    args = parser.parse_args()
    num_images = {split: getattr(args, split) for split in NUM_IMAGES}
    print(generate_clutter(args.root, args.seed, num_images))


if __name__ == "__main__":
    main()
