"""What importing the package loads, and that its imports run one way."""

import ast
import pathlib
import subprocess
import sys

import pytest

HEAVY = ("flax", "grain", "orbax", "tensorflow_datasets", "matplotlib", "torch", "rich", "tensorstore", "PIL", "optax")

# From the lowest to the highest; a module imports only what stands before it. The package itself is the kernel's top.
ORDER = (
  "types",
  "version",
  "masking",
  "order",
  "scores",
  "validation",
  "search",
  "local_search",
  "backselect",
  "forward",
  "subsets",
  "minimise",
  "collection",
  "certify",
  "curves",
  "attribution_methods",
  "attribution",
  "__init__",
  "config",
  "find_config",
  "progress",
  "interrupts",
  "devices",
  "workers",
  "provenance",
  "metrics",
  "intervals",
  "estimates",
  "matching",
  "positions",
  "removal",
  "fills",
  "leak_views",
  "leak_controls",
  "wrong_class",
  "control_tables",
  "classifiers",
  "state_dicts",
  "torch_weights",
  "checkpoint",
  "data",
  "cifar_archives",
  "prepare",
  "corruptions",
  "cifar_c",
  "training_data",
  "storage",
  "fields",
  "json_lines",
  "run_spec",
  "arrays",
  "results",
  "run_masks",
  "pixel_subsets",
  "predictions",
  "metrics_log",
  "summary",
  "subset_sizes",
  "overlap",
  "analysis",
  "comparison",
  "page",
  "records",
  "figures",
  "study_panels",
  "study_figures",
  "study_tables",
  "control_figure",
  "control_report",
  "invariants",
  "image_search",
  "job",
  "image_set",
  "gallery",
  "status",
  "study",
  "attribution_figure",
  "attribution_report",
  "attribution_study",
  "disjoint_figure",
  "disjoint_report",
  "disjoint",
  "authors_layout",
  "export",
  "make_checkpoint",
  "train_step",
  "train",
  "plan",
  "find",
  "verify",
  "controls",
  "run_report",
  "evaluation_report",
  "evaluate",
  "reproduction",
  "bench",
  "arguments",
  "cli",
  "__main__",
)


def room_of(path: pathlib.Path, package: pathlib.Path) -> str:
  """The module, or the folder of the package, that a file belongs to."""
  return path.relative_to(package).with_suffix("").parts[0]


def rooms(package: pathlib.Path) -> set[str]:
  return {room_of(path, package) for path in package.rglob("*.py")}


def imported_rooms(path: pathlib.Path, package: pathlib.Path) -> set[str]:
  """The rooms of the package that a file imports, at its top or inside a function."""
  found = set()
  names = rooms(package)
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: imports are absolute here"
      module = node.module or ""
      modules = [f"{module}.{alias.name}" for alias in node.names] if module == package.name else [module]
    else:
      continue
    for module in modules:
      if module.split(".")[0] == package.name:
        parts = module.split(".")[1:]
        found.add(parts[0] if parts and parts[0] in names else "__init__")
  return found


def test_importing_the_package_loads_no_heavy_library(repository: pathlib.Path):
  script = "import sys, jax_sis; print(jax_sis.__file__); print(*sorted({name.split('.')[0] for name in sys.modules}))"
  result = subprocess.run(
    [sys.executable, "-c", script], cwd=repository, check=True, capture_output=True, text=True, timeout=120
  )
  file, modules = result.stdout.strip().splitlines()
  assert pathlib.Path(file).parent == repository / "jax_sis"
  assert {"jax", "numpy", "jaxtyping"} <= set(modules.split())
  assert set(modules.split()) & set(HEAVY) == set()


def test_every_module_has_its_place_in_the_order(repository: pathlib.Path):
  assert rooms(repository / "jax_sis") - set(ORDER) == set()


def test_no_import_runs_up(repository: pathlib.Path):
  package = repository / "jax_sis"
  wrong = []
  num_arrows = 0
  for path in sorted(package.rglob("*.py")):
    room = room_of(path, package)
    for imported in imported_rooms(path, package):
      num_arrows += 1
      is_inside = imported == room and path.parent != package
      if not is_inside and ORDER.index(imported) >= ORDER.index(room):
        wrong.append(f"{path.relative_to(package)} imports {imported}")
  assert wrong == []
  assert num_arrows > 20


@pytest.mark.parametrize("name", [name for name in ORDER[: ORDER.index("__init__")]])
def test_the_kernel_imports_only_jax_numpy_jaxtyping_and_the_standard_library(repository: pathlib.Path, name: str):
  allowed = {"jax", "numpy", "jaxtyping", "jax_sis"} | set(sys.stdlib_module_names)
  for node in ast.walk(ast.parse((repository / f"jax_sis/{name}.py").read_text())):
    modules = []
    if isinstance(node, ast.Import):
      modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      modules = [node.module or ""]
    assert {module.split(".")[0] for module in modules} <= allowed
