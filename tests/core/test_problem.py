"""The checked problem as a pytree, and the one place in which inputs are masked."""

import ast
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

import jax_sis
from jax_sis.core.problem import Problem, check_answered, check_problem, make_problem

PACKAGE = pathlib.Path(jax_sis.__file__).parent


def problem_of(images: Any, params: Any, **arguments: Any) -> Problem:
  """On the tanh toy, with a baseline that is not zero."""
  defaults = {"baseline": 0.5, "grid": None, "available": None, "score": "probability"}
  return check_problem(toys.predict_tanh, params, images, None, **{**defaults, **arguments})


def test_inputs_are_masked_in_one_place():
  calls = [
    path.relative_to(PACKAGE).as_posix()
    for path in PACKAGE.rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "mask_inputs"
  ]
  assert calls == ["core/features.py"]


def test_arrays_are_leaves_and_the_rest_is_static():
  images, params = toys.images_and_params(1)
  problem = problem_of(images, params)
  assert len(jax.tree.leaves(problem)) == len(jax.tree.leaves(params)) + 4
  other = problem_of(images + 1, params)
  assert jax.tree.structure(problem) == jax.tree.structure(other)
  assert hash(jax.tree.structure(problem)) == hash(jax.tree.structure(other))
  assert jax.tree.structure(problem) != jax.tree.structure(problem.in_log_odds())


def test_masked_variants_are_scored_as_each_alone_under_jit_too():
  images, params = toys.images_and_params(2)
  problem = problem_of(images, params)
  masks = jnp.asarray(np.random.default_rng(0).random((3, 4, problem.num_features)) < 0.5)
  scores = problem.score_masks(masks)
  for image in range(3):
    for number in range(4):
      kept = np.asarray(masks[image, number]).reshape(4, 3, 1)
      logits = toys.predict_tanh(params, jnp.where(kept, images[image], 0.5)[None])
      expected = jax.nn.softmax(logits)[0, problem.targets[image]]
      np.testing.assert_allclose(scores[image, number], expected, rtol=1e-5)
  np.testing.assert_allclose(jax.jit(Problem.score_masks)(problem, masks), scores, rtol=1e-6)


def test_some_of_the_images_are_a_problem_of_their_own():
  images, params = toys.images_and_params(3)
  problem = problem_of(images, params, available=jnp.arange(36).reshape(3, 12) % 5 > 0)
  some = problem.take(jnp.array([2, 0]))
  np.testing.assert_array_equal(some.inputs, images[np.array([2, 0])])
  np.testing.assert_array_equal(some.targets, problem.targets[np.array([2, 0])])
  np.testing.assert_array_equal(some.available, problem.available[np.array([2, 0])])
  restricted = some.restrict(jnp.array([[True], [False]]))
  np.testing.assert_array_equal(restricted.available, [some.available[0], np.zeros(12, bool)])


def test_a_problem_made_of_known_parts_is_the_checked_one():
  images, params = toys.images_and_params(4)
  checked = problem_of(images, params)
  made = make_problem(
    toys.predict_tanh, params, images, checked.targets, baseline=0.5, grid=checked.grid, score="probability"
  )
  assert jax.tree.structure(made) == jax.tree.structure(checked)
  for ours, theirs in zip(jax.tree.leaves(made), jax.tree.leaves(checked), strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_what_is_found_tells_its_problem():
  images, params = toys.images_and_params(5)
  order = jax_sis.backselect(toys.predict_tanh, params, images, baseline=0.5, score="probability")
  subsets = jax_sis.sufficient_subsets(order, 0.5)
  for answer in (order, subsets):
    problem = check_answered(toys.predict_tanh, params, images, answer)
    assert problem.score == "log_odds"
    assert problem.grid == order.grid
    np.testing.assert_array_equal(problem.baseline, order.baseline)
    np.testing.assert_array_equal(problem.targets, order.target)


def test_a_target_that_is_no_class_of_this_classifier_is_refused():
  images, params = toys.images_and_params(6)
  order = jax_sis.backselect(toys.predict_tanh, params, images, jnp.full(3, 2, jnp.int32))
  _, two_classes = toys.images_and_params(6, num_classes=2)
  with pytest.raises(ValueError, match=r"^targets must lie in 0\.\.1, the classifier's classes, got 2\.$"):
    jax_sis.certify(toys.predict_tanh, two_classes, images, jax_sis.sufficient_subsets(order, 0.5))
