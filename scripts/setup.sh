#!/bin/sh
# Prepares .venv for `make`, which calls this once and again when pyproject.toml changes.
#
#   setup.sh demo      an interpreter, and rebalancer with what it needs to run: from PyPI only
#   setup.sh test      … and what its tests and checks need
#   setup.sh peer DIR  an environment of its own for the program that placements are compared with
#   setup.sh deb       … and what is packed into the .deb, which takes dpkg-dev and libvirt-dev
#   setup.sh lab       … and, for root with apt, real hypervisors for the tests that migrate guests
#   setup.sh upgrade   the newest of everything, and constraints.txt says which that is
#
# What is installed from PyPI is what constraints.txt names: a library that is released tonight
# changes nothing here until somebody has run the tests with it.
set -eu
cd "$(dirname "$0")/.."

venv_python=.venv/bin/python
export DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '%s\n' "$*" >&2; }
has() { command -v "$1" >/dev/null 2>&1; }
can_apt() { [ "$(id -u)" = 0 ] && has apt-get; }

# A released CPython, since only for those there are wheels of the solver.
is_new_enough() {
    "$1" -c 'import sys, sysconfig
v = sys.version_info
sys.exit(not (v >= (3, 12) and v.releaselevel == "final" and sys.implementation.name == "cpython"
              and not sysconfig.get_config_var("Py_GIL_DISABLED")))' >/dev/null 2>&1
}
can_make_venv() { "$1" -c 'import ensurepip, ssl, venv' >/dev/null 2>&1; }

# A name on PATH is no proof: pyenv puts commands there that only say that they are not active.
candidates() {
    printf '%s\n' python3.14 python3.13 python3.12 python3
    pyenv_root=$(pyenv root 2>/dev/null) || pyenv_root=${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}
    for version in "$pyenv_root"/versions/*/bin/python3; do
        printf '%s\n' "$version"
    done | sort -rV
    uv python find '>=3.12' 2>/dev/null || true
}

find_python() {
    candidates | while IFS= read -r candidate; do
        if is_new_enough "$candidate" && can_make_venv "$candidate"; then
            printf '%s\n' "$candidate"
            break
        fi
    done
}

# Debian and Ubuntu ship Python without ensurepip, and small images without Python.
apt_venv_package() {
    for package in python3.14-venv python3.13-venv python3.12-venv python3-venv; do
        version=$(LC_ALL=C apt-cache policy "$package" 2>/dev/null | sed -n 's/^ *Candidate: *//p')
        case $version in
            3.1[2-9].* | 3.[2-9][0-9].*) printf '%s\n' "$package"; break ;;
        esac
    done
}

apt_install() {
    apt-get -qq install --yes --no-install-recommends -o Dpkg::Use-Pty=0 "$@" >/dev/null
}

make_venv() {
    if [ -x "$venv_python" ] && is_new_enough "$venv_python" && "$venv_python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    python=$(find_python)
    if [ -z "$python" ] && can_apt; then
        say "Looking for Python 3.12 or newer with apt-get."
        package=$(apt-get -qq update && apt_venv_package) || package=
        if [ -n "$package" ] && apt_install "$package" ca-certificates; then
            python=$(find_python)
        fi
    fi
    if [ -z "$python" ]; then
        say "rebalancer needs Python 3.12 or newer with its venv module, and none was found: install" \
            "one, such as Debian's python3-venv, \`pyenv install 3.13\` or \`uv python install 3.13\`."
        exit 1
    fi
    say "Making .venv with $("$python" --version) ($python)."
    "$python" -m venv --clear .venv
}

constraints=constraints.txt
pip_install() { "$venv_python" -m pip install -qq ${constraints:+--constraint "$constraints"} "$@" >&2; }

setup_demo() {
    make_venv
    say "Installing rebalancer and what it needs from PyPI."
    pip_install --editable .
    touch .venv/.stamp-demo
}

setup_test() {
    say "Installing what the tests and checks need from PyPI."
    pip_install 'pip>=25.1' # the first that knows groups
    pip_install --group test --group lint
    touch .venv/.stamp-test
}

find_lab_obstacle() {
    if obstacle=$("$venv_python" -m tests.lab check 2>&1); then obstacle=; fi
    printf '%s' "$obstacle" | tail -n 1
}

install_lab() {
    "$venv_python" -m tests.lab install >&2 || return 1
    version=$("$venv_python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    header=$("$venv_python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
    [ -e "$header" ] || apt_install "$version-dev"
}

# It is compiled on the spot, so only where libvirt's headers are.
compile_libvirt_python() {
    if ! "$venv_python" -c 'import libvirt' 2>/dev/null && pkg-config --exists libvirt 2>/dev/null; then
        say "Compiling libvirt-python."
        pip_install --editable '.[libvirt]' || say "That did not work; going on without."
    fi
}

setup_lab() {
    compile_libvirt_python
    if [ -n "$(find_lab_obstacle)" ] && can_apt; then
        say "Installing real hypervisors for the lab with apt-get."
        install_lab || say "That did not work; going on without."
        compile_libvirt_python
    fi
    obstacle=$(find_lab_obstacle)
    if [ -n "$obstacle" ] && [ "${CI:-}" = true ]; then
        say "CI must run the lab: $obstacle"
        exit 1
    fi
    if [ -z "$obstacle" ] || can_apt; then
        touch .venv/.stamp-lab # nothing more can be done about it
    fi
}

setup_deb() {
    if can_apt && ! { has dpkg-shlibdeps && has gcc && pkg-config --exists libvirt; } 2>/dev/null; then
        say "Installing with apt-get what a package is made with."
        apt-get -qq update && apt_install dpkg-dev make gcc pkg-config libvirt-dev ||
            say "That did not work; going on without."
    fi
    say "Installing from PyPI what goes into the package."
    pip_install packaging --editable '.[libvirt,prometheus,postgresql,redfish]'
    touch .venv/.stamp-deb
}

setup_upgrade() {
    constraints=
    rm -rf .venv
    setup_demo
    setup_test
    pip_install --upgrade packaging --editable '.[prometheus,postgresql,redfish,scale]'
    {
        echo '# What the tests were last run with; made by `make upgrade`.'
        "$venv_python" -m pip freeze --exclude-editable
    } > constraints.txt
    rm -f .venv/.stamp-*
}

# Its wheels are for Python 3.12 and 3.13 only.
has_wheels_of_peer() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 12), (3, 13)))' >/dev/null 2>&1
}

setup_peer() {
    python=$(candidates | while IFS= read -r candidate; do
        if has_wheels_of_peer "$candidate" && is_new_enough "$candidate" && can_make_venv "$candidate"; then
            printf '%s\n' "$candidate"
            break
        fi
    done)
    if [ -z "$python" ]; then
        say "Meta's Rebalancer needs Python 3.12 or 3.13 with its venv module, and none was found."
        exit 1
    fi
    say "Making $1 with $("$python" --version), for Meta's Rebalancer from PyPI."
    "$python" -m venv --clear "$1"
    "$1/bin/python" -m pip install -qq rebalancer >&2
    touch "$1/.stamp"
}

case ${1:-} in
    demo) setup_demo ;;
    test) setup_test ;;
    deb) setup_deb ;;
    lab) setup_lab ;;
    upgrade) setup_upgrade ;;
    peer) setup_peer "${2:?where to}" ;;
    *) say "usage: setup.sh demo|test|deb|lab|upgrade|peer DIR"; exit 64 ;;
esac
