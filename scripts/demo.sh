# Run a copy of the pipeline in demo/, a Git repository of its own, on drawn images: `make demo`.
set -eu
mkdir -p demo/.dvc demo/data
rm -rf demo/src
cp -r dvc.yaml .dvcignore .gitignore networks scripts src demo/
cp params-demo.yaml demo/params.yaml
cp -r data/published data/manifest.csv demo/data/
cp -r .dvc/plots .dvc/config .dvc/.gitignore demo/.dvc/
cd demo
unset HEADSWAP_MIRROR

commit() {
    command -v git > /dev/null || return 0
    git add --all
    git diff --cached --quiet || git -c commit.gpgsign=false commit --quiet --message "$1"
}

if command -v git > /dev/null; then
    [ -e .git ] || git init --quiet --initial-branch main
    git config user.email > /dev/null || git config user.email demo@localhost
    git config user.name > /dev/null || git config user.name demo
else
    dvc config core.no_scm true
fi
echo "88 drawings of ants and bees; a ResNet-18 that was never trained; three ways to train it."
commit "The demo"
dvc repro
headswap report
commit "Its results"
echo
echo "Drawings, random weights, few epochs: this only shows that all works."
echo "The picture: file://$PWD/plots/comparison/accuracy.png"
echo "The page:    file://$PWD/report.html"
echo "Next: source .venv/bin/activate; cd demo"
