# Run a copy of the pipeline in demo/, on synthetic images: `make demo`.
set -eu
mkdir -p demo/.dvc demo/data
rm -rf demo/src
cp -r dvc.yaml .dvcignore networks scripts src demo/
cp params-demo.yaml demo/params.yaml
cp -r data/published data/manifest.csv demo/data/
cp -r .dvc/plots .dvc/config demo/.dvc/
cd demo
dvc config core.no_scm true # a project of its own, without Git
unset HEADSWAP_MIRROR
dvc repro
dvc plots show
echo "Synthetic images, random weights, few epochs: this only shows that all works."
echo "The page of plots: $PWD/dvc_plots/index.html"
echo "Next: source .venv/bin/activate; cd demo; headswap report"
