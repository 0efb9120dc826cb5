"""Spectral clusters of masks (SpRAy, Lapuschkin et al. 2019, of subsets instead of heat maps).

Masks are summed over blocks and given the length 1; the nearest neighbours make a graph; its normalised Laplacian
L = I - D^-1/2 A D^-1/2 has as many small eigenvalues as there are clusters, and k-means tells them apart by the
eigenvectors (von Luxburg 2007).
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.cluster import vq

BLOCKS = 8
NUM_NEIGHBOURS = 10
# The gap is looked for among so many eigenvalues.
NUM_EIGENVALUES = 8
# Of k-means.
NUM_STARTS, NUM_ITERATIONS = 10, 50
# Fewer masks have no neighbours to tell from the others.
MIN_MASKS = 2 * NUM_NEIGHBOURS
# Of the Lanczos iteration: eigenvalues that stand there several times take more vectors than there are eigenvalues.
NUM_LANCZOS = 64
ROWS_AT_ONCE = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clustering:
  """Masks in clusters.

  Attributes:
    labels: the cluster of each mask, the largest cluster first.
    typicality: the cosine between a mask's blocks and the mean of its cluster's.
    eigenvalues: the smallest ones of the Laplacian, ascending.
  """

  labels: Int[np.ndarray, "N"]
  typicality: Float[np.ndarray, "N"]
  eigenvalues: Float[np.ndarray, "E"]

  @property
  def num_clusters(self) -> int:
    return int(self.labels.max()) + 1


def find_clusters(masks: Bool[np.ndarray, "N h w 1"], *, seed: int) -> Clustering:
  """Clusters of masks by where they keep features.

  Args:
    masks: at least MIN_MASKS, none of them empty.
    seed: of the starts of k-means.
  """
  blocks = sum_blocks(masks)
  values, vectors = find_spectrum(join_neighbours(blocks))
  count = count_by_gap(values)
  labels = order_by_size(find_means(vectors[:, :count], count, seed=seed))
  means = np.stack([blocks[labels == label].mean(0) for label in range(labels.max() + 1)])
  means /= np.linalg.norm(means, axis=1, keepdims=True)
  return Clustering(labels=labels, typicality=(blocks * means[labels]).sum(1), eigenvalues=values)


def sum_blocks(masks: Bool[np.ndarray, "N h w 1"]) -> Float[np.ndarray, "N B"]:
  """How many kept features each of 8x8 blocks has (fewer on a smaller grid), as vectors of length 1."""
  rows, columns = (place_in_blocks(length) for length in masks.shape[1:3])
  blocks = np.einsum("ar,nrc,bc->nab", rows, masks[..., 0].astype(np.float64), columns, optimize=True)
  vectors = blocks.reshape(len(masks), -1)
  return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def place_in_blocks(length: int) -> Float[np.ndarray, "b L"]:
  """1 where a row or column of features lies in a block."""
  count = min(BLOCKS, length)
  return (np.arange(length) * count // length == np.arange(count)[:, None]).astype(np.float64)


def join_neighbours(vectors: Float[np.ndarray, "N B"]) -> sparse.csr_array:
  """The graph `(A + A^T) / 2` of each vector's nearest others."""
  count = len(vectors)
  nearest = []
  for start in range(0, count, ROWS_AT_ONCE):
    likeness = vectors[start : start + ROWS_AT_ONCE] @ vectors.T
    np.put_along_axis(likeness, np.arange(start, start + len(likeness))[:, None], -np.inf, axis=1)
    nearest.append(np.argpartition(-likeness, NUM_NEIGHBOURS - 1, axis=1)[:, :NUM_NEIGHBOURS])
  places = np.arange(count).repeat(NUM_NEIGHBOURS), np.concatenate(nearest).ravel()
  one_way = sparse.csr_array((np.ones(len(places[0])), places), shape=(count, count))
  return sparse.csr_array((one_way + one_way.T) / 2)


def find_spectrum(graph: sparse.csr_array) -> tuple[Float[np.ndarray, "E"], Float[np.ndarray, "N E"]]:
  """The smallest eigenvalues of the graph's normalised Laplacian, and their eigenvectors."""
  degree = np.asarray(graph.sum(axis=1)).ravel()
  scale = sparse.diags_array(degree**-0.5)
  # Fixed, so that the same masks have the same clusters.
  start = np.random.default_rng(0).normal(size=len(degree))
  values, vectors = sparse.linalg.eigsh(
    scale @ graph @ scale, k=NUM_EIGENVALUES, which="LA", v0=start, ncv=min(len(degree), NUM_LANCZOS)
  )
  order = np.argsort(-values)
  return 1 - values[order], vectors[:, order]


def count_by_gap(eigenvalues: Float[np.ndarray, "E"]) -> int:
  """How many eigenvalues come before the largest gap."""
  return int(np.diff(eigenvalues).argmax()) + 1


def find_means(points: Float[np.ndarray, "N E"], count: int, *, seed: int) -> Int[np.ndarray, "N"]:
  """k-means: the best of several starts."""
  rng = np.random.default_rng(seed)
  best, least = np.zeros(len(points), int), np.inf
  for _ in range(NUM_STARTS):
    try:
      centres, labels = vq.kmeans2(points, count, iter=NUM_ITERATIONS, minit="++", rng=rng, missing="raise")
    except vq.ClusterError:
      continue
    spread = np.square(points - centres[labels]).sum()
    if spread < least:
      best, least = labels, spread
  return best


def order_by_size(labels: Int[np.ndarray, "N"]) -> Int[np.ndarray, "N"]:
  """The same clusters, numbered from the largest."""
  names, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
  numbers = np.empty(len(names), int)
  numbers[np.argsort(-counts, kind="stable")] = np.arange(len(names))
  return numbers[inverse]
