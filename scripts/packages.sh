#!/usr/bin/env bash
# Installs the system packages that a target of the Makefile needs and that
# are missing; does nothing, and asks no network, when all are there.
#
#   scripts/packages.sh build|demo|test|bench
#
# It installs only on Debian (or a relative with apt-get) as root. Elsewhere it
# names what is missing in one sentence and fails, so that the target does not
# start on a machine where it cannot succeed.
set -euo pipefail

target=${1:-}

# Each line is "package probe". A probe is an absolute path, a command on PATH,
# or python:MODULE; the package is asked for only when the probe fails, so a
# tool that was installed by other means is respected.
build='
gcc            gcc
libc6-dev      /usr/include/stdlib.h
make           make
git            git
'
demo='
openssh-client ssh
'
bench='
openssh-server /usr/sbin/sshd
openssh-client ssh
'
test='
openssh-server      /usr/sbin/sshd
openssh-client      ssh
openssh-sftp-server /usr/lib/openssh/sftp-server
postgresql-15       /usr/lib/postgresql/15/bin/initdb
oathtool            oathtool
python3             /usr/bin/python3
python3-paramiko    python:paramiko
tmux                tmux
expect              expect
zbar-tools          zbarimg
curl                curl
rsync               rsync
'

case $target in
build) wanted=$build ;;
demo) wanted=$build$demo ;;
bench) wanted=$build$bench ;;
test) wanted=$build$test ;;
*)
	echo "usage: scripts/packages.sh build|demo|test|bench" >&2
	exit 2
	;;
esac

present() {
	case $1 in
	/*) [ -e "$1" ] ;;
	# Debian's own interpreter, because Debian's modules are installed for that one.
	python:*) /usr/bin/python3 -c "import ${1#python:}" >/dev/null 2>&1 ;;
	*) command -v "$1" >/dev/null 2>&1 ;;
	esac
}

missing=()
while read -r package probe; do
	[ -n "$package" ] || continue
	present "$probe" || missing+=("$package")
done <<<"$wanted"

[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
	echo "This target needs ${missing[*]} (Debian's names); please install them and run it again." >&2
	exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
	echo "This target needs packages that are missing: run 'apt-get install ${missing[*]}' as root, then run it again." >&2
	exit 1
fi

echo "installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
policy=/usr/sbin/policy-rc.d
trap 'rm -f "$log"' EXIT

# Testing must not open a door: without this, installing openssh-server or
# postgresql starts a service on the machine.
if [ ! -e "$policy" ]; then
	trap 'rm -f "$log" "$policy"' EXIT
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 0755 "$policy"
fi

# The lists on the machine may be absent or old; they are fetched only when the
# install fails with those that are there.
install_missing() {
	apt-get install -y -q --no-install-recommends \
		-o Dpkg::Options::=--force-confold "${missing[@]}" </dev/null >"$log" 2>&1
}
if ! install_missing; then
	apt-get update -q </dev/null >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
	install_missing || { cat "$log" >&2; exit 1; }
fi
