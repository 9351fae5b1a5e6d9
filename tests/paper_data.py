"""
The paper's datasets and weights in small: images of the demo under the names of PASCAL VOC and
COCO, and random weights of networks with narrow fully connected layers.
"""

import json
import shutil

import torch
import torchvision
from caffe_files import caffe_net, vgg_m_layers
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from ohem_d2.data.datasets.clutter import CLASS_NAMES, generate_clutter

FC_DIM = 32
VOC_NAMES = dict(zip(CLASS_NAMES, ("cat", "dog", "cow", "car"), strict=True))
COCO_IDS = (1, 17, 18, 90)  # of COCO's categories, which have gaps

# Options that let a CPU train on these in seconds.
TINY = [
    *("MODEL.DEVICE", "cpu", "MODEL.ROI_BOX_HEAD.FC_DIMS", f"({FC_DIM},{FC_DIM})"),
    *("INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96", "DATALOADER.NUM_WORKERS", "0"),
    *("TEST.AUG.MIN_SIZES", "(80,96)", "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN", "60"),
    *("DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST", "40"),
]


def write_voc(root, year, splits):
    """
    Args:
        splits (dict[str, int]): images of each.
    """
    folder = generate_clutter(root, year, splits)
    for file in (folder / "Annotations").glob("*.xml"):
        text = file.read_text()
        for name, voc_name in VOC_NAMES.items():
            text = text.replace(f"<name>{name}</name>", f"<name>{voc_name}</name>")
        file.write_text(text)
    folder.rename(root / f"VOC{year}")


def write_coco(root, splits):
    folder = generate_clutter(root, 2014, splits)
    (root / "coco/annotations").mkdir(parents=True)
    for split in splits:
        content = json.loads((folder / f"coco/instances_{split}.json").read_text())
        for x in content["annotations"]:
            x["category_id"] = COCO_IDS[x["category_id"] - 1]
        things = [x for x in COCO_CATEGORIES if x["isthing"]]
        content["categories"] = [{"id": x["id"], "name": x["name"]} for x in things]
        (root / f"coco/annotations/instances_{split}.json").write_text(json.dumps(content))
        images = root / "coco" / split
        images.mkdir()
        for x in content["images"]:
            shutil.copy(folder / "JPEGImages" / x["file_name"], images)
    shutil.rmtree(folder)


def write_datasets(root):
    root.mkdir()
    write_voc(root, 2007, {"trainval": 4, "test": 2})
    write_voc(root, 2012, {"trainval": 3, "test": 2})
    for image_id in (root / "VOC2012/ImageSets/Main/test.txt").read_text().split():
        (root / f"VOC2012/Annotations/{image_id}.xml").unlink()  # not public
    write_coco(root, {"train2014": 3, "val2014": 2})


def write_weights(folder):
    """
    Returns:
        (Path, Path): torchvision's file of VGG16 and Caffe's of VGG_CNN_M_1024.
    """
    vgg16 = torchvision.models.vgg16(weights=None).state_dict()
    for layer, inputs in (("0", 512 * 7 * 7), ("3", FC_DIM)):
        vgg16[f"classifier.{layer}.weight"] = torch.randn(FC_DIM, inputs) * 0.01
        vgg16[f"classifier.{layer}.bias"] = torch.zeros(FC_DIM)
    torch.save(vgg16, folder / "vgg16.pth")
    layers = vgg_m_layers(FC_DIM, FC_DIM)
    # Their activations neither vanish nor explode.
    for weight, _ in layers.values():
        weight *= (2 / weight[0].size) ** 0.5 / weight.std()
    (folder / "vgg_m.caffemodel").write_bytes(caffe_net(layers))
    return folder / "vgg16.pth", folder / "vgg_m.caffemodel"
