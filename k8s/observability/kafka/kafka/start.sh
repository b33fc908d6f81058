#!/bin/sh
# Formats the volume where it is new, then becomes the broker.
set -eu
"$KAFKA_HOME/bin/kafka-storage.sh" format --ignore-formatted --cluster-id "$CLUSTER_ID" --config "$CONFIGURATION"
exec "$KAFKA_HOME/bin/kafka-server-start.sh" "$CONFIGURATION"
