#!/usr/bin/env bash
# Sets up what is missing, then runs the notebooks, or with --test the linters and the tests. See ./run_all.sh --help
set -euo pipefail

ROOT="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"
VENV="$ROOT/.venv"
STAMP="$VENV/set-up-from"          # what a finished .venv was made from; written last
UNFINISHED="$VENV/set-up-unfinished" # written first
LOG="$VENV/set-up.log"
PACKAGE=capacity-mismatch-kd

usage() {
    cat <<'HELP'
Usage: ./run_all.sh [OPTIONS]                 set up, then run the notebooks and redraw their figures
       ./run_all.sh --test [PYTEST ARGUMENTS]  set up, then run the linters and all tests

Options:
  --scale smoke|demo|short|paper   smoke: seconds a notebook, for the tests; demo (default): all in minutes on a laptop;
                                   short: real data without a big GPU; paper: the papers' protocol, on a GPU
  --only NN[,NN]                   these notebooks only, by number (default: the main ones; --list says which take longer)
  --all                            every notebook
  -p NAME=VALUE                    set a notebook parameter; may be repeated
  --jobs N                         training processes side by side (default: one a core)
  --list                           list the notebooks and stop
  --dry-run                        show which runs are there and which are new, with time and disk, and stop
  --publish                        write the executed notebooks and figures to where they are committed
  --help                           this text

It works from any directory. On first use it makes .venv beside this script; later calls use it again. An activated
conda or virtual environment that holds the package (pip install -c constraints.txt -e '.[dev]') is used as it is.

Output:  figures/<scale>/ (SVG, PNG and the plotted numbers as CSV) and runs/ (trained networks, executed notebooks).
         A second call repeats only what has changed.

Environment variables:
  KD_RUNS   where trained networks and data caches are kept (default: runs/)
  KD_DATA   a folder with data sets in the hub's or torchvision's layout, used before any download
HELP
}

die() {
    printf 'run_all.sh: %s\n' "$@" >&2
    exit 1
}

# The Python at $1 is new enough, imports kd_lib from this checkout and has the distribution installed. -I: whatever
# lies in the working directory or on PYTHONPATH does not count.
holds_package() {
    "$1" -I - "$ROOT" "$PACKAGE" >/dev/null 2>&1 <<'PYTHON'
import importlib.metadata, importlib.util, os, sys

root, package = sys.argv[1:]
importlib.metadata.version(package)
found = importlib.util.find_spec("kd_lib").origin
sys.exit(sys.version_info < (3, 11) or not os.path.samefile(os.path.dirname(found), os.path.join(root, "kd_lib")))
PYTHON
}

# What .venv is made from: this place (scripts in .venv/bin hold it), and the two files that say what is in it.
wanted_stamp() {
    "$1" -I - "$ROOT" <<'PYTHON'
import hashlib, pathlib, sys

root = pathlib.Path(sys.argv[1])
made_from = b"".join((root / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
print(hashlib.sha256(made_from).hexdigest(), root)
PYTHON
}

venv_is_ready() {
    [ -f "$STAMP" ] && [ "$(wanted_stamp "$VENV/bin/python" 2>/dev/null)" = "$(cat "$STAMP")" ] &&
        holds_package "$VENV/bin/python"
}

# Prints the first Python on PATH that can make the environment.
base_python() {
    local name path answer refused=""
    for name in python3 python3.13 python3.12 python3.11 python; do
        path="$(command -v "$name")" || continue
        answer="$("$path" -E -c '
import sys
if sys.version_info < (3, 11):
    sys.exit("is Python %d.%d" % sys.version_info[:2])
try:
    import ensurepip, venv
except ImportError as error:
    missing = (error.name,) + sys.version_info[:2]
    sys.exit("has no %s module (on Debian and Ubuntu: apt install python%d.%d-venv)" % missing)
' 2>&1)" && {
            printf '%s\n' "$path"
            return
        }
        refused="$refused"$'\n'"  $path ${answer##*$'\n'}"
    done
    die "Python 3.11 or newer with its venv module is needed, and no such Python is on PATH.${refused:-
  There is no Python at all.}"
}

# Holds descriptor 9 locked until this script closes it. pip inherits it: should this script be killed, the next one
# waits until that pip has ended too.
lock() {
    exec 9>"$ROOT/.venv.lock" || die "cannot write to $ROOT"
    "$1" -I -c '
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("Another run_all.sh is setting up .venv; waiting for it ...", flush=True)
    try:
        fcntl.flock(9, fcntl.LOCK_EX)
    except KeyboardInterrupt:
        sys.exit(130)
'
}

