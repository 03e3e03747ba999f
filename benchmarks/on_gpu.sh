#!/usr/bin/env bash
# Everything that needs a GPU, in at most eight minutes, from the root of the repository:
#
#     bash benchmarks/on_gpu.sh
#     DEVICE=cpu SMALL=1 bash benchmarks/on_gpu.sh     # tiny shapes: does the script work?
#
# PYTHON  the interpreter (python3), with torch and transformers >= 5.20
# WHEELS  a folder of wheels, laid over what the interpreter has; nothing is fetched from a network
# OUT     where the page and the JSON go (benchmarks/results/gpu)
# LIMIT   seconds for everything (480)
#
# A part that fails or runs out of time is recorded and the next one starts. Status 1 if any part failed.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
PYTHON=${PYTHON:-python3} DEVICE=${DEVICE:-cuda} SMALL=${SMALL:-} WHEELS=${WHEELS:-}
OUT=${OUT:-benchmarks/results/gpu} LIMIT=${LIMIT:-480}
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
export PYTHONPATH="$work/site:$PWD"
due=0        # when the part at hand has to be over, in seconds since the start
failed=0

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed: PYTHON=..."; exit 2; }

has() { "$PYTHON" -c 'import importlib.util as u, sys; sys.exit(any(u.find_spec(n) is None for n in sys.argv[1:]))' "$@"; }

# record NAME STATUS SECONDS LIMIT NOTE: one line for the page, and the page as it stands.
record() {
    printf '%s\t%s\t%s\t%s\t%s\n' "$@" >>"$work/parts.tsv"
    timeout -k 1 8 "$PYTHON" benchmarks/gpu_checks.py page --work "$work" --out "$OUT" >/dev/null ||
        echo "the page could not be written"
}

# part NAME BUDGET COMMAND...: BUDGET seconds and what earlier parts left over, never past LIMIT.
part() {
    local name=$1 budget=$2 start=$SECONDS rc=0 end left
    shift 2
    due=$((due + budget))
    end=$((due < LIMIT - 10 ? due : LIMIT - 10))   # 10: for the page
    left=$((end - SECONDS - 3))   # 3: timeout's own patience before it kills
    if ((left < 3)); then
        echo "== $name: no time left"
        failed=1
        record "$name" 124 0 0 "no time was left for it"
        return
    fi
    echo "== $name: starts at ${SECONDS} s, has $left s"
    timeout -k 3 "$left" "$@" >"$work/$name.log" 2>&1 </dev/null || rc=$?
    case $rc in 0) ;; 124 | 137) echo "   out of time" ;; *) echo "   failed with status $rc" ;; esac
    ((rc == 0)) || failed=1
    tr '\r' '\n' <"$work/$name.log" | tail -n $((rc == 0 ? 8 : 25)) | sed 's/^/   /'
    echo "== $name: ends after $((SECONDS - start)) s"
    record "$name" $rc $((SECONDS - start)) $left ""
    return $rc
}

# left_out NAME BUDGET WHY: its time goes to the parts after it.
left_out() {
    echo "== $1: left out, $3"
    due=$((due + $2))
    record "$1" 77 0 0 "$3"
}

if [ -n "$WHEELS" ]; then
    echo "== wheels: laid over the interpreter's own packages"
    for name in $(for wheel in "$WHEELS"/*.whl; do basename "$wheel" | cut -d- -f1; done | sort -u); do
        ((SECONDS < 60)) || break
        # One by one and without dependencies: a wheel that does not suit this machine must not stop the others.
        timeout 30 "$PYTHON" -m pip install -q --no-index --find-links "$WHEELS" --no-deps --no-compile --no-cache-dir \
            --disable-pip-version-check --root-user-action=ignore --target "$work/site" "$name" 2>&1 | tail -n 2
    done
fi

check=("$PYTHON" benchmarks/gpu_checks.py)
flags=(--device "$DEVICE" --work "$work")
decoding=("$PYTHON" benchmarks/decoding_cost.py --device "$DEVICE" --only single --arms-only --dtype bfloat16)
tuning=("$PYTHON" benchmarks/tuning_cost.py --device "$DEVICE" --objective joint --out "$work/tuning")
if [ -n "$SMALL" ]; then
    flags+=(--small)
    sizes=(10m)
    decoding+=(--batches 1 8 --rounds 1 --new 8)
    tuning+=(--threads 1 --shapes reference --batch 3 --steps 1 --recipe reference --recipe-steps 1
        --instructions 10 --validation 3)
else
    sizes=(500m 8b)
    decoding+=(--batches 1 8 32 --rounds 3 --new 64)
    tuning+=(--shapes 8b --batch 32 --recipe 8b)
fi

# The budgets add up to 470 s; the last 10 are for the page.
part facts 60 "${check[@]}" facts "${flags[@]}"
if (($? == 3)); then
    for name in tests graphs identities decoding tuning; do left_out "$name" 0 "see facts"; done
else
    mapfile -t tests < <(grep -rl 'mark\.gpu' tests --include='*.py')
    if ! has pytest; then
        left_out tests 120 "pytest is missing"
    elif has pytest_asyncio pytest_socket pytest_benchmark pytest_timeout; then
        part tests 120 timeout -k 3 120 "$PYTHON" -m pytest -m gpu -q -p no:cacheprovider "${tests[@]}"
    else
        # The repository's own settings name plugins that are not there; tests marked gpu need none of them.
        echo "   plugins of pytest are missing: its plain settings are taken"
        part tests 120 timeout -k 3 120 "$PYTHON" -m pytest -m gpu -q -p no:cacheprovider -c /dev/null \
            --rootdir . --noconftest --import-mode=importlib -W ignore "${tests[@]}"
    fi
    part graphs 60 "${check[@]}" graphs "${flags[@]}"
    part identities 35 "${check[@]}" identities "${flags[@]}"
    for size in "${sizes[@]}"; do
        case $size in 8b) budget=60 ;; *) budget=40 ;; esac
        part "decoding-$size" $budget "${decoding[@]}" --size "$size" --out "$work/decoding-$size"
    done
    part tuning 95 "${tuning[@]}"
fi
echo "== all parts: ${SECONDS} s; the page is in $OUT"
exit $failed
