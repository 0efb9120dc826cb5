#!/bin/sh
# A run on all machines of a TPU pod slice of Google Cloud (here v5e with 16 chips on 4 machines); each does its part.
#
#   begin      sh configs/clusters/tpu_pod.sh create
#   run        sh configs/clusters/tpu_pod.sh find --data cifar10 --data-dir DATA --out gs://BUCKET/sis
#   the end    sh configs/clusters/tpu_pod.sh delete
#
# When it fails: gcloud shows what each machine wrote. `find`, given again, goes on; after a preemption, `create` first.
# NAME, ZONE, TYPE, MACHINES and CHIPS may be set as variables; credentials are gcloud's. The two BOUNDS make a slice of
# its own of the chips of each machine (CHIPS, 2 x 2), so that none waits for another, or ends with it.
set -e
NAME=${NAME:-jax-sis} ZONE=${ZONE:-us-west4-a} TYPE=${TYPE:-v5litepod-16} VERSION=${VERSION:-v2-alpha-tpuv5-lite}
MACHINES=${MACHINES:-4} CHIPS=${CHIPS:-2,2,1}
command=$1
shift
case $command in
  create)
    gcloud compute tpus tpu-vm create "$NAME" --zone="$ZONE" --accelerator-type="$TYPE" --version="$VERSION" --spot
    gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="pip install 'jax_sis[tpu]'"
    ;;
  find)
    for machine in $(seq 0 $((MACHINES - 1))); do
      gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker="$machine" --command="TPU_PROCESS_BOUNDS=1,1,1 \
        TPU_CHIPS_PER_PROCESS_BOUNDS=$CHIPS jax-sis find $* --shard $machine/$MACHINES" &
      started="$started $!"
    done
    failed=0
    for process in $started; do
      wait "$process" || failed=1
    done
    exit $failed
    ;;
  delete)
    gcloud compute tpus tpu-vm delete "$NAME" --zone="$ZONE" --quiet
    ;;
  *)
    echo "tpu_pod.sh: the first word must be create, find or delete, got '$command'." >&2
    exit 2
    ;;
esac
