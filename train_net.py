#!/usr/bin/env python3
"""
The command `ohem-d2 train`: train and evaluate a detector with or without online hard example
mining.

    python train_net.py --config-file configs/demo/faster_rcnn_R_18_ohem.yaml
    python train_net.py --config-file ... --eval-only MODEL.WEIGHTS model_final.pth
"""

from ohem_d2.commands.train import main

if __name__ == "__main__":
    main()
