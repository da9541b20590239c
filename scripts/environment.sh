# Sourced by the other scripts: creates the virtual environment .venv of this clone.
#
#   prepare_environment NAME REQUIREMENTS_FILE
#
# installs the packages in the file at the versions pinned in requirements.lock, and mixer itself in
# editable mode. It returns at once if nothing has changed since the last installation. PYTHON
# selects the interpreter; by default it is the first suitable one of python3.12, python3.11 and
# python3.

say() { printf '\n[%s] %s\n' "$(basename "$0" .sh)" "$*"; }

fail() {
    printf '\nError: %s\n' "$*" >&2
    exit 1
}

find_python() {
    local candidate version versions=""
    for candidate in ${PYTHON:-python3.12 python3.11 python3}; do
        version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
            continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            echo "$candidate"
            return
        fi
        versions="$versions $candidate is Python $version;"
    done
    fail "expected Python 3.11 or newer (tested: 3.11, 3.12);" \
        "got:${versions:- none of ${PYTHON:-python3.12 python3.11 python3};}" \
        "install one and run: PYTHON=/path/to/python3.12 bash scripts/$(basename "$0")"
}

prepare_environment() {
    local name=$1 requirements=$2 python stamp inputs log=.venv/install.log
    inputs=$(cat requirements*.txt requirements.lock pyproject.toml | cksum)
    stamp=.venv/installed-$name
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$inputs" ] && .venv/bin/python -c '' 2>/dev/null
    then
        return
    fi
    if ! .venv/bin/python -c '' 2>/dev/null; then
        python=$(find_python) || exit 1
        say "Creating the virtual environment .venv with $("$python" --version 2>&1)"
        rm -rf .venv # left over from an interrupted attempt
        "$python" -m venv .venv ||
            fail "'$python -m venv' failed. On Debian and Ubuntu: apt install python3-venv"
    fi
    say "Installing $requirements (1 to 3 minutes; the output goes to $log)"
    if ! .venv/bin/python -m pip install -r "$requirements" -c requirements.lock >"$log" 2>&1 ||
        ! .venv/bin/python -m pip install --no-deps -e . >>"$log" 2>&1; then
        tail -n 15 "$log" >&2
        fail "the installation failed; see the last lines above and the full log in $log." \
            "Is a package index reachable (set PIP_INDEX_URL to use another one)?" \
            "Then run this script again."
    fi
    echo "$inputs" >"$stamp"
}
