"""The plan of the package: one subject a folder, and imports that run one way."""

import ast
import pathlib
import subprocess
import sys

import pytest

import jax_sis

PACKAGE = pathlib.Path(jax_sis.__file__).parent
# From the ground up. A folder imports folders of lower floors only, and none of its own floor.
FLOORS = (
  ("version", "core", "statistics", "display"),
  ("__init__",),
  ("runtime",),
  ("data",),
  ("classifiers", "results"),
  ("training", "evaluation", "runs"),
  ("studies",),
  ("report",),
  ("reproduction",),
  ("cli",),
  ("__main__",),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
HEAVY = ("flax", "grain", "orbax", "tensorflow_datasets", "matplotlib", "torch", "rich", "tensorstore", "PIL", "optax")


def name_of(path: pathlib.Path) -> str:
  """The dotted name of a module, below the package."""
  parts = path.relative_to(PACKAGE).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


# What lies in assets is data: the recipes there too, which Python finds as modules in an installed package only.
MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py")) if "assets" not in path.parts}


def imports_of(path: pathlib.Path) -> set[str]:
  """The modules of the package that a file imports, at its top or inside a function."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      assert not any(alias.name.startswith("jax_sis.") for alias in node.names), f"{path}: import names from modules"
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: imports are absolute here"
      base, _, rest = (node.module or "").partition(".")
      if base == "jax_sis":
        names = [f"{rest}.{alias.name}".strip(".") for alias in node.names]
        found |= {name if name in MODULES else rest or "__init__" for name in names}
  return found


def room_of(module: str) -> str:
  """The folder at the top of the package, or the module there."""
  return module.partition(".")[0]


ARROWS = [(module, imported) for module, path in MODULES.items() for imported in imports_of(path)]


def test_no_import_runs_up():
  assert {room_of(module) for module in MODULES} == set(FLOOR_OF)
  wrong = [
    f"{module} imports {imported}"
    for module, imported in ARROWS
    if room_of(module) != room_of(imported) and FLOOR_OF[room_of(imported)] >= FLOOR_OF[room_of(module)]
  ]
  assert wrong == []


def test_no_study_imports_another():
  between = [
    f"{module} imports {imported}"
    for module, imported in ARROWS
    if module.startswith("studies.") and imported.startswith("studies.")
    if module.split(".")[1] != imported.split(".")[1]
  ]
  assert between == []


def test_few_arrows_run_between_rooms_and_many_stay_inside():
  between = {
    (room_of(module), room_of(imported)) for module, imported in ARROWS if room_of(module) != room_of(imported)
  }
  folder_of = {module: str(path.parent) for module, path in MODULES.items()}
  num_inside = sum(folder_of[module] == folder_of[imported] for module, imported in ARROWS)
  assert len({room_of(module) for module in MODULES}) <= 17
  assert 20 < len(between) <= 80
  assert num_inside / len(ARROWS) >= 0.4


def test_no_modules_import_each_other_in_a_circle():
  left = {module: {name for start, name in ARROWS if start == module} for module in MODULES}
  while ready := [module for module, imported in left.items() if not imported & left.keys() - {module}]:
    for module in ready:
      del left[module]
  assert sorted(left) == []


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=lambda path: path.stem)
def test_the_method_imports_only_jax_numpy_jaxtyping_and_the_standard_library(path: pathlib.Path):
  allowed = {"jax", "numpy", "jaxtyping", "jax_sis"} | set(sys.stdlib_module_names)
  for node in ast.walk(ast.parse(path.read_text())):
    modules = []
    if isinstance(node, ast.Import):
      modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      modules = [node.module or ""]
    assert {module.split(".")[0] for module in modules} <= allowed


def test_one_file_says_how_a_program_runs_on_all_devices():
  users = {
    module
    for module, path in MODULES.items()
    for node in ast.walk(ast.parse(path.read_text()))
    if (isinstance(node, ast.Attribute) and node.attr == "pmap")
    or (isinstance(node, ast.alias) and node.name == "pmap")
  }
  assert users == {"runtime.device_program"}


def test_importing_the_package_loads_no_heavy_library_and_shows_public_names_only():
  script = (
    "import sys, jax_sis; print(jax_sis.__file__); print(*dir(jax_sis)); "
    "print(callable(jax_sis.backselect) and callable(jax_sis.show)); "
    "print(*sorted({name.split('.')[0] for name in sys.modules}))"
  )
  result = subprocess.run(
    [sys.executable, "-c", script], cwd=PACKAGE.parent, check=True, capture_output=True, text=True, timeout=120
  )
  file, names, is_callable, modules = result.stdout.strip().splitlines()
  assert pathlib.Path(file).parent == PACKAGE
  assert {"jax", "numpy", "jaxtyping"} <= set(modules.split())
  assert set(modules.split()) & set(HEAVY) == set()
  assert is_callable == "True"
  assert "backselect" in names.split()
  assert [name for name in names.split() if name.startswith("_")] == ["__version__"]
  assert set(names.split()) & {"core", "annotations", "version"} == set()
