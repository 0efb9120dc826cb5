"""Settings that every test runs under, and the fixtures that several files share."""

import fcntl
import importlib.metadata
import logging
import os
import pathlib
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  # Every program is compiled once a session, also in the processes that tests start, which inherit the environment.
  # JAX reads it when it is imported.
  _compiled = tempfile.TemporaryDirectory(prefix="jax_sis_tests_")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# A flag that another jaxlib may not know would end every process.
if (0, 8) <= tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) <= (0, 10):
  # Most of the tests' time is the compiler's, and most of that goes into making programs fast that run once. Without, a
  # search compiles in two thirds of the time and random numbers in a sixth; a ResNet-20 gives the same bits as quickly.
  # Processes that tests start inherit this.
  _flags = os.environ.get("XLA_FLAGS", "")
  if "xla_backend_optimization_level" not in _flags:
    _flags += " --xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = _flags.strip()

import jax
import jaxtyping
import numpy as np

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# The kernel, and the edges whose annotations beartype can check. The hook is not laid over the whole package, since it
# decorates methods and not classes, and so knows no `typing.Self`.
TYPE_CHECKED = ("jax_sis.core", "jax_sis.classifiers")

jaxtyping.install_import_hook(TYPE_CHECKED, "beartype.beartype")

# Files take up to some 10,000.
MANY_MAPPINGS = 25_000
WEIGHTS_FILE = "data/weights/resnet20-12fca82f.th"

MakeOnce = Callable[[str, Callable[[pathlib.Path], object]], pathlib.Path]


@pytest.fixture(scope="module", autouse=True)
def forgotten_programs() -> Iterator[None]:
  """Lets go of compiled programs where a file leaves many.

  Each keeps memory mappings, of which Linux gives a process 65,530 by default: beyond them XLA ends with a
  segmentation fault. The cache on disk keeps them.
  """
  yield
  mappings = pathlib.Path("/proc/self/maps")
  if not mappings.exists() or mappings.read_text().count("\n") > MANY_MAPPINGS:
    jax.clear_caches()


@pytest.fixture(scope="session")
def repository() -> pathlib.Path:
  """The root of the checkout."""
  return pathlib.Path(__file__).parents[1].absolute()


@pytest.fixture(scope="session")
def shared_dir(pytestconfig: pytest.Config) -> pathlib.Path:
  """The data, weights and golden arrays beside the checkout; without them a test skips.

  Where JAX_SIS_REQUIRE_SHARED=1 is set, it fails instead.
  """
  path = pytestconfig.rootpath.parent / "shared"
  if not path.is_dir():
    reason = f"needs the read-only material in {path}, which is not there"
    if os.environ.get("JAX_SIS_REQUIRE_SHARED") == "1":
      pytest.fail(reason)
    pytest.skip(reason)
  return path


@pytest.fixture(scope="session")
def published_module(shared_dir: pathlib.Path) -> Any:
  """The published ResNet-20, trainable form, in evaluation mode."""
  from jax_sis.classifiers import state_dicts, torch_weights

  with jax.numpy_rank_promotion("allow"):
    return torch_weights.load_module("resnet20", state_dicts.read_state_dict(shared_dir / WEIGHTS_FILE))


@pytest.fixture(scope="session")
def published_classifier(published_module: Any) -> tuple[Any, Any]:
  """The published ResNet-20, frozen: `(predict_fn, params)`."""
  from jax_sis.classifiers import frozen

  with jax.numpy_rank_promotion("allow"):
    return frozen.freeze(published_module)


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> MakeOnce:
  """Lets the process that first asks for a folder of this name make it, and gives it to all processes."""
  own = tmp_path_factory.getbasetemp()
  base = own if worker_id == "master" else own.parent

  def make(name: str, make_fn: Callable[[pathlib.Path], object]) -> pathlib.Path:
    path, is_made = base / name, base / f"{name}.made"
    with (base / f"{name}.lock").open("w") as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      if not is_made.exists():
        make_fn(path)
        is_made.touch()
    return path

  return make


@pytest.fixture(scope="session")
def tiny_checkpoint(make_once: MakeOnce) -> str:
  """The folder of the tiny classifier."""
  import tiny_classifier

  tiny_classifier.register()
  with jax.numpy_rank_promotion("allow"):
    return str(make_once("tiny", tiny_classifier.save))


@pytest.fixture(scope="session")
def tiny_run(tiny_checkpoint: str, make_once: MakeOnce) -> pathlib.Path:
  """The folder of a finished run of `find` on the tiny classifier and the sample, in five units of 24 images.

  It holds both kinds of subset, orders and masks. A test that changes it takes a copy.
  """
  from tiny_runs import find_tiny

  return make_once("tiny_run", lambda out: find_tiny(out, tiny_checkpoint))


@pytest.fixture(scope="session")
def tiny_half_run(tiny_checkpoint: str, make_once: MakeOnce) -> pathlib.Path:
  """The folder of the first of two parts of another, in eight units, that removes three squares a step."""
  from tiny_runs import GRADIENT, find_tiny

  from jax_sis import Gradient
  from jax_sis.runs.shards import Shard

  options = {**GRADIENT, "search": Gradient(per_step=3), "batch_size": 3, "saved": "order"}
  options |= {"mask_thresholds": (), "mask_fractions": ()}
  return make_once("tiny_half_run", lambda out: find_tiny(out, tiny_checkpoint, shard=Shard(0, 2), **options))


@pytest.fixture(scope="session")
def cifar_test(shared_dir: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  """The CIFAR-10 test split ordered by id: pixels `[10000, 32, 32, 3]` in 0..255, labels `[10000]`."""
  from jax_sis.data import training_sets

  training_set: Any = training_sets.open_training_set(
    "cifar10", "test", data_dir=shared_dir / "data/tfds", image_size=None, on_error="refuse"
  )
  return training_set.images, training_set.labels


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
  """The location of a bucket on a server on this machine, and in the environment what it is opened with."""
  server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
  logging.getLogger("werkzeug").setLevel(logging.ERROR)
  server.start()
  host, port = server.get_host_and_port()
  urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/bucket", method="PUT")).close()
  with pytest.MonkeyPatch.context() as environment:
    environment.setenv("AWS_ACCESS_KEY_ID", "test")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
    yield f"s3+http://{host}:{port}/bucket"
  server.stop()


@pytest.fixture(scope="session")
def gcs_bucket() -> Iterator[str]:
  """The same, of one that speaks Google's language."""
  from fake_gcs import FakeGcs

  with FakeGcs("bucket") as server, pytest.MonkeyPatch.context() as environment:
    environment.setenv("TENSORSTORE_GCS_HTTP_URL", server.url)
    environment.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "test")
    yield "gs://bucket"


@pytest.fixture
def pytorch_names(monkeypatch: pytest.MonkeyPatch) -> None:
  """Lets us write what refers to PyTorch."""
  import fake_torch

  fake_torch.install(monkeypatch)


@pytest.fixture
def allow_rank_promotion() -> Iterator[None]:
  """For networks: a bias is added to the last axis, whatever comes before it."""
  with jax.numpy_rank_promotion("allow"):
    yield


@pytest.fixture
def without_type_checks() -> Iterator[None]:
  """Runs the library as a user does, who sees our error messages and not those of beartype."""
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)
