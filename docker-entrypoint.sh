#!/bin/sh
# webserver: the Dagster UI; daemon: sensors and queued runs; edge: the HTTP face to devices and reviewers.
set -eu
case "${1:-webserver}" in
  webserver) exec voice-pipeline dev webserver --host 0.0.0.0 --port 3000 ;;
  daemon) exec voice-pipeline dev daemon ;;
  edge) exec voice-pipeline edge serve --host 0.0.0.0 --port 8710 ;;
  *) exec "$@" ;;
esac
