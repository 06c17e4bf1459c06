#!/bin/bash
# A worker of Prefect inside an allocation of Slurm: sbatch deploy/slurm.sh. docs/scheduling.md explains it.
#SBATCH --job-name=lumiere
#SBATCH --dependency=singleton
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --output=.lumiere/slurm-%j.log
set -euo pipefail

# Where the Prefect server of `make serve` or `prefect server start` is, as seen from a node.
SERVER_HOST=${SERVER_HOST:-login1}
PORT=${PORT:-4200}

cd "$SLURM_SUBMIT_DIR"
source .venv/bin/activate
export DO_NOT_TRACK=true PREFECT_SERVER_ANALYTICS_ENABLED=false

# The server listens on the loopback address of its machine only.
ssh -N -o ExitOnForwardFailure=yes -L "$PORT:127.0.0.1:$PORT" "$SERVER_HOST" &
tunnel=$!
export PREFECT_API_URL=http://127.0.0.1:$PORT/api
is_up=
for _ in {1..60}; do
  sleep 1
  # Without a tunnel, the port may be that of another user's server.
  kill -0 "$tunnel" 2>/dev/null || { echo "no tunnel to $SERVER_HOST; is port $PORT of this node taken?" >&2; exit 1; }
  if python -c "import urllib.request as r; r.urlopen('$PREFECT_API_URL/health', timeout=5)" 2>/dev/null; then is_up=1; break; fi
done
[ -n "$is_up" ] || { echo "no Prefect server answers on $SERVER_HOST:$PORT" >&2; exit 1; }

# Slurm sends TERM two minutes before the end, and flows.worker ends its run in time. No other job of this name is at
# work, so runs that Prefect still shows as running are those of a lost node; they end as Crashed.
exec python -m flows.worker --pool lumiere-slurm --end-leftovers --limit 1
