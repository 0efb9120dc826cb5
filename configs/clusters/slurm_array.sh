#!/bin/bash
# A run in parts by a SLURM array, each with a GPU. A task that is preempted or loses its machine is queued again by
# SLURM (--requeue), one that fails for another reason by itself, three times; each goes on where it stopped.
#
#   begin      sbatch configs/clusters/slurm_array.sh --data cifar10 --data-dir DATA --out /shared/sis
#   look       squeue --me; jax-sis status /shared/sis
#   the rest   sbatch --array=0 configs/clusters/slurm_array.sh --data cifar10 --data-dir DATA --out /shared/sis
#
# The task that ends last writes the summary. When it fails: slurm-JOB_TASK.out says why; mend it, and give the last
# command, which does alone what is left, or the first again. --out and --data-dir must be on a file system that all
# machines share; --out may be in a bucket.
#SBATCH --job-name=jax-sis
#SBATCH --array=0-7
#SBATCH --gpus-per-task=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append

if jax-sis find "$@"; then
  exit 0
fi
if [ "${SLURM_RESTART_COUNT:-0}" -lt 3 ]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit 1
