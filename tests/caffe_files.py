"""
Files in the format of Caffe, for OpenCV to read.
"""

import numpy as np


def varint(n):
    head, last = [], n
    while last >= 128:
        head.append(last % 128 + 128)
        last //= 128
    return bytes([*head, last])


def number(field, n):
    return varint(8 * field) + varint(n)


def message(field, content):
    return varint(8 * field + 2) + varint(len(content)) + content


def blob(array, old):
    data = message(5, array.astype("<f4").tobytes())
    if old:  # num, channels, height, width
        shape = (1,) * (4 - array.ndim) + array.shape
        return b"".join(number(i, n) for i, n in enumerate(shape, start=1)) + data
    return data + message(7, message(1, b"".join(varint(n) for n in array.shape)))


def caffe_net(layers, old=False):
    """
    Args:
        layers (dict[str, list[np.ndarray]]): blobs by the names of their layers.
        old (bool): whether in the format of 2014, V1LayerParameter, which VGG's files have.
    """
    net = message(1, b"net")
    if not old:
        # In a net of training, the data come from Python: python_param is field 130.
        python = message(1, b"roi_data_layer.layer") + message(2, b"RoIDataLayer")
        net += message(
            100,
            message(1, b"data")
            + message(2, b"Python")
            + message(4, b"data")
            + message(130, python),
        )
        # OpenCV does not know this layer of Fast R-CNN, nor its field.
        net += message(
            100,
            message(1, b"roi_pool5") + message(2, b"ROIPooling") + message(8266711, number(1, 6)),
        )
    for name, blobs in layers.items():
        fc = name.startswith("fc")
        if old:
            layer = message(4, name.encode()) + number(5, 14 if fc else 4)
            net += message(2, layer + b"".join(message(6, blob(x, old)) for x in blobs))
        else:
            layer = message(1, name.encode()) + message(
                2, b"InnerProduct" if fc else b"Convolution"
            )
            net += message(100, layer + b"".join(message(7, blob(x, old)) for x in blobs))
    return net


def random_arrays(*shapes):
    rng = np.random.default_rng(sum(shapes[0]))
    return [rng.normal(scale=0.05, size=x).astype("f4") for x in shapes]


def vgg_m_layers(fc6, fc7):
    """
    Args:
        fc6, fc7 (int): their units. VGG_CNN_M_1024 has 4096 and 1024.

    Returns:
        dict[str, list[np.ndarray]]: random blobs for :func:`caffe_net`.
    """
    return {
        "conv1": random_arrays((96, 3, 7, 7), (96,)),
        "conv2": random_arrays((256, 96, 5, 5), (256,)),
        "conv3": random_arrays((512, 256, 3, 3), (512,)),
        "conv4": random_arrays((512, 512, 3, 3), (512,)),
        "conv5": random_arrays((512, 512, 3, 3), (512,)),
        "fc6": random_arrays((fc6, 512 * 6 * 6), (fc6,)),
        "fc7": random_arrays((fc7, fc6), (fc7,)),
    }
