#!/bin/sh
# Takes the pictures of docs/images anew, the console's, and from the browser tests Flower's, and Open WebUI's where
# `make test-open-webui` has installed it. Needs what `make test` sets up.
set -eu
cd "$(dirname "$0")/.."
mkdir -p docs/images
PENSTOCK_SCREENSHOTS="$PWD/docs/images"
export PENSTOCK_SCREENSHOTS
.venv/bin/python tools/console_pictures.py
.venv/bin/python -m pytest -q tests/e2e/test_flower.py -k login
if [ -x .venv-open-webui/bin/open-webui ] || [ -n "${PENSTOCK_OPEN_WEBUI:-}" ]; then
    .venv/bin/python -m pytest -q tests/heavy/test_open_webui.py
fi
