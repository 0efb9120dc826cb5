#!/bin/sh
# A run in parts by Open MPI: one process on each machine of a list, with all its devices.
#
#   begin      HOSTS=a,b,c,d sh configs/clusters/mpirun.sh --data cifar10 --data-dir DATA --out /shared/sis
#   look       jax-sis status /shared/sis
#   the end    jax-sis find --data cifar10 --data-dir DATA --out /shared/sis (on one machine: does what is left)
#
# When it fails: by default mpirun ends all processes with the first that fails. Here the others go on
# (--enable-recovery, for which Open MPI 4.1 may print "PMIX ERROR: BAD-PARAM"), and the first command, given again, does
# what the failed one left. --out must be on a file system that all machines share, or in a bucket. No process speaks to
# another.
HOSTS=${HOSTS:-localhost}
NUM=$(echo "$HOSTS" | tr ',' '\n' | grep -c .)
exec mpirun -n "$NUM" --host "$HOSTS" --map-by node --bind-to none --enable-recovery \
  -x PATH -x PYTHONPATH jax-sis find "$@"
