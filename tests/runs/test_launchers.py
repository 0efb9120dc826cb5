"""The templates in configs/clusters, run where the engine is installed, and read where it is not."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import cluster_model
import pytest
from cluster_runs import NUM_UNITS, WAIT_SECONDS, environ_of, find_straight, num_done, running, same_bytes

from jax_sis.cli.find import COMMANDS
from jax_sis.cli.parsing import parse

# SLURM queues what it starts again only after two minutes.
REQUEUE_SECONDS = 300
SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=64 Gres=gpu:4 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def clusters(repository: pathlib.Path) -> pathlib.Path:
  return repository / "configs/clusters"


@pytest.fixture
def environ(tmp_path: pathlib.Path) -> dict[str, str]:
  """With `jax-sis` where shells look for commands."""
  command = tmp_path / "bin/jax-sis"
  command.parent.mkdir()
  command.write_text(f'#!/bin/sh\nexec {sys.executable} -m jax_sis "$@"\n')
  command.chmod(0o755)
  environ = environ_of(tmp_path / "computed")
  return {**environ, "PATH": f"{command.parent}:{environ['PATH']}"}


def require(package: str, *programs: str) -> None:
  missing = [name for name in programs if shutil.which(name) is None]
  if missing:
    pytest.skip(f"needs Debian's {package}, which is not installed: there is no {missing[0]}")


def await_true(condition_fn: Callable[[], Any], seconds: float = WAIT_SECONDS) -> None:
  end = time.monotonic() + seconds
  while not condition_fn():
    assert time.monotonic() < end
    time.sleep(0.2)


@pytest.fixture
def slurm(tmp_path: pathlib.Path, environ: dict[str, str]) -> Iterator[dict[str, str]]:
  """SLURM on this machine, with four GPUs that are none; the environment in which its commands find it."""
  require("slurm-wlm", "munged", "slurmctld", "slurmd", "sbatch")
  if os.geteuid() != 0:
    pytest.skip("needs root, as slurmd does")
  folder = tmp_path / "slurm"
  for name in ("state", "spool"):
    (folder / name).mkdir(parents=True)
  ports = []
  for _ in range(2):
    with socket.socket() as free:
      free.bind(("127.0.0.1", 0))
      ports.append(free.getsockname()[1])
  host = socket.gethostname()
  conf = folder / "slurm.conf"
  conf.write_text(SLURM_CONF.format(host=host, folder=folder, ports=ports))
  (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File=/dev/tty[1-4]\n")
  key = folder / "key"
  key.write_bytes(os.urandom(1024))
  key.chmod(0o600)
  places = {"socket": "munge.sock", "key-file": "key", "pid-file": "munge.pid", "log-file": "log", "seed-file": "seed"}
  munged = ["munged", "--force", "-F", *(f"--{name}={folder / place}" for name, place in places.items())]
  said = {**environ, "SLURM_CONF": str(conf)}
  daemons = []
  try:
    for command in (munged, ["slurmctld", "-D", "-c"], ["slurmd", "-D"]):
      quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
      daemons.append(subprocess.Popen(command, env=said, **quiet))
      time.sleep(1)
    await_true(lambda: "idle" in run(["sinfo", "-h", "-o", "%T"], said))
    yield said
    run(["scancel", "--user=root"], said)
  finally:
    for daemon in reversed(daemons):
      daemon.terminate()
      daemon.wait(WAIT_SECONDS)


def run(command: list[str], environ: dict[str, str], **options: Any) -> str:
  return subprocess.run(command, env=environ, check=True, capture_output=True, text=True, **options).stdout


@pytest.mark.slow
def test_slurm_starts_a_task_anew_that_was_killed(
  slurm: dict[str, str], clusters: pathlib.Path, tmp_path: pathlib.Path
):
  straight, out = find_straight(tmp_path / "straight"), tmp_path / "run"
  words = [str(clusters / "slurm_array.sh"), *cluster_model.OPTIONS, "--out", str(out)]
  job = run(["sbatch", "--parsable", "--array=0-3", *words], slurm, cwd=tmp_path).strip()
  computed = tmp_path / "computed"
  await_true(lambda: num_done(out) >= 4 and len(running(computed)) == 4)
  os.kill(running(computed)[0], signal.SIGKILL)
  await_true(lambda: not run(["squeue", "-h", "-j", job], slurm), REQUEUE_SECONDS)
  assert num_done(out) == NUM_UNITS
  assert same_bytes(straight, out)
  said = [(tmp_path / f"slurm-{job}_{index}.out").read_text() for index in range(4)]
  assert [f"part {index} of 4 " in text for index, text in enumerate(said)] == [True] * 4


@pytest.mark.slow
def test_mpirun_does_the_rest_when_it_is_run_again(
  environ: dict[str, str], clusters: pathlib.Path, tmp_path: pathlib.Path
):
  require("openmpi-bin", "mpirun")
  straight, out = find_straight(tmp_path / "straight"), tmp_path / "run"
  environ |= {"HOSTS": "localhost,localhost", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
  command = ["sh", str(clusters / "mpirun.sh"), *cluster_model.OPTIONS, "--out", str(out)]
  with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as first:
    computed = tmp_path / "computed"
    await_true(lambda: num_done(out) >= 4 and len(running(computed)) == 2)
    os.kill(running(computed)[0], signal.SIGKILL)
    first.communicate(timeout=WAIT_SECONDS)
  # The other one has done its part.
  assert NUM_UNITS / 2 <= num_done(out) < NUM_UNITS
  run(command, environ)
  assert same_bytes(straight, out)


@pytest.mark.parametrize("name", ["slurm_array.sh", "mpirun.sh", "ray_cluster.yaml", "tpu_pod.sh"])
def test_each_template_says_how_it_is_begun_and_what_to_do_when_it_fails(clusters: pathlib.Path, name: str):
  text = (clusters / name).read_text()
  assert "#   begin " in text
  assert "When it fails:" in text
  if name.endswith(".sh"):
    subprocess.run(["bash", "-n", str(clusters / name)], check=True)


def test_each_machine_of_a_pod_does_its_part_on_its_own_chips(clusters: pathlib.Path, tmp_path: pathlib.Path):
  gcloud = tmp_path / "gcloud"
  gcloud.write_text('#!/bin/sh\ncase "$*" in *--worker=2*) exit 1;; esac\nfor word; do :; done\necho "$word"\n')
  gcloud.chmod(0o755)
  command = ["sh", str(clusters / "tpu_pod.sh"), "find", "--out", "gs://a/b"]
  environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
  finished = subprocess.run(command, check=False, env=environ, capture_output=True, text=True)
  assert finished.returncode == 1, finished.stderr
  told = sorted(line.partition("jax-sis find ")[2] for line in finished.stdout.splitlines() if "jax-sis" in line)
  assert told == [f"--out gs://a/b --shard {machine}/4" for machine in (0, 1, 3)]
  for line in told:
    parse("find", COMMANDS["find"], line.split())
  assert finished.stdout.count("TPU_PROCESS_BOUNDS=1,1,1 ") == 3


@pytest.mark.parametrize("name", ["gpu_indexed_job", "gpu_jobset", "tpu_indexed_job", "tpu_jobset"])
def test_kubernetes_takes_the_manifests(clusters: pathlib.Path, name: str):
  yaml = pytest.importorskip("yaml", reason="needs PyYAML")
  validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
  manifest = yaml.safe_load((clusters / f"k8s_{name}.yaml").read_text())
  jobs = (
    [manifest["spec"]]
    if manifest["kind"] == "Job"
    else [job["template"]["spec"] for job in manifest["spec"]["replicatedJobs"]]
  )
  for spec in jobs:
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": spec}
    validate.validate(job, validate.latest_version(), strict=True)
    (container,) = spec["template"]["spec"]["containers"]
    words = " ".join([*container["command"], *container["args"]])
    options = words.partition("jax-sis find ")[2].replace('"$((JOB_INDEX * 4 + JOB_COMPLETION_INDEX))/8"', "7/8")
    parse("find", COMMANDS["find"], options.split())
