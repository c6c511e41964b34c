#!/usr/bin/env bash
# Makes a static site of the pages in docs, in the folder site, and checks its
# links. It needs Node.js 20 and npm.
set -euo pipefail
npm ci --prefix internal/site --no-audit --no-fund --silent
rm -rf site
internal/site/node_modules/.bin/eleventy --config=internal/site/eleventy.config.js --quiet
node internal/site/check.js
