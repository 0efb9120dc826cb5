"""A classifier for processes that tests start and end: each unit takes as long as a variable says, and is counted."""

import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_sis import results
from jax_sis.classifiers import ImageModel, Normalisation
from jax_sis.data.cifar_c import CLASS_NAMES

# `find` on it, with each of the sample's 24 images as a unit.
OPTIONS = (
  *("--model", f"{__file__}:load", "--search", "gradient", "--patch", "8", "--batch", "1", "--unit", "1"),
  *("--certificate", "alone", "--gallery", "0", "--threshold", "0.9"),
)
SECONDS = "JAX_SIS_TEST_SECONDS"
# Where each process says which unit it has computed and begins to store, and who it is.
COMPUTED = "JAX_SIS_TEST_COMPUTED"

write_unit = results.Results.write_unit


def write_slowly(store: results.Results, unit: int, rows: Mapping[str, Any]) -> None:
  """As the store's own."""
  with pathlib.Path(os.environ[COMPUTED]).open("a") as file:
    file.write(f"{unit} {os.getpid()}\n")
  time.sleep(float(os.environ[SECONDS]))
  write_unit(store, unit, rows)


def predict(params: Any, images: Any) -> Any:
  return jnp.tanh(images).reshape(images.shape[0], -1) @ params["kernel"]


def load() -> ImageModel:
  """The classifier; in processes that are told to count, it makes the store slow."""
  if COMPUTED in os.environ:
    slow: Any = write_slowly
    results.Results.write_unit = slow
  return ImageModel(
    predict_fn=predict,
    params={"kernel": 0.05 * np.random.default_rng(0).normal(size=(3072, 10)).astype(np.float32)},
    input_shape=(32, 32, 3),
    normalisation=Normalisation(mean=(0.5, 0.45, 0.4), std=(0.25, 0.25, 0.25)),
    class_names=CLASS_NAMES,
  )
