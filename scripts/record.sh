# Make a recorded run anew from a clean clone of the last commit, for example:
#     sh scripts/record.sh docs/runs/recipes
# and replace what is recorded there by what came out, except the gallery of photographs.
set -eu
run=$(cd "$1" && pwd)
temporary=$(mktemp -d)
git clone --quiet . "$temporary/headswap"
cp "$run/params.yaml" "$temporary/headswap"
cp tests/my_networks.py "$temporary/headswap/networks"
cd "$temporary/headswap"
make -o .venv/installed repro # with the environment that is active
rm -rf "$run/metrics" "$run/plots"
cp -r dvc.lock metrics plots "$run"
rm -f "$run/plots/comparison/gallery.png" "$run"/*/.gitkeep
cd "$run"
rm -rf "$temporary"
