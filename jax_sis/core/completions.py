"""Completions: what masked features show, a constant or a distribution.

A subset S of an image x is judged by what the classifier says of x on S and of a draw z elsewhere. Draws are fresh at
every mask that a search comes to, and common to all candidates that it tries from there. They are keyed by the image's
key and the mask, so that they depend neither on the batch nor on the device nor on what was computed before.

Names in the literature: baseline sufficiency (a constant), probabilistic or delta-relevant sufficiency (a distribution;
Waeldchen et al. 2021), and stability (`Reveal`: true features may come in).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jax_sis.core import masking
from jax_sis.core.features import Features
from jax_sis.core.validation import check_kind, check_positive_integer

__all__ = ["Blur", "Constant", "Distribution", "Images", "Mixture", "Noise", "OwnMean", "Reveal"]

# Over the draws, the geometric or the arithmetic mean of the probabilities, the worst draw, or the draw at a quantile.
Aggregate = Literal["geometric", "mean", "min"] | float
DrawFn = Callable[[Key[Array, ""], Float[Array, "..."]], Float[Array, "..."]]


@dataclasses.dataclass(frozen=True)
class Distribution:
  """What masked features may show, drawn from again and again.

  Attributes:
    num_draws: draws at each mask.
    aggregate: what is kept up over the draws: the "geometric" mean of the probabilities, to which every draw has its
      say however sure or lost it is, their "mean", the "min", which is the worst draw's, or that of the draw at a
      quantile, a number strictly between 0 and 1. Confidences and thresholds are about the same, but for "geometric"
      about the mean: the geometric one is high where other classes win on some draws each.
    num_tried: of those draws, how many each candidate is tried on; all by default. What seems best on them is confirmed
      on `num_draws` fresh ones where it decides.

  Examples:
    >>> import jax_sis
    >>> noise = jax_sis.completions.Noise(num_draws=64, aggregate="min")
    >>> isinstance(noise, jax_sis.completions.Distribution), noise.num_draws
    (True, 64)
  """

  num_draws: int = dataclasses.field(default=32, kw_only=True, metadata={"static": True})
  aggregate: Aggregate = dataclasses.field(default="geometric", kw_only=True, metadata={"static": True})
  num_tried: int | None = dataclasses.field(default=None, kw_only=True, metadata={"static": True})

  def __post_init__(self) -> None:
    name = type(self).__name__
    check_positive_integer(f"{name}.num_draws", self.num_draws)
    is_quantile = isinstance(self.aggregate, float) and 0 < self.aggregate < 1
    if not is_quantile and self.aggregate not in ("geometric", "mean", "min"):
      raise ValueError(
        f'{name}.aggregate must be "geometric", "mean", "min" or a quantile strictly between 0 and 1, '
        f"got {self.aggregate!r}."
      )
    if self.num_tried is not None:
      check_positive_integer(f"{name}.num_tried", self.num_tried)
      if self.num_tried > self.num_draws:
        raise ValueError(f"{name}.num_tried must be at most num_draws, {self.num_draws}, got {self.num_tried}.")

  @property
  def judged_by(self) -> Aggregate:
    """What confidences are of."""
    return "mean" if self.aggregate == "geometric" else self.aggregate

  def draw(self, key: Key[Array, ""], image: Float[Array, "..."], features: Features) -> Float[Array, "..."]:
    """What one image shows once where it is masked, in the image's shape; its features are those of one image."""
    raise NotImplementedError

  def check(self, inputs: Float[Array, "B ..."]) -> "Distribution":
    """The same with arrays as the kernel takes them; ValueError where they do not fit the inputs."""
    return self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Constant:
  """The same for all draws: a number, or an array that broadcasts against the inputs. `baseline=` is its short form.

  Examples:
    >>> import jax_sis
    >>> jax_sis.completions.Constant(0.5)
    Constant(value=0.5)
  """

  value: Any = 0.0

  def draw(self, key: Key[Array, ""], image: Float[Array, "..."], features: Features) -> Float[Array, "..."]:
    """As a part of `Mixture` and `Reveal`."""
    del key, features
    return jnp.broadcast_to(jnp.asarray(self.value, image.dtype), image.shape)

  def as_baseline(self, inputs: Float[Array, "B ..."]) -> Any:
    """What `baseline=` would be given."""
    del inputs
    return self.value


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OwnMean:
  """The mean colour of the image itself: one constant an image.

  Examples:
    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> images = jnp.array([1.0, 2.0, 6.0]).reshape(1, 1, 3, 1)
    >>> jax_sis.completions.OwnMean().as_baseline(images).ravel().tolist()
    [3.0]
  """

  def draw(self, key: Key[Array, ""], image: Float[Array, "..."], features: Features) -> Float[Array, "..."]:
    """As a part of `Mixture` and `Reveal`."""
    del key, features
    return jnp.broadcast_to(self.as_baseline(image[None])[0], image.shape)

  def as_baseline(self, inputs: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """The mean over all positions of each channel."""
    return inputs.mean(tuple(range(1, max(inputs.ndim - 1, 2))), keepdims=True)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Blur(Distribution):
  """The image itself, blurred by a Gaussian.

  Attributes:
    sigma: its standard deviation in pixels. One number is a constant of each image; of two, `(low, high)`, a draw takes
      any between them, evenly in their logarithm.

  Examples:
    A point of light, blurred by one pixel, in per cent:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> image = jnp.array([0.0, 0.0, 1.0, 0.0, 0.0]).reshape(1, 1, 5, 1)
    >>> blurred = jax_sis.completions.Blur(1.0).as_baseline(image)
    >>> (100 * blurred).round().astype(int).ravel().tolist()
    [8, 26, 40, 26, 8]
  """

  sigma: float | tuple[float, float] = dataclasses.field(default=(1.0, 8.0), metadata={"static": True})

  def __post_init__(self) -> None:
    super().__post_init__()
    low, high = self.limits
    if not 0 < low <= high < np.inf:
      raise ValueError(f"Blur.sigma must be positive, or two of which the second is larger, got {self.sigma!r}.")

  @property
  def limits(self) -> tuple[float, float]:
    """The smallest and the largest sigma."""
    return self.sigma if isinstance(self.sigma, tuple) else (self.sigma, self.sigma)

  def draw(self, key: Key[Array, ""], image: Float[Array, "..."], features: Features) -> Float[Array, "..."]:
    """The image, blurred by one sigma of those possible."""
    del features
    low, high = np.log(self.limits)
    return blur(image, jnp.exp(jax.random.uniform(key, minval=low, maxval=high)))

  def as_baseline(self, inputs: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """Each input blurred by the one sigma."""
    return jax.vmap(blur, in_axes=(0, None))(inputs, jnp.asarray(self.limits[0]))

  def check(self, inputs: Float[Array, "B ..."]) -> "Blur":
    """Raises ValueError unless the inputs are images `[B, H, W, C]`."""
    if inputs.ndim != 4:
      raise ValueError(f"Blur is for images [B, H, W, C], got inputs of shape {inputs.shape}.")
    return self


def blur(image: Float[Array, "H W C"], sigma: Float[Array, ""]) -> Float[Array, "H W C"]:
  """The image under a Gaussian, whose weights outside of the image are shared out among those inside."""

  def weights(length: int) -> Float[Array, "L L"]:
    places = jnp.arange(length, dtype=image.dtype)
    bells = jnp.exp(-((places[:, None] - places[None]) ** 2) / (2 * sigma.astype(image.dtype) ** 2))
    return bells / bells.sum(1, keepdims=True)

  return jnp.einsum("hi,wj,ijc->hwc", weights(image.shape[0]), weights(image.shape[1]), image)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Images(Distribution):
  """Other images as background, drawn with replacement from a pool. An image is never its own background.

  Attributes:
    pool: `[P, ...]`, or a sequence of P images, normalised as the inputs are.

  Examples:
    On what share of a pool's 32 images in the place of the others the class is predicted, with 0 to 3 features kept:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    >>> others = jax_sis.completions.Images(jnp.full((32, 3), -1.0).at[:, 1].set(jnp.linspace(-3, 3, 32)))
    >>> order = jax_sis.backselect(predict_fn, weights, jnp.ones((1, 3)), completion=others)
    >>> order.rank.tolist(), order.rate.shape
    ([[0, 2, 1]], (1, 4))
  """

  pool: Any = dataclasses.field(default=None)

  def draw(self, key: Key[Array, ""], image: Float[Array, "..."], features: Features) -> Float[Array, "..."]:
    """One of the pool that is not the image itself, each as likely as any other."""
    del features
    first_key, second_key = jax.random.split(key)
    size = self.pool.shape[0]
    first = jax.random.randint(first_key, (), 0, size)
    other = jax.random.randint(second_key, (), 0, size - 1)
    other = other + (other >= first).astype(other.dtype)
    is_own = (self.pool[first] == image).all()
    return self.pool[jnp.where(is_own, other, first)]

  def check(self, inputs: Float[Array, "B ..."]) -> "Images":
    """The pool as an array of the inputs' dtype; ValueError unless it holds images like them, and enough of them."""
    if self.pool is None:
      raise ValueError("Images.pool must be given: other images [P, ...], normalised as the inputs are.")
    pool = self.pool if hasattr(self.pool, "shape") else np.stack([np.asarray(image) for image in self.pool])
    if pool.shape[1:] != inputs.shape[1:] or not jnp.issubdtype(pool.dtype, jnp.floating):
      raise ValueError(
        f"Images.pool must hold normalised images like the inputs, [P, {', '.join(map(str, inputs.shape[1:]))}] and "
        f"floating point, got {pool.dtype}{list(pool.shape)}."
      )
    if pool.shape[0] < max(self.num_draws, 2):
      raise ValueError(
        f"Images.pool must hold at least as many images as there are draws, {max(self.num_draws, 2)}, "
        f"got {pool.shape[0]}; give more images, or fewer num_draws."
      )
    return dataclasses.replace(self, pool=jnp.asarray(pool, inputs.dtype))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Noise(Distribution):
  """Independent normal noise in every number of the image.

  Attributes:
    scale: its standard deviation, in units of the normalised inputs, where 1 is about that of the data.
    mean: around what; a number, or an array that broadcasts against one input.

  Examples:
    Where the others show 0, one feature is enough for 95 %. Where they show noise, all three are needed:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights, noise = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), jax_sis.completions.Noise()
    >>> order = jax_sis.backselect(predict_fn, weights, jnp.ones((1, 3)), completion=noise)
    >>> jax_sis.sufficient_subsets(order, 0.95).num_kept.tolist()
    [3]
  """

  scale: Any = 1.0
  mean: Any = 0.0

  def draw(self, key: Key[Array, ""], image: Float[Array, "..."], features: Features) -> Float[Array, "..."]:
    """One such image."""
    del features
    noise = jax.random.normal(key, image.shape, image.dtype)
    return jnp.asarray(self.mean, image.dtype) + jnp.asarray(self.scale, image.dtype) * noise


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reveal(Distribution):
  """Some masked features show their true value after all, the others what `other` shows.

  A subset that suffices under it is stable: true features that come in do not take the class away.

  Attributes:
    probability: of each masked feature to be shown. Of two, `(low, high)`, a draw takes any between them.
    other: what is shown elsewhere.

  Examples:
    The second feature speaks against the class, so that one feature is not enough where others may come in:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights, half = jnp.array([[5.0, 0.0], [-4.0, 0.0], [5.0, 0.0]]), jax_sis.completions.Reveal(0.5)
    >>> order = jax_sis.backselect(predict_fn, weights, jnp.ones((1, 3)), completion=half)
    >>> jax_sis.sufficient_subsets(order, 0.95).mask.tolist()
    [[True, False, True]]
  """

  probability: float | tuple[float, float] = dataclasses.field(default=(0.0, 0.1), metadata={"static": True})
  other: Any = Constant()

  def __post_init__(self) -> None:
    super().__post_init__()
    low, high = self.limits
    if not 0 <= low <= high <= 1:
      raise ValueError(
        f"Reveal.probability must lie in 0..1, or be two of which the second is larger, got {self.probability!r}."
      )

  @property
  def limits(self) -> tuple[float, float]:
    """The smallest and the largest probability."""
    return self.probability if isinstance(self.probability, tuple) else (self.probability, self.probability)

  def draw(self, key: Key[Array, ""], image: Float[Array, "..."], features: Features) -> Float[Array, "..."]:
    """One draw of `other`, with some features of the image in it."""
    other_key, probability_key, key = jax.random.split(key, 3)
    low, high = self.limits
    probability = jax.random.uniform(probability_key, minval=low, maxval=high)
    is_shown = jax.random.bernoulli(key, probability, (1, masking.num_features(features.shape)))
    drawn = self.other.draw(other_key, image, features)
    return features.choose(image, is_shown, drawn)

  def check(self, inputs: Float[Array, "B ..."]) -> "Reveal":
    """With `other` checked."""
    return dataclasses.replace(self, other=check_part("Reveal.other", self.other, inputs))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mixture(Distribution):
  """A draw is one of several completions'.

  Attributes:
    parts: the completions.
    weights: how often each is drawn, in any unit; all alike by default.

  Examples:
    A quarter of the draws are noise, the others zeros:

    >>> import jax_sis
    >>> noise, zeros = jax_sis.completions.Noise(), jax_sis.completions.Constant(0.0)
    >>> jax_sis.completions.Mixture((noise, zeros), weights=(1, 3)).weights
    (1, 3)
  """

  parts: tuple[Any, ...] = ()
  weights: tuple[float, ...] | None = dataclasses.field(default=None, metadata={"static": True})

  def __post_init__(self) -> None:
    super().__post_init__()
    weights = self.weights
    if weights is not None and (len(weights) != len(self.parts) or min(weights, default=0) <= 0):
      raise ValueError(f"Mixture.weights must be one positive number for each of the parts, got {weights!r}.")

  def draw(self, key: Key[Array, ""], image: Float[Array, "..."], features: Features) -> Float[Array, "..."]:
    """One draw of one part."""
    part_key, key = jax.random.split(key)
    weights = self.weights or (1.0,) * len(self.parts)
    number = jax.random.categorical(part_key, jnp.log(jnp.asarray(weights)))
    return jax.lax.select_n(number, *(part.draw(key, image, features) for part in self.parts))

  def check(self, inputs: Float[Array, "B ..."]) -> "Mixture":
    """With its parts checked."""
    if not self.parts:
      raise ValueError("Mixture.parts must hold at least one completion, got none.")
    parts = tuple(check_part(f"Mixture.parts[{number}]", part, inputs) for number, part in enumerate(self.parts))
    return dataclasses.replace(self, parts=parts)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Drawn(Distribution):
  """A function of one's own: `(key, image) -> what it shows where it is masked`, pure, in the image's shape."""

  draw_fn: DrawFn | None = dataclasses.field(default=None, metadata={"static": True})

  def draw(self, key: Key[Array, ""], image: Float[Array, "..."], features: Features) -> Float[Array, "..."]:
    """What the function returns."""
    del features
    assert self.draw_fn is not None
    return self.draw_fn(key, image)


Completion = Constant | OwnMean | Distribution | DrawFn
KINDS = "Constant, OwnMean, Blur, Images, Noise, Reveal, Mixture, or a function (key, image) -> image"


def check_part(name: str, part: Any, inputs: Float[Array, "B ..."]) -> Any:
  """A completion that the kernel can draw from.

  Raises:
    ValueError: it is none, or does not fit the inputs.
  """
  if callable(part) and not isinstance(part, type):
    function: Any = part
    part = Drawn(draw_fn=function)
  check_kind(name, part, Constant | OwnMean | Distribution, KINDS)
  return part.check(inputs) if isinstance(part, Distribution) else part
