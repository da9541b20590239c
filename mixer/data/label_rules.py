"""Labels that are computed from the features of an example, for tasks of VTAB-1k.

Source: the public code of the VTAB paper's authors, with its thresholds. There, too, a distance
equal to a threshold belongs to the class below it.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

Features = Mapping[str, tf.RaggedTensor]  # serialized name -> values of each example `[n, None]`

_CLEVR_DISTANCES = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)  # to the camera
_KITTI_DISTANCES = (-100.0, 8.0, 20.0, 999.0)  # metres in front of the camera
_KITTI_NONE = 1000.0  # the distance where there is no vehicle
_KITTI_VEHICLES = 3  # the first types: Car, Van, Truck
_MIN_OBJECTS = 3  # in an image of Clevr; ten at most


@dataclasses.dataclass(frozen=True)
class LabelRule:
    """How a label is computed; -1 is an image that has none of the classes."""

    features: Mapping[str, Any]  # serialized name -> type, tf.int64 or tf.float32
    label: Callable[[Features], tf.Tensor]  # -> int64 `[n]`
    class_names: tuple[str, ...]


def object_count(features: Features) -> tf.Tensor:
    """Returns the number of objects minus three."""
    return features["objects/size"].row_lengths() - _MIN_OBJECTS


def closest_object(features: Features) -> tf.Tensor:
    """Returns the class of the distance from the camera to the closest object."""
    coordinates = features["objects/pixel_coords"]  # x, y and distance of each object
    return _class_of(tf.reduce_min(_third(coordinates), axis=1), _CLEVR_DISTANCES)


def closest_vehicle(features: Features) -> tf.Tensor:
    """Returns the class of the distance to the closest car, van or truck; 3: there is none."""
    distances = _third(features["objects/location"])  # of x, y and z in metres
    is_vehicle = features["objects/type"] < _KITTI_VEHICLES
    vehicles = tf.ragged.boolean_mask(distances, is_vehicle)
    none = tf.fill([vehicles.nrows(), 1], _KITTI_NONE)
    return _class_of(tf.reduce_min(tf.concat([vehicles, none], axis=1), axis=1), _KITTI_DISTANCES)


def x_position(features: Features) -> tf.Tensor:
    """Returns the horizontal position in 16 classes of two of the 32 positions."""
    return _single(features["label_x_position"]) // 2


def orientation(features: Features) -> tf.Tensor:
    """Returns the orientation in 16 classes of three and two of the 40, in turn: by 2.5."""
    return _single(features["label_orientation"]) * 2 // 5


def _class_of(distances: tf.Tensor, thresholds: Sequence[float]) -> tf.Tensor:
    """Returns which threshold is the last below each distance (float32 `[n]`), -1 for none."""
    is_below = tf.constant(thresholds, tf.float32) < distances[:, None]
    return tf.reduce_sum(tf.cast(is_below, tf.int64), axis=1) - 1


def _third(triples: tf.RaggedTensor) -> tf.RaggedTensor:
    """Returns the third number of each triple, `[n, None]`; they are stored one after another."""
    flat = tf.reshape(triples.flat_values, (-1, 3))[:, 2]
    return tf.RaggedTensor.from_row_splits(flat, triples.row_splits // 3)


def _single(values: tf.RaggedTensor) -> tf.Tensor:
    return tf.squeeze(values.to_tensor(shape=(None, 1)), axis=1)


def _distances(thresholds: Sequence[float], unit: str, last: str) -> tuple[str, ...]:
    below = [f"up to {thresholds[1]:g}{unit}"]
    inner = [f"{a:g} to {b:g}{unit}" for a, b in itertools.pairwise(thresholds[1:-1])]
    return (*below, *inner, f"over {thresholds[-2]:g}{unit}", *[last] * bool(last))


LABEL_RULES: dict[str, LabelRule] = {
    "object_count": LabelRule(
        {"objects/size": tf.int64}, object_count, tuple(f"{n} objects" for n in range(3, 11))
    ),
    "closest_object": LabelRule(
        {"objects/pixel_coords": tf.float32},
        closest_object,
        _distances(_CLEVR_DISTANCES, "", ""),
    ),
    "closest_vehicle": LabelRule(
        {"objects/type": tf.int64, "objects/location": tf.float32},
        closest_vehicle,
        _distances(_KITTI_DISTANCES, " m", "no vehicle"),
    ),
    "x_position": LabelRule(
        {"label_x_position": tf.int64},
        x_position,
        tuple(f"{2 * n} to {2 * n + 1}" for n in range(16)),
    ),
    "orientation": LabelRule(
        {"label_orientation": tf.int64},
        orientation,
        tuple(f"{-(-5 * n // 2)} to {-(-5 * (n + 1) // 2) - 1}" for n in range(16)),
    ),
}
