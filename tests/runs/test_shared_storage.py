"""A folder on a disk of one machine is noticed where the parts of a run are on several."""

import pytest

from jax_sis.runs.shared_storage import count_hosts, find_file_system, warn_of_local_folder

MOUNTS = (
  "server:/export /home nfs4 rw 0 0\ntmpfs /home/me/fast\\040disk tmpfs rw 0 0\n/dev/sdb /mnt xfs rw 0 0\n"
  "lustre /mnt lustre rw 0 0\n/dev/sda1 / ext4 rw 0 0\n"
)


@pytest.mark.parametrize(
  ("path", "kind"),
  [
    ("/runs/sis", "ext4"),
    ("/home/me/sis", "nfs4"),
    ("/home/me/fast disk/sis", "tmpfs"),
    ("/home2/sis", "ext4"),
    ("/mnt", "lustre"),
  ],
)
def test_the_innermost_file_system_counts(path: str, kind: str):
  assert find_file_system(path, MOUNTS) == kind
  assert find_file_system(path, "") == ""


@pytest.mark.parametrize(
  ("environ", "count"),
  [
    ({}, 1),
    ({"SLURM_STEP_NUM_NODES": "4"}, 4),
    ({"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_SIZE": "8", "SLURM_STEP_NUM_NODES": "1"}, 1),
    ({"OMPI_COMM_WORLD_SIZE": "9", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, 3),
    ({"TPU_WORKER_HOSTNAMES": "a,b, c"}, 3),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, 1),
    ({"JOB_COMPLETIONS": "5"}, 5),
  ],
)
def test_launchers_say_on_how_many_machines_a_job_is(environ: dict[str, str], count: int):
  assert count_hosts(environ) == count


def test_a_folder_of_one_machine_is_told_to_the_parts_on_several():
  several = {"SLURM_STEP_NUM_NODES": "4"}
  assert warn_of_local_folder("/runs/sis", several, MOUNTS) == (
    "Warning: --out '/runs/sis' is on a file system of this machine (ext4), and the parts of the run are on 4. Unless "
    "the others see it by the same path, each begins a run of its own: name a folder that all share, or a bucket."
  )
  assert warn_of_local_folder("/runs/sis", {}, MOUNTS) == ""
  assert warn_of_local_folder("/home/me/sis", several, MOUNTS) == ""
