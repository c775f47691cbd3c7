# The experiments with what differs between them, in 80 columns, cells as rows: `make experiments`.
set -eu
dvc exp show --csv --only-changed --drop '.*/|Created|Executor|State|params|typ|parent' |
    python -c 'import pandas, sys; print(pandas.read_csv(sys.stdin).fillna("").T.to_string(header=False))'
