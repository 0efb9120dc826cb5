#!/bin/sh
# A run on all machines of a TPU pod slice of Google Cloud (here v5e with 16 chips); each does its part.
#
#   begin      sh configs/clusters/tpu_pod.sh create
#   run        sh configs/clusters/tpu_pod.sh find --data cifar10 --data-dir DATA --out gs://BUCKET/sis
#   the end    sh configs/clusters/tpu_pod.sh delete
#
# When it fails: gcloud shows what each machine wrote. `find`, given again, goes on; after a preemption, `create` first.
# NAME, ZONE and TYPE may be set as variables; credentials are gcloud's.
set -e
NAME=${NAME:-jax-sis} ZONE=${ZONE:-us-west4-a} TYPE=${TYPE:-v5litepod-16} VERSION=${VERSION:-v2-alpha-tpuv5-lite}
command=$1
shift
case $command in
  create)
    gcloud compute tpus tpu-vm create "$NAME" --zone="$ZONE" --accelerator-type="$TYPE" --version="$VERSION" --spot
    gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="pip install 'jax_sis[tpu]'"
    ;;
  find)
    gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="jax-sis find $* --distributed"
    ;;
  delete)
    gcloud compute tpus tpu-vm delete "$NAME" --zone="$ZONE" --quiet
    ;;
  *)
    echo "tpu_pod.sh: the first word must be create, find or delete, got '$command'." >&2
    exit 2
    ;;
esac
