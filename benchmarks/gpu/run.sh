#!/bin/sh
# One prepared run for one GPU, at most 8 minutes: every stage on it, tokens/s and memory beside a
# plain transformers.Trainer, and the story of `make real` where its seed is at hand.
#
#   OUT=results benchmarks/gpu/run.sh [--seed FILE.gguf...] [--texts FOLDER] [--tiny]
#
# It needs nothing but this repository and a Python with CUDA torch (PYTHON=...); what else is
# missing it says, and goes on with the parts that do without. No part reaches a network.
set -u
cd "$(dirname "$0")/../.." || exit 1
export OUT="${OUT:-gpu-results}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
mkdir -p "$OUT"
exec "${PYTHON:-python3}" benchmarks/gpu/run.py --out "$OUT" "$@"
