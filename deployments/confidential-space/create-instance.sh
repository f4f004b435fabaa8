#!/bin/sh
# Starts an instance that runs the image in Confidential Space, behind a firewall that lets in Google's tunnel alone.
#   ./create-instance.sh PROJECT ZONE us-docker.pkg.dev/PROJECT/images/consensus-flows-attested@sha256:...
set -eu

project=${1:?PROJECT} zone=${2:?ZONE} image=${3:?IMAGE@sha256:...}
name=consensus-attested
account=$name@$project.iam.gserviceaccount.com
case $image in *@sha256:*) ;; *) echo "name the image by its digest: $image" >&2; exit 2 ;; esac

gcloud services enable --project "$project" \
    compute.googleapis.com confidentialcomputing.googleapis.com secretmanager.googleapis.com iap.googleapis.com
gcloud iam service-accounts describe "$account" --project "$project" > /dev/null 2>&1 ||
    gcloud iam service-accounts create "$name" --project "$project"
for role in confidentialcomputing.workloadUser logging.logWriter artifactregistry.reader secretmanager.secretAccessor; do
    gcloud projects add-iam-policy-binding "$project" --condition None \
        --member "serviceAccount:$account" --role "roles/$role" > /dev/null
done

# The range from which Google's tunnels come.
gcloud compute firewall-rules describe "$name" --project "$project" > /dev/null 2>&1 ||
    gcloud compute firewall-rules create "$name" --project "$project" \
        --source-ranges 35.235.240.0/20 --allow tcp:8000 --target-tags "$name"

# The production image. One of the family confidential-space-debug lets its operator log in, and is refused by `consensus verify`.
gcloud compute instances create "$name" --project "$project" --zone "$zone" \
    --image-project confidential-space-images --image-family confidential-space \
    --confidential-compute-type SEV --machine-type n2d-standard-2 --min-cpu-platform "AMD Milan" \
    --maintenance-policy TERMINATE --shielded-secure-boot --tags "$name" \
    --service-account "$account" --scopes cloud-platform \
    --metadata "^~^tee-image-reference=$image~tee-restart-policy=Always"

echo "the gateway on localhost:8000: gcloud compute start-iap-tunnel $name 8000 --project $project --zone $zone --local-host-port localhost:8000"
