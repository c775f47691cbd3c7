#!/bin/sh
# What a machine with a GPU of NVIDIA's shows, in about ten minutes: sh scripts/gpu_check.sh [FOLDER]
# NOT TRIED. Tests that need a GPU; whether it computes what the CPU does, for both networks and all
# modes; the seconds of the matrix of params-demo.yaml at 224 pixels, and how busy the GPU was.
set -eu
out=$(realpath -m "${1:-gpu_check}")
mkdir -p "$out"
make .venv/tests-installed > "$out/install.txt" 2>&1
PATH=$PWD/.venv/bin:$PATH
export PATH
nvidia-smi | tee "$out/nvidia-smi.txt"
python -c 'import torch; assert torch.cuda.is_available(), "torch finds no GPU"; print(torch.cuda.get_device_name())'
pytest -q -m "not slow" tests/test_loop.py tests/test_limits.py > "$out/tests.txt" 2>&1 || tail -30 "$out/tests.txt"

for device in cpu cuda; do
    rm -rf "$out/$device"
    mkdir -p "$out/$device/.dvc" "$out/$device/data"
    cp -r dvc.yaml .dvcignore networks scripts src "$out/$device/"
    cp -r .dvc/config .dvc/plots "$out/$device/.dvc/"
    cp -r data/published data/manifest.csv "$out/$device/data/"
    sed -e "s/^device:.*/device: $device/" -e 's/^  - resnet18/  - alexnet\n  - resnet18/' \
        -e 's/size: 64/size: 224/; s/resize: 72/resize: 256/' params-demo.yaml > "$out/$device/params.yaml"
    (
        cd "$out/$device"
        dvc config core.no_scm true
        if [ "$device" = cuda ]; then
            nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits --loop=1 > ../busy.txt &
            watch=$!
        fi
        start=$(date +%s)
        dvc repro > ../$device.txt 2>&1
        echo "$device: $(($(date +%s) - start)) seconds"
        [ "$device" = cpu ] || kill "$watch"
    )
done
awk '{ sum += $1 } END { print "GPU busy: " sum / NR " %" }' "$out/busy.txt"
python - "$out" << 'EOF'
import sys
from pathlib import Path

import pandas as pd

folder = Path(sys.argv[1])
for path in sorted((folder / "cpu/plots/curves").glob("*.csv")):
    cpu, cuda = (pd.read_csv(folder / device / "plots/curves" / path.name) for device in ("cpu", "cuda"))
    first = cpu.epoch == cpu.epoch.min()
    print(path.stem, "largest difference of loss:", f"{(cpu.loss - cuda.loss)[first].abs().max():.2g}",
          "in the first epoch,", f"{(cpu.loss - cuda.loss).abs().max():.2g}", "in all")
EOF