install() { # into $VENV, which is made with the Python at $1 if it is not there
    local pid start=$SECONDS beat=$((SECONDS + 10))
    # A process group of its own, so that stopping takes every child along.
    set -m
    {
        [ -x "$VENV/bin/python" ] || "$1" -I -m venv "$VENV" || exit
        # --no-compile: compiling everything takes as long as all the rest; Python compiles what is used on first use.
        exec "$VENV/bin/python" -I -m pip install --no-input --disable-pip-version-check --progress-bar off \
            --no-compile -c constraints.txt -e '.[dev]'
    } >"$LOG" 2>&1 </dev/null &
    pid=$!
    set +m
    trap 'kill -TERM -- "-$pid" 2>/dev/null; echo "Stopped; the next call sets up again." >&2; exit 130' INT TERM HUP
    while kill -0 "$pid" 2>/dev/null; do
        sleep 0.2
        if [ "$SECONDS" -ge "$beat" ]; then
            printf '  %4d s  %s\n' $((SECONDS - start)) "$(progress)"
            beat=$((beat + 10))
        fi
    done
    trap - INT TERM HUP
    wait "$pid" || {
        tail -n 25 "$LOG" >&2
        die "the set-up failed; above, the end of $LOG"
    }
}

progress() { # what is being done now, in a line
    if grep -q '^Installing collected' "$LOG"; then
        echo "$(ls -d "$VENV"/lib/python*/site-packages/*.dist-info | wc -l) of about 160 packages installed"
    else
        grep -E '^ *(Collecting|Downloading|Processing|Requirement|Building)' "$LOG" | tail -n 1 | cut -c 1-90 ||
            echo "making an empty environment"
    fi
}

# Makes $VENV, or brings it up to date. Never leaves one that could be taken for finished.
set_up() {
    local base start=$SECONDS
    base="$(base_python)"
    lock "$base"
    if ! venv_is_ready; then
        if [ -f "$STAMP" ] && [ "$(cut -d ' ' -f 2- "$STAMP")" = "$ROOT" ] && "$VENV/bin/python" -c '' 2>/dev/null; then
            echo "Bringing .venv up to date with pyproject.toml and constraints.txt ..."
        else
            clear_place
            echo "Setting up .venv with $("$base" --version) ($base) ..."
            echo "  about 2 minutes and 2 GB; more where torch comes with CUDA"
            mkdir "$VENV"
        fi
        touch "$UNFINISHED"
        rm -f "$STAMP"
        install "$base"
        holds_package "$VENV/bin/python" || die "the set-up ended, but .venv does not hold the package; see $LOG"
        wanted_stamp "$VENV/bin/python" >"$STAMP.part"
        mv "$STAMP.part" "$STAMP"
        rm -f "$UNFINISHED"
        echo "Set up in $((SECONDS - start)) s."
    fi
    exec 9>&-
}

# Our own remains are removed; a .venv that somebody else made is set aside.
clear_place() {
    local aside
    if [ -f "$STAMP" ] || [ -f "$UNFINISHED" ]; then
        echo "Removing a .venv that was not finished, or was made for another place ..."
        rm -rf "$VENV"
    elif [ -e "$VENV" ] || [ -L "$VENV" ]; then
        aside="$VENV.$(date +%Y%m%d-%H%M%S)"
        mv "$VENV" "$aside"
        echo "There was a .venv without this package; it is now $aside."
    fi
}

# Sets PYTHON: of the activated environment if that holds the package, else of .venv.
choose_python() {
    local prefix
    for prefix in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
        if [ -n "$prefix" ] && ! [ "$prefix" -ef "$VENV" ] && holds_package "$prefix/bin/python"; then
            PYTHON="$prefix/bin/python"
            return
        fi
    done
    venv_is_ready || set_up
    PYTHON="$VENV/bin/python"
}

run_tests() {
    "$PYTHON" -c 'import pytest, ruff, xdist' 2>/dev/null ||
        die "$PYTHON lacks the tools of the tests: $PYTHON -m pip install -c constraints.txt -e '.[dev]'"
    "$PYTHON" -m ruff check . && "$PYTHON" -m ruff format --check . || die "the linters object; nothing was tested"
    export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
    exec "$PYTHON" -m pytest -n 2 "$@"
}

make_absolute() { # the variable named $1, if it holds a relative path: this script changes directory
    case "${!1:-/}" in
    /* | '~'*) ;;
    *) export "$1=$PWD/${!1}" ;;
    esac
}

mode=notebooks
if [ "${1:-}" = --test ]; then
    mode=tests
    shift
else
    for argument in "$@"; do
        case "$argument" in -h | --help)
            usage
            exit
            ;;
        esac
    done
fi
make_absolute KD_RUNS
make_absolute KD_DATA
cd "$ROOT"
if [ ! -w "${HOME:-/nowhere}" ]; then # matplotlib, IPython and Jupyter write there
    export HOME="$ROOT/.cache/home"
    mkdir -p "$HOME"
fi
unset PYTHONDONTWRITEBYTECODE     # else every process would compile every package again
export JUPYTER_PREFER_ENV_PATH=1  # a kernel called python3 in the user's home must not be taken for this environment's
choose_python
if [ "$mode" = tests ]; then run_tests "$@"; fi
exec "$PYTHON" -m kd_lib notebooks "$@"
