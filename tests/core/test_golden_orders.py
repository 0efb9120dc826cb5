"""The authors' own results and the published accuracy, on real weights and images (from the shared folder)."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_sis
from jax_sis.classifiers import frozen
from jax_sis.data.normalisation import Normalisation

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("allow_rank_promotion")]

ARE_NETWORKS_LARGE = True
# The published network's own, see shared/README.md.
NORMALISATION = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
NUM_FEATURES = 32 * 32


# Unchecked, since under pmap the fields of the result have one axis more.
@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("per_step", [16, 1])
def test_orders_are_those_of_the_authors_code_in_float64(
  per_step: int, shared_dir: pathlib.Path, published_module: Any, cifar_test: tuple[np.ndarray, np.ndarray]
):
  golden = np.load(shared_dir / f"data/golden/gradient_k{per_step}.npz")
  assert golden["pixels_per_step"] == per_step
  num_images = len(golden["test_index"])
  with jax.enable_x64(True):
    # Folded in float64, as float32 folding would move the logits by more than the golden arrays allow.
    module = jax.tree.map(lambda array: jnp.asarray(array, jnp.float64), published_module)
    predict_fn, network = frozen.freeze(module)
    inputs = NORMALISATION.apply(cifar_test[0][golden["test_index"]], np.float64)

    def predict_scaled(params: Any, inputs: Any) -> Any:
      """Logits scaled down, so that no probability saturates and rounding decides nothing."""
      network, logit_scale = params
      return predict_fn(network, inputs) * logit_scale

    def run(params: Any, batch: Any) -> jax_sis.FeatureOrder:
      return jax_sis.backselect(
        predict_scaled, params, batch, search=jax_sis.Gradient(per_step=per_step), score="probability"
      )

    order = jax.pmap(run, in_axes=(None, 0))(
      (network, jnp.asarray(golden["logit_scale"])), inputs.reshape(8, num_images // 8, 32, 32, 3)
    )
    rank, confidence, target, finite = (
      np.asarray(array).reshape(num_images, *array.shape[2:])
      for array in (order.rank, order.confidence, order.target, order.finite)
    )
  assert confidence.dtype == np.float64
  assert finite.all()
  np.testing.assert_array_equal(target, golden["target"])
  removed_at_step = ((NUM_FEATURES - 1 - rank) // per_step).reshape(num_images, 32, 32)
  np.testing.assert_array_equal(removed_at_step, golden["removed_at_step"])
  np.testing.assert_allclose(confidence[:, ::-1][:, :-1], golden["confidence_before_step"], rtol=0, atol=1e-9)
  np.testing.assert_allclose(confidence[:, -1], golden["full_confidence"], rtol=0, atol=1e-9)


def test_the_published_network_classifies_9173_of_the_10000_test_images(
  published_classifier: tuple[Any, Any], cifar_test: tuple[np.ndarray, np.ndarray]
):
  predict_fn, params = published_classifier
  images, labels = cifar_test
  assert images.shape == (10_000, 32, 32, 3)
  compiled = jax.jit(lambda params, inputs: predict_fn(params, inputs).argmax(-1))
  predicted = [
    np.asarray(compiled(params, NORMALISATION.apply(images[start : start + 500])))
    for start in range(0, len(images), 500)
  ]
  assert (np.concatenate(predicted) == labels).sum() == 9_173
