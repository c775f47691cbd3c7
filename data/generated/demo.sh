# Run a copy of the pipeline in demo/, on generated images: `make demo`.
set -eu
mkdir -p demo/.dvc demo/data
cp -r dvc.yaml src demo/
cp data/generated/params.yaml demo/
cp -r data/published data/manifest.csv demo/data/
cp -r .dvc/plots .dvc/config demo/.dvc/
cd demo
dvc config core.no_scm true # its own small world: neither Git nor the pipeline around it
unset HEADSWAP_MIRROR
dvc repro
dvc plots show
echo "Drawn images, random weights, a few epochs: the figures only show that everything works."
echo "The page of plots: $PWD/dvc_plots/index.html"
